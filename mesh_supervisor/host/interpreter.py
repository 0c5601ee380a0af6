"""Which Python runs an agent, what that Python can import, and whether it could load a file.

An interpreter is asked once, in a process of its own, and again only when its site-packages have changed. Nothing of
the agent is executed: only what every start of that Python executes (``.pth`` files, sitecustomize).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh_supervisor.commandline import python_named
from mesh_supervisor.errors import MeshError
from mesh_supervisor.locate import believed, owner_of, user_named
from mesh_supervisor.spec import AgentSpec, CommandLine, Module, Script
from mesh_supervisor.wording import one_line

PATIENCE = 30.0
"""Seconds that an interpreter may take to answer; a cold disk is slow, a broken sitecustomize never answers."""


class InterpreterError(MeshError):
    """An interpreter does not run, or answers nonsense."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What runs an agent. ``bin`` stands first in its PATH (None: PATH stays as it is); ``why`` is said at start.
    ``passed_over``: there is a ``.venv``, of a stranger."""

    python: Path
    bin: Path | None = None
    virtual_env: Path | None = None
    why: str = ""
    passed_over: bool = False


@dataclass(frozen=True, slots=True)
class Environment:
    """What one interpreter can import. ``mappings`` and ``namespaces`` come from the finders of editable installs,
    ``editable`` are the project folders of those installs. ``foreign``: standard library and site-packages.
    ``scripts``: console script → ``module:attr``. ``strange``: import finders that are not known here."""

    python: Path
    version: tuple[int, int]
    prefix: Path
    path: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    mappings: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    editable: tuple[Path, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    builtin: frozenset[str] = frozenset()
    stdlib: frozenset[str] = frozenset()
    extensions: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """A file that cannot be loaded. ``str()`` is what people read: ``SyntaxError: '(' was never closed … x.py:3``."""

    file: Path
    line: int
    message: str

    def text(self, root: Path) -> str:
        file = one_line(str(self.file.relative_to(root) if self.file.is_relative_to(root) else self.file))
        return f"{self.message} … {file}:{self.line}" if self.line else f"{self.message} … {file}"


# ---- which one -----------------------------------------------------------------------------------------------------


def find_interpreter(spec: AgentSpec, environ: Mapping[str, str], root: Path | None = None) -> Interpreter:
    """``python`` of mesh.toml, or the one a command line names by path, or the nearest ``.venv`` upward from the
    agent's directory, or $VIRTUAL_ENV, or the one that runs us. ``root``: mesh.toml's folder.

    A ``.venv`` of somebody who has no say here is passed over: whoever may write to a folder above could lay one there.
    """
    if spec.python is not None:
        return _interpreter(spec.python, "python in mesh.toml")
    if isinstance(spec.command, CommandLine):
        named = python_named(spec.command.argv, str(spec.directory))
        if named is not None and os.access(named, os.X_OK):
            return _interpreter(Path(named), "named by its command")
    passed_over = ""
    for folder in (spec.directory, *spec.directory.parents):
        if _is_environment(folder / ".venv"):
            stranger = _stranger(folder / ".venv", believed(environ, spec.directory, root or spec.directory))
            if stranger is None or _is_of_the_mesh(folder / ".venv", root or spec.directory):
                return _of_environment(folder / ".venv", f"nearest .venv ({folder / '.venv'}){passed_over}")
            passed_over += f"; not {folder / '.venv'}, which belongs to {user_named(stranger)} (`python` takes it)"
    active = environ.get("VIRTUAL_ENV")
    if active and _is_environment(Path(active)):
        return _of_environment(Path(active), f"$VIRTUAL_ENV ({active}){passed_over}")
    own = Path(sys.executable)
    # VIRTUAL_ENV is left alone: uv warns about one that is not its project's.
    none = "no .venv of yours" if passed_over else "no .venv found"
    why = f"{none}, so the one that runs meshsup{passed_over}"
    return Interpreter(own, own.parent, None, why, passed_over=bool(passed_over))


def _interpreter(python: Path, why: str) -> Interpreter:
    environment = python.parent.parent
    if (environment / "pyvenv.cfg").is_file():
        return Interpreter(python, python.parent, environment, why)
    return Interpreter(python, None, None, why)


def _is_environment(folder: Path) -> bool:
    return os.access(folder / "bin" / "python", os.X_OK)


def _is_of_the_mesh(environment: Path, root: Path) -> bool:
    """In mesh.toml's folder only those lay one who may change the mesh as well, or root has mounted it there; unless
    that folder is open to everybody, like /tmp."""
    place = environment.parent
    try:
        return place.is_relative_to(root) and not place.stat().st_mode & stat.S_IWOTH
    except OSError:
        return False


def _stranger(environment: Path, ours: Collection[int]) -> int | None:
    """Who owns it, or the link that its python is, and is none of ``ours``. (The link leads to the system's.)"""
    owners = (owner_of(environment), owner_of(environment / "bin" / "python"))
    return next((owner for owner in owners if owner is not None and owner not in ours), None)


def _of_environment(folder: Path, why: str) -> Interpreter:
    return Interpreter(folder / "bin" / "python", folder / "bin", folder, why)


def argv_of(spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]:
    """The words that start this agent."""
    match spec.command:
        case Script(path):
            return (str(interpreter.python), str(path), *spec.args)
        case Module(name):
            return (str(interpreter.python), "-m", name, *spec.args)
        case CommandLine(argv):
            return (*argv, *spec.args)


# ---- what it can import ----------------------------------------------------------------------------------------------

RUNTIME = Path(__file__).parents[1] / "runtime"
"""The folder of the code that runs inside agents."""

_ASK = r"""
import importlib.machinery as machinery, json, os, site, sys, sysconfig

def below(folder, folders):
    return any(folder == known or folder.startswith(known + os.sep) for known in folders)

def text_of(file):
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return opened.read()
    except OSError:
        return ""

path = [os.path.abspath(entry) for entry in sys.path[1:] if entry and os.path.isabs(entry)]
foreign = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
foreign |= set(getattr(site, "getsitepackages", list)()) | {getattr(site, "getusersitepackages", str)()}
foreign |= {entry for entry in path if os.path.basename(entry) in ("site-packages", "dist-packages", "lib-dynload")}
foreign = sorted(folder for folder in foreign if folder)

mappings, namespaces, strange = {}, {}, []
KNOWN = ("_frozen_importlib", "_frozen_importlib_external", "_distutils_hack", "_virtualenv", "zipimport")
for finder in sys.meta_path:
    kind = finder if isinstance(finder, type) else type(finder)
    module = sys.modules.get(kind.__module__)
    if kind.__module__.startswith("__editable__") and hasattr(module, "MAPPING"):
        mappings.update(module.MAPPING)
        for name, folders in getattr(module, "NAMESPACES", {}).items():
            namespaces.setdefault(name, []).extend(folders)
    elif isinstance(getattr(finder, "_redirections", None), dict):
        mappings.update(finder._redirections)
    elif isinstance(getattr(finder, "known_source_files", None), dict):
        mappings.update(finder.known_source_files)
    elif kind.__module__ not in KNOWN:
        strange.append(kind.__module__ + "." + kind.__name__)

def file_of(url):
    from urllib.parse import unquote, urlparse
    parts = urlparse(url)
    return unquote(parts.path) if parts.scheme == "file" else ""

editable = [entry for entry in path if not below(entry, foreign) and os.path.isdir(entry)]
scripts = {}
for entry in reversed(path):
    try:
        names = os.listdir(entry)
    except OSError:
        continue
    for name in names:
        if not name.endswith((".dist-info", ".egg-info")):
            continue
        section = ""
        for line in text_of(os.path.join(entry, name, "entry_points.txt")).splitlines():
            line = line.split("#")[0].strip()
            if line.startswith("["):
                section = line
            elif section in ("[console_scripts]", "[gui_scripts]") and "=" in line:
                script, _, target = line.partition("=")
                scripts[script.strip()] = target.split("[")[0].strip()
        if not name.endswith(".dist-info"):
            continue
        origin = text_of(os.path.join(entry, name, "direct_url.json"))
        if '"editable"' in origin:
            try:
                origin = json.loads(origin)
            except ValueError:
                continue
            if origin.get("dir_info", {}).get("editable"):
                editable.append(file_of(origin.get("url", "")))
try:  # the runtime is loaded in each of its agents: another version of Python would compile it anew each time
    tag = sys.implementation.cache_tag
    if not os.path.exists(os.path.join(sys.argv[1], "__pycache__", "link." + tag + ".pyc")):
        import compileall
        compileall.compile_dir(sys.argv[1], quiet=2)
except (OSError, TypeError, IndexError):
    pass
try:
    import _imp
    frozen = list(_imp._frozen_module_names())
except (ImportError, AttributeError):
    frozen = []
json.dump({
    "version": list(sys.version_info[:2]), "prefix": sys.prefix, "path": path, "foreign": foreign,
    "mappings": {name: str(place) for name, place in mappings.items()},
    "namespaces": {name: [str(place) for place in places] for name, places in namespaces.items()},
    "editable": [folder for folder in editable if folder], "scripts": scripts,
    "builtin": list(sys.builtin_module_names) + frozen, "stdlib": list(getattr(sys, "stdlib_module_names", ())),
    "extensions": machinery.EXTENSION_SUFFIXES, "strange": strange,
}, sys.stdout)
"""


class Interpreters:
    """Asks interpreters, and remembers what they said until their site-packages change. Safe in several tasks."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._known: dict[Path, tuple[object, Environment]] = {}
        self._asking: dict[Path, asyncio.Lock] = {}

    async def inspect(self, python: Path) -> Environment:
        """Raises InterpreterError."""
        async with self._asking.setdefault(python, asyncio.Lock()):
            known = self._known.get(python)
            if known is not None and known[0] == _stamp(known[1]):
                return known[1]
            environment = await asyncio.to_thread(inspect, python, self._environ)
            self._known[python] = (_stamp(environment), environment)
            return environment


def inspect(python: Path, environ: Mapping[str, str]) -> Environment:
    """Ask this interpreter what it can import. Blocks; raises InterpreterError."""
    # PYTHONPATH belongs to agents, each its own; in / no file of the project can stand in for a library module.
    clean = {key: value for key, value in environ.items() if key not in {"PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"}}
    said = ask(python, _ASK, clean, str(RUNTIME))
    try:
        answer = json.loads(said[said.index("{") :])
    except ValueError:
        raise InterpreterError(f"{python} does not answer like a Python; make the environment again") from None
    return _environment(python, answer)


def _environment(python: Path, answer: Mapping[str, Any]) -> Environment:
    return Environment(
        python=python,
        version=(answer["version"][0], answer["version"][1]),
        prefix=Path(answer["prefix"]),
        path=tuple(answer["path"]),
        foreign=tuple(answer["foreign"]),
        mappings=answer["mappings"],
        namespaces={name: tuple(folders) for name, folders in answer["namespaces"].items()},
        editable=tuple(dict.fromkeys(Path(os.path.normpath(folder)) for folder in answer["editable"])),
        scripts=answer["scripts"],
        builtin=frozenset(answer["builtin"]),
        stdlib=frozenset(answer["stdlib"]),
        extensions=tuple(answer["extensions"]),
        strange=tuple(answer["strange"]),
    )


def ask(
    python: Path,
    code: str,
    environ: Mapping[str, str],
    *words: str,
    flags: Sequence[str] = (),
    told: str = "",
    directory: Path = Path("/"),
) -> str:
    """Its stdout, when it runs ``code`` with ``told`` on stdin. Blocks; raises InterpreterError. The exit code is not
    asked: whoever reaps orphans may have taken it."""
    try:
        process = subprocess.Popen(
            [python, *flags, "-c", code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(environ),
            cwd=directory,
            start_new_session=True,
        )
    except OSError as error:
        raise InterpreterError(f"cannot run {python}: {error.strerror}; make the environment again") from error
    with process:
        out, trouble = _answer_of(process, told)
    if trouble is None:
        raise InterpreterError(f"{python} does not answer within {PATIENCE:g} s; does it start at all?")
    if not out:
        last = trouble.strip().rpartition("\n")[2]
        raise InterpreterError(f"{python} does not start: {last or 'it says nothing'}")
    return out


_asked: set[subprocess.Popen[str]] = set()
_hung_up = threading.Event()


def _answer_of(process: subprocess.Popen[str], told: str) -> tuple[str, str | None]:
    """(stdout, stderr); None for stderr when it did not answer in time."""
    _asked.add(process)
    try:
        if _hung_up.is_set():  # while it was started: then it was not among those that were silenced
            _silence(process)
        return process.communicate(told, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        _silence(process)
        return "", None
    finally:
        _asked.discard(process)


def hang_up() -> None:
    """Nobody waits for an answer any more: this process ends, and the thread that does would hold that up."""
    _hung_up.set()
    for process in list(_asked):
        _silence(process)


def _silence(process: subprocess.Popen[str]) -> None:
    """With all that it has started, which would keep its pipes open: a `python` may be somebody's shell script."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _stamp(environment: Environment) -> object:
    """Changes when something is installed, removed, or a ``.pth`` file is written."""
    places = [str(environment.python), str(environment.prefix / "pyvenv.cfg")]
    folders = [folder for folder in environment.foreign if folder.endswith("-packages")]
    for folder in folders:
        try:
            places += [entry.path for entry in os.scandir(folder) if entry.name.endswith((".pth", "_finder.py"))]
        except OSError:
            continue
    return tuple((place, _changed_at(place)) for place in sorted([*places, *folders]))


def _changed_at(place: str) -> int:
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


# ---- could it load these files? --------------------------------------------------------------------------------------

_COMPILE = r"""
import json, sys, warnings
warnings.simplefilter("ignore")
broken = []
for file in json.load(sys.stdin):
    try:
        with open(file, "rb") as opened:
            compile(opened.read(), file, "exec", dont_inherit=True)
    except SyntaxError as error:
        broken.append([file, error.lineno or 0, type(error).__name__ + ": " + str(error.msg)])
    except ValueError as error:
        broken.append([file, 0, "SyntaxError: " + str(error)])
    except (OSError, RecursionError, MemoryError, OverflowError):
        pass
json.dump(broken, sys.stdout)
"""


_WARNINGS = threading.Lock()
"""What is done about warnings belongs to the process; one thread at a time may change it."""


async def loads(environment: Environment, files: Iterable[Path], environ: Mapping[str, str]) -> list[Broken]:
    """Those that the agent's own Python version cannot compile. Files that are gone or unreadable are no verdict."""
    wanted = [file for file in files if file.suffix in {".py", ".pyw"}]
    if not wanted:
        return []
    if environment.version == sys.version_info[:2]:
        return await asyncio.to_thread(_compile_here, wanted)
    told = json.dumps([str(file) for file in wanted])
    said = await asyncio.to_thread(ask, environment.python, _COMPILE, environ, flags=["-I", "-S"], told=told)
    try:
        return [Broken(Path(file), line, message) for file, line, message in json.loads(said)]
    except ValueError:
        raise InterpreterError(f"{environment.python} does not answer like a Python") from None


def _compile_here(files: Iterable[Path]) -> list[Broken]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [broken for file in files if (broken := _compiled(file)) is not None]


def _compiled(file: Path) -> Broken | None:
    try:
        compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        return Broken(file, error.lineno or 0, f"{type(error).__name__}: {error.msg}")
    except ValueError as error:
        return Broken(file, 0, f"SyntaxError: {error}")
    except (OSError, RecursionError, MemoryError, OverflowError):
        return None
    return None
