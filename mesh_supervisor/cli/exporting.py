"""`export`: looks at what surrounds a mesh, has the text made of it (mesh_supervisor/export), and writes that."""

from __future__ import annotations

import asyncio
import io
import os
import pwd
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from os.path import normpath, realpath
from pathlib import Path, PurePosixPath

from dotenv.parser import parse_stream

from mesh_supervisor import __version__
from mesh_supervisor.cli.offline import finder_of, inputs_of_all
from mesh_supervisor.cli.terminal import YELLOW, painted, show, talk
from mesh_supervisor.config import load
from mesh_supervisor.diagnosis import SYNC
from mesh_supervisor.errors import ConfigError, MeshError, UsageError
from mesh_supervisor.export import compose as of_compose
from mesh_supervisor.export import systemd as of_systemd
from mesh_supervisor.export.env_lines import is_read_otherwise
from mesh_supervisor.export.mark import is_as_written, marked
from mesh_supervisor.export.references import Written
from mesh_supervisor.export.surroundings import Surroundings
from mesh_supervisor.host.inputs import InputFinder
from mesh_supervisor.host.interpreter import Interpreter, InterpreterError, find_interpreter
from mesh_supervisor.host.kept_ports import read_kept_port
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.impact import Inputs
from mesh_supervisor.locate import STATE_HOME, Place, read_leniently, socket_inside
from mesh_supervisor.mesh_toml.env_file import UnusableEnvFile, read_env_file
from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec, Mode, Script
from mesh_supervisor.traced import paths_of

LOCKS = (*SYNC, "requirements.txt", "pyproject.toml")
"""Names of files that say what is installed."""
MOST_WRITTEN = 20
"""Folders that agents were seen to write into; a unit with more of them reads like no unit."""
MADE_OF_CODE = frozenset(("__pycache__", "node_modules", "site-packages"))
MOST_LINKS = 40
"""On the way to one file, as for the kernel."""


# ---- Compose ---------------------------------------------------------------------------------------------------------


def compose(place: Place, output: Path | None, force: bool, dockerfile: Path | None, app: str) -> None:
    """Raises ConfigError, UsageError."""
    if not app.startswith("/") or not app.isprintable():
        raise UsageError(f"--app {app}: must be an absolute path in the image, such as /app")
    # As in a container: host, stop_timeout and the rest have their values there. A port of this machine is none there.
    mesh = load(place.file, os.environ, mode=Mode.PROD, mode_reason="exported", pid_one=True)
    written = Written(read_leniently(place.file))
    watching = written.table("watch").get("enabled") is not False
    seen = Surroundings(
        base=mesh.root if output is None else output.resolve().parent,
        written=written,
        app=str(PurePosixPath(app)),
        dockerfile=_dockerfile(mesh.root, dockerfile),
        dockerignore=(mesh.root / ".dockerignore").exists(),
        inputs=asyncio.run(inputs_of_all(mesh)) if watching else {},
        locks={name: tuple(_locks(spec, mesh.root)) for name, spec in mesh.agents.items()},
        from_env_file=_in_env_file(mesh),
        otherwise=() if written.names_env_file else tuple(_read_otherwise(mesh.root / ".env")),
    )
    made = of_compose.compose(mesh, seen)
    text = marked(made.text, verb="compose", version=__version__, source=place.file.name)
    _deliver(text, made.warnings, output, force, f"{of_compose.services_of(mesh)}; next: `docker compose up --build`")


def _dockerfile(root: Path, named: Path | None) -> Path | None:
    if named is not None:
        if not named.is_file():
            raise UsageError(f"--dockerfile {named}: no such file")
        return named.resolve()
    return next((file for file in (root / "Dockerfile", root / "Containerfile") if file.is_file()), None)


def _locks(spec: AgentSpec, root: Path) -> Iterator[Path]:
    """From its folder up to mesh.toml's, the nearest of each name."""
    folders = [folder for folder in (spec.directory, *spec.directory.parents) if folder.is_relative_to(root)]
    for name in LOCKS:
        yield from [folder / name for folder in folders if (folder / name).is_file()][:1]


def _in_env_file(mesh: MeshSpec) -> frozenset[str]:
    """The names in [mesh] env_file, which every agent has as the first of its env files."""
    files = {spec.env_files[0] for spec in mesh.agents.values() if spec.env_files}
    try:
        return frozenset(name for file in files if file.is_file() for name in read_env_file(file, os.environ))
    except UnusableEnvFile:  # it could be read a moment ago
        return frozenset()


def _read_otherwise(file: Path) -> Iterator[int]:
    """The lines of a .env that Compose does not read as we do."""
    try:
        text = file.read_text("utf-8-sig") if file.is_file() else ""
    except (OSError, UnicodeDecodeError):  # it could be read a moment ago
        return
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.string.lstrip()
        if binding.value is not None and is_read_otherwise(line, binding.value):
            blank = len(binding.original.string) - len(line)
            yield binding.original.line + binding.original.string[:blank].count("\n")


# ---- systemd ---------------------------------------------------------------------------------------------------------


def systemd(place: Place, output: Path | None, force: bool) -> None:
    """Raises ConfigError for what stands in mesh.toml, MeshError for a path that no unit can name."""
    mesh = load(
        place.file, os.environ, mode=Mode.PROD, mode_reason="exported", kept_port=read_kept_port(place.state_dir)
    )
    try:
        made = of_systemd.unit(mesh, asyncio.run(machine_of(mesh)))
    except of_systemd.CannotSay as error:
        raise MeshError(str(error)) from error
    text = marked(made.text, verb="systemd", version=__version__, source=place.file.name)
    _deliver(text, made.warnings, output, force, f"to be installed as /etc/systemd/system/{made.name}")


async def machine_of(mesh: MeshSpec) -> of_systemd.Machine:
    finder = finder_of(mesh)
    found = [(spec, await finder.interpreter_of(spec)) for spec in mesh.agents.values()]
    code = [place for spec in mesh.agents.values() for place in await _code_of(finder, spec)]
    written = Written(read_leniently(mesh.file))
    in_env_file = _in_env_file(mesh)
    command = _own_command()
    user, group = _owner_of(mesh.root)
    of_agents = (path for spec in mesh.agents.values() for path in (spec.directory, *spec.env_files))
    needed = [mesh.root, mesh.state_dir, *mesh.watch.roots, *of_agents, *_programs(found), *code, *_own_places(command)]
    opened, closed = _written_into(mesh, found, await inputs_of_all(mesh, finder))
    return of_systemd.Machine(
        command=command,
        kill=None if (kill := shutil.which("kill")) is None else Path(kill),
        user=user,
        group=group,
        places=tuple(dict.fromkeys(place for path in needed for place in _led_to(path))),
        written=opened,
        closed=closed,
        path=tuple(dict.fromkeys(_folders_of_programs(found))),
        virtual_env=_from_shell(found, mesh.root),
        state_home=os.environ.get(STATE_HOME, ""),
        short_socket=socket_inside(mesh.state_dir) is None,
        variables={name: needed for name, needed in written.variables().items() if name not in in_env_file},
    )


def _own_command() -> tuple[str, ...]:
    """`meshsup` beside the Python that runs us; else that Python, told what to run."""
    beside = Path(sys.executable).with_name("meshsup")
    return (str(beside),) if os.access(beside, os.X_OK) else (sys.executable, "-m", "mesh_supervisor")


def _own_places(command: tuple[str, ...]) -> list[Path]:
    """Where we are, and what we import."""
    return [Path(text) for text in (command[0], sys.executable, sys.base_prefix, *sys.path, __file__)]


async def _code_of(finder: InputFinder, spec: AgentSpec) -> list[Path]:
    """Where its interpreter looks for what it imports."""
    try:
        found = await finder.environment_of(spec)
    except InterpreterError:
        return []  # the agent says so itself
    mapped = [*found.mappings.values(), *(place for places in found.namespaces.values() for place in places)]
    return [found.prefix, *found.editable, *map(Path, (*found.path, *mapped))]


def _led_to(path: Path) -> Iterator[Path]:
    """It, and where each of the links on its way leads to; nothing for what is not there."""
    if not path.is_absolute() or not os.access(path, os.F_OK):
        return
    for _ in range(MOST_LINKS):
        yield path
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            return
        # Nothing above it is a link, so its `..` may be taken by the letter.
        path = Path(normpath(link.parent / link.readlink() / path.relative_to(link)))


def _owner_of(folder: Path) -> tuple[str, int | None]:
    """Whose mesh it is, whoever exports it (sudo), and this user's group; None: nobody has given it one."""
    uid = folder.stat().st_uid
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), None
    return found.pw_name, found.pw_gid


def _programs(found: Iterable[tuple[AgentSpec, Interpreter]]) -> Iterator[Path]:
    """What is started of agents: interpreters and scripts, and the first words of command lines."""
    for spec, interpreter in found:
        yield interpreter.python
        if isinstance(spec.command, Script):
            yield spec.command.path
        elif isinstance(spec.command, CommandLine) and (program := _program(spec, spec.command, interpreter)):
            yield program


def _program(spec: AgentSpec, command: CommandLine, interpreter: Interpreter) -> Path | None:
    if "/" in command.argv[0]:
        return spec.directory / command.argv[0]
    own = [str(interpreter.bin)] if interpreter.bin is not None else []
    path = spec.environment.get("PATH", os.environ.get("PATH", os.defpath))
    program = shutil.which(command.argv[0], path=os.pathsep.join((*own, path)))
    return None if program is None else Path(program)


def _folders_of_programs(found: Iterable[tuple[AgentSpec, Interpreter]]) -> Iterator[Path]:
    """Of the first words of command lines that this shell finds where systemd does not look."""
    known = set(map(Path, of_systemd.SYSTEM_PATH))
    for spec, interpreter in found:
        if isinstance(spec.command, CommandLine) and "/" not in spec.command.argv[0] and "PATH" not in spec.environment:
            program = _program(spec, spec.command, interpreter)
            if program is not None and program.parent not in {*known, interpreter.bin}:
                yield program.parent


def _from_shell(found: Iterable[tuple[AgentSpec, Interpreter]], root: Path) -> Path | None:
    """$VIRTUAL_ENV, where an agent would have another interpreter without it."""
    shell = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    for spec, interpreter in found:
        if find_interpreter(spec, {**shell, **spec.environment}, root).python != interpreter.python:
            return interpreter.virtual_env
    return None


def _written_into(
    mesh: MeshSpec, found: Iterable[tuple[AgentSpec, Interpreter]], inputs: Mapping[str, Inputs]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Where earlier runs have seen agents write, in the folders of the mesh, without links: folders, and files that lie
    in mesh.toml's own; and which of them stay closed.

    That is what agents say of themselves, in files that they may write themselves. So nothing else of the machine is
    opened for it, and nothing that would be code, or would say what is run."""
    roots = [_real(root) for root in (mesh.root, *mesh.watch.roots)]
    traces = Traces(mesh.state_dir)
    seen = {Path(text) for name in mesh.agents for text in paths_of(list(traces.load(name).writes))}
    claimed = {path if path.parent == mesh.root and path.name != "*" else path.parent for path in seen}
    places = {path for path in map(_real, claimed) if _is_below(path, roots) and os.access(path, os.F_OK)}
    places -= {path for path in places if path.is_relative_to(_real(mesh.state_dir))}
    kept, whole = _kept(mesh, inputs), _kept_whole(mesh, found, inputs)
    closed = {path for path in places if path in kept or any(folder in whole for folder in (path, *path.parents))}
    opened = {path for path in places - closed if not any(_is_of_tools(path, root) for root in roots)}
    outermost = sorted(path for path in opened if not opened.intersection(path.parents))
    return tuple(outermost[:MOST_WRITTEN]), tuple(sorted(closed))


def _real(path: Path) -> Path:
    return Path(realpath(path))


def _is_below(path: Path, roots: Iterable[Path]) -> bool:
    return any(root in path.parents for root in roots)


def _is_of_tools(path: Path, root: Path) -> bool:
    """Such folders say what tools do, outside of the sandbox too (.git/hooks, .vscode), or hold code that they made."""
    parts = path.relative_to(root).parts if root in path.parents else ()
    return any(part.startswith(".") or part in MADE_OF_CODE for part in parts)


def _kept(mesh: MeshSpec, inputs: Mapping[str, Inputs]) -> set[Path]:
    """What says what is run, and every folder that holds some of it."""
    specs = mesh.agents.values()
    said = {mesh.file, *(file for spec in specs for file in (*spec.env_files, *_locks(spec, mesh.root)))}
    for own in inputs.values():
        said |= {*own.paths, *own.missing, *own.folders, *own.directories, *own.listings, *(g.base for g in own.globs)}
    real = {_real(path) for path in said}
    return real | {folder for path in real | said for folder in path.parents}


def _kept_whole(
    mesh: MeshSpec, found: Iterable[tuple[AgentSpec, Interpreter]], inputs: Mapping[str, Inputs]
) -> set[Path]:
    """Folders with nothing but code in them, as far as we know: environments, plug-ins, and where a program starts of
    which nothing else is known."""
    folders = {folder for own in inputs.values() for folder in own.folders}
    folders |= {mesh.agents[name].directory for name, own in inputs.items() if not own.known}
    folders |= {interpreter.virtual_env for _, interpreter in found if interpreter.virtual_env is not None}
    return {_real(folder) for folder in folders}


# ---- writing ---------------------------------------------------------------------------------------------------------


def _deliver(text: str, warnings: Iterable[str], output: Path | None, force: bool, done: str) -> None:
    """Warnings last, where they are seen."""
    if output is None:
        show(text.rstrip("\n"))
    else:
        _write(output, text, force)
        talk(f"{output}: {done}")
    talk(*(f"{painted('warning', YELLOW, sys.stderr)}: {warning}" for warning in warnings))


def _write(output: Path, text: str, force: bool) -> None:
    """All of it or nothing; a link stays one. Raises ConfigError for a file that is somebody else's."""
    file = output.resolve()
    content = text.encode("utf-8", "surrogateescape")
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(f"{output}: is no file; name one, or leave -o out for stdout")
        if not force and file.exists() and not is_as_written(file.read_bytes().decode("utf-8", "surrogateescape")):
            raise ConfigError(
                f"{output}: was not written by `meshsup export`, or was edited since; --force replaces it, without -o "
                "it is shown"
            )
        _replace(file, content)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from error


def _replace(file: Path, content: bytes) -> None:
    """Raises OSError."""
    mode = file.stat().st_mode & 0o777 if file.exists() else None
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        # The umask says who else may read it, as for any file that a command is told to write.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
        if mode is not None:
            beside.chmod(mode)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
