"""The whole mesh: builds registry, agents and watching, orders their starts, stops in reverse, and answers for them.

Decides as little as possible: what one agent does is lifecycle.py, what a save concerns is impact.py, what mesh.toml
changes is difference.py. Here is who must be told.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh_supervisor.agent import AgentTask, Slots
from mesh_supervisor.enrolment import Enrolment
from mesh_supervisor.environment import PRIVATE
from mesh_supervisor.errors import MeshError, PortTaken
from mesh_supervisor.events import Bus, EventKind, Reload, event
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.inputs import InputFinder
from mesh_supervisor.host.instance import Watchers
from mesh_supervisor.host.logs import LogHub
from mesh_supervisor.host.ports import free_port, holder_of
from mesh_supervisor.host.projects import project_roots
from mesh_supervisor.host.spawn import Swept
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.watch import Watcher
from mesh_supervisor.launcher import (
    AgentLauncher,
    AgentPreparation,
    Ground,
    Preparation,
    RegistryPreparation,
)
from mesh_supervisor.lifecycle import (
    Agent,
    Blocked,
    Cause,
    DependencyReady,
    Order,
    Phase,
    Policy,
    Report,
    RestartAsked,
    Unwanted,
    Verdict,
    Wanted,
    Wish,
    phase,
    verdict_down,
)
from mesh_supervisor.ordering import start_levels, with_dependencies
from mesh_supervisor.registry.client import RegistryClient
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import (
    AgentSpec,
    Backoff,
    CommandLine,
    Condition,
    Dependency,
    HttpProbe,
    MeshSpec,
    Mode,
    ReadyCheck,
    StopRule,
)

REGISTRY = "registry"
REGISTRY_PORTS = range(8000, 8100)
GOODBYE = 2.0
"""Seconds for the last withdrawals; leases end what cannot be said any more."""


@dataclass(slots=True)
class Member:
    """One agent of the mesh, or the registry: its task, its launcher, and what is told about it."""

    task: AgentTask
    launcher: AgentLauncher
    preparation: Preparation
    last: str = ""
    status: str = ""
    blocked: tuple[str, ...] | None = None
    runner: asyncio.Task[None] | None = None
    cpu_seen: tuple[float, float] | None = None  # (loop time, seconds of CPU) of the last look

    @property
    def spec(self) -> AgentSpec:
        return self.launcher.spec

    @property
    def state(self) -> Agent:
        return self.task.state


@dataclass(slots=True)
class Outputs:
    """Where what is to be known goes."""

    hub: LogHub
    bus: Bus
    hide: Callable[[str], str] = field(default=lambda text: text)


class Supervisor:
    """``run`` until ``over`` is set (a command, a signal, an essential agent); ``exit_code`` is then what `up` says."""

    def __init__(self, mesh: MeshSpec, state: StateDir, outputs: Outputs) -> None:
        self.mesh, self.state, self.outputs = mesh, state, outputs
        self.shell = {key: value for key, value in os.environ.items() if key not in PRIVATE}
        self.registry_url = self._registry_url(mesh)
        self.client = RegistryClient(self.registry_url)
        self.enrolment = Enrolment(self.client, state.owner, self._registry_news)
        self.ignore = Ignore([mesh.root, *mesh.watch.roots], mesh.watch.ignore, state_dir=state.path)
        self.finder = InputFinder(mesh.root, self.ignore, self.shell, mesh.watch.roots)
        self.selection = Selection(
            mesh.root,
            self.finder,
            self.ignore,
            post=lambda name, happened: self.members[name].task.post(happened),
            configured=self._config_changed,
            inputs_changed=self.inputs_changed,
            say=self.say,
        )
        self.ground = Ground(mesh, state, self.shell, self.registry_url, self.enrolment, self.selection, self.finder)
        self.slots = Slots(mesh.parallel_starts)
        self.members: dict[str, Member] = {}
        self.watcher: Watcher | None = None
        self.started_at = time.time()
        self.exit_code = 0
        self.interrupted = False
        self.config_error: str | None = None
        self.on_config: Callable[[], Awaitable[None]] | None = None
        self.over = asyncio.Event()
        self._hurried = False
        self._all_ready = False
        self._tasks: asyncio.TaskGroup | None = None
        self._update_due = False

    # ---- running -----------------------------------------------------------------------------------------------------

    async def run(self, names: Collection[str], profiles: Collection[str]) -> int:
        """Starts what is wanted, and stops all of it when ``over`` is set. Returns the exit code of `up`."""
        async with asyncio.TaskGroup() as self._tasks:
            keepers = [self._tasks.create_task(self.selection.run()), self._tasks.create_task(self.enrolment.run())]
            self._add_registry()
            for spec in self.mesh.agents.values():
                self.add(spec)
            self.start_watching()
            await self._say_interpreters()
            self.outputs.bus.publish(event(EventKind.MESH_STARTED, f"mesh {self.mesh.name} started"))
            self.want(self.chosen(names, profiles))
            await self.over.wait()
            await self._wind_up(keepers)
        return self.exit_code

    async def _say_interpreters(self) -> None:
        """Which Python runs whom, and why that one: a wrong guess is the commonest reason of a missing module."""
        users: dict[str, list[str]] = {}
        for name, spec in self.mesh.agents.items():
            found = await self.finder.interpreter_of(spec)
            if not isinstance(spec.command, CommandLine) or found.virtual_env is not None:
                users.setdefault(f"{found.python} ({found.why})", []).append(name)
        for python, names in users.items():
            whom = f" for {', '.join(names)}" if len(users) > 1 else ""
            self.say(f"python: {python}{whom}")

    async def _wind_up(self, keepers: Iterable[asyncio.Task[None]]) -> None:
        if self.watcher is not None:
            self.watcher.stop()
        await self._stop_all()
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
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
            await asyncio.gather(*(self.stop(name) for name in level if name in self.members))
        await asyncio.gather(*(self.stop(name) for name in self.members if name != REGISTRY))
        await self.enrolment.farewell(GOODBYE if self.registry_serves() else 0.0)
        if REGISTRY in self.members:
            await self.stop(REGISTRY)

    def finish(self, exit_code: int = 0) -> None:
        """Stop the mesh; asked twice: without grace."""
        if self.over.is_set():
            self.hurry()
            return
        self.exit_code = exit_code
        self.say("stopping; asked once more, at once")
        self.over.set()

    def hurry(self) -> None:
        """No more grace for anybody."""
        if not self._hurried:
            self.say("stopping at once")
        self._hurried = True
        for member in self.members.values():
            member.task.hurry()

    # ---- members -----------------------------------------------------------------------------------------------------

    def add(self, spec: AgentSpec) -> None:
        preparation = AgentPreparation(self.ground, lambda text: self.say(f"{spec.name}: {text}"))
        self.selection.track(spec, enabled=spec.name not in self.state.unwatched())
        self._enter(spec, preparation, policy_of(spec, self.mesh.mode))

    def _enter(self, spec: AgentSpec, preparation: Preparation, policy: Policy) -> None:
        name = spec.name
        watchers = Watchers(
            line=self.outputs.hub.publish,
            slow=lambda text: self.say(f"{name}: {text}"),
            status=lambda text: self._status(name, text),
            swept=lambda swept: self._swept(name, swept),
        )
        launcher = AgentLauncher(spec, preparation, self.state, watchers, asyncio.get_running_loop().time)
        task = AgentTask(
            name,
            policy,
            launcher,
            launcher,
            self.slots,
            report=lambda report: self._report(name, report),
            changed=lambda before, after: self._changed(name, before, after),
            give_up=lambda reason: self._give_up(name, reason),
            state=Agent(generation=self.state.last_generation(name)),
        )
        member = self.members[name] = Member(task, launcher, preparation)
        member.runner = self._spin(task.run())

    async def remove(self, name: str) -> None:
        """No longer in mesh.toml: stop it, then forget it."""
        await self.stop(name)
        member = self.members.pop(name)
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

    def want(self, names: Iterable[str]) -> None:
        """In the order of dependencies; those that must wait do so by themselves."""
        wanted = set(names)
        for level in start_levels(self.mesh.agents):
            for name in level:
                if name in wanted:
                    self._tell_blocked(name)
                    self.members[name].task.post(Wanted())

    async def stop(self, name: str) -> Verdict:
        return await self.members[name].task.ask(Unwanted(), verdict_down)

    # ---- the registry ------------------------------------------------------------------------------------------------

    def _registry_url(self, mesh: MeshSpec) -> str:
        spec = mesh.registry
        if spec.kind == "external":
            assert spec.url is not None  # config.py asks for it
            return spec.url.rstrip("/")
        return f"http://{_told_host(mesh)}:{self._registry_port(mesh)}"

    @staticmethod
    def _registry_port(mesh: MeshSpec) -> int:
        """Raises PortTaken when a port that was given belongs to somebody else."""
        spec, host = mesh.registry, _registry_host(mesh)
        if spec.strict or spec.kind == "command":
            holder = holder_of(spec.port, host)
            if holder is not None:
                raise PortTaken(REGISTRY, spec.port, holder)
            return spec.port
        promised = {agent.port for agent in mesh.agents.values() if agent.port}
        return free_port([port for port in REGISTRY_PORTS if port not in promised], taken=promised)

    def _add_registry(self) -> None:
        kind = self.mesh.registry.kind
        if kind == "external":
            self.enrolment.registry_came_back()
            return
        port = int(self.registry_url.rpartition(":")[2])
        argv, environ = self._registry_program(port)
        spec = AgentSpec(
            REGISTRY,
            CommandLine(argv),
            self.state.path if kind == "embedded" else self.mesh.root,
            port=port,
            host=_registry_host(self.mesh),
            ready=ReadyCheck(HttpProbe("/health"), interval=0.25),
            start_timeout=30,
            watch=False,
            backoff=Backoff(initial=0.2, max=5),
            stop=StopRule(timeout=3),
        )
        self._enter(spec, RegistryPreparation(argv, environ), policy_of(spec, Mode.PROD))
        self.members[REGISTRY].task.post(Wanted())

    def _registry_program(self, port: int) -> tuple[tuple[str, ...], dict[str, str]]:
        spec, host = self.mesh.registry, _registry_host(self.mesh)
        if spec.kind == "command":
            return spec.command, {**self.shell, "HOST": host, "PORT": str(port)}
        store = str(self.state.path / "registry.db")
        argv = [sys.executable, "-P", "-m", "mesh_supervisor.registry", "--host", host, "--port", str(port)]
        return (*argv, "--store", store, "--allow-host", self.mesh.advertise), dict(self.shell)

    def registry_serves(self) -> bool:
        if self.mesh.registry.kind == "external":
            return self.enrolment.trouble is None
        member = self.members.get(REGISTRY)
        return member is not None and member.state.serving is not None

    def _registry_news(self, about: str, text: str) -> None:
        kind = EventKind.REGISTRY if about == REGISTRY else EventKind.REGISTERED
        agent = None if about == REGISTRY else about
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
        """After every step of an agent: who waits for it, and who should try again."""
        if phase(before) is phase(after) and before.serving == after.serving and before.incoming == after.incoming:
            return
        became_ready = after.serving is not None and after.serving != before.serving
        if name == REGISTRY:
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
        if member.state.wish is Wish.DOWN or name == REGISTRY:
            return
        member.task.post(DependencyReady())
        again = after.serving is not None and after.serving.start.cause is not Cause.START
        if again and any(d.agent == name and d.restart for d in member.spec.depends_on):
            member.task.post(RestartAsked(f"{name} was started again"))

    # ---- news --------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """To the log, for people."""
        self.outputs.hub.say(self.outputs.hide(text))

    def _status(self, name: str, text: str) -> None:
        self.members[name].status = text

    def _swept(self, name: str, swept: list[Swept]) -> None:
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in swept)
        alive = [str(one.pid) for one in swept if not one.killed]
        text = f"left behind by {name}, killed: {names}" + (f"; could not kill {', '.join(alive)}" if alive else "")
        self.say(text)
        self.outputs.bus.publish(event(EventKind.SWEPT, text, agent=name, pids=[one.pid for one in swept]))

    def _give_up(self, name: str, reason: str) -> None:
        self.say(f"{name} is essential and {reason}: the mesh stops")
        self.finish(1)

    def _report(self, name: str, report: Report) -> None:
        member = self.members[name]
        text = self.outputs.hide(report.text)
        member.last = _last_words(report.kind, text, report.seconds)
        line = _LINES.get(report.kind)
        if report.kind in ("reload-completed", "reload-rejected") or self._was_reload(member, report):
            self._report_reload(name, member, report, text)
        elif line is not None and not self.over.is_set():
            self.say(line(name, text, report))
        if report.kind in ("ready", "reload-completed"):
            member.status = ""
        if report.kind in _KINDS:
            details = {"generation": report.generation}
            if report.seconds is not None:
                details["seconds"] = round(report.seconds, 3)  # type: ignore[assignment]
            self.outputs.bus.publish(event(_KINDS[report.kind], text, agent=name, **details))

    @staticmethod
    def _was_reload(member: Member, report: Report) -> bool:
        """A crash of an instance that a reload had started and that never got ready is a reload that failed."""
        start = member.launcher.starts.get(report.generation)
        serving = member.state.serving
        never_ready = serving is None or serving.generation != report.generation
        return report.kind == "crashed" and start is not None and start.cause is Cause.RELOAD and never_ready

    def _report_reload(self, name: str, member: Member, report: Report, text: str) -> None:
        outcome = {"reload-completed": "completed", "reload-rejected": "rejected"}.get(report.kind, "failed")
        start, phases = member.launcher.starts.get(report.generation), member.launcher.phases
        now = asyncio.get_running_loop().time()
        asked_at = start.asked_at if start is not None and outcome != "rejected" else now
        spans = {}
        if phases is not None and outcome != "rejected":
            spans = {
                "stop": 1000 * (phases.launched_at - phases.asked_at),
                "start": 1000 * (phases.spawned_at - phases.launched_at),
                "ready": 1000 * (now - phases.spawned_at),
            }
        record = Reload(
            outcome=outcome,
            trigger="save" if start is None or outcome == "rejected" else _trigger(start.reason),
            reason=start.reason if start is not None and outcome != "rejected" else text,
            generation=report.generation,
            previous=report.generation - 1 if outcome != "rejected" else None,
            phases_ms=spans,
            total_ms=1000 * (now - asked_at),
            error=None if outcome == "completed" else text,
        )
        self.outputs.bus.publish(record.as_event(name))
        self.say(record.sentence(name))

    # ---- watching ----------------------------------------------------------------------------------------------------

    def start_watching(self) -> None:
        if not self.mesh.watch.enabled or self.watcher is not None:
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
        self._spin(self._watch_further())

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

    def retune_mesh(self) -> None:
        """What a changed mesh.toml says of the mesh itself, as far as it can change while it runs."""
        self.slots.resize(self.mesh.parallel_starts)
        if self.watcher is not None:
            self.watcher.debounce = self.mesh.watch.debounce
        if self.watcher is not None and not self.mesh.watch.enabled:
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

    def why_not(self, path: Path) -> str:
        """In words, why a file concerns nobody."""
        if not path.exists():
            return "there is no such file"
        if self.ignore.user_ignored(path):
            return "watch.ignore or .meshwatch excludes it"
        if not any(path.is_relative_to(root) for root in (self.mesh.root, *self.mesh.watch.roots)):
            return "it lies outside mesh.toml's folder and watch.roots"
        return "nobody imports it, and no watch glob matches it"

    def warnings(self) -> tuple[str, ...]:
        """What should not be overlooked, for `ps` and `up`."""
        found = [*self.mesh.warnings, *self.ignore.warnings]
        off = sorted(self.state.unwatched() & self.members.keys())
        if off:
            found.append(f"not watched (switched off by hand): {', '.join(off)}; `meshsup watch enable` undoes it")
        if self.enrolment.trouble is not None:
            found.append(f"registry: {self.enrolment.trouble}")
        return tuple(found)


def policy_of(spec: AgentSpec, mode: Mode) -> Policy:
    """stop-first for all: two generations side by side need the runtime inside the agent."""
    return Policy(
        restart=spec.restart,
        backoff=spec.backoff,
        crashloop=spec.crashloop,
        kind=spec.kind,
        order=Order.STOP_FIRST,
        dev=mode is Mode.DEV,
        essential=spec.essential,
    )


def _told_host(mesh: MeshSpec) -> str:
    """The host under which agents reach the registry."""
    return mesh.advertise


def _registry_host(mesh: MeshSpec) -> str:
    """It listens on loopback unless others are told to come from elsewhere."""
    return "127.0.0.1" if mesh.advertise in ("127.0.0.1", "localhost") else "0.0.0.0"


def _trigger(reason: str) -> str:
    if reason.startswith("mesh.toml"):
        return "config"
    return "command" if reason.startswith("asked") else "save"


def _last_words(kind: str, text: str, seconds: float | None) -> str:
    if kind in ("ready", "reload-completed"):
        return f"{'reloaded' if kind == 'reload-completed' else 'ready'} in {seconds or 0:.2f}s"
    if kind in ("backoff", "crashloop"):
        return text
    return text if kind in ("crashed", "failed") else f"{kind.replace('-', ' ')}: {text}"


_LINES: Mapping[str, Callable[[str, str, Report], str]] = {
    "ready": lambda name, text, r: f"{name} is ready in {r.seconds or 0:.2f}s (generation {r.generation})",
    "crashed": lambda name, text, r: f"{name} crashed: {text}",
    "backoff": lambda name, text, r: f"{name} is started again in {r.seconds or 0:.1f}s",
    "crashloop": lambda name, text, r: (
        f"{name} is in a crash loop: next try in {r.seconds or 0:.0f}s, "
        f"or at once on an edit or `meshsup restart {name}`"
    ),
    "failed": lambda name, text, r: f"{name} failed: {text}; it waits for an edit or `meshsup start {name}`",
    "done": lambda name, text, r: f"{name} is done",
    "reload-started": lambda name, text, r: f"Reloading {name} ({text})",
    "reload-undone": lambda name, text, r: f"{name}: {text}",
    "stopped": lambda name, text, r: f"{name} {text}",
}

_KINDS: Mapping[str, EventKind] = {
    "ready": EventKind.READY,
    "crashed": EventKind.CRASHED,
    "crashloop": EventKind.CRASHLOOP,
    "failed": EventKind.FAILED,
    "not-live": EventKind.NOT_LIVE,
    "done": EventKind.EXITED,
    "stopped": EventKind.STOPPED,
    "reload-started": EventKind.RELOAD_STARTED,
}
