"""What happened, for people and for scripts: events, the bus that carries them, and their file in state_dir.

An event is one JSON object per line, and its shape is stable (docs/events.md): fields and kinds are only added. The
bus lives in the event loop's thread. The file is written as things happen, one small append each; nothing here ever
raises because of the disk: what could not be written is counted and said once writing works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from weakref import WeakSet

from mesh_supervisor.errors import MeshError

NOTHING: Mapping[str, Any] = MappingProxyType({})


class EventKind(StrEnum):
    """The kinds there are; docs/events.md says when each happens and what its details hold."""

    READY = "ready"
    EXITED = "exited"
    CRASHED = "crashed"
    CRASHLOOP = "crashloop"
    NOT_LIVE = "not-live"
    FAILED = "failed"
    STOPPED = "stopped"
    RELOAD_STARTED = "reload-started"
    RELOAD_COMPLETED = "reload-completed"
    RELOAD_REJECTED = "reload-rejected"
    RELOAD_FAILED = "reload-failed"
    RELOAD_HELD = "reload-held"
    HELD = "held"
    GIVEN_BACK = "given-back"
    REGISTERED = "registered"
    REGISTRY = "registry"
    SWEPT = "swept"
    WATCH = "watch"
    CONFIG_APPLIED = "config-applied"
    CONFIG_REJECTED = "config-rejected"
    MESH_STARTED = "mesh-started"
    MESH_STOPPED = "mesh-stopped"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``at``: unix time in seconds. ``text``: a line for people. ``details``: JSON values."""

    at: float
    kind: str
    agent: str | None
    text: str
    details: Mapping[str, Any] = field(default_factory=lambda: NOTHING)

    def to_json(self) -> dict[str, Any]:
        return {
            "at": iso_time(self.at),
            "kind": str(self.kind),
            "agent": self.agent,
            "text": self.text,
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Event:
        """Raises ValueError for what is no event; fields of a newer version are ignored."""
        try:
            at, kind, text = body["at"], body["kind"], body["text"]
            agent, details = body.get("agent"), body.get("details") or {}
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"not an event: {error}") from error
        if not (isinstance(kind, str) and isinstance(text, str) and isinstance(details, dict)):
            raise ValueError("not an event: 'kind' and 'text' are strings, 'details' is an object")
        return cls(unix_time(at), kind, agent if isinstance(agent, str) else None, text, details)


def event(kind: str, text: str, *, agent: str | None = None, at: float | None = None, **details: Any) -> Event:
    """An event that happens now, unless ``at`` says when."""
    return Event(time.time() if at is None else at, str(kind), agent, text, MappingProxyType(details))


def iso_time(at: float) -> str:
    """``2026-11-21T01:43:36.123Z``"""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unix_time(text: object) -> float:
    """The inverse of ``iso_time``. Raises ValueError; a time without a zone is not accepted."""
    if not isinstance(text, str):
        raise ValueError(f"not a time of day: {text!r}")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not a time of day with its zone: {text!r}")
    return moment.timestamp()


# ---- history: what a reload came to --------------------------------------------------------------------------------


class Outcome(StrEnum):
    """COMPLETED: the new generation serves. REJECTED: the old one still does. FAILED: neither does. HELD: a person has
    taken the agent over; the edit counts when it is given back."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    HELD = "held"


_KIND_OF_OUTCOME = {
    Outcome.COMPLETED: EventKind.RELOAD_COMPLETED,
    Outcome.REJECTED: EventKind.RELOAD_REJECTED,
    Outcome.FAILED: EventKind.RELOAD_FAILED,
    Outcome.HELD: EventKind.RELOAD_HELD,
}


@dataclass(frozen=True, slots=True)
class Reload:
    """One line of ``meshsup history``: the end of a reload, as the details of its event.

    ``trigger``: save, command, config, dependency. ``reason``: the chain, as ``why`` prints it. ``phases_ms``: phase ->
    milliseconds, in the order in which they came. Memory in bytes (RSS of the process tree), None where unknown.
    """

    outcome: str
    trigger: str
    reason: str
    generation: int
    previous: int | None = None
    paths: tuple[str, ...] = ()
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    total_ms: float = 0.0
    memory_before: int | None = None
    memory_after: int | None = None
    error: str | None = None

    def to_details(self) -> dict[str, Any]:
        shape = {one.name: getattr(self, one.name) for one in fields(self)}
        shape["paths"] = list(self.paths)
        shape["phases_ms"] = {phase: round(spent, 1) for phase, spent in self.phases_ms.items()}
        shape["total_ms"] = round(self.total_ms, 1)
        return shape

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Reload:
        """Raises ValueError when the details are not those of a reload's end."""
        known = {one.name: details[one.name] for one in fields(cls) if one.name in details}
        known["paths"] = tuple(known.get("paths", ()))
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"not a reload: {error}") from error

    def as_event(self, agent: str, *, at: float | None = None) -> Event:
        return event(
            _KIND_OF_OUTCOME[Outcome(self.outcome)], self.sentence(agent), agent=agent, at=at, **self.to_details()
        )

    def sentence(self, agent: str) -> str:
        """What the log says: ``Reload completed: planner in 0.125s (generation 7)``."""
        if self.outcome == Outcome.COMPLETED:
            return f"Reload completed: {agent} in {self.total_ms / 1000:.3f}s (generation {self.generation})"
        if self.outcome == Outcome.HELD:
            return f"Reload held: {agent} is in a terminal (`meshsup run`) and starts anew after it ({self.reason})"
        return f"Reload {self.outcome}: {agent} ({self.error or self.reason})"


def history(events: Iterable[Event]) -> list[tuple[Event, Reload]]:
    """The ends of reloads among these events, in their order. What is no complete record is left out."""
    ends: list[tuple[Event, Reload]] = []
    kinds = set(_KIND_OF_OUTCOME.values())
    for one in events:
        if one.kind in kinds:
            with contextlib.suppress(ValueError):
                ends.append((one, Reload.from_details(one.details)))
    return ends


# ---- the bus -------------------------------------------------------------------------------------------------------


class Subscription:
    """What one listener has yet to see: ``async for event in subscription``. Bounded: a listener that does not keep up
    loses the oldest and is told how many, as an event of kind ``missed``."""

    def __init__(self, bus: Bus, limit: int) -> None:
        self._bus = bus
        self._waiting: deque[Event] = deque()
        self._limit = limit
        self._missed = 0
        self._closed = False
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting and not self._missed:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return event(EventKind.MISSED, f"{missed} events were left out: this listener is too slow", count=missed)
        return self._waiting.popleft()

    async def aclose(self) -> None:
        self.close()

    def offer(self, one: Event) -> None:
        if len(self._waiting) >= self._limit:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(one)
        self._news.set()

    def close(self) -> None:
        """Ends the iteration after what is already there; again is fine."""
        self._closed = True
        self._news.set()
        self._bus.forget(self)


class Bus:
    """Carries events from whoever publishes to whoever listens, and remembers the latest. One thread: the loop's."""

    def __init__(self, *, remembered: int = 1000) -> None:
        self._recent: deque[Event] = deque(maxlen=remembered)
        # A listener that just goes away (a client that hung up) must not be fed for ever.
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._listeners: list[Callable[[Event], None]] = []

    def publish(self, one: Event) -> None:
        self._recent.append(one)
        for listener in self._listeners:
            listener(one)
        for subscription in tuple(self._subscriptions):
            subscription.offer(one)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """``listener`` is called with every event, at once (the file, the console); it must neither block nor raise."""
        self._listeners.append(listener)

    def subscribe(self, *, limit: int = 1000) -> Subscription:
        subscription = Subscription(self, limit)
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def close(self) -> None:
        """Ends every subscription, each after what it has yet to see."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def recent(
        self, kinds: Collection[str] = (), *, agents: Collection[str] = (), limit: int | None = None
    ) -> list[Event]:
        """The latest events, oldest first; empty ``kinds`` or ``agents``: all of them."""
        return _latest((one for one in self._recent if _matches(one, kinds, agents, None)), limit)


def _matches(one: Event, kinds: Collection[str], agents: Collection[str], since: float | None) -> bool:
    return (
        (not kinds or one.kind in kinds) and (not agents or one.agent in agents) and (since is None or one.at >= since)
    )


def _latest(events: Iterable[Event], limit: int | None) -> list[Event]:
    return list(events if limit is None else deque(events, maxlen=limit))


# ---- the file ------------------------------------------------------------------------------------------------------

MAX_SIZE = 1024 * 1024


def events_file(state_dir: Path) -> Path:
    return state_dir / "events.jsonl"


class EventLog:
    """Appends events to ``state_dir/events.jsonl``; a file that has grown to ``max_size`` bytes becomes
    ``events.jsonl.1`` and replaces the one before it. ``append`` never raises for the disk's sake: a full or vanished
    one costs events, which are counted, and said by an event once a write succeeds again."""

    def __init__(self, state_dir: Path, *, max_size: int = MAX_SIZE) -> None:
        self._file = events_file(state_dir)
        self._max_size = max_size
        self._descriptor: int | None = None
        self._lost = 0
        self._why = ""

    def append(self, one: Event) -> None:
        if self._lost and not self._confess():
            self._lost += 1
            return
        if not self._write(one):
            self._lost += 1

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _confess(self) -> bool:
        words = f"{self._lost} events could not be written to {self._file.name}: {self._why}"
        if not self._write(event(EventKind.MISSED, words, count=self._lost)):
            return False
        self._lost = 0
        return True

    def _write(self, one: Event) -> bool:
        # A leading newline heals what a crash or a full disk left half-written; readers skip empty lines.
        line = json.dumps(one.to_json(), ensure_ascii=False, default=str) + "\n"
        encoded = line.encode("utf-8", errors="replace")
        try:
            descriptor = self._opened(len(encoded))
            if os.write(descriptor, encoded) < len(encoded):
                os.write(descriptor, b"\n")
                raise OSError("only a part of the line could be written")
        except OSError as error:
            self._why = error.strerror or str(error)
            self.close()
            return False
        return True

    def _opened(self, coming: int) -> int:
        """The descriptor to append to, after rotating where ``coming`` more bytes would be too many."""
        if self._descriptor is not None and not self._still_there(self._descriptor):
            self.close()
        if self._descriptor is None:
            self._descriptor = self._open()
        if 0 < os.fstat(self._descriptor).st_size > self._max_size - coming:
            self.close()
            self._file.replace(self._file.with_name(self._file.name + ".1"))
            self._descriptor = self._open()
        return self._descriptor

    def _still_there(self, descriptor: int) -> bool:
        # Somebody may have removed the file, or the whole state_dir: do not write into a file without a name.
        return os.fstat(descriptor).st_nlink > 0

    def _open(self) -> int:
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):  # a named pipe that nobody reads would block the event loop once it is full
            os.close(descriptor)
            raise OSError(errno.EINVAL, "is no file")
        size = found.st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        return descriptor


def read_events(
    state_dir: Path,
    kinds: Collection[str] = (),
    *,
    agents: Collection[str] = (),
    since: float | None = None,
    limit: int | None = None,
) -> list[Event]:
    """What the file holds, oldest first, also when nothing runs; no file is no events. Lines that are no events are
    passed over (a crash can leave half a line). Raises MeshError when the file is there and cannot be read."""
    found = (one for one in _stored(events_file(state_dir)) if _matches(one, kinds, agents, since))
    return _latest(found, limit)


def _stored(file: Path) -> Iterator[Event]:
    for part in (file.with_name(file.name + ".1"), file):
        for line in _text_of(part).split("\n"):  # not splitlines(): a text may hold U+2028
            with contextlib.suppress(ValueError, RecursionError):
                yield Event.from_json(json.loads(line))


def _text_of(part: Path) -> str:
    try:
        if part.exists() and not part.is_file():
            raise MeshError(f"{part}: is no file; move it away")  # reading a named pipe would never end
        return part.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MeshError(f"{part}: cannot be read: {error.strerror}") from error
