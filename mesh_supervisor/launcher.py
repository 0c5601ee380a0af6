"""How an instance comes to be: what it is started from, its environment, its port; and its place in the registry.

``AgentLauncher`` is what agent.py calls Launcher and Announcer. What differs between an agent and the registry itself
is behind ``Preparation``.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from mesh_supervisor import environment
from mesh_supervisor.enrolment import Enrolment, announcement_of, registrar_of
from mesh_supervisor.errors import MeshError, NotReady, PortTaken
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.guest import Guest, Told
from mesh_supervisor.host.instance import Enrolled, Instance, Place, Starter, Watchers
from mesh_supervisor.host.interpreter import Interpreter
from mesh_supervisor.host.ports import holder_of
from mesh_supervisor.host.sockets import Held, HeldSockets, listening_on
from mesh_supervisor.host.starting import Begin, Cold, Handing, Plainly, Warmly, wanted_by
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.warm import How, Warmth
from mesh_supervisor.impact import Inputs
from mesh_supervisor.lifecycle import Ended, Hold, Order, Start
from mesh_supervisor.limits import BOUND_BY_US, Limitation, beside_predecessor, limitation
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import AgentSpec, Kind, MeshSpec, Register
from mesh_supervisor.target import Plain, Target, watched_by
from mesh_supervisor.traced import trace_options
from mesh_supervisor.warmth import Wanted, Way


class Interpreters(Protocol):
    """host/inputs.py"""

    async def interpreter_of(self, spec: AgentSpec) -> Interpreter: ...

    def argv_of(self, spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]: ...

    async def roots(self, specs: Iterable[AgentSpec]) -> tuple[Path, ...]:
        """The folders below which files may be inputs of these agents."""
        ...

    async def target_of(self, spec: AgentSpec, interpreter: Interpreter) -> Target | Plain: ...

    async def inputs_of_running(self, spec: AgentSpec, pid: int) -> Inputs | None:
        """For a program whose inputs were not known before it ran; None: still not."""
        ...


@dataclass(frozen=True, slots=True)
class Phases:
    """When (loop time) the steps of one start happened."""

    asked_at: float
    launched_at: float
    spawned_at: float


@dataclass(slots=True)
class Ground:
    """What all agents of a running mesh stand on. ``mesh`` is replaced as a whole when mesh.toml is applied."""

    mesh: MeshSpec
    state: StateDir
    shell: Mapping[str, str]
    registry_url: str
    enrolment: Enrolment
    selection: Selection
    interpreters: Interpreters
    warmth: Warmth


@dataclass(frozen=True, slots=True)
class Standing:
    """What people are told of how an agent is started and reloaded: see AgentView."""

    order: str = ""
    start: str = ""
    runtime: str = ""
    limits: tuple[Limitation, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """The newest instance that served, how it was started, and why without the runtime."""

    instance: LaunchedInstance
    how: How | None
    plain: Plain | None


class Preparation(Protocol):
    """What must be known before an instance can be spawned, and what becomes of it in the registry."""

    async def program(self, spec: AgentSpec, generation: int) -> Program: ...

    async def target(self, spec: AgentSpec) -> Target | Plain:
        """What of Python it runs, for the runtime; or why it runs without."""
        ...

    def starter(self, spec: AgentSpec, target: Target, guest: Guest) -> Starter: ...

    def how(self, spec: AgentSpec) -> How | None:
        """How its newest instance was started; None: as always."""
        ...

    def distrust(self, mark: str, why: str) -> None:
        """This instance did not get ready."""
        ...

    def told(self, spec: AgentSpec, generation: int) -> Told:
        """Who hears what the runtime says of reads and writes."""
        ...

    def enrolled(self, spec: AgentSpec, generation: int) -> Enrolled | None: ...

    def announce(self, spec: AgentSpec, generation: int) -> None: ...

    def withdraw(self, spec: AgentSpec, generation: int) -> None: ...

    async def settled(self, spec: AgentSpec, instance: Instance) -> None:
        """It is ready: what can be known only now."""
        ...

    async def learn_late(self, spec: AgentSpec, instance: Instance) -> None:
        """It has answered requests by now, or will answer no more."""
        ...


@dataclass(slots=True)
class AgentLauncher:
    """``instances`` are those that live, by generation; ``starts`` and ``phases`` (of those that were spawned) of the
    latest generations."""

    spec: AgentSpec
    preparation: Preparation
    state: StateDir
    watchers: Watchers
    now: Callable[[], float]
    reorder: Callable[[], None] = lambda: None
    instances: dict[int, LaunchedInstance] = field(default_factory=dict)
    starts: dict[int, Start] = field(default_factory=dict)
    phases: dict[int, Phases] = field(default_factory=dict)
    sockets: HeldSockets = field(default_factory=HeldSockets)
    alone: str | None = "its first start is not over"
    _served: Served | None = None
    _apart: str | None = None  # why its sockets are not handed over
    _plain: Plain | None = None

    @property
    def order(self) -> Order:
        """Whether the next generation may start beside this one."""
        if self.spec.order != "auto" and self._apart is None:
            return Order(self.spec.order)
        return Order.START_FIRST if self.alone is None else Order.STOP_FIRST

    async def launch(self, generation: int, start: Start) -> LaunchedInstance:
        self.starts = _recent(self.starts, generation) | {generation: start}
        try:
            return await self._launch(generation, start)
        except OSError as error:  # no descriptors or no memory left: that passes, and is no reason to end the mesh
            raise MeshError(f"cannot be started: {error.strerror or error}") from error

    async def _launch(self, generation: int, start: Start) -> LaunchedInstance:
        launched_at = self.now()
        spec = self.spec
        program = await self.preparation.program(spec, generation)
        target = await self.preparation.target(spec)
        self._check_port(spec)
        try:
            self.state.keep_generation(spec.name, generation)
        except OSError as error:
            # A full disk is no reason to have no agent: its predecessor is gone by now. The number is used again only
            # if we end before another one can be written.
            self.watchers.slow(
                f"cannot write {self.state.path}/generations.json: {error.strerror}; started all the same"
            )
        if start.alone:
            self.sockets.release()
        mark = f"{self.state.owner}/{spec.name}/{generation}"
        enrolled = self.preparation.enrolled(spec, generation)
        try:
            guest, starter = self._starter(target, generation)
            handed = starter.held if isinstance(starter, Handing) else None
            instance = LaunchedInstance(spec, mark, generation, self.watchers, enrolled, guest, handed, self)
            await instance.start(program, starter)
        except BaseException:
            self.preparation.withdraw(spec, generation)  # nobody will ever register under this id
            raise
        # Nothing is awaited from the spawn on: a cancelled launch leaves no process.
        self.instances[generation] = instance
        phases = Phases(start.asked_at, launched_at, instance.spawned_at)
        self.phases = _recent(self.phases, generation) | {generation: phases}
        return instance

    def _starter(self, target: Target | Plain, generation: int) -> tuple[Guest | None, Starter]:
        self._plain = target if isinstance(target, Plain) else None
        if self.spec.listen == "fd":
            return None, Handing(self._own_socket())
        if isinstance(target, Plain):
            if not self.instances:
                self.sockets.release()  # it would bind beside what nobody hands over to it
            return None, Plainly()
        told = self.preparation.told(self.spec, generation)
        guest = Guest(self.sockets, told, hands_over=self._apart is None)
        return guest, self.preparation.starter(self.spec, target, guest)

    def _own_socket(self) -> Held:
        """The one that is handed to it. Raises MeshError when it cannot be bound."""
        host, port = self.spec.host, self.spec.port
        assert port is not None  # config.py sees to it
        held = next((one for one in self.sockets.now() if one.asked.address == (host, port)), None)
        if held is None:
            held = listening_on(self.spec.name, host, port)
        self.sockets.hold((held,))
        return held

    def hold(self, wanted: Hold) -> None:
        """What becomes of its listening sockets now."""
        match wanted:
            case Hold.KEEP:
                self.sockets.keep()
            case Hold.LINGER:
                self.sockets.linger()
            case Hold.RELEASE:
                self.sockets.release()

    def announce(self, generation: int) -> None:
        instance = self.instances.get(generation)
        if instance is not None:
            instance.announced.set()
        if instance is not None and instance.guest is not None:
            instance.guest.go()
        self.preparation.announce(self.spec, generation)

    def settled(self, instance: LaunchedInstance) -> None:
        """It serves: may the next one start beside it?"""
        self._apart = self._why_apart(instance)
        if self._apart is not None and instance.guest is not None:
            instance.guest.keep_apart()
        self.alone = self._apart or instance.alone()
        how = self.preparation.how(self.spec) if instance.guest is not None else None
        self._served = Served(instance, how, self._plain)
        self.reorder()

    def _why_apart(self, instance: LaunchedInstance) -> str | None:
        """Of the program as it is now; but what serves only after its address had been freed for it is remembered."""
        start, guest = self.starts.get(instance.generation), instance.guest
        if (start is not None and start.alone) or self._apart == CROWDED:
            return CROWDED
        if guest is None:
            return None
        if not guest.open:
            return "it closed its channel to meshsup"
        return guest.limits.get("gate")

    @property
    def standing(self) -> Standing:
        """Of the one that serves, or did last; what it tells of itself may come late."""
        if self._served is None or (self._served.plain is not None and not self._served.plain.reason):
            return Standing()  # the registry: nobody asks for more of it
        guest, how, plain = self._served.instance.guest, self._served.how, self._served.plain
        limits = [limitation(what, why) for what, why in guest.limits.items()] if guest is not None else []
        if plain is not None:
            limits.append(limitation("runtime", plain.reason, plain.cure))
        if self.spec.order == "stop-first":
            limits.append(limitation("order", 'order = "stop-first"'))
        elif self.order is Order.STOP_FIRST and self.alone is not None and not limits:
            limits.append(limitation("order", self.alone))
        if how is not None and how.reason:
            limits.append(limitation("warm" if how.way is Way.COLD else str(how.way), how.reason, how.cure))
        start = "cold" if how is None or how.way is Way.COLD else f"warm {how.way}"
        return Standing(str(self.order), start, "plain" if guest is None else "yes", tuple(limits))

    def withdraw(self, generation: int) -> None:
        self.preparation.withdraw(self.spec, generation)

    def retune(self, spec: AgentSpec) -> None:
        """Policies of a changed mesh.toml that need no restart: of the instances that live, too."""
        if any(getattr(spec, key) != getattr(self.spec, key) for key in OF_THE_PROGRAM):
            # What is known is of another program: the next start is as the first.
            self.alone, self._apart = "its first start is not over", None
        self.spec = spec
        for instance in self.instances.values():
            instance.spec = spec

    def why_beside(self) -> str:
        """Of one that was started beside its predecessor, and cannot have its socket."""
        plain = self._plain.reason if self._plain is not None else ""
        return beside_predecessor(plain or self.alone or "the runtime does not see it")

    def _check_port(self, spec: AgentSpec) -> None:
        """Of its own predecessor the newcomer gets the socket, or is told by its bind."""
        if spec.port is None or self.instances or spec.port in self.sockets.ports:
            return
        holder = holder_of(spec.port, spec.host)
        if holder is not None:
            raise PortTaken(spec.name, spec.port, holder)


REMEMBERED = 16
"""Generations that late news may still be about: one serves, one comes, two drain."""

T = TypeVar("T")


def _recent(known: dict[int, T], generation: int) -> dict[int, T]:
    """A thousand reloads must not leave a thousand entries."""
    return {number: what for number, what in known.items() if number > generation - REMEMBERED}


OF_THE_PROGRAM = ("command", "runtime", "listen", "port", "host")
"""Keys of mesh.toml with which another program, or another address, may come."""

CROWDED = "beside its predecessor it found its address taken"

FIRST_REQUESTS = 5.0
"""Seconds after ready in which somebody has mostly asked it something."""

LATE_PATIENCE = 1.0
"""Seconds; it may wait for its end."""

INVENTORY_PATIENCE = 30.0
"""Seconds; its own work comes first."""


class LaunchedInstance(Instance):
    """An Instance that its launcher knows while it lives."""

    def __init__(
        self,
        spec: AgentSpec,
        mark: str,
        generation: int,
        watchers: Watchers,
        enrolled: Enrolled | None,
        guest: Guest | None,
        handed: Held | None,
        launcher: AgentLauncher,
    ) -> None:
        super().__init__(spec, mark, generation, watchers, enrolled, guest, handed)
        self._launcher = launcher
        self.announced = asyncio.Event()

    def beside_another(self) -> bool:
        return any(generation != self.generation for generation in self._launcher.instances)

    def why_taken(self) -> str:
        if self._handed is not None:
            return BOUND_BY_US
        return self._launcher.why_beside() if self.beside_another() else ""

    async def ready(self) -> None:
        try:
            await super().ready()
        except NotReady as error:
            self._launcher.preparation.distrust(self.mark, str(error))
            raise

    async def unwell(self) -> str:
        # What nobody waits for comes when it serves: one that was superseded meanwhile never does.
        await self.announced.wait()
        self._launcher.settled(self)
        await self._launcher.preparation.settled(self.spec, self)
        late = asyncio.create_task(self._learn_late())
        try:
            return await super().unwell()
        finally:
            late.cancel()

    async def _learn_late(self) -> None:
        await asyncio.sleep(FIRST_REQUESTS)
        await self._launcher.preparation.learn_late(self.spec, self)

    async def _retired(self) -> None:
        await self._launcher.preparation.learn_late(self.spec, self)

    async def ended(self) -> Ended:
        ended = await super().ended()
        self._launcher.instances.pop(self.generation, None)
        # Whoever registered it: a killed process says no goodbye, and one that never got ready may have registered.
        self._launcher.preparation.withdraw(self.spec, self.generation)
        return ended


@dataclass(slots=True)
class AgentPreparation:
    """Of an agent. ``inputs`` and ``interpreter`` are those of the newest start, for `ps -o wide`."""

    ground: Ground
    say: Callable[[str], None]
    inputs: Inputs = field(default_factory=Inputs)
    interpreter: Interpreter | None = None
    _learnt: frozenset[str] | None = None
    _warned: str | None = None
    _said_unregistered: bool = False
    _enrolled: dict[int, str] = field(default_factory=dict)  # generation -> the id that the registry may know
    _roots: tuple[Path, ...] = ()

    async def program(self, spec: AgentSpec, generation: int) -> Program:
        ground = self.ground
        self._roots = await ground.interpreters.roots([spec])
        self.inputs = await ground.selection.look(spec.name)
        self._warn(self.inputs.warning)
        program = await self.as_known(spec, generation)
        self._make_folder(Path(program.environ["MESHSUP_STATE_DIR"]))
        self._say_unregistered(spec)
        return program

    async def as_known(self, spec: AgentSpec, generation: int) -> Program:
        """How it would be started, with nothing looked at: what it was started from stays what it is."""
        ground = self.ground
        self.interpreter = found = await ground.interpreters.interpreter_of(spec)
        environ = environment.build(
            spec,
            ground.mesh,
            shell=ground.shell,
            generation=generation,
            owner=ground.state.owner,
            registry_url=ground.registry_url,
            frameworks=self.inputs.third_party,
            bin_dir=found.bin,
            virtual_env=found.virtual_env,
        )
        return Program(ground.interpreters.argv_of(spec, found), environ, spec.directory)

    async def target(self, spec: AgentSpec) -> Target | Plain:
        assert self.interpreter is not None  # `program` comes first
        target = await self.ground.interpreters.target_of(spec, self.interpreter)
        watcher = watched_by(target) if isinstance(target, Target) else None
        return (
            target if watcher is None else Plain(f"it runs under {watcher}", "`meshsup run --debug` is for debugging")
        )

    def starter(self, spec: AgentSpec, target: Target, guest: Guest) -> Starter:
        trace = trace_options(spec, self._roots, (self.ground.mesh.state_dir, *_temporary_folders(spec)))
        cold = Cold(target, guest, Begin(trace, learn=self._learns(spec)))
        if not self.ground.mesh.keeps_warm:
            return cold
        imports = self.inputs.third_party
        told = environment.when_warm(spec, imports)
        return Warmly(self.ground.warmth, spec.name, spec.warm, imports, cold, told)

    async def wanted(self, spec: AgentSpec) -> Wanted | None:
        """What its next start will look like, as far as can be told before; None: it runs without the runtime."""
        self.inputs = await self.ground.selection.preview(spec.name)
        program = await self.as_known(spec, 0)
        target = await self.target(spec)
        if isinstance(target, Plain) or not self._learns(spec):
            return None
        imports = self.inputs.third_party
        return wanted_by(spec.name, spec.warm, imports, target, program, environment.when_warm(spec, imports))

    def how(self, spec: AgentSpec) -> How | None:
        return self.ground.warmth.how(spec.name)

    def distrust(self, mark: str, why: str) -> None:
        self.ground.warmth.distrust(mark, why)

    def told(self, spec: AgentSpec, generation: int) -> Told:
        selection, name = self.ground.selection, spec.name
        return Told(
            reads=lambda packet: selection.reads(name, generation, packet.get("files")),
            writes=lambda packet: selection.writes(name, generation, packet.get("files")),
        )

    def enrolled(self, spec: AgentSpec, generation: int) -> Enrolled | None:
        if self.registrar(spec) is not Register.SELF:
            return None
        enrolment, id = self.ground.enrolment, self.id_of(spec, generation)
        self._enrolled = _recent(self._enrolled, generation) | {generation: id}
        enrolment.issue(id, spec.name, generation)

        async def place() -> Place | None:
            return await enrolment.place_of(id)

        return place

    def announce(self, spec: AgentSpec, generation: int) -> None:
        if self.registrar(spec) is Register.SUPERVISOR:
            announcement = announcement_of(spec, self.ground.mesh, generation, self.ground.state.owner)
            self._enrolled = _recent(self._enrolled, generation) | {generation: announcement.id}
            self.ground.enrolment.announce(announcement)

    def withdraw(self, spec: AgentSpec, generation: int) -> None:
        """Decided by what was told to the registry: mesh.toml, or its imports, may say something else by now."""
        if generation in self._enrolled:
            self.ground.enrolment.withdraw(self._enrolled[generation])

    async def settled(self, spec: AgentSpec, instance: Instance) -> None:
        self.ground.selection.ready(spec.name, instance.generation)
        await self._learn(spec, instance)
        self.ground.warmth.settled(instance.mark)
        if self.inputs.known:
            return
        inputs = await self.ground.interpreters.inputs_of_running(spec, instance.pid)
        if inputs is not None:
            self.inputs = inputs
            await self.ground.selection.look_again(spec.name, inputs)

    async def _learn(self, spec: AgentSpec, instance: Instance) -> None:
        """What it has imported, for the next warm start: of one that was warm only where its imports are others now."""
        how, imports = self.how(spec), self.inputs.third_party
        cold = how is None or how.way is Way.COLD
        took = asyncio.get_running_loop().time() - instance.spawned_at
        wanted = cold or imports != self._learnt
        if wanted and await self._take_inventory(spec, instance, INVENTORY_PATIENCE, took if cold else None):
            self._learnt = imports

    async def learn_late(self, spec: AgentSpec, instance: Instance) -> None:
        """What its first requests have imported: FastAPI's of a plain function alone costs 50 to 100 ms."""
        await self._take_inventory(spec, instance, LATE_PATIENCE, None)

    async def _take_inventory(self, spec: AgentSpec, instance: Instance, patience: float, took: float | None) -> bool:
        """``took``: seconds from its spawn to ready, of a cold start."""
        if instance.guest is None or not self._learns(spec):
            return False
        packets = await instance.guest.inventory(patience)
        if packets:
            self.ground.warmth.learnt(spec.name, packets, took)
        return bool(packets)

    def _learns(self, spec: AgentSpec) -> bool:
        """Whether it is of use to know what it imports."""
        return spec.warm is not False and self.ground.mesh.keeps_warm

    def registrar(self, spec: AgentSpec) -> Register:
        return registrar_of(spec, self.inputs.third_party)

    def id_of(self, spec: AgentSpec, generation: int) -> str:
        shared = self.ground.mesh.registry.kind == "external"
        return environment.agent_id(spec.name, generation, self.ground.state.owner, shared=shared)

    def _say_unregistered(self, spec: AgentSpec) -> None:
        nobody = spec.register is Register.AUTO and self.registrar(spec) is Register.NEVER
        if nobody and spec.kind is Kind.SERVICE and not self._said_unregistered:
            self._said_unregistered = True
            self.say(
                'is not registered: it has no port and does not use the MCP Mesh SDK (register = "never" is quiet)'
            )

    def _warn(self, warning: str | None) -> None:
        if warning is not None and warning != self._warned:
            self.say(warning)
        self._warned = warning

    @staticmethod
    def _make_folder(folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MeshError(f"cannot make {folder}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class RegistryPreparation:
    """Of the registry's own process: a fixed command line, and nobody to register it with."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]

    async def program(self, spec: AgentSpec, generation: int) -> Program:
        return Program(self.argv, self.environ, spec.directory)

    def enrolled(self, spec: AgentSpec, generation: int) -> Enrolled | None:
        return None

    def announce(self, spec: AgentSpec, generation: int) -> None:
        return

    def withdraw(self, spec: AgentSpec, generation: int) -> None:
        return

    async def settled(self, spec: AgentSpec, instance: Instance) -> None:
        return

    async def learn_late(self, spec: AgentSpec, instance: Instance) -> None:
        return

    async def target(self, spec: AgentSpec) -> Target | Plain:
        return Plain("")

    def starter(self, spec: AgentSpec, target: Target, guest: Guest) -> Starter:
        return Cold(target, guest, Begin())

    def how(self, spec: AgentSpec) -> How | None:
        return None

    def distrust(self, mark: str, why: str) -> None:
        return

    def told(self, spec: AgentSpec, generation: int) -> Told:
        return Told()


def _temporary_folders(spec: AgentSpec) -> set[Path]:
    """Where programs write what is nobody's input. None at all where the root is read-only without a tmpfs."""
    folders = {Path(spec.environment["TMPDIR"])} if "TMPDIR" in spec.environment else set()
    with contextlib.suppress(FileNotFoundError):
        folders.add(Path(tempfile.gettempdir()))
    return folders
