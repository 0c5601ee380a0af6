"""One run of a mesh in this process: everything is opened here, wired, and closed in the reverse order.

The only place that knows all parts: configuration, state_dir, logs, events, supervisor, control socket, signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from mesh_supervisor import __version__
from mesh_supervisor.applying import Applying, config_files
from mesh_supervisor.commands import Commands
from mesh_supervisor.config import load
from mesh_supervisor.control import server as control
from mesh_supervisor.errors import ConfigError, MeshError, UnknownAgent
from mesh_supervisor.events import Bus, EventLog
from mesh_supervisor.host.address import address_towards, known
from mesh_supervisor.host.container import is_main_process
from mesh_supervisor.host.guardian import Guardian
from mesh_supervisor.host.interpreter import hang_up
from mesh_supervisor.host.kept_ports import KeptPorts
from mesh_supervisor.host.logs import Console, LogFiles, LogHub
from mesh_supervisor.host.ports import free_port
from mesh_supervisor.host.reaper import Reaper, become_subreaper
from mesh_supervisor.host.service_manager import Invitation, invitation
from mesh_supervisor.host.spawn import allow_many_files
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.sweep import sweep_owner
from mesh_supervisor.locate import Place
from mesh_supervisor.news import Outputs
from mesh_supervisor.options import UpOptions
from mesh_supervisor.service import reporting
from mesh_supervisor.signals import Signals, has_terminal, heard
from mesh_supervisor.single import alone
from mesh_supervisor.spec import MeshSpec, Mode
from mesh_supervisor.supervisor import Supervisor
from mesh_supervisor.wording import counted, hide


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads mesh.toml as this `up` was asked to; again whenever it changes."""

    place: Place
    options: UpOptions
    environ: Mapping[str, str]
    pid_one: bool = False
    """Whether this is what a container was started for (host/container.py)."""
    secrets: set[str] = field(default_factory=set)
    """Of every version that was read: what is applied later has its own, and what was there before is still running."""
    unseen: set[str] = field(default_factory=set)
    """URLs of registries from which nobody can tell (yet) under which address we are seen."""

    def __call__(self) -> MeshSpec:
        """Raises ConfigError."""
        mesh = self._load()
        self.secrets.update(mesh.secrets)
        return mesh

    def again(self) -> MeshSpec:
        """For a mesh that runs. Raises ConfigError, also when it has not the one agent any more that is wanted."""
        try:
            return self()
        except UnknownAgent as error:
            raise ConfigError(f"{self.place.file.name}: {error}, which `meshsup run` supervises") from error

    def hide(self, text: str) -> str:
        return text if self.options.show_secrets else hide(text, self.secrets)

    def _load(self) -> MeshSpec:
        options = self.options
        mesh = load(
            self.place.file,
            self.environ,
            mode=options.mode,
            mode_reason=options.mode_reason,
            kept_port=KeptPorts(self.place.state_dir, lambda taken: free_port(taken=taken)).kept_port,
            watch=options.watch,
            debounce=options.debounce,
            pid_one=self.pid_one,
            alone=options.alone,
            address_towards=self._address_towards,
        )
        return mesh if options.alone is None else alone(mesh, options.alone)

    def _address_towards(self, url: str) -> str | None:
        found = address_towards(url)
        (self.unseen.add if found is None else self.unseen.discard)(url)
        return found


async def run(place: Place, options: UpOptions) -> int:
    """`up`: 0 after a clean stop, 1 when an essential agent was given up, 128 and its number after a second signal.

    Raises ConfigError, AlreadyRunning, PortTaken, UnknownAgent, UsageError: then nothing was started, and nothing left.
    """
    invited = invitation(os.environ, os.getpid())
    with heard(terminal=not options.detached and has_terminal()) as signals:
        reader = Reader(place, options, dict(os.environ), pid_one=not options.detached and is_main_process())
        mesh = reader()
        state = StateDir.of(mesh)
        state.lock()
        try:
            become_subreaper()
            allow_many_files()
            # What a killed supervisor left holds our ports. By mark and tag, so never a stranger.
            left = await asyncio.to_thread(sweep_owner, state.owner)
            with _outputs(mesh, state, reader) as outputs:
                if left:
                    names = ", ".join(f"{s.name} ({s.pid})" for s in left)
                    outputs.hub.say(f"killed what an earlier run left: {names}")
                try:
                    code = await _run_mesh(mesh, state, reader, outputs, signals, invited)
                except BaseExceptionGroup as group:
                    raise _confessed(group, state) from None
            state.end()
            return code
        finally:
            hang_up()
            state.unlock()


def _confessed(group: BaseExceptionGroup[BaseException], state: StateDir) -> MeshError:
    """A mistake of ours. Nothing of the mesh is left running, and nobody has to read a traceback."""
    sweep_owner(state.owner)
    report = state.path / "crash.log"
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    try:
        descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(group))
    except OSError as error:
        return MeshError(f"internal error: {first!r}; and {report} cannot be written ({error.strerror})")
    return MeshError(f"internal error: {first!r}; the mesh was stopped. Please report it with {report}")


@contextlib.contextmanager
def _outputs(mesh: MeshSpec, state: StateDir, reader: Reader) -> Iterator[Outputs]:
    """Logs and events, closed at the end whatever happens."""
    loop = asyncio.get_running_loop()

    def trouble(text: str) -> None:  # from the thread that writes the files
        loop.call_soon_threadsafe(hub.say, text)

    files = _log_files(mesh, state, trouble) if mesh.logs.files else None
    console = None if reader.options.detached and files is not None else _console(mesh)
    hub = LogHub(*(sink for sink in (files, console) if sink is not None))
    bus, log = Bus(), EventLog(state.path)
    bus.listen(log.append)
    try:
        yield Outputs(hub, bus, reader.hide)
    finally:
        bus.close()
        log.close()
        for sink in (console, files):
            if sink is not None:
                sink.close()


def _log_files(mesh: MeshSpec, state: StateDir, trouble: Callable[[str], None]) -> LogFiles:
    return LogFiles(state.path / "logs", max_size=mesh.logs.max_size, keep=mesh.logs.keep, trouble=trouble)


def _console(mesh: MeshSpec) -> Console:
    return Console(1, json_lines=mesh.mode is Mode.PROD, names=["meshsup", "registry", *mesh.agents])


async def _run_mesh(
    mesh: MeshSpec,
    state: StateDir,
    reader: Reader,
    outputs: Outputs,
    signals: Signals,
    invited: Invitation | None,
) -> int:
    supervisor, options = Supervisor(mesh, state, outputs), reader.options
    supervisor.selection.config_files = config_files(mesh)
    applying = Applying(supervisor, reader.again)
    commands = Commands(supervisor, applying)
    names = commands.known(options.agents)
    commands.check_profiles(options.profiles)
    reaper, guardian = Reaper(), Guardian(state.owner, report=state.path / "swept.log", say=supervisor.say)
    reaper.install()
    try:
        # The socket last: whoever finds it finds somebody who answers, not a supervisor that cannot start.
        async with _answering(commands, supervisor):
            if os.getpid() != 1:  # with PID 1 the kernel kills everything else
                guardian.start()
            _greet(supervisor)
            if state.doubt:
                supervisor.say(f"note: {state.doubt}")
            signals.tell(supervisor, applying)
            with reporting(supervisor, applying, invited), _learning_our_address(reader.unseen, supervisor, applying):
                code = await supervisor.run(names, options.profiles)
        supervisor.say("stopped")
        return signals.exit_code(code)
    finally:
        await guardian.close()
        reaper.close()


@contextlib.asynccontextmanager
async def _answering(commands: Commands, supervisor: Supervisor) -> AsyncIterator[None]:
    """The control socket, until the mesh is down; requests that are under way then (`down`) are finished."""
    listener, address, why = control.listen_for(supervisor.state.path)
    if why:
        supervisor.say(f"{supervisor.state.path} has no sockets ({why}): commands reach this mesh at {address}")
    stop = asyncio.Event()
    server = asyncio.create_task(control.serve(commands, listener, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await server
        control.withdraw(address)


@contextlib.contextmanager
def _learning_our_address(unseen: Collection[str], supervisor: Supervisor, applying: Applying) -> Iterator[None]:
    """Where the registry's name could not be looked up at the start, others are told our address later."""

    async def learn(url: str) -> None:
        found = await known(url)
        supervisor.say(f"{url} is found now, and sees us at {found}")
        supervisor.selection.soon(partial(applying.asked_by, "our address"))

    learning = [asyncio.create_task(learn(url), name=f"learn our address towards {url}") for url in unseen]
    try:
        yield
    finally:
        for task in learning:
            task.cancel()


def _greet(supervisor: Supervisor) -> None:
    mesh = supervisor.mesh
    watching = "watching" if mesh.watch.enabled else "not watching"
    agents = mesh.alone or counted(len(mesh.agents), "agent")
    registry = f"registry {supervisor.registry_url}" if supervisor.registry_url else "no registry"
    supervisor.say(
        f"meshsup {__version__}: {mesh.name}, {agents}, {mesh.mode} mode ({mesh.mode_reason}), {watching}; {registry}"
    )
    for warning in supervisor.warnings():
        supervisor.say(f"note: {warning}")
