"""From a save to the agents that it concerns: what each was started from, what has changed since, whether it loads.

    batch ─► mesh.toml or an env file? ─► affected? ─► content differs? ─► loads? ─► InputsChanged | EditRejected
             (apply)                      (impact.py)   (content.py)
    reads and writes of instances ─► inputs of their agent, or not (traced.py)

One after the other; nothing here starts or stops anything, it only posts events to agents.

What a save is compared with is, for inputs that are known before a start, their content before the spawn. A file that
an instance tells of for the first time is hashed when that arrives: if it still is as the instance found it (time of
change, size, inode), this is what was read; if not, it has changed since, and counts as changed at once. So no save
between the read and the telling is lost, and none that the instance has read already is a reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mesh_supervisor import impact, traced
from mesh_supervisor.host.content import Fingerprints
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.lines import sanitize
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.impact import Inputs, Reason
from mesh_supervisor.imports import Gone
from mesh_supervisor.lifecycle import EditRejected, EditUndone, Event, InputsChanged
from mesh_supervisor.spec import AgentSpec
from mesh_supervisor.traced import CHANGED, THERE, Stamp
from mesh_supervisor.tracing import Told, Tracing

MOST_NAMED = 5
"""Changed files that are named in one line; `git switch` changes hundreds."""

Digests = Mapping[Path, str | None]


class Finder(Protocol):
    """What the interpreter of an agent knows (host/inputs.py)."""

    async def inputs_of(self, spec: AgentSpec) -> Inputs: ...

    async def broken(
        self, spec: AgentSpec, inputs: Inputs, changed: Collection[Path], tolerated: Collection[Gone] = ()
    ) -> str | None:
        """Why the agent cannot load with these changed files, with file and line; None: nothing speaks against it.
        ``tolerated``: imports that what serves now lives without, whatever we think of them."""
        ...

    def forget_bytecode(self, changed: Iterable[Path]) -> None: ...


@dataclass(slots=True)
class Tracked:
    """``started_from``: what the newest instance was, or is about to be, started from. None: never started.
    ``serving_from``: the same of the one that serves, to which it goes back when the newest does not come up.
    ``withheld``: the change of mesh.toml that waits until a person switches its watching on again. ``assumed``: inputs
    of which ``started_from`` is what an older instance read. ``looks`` counts the starts that were prepared."""

    spec: AgentSpec
    inputs: Inputs = field(default_factory=Inputs)
    started_from: Digests | None = None
    serving_from: Digests | None = None
    tolerated: tuple[Gone, ...] = ()
    enabled: bool = True
    withheld: str = ""
    assumed: set[Path] = field(default_factory=set)
    looks: int = 0


class Selection:
    """Knows the inputs of every agent. ``configured`` is awaited when a file that mesh.toml is made of has changed."""

    def __init__(
        self,
        root: Path,
        finder: Finder,
        ignore: Ignore,
        *,
        post: Callable[[str, Event], None],
        configured: Callable[[], Awaitable[None]],
        inputs_changed: Callable[[], None],
        say: Callable[[str], None] = lambda text: None,
        traces: Traces | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agents: dict[str, Tracked] = {}
        self.config_files: frozenset[Path] = frozenset()
        self._root, self._finder, self._ignore = root, finder, ignore
        self._post, self._configured, self._inputs_changed = post, configured, inputs_changed
        self._say = say
        self._fingerprints = Fingerprints()
        self._hashing = asyncio.Lock()  # Fingerprints are for one thread at a time
        self._tracing = Tracing(traces or Traces(None), ignore.user_ignored, say, clock)
        self._batches: asyncio.Queue[frozenset[Path] | Callable[[], Awaitable[None]]] = asyncio.Queue()

    # ---- what is watched ---------------------------------------------------------------------------------------------

    def track(self, spec: AgentSpec, *, enabled: bool) -> None:
        """A new agent, or a changed one (it keeps what it was started from)."""
        known = self.agents.get(spec.name)
        if known is None:
            self.agents[spec.name] = Tracked(spec, enabled=enabled)
            self._tracing.enter(spec.name)
        else:
            known.spec, known.enabled = spec, enabled

    def forget(self, agent: str) -> None:
        del self.agents[agent]
        self._tracing.leave(agent)
        self._inputs_changed()

    def files(self) -> frozenset[Path]:
        """Every file that matters by itself, also those that do not exist yet."""
        own = (frozenset().union(t.inputs.paths, t.inputs.missing) for t in self.agents.values())
        return self.config_files.union(*own)

    def folders(self) -> list[Path]:
        """Where globs look, also in places that .gitignore passes over."""
        return [glob.base for t in self.agents.values() for glob in t.inputs.globs if not glob.negated]

    def relevant(self, path: Path) -> bool:
        """Whether a path that is no known input could be one: a new file under a glob, a plug-in, a watched folder."""
        return any(
            impact.reason_for(path, tracked.inputs, self._ignore.discovery_ignored) is not None
            for tracked in self.agents.values()
        )

    # ---- before a start ----------------------------------------------------------------------------------------------

    async def look(self, agent: str) -> Inputs:
        """The inputs as they are now, and their content: what an instance that is spawned next is started from."""
        tracked = self.agents[agent]
        self._tracing.start(agent)
        inputs = await self._inputs_of(tracked)
        tracked.started_from = await self._fingerprint(inputs)
        tracked.looks += 1
        tracked.assumed.clear()
        tracked.tolerated, tracked.withheld = inputs.gone, ""
        self._learn(tracked, inputs)
        return inputs

    async def preview(self, agent: str) -> Inputs:
        """The inputs as they are now; nothing is started from them."""
        return await self._inputs_of(self.agents[agent])

    async def look_again(self, agent: str, inputs: Inputs) -> None:
        """Inputs that became known only while it runs. What they hold now counts as what it was started from."""
        tracked = self.agents.get(agent)
        if tracked is None:
            return  # no longer in mesh.toml, since just now
        inputs = await self._joined(tracked, inputs)
        tracked.started_from = {**await self._fingerprint(inputs), **(tracked.started_from or {})}
        self._learn(tracked, inputs)

    async def relearn(self, agent: str) -> None:
        """Its globs, or the ignore rules, are others by now. What became an input counts from now on, what is none any
        more counts no longer; what has changed of the rest since its start is still a change."""
        tracked = self.agents[agent]
        inputs = await self._inputs_of(tracked)
        before, digests = tracked.started_from, await self._fingerprint(inputs)
        if before is not None:
            kept = inputs.paths | inputs.listed | (tracked.inputs.files.keys() - inputs.ignored)
            tracked.started_from = digests | {path: before[path] for path in before.keys() & kept}
        self._learn(tracked, inputs)

    def _learn(self, tracked: Tracked, inputs: Inputs) -> None:
        if inputs != tracked.inputs:
            tracked.inputs = inputs
            self._inputs_changed()

    async def _inputs_of(self, tracked: Tracked) -> Inputs:
        return await self._joined(tracked, await self._finder.inputs_of(tracked.spec))

    async def _joined(self, tracked: Tracked, inputs: Inputs) -> Inputs:
        if self.agents.get(tracked.spec.name) is not tracked:
            return inputs  # no longer in mesh.toml, since just now
        return await self._tracing.joined(tracked.spec, inputs, self.config_files)

    async def _fingerprint(self, inputs: Inputs) -> dict[Path, str | None]:
        return dict.fromkeys(inputs.listed, THERE) | await self._digests(inputs.paths)

    async def _digests(self, paths: Iterable[Path]) -> dict[Path, str | None]:
        async with self._hashing:
            return await asyncio.to_thread(self._fingerprints.digests, list(paths))

    # ---- batches -----------------------------------------------------------------------------------------------------

    def batch(self, paths: frozenset[Path]) -> None:
        self._batches.put_nowait(paths)

    def soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """It is done in its turn, between batches."""
        self._batches.put_nowait(work)

    async def run(self) -> None:
        """Takes batches until cancelled."""
        try:
            while True:
                what = await self._batches.get()
                await (self._take(what) if isinstance(what, frozenset) else what())
                if self._tracing.unkept and self._batches.empty():
                    await self._tracing.keep()
        finally:
            self._tracing.keep_now()

    async def _take(self, paths: frozenset[Path]) -> None:
        if paths & self.config_files:
            await self._configured()
        candidates = {name: t.inputs for name, t in self.agents.items() if t.enabled}
        concerned = impact.affected(
            _with_contents(paths, candidates.values()),
            candidates,
            self._ignore.user_ignored,
            self._ignore.discovery_ignored,
        )
        said: set[Path] = set()
        for agent, reason in concerned.items():
            if reason.source == "env" and self.config_files.issuperset(reason.paths):
                await self._pass_over(agent, reason.paths)
            elif agent in self.agents and not self._is_own_work(reason):
                self._tell(await self._consider(agent, reason), said)

    async def _pass_over(self, agent: str, paths: Collection[Path]) -> None:
        """What env files mean was decided just now, by their values (difference.py): their new bytes are known."""
        digests = await self._digests(paths)
        tracked = self.agents.get(agent)
        if tracked is not None and tracked.started_from is not None:
            tracked.started_from = {**tracked.started_from, **digests}

    def _tell(self, changed: Collection[Path], said: set[Path]) -> None:
        """``File changed: …``, once per batch and only of what really differs."""
        new = [path for path in changed if path not in said]
        said.update(new)
        if new:
            names = [impact.short(path, self._root) for path in new]
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            self._say(f"File changed: {', '.join(sanitize(name) for name in names[:MOST_NAMED])}{more}")

    async def catch_up(self, agent: str) -> None:
        """Watching was switched on again: what changed meanwhile counts. Of one that is gone, nothing does."""
        tracked = self.agents.get(agent)
        if tracked is None:
            return
        if tracked.withheld:
            self._post(agent, InputsChanged(tracked.withheld))
            return
        if not tracked.inputs.watched:
            return  # watch = false: no save reloads it
        path = next(iter(sorted(tracked.inputs.files)), self._root)
        await self._consider(agent, Reason(path, (path,), "import"), why="changed while its watching was off")

    async def _consider(self, agent: str, reason: Reason, why: str = "") -> Collection[Path]:
        """Posts what the change means for one agent. Returns the paths whose content really differs."""
        tracked = self.agents[agent]
        if tracked.started_from is None:
            return ()  # never started: it will be started from what is there then
        inputs, digests, changed = await self._compare(tracked)
        broken = await self._finder.broken(tracked.spec, inputs, changed, tracked.tolerated) if changed else None
        if self.agents.get(agent) is not tracked:
            return ()  # no longer in mesh.toml, since just now
        if changed and await self._is_muted(tracked, inputs, changed):
            return ()
        if not changed:
            self._learn(tracked, inputs)
            self._post(agent, EditUndone())
            return ()
        if broken is not None:
            self._learn(tracked, _both(tracked.inputs, inputs))
            self._post(agent, EditRejected(broken, why or impact.chain_text(reason, self._root)))
            return changed
        self._finder.forget_bytecode(changed)
        tracked.started_from = digests
        self._learn(tracked, inputs)
        self._post(agent, InputsChanged(why or impact.chain_text(reason, self._root)))
        return changed

    async def _compare(self, tracked: Tracked) -> tuple[Inputs, Digests, list[Path]]:
        """(inputs now, their digests, the paths whose content is not what the newest instance was started from)."""
        inputs = await self._inputs_of(tracked)
        before = tracked.started_from or {}
        only_there = {path for path, digest in before.items() if digest == THERE} - inputs.paths
        digests = dict.fromkeys(inputs.listed, THERE) | await self._digests(inputs.paths | before.keys() - only_there)
        changed = [path for path in digests if digests[path] != before.get(path)]
        known = {path: found for path, found in digests.items() if found is not None or path in inputs.read}
        return inputs, known, sorted(changed)

    # ---- questions ---------------------------------------------------------------------------------------------------

    async def accept(self, agent: str) -> str | None:
        """For a restart that is asked for: what is on disk now is what the next instance is started from, so that a
        save of the same moment is no second reason. Returns why it cannot load, and then nothing is accepted."""
        tracked = self.agents[agent]
        if tracked.started_from is None:
            return None
        inputs, digests, changed = await self._compare(tracked)
        if not changed:
            return None
        broken = await self._finder.broken(tracked.spec, inputs, changed, tracked.tolerated)
        if broken is None:
            self._finder.forget_bytecode(changed)
            tracked.started_from = digests
            self._learn(tracked, inputs)
        return broken

    async def why(self, path: Path) -> dict[str, Reason]:
        """The agents that a change of this file would concern, whether they are watched or not."""
        await self.know_all()
        inputs = {name: t.inputs for name, t in self.agents.items()}
        paths = _with_contents(frozenset({path}), inputs.values())
        user, found = self._ignore.user_ignored, self._ignore.discovery_ignored
        return impact.affected(paths, inputs, user, found, unwatched_too=True)

    async def know_all(self) -> None:
        """The inputs also of agents that were never started."""
        for tracked in list(self.agents.values()):  # mesh.toml may be applied meanwhile
            if tracked.started_from is None:
                self._learn(tracked, await self._inputs_of(tracked))

    def asides(self, path: Path) -> dict[str, str]:
        """The agents that have read this file although it is no input of theirs, each with the reason."""
        found = {name: t.inputs.asides.get(path) or t.inputs.asides.get(path.parent) for name, t in self.agents.items()}
        return {name: why for name, why in found.items() if why is not None}

    # ---- what instances read and write -------------------------------------------------------------------------------

    def reads(self, agent: str, generation: int, batch: object) -> None:
        """``files`` of a packet ``reads`` (runtime/trace.py). Called in the event loop, returns at once."""
        if self._tracing.hear(agent, generation, batch):
            self._batches.put_nowait(lambda: self._hear(agent))

    def writes(self, agent: str, generation: int, batch: object) -> None:
        """``files`` of a packet ``writes``. They are no traced inputs of anybody, before any save that comes later."""
        if self._tracing.write(agent, generation, batch):
            self._batches.put_nowait(self._learn_writes)

    def ready(self, agent: str, generation: int) -> None:
        """This generation may get requests from now on: what it reads later, it reads for them."""
        self._tracing.ready(agent, generation)
        tracked = self.agents.get(agent)
        if tracked is not None:
            tracked.serving_from = tracked.started_from
        self._batches.put_nowait(lambda: self._settle(agent, generation))

    def rejected(self, agent: str) -> None:
        """The newest instance did not come up, and the one before it serves on: undoing the edit is no change, and the
        same code once more is worth another try."""
        tracked = self.agents.get(agent)
        if tracked is not None and tracked.serving_from is not None:
            tracked.started_from = tracked.serving_from

    async def _hear(self, agent: str) -> None:
        tracked = self.agents.get(agent)
        if tracked is not None:
            told = self._tracing.take(agent)
            await self._rejoin(tracked)
            await self._take_root(tracked, told)

    async def _take_root(self, tracked: Tracked, told: Told) -> None:
        """What newly became an input: of which content is it known that it was read?"""
        inputs, looks = tracked.inputs, tracked.looks
        await asyncio.sleep(0)  # the watcher learns of them first: a save from now on is seen
        before = [digests for digests in (tracked.started_from, tracked.serving_from) if digests is not None]
        paths = [path for path in inputs.read if path in told.new or any(path not in digests for digests in before)]
        found = await self._stamped(paths)
        there = dict.fromkeys(inputs.listed, THERE)
        if tracked.serving_from is not None:
            kept = traced.rooted(tracked.serving_from, found, told.by_serving, set())
            tracked.serving_from = {**there, **tracked.serving_from, **kept.digests}
        if tracked.started_from is None:
            return
        # What is about to start since a moment ago will read anew.
        new = told.new if tracked.looks == looks else {}
        roots = traced.rooted(tracked.started_from, found, new, tracked.assumed)
        tracked.assumed = roots.assumed
        tracked.started_from = {**there, **tracked.started_from, **roots.digests}
        changed = frozenset(path for path, digest in roots.digests.items() if digest == CHANGED)
        if changed:
            self.batch(changed)

    async def _stamped(self, paths: Collection[Path]) -> dict[Path, tuple[Stamp | None, str | None]]:
        async with self._hashing:
            return await asyncio.to_thread(self._fingerprints.stamped, paths)

    async def _settle(self, agent: str, generation: int) -> None:
        tracked = self.agents.get(agent)
        if tracked is not None:
            self._tracing.settle(agent, generation)
            await self._rejoin(tracked)

    async def _learn_writes(self) -> None:
        for tracked in list(self.agents.values()):
            await self._rejoin(tracked)

    async def _rejoin(self, tracked: Tracked) -> None:
        """Its inputs with what is known of its instances by now. What is none any more is no reason any more."""
        before = tracked.inputs
        inputs = await self._joined(tracked, before)
        gone = (before.paths | before.listed) - inputs.paths - inputs.listed
        if gone:
            tracked.started_from = _less(tracked.started_from, gone)
            tracked.serving_from = _less(tracked.serving_from, gone)
        self._learn(tracked, inputs)

    def _is_own_work(self, reason: Reason) -> bool:
        """A new file in a folder that an agent lists, which an agent has written."""
        return reason.source == "read" and all(self._tracing.writer(path) is not None for path in reason.paths)

    async def _is_muted(self, tracked: Tracked, inputs: Inputs, changed: Collection[Path]) -> bool:
        """Whether this is no reload after all, because data files have caused too many."""
        muted = self._tracing.caused(tracked.spec.name, inputs, changed)
        if muted:
            names = ", ".join(impact.short(path, self._root) for path in sorted(muted))
            self._say(f"{tracked.spec.name}: {names}: {traced.MUTED}; `watch` in mesh.toml makes it count always")
            await self._rejoin(tracked)
        return muted.issuperset(changed)


def _less(digests: Digests | None, gone: Collection[Path]) -> Digests | None:
    return digests and {path: digest for path, digest in digests.items() if path not in gone}


def _with_contents(paths: frozenset[Path], inputs: Collection[Inputs]) -> frozenset[Path]:
    """A folder that came or went stands for all inputs below it."""
    known = frozenset().union(*(own.paths | own.missing.keys() for own in inputs))
    below = {path for path in known if any(parent in paths for parent in path.parents)}
    return paths | below


def _both(old: Inputs, new: Inputs) -> Inputs:
    """While an edit is rejected, mending it counts, and so does undoing it."""
    return replace(
        new,
        files={**old.files, **new.files},
        missing={**old.missing, **new.missing},
        folders={**old.folders, **new.folders},
        matched=old.matched | new.matched,
        read={**old.read, **new.read},
    )
