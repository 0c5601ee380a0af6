"""The whole mesh: builds registry, agents and watching, orders their starts, stops in reverse, and answers for them.

Decides as little as possible: what one agent does is lifecycle.py, what a save concerns is impact.py, what mesh.toml
changes is difference.py. Here is who must be told.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh_supervisor.agent import AgentTask, Slots
from mesh_supervisor.enrolment import Enrolment
from mesh_supervisor.environment import PRIVATE
from mesh_supervisor.errors import MeshError, Stopping
from mesh_supervisor.events import EventKind, event
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.inputs import InputFinder
from mesh_supervisor.host.instance import Watchers
from mesh_supervisor.host.memory import OutOfMemory
from mesh_supervisor.host.projects import project_roots
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.surroundings import missing
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.host.warm import Warmth
from mesh_supervisor.host.watch import Watcher
from mesh_supervisor.launcher import (
    AgentLauncher,
    AgentPreparation,
    Ground,
    Preparation,
)
from mesh_supervisor.lifecycle import (
    Agent,
    Blocked,
    Cause,
    DependencyReady,
    Event,
    Exit,
    InputsChanged,
    Phase,
    RestartAsked,
    Unwanted,
    Verdict,
    Wanted,
    Wish,
    hold,
    phase,
    verdict_down,
)
from mesh_supervisor.member import REGISTRY, Member, policy_of
from mesh_supervisor.news import News, Outputs
from mesh_supervisor.ordering import start_levels, with_dependencies
from mesh_supervisor.registry.client import RegistryClient
from mesh_supervisor.registry_process import registry_process, registry_url
from mesh_supervisor.selection import Selection
from mesh_supervisor.single import exit_code_of
from mesh_supervisor.spec import (
    AgentSpec,
    CommandLine,
    Condition,
    Dependency,
    MeshSpec,
    Mode,
)
from mesh_supervisor.warmth import SPARES

GOODBYE = 2.0
"""Seconds for the last withdrawals; leases end what cannot be said any more."""


class Supervisor:
    """``run`` until ``over`` is set (a command, a signal, an essential agent); ``exit_code`` is then what `up` says."""

    def __init__(self, mesh: MeshSpec, state: StateDir, outputs: Outputs) -> None:
        self.mesh, self.state, self.outputs = mesh, state, outputs
        self.over = asyncio.Event()
        self.news = News(outputs, self.over.is_set, mesh.alone)
        self.shell = {key: value for key, value in os.environ.items() if key not in PRIVATE}
        self.registry_url = registry_url(mesh)
        self.client = RegistryClient(self.registry_url)
        self.enrolment = Enrolment(self.client, state.owner, self._registry_news)
        self.ignore = Ignore([mesh.root, *mesh.watch.roots], mesh.watch.ignore, state_dir=mesh.state_dir)
        self.finder = InputFinder(mesh.root, self.ignore, self.shell, mesh.watch.roots)
        self.selection = Selection(
            mesh.root,
            self.finder,
            self.ignore,
            post=self._post,
            configured=self._config_changed,
            inputs_changed=self.inputs_changed,
            say=self.say,
            traces=Traces(state.path),
        )
        self.memory = OutOfMemory(self.say)
        self.warmth = Warmth(
            state.owner,
            state.path / "warm",
            line=outputs.hub.publish,
            say=self.say,
            memory=self.memory,
            spares=SPARES if mesh.mode is Mode.DEV else 0,
        )
        self.ground = Ground(
            mesh, state, self.shell, self.registry_url, self.enrolment, self.selection, self.finder, self.warmth
        )
        self.slots = Slots(mesh.parallel_starts)
        self.members: dict[str, Member] = {}
        self.watcher: Watcher | None = None
        self.started_at = time.time()
        self.profiles: frozenset[str] = frozenset()
        self.coming: set[str] = set()
        """What `up` was asked for and has not come to: who looks meanwhile must not think that nothing is wanted."""
        self.exit_code = 0
        self.gave_up: str | None = None  # which essential agent ended the mesh, and why
        self.config_error: str | None = None
        self.on_config: Callable[[], Awaitable[None]] | None = None
        self._hurried = False
        self._keepers: list[asyncio.Task[None]] = []
        self._all_ready = False
        self._tasks: asyncio.TaskGroup | None = None
        self._update_due = False

    @property
    def begun(self) -> bool:
        """Whether ``run`` is under way. Before that nothing can be said about its members."""
        return self._tasks is not None

    # ---- running -----------------------------------------------------------------------------------------------------

    async def run(self, names: Collection[str], profiles: Collection[str]) -> int:
        """Starts what is wanted, and stops all of it when ``over`` is set. Returns the exit code of `up`."""
        self.profiles = frozenset(profiles)
        chosen = self.chosen(names, profiles)
        self.coming.update(chosen)
        async with asyncio.TaskGroup() as self._tasks:
            keepers = (self.selection.run(), self.enrolment.run(), self.warmth.run())
            self._keepers = [self._spin(keeper) for keeper in keepers]
            if not self.over.is_set():
                self._add_registry()
                for spec in self.mesh.agents.values():
                    self.add(spec)
                self._keepers.append(self._spin(self._begin(chosen)))
            await self.over.wait()
            await self._wind_up(self._keepers)
        return self.exit_code

    async def _begin(self, chosen: list[str]) -> None:
        """Beside ``run``, which is told to stop while this still asks interpreters."""
        await self._say_interpreters()
        self.outputs.bus.publish(event(EventKind.MESH_STARTED, f"mesh {self.mesh.name} started"))
        await self._expect(chosen)
        self.want(chosen)
        if REGISTRY not in self.members:
            self.start_watching()

    async def _expect(self, names: Iterable[str]) -> None:
        """What was learnt in earlier runs is imported while the registry starts."""
        found = []
        for name in names:
            member = self.members.get(name)  # mesh.toml may be applied while another one is looked at
            if member is not None and isinstance(member.preparation, AgentPreparation):
                found.append(await member.preparation.wanted(member.spec))
        self.warmth.expect([one for one in found if one is not None and one.agent in self.members])

    async def _say_interpreters(self) -> None:
        """Which Python runs whom, and why that one: a wrong guess is the commonest reason of a missing module."""
        users: dict[str, list[str]] = {}
        for name, spec in self.mesh.agents.items():
            found = await self.finder.interpreter_of(spec)
            if not isinstance(spec.command, CommandLine) or found.virtual_env is not None or found.passed_over:
                users.setdefault(f"{found.python} ({found.why})", []).append(name)
        for python, names in users.items():
            whom = f" for {', '.join(names)}" if len(users) > 1 else ""
            self.say(f"python: {python}{whom}")

    async def _wind_up(self, keepers: Iterable[asyncio.Task[None]]) -> None:
        # First what could start something: no save and no mesh.toml counts any more.
        if self.watcher is not None:
            self.watcher.stop()
        await _cancelled(keepers)
        await self._stop_all()
        await self.warmth.close()
        await self.client.aclose()
        self.outputs.bus.publish(event(EventKind.MESH_STOPPED, f"mesh {self.mesh.name} stopped"))
        for member in self.members.values():
            if member.runner is not None:
                member.runner.cancel()

    async def _stop_all(self) -> None:
        """In the reverse order of starting, within ``stop_timeout`` seconds; then whatever is left is killed."""
        try:
            async with asyncio.timeout(self.mesh.stop_timeout):
                await self._stop_in_order()
        except TimeoutError:
            self.say(f"not everything stopped within {self.mesh.stop_timeout:g} s; the rest is killed")
            self.hurry()
            await self._stop_in_order()

    async def _stop_in_order(self) -> None:
        for level in reversed(start_levels(self.mesh.agents)):
            await asyncio.gather(*map(self.stop, level))
        await asyncio.gather(*(self.stop(name) for name in self.members if name != REGISTRY))
        await self.enrolment.farewell(self._patience_for_goodbyes())
        await self.stop(REGISTRY)

    def _patience_for_goodbyes(self) -> float:
        """Less when the time for stopping is over: an engine kills us soon."""
        if not self.registry_serves():
            return 0.0
        return GOODBYE / 4 if self._hurried else GOODBYE

    def finish(self, exit_code: int = 0, why: str = "") -> None:
        """Stop the mesh; asked twice: without grace. ``why``: who asks, in a word."""
        if self.over.is_set():
            self.hurry()
            return
        self.exit_code = exit_code
        self.say(f"{why and why + ': '}stopping; asked once more, at once")
        self.over.set()

    def check_going(self) -> None:
        """Raises Stopping. For who has waited for something, and is about to begin something else."""
        if self.over.is_set():
            raise Stopping

    def hurry(self) -> None:
        """No more grace for anybody."""
        if not self._hurried:
            self.say("stopping at once")
        self._hurried = True
        for member in self.members.values():
            member.task.post(Unwanted())  # what is killed now must not count as a crash that wants a restart
            member.task.hurry()

    # ---- members -----------------------------------------------------------------------------------------------------

    def add(self, spec: AgentSpec) -> None:
        preparation = AgentPreparation(self.ground, lambda text: self.say(f"{spec.name}: {text}"))
        self.selection.track(spec, enabled=spec.name not in self.state.unwatched())
        self._enter(spec, preparation, self.mesh.mode)

    def _enter(self, spec: AgentSpec, preparation: Preparation, mode: Mode) -> None:
        name = spec.name
        watchers = Watchers(
            line=self.outputs.hub.publish,
            slow=lambda text: self.say(f"{name}: {text}"),
            status=lambda text: self._status(name, text),
            swept=lambda swept: self.news.swept(name, swept),
            memory=self.memory,
        )
        launcher = AgentLauncher(
            spec,
            preparation,
            self.state,
            watchers,
            asyncio.get_running_loop().time,
            reorder=lambda: self._reorder(name),
        )
        task = AgentTask(
            name,
            policy_of(spec, mode, launcher.order),
            launcher,
            launcher,
            self.slots,
            report=lambda report: self.news.report(self.members[name], report),
            changed=lambda before, after: self._changed(name, before, after),
            give_up=lambda reason: self._give_up(name, reason),
            over=self.over.is_set,
            state=Agent(generation=self.state.last_generation(name)),
        )
        member = self.members[name] = Member(task, launcher, preparation)
        member.runner = self._spin(task.run())

    def _reorder(self, name: str) -> None:
        """Whether the next generation may live beside this one is known anew."""
        task, launcher = self.members[name].task, self.members[name].launcher
        task.policy = replace(task.policy, order=launcher.order)

    async def remove(self, name: str) -> None:
        """No longer in mesh.toml: stop it, then forget it all over in the same moment: others may stop for longer, and
        commands come meanwhile."""
        self.members[name].task.over = lambda: True  # also who starts it meanwhile would start what nobody ends
        await self.stop(name)
        member = self.members.pop(name)
        others = {other: spec for other, spec in self.mesh.agents.items() if other != name}
        self.mesh = self.ground.mesh = replace(self.mesh, agents=others)
        self.coming.discard(name)
        if member.runner is not None:
            member.runner.cancel()
        self.selection.forget(name)

    def chosen(self, names: Collection[str], profiles: Collection[str]) -> list[str]:
        """What `up` means: those named with what they depend on, else all without a profile or with a chosen one."""
        if names:
            return with_dependencies(self.mesh.agents, names)
        wanted = [
            name for name, spec in self.mesh.agents.items() if not spec.profiles or set(spec.profiles) & set(profiles)
        ]
        return with_dependencies(self.mesh.agents, wanted)

    def want(self, names: Collection[str]) -> None:
        """In the order of dependencies; those that must wait do so by themselves."""
        wanted = self.members.keys() & names  # mesh.toml may have been applied since they were chosen
        for level in start_levels(self.mesh.agents):
            for name in level:
                if name in wanted and (held := self.members[name].held) is not None:
                    held.afterwards = held.afterwards or Wanted()
                    self.coming.discard(name)
                elif name in wanted:
                    self._tell_blocked(name)
                    self.members[name].task.post(Wanted())

    async def stop(self, name: str) -> Verdict:
        member = self.members.get(name)
        if member is None:  # removed since it was to be stopped, or never added
            return Verdict(True, "stopped")
        return await member.task.ask(Unwanted(), verdict_down)

    # ---- the registry ------------------------------------------------------------------------------------------------

    def _add_registry(self) -> None:
        if self.mesh.registry.kind == "none":
            return
        if self.mesh.registry.kind == "external":
            self.enrolment.registry_came_back()
            return
        spec, preparation = registry_process(self.mesh, self.state, self.registry_url, self.shell)
        self._enter(spec, preparation, Mode.PROD)
        self.members[REGISTRY].task.post(Wanted())

    def registry_serves(self) -> bool:
        if self.mesh.registry.kind == "external":
            return self.enrolment.trouble is None
        member = self.members.get(REGISTRY)
        return member is not None and member.state.serving is not None

    def _registry_news(self, about: str, text: str) -> None:
        kind = EventKind.REGISTRY if about == REGISTRY else EventKind.REGISTERED
        agent = None if about == REGISTRY else about
        text = self.outputs.hide(text)  # a URL may hold a password
        self.outputs.bus.publish(event(kind, text, agent=agent))
        if about == REGISTRY:
            self.say(f"registry: {text}")

    # ---- dependencies ------------------------------------------------------------------------------------------------

    def _unmet(self, name: str) -> tuple[str, ...]:
        waits = [dependency.agent for dependency in self.members[name].spec.depends_on if not self._met(dependency)]
        return (REGISTRY, *waits) if self._registry_is_coming() else tuple(waits)

    def _registry_is_coming(self) -> bool:
        """Agents wait for its first health (an SDK agent that starts sooner backs off for 8 to 30 s), but not for a
        registry that does not come up."""
        member = self.members.get(REGISTRY)
        return member is not None and phase(member.state) in (Phase.WAITING, Phase.STARTING, Phase.STOPPED)

    def _met(self, dependency: Dependency) -> bool:
        member = self.members.get(dependency.agent)
        if member is None:
            return True
        if member.held is not None:
            return member.held.serves
        if phase(member.state) is Phase.DONE:
            return True
        if dependency.condition is Condition.STARTED:
            return any(instance.spawned_at is not None for instance in member.state.alive)
        return dependency.condition is Condition.READY and member.state.serving is not None

    def _tell_blocked(self, name: str) -> None:
        member, unmet = self.members[name], self._unmet(name)
        if unmet != member.blocked:
            member.blocked = unmet
            member.task.post(Blocked(unmet))

    def _changed(self, name: str, before: Agent, after: Agent) -> None:
        """After every step of an agent: what becomes of its sockets, who waits for it, and who should try again."""
        self.members[name].launcher.hold(hold(after))
        if after.wish is Wish.UP:
            self.coming.discard(name)
        elif before.wish is Wish.UP:
            self.warmth.stopped(name)
        if before.incoming and after.rejection and after.serving and not (after.incoming or after.pending):
            self.selection.rejected(name)
        if phase(before) is phase(after) and before.serving == after.serving and before.incoming == after.incoming:
            return
        if name == self.mesh.alone and after.ended is not None:
            self._end_as(name, after.ended)
        became_ready = after.serving is not None and after.serving != before.serving
        if name == REGISTRY:
            # Not before its process is on its way: watching a large tree takes as long as it takes to start.
            if any(instance.spawned_at is not None for instance in after.alive) or not after.alive:
                self.start_watching()
            if became_ready:
                self.enrolment.registry_came_back()
            elif after.serving is None:
                self.enrolment.registry_went()
            dependents = [other for other in self.members if other != REGISTRY]
        else:
            dependents = [other for other, m in self.members.items() if any(d.agent == name for d in m.spec.depends_on)]
        if became_ready:
            self._say_all_ready()
        for other in dependents:
            self._tell_blocked(other)
            if became_ready:
                self._encourage(other, name, after)

    def tell_dependents(self, name: str) -> None:
        """Of an agent that serves without an instance of ours: it is held."""
        for other, member in self.members.items():
            if any(dependency.agent == name for dependency in member.spec.depends_on):
                self._tell_blocked(other)

    def _say_all_ready(self) -> None:
        """Once per run: the first moment in which everything that is wanted serves."""
        wanted = [m for name, m in self.members.items() if name != REGISTRY and m.state.wish is Wish.UP]
        if self._all_ready or not all(m.state.serving or phase(m.state) is Phase.DONE for m in wanted):
            return
        if len(wanted) > 1:
            self._all_ready = True
            self.say(f"all {len(wanted)} agents are ready, {time.time() - self.started_at:.1f}s after the start")

    def _encourage(self, other: str, name: str, after: Agent) -> None:
        member = self.members[other]
        if member.state.wish is Wish.DOWN or member.held is not None or name == REGISTRY:
            return
        member.task.post(DependencyReady())
        again = after.serving is not None and after.serving.start.cause is not Cause.START
        # What only waited for its first start is not started twice.
        if again and member.state.alive and any(d.agent == name and d.restart for d in member.spec.depends_on):
            member.task.post(RestartAsked(f"{name} was started again"))

    # ---- news --------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """To the log, for people."""
        self.news.say(text)

    def _status(self, name: str, text: str) -> None:
        self.members[name].status = text

    def _give_up(self, name: str, reason: str) -> None:
        self.gave_up = f"{name} is essential and {reason}"
        self.say(f"{self.gave_up}: the mesh stops")
        self.finish(1)

    def _end_as(self, name: str, ended: Exit) -> None:
        """An agent by itself has ended: whether it is started again is for whoever started us to decide."""
        if self.over.is_set():
            return
        code = exit_code_of(ended)
        if code:
            self.gave_up = f"{name} has ended ({ended})"
        self.say(f"this ends with {name}, exit code {code}")
        self.exit_code = code
        self.over.set()

    # ---- watching ----------------------------------------------------------------------------------------------------

    def start_watching(self) -> None:
        if not self.mesh.watch.enabled or self.watcher is not None or self.over.is_set():
            return
        self.watcher = Watcher(
            self.ignore,
            self._batch,
            state_dir=self.state.path,
            debounce=self.mesh.watch.debounce,
            on_notice=lambda text: self.say(f"watching: {text}"),
            relevant=self.selection.relevant,
            folders=self.selection.folders,
        )
        self.watcher.start(project_roots(self.mesh.root, self.mesh.watch.roots), self.selection.files())
        self._keepers.append(self._spin(self._watch_further()))

    async def _watch_further(self) -> None:
        """Editable installs lie where only interpreters know, and asking them takes longer than starting agents. What
        changed there meanwhile is found by content."""
        roots = await self.finder.roots(self.mesh.agents.values())
        if self.watcher is not None and not self.over.is_set():
            self.watcher.update(roots=roots)
            self.selection.batch(self.selection.files())

    def _spin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(work)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on beside the agents, until it ends or the mesh does. Raises Stopping."""
        if self.over.is_set():  # nobody would end it
            work.close()
            raise Stopping
        task = self._spin(work)
        self._keepers.append(task)
        task.add_done_callback(self._keepers.remove)

    def _post(self, name: str, happened: Event) -> None:
        member = self.members[name]
        held = member.held
        if held is not None and held.afterwards is not None and isinstance(happened, InputsChanged):
            self.news.held_back(member, happened.reason)
        if isinstance(happened, InputsChanged):
            self.warmth.edited(name)
        member.task.post(happened)

    def _batch(self, paths: frozenset[Path]) -> None:
        self.selection.batch(paths)

    def inputs_changed(self) -> None:
        """Once per turn of the loop, however many agents learn their inputs in it."""
        if self.watcher is not None and not self._update_due:
            self._update_due = True
            asyncio.get_running_loop().call_soon(self._update_watcher)

    def _update_watcher(self) -> None:
        self._update_due = False
        if self.watcher is not None and not self.over.is_set():
            self.watcher.update(files=self.selection.files())

    async def _config_changed(self) -> None:
        if self.on_config is not None:
            await self.on_config()

    def retune_mesh(self, *, other_places: bool) -> None:
        """What a changed mesh.toml says of the mesh itself, as far as it can change while it runs. ``other_places``:
        it names other roots to watch, or ignores other files."""
        self.slots.resize(self.mesh.parallel_starts)
        self.ignore.rule(self.mesh.watch.ignore)
        self.finder.widen(self.mesh.watch.roots)
        if self.watcher is not None:
            self.watcher.debounce = self.mesh.watch.debounce
        if self.watcher is not None and (other_places or not self.mesh.watch.enabled):
            self.watcher.stop()
            self.watcher = None
        self.start_watching()

    def switch_watching(self, names: Iterable[str], *, on: bool) -> None:
        """Remembered in state_dir. Raises MeshError when it cannot be."""
        off = set(self.state.unwatched())
        off = off - set(names) if on else off | set(names)
        try:
            self.state.keep_unwatched(off)
        except OSError as error:
            raise MeshError(f"cannot remember that in {self.state.path}: {error.strerror}") from error
        for name in names:
            self.selection.agents[name].enabled = on
        self.outputs.bus.publish(event(EventKind.WATCH, f"{'on' if on else 'off'}: {', '.join(sorted(names))}"))

    def watch_status(self) -> dict[str, Any]:
        """The shape of `watch status --json`, without the agents."""
        status = self.watcher.status if self.watcher is not None else None
        return {
            "how": status.how if status is not None else "off",
            "why": status.why if status is not None else self._why_off(),
            "roots": [str(root) for root in status.roots] if status is not None else [],
            "directories": status.directories if status is not None else 0,
            "files": status.files if status is not None else 0,
        }

    def _why_off(self) -> str:
        return "prod mode, --no-watch or watch.enabled = false; `meshsup up --watch` switches it on"

    def warnings(self) -> tuple[str, ...]:
        """What should not be overlooked, for `ps` and `up`."""
        found = [*self.mesh.warnings, *self.ignore.warnings]
        found += [lack] if (lack := missing()) else []
        off = sorted(self.state.unwatched() & self.members.keys())
        if off:
            found.append(f"not watched (switched off by hand): {', '.join(off)}; `meshsup watch enable` undoes it")
        if self.enrolment.trouble is not None:
            found.append(self.outputs.hide(f"registry: {self.enrolment.trouble}"))
        return tuple(found)


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel them and wait until they are over; what went wrong in one of them is the task group's to tell."""
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)
