"""Warm starts of one mesh: which warm processes there should be, who starts from them, what is learnt for them.

Decisions are in warmth.py, the processes in warm_shelf.py and warm_process.py, what outlives a run in warm_store.py.
Whatever is done ahead of need is done by `run`, one thing at a time and behind everything that somebody waits for;
nothing here delays a start for longer than a cold one would take.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from mesh_supervisor import warmth
from mesh_supervisor.host import procfs
from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.memory import OutOfMemory, is_short
from mesh_supervisor.host.priority import Priority
from mesh_supervisor.host.spawn import SpawnError
from mesh_supervisor.host.warm_judge import Judge
from mesh_supervisor.host.warm_process import GUEST, NotWarm, Order, WarmProcess
from mesh_supervisor.host.warm_shelf import Made, Shelf
from mesh_supervisor.host.warm_store import Findings, WarmStore, digest
from mesh_supervisor.warmth import CRASHES, Decision, Known, Learnt, Recipe, Verdict, Wanted, Way

QUIET = 0.5
"""Seconds after the last start before anything is done ahead of need."""

LATEST = 10.0
"""Seconds after which a spare that was used is replaced, although its agent is not ready yet."""

MOST_HANGS = 3
"""Forked instances of one agent in a row that did not get ready."""

MOST_DEATHS = 3
"""A warm process that ends by itself so often is not made again."""


@dataclass(frozen=True, slots=True)
class How:
    """How an agent's newest instance was started. ``reason``: why not by a fork, or not by one that has everything (""
    if it was); ``cure``: what would help ("" nothing)."""

    way: Way
    reason: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class WarmStatus:
    """One warm process, for `ps` and the snapshot. ``kind``: "template", "spare" or "judge"; ``state``: "warming",
    "warm", "refused" or "over"; ``agents``: those that it is for; ``modules``: how many it has imported by name."""

    kind: str
    pid: int
    state: str
    agents: tuple[str, ...]
    modules: int


class Warmth:
    """One per supervisor, in its event loop.

    `run` is a task of the supervisor's. `expect` at `up`, `launch` for every start of an agent that has the runtime,
    `learnt` and `settled` when an instance is ready, `edited`, `stopped` and `distrust` when that happens, and `close`
    when `run` is cancelled and nothing is launched any more.

    ``line`` gets what warm processes write; ``say`` gets sentences for the mesh's log.
    """

    def __init__(
        self,
        owner: str,
        folder: Path,
        *,
        line: Callable[[Line], None],
        say: Callable[[str], None],
        memory: OutOfMemory | None = None,
        spares: int = warmth.SPARES,
        guest: Path = GUEST,
    ) -> None:
        """``folder``: state_dir/warm. ``memory``: explains why one was killed. ``spares``: how many at most; 0 where
        nobody edits."""
        self._say, self._most = say, spares
        self._store = WarmStore(folder)
        self._loop = asyncio.get_running_loop()
        self._stirred = asyncio.Event()
        self._shelf = Shelf(owner, line, self._stirred.set, memory, guest)
        self._judge = Judge(self._spawn_judge, self._judged)
        self._wanted: dict[str, Wanted] = {}
        self._learnt: dict[str, Learnt] = {}
        self._pools: dict[warmth.Kind, warmth.Pool] | None = None
        self._keys: dict[str, str | None] = {}  # agent → that of its template
        self._how: dict[str, How] = {}
        self._recency: list[str] = []
        self._deaths: dict[str, int] = {}
        self._broken: dict[str, str] = {}  # key of a template → why there is none, in this run
        self._forked: dict[str, tuple[str, Recipe]] = {}  # mark of an instance → its agent and what it needed
        self._cold_next: dict[str, str] = {}  # agent → why
        self._hangs: dict[str, int] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._nobody_starts = asyncio.Event()
        self._nobody_starts.set()
        self._starting = 0
        self._last_start = self._loop.time()

    # ---- what the supervisor calls -----------------------------------------------------------------------------------

    def expect(self, wanted: Iterable[Wanted]) -> None:
        """These agents are about to start: begin at once with what was learnt about them in earlier runs."""
        if not procfs.ours:
            return
        for one in wanted:
            self._know(one)
        for key, recipe in warmth.templates(self._decisions(), self._recency).items():
            if key not in self._shelf.templates:
                self._make_template(recipe, Priority.NORMAL)
        self._stirred.set()

    async def launch(self, wanted: Wanted, order: Order) -> Child | None:
        """A warm instance; None: start it cold. `how` says what it became and why.

        Cancelled, it leaves no process. The descriptors of ``order`` stay the caller's.
        """
        if not procfs.ours:
            self._how[wanted.agent] = How(Way.COLD, "without a /proc nobody can tell what may be forked")
            return None
        self._know(wanted)
        with self._a_start():
            child, how = await self._launch(wanted, order)
        self._how[wanted.agent] = how
        if how.way is Way.SPARE:  # another one, also if it never gets ready
            self._loop.call_later(LATEST, self._stirred.set)
        return child

    def how(self, agent: str) -> How | None:
        """How its newest instance was started; None: it was not started yet, or without asking here."""
        return self._how.get(agent)

    def learnt(self, agent: str, packets: Iterable[Mapping[str, object]], seconds: float | None) -> None:
        """The inventory of a ready instance (all its packets). ``seconds``: from its spawn to ready, if it was started
        cold; None: it was warm."""
        wanted = self._wanted.get(agent)
        if wanted is not None:
            self._learn(agent, warmth.learn(packets, wanted, self._learnt.get(agent), seconds))
        self._stirred.set()

    def settled(self, mark: str) -> None:
        """The instance ``mark`` is ready: what is done ahead of the next start may begin."""
        if mark in self._forked:
            self._hangs.pop(self._forked[mark][0], None)
        self._stirred.set()

    def edited(self, agent: str) -> None:
        """A save reloads it: it is the one edited last."""
        self._recency = [agent, *(other for other in self._recency if other != agent)]

    def stopped(self, agent: str) -> None:
        """It is not wanted any more: nothing is kept warm for it alone."""
        self._wanted.pop(agent, None)
        self._how.pop(agent, None)
        self._pools = None
        self._stirred.set()

    def distrust(self, mark: str, why: str) -> None:
        """W5: the instance ``mark`` did not get ready. If it was forked, its agent is started cold next time, and only
        then, since an edit may be to blame; not ready three times in a row, and it is forked no more in this run."""
        if mark in self._forked:
            agent, recipe = self._forked.pop(mark)
            self._hangs[agent] = self._hangs.get(agent, 0) + 1
            if self._hangs[agent] < MOST_HANGS:
                self._cold_next[agent] = why
            else:
                self._broken[warmth.mark_of(agent, recipe.key)] = why

    def renew(self) -> None:
        """W7: all warm processes are made again. Called here when a template finds that packages have changed."""
        self._store.look_again()
        self._deaths.clear()
        self._broken.clear()
        self._shelf.clear()
        self._stirred.set()

    def status(self) -> list[WarmStatus]:
        templates = (*self._shelf.templates.items(), *self._shelf.coming.items())
        found = [_status("template", made, self._served_by(key)) for key, made in templates]
        found += [_status("spare", made, (agent,)) for agent, made in self._shelf.spares.items()]
        if self._judge.pid is not None:
            found.append(WarmStatus("judge", self._judge.pid, "warm", (), 0))
        return found

    async def run(self) -> None:
        """What is done ahead of need, until it is cancelled. Raises what must not have happened."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._judge.run())
            tasks.create_task(self._keep())

    async def close(self) -> None:
        """Ends all warm processes; returns when they are gone. What they forked lives on."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(self._shelf.close(), *self._watching, return_exceptions=True)

    # ---- starting ----------------------------------------------------------------------------------------------------

    async def _launch(self, wanted: Wanted, order: Order) -> tuple[Child | None, How]:
        doubt = self._cold_next.pop(wanted.agent, "")
        if doubt:
            return None, How(Way.COLD, f"its last instance was forked and did not get ready: {doubt}")
        decision = self._decide(wanted)
        why = [decision.reason] if decision.reason else []
        if decision.spare is not None:
            try:
                child = await self._from_spare(wanted, decision.spare, order)
                return child, How(Way.SPARE, "; ".join(why), decision.cure)
            except NotWarm as problem:
                why.append(str(problem))
        if decision.template is not None:
            try:
                child = await self._from_template(wanted, decision.template, order)
                return child, How(Way.FORK, decision.reason, decision.cure)
            except NotWarm as problem:
                why.append(str(problem))
        return None, How(Way.COLD, "; ".join(why), decision.cure)

    async def _from_spare(self, wanted: Wanted, needed: Recipe, order: Order) -> Child:
        made = self._shelf.spares.get(wanted.agent)
        if made is None or not warmth.serves(made.recipe, needed):
            raise NotWarm("its spare is not there yet")
        if not await made.process.settled(self._patience(wanted)):
            raise NotWarm("its spare is still importing")
        if self._shelf.spares.get(wanted.agent) is made:
            del self._shelf.spares[wanted.agent]
        try:
            return await made.process.become(order)
        except NotWarm:
            self._shelf.drop(made)
            self._see_whether_stale(made.process)
            raise

    async def _from_template(self, wanted: Wanted, needed: Recipe, order: Order) -> Child:
        key = warmth.best(self._shelf.usable(), needed, wanted, self._known(wanted))
        if key is None:
            raise NotWarm("its template is not there yet")
        process = self._shelf.templates[key].process
        if not await process.settled(self._patience(wanted)):
            raise NotWarm("its template is still importing")
        try:
            child = await process.fork(order)
        except NotWarm:
            self._see_whether_stale(process)
            raise
        self._forked[order.mark] = (wanted.agent, needed)
        watching = self._loop.create_task(self._see_its_end(child))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return child

    def _patience(self, wanted: Wanted) -> float:
        return warmth.patience(self._learnt.get(wanted.agent), self._shelf.warming(), os.cpu_count() or 1)

    async def _see_its_end(self, child: Child) -> None:
        """W5: what dies so must not have been forked. Kept as long as the same packages are installed."""
        mark = child.mark
        exit = await child.wait()
        agent, recipe = self._forked.pop(mark, ("", None))
        learnt = self._learnt.get(agent)
        if exit.signal in CRASHES and recipe is not None and learnt is not None:
            why = f"an instance of it that was forked died by {Signals(exit.signal).name}"
            self._findings(learnt).marked[warmth.mark_of(agent, recipe.key)] = why
            self._store.keep_findings(learnt.python, learnt.places)
            self._stirred.set()

    def _see_whether_stale(self, process: WarmProcess) -> None:
        if process.stale and process in [made.process for made in self._shelf.everything()]:
            self._say("installed packages have changed: warm processes are made anew")
            self.renew()

    @contextmanager
    def _a_start(self) -> Iterator[None]:
        self._starting += 1
        self._nobody_starts.clear()
        try:
            yield
        finally:
            self._starting -= 1
            self._last_start = self._loop.time()
            if not self._starting:
                self._nobody_starts.set()

    # ---- knowing and deciding ----------------------------------------------------------------------------------------

    def _know(self, wanted: Wanted) -> None:
        if wanted.agent not in self._learnt:
            found = self._store.learnt([wanted.agent])
            if found:
                self._pools = None
            self._learnt.update(found)
        if wanted.agent not in self._wanted:
            self._pools = None
        self._wanted[wanted.agent] = wanted

    def _learn(self, agent: str, found: Learnt) -> None:
        if found != self._learnt.get(agent):
            self._learnt[agent] = found
            self._pools = None
            self._store.keep(agent, found)

    def _findings(self, learnt: Learnt) -> Findings:
        return self._store.findings(learnt.python, learnt.places)

    def _known(self, wanted: Wanted) -> Known:
        learnt = self._learnt.get(wanted.agent)
        if learnt is None:
            return Known({}, {}, {})
        found = self._findings(learnt)
        files = {path for one in self._learnt.values() for path in one.dotenv}
        return Known(found.verdicts, {**found.marked, **self._broken}, {path: digest(path) for path in files})

    def _decide(self, wanted: Wanted) -> Decision:
        if self._pools is None:
            self._pools = warmth.pools(learnt for agent, learnt in self._learnt.items() if agent in self._wanted)
        mine = self._learnt.get(wanted.agent)
        found = warmth.decide(wanted, mine, self._pools, self._known(wanted), self._most)
        self._keys[wanted.agent] = found.template.key if found.template is not None else None
        return found

    def _decisions(self) -> dict[str, Decision]:
        return {agent: self._decide(wanted) for agent, wanted in self._wanted.items()}

    def _served_by(self, key: str) -> tuple[str, ...]:
        """As it was last decided: `ps` must not have to think."""
        return tuple(agent for agent in self._wanted if self._keys.get(agent) == key)

    # ---- ahead of need -----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._quiet()
            if self._shelf.mistake is not None:
                raise self._shelf.mistake
            self._tend()

    async def _quiet(self) -> None:
        """Returns when nothing has been started for a while."""
        while True:
            await self._nobody_starts.wait()
            rest = self._last_start + QUIET - self._loop.time()
            if rest <= 0:
                return
            await asyncio.sleep(rest)

    def _tend(self) -> None:
        """One step towards what should be there. Each process that is warm, or fails, stirs again."""
        shelf = self._shelf
        self._store.look_again()
        self._learn_from_templates()
        shelf.take_over()
        self._explain_failures()
        decisions = self._decisions()
        templates = warmth.templates(decisions, self._recency)
        spared = warmth.spared(decisions, self._recency, self._most)
        shelf.keep_only(templates, spared)
        if shelf.warming() or is_short():
            return
        for key, recipe in templates.items():
            if key not in shelf.templates or not warmth.serves(shelf.templates[key].recipe, recipe):
                self._make_template(recipe, Priority.LATER)
                return
        for agent in spared:
            if self._lacks_spare(agent, decisions[agent]):
                self._make_spare(agent, decisions[agent])
                return

    def _learn_from_templates(self) -> None:
        """What their imports looked at is what any import of the same looks at."""
        for made in self._shelf.everything():
            seen = warmth.learn_names(made.recipe, self._learnt, made.process.names, made.process.dotenv)
            for agent, learnt in seen.items():
                self._learn(agent, learnt)

    def _lacks_spare(self, agent: str, decision: Decision) -> bool:
        if decision.spare is None or self._deaths.get(_spare_of(agent), 0) >= MOST_DEATHS:
            return False
        made = self._shelf.spares.get(agent)
        return made is None or not warmth.serves(made.recipe, decision.spare)

    def _make_template(self, recipe: Recipe, priority: Priority) -> None:
        agents = [self._wanted[agent] for agent in self._served_by(recipe.key)]
        environ = warmth.common_environ(wanted.environ for wanted in agents)
        folders = {wanted.directory for wanted in agents}
        program = _interpreter(recipe, environ, folders.pop() if len(folders) == 1 else "/")
        try:
            self._shelf.make_template(recipe, program, priority)
        except (SpawnError, OSError) as error:
            self._broken[recipe.key] = f"no template can be started: {error}"

    def _make_spare(self, agent: str, decision: Decision) -> None:
        assert decision.spare is not None
        wanted = self._wanted[agent]
        program = _interpreter(decision.spare, warmth.common_environ([wanted.environ]), wanted.directory)
        try:
            self._shelf.make_spare(agent, decision.spare, program)
        except (SpawnError, OSError):
            self._count_death(_spare_of(agent))

    # ---- what did not come to be -------------------------------------------------------------------------------------

    def _explain_failures(self) -> None:
        for made in self._shelf.failed_templates():
            self._template_failed(made)
        for agent, made in self._shelf.failed_spares():
            self._count_death(_spare_of(agent))
            if made.process.milliseconds is None:
                self._try_alone(made)

    def _template_failed(self, made: Made) -> None:
        key, process = made.recipe.key, made.process
        if process.milliseconds is not None and process.state == "over":
            if self._count_death(key) >= MOST_DEATHS:
                self._broken[key] = f"its template does not live: {process.why}"
        elif not self._blame(made.recipe, warmth.blamed(process.blamed, process.why, spare=process.state != "over")):
            self._try_alone(made)

    def _count_death(self, key: str) -> int:
        self._deaths[key] = self._deaths.get(key, 0) + 1
        return self._deaths[key]

    def _try_alone(self, made: Made) -> None:
        """W2, in the background; until then there is no such template."""
        why = made.process.why
        self._broken[made.recipe.key] = f"{why}; its packages are being tried one by one"
        self._judge.ask(made.recipe, made.process.child.program.environ, why)

    def _spawn_judge(self, program: Program) -> WarmProcess:
        return self._shelf.spawn(program, (), Priority.IDLE, forks=False)

    def _judged(self, recipe: Recipe, why: str, verdicts: Mapping[str, Verdict]) -> None:
        if self._blame(recipe, verdicts):
            self._broken.pop(recipe.key, None)
        else:
            self._broken[recipe.key] = why
        self._stirred.set()

    def _blame(self, recipe: Recipe, verdicts: Mapping[str, Verdict]) -> bool:
        """Whether that changes what such a template is made of."""
        learnt = next((one for one in self._learnt.values() if one.python == recipe.base.python), None)
        if learnt is None or not verdicts:
            return False
        self._findings(learnt).verdicts.update(verdicts)
        self._store.keep_findings(learnt.python, learnt.places)
        return any(verdicts[name].way != "fork" for name in recipe.base.packages & verdicts.keys())


def _interpreter(recipe: Recipe, environ: Mapping[str, str], directory: str) -> Program:
    return Program((recipe.base.python, *recipe.base.flags), environ, Path(directory))


def _spare_of(agent: str) -> str:
    return f"spare of {agent}"


def _status(kind: str, made: Made, agents: tuple[str, ...]) -> WarmStatus:
    return WarmStatus(kind, made.process.pid, made.state, agents, len(made.process.modules))
