"""Where lines go: kept for those who come later, to followers, and to files and console."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from mesh_supervisor.host.capture import Capture
from mesh_supervisor.host.console import Console
from mesh_supervisor.host.lines import Line, left_out, sanitize
from mesh_supervisor.host.logfiles import LogFiles, read_log

__all__ = ["SUPERVISOR", "Capture", "Console", "Follower", "Line", "LogFiles", "LogHub", "Sink", "read_log"]

SUPERVISOR = "meshsup"
"""The name under which the supervisor itself speaks; no agent can be called so."""

KEPT_LINES = 1000
KEPT_CHARACTERS = 1024 * 1024
FOLLOWER_LINES = 5000
FOLLOWER_CHARACTERS = 4 * 1024 * 1024


class Sink(Protocol):
    """Gets every line; must neither block nor raise."""

    def write(self, line: Line) -> None: ...


class LogHub:
    """All lines pass here, in the event loop. Keeps the last 1000 lines (1 MiB at most) of each agent."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._kept: dict[str, _Bounded] = {}
        self._followers: list[Follower] = []

    def publish(self, line: Line) -> None:
        kept = self._kept.get(line.agent)
        if kept is None:
            kept = self._kept[line.agent] = _Bounded(KEPT_LINES, KEPT_CHARACTERS)
        kept.add(line)
        for sink in self._sinks:
            sink.write(line)
        for follower in self._followers:
            follower.offer(line)

    def say(self, text: str, *, agent: str = SUPERVISOR, at: float | None = None) -> None:
        """A line of the supervisor's own; several when it has newlines."""
        moment = time.time() if at is None else at
        for part in text.split("\n"):
            self.publish(Line(moment, agent, 0, sanitize(part)))

    def recent(self, agents: Collection[str] = (), lines: int = KEPT_LINES) -> list[Line]:
        """The last ``lines`` of each of ``agents`` (none named: of all), in the order of time."""
        chosen = [kept for name, kept in self._kept.items() if not agents or name in agents]
        return list(heapq.merge(*(kept.last(lines) for kept in chosen), key=lambda line: line.at))

    def subscribe(self, agents: Collection[str] = (), lines: int = 0) -> Follower:
        """An async iterator of the last ``lines`` of each and all that come. Close it (or use ``with``)."""
        follower = Follower(frozenset(agents), self._followers.remove)
        for line in self.recent(agents, lines):
            follower.offer(line)
        self._followers.append(follower)
        return follower


class _Bounded:
    """The last lines of something, bounded in number and in size (characters)."""

    def __init__(self, most_lines: int, most_characters: int) -> None:
        self._most_lines, self._most_characters = most_lines, most_characters
        self.lines: deque[Line] = deque()
        self._characters = 0

    def add(self, line: Line) -> int:
        """How many older lines had to go."""
        self.lines.append(line)
        self._characters += line.weight
        dropped = 0
        while len(self.lines) > self._most_lines or self._characters > self._most_characters:
            self.take()
            dropped += 1
        return dropped

    def take(self) -> Line:
        line = self.lines.popleft()
        self._characters -= line.weight
        return line

    def last(self, count: int) -> list[Line]:
        return list(self.lines)[-count:] if count > 0 else []


class Follower:
    """What one reader has not read yet: bounded; the oldest lines go, and a note says how many."""

    def __init__(self, agents: frozenset[str], leave: Callable[[Follower], None]) -> None:
        self._agents = agents
        self._leave = leave
        self._unread = _Bounded(FOLLOWER_LINES, FOLLOWER_CHARACTERS)
        self._dropped = 0
        self._woken = asyncio.Event()
        self._closed = False

    def offer(self, line: Line) -> None:
        if self._agents and line.agent not in self._agents:
            return
        self._dropped += self._unread.add(line)
        self._woken.set()

    def close(self) -> None:
        """No more lines; an iteration under way ends. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._leave(self)
            self._woken.set()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Line:
        while not self._unread.lines and not self._closed:
            self._woken.clear()
            await self._woken.wait()
        if self._dropped:
            return self._note()
        if not self._unread.lines:
            raise StopAsyncIteration
        return self._unread.take()

    def _note(self) -> Line:
        dropped, self._dropped = self._dropped, 0
        return Line(self._unread.lines[0].at, SUPERVISOR, 0, left_out(dropped, "read too slowly"))
