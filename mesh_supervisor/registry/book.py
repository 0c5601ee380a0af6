"""The registry's state and every decision about it; no clock, no socket, no file. One thread, one writer.

Who is here (seats by id), who offers a capability (candidates), who is wanted (one Want per distinct dependency, with
the provider that it currently gets). A change of one agent touches only the wants for its own capabilities, and mostly
by one comparison; so a POST costs the same with ten agents and with ten thousand. Whether an agent must be told to ask
again (202) is found at its own next heartbeat, by comparing what it was told with what it would be told now.

Times are monotonic seconds handed in, except ``created`` and ``last_seen`` (unix). ``changes`` collects what has to be
written down, see store.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from mesh_supervisor.registry.matching import Candidate, better, choose, unresolved_entry
from mesh_supervisor.registry.records import Dependency, Issued, Record, Slot

MOST_AGENTS = 10_000
MOST_TEXT = 256 * 1024 * 1024
"""Characters of the bodies of all records: 26 KiB for each of the most agents, ten times what they usually send."""
LONGEST_ANSWER = 4 * 1024 * 1024
"""Characters of all providers that one agent is told: 4 KiB for each of the most dependencies, where 0.3 are usual."""
TIMEOUT = 20.0
"""Seconds without a heartbeat after which an agent counts as gone (as upstream)."""
RETENTION = 3600.0
"""Seconds that one that fell silent is still listed, as unhealthy (as upstream). A withdrawn one is gone at once."""


class Full(Exception):
    """There is no room for one more."""


class NotYours(Exception):
    """The id belongs to a living instance of another supervisor."""


class Beat(Enum):
    """The answer to a heartbeat without a body: 200, 202, 410."""

    SAME = auto()
    CHANGED = auto()
    GONE = auto()


@dataclass(slots=True)
class Seat:
    """An agent that is, or lately was, here. ``told``: marks of the providers that it was last told, in order;
    ``size``: characters of its body."""

    record: Record
    created: float
    last_seen: float
    lease: float
    expires: float
    alive: bool = True
    told: str = ""
    size: int = 0

    @property
    def status(self) -> str:
        return self.record.status if self.alive else "unhealthy"

    @property
    def slots(self) -> Iterator[tuple[str, Slot]]:
        """(function name, slot) in the order of the body."""
        return ((tool.function_name, slot) for tool in self.record.tools for slot in tool.slots)


@dataclass(slots=True)
class Want:
    """One distinct dependency. ``winner`` holds while ``known``; else it has to be looked for again."""

    consumers: set[str] = field(default_factory=set)
    winner: Candidate | None = None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """An agent as the store keeps it. ``body``: the POST body as it came; None: the one that the store has already."""

    id: str
    body: str | None
    created: float
    last_seen: float
    lease: float
    alive: bool
    told: str


@dataclass(slots=True)
class Changes:
    """What differs from the store, by id; None: gone."""

    agents: dict[str, Saved | None] = field(default_factory=dict)
    issued: dict[str, Issued | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.agents or self.issued)

    def note(self, agent: str, saved: Saved | None) -> None:
        """A later change without a body must not lose the body of an earlier one that is not written yet."""
        earlier = self.agents.get(agent)
        if saved and saved.body is None and earlier:
            saved = replace(saved, body=earlier.body)
        self.agents[agent] = saved

    def take(self) -> Changes:
        """All of it, to be written; what happens meanwhile gathers anew."""
        taken = Changes(self.agents, self.issued)
        self.agents, self.issued = {}, {}
        return taken

    def put_back(self, unwritten: Changes) -> None:
        """After a failed write: what has happened since wins."""
        newer = self.take()
        self.agents, self.issued = dict(unwritten.agents), {**unwritten.issued, **newer.issued}
        for agent, saved in newer.agents.items():
            self.note(agent, saved)


class Book:
    """``now`` and ``wall`` are the same moment, monotonic and unix."""

    def __init__(
        self,
        *,
        most: int = MOST_AGENTS,
        most_text: int = MOST_TEXT,
        timeout: float = TIMEOUT,
        retention: float = RETENTION,
    ) -> None:
        self.most, self.most_text, self.timeout, self.retention = most, most_text, timeout, retention
        self.seats: dict[str, Seat] = {}
        self.text = 0  # characters of all bodies
        self.issued: dict[str, Issued] = {}
        self.changes = Changes()
        self._offers: dict[str, dict[str, tuple[Candidate, ...]]] = {}  # capability → agent id → its tools
        self._wants: dict[str, dict[Dependency, Want]] = {}  # capability → dependency → want
        self._generations: Counter[tuple[str, str, str]] = Counter()  # (capability, owner, agent) → offering ids

    # ---- what agents do

    def post(self, record: Record, body: str, now: float, wall: float) -> bool:
        """Take in a record; True when the agent is new (or was gone). Raises Full, NotYours."""
        record = record.belonging_to(self.issued.get(record.id))
        seat = self.seats.get(record.id)
        if seat and seat.alive and record.owner and seat.record.owner not in ("", record.owner):
            raise NotYours(f"{record.id} is in use by another supervisor; give this agent another id")
        self._make_room(record.id, len(body))
        if seat is None:
            seat = self.seats[record.id] = Seat(record, wall, wall, self.timeout, now, alive=False)
        self.text += len(body) - seat.size
        seat.size = len(body)
        new = not seat.alive
        if new or record != seat.record:
            self._replace(seat, record)
        seat.last_seen, seat.expires = wall, now + seat.lease
        seat.told = self.marks(seat)
        self._note(seat, body)
        return new

    def beat(self, agent: str, now: float, wall: float) -> Beat:
        """A sign of life."""
        seat = self.seats.get(agent)
        if seat is None or not seat.alive:
            return Beat.GONE
        seat.last_seen, seat.expires = wall, now + seat.lease
        return Beat.SAME if self.marks(seat) == seat.told else Beat.CHANGED

    def withdraw(self, agent: str) -> bool:
        """An agent says goodbye, or its supervisor has buried it: the record is gone."""
        seat = self.seats.pop(agent, None)
        if seat is None:
            return False
        self.text -= seat.size
        self._retire(seat)
        self.changes.note(agent, None)
        return True

    def expire(self, now: float) -> list[str]:
        """Mark those whose lease ran out, drop those that were silent for long; returns the newly silent."""
        over = [a for a, seat in self.seats.items() if not seat.alive and seat.expires + self.retention <= now]
        for agent in over:
            self.withdraw(agent)
        # After those, so that they are still there: a process that was paused for hours finds all of them late.
        silent = [agent for agent, seat in self.seats.items() if seat.alive and seat.expires <= now]
        for agent in silent:
            self._retire(self.seats[agent])
            self._note(self.seats[agent])
        return silent

    # ---- what supervisors do

    def lease(
        self, owner: str, ttl: float, ids: Collection[str] | None, now: float, wall: float
    ) -> tuple[list[str], list[str]]:
        """Renew what ``owner`` announced (``ids`` None: all of it) for ``ttl`` seconds: (known, unknown ids).

        An id that registers itself is known, but lives by its own heartbeats: that the supervisor lives says nothing
        about an agent that hangs.
        """
        if ids is None:
            ids = [agent for agent, seat in self.seats.items() if seat.record.owner == owner]
        known = [agent for agent in ids if agent in self.seats and self.seats[agent].record.owner == owner]
        for agent in known:
            if self.seats[agent].record.announced:
                self._renew(self.seats[agent], ttl, now, wall)
        return known, sorted(set(ids) - set(known))

    def issue(self, ids: Iterable[Issued]) -> None:
        """Learn whose instances will register with these ids; those already here get their owner."""
        for issued in ids:
            if issued.id not in self.issued and len(self.issued) >= 2 * self.most:
                self._forget_oldest_issued()
            self.issued[issued.id] = self.changes.issued[issued.id] = issued
            seat = self.seats.get(issued.id)
            if seat and seat.record != (record := seat.record.belonging_to(issued)):
                self._replace(seat, record, alive=seat.alive)

    def forget(self, owner: str, keep: Collection[str]) -> list[str]:
        """Withdraw everything of ``owner`` but ``keep``; returns the ids that had a record."""
        for agent in [a for a, issued in self.issued.items() if issued.owner == owner and a not in keep]:
            del self.issued[agent]
            self.changes.issued[agent] = None
        ghosts = [a for a, seat in self.seats.items() if seat.record.owner == owner and a not in keep]
        for agent in ghosts:
            self.withdraw(agent)
        return ghosts

    # ---- what agents are told

    def resolve(self, slot: Slot) -> Candidate | None:
        """Who fills the slot: the provider of its first dependency that has one."""
        return next((winner for wanted in slot if (winner := self._winner(wanted))), None)

    def marks(self, seat: Seat) -> str:
        """What the agent would be told now, as a text to compare."""
        return "/".join(chosen.mark if (chosen := self.resolve(slot)) else "-" for _, slot in seat.slots)

    def told(self, seat: Seat) -> Iterator[tuple[str, Slot, Candidate | None]]:
        """(function name, slot, who fills it) in the order of the body.

        A provider that would make the answer longer than LONGEST_ANSWER is left out as if it were not there, so that
        no other agent's record can turn a small request into an endless answer, or make it fail.
        """
        room = LONGEST_ANSWER
        for function, slot in seat.slots:
            chosen = self.resolve(slot)
            if chosen is not None and len(chosen.entry) > room:
                chosen = None
            room -= len(chosen.entry) if chosen else 0
            yield function, slot, chosen

    def left_out(self, agent: str) -> int:
        """How many dependencies would be resolved if answers could be longer."""
        seat = self.seats[agent]
        return sum(chosen is None and self.resolve(slot) is not None for _, slot, chosen in self.told(seat))

    def answer(self, agent: str) -> list[str]:
        """``dependencies_resolved`` (per function, positional) as JSON text, in parts to be joined: most of them are
        texts that exist anyway."""
        functions: dict[str, list[str]] = {}
        for function, slot, chosen in self.told(self.seats[agent]):
            entry = chosen.entry if chosen else unresolved_entry(slot[0].capability)
            functions.setdefault(function, []).append(entry)
        return list(_object_of_lists(functions))

    # ---- after a restart

    def restore(self, seat: Seat, now: float) -> None:
        """Take over what an earlier registry knew. The lease starts anew: the agent could not renew it meanwhile."""
        alive, seat.alive, seat.expires = seat.alive, False, now + (seat.lease if seat.alive else 0)
        self.seats[seat.record.id] = seat
        self.text += seat.size
        self._replace(seat, seat.record.belonging_to(self.issued.get(seat.record.id)), alive=alive)

    def note_all(self) -> None:
        """Heartbeats are not written down one by one; before an orderly end all of them are."""
        for seat in self.seats.values():
            self._note(seat)

    # ---- keeping the indexes

    def _make_room(self, agent: str, size: int) -> None:
        """For ``size`` characters of ``agent``; those that have been silent for longest go first. Raises Full when
        what is left is alive. A record that does not grow always has its room."""
        if not self._lacks(agent, size):
            return
        silent = [seat for seat in self.seats.values() if not seat.alive and seat.record.id != agent]
        for seat in sorted(silent, key=lambda seat: seat.expires):
            self.withdraw(seat.record.id)
            if not self._lacks(agent, size):
                return
        raise Full(self._lacks(agent, size))

    def _lacks(self, agent: str, size: int) -> str:
        """What there is not enough of, '' when there is."""
        seat = self.seats.get(agent)
        if seat is None and len(self.seats) >= self.most:
            return f"{self.most} agents are registered, which is as many as this registry serves"
        held = seat.size if seat else 0
        if size > held and self.text - held + size > self.most_text:
            return (
                f"{agent}: its record of {_kib(size)} does not fit beside those of the others, which have "
                f"{_kib(self.text - held)} of the {_kib(self.most_text)} that this registry keeps"
            )
        return ""

    def _note(self, seat: Seat, body: str | None = None) -> None:
        row = Saved(seat.record.id, body, seat.created, seat.last_seen, seat.lease, seat.alive, seat.told)
        self.changes.note(row.id, row)

    def _renew(self, seat: Seat, ttl: float, now: float, wall: float) -> None:
        changed = not seat.alive or seat.lease != ttl
        if not seat.alive:
            self._replace(seat, seat.record)
        seat.lease, seat.last_seen, seat.expires = ttl, wall, now + ttl
        if changed:
            self._note(seat)

    def _retire(self, seat: Seat) -> None:
        """No longer a candidate, no longer a consumer."""
        if seat.alive:
            seat.alive = False
            self._unindex(seat.record)

    def _replace(self, seat: Seat, record: Record, *, alive: bool = True) -> None:
        self._retire(seat)
        seat.record, seat.alive = record, alive
        if alive:
            self._index(record)

    def _forget_oldest_issued(self) -> None:
        """An id is issued per reload, and most of them are long past when there are too many."""
        oldest = next((agent for agent in self.issued if agent not in self.seats), next(iter(self.issued)))
        del self.issued[oldest]
        self.changes.issued[oldest] = None

    def _index(self, record: Record) -> None:
        for capability, candidates in _candidates(record).items():
            self._offers.setdefault(capability, {})[record.id] = candidates
            self._generations[capability, record.owner, record.agent] += 1
            for wanted, want in self._wants.get(capability, {}).items():
                self._consider(wanted, want, candidates)
        for wanted in _dependencies(record):
            self._wants.setdefault(wanted.capability, {}).setdefault(wanted, Want()).consumers.add(record.id)

    def _unindex(self, record: Record) -> None:
        for wanted in _dependencies(record):
            wants = self._wants[wanted.capability]
            wants[wanted].consumers.discard(record.id)
            if not wants[wanted].consumers:
                del wants[wanted]
            if not wants:
                del self._wants[wanted.capability]
        for capability in _candidates(record):
            self._drop_offer(capability, record)

    def _drop_offer(self, capability: str, record: Record) -> None:
        # Without the newer generation the older one may win again.
        contested = self._contested(capability, record)
        kin = (capability, record.owner, record.agent)
        self._generations[kin] -= 1
        if not self._generations[kin]:
            del self._generations[kin]
        offers = self._offers[capability]
        del offers[record.id]
        if not offers:
            del self._offers[capability]
        for want in self._wants.get(capability, {}).values():
            if contested or (want.winner and want.winner.record.id == record.id):
                want.known = False

    def _contested(self, capability: str, record: Record) -> bool:
        """Whether several generations of the record's agent offer this."""
        return bool(record.owner) and self._generations[capability, record.owner, record.agent] > 1

    def _consider(self, wanted: Dependency, want: Want, newcomers: tuple[Candidate, ...]) -> None:
        """Keep the winner current without looking at everybody again, unless generations compete."""
        if not want.known or self._contested(wanted.capability, newcomers[0].record):
            want.known = False
            return
        for newcomer in newcomers:
            if better(newcomer, want.winner, wanted):
                want.winner = newcomer

    def _winner(self, wanted: Dependency) -> Candidate | None:
        want = self._wants.get(wanted.capability, {}).get(wanted)
        if want is None:  # of an agent that is not alive: nobody keeps it current
            return self._look_for(wanted)
        if not want.known:
            want.winner, want.known = self._look_for(wanted), True
        return want.winner

    def _look_for(self, wanted: Dependency) -> Candidate | None:
        offers = self._offers.get(wanted.capability, {})
        return choose(wanted, (candidate for candidates in offers.values() for candidate in candidates))


def _candidates(record: Record) -> dict[str, tuple[Candidate, ...]]:
    """Capability → its tools; nothing for what nobody may be sent to."""
    found: dict[str, tuple[Candidate, ...]] = {}
    for tool in record.tools if record.callable else ():
        found[tool.capability] = (*found.get(tool.capability, ()), Candidate.of(record, tool))
    return found


def _dependencies(record: Record) -> frozenset[Dependency]:
    return frozenset(wanted for tool in record.tools for slot in tool.slots for wanted in slot)


def _object_of_lists(members: dict[str, list[str]]) -> Iterator[str]:
    lead = "{"
    for key, texts in members.items():
        yield f"{lead}{json.dumps(key)}: ["
        for at, text in enumerate(texts):
            if at:
                yield ", "
            yield text
        lead = "], "
    yield "]}" if members else "{}"


def _kib(characters: int) -> str:
    return f"{-(-characters // 1024)} KiB"
