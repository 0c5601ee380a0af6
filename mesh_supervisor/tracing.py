"""What the instances of each agent have said of their reads and writes, joined into its inputs, and kept for later.

    reads, writes, ready ─► waiting ─► take() ─► Traced (traced.py) ─► joined(): Inputs
                                                    └─► state_dir/traced (host/traced.py)

Beside selection.py, which asks, and which alone knows what an instance was started from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from mesh_supervisor import traced
from mesh_supervisor.host.traced import Traces, names_in
from mesh_supervisor.impact import Inputs
from mesh_supervisor.spec import AgentSpec
from mesh_supervisor.traced import Record, Traced, Written

REMEMBERED = 8
"""Generations of which it is known when they became ready; older ones are gone."""


@dataclass(slots=True)
class Trail:
    """Of one agent. ``waiting``: said, and not looked at yet. ``ready_at``: generation → when it became ready.
    ``told``: what each that may serve has told of. ``stale``: from an earlier run, code may have changed since."""

    known: Traced
    waiting: list[tuple[int, list[Record]]] = field(default_factory=list)
    ready_at: dict[int, float] = field(default_factory=dict)
    told: dict[int, set[Path]] = field(default_factory=dict)
    stale: bool = True


class Told(NamedTuple):
    """Files that were read, each with its first record; ``by_serving``: those that the serving instance has read."""

    new: dict[Path, Record]
    by_serving: dict[Path, Record]


class Tracing:
    """Lives in the event loop's thread. ``user_ignored``: what watch.ignore and .meshwatch say no to."""

    def __init__(
        self,
        traces: Traces,
        user_ignored: Callable[[Path], bool],
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._traces, self._user_ignored, self._say, self._clock = traces, user_ignored, say, clock
        self._trails: dict[str, Trail] = {}
        self._written: Written | None = None
        self._unkept: set[str] = set()
        self._trouble = False

    def enter(self, agent: str) -> None:
        if agent not in self._trails:
            self._trails[agent] = Trail(self._traces.load(agent))
            self._written = None

    def leave(self, agent: str) -> None:
        del self._trails[agent]
        self._written = None
        self._unkept.discard(agent)
        try:
            self._traces.forget(agent)
        except OSError as error:
            self._say_unkept(error)

    # ---- what is said ------------------------------------------------------------------------------------------------

    def hear(self, agent: str, generation: int, files: object) -> bool:
        """Whether somebody should ``take`` it: not when that is under way already."""
        trail, records = self._trails.get(agent), traced.records_of(files)
        if trail is None or not records:
            return False
        trail.waiting.append((generation, records))
        return len(trail.waiting) == 1

    def take(self, agent: str) -> Told:
        """What an instance that serves, or will, has told for the first time."""
        trail = self._trails[agent]
        waiting, trail.waiting = trail.waiting, []
        serving = max(trail.ready_at, default=0)
        trail.told = {number: paths for number, paths in trail.told.items() if number >= serving}
        news = Told({}, {})
        for generation, records in waiting:
            trail.known = traced.heard(trail.known, generation, records, trail.ready_at.get(generation))
            if generation >= serving:
                told = trail.told.setdefault(generation, set())
                first = {r.path: r for r in reversed(records) if _is_file(r) and r.path not in told}
                told |= first.keys()
                news.new.update(first)
                news.by_serving.update(first if generation == serving else {})
        self._unkept.add(agent)
        return news

    def write(self, agent: str, generation: int, files: object) -> bool:
        """Whether it is something new, which may be no input of anybody any more."""
        trail = self._trails.get(agent)
        paths = [path for path in traced.paths_of(files) if trail is not None and path not in trail.known.writes]
        if trail is None or not paths:
            return False
        known = traced.wrote(trail.known, generation, paths)
        if known is trail.known:
            return False  # more than are kept
        trail.known = known
        self._unkept.add(agent)
        self._written = None
        return True

    def ready(self, agent: str, generation: int) -> None:
        trail = self._trails.get(agent)
        if trail is not None:
            recent = {number: at for number, at in trail.ready_at.items() if number > generation - REMEMBERED}
            trail.ready_at = recent | {generation: self._clock()}

    def settle(self, agent: str, generation: int) -> None:
        """All that it read until it was ready has been taken."""
        self._change(agent, traced.settled(self._trails[agent].known, generation))

    def start(self, agent: str) -> None:
        """It is about to be started."""
        trail = self._trails[agent]
        if trail.stale:
            self._change(agent, traced.edited(trail.known))
            trail.stale = False

    def _change(self, agent: str, known: Traced) -> None:
        if known != self._trails[agent].known:
            self._trails[agent].known = known
            self._unkept.add(agent)

    # ---- what it means -----------------------------------------------------------------------------------------------

    def writer(self, path: Path) -> str | None:
        """The agent that writes this file."""
        if self._written is None:
            self._written = Written({name: trail.known for name, trail in self._trails.items()})
        return self._written.by(path)

    async def joined(self, spec: AgentSpec, inputs: Inputs, config_files: Collection[Path]) -> Inputs:
        """``inputs`` with what its instances read, where no stronger source speaks of it."""
        if spec.trace is False:
            return _without(inputs)
        found = traced.verdicts(self._trails[spec.name].known, self.writer, data=spec.trace == "auto")
        strong = inputs.files.keys() | inputs.env_files | frozenset(config_files)
        read = {path: via for path, via in found.read.items() if path not in strong and self._may_count(path, inputs)}
        listed = await asyncio.to_thread(names_in, found.listings) if found.listings else {}
        names = frozenset[Path]().union(*listed.values())
        return replace(
            inputs,
            read=read,
            modules=found.modules & read.keys(),
            absent=found.absent & read.keys(),
            listings={folder: found.listings[folder] for folder in listed},
            listed=frozenset(path for path in names - strong - read.keys() if self.writer(path) is None),
            asides={path: why for path, why in found.asides.items() if path not in strong | inputs.matched},
        )

    def _may_count(self, path: Path, inputs: Inputs) -> bool:
        return not inputs.takes_out(path) and not self._user_ignored(path)

    def caused(self, agent: str, inputs: Inputs, changed: Collection[Path]) -> frozenset[Path]:
        """``changed`` is about to reload it. Returns those files that must not, because they did too often."""
        data = [path for path in changed if path in inputs.read and path not in inputs.modules | inputs.matched]
        known = self._trails[agent].known
        if len(data) < len(changed):
            self._change(agent, traced.edited(known, [path for path in changed if path not in data]))
            return frozenset()
        known, muted = traced.caused(known, data, self._clock())
        self._change(agent, known)
        return muted

    # ---- what is kept ------------------------------------------------------------------------------------------------

    @property
    def unkept(self) -> bool:
        return bool(self._unkept)

    async def keep(self) -> None:
        try:
            await asyncio.to_thread(self._keep_all, self._to_keep())
        except OSError as error:
            self._say_unkept(error)

    def keep_now(self) -> None:
        """At the end, when there is no time for threads."""
        for agent in [agent for agent, trail in self._trails.items() if trail.waiting]:
            self.take(agent)
        try:
            self._keep_all(self._to_keep())
        except OSError as error:
            self._say_unkept(error)

    def _to_keep(self) -> dict[str, Traced]:
        unkept, self._unkept = self._unkept, set()
        return {agent: self._trails[agent].known for agent in unkept}

    def _keep_all(self, known: Mapping[str, Traced]) -> None:
        for agent, one in known.items():
            self._traces.keep(agent, one)

    def _say_unkept(self, error: OSError) -> None:
        if not self._trouble:
            self._trouble = True
            self._say(f"what agents read cannot be kept for the next run: {error.strerror}")


def _is_file(record: Record) -> bool:
    return record.how in ("module", "data")


def _without(inputs: Inputs) -> Inputs:
    nothing = frozenset[Path]()
    return replace(inputs, read={}, modules=nothing, absent=nothing, listings={}, listed=nothing, asides={})
