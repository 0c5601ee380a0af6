"""One run of a mesh in this process: everything is opened here, wired, and closed in the reverse order.

The only place that knows all parts: configuration, state_dir, logs, events, supervisor, control socket, signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh_supervisor import __version__
from mesh_supervisor.applying import Applying, config_files
from mesh_supervisor.commands import Commands
from mesh_supervisor.config import load
from mesh_supervisor.control import server as control
from mesh_supervisor.errors import MeshError
from mesh_supervisor.events import Bus, EventLog
from mesh_supervisor.host.guardian import Guardian
from mesh_supervisor.host.kept_ports import KeptPorts
from mesh_supervisor.host.logs import Console, LogFiles, LogHub
from mesh_supervisor.host.ports import free_port
from mesh_supervisor.host.reaper import Reaper, become_subreaper
from mesh_supervisor.host.spawn import allow_many_files
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.sweep import sweep_owner
from mesh_supervisor.locate import Place, control_socket
from mesh_supervisor.news import Outputs
from mesh_supervisor.options import UpOptions
from mesh_supervisor.spec import MeshSpec, Mode
from mesh_supervisor.supervisor import Supervisor
from mesh_supervisor.wording import hide

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads mesh.toml as this `up` was asked to; again whenever it changes."""

    place: Place
    options: UpOptions
    environ: Mapping[str, str]
    secrets: set[str] = field(default_factory=set)
    """Of every version that was read: what is applied later has its own, and what was there before is still running."""

    def __call__(self) -> MeshSpec:
        """Raises ConfigError."""
        mesh = self._load()
        self.secrets.update(mesh.secrets)
        return mesh

    def hide(self, text: str) -> str:
        return text if self.options.show_secrets else hide(text, self.secrets)

    def _load(self) -> MeshSpec:
        options = self.options
        return load(
            self.place.file,
            self.environ,
            mode=options.mode,
            mode_reason=options.mode_reason,
            kept_port=KeptPorts(self.place.state_dir, lambda taken: free_port(taken=taken)).kept_port,
            watch=options.watch,
            debounce=options.debounce,
            pid_one=os.getpid() == 1,
        )


async def run(place: Place, options: UpOptions) -> int:
    """`up`: 0 after a clean stop, 1 when an essential agent was given up, 130 after a second Ctrl-C.

    Raises ConfigError, AlreadyRunning, PortTaken, UnknownAgent, UsageError: then nothing was started, and nothing left.
    """
    reader = Reader(place, options, dict(os.environ))
    mesh = reader()
    state = StateDir.open(mesh.state_dir)
    state.lock()
    try:
        become_subreaper()
        allow_many_files()
        # What a killed supervisor left holds our ports. By mark and tag, so never a stranger.
        left = await asyncio.to_thread(sweep_owner, state.owner)
        with _outputs(mesh, state, reader) as outputs:
            if left:
                outputs.hub.say(f"killed what an earlier run left: {', '.join(f'{s.name} ({s.pid})' for s in left)}")
            try:
                return await _run_mesh(mesh, state, options, reader, outputs)
            except BaseExceptionGroup as group:
                raise _confessed(group, state) from None
    finally:
        state.unlock()


def _confessed(group: BaseExceptionGroup[BaseException], state: StateDir) -> MeshError:
    """A mistake of ours. Nothing of the mesh is left running, and nobody has to read a traceback."""
    sweep_owner(state.owner)
    report = state.path / "crash.log"
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    try:
        report.write_text("".join(traceback.format_exception(group)))
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


async def _run_mesh(mesh: MeshSpec, state: StateDir, options: UpOptions, reader: Reader, outputs: Outputs) -> int:
    supervisor = Supervisor(mesh, state, outputs)
    supervisor.selection.config_files = config_files(mesh)
    commands = Commands(supervisor, Applying(supervisor, reader))
    names = commands.known(options.agents)
    commands.check_profiles(options.profiles)
    reaper, guardian = Reaper(), Guardian(state.owner, report=state.path / "swept.log", say=supervisor.say)
    reaper.install()
    try:
        # The socket last: whoever finds it finds somebody who answers, not a supervisor that cannot start.
        async with _answering(commands, control_socket(mesh.state_dir)):
            guardian.start()
            with _signals(supervisor, reader):
                _greet(supervisor)
                code = await supervisor.run(names, options.profiles)
        supervisor.say("stopped")
        return INTERRUPTED if supervisor.interrupted else code
    finally:
        await guardian.close()
        reaper.close()


@contextlib.asynccontextmanager
async def _answering(commands: Commands, address: Path) -> AsyncIterator[None]:
    """The control socket, until the mesh is down; requests that are under way then (`down`) are finished."""
    listener = control.listen(address)
    stop = asyncio.Event()
    server = asyncio.create_task(control.serve(commands, listener, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await server
        control.withdraw(address)


def _greet(supervisor: Supervisor) -> None:
    mesh = supervisor.mesh
    watching = "watching" if mesh.watch.enabled else "not watching"
    agents = f"{len(mesh.agents)} agent{'s' * (len(mesh.agents) != 1)}"
    supervisor.say(
        f"meshsup {__version__}: {mesh.name}, {agents}, {mesh.mode} mode ({mesh.mode_reason}), {watching}; "
        f"registry {supervisor.registry_url}"
    )
    for warning in supervisor.warnings():
        supervisor.say(f"note: {warning}")


@contextlib.contextmanager
def _signals(supervisor: Supervisor, reader: Reader) -> Iterator[None]:
    """SIGINT and SIGTERM stop in order, a second one at once. SIGHUP: the terminal is gone (stop), or, without a
    terminal, apply mesh.toml."""
    loop = asyncio.get_running_loop()
    terminal = _has_terminal(reader.options)

    def stop(interrupt: bool) -> None:
        supervisor.interrupted = supervisor.over.is_set() and interrupt
        supervisor.finish()

    def hang_up() -> None:
        if terminal:
            supervisor.finish()
        else:
            supervisor.selection.batch(frozenset({supervisor.mesh.file}))  # as if it had been saved

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGINT: lambda: stop(True),
        signal.SIGTERM: lambda: stop(False),
        signal.SIGHUP: hang_up,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _has_terminal(options: UpOptions) -> bool:
    return not options.detached and (sys.stdin.isatty() if sys.stdin is not None else False)
