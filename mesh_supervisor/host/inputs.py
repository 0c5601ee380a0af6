"""The inputs of an agent: its imports as its own interpreter would find them, its globs, its env files.

    spec ─► interpreter ─► what it can import ─► command line ─► entry ─► closure ─► Inputs
            (find)         (ask once)            (pure)                   (pure)

All of this happens before the first start and reads files only. CPU work is done in a thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import psutil

from mesh_supervisor.commandline import Place, Started, read_command
from mesh_supervisor.host.interpreter import (
    Broken,
    Environment,
    Interpreter,
    InterpreterError,
    Interpreters,
    argv_of,
    find_interpreter,
    loads,
)
from mesh_supervisor.host.sources import Disk, Look
from mesh_supervisor.impact import Glob, Inputs, globs_of
from mesh_supervisor.imports import Closure, Entry, Finder, Gone, Search, Step
from mesh_supervisor.spec import AgentSpec, Command, CommandLine, Module, Script

_UNKNOWN = "no known inputs before it runs: its program is not found, or not installed yet"
MOST_MATCHED = 10_000
"""Files that one agent's globs and folders may hold; beyond that the rest is left out, and said."""


class Ignored(Protocol):
    """host/ignore.py"""

    def user_ignored(self, path: Path) -> bool: ...

    def discovery_ignored(self, path: Path) -> bool: ...


class InputFinder:
    """Finds the inputs of agents. ``root``: mesh.toml's folder. ``shell``: the environment that agents inherit.
    ``more_roots``: ``watch.roots``."""

    def __init__(self, root: Path, ignore: Ignored, shell: Mapping[str, str], more_roots: Sequence[Path] = ()) -> None:
        self._root, self._ignore, self._shell = root, ignore, shell
        self._more_roots = tuple(more_roots)
        self._project_roots = project_roots(root, self._more_roots)
        self._seen_running: dict[str, tuple[Command, AgentSpec]] = {}
        self._interpreters = Interpreters(shell)
        self._disk = Disk()

    # ---- the interpreter ---------------------------------------------------------------------------------------------

    async def interpreter_of(self, spec: AgentSpec) -> Interpreter:
        return find_interpreter(spec, {**self._shell, **spec.environment})

    def argv_of(self, spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]:
        return argv_of(spec, interpreter)

    async def environment_of(self, spec: AgentSpec) -> Environment:
        """What its interpreter can import. Raises InterpreterError."""
        return await self._interpreters.inspect((await self.interpreter_of(spec)).python)

    async def roots(self, specs: Iterable[AgentSpec]) -> tuple[Path, ...]:
        """The folders below which files may be inputs, for all these agents: what to watch. None lies in another."""
        self._project_roots = project_roots(self._root, self._more_roots)
        found = set(self._project_roots)
        for spec in specs:
            try:
                environment = await self.environment_of(spec)
            except InterpreterError:
                continue
            found |= {folder for folder in _editable_roots(environment) if folder.is_dir()}
            found |= set(_own_places(spec))
        return outermost(found)

    # ---- inputs ------------------------------------------------------------------------------------------------------

    async def inputs_of(self, spec: AgentSpec) -> Inputs:
        """As they are on disk now. Never raises: what cannot be found out is said in ``warning``."""
        inputs = await self._inputs_of(spec)
        command, seen = self._seen_running.get(spec.name, (None, spec))
        if inputs.known or command != spec.command:
            return inputs
        # It could not be read from its words, but was seen running: it will run so again.
        return await self._inputs_of(replace(seen, watch=spec.watch, env_files=spec.env_files))

    async def _inputs_of(self, spec: AgentSpec) -> Inputs:
        problem, environment = None, None
        if _may_be_python(spec):
            try:
                environment = await self.environment_of(spec)
            except InterpreterError as error:
                problem = str(error)
        inputs = await asyncio.to_thread(self._find, spec, environment)
        return inputs if problem is None else replace(inputs, warning=inputs.warning or problem)

    async def inputs_of_running(self, spec: AgentSpec, pid: int) -> Inputs | None:
        """From the command line of a process of its tree, for a program whose inputs were not known before it ran
        (its environment did not exist). Remembered for the next ``inputs_of``. None: still not."""
        for running in await asyncio.to_thread(_command_lines, pid):
            seen = replace(spec, command=CommandLine(running.argv), args=(), directory=running.directory)
            inputs = await self._inputs_of(seen)
            if inputs.known and inputs.files:
                self._seen_running[spec.name] = (spec.command, seen)
                return inputs
        return None

    # ---- does it load? -----------------------------------------------------------------------------------------------

    async def broken(
        self, spec: AgentSpec, inputs: Inputs, changed: Collection[Path], tolerated: Collection[Gone] = ()
    ) -> str | None:
        """Why the agent cannot load with these changed files, one sentence per line; None: nothing speaks against it.

        ``tolerated``: ``Inputs.gone`` of what serves now. It works with those, so our verdict on them is wrong."""
        found = await self._unreadable(spec, [path for path in sorted(changed) if path in inputs.files])
        if not found:
            found = gone_imports(inputs, changed, tolerated)
        return "\n".join(broken.text(self._root) for broken in found) or None

    async def _unreadable(self, spec: AgentSpec, changed: Sequence[Path]) -> list[Broken]:
        try:
            return await loads(await self.environment_of(spec), changed, self._shell)
        except InterpreterError:
            return []  # said when it is started

    def forget_bytecode(self, changed: Iterable[Path]) -> None:
        """Python compares the time in whole seconds and the size: a second save within one could go unseen."""
        for file in changed:
            if file.suffix == ".py":
                for stale in stale_bytecode(file):
                    try:
                        stale.unlink(missing_ok=True)
                    except OSError:
                        continue  # not ours to delete: Python's own check has to do

    # ---- the work, in a thread ---------------------------------------------------------------------------------------

    def _find(self, spec: AgentSpec, environment: Environment | None) -> Inputs:
        with self._disk.lock:
            look = Look(self._disk)
            program = _Program(spec, environment, self._disk, look, self._roots_of(spec, environment), self._shell)
            inputs = self._with_globs(spec, program.inputs())
        ignored = frozenset(path for path in inputs.paths if self._ignore.user_ignored(path))
        return replace(inputs, ignored=ignored)

    def _roots_of(self, spec: AgentSpec, environment: Environment | None) -> tuple[str, ...]:
        roots = [*self._project_roots, *_own_places(spec)]
        if environment is not None:
            roots += _editable_roots(environment)
        return tuple(dict.fromkeys(place for root in roots for place in (str(root), os.path.realpath(root))))

    def _with_globs(self, spec: AgentSpec, inputs: Inputs) -> Inputs:
        globs = globs_of(self._root, _patterns(spec))
        inputs = replace(inputs, globs=globs, env_files=frozenset(spec.env_files), watched=spec.watch is not False)
        matched, full = self._matched(inputs)
        notes = (*inputs.notes, f"more than {MOST_MATCHED} files match; the rest is left out") if full else inputs.notes
        warning = inputs.warning
        if not (inputs.files or globs or inputs.directories) and inputs.watched and inputs.known:
            warning = warning or "no known inputs: only a watch glob or its keys in mesh.toml can reload it"
        return replace(inputs, matched=matched, notes=notes, warning=warning)

    def _matched(self, inputs: Inputs) -> tuple[frozenset[Path], bool]:
        """What globs, watched folders and plug-in packages hold now; and whether that is too much."""
        found: set[Path] = set()
        for path in self._candidates(inputs):
            found.add(path)
            if len(found) >= MOST_MATCHED:
                return frozenset(found), True
        return frozenset(found), False

    def _candidates(self, inputs: Inputs) -> Iterator[Path]:
        ignored = self._ignore.discovery_ignored
        for glob in inputs.globs:
            for path in () if glob.negated else self._below(glob.base, depth_of(glob), ignored):
                if inputs.heeds(path, ignored):
                    yield path
        for folder in inputs.directories:
            yield from (path for path in self._below(folder, None, ignored) if not ignored(path))
        for folder in inputs.folders:
            yield from (path for path in self._below(folder, 1, ignored) if path.suffix == ".py")

    def _below(self, base: Path, depth: int | None, ignored: Callable[[Path], bool]) -> Iterator[Path]:
        """Files in ``base``, at most ``depth`` folders down (None: all). What is ignored is not entered, unless it is
        named: then only version control and bytecode are passed over."""
        named = ignored(base / "x")
        waiting = [(str(base), 1)]
        if base.is_file():
            yield base
        while waiting:
            folder, level = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)
                elif (depth is None or level < depth) and not self._passed_over(entry, named, ignored):
                    waiting.append((entry.path, level + 1))

    def _passed_over(self, entry: os.DirEntry[str], named: bool, ignored: Callable[[Path], bool]) -> bool:
        if entry.name in {".git", "__pycache__"}:
            return True
        return not named and ignored(Path(entry.path) / "x")


def depth_of(glob: Glob) -> int | None:
    """How many folders down a pattern can match; None: any."""
    rest = glob.text.removeprefix("!")
    if glob.spec is None or "**" in rest:
        return None
    parts = rest.split("/")
    first = next(index for index, part in enumerate(parts) if set("*?[") & set(part))
    return len(parts) - first if "." in parts[-1] else None


def _patterns(spec: AgentSpec) -> tuple[str, ...]:
    return () if spec.watch is False else spec.watch


# ---- one program ---------------------------------------------------------------------------------------------------


class _Program:
    """One agent's program, read on one look at the disk. It is what commandline.py calls Surroundings."""

    def __init__(
        self,
        spec: AgentSpec,
        environment: Environment | None,
        disk: Disk,
        look: Look,
        roots: tuple[str, ...],
        shell: Mapping[str, str],
    ) -> None:
        self._spec, self._environment, self._roots = spec, environment, roots
        self._disk, self._look = disk, look
        self._environ = {**shell, **spec.environment}
        self._directory = str(spec.directory)
        self._declared = declared_scripts(spec.directory)

    def inputs(self) -> Inputs:
        started = self._started()
        if started.entry is not None:
            inputs = self._of_entry(started, started.entry)
            return replace(inputs, third_party=inputs.third_party | ({started.tool} if started.tool else set()))
        third_party = frozenset({started.tool} if started.tool else ())
        if not started.python or started.tool:
            return self._of_directory(started, third_party)
        return Inputs(known=False, warning=_UNKNOWN, third_party=third_party)

    def _started(self) -> Started:
        match self._spec.command:
            case Script(path):
                return read_command((*self._python_words(), str(path)), self._directory, self)
            case Module(name):
                return read_command((*self._python_words(), "-m", name, *self._spec.args), self._directory, self)
            case CommandLine(argv):
                return read_command((*argv, *self._spec.args), self._directory, self)

    def _python_words(self) -> tuple[str, ...]:
        return ("python", "-P") if self._environ.get("PYTHONSAFEPATH") else ("python",)

    def _of_directory(self, started: Started, third_party: frozenset[str]) -> Inputs:
        folder = Path(started.directory)
        note = f"its folder {folder} is watched as a whole, less what is ignored"
        return Inputs(directories=(folder,), notes=(note,), third_party=third_party)

    def _of_entry(self, started: Started, entry: Entry) -> Inputs:
        search = self._search(started)
        found = self._disk.closure(self._spec.name, entry, search, self._look)
        files = {**self._existing(found), **_behind_links(found)}
        outside = [f"imports from {folder}, which is below no root: add it to watch.roots" for folder in found.outside]
        return Inputs(
            files=files,
            missing={**found.missing, **_absent(found, self._look)},
            folders=found.folders,
            third_party=found.third_party,
            gone=found.gone,
            notes=(*sorted(outside), *found.notes),
            known=bool(files),
            warning=None if files else _UNKNOWN,
        )

    def _existing(self, found: Closure) -> dict[Path, Step]:
        return {file: step for file, step in found.files.items() if self._look.is_file(str(file))}

    def _search(self, started: Started) -> Search:
        environment = self._environment
        # A command may be one of a project that is not installed yet; a script has only what its Python has.
        declared = self._declared.path if isinstance(self._spec.command, CommandLine) else ()
        path = (*self._python_path(started), *(environment.path if environment else ()), *declared)
        if environment is None:
            return Search(path, self._roots, directory=started.directory, certain=False)
        return Search(
            path=path,
            roots=self._roots,
            foreign=environment.foreign,
            mappings=environment.mappings,
            namespaces=environment.namespaces,
            builtin=environment.builtin,
            stdlib=environment.stdlib,
            extensions=environment.extensions,
            directory=started.directory,
            certain=not environment.strange and not self._may_sync(),
        )

    def _may_sync(self) -> bool:
        """``uv run`` installs before it runs: what is missing now may be there then."""
        command = self._spec.command
        return isinstance(command, CommandLine) and not Path(command.argv[0]).name.startswith("python")

    def _python_path(self, started: Started) -> tuple[str, ...]:
        text = self._environ.get("PYTHONPATH", "")
        if not text or started.ignores_pythonpath:
            return ()
        return tuple(os.path.normpath(os.path.join(started.directory, entry)) for entry in text.split(os.pathsep))  # noqa: PTH118

    # -- Surroundings

    def real_path(self, path: str) -> str:
        return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114

    def is_file(self, path: str) -> bool:
        return self._look.is_file(path)

    def is_python_script(self, path: str) -> bool:
        try:
            with open(path, "rb") as opened:  # noqa: PTH123
                first = opened.readline(200)
        except OSError:
            return False
        return first.startswith(b"#!") and b"python" in first

    def console_script(self, name: str) -> str | None:
        installed = self._environment.scripts.get(name) if self._environment is not None else None
        return installed or self._declared.scripts.get(name)

    def which(self, name: str) -> str | None:
        path = self._environ.get("PATH", os.defpath)
        if self._environment is not None:
            path = f"{self._environment.python.parent}{os.pathsep}{path}"
        return shutil.which(os.path.join(self._directory, name) if "/" in name else name, path=path)  # noqa: PTH118

    def place_of(self, module: str, front: tuple[str, ...]) -> Place | None:
        search = self._search(Started(None, directory=self._directory))
        spot = Finder(replace(search, path=(*front, *search.path)), self._look).find(module)
        if spot is None:
            return None
        return "project" if spot.ours else "elsewhere"


def _absent(found: Closure, look: Look) -> dict[Path, Path | None]:
    """Files where the program starts that are not there: they matter as soon as they are."""
    return {file: step.via for file, step in found.files.items() if not look.is_file(str(file))}


def _behind_links(found: Closure) -> dict[Path, Step]:
    """The real files behind links: that is where an editor saves, and what the watcher names."""
    folders: dict[str, str] = {}
    real: dict[Path, Step] = {}
    for file in found.files:
        name = str(file)
        folder, _, last = name.rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        target = os.path.realpath(name) if os.path.islink(name) else f"{folders[folder]}/{last}"  # noqa: PTH114
        if target != name and Path(target) not in found.files:
            real[Path(target)] = Step(file, "a link")
    return real


_NO_PYTHON = frozenset({"sh", "bash", "zsh", "dash", "node", "npm", "npx", "deno", "bun", "go"})


def _may_be_python(spec: AgentSpec) -> bool:
    """Whether asking the interpreter can tell anything: not for ``node`` or a shell."""
    if not isinstance(spec.command, CommandLine):
        return True
    return Path(spec.command.argv[0]).name not in {
        "sh",
        "bash",
        "zsh",
        "dash",
        "node",
        "npm",
        "npx",
        "deno",
        "bun",
        "go",
    }


# ---- what pyproject.toml declares ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declared:
    """Of the nearest project: its console scripts, and where its modules are before it is installed."""

    scripts: Mapping[str, str]
    path: tuple[str, ...]


def declared_scripts(directory: Path) -> Declared:
    """From the pyproject.toml nearest upward, and from the members of its uv workspace: known before the first
    ``uv run`` has made an environment."""
    for folder in (directory, *directory.parents):
        project = _read_toml(folder / "pyproject.toml")
        if project is not None:
            places = [folder, *_members(folder, project)]
            scripts: dict[str, str] = {}
            for place in reversed(places):
                table = project if place == folder else _read_toml(place / "pyproject.toml") or {}
                scripts |= _table(table, "project", "scripts")
            path = [str(place / "src") for place in places if (place / "src").is_dir()]
            return Declared({key: str(target) for key, target in scripts.items()}, (*path, *map(str, places)))
    return Declared({}, ())


def _members(folder: Path, project: Mapping[str, Any]) -> list[Path]:
    members = _table(project, "tool", "uv", "workspace").get("members", [])
    if not isinstance(members, list):
        return []
    return [place for pattern in members for place in _matching(folder, str(pattern)) if place.is_dir()]


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError):  # "" and "/x" are no patterns; uv says so
        return []


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        inner = table.get(key, {})
        if not isinstance(inner, dict):
            return {}
        table = inner
    return table


def _read_toml(file: Path) -> Mapping[str, Any] | None:
    """None: not there, or not TOML; whoever builds the project says so."""
    try:
        now = file.stat()
    except OSError:
        return None
    return _parsed_toml(file, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=256)
def _parsed_toml(file: Path, changed_at: int, size: int) -> Mapping[str, Any] | None:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None


# ---- roots -----------------------------------------------------------------------------------------------------------


def project_roots(root: Path, more: Iterable[Path] = ()) -> tuple[Path, ...]:
    """mesh.toml's folder, the git or uv workspace around it, and ``more`` (``watch.roots``). A home folder that is
    itself under version control is no project."""
    around = [folder for folder in (root, *root.parents) if _is_workspace(folder)]
    return outermost([root, *_of_a_size(around), *more])


def _of_a_size(folders: Iterable[Path]) -> list[Path]:
    """Never the whole system or a whole home, whoever names it."""
    too_much = {Path("/"), Path.home()}
    return [folder for folder in folders if folder not in too_much]


def _is_workspace(folder: Path) -> bool:
    if (folder / ".git").exists():
        return True
    project = _read_toml(folder / "pyproject.toml")
    return project is not None and bool(_table(project, "tool", "uv", "workspace"))


def _editable_roots(environment: Environment) -> list[Path]:
    """Project folders of editable installs, and where their modules are, if that is elsewhere."""
    places = [Path(target).parent for target in environment.mappings.values()]
    places += [Path(folder) for folders in environment.namespaces.values() for folder in folders]
    return _of_a_size([*environment.editable, *places])


def _own_places(spec: AgentSpec) -> list[Path]:
    """Where an agent's own code is because mesh.toml says so: its script's folder, its directory, its PYTHONPATH."""
    places = [spec.directory]
    if isinstance(spec.command, Script):
        places += [spec.command.path.parent, Path(os.path.realpath(spec.command.path)).parent]
    text = spec.environment.get("PYTHONPATH", "")
    places += [Path(os.path.normpath(spec.directory / entry)) for entry in text.split(os.pathsep) if entry]
    return _of_a_size(places)


def outermost(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Without those that lie in another."""
    kept: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(outer) for outer in kept):
            kept.append(folder)
    return tuple(kept)


# ---- verdicts --------------------------------------------------------------------------------------------------------


def gone_imports(inputs: Inputs, changed: Collection[Path], tolerated: Collection[Gone] = ()) -> list[Broken]:
    """Imports that this change has broken. Only where the change has to do with it, and what serves does not already
    live with the same verdict."""
    known = {(gone.file, gone.message) for gone in tolerated}
    moved = frozenset(changed)
    return [
        Broken(gone.file, gone.line, gone.kind + ": " + gone.message)
        for gone in inputs.gone
        if (gone.file, gone.message) not in known and _concerns(gone, moved)
    ]


def _concerns(gone: Gone, changed: frozenset[Path]) -> bool:
    if gone.candidates & changed:
        return True  # it was there, and this change took it away
    return gone.sure and (gone.file in changed or gone.module in changed)


def stale_bytecode(file: Path) -> list[Path]:
    """The compiled files of one module, of every Python version."""
    return [*(file.parent / "__pycache__").glob(f"{_plain(file.stem)}.*.pyc")]


def _plain(name: str) -> str:
    """``glob`` gives a meaning to brackets."""
    return name.replace("[", "[[]")


# ---- a process that runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    argv: tuple[str, ...]
    directory: Path


def _command_lines(pid: int) -> list[Running]:
    """Of a process and its descendants, the youngest last: ``uv run x`` is the parent of what it runs."""
    try:
        top = psutil.Process(pid)
        processes = [*reversed(top.children(recursive=True)), top]
    except psutil.Error:
        return []
    found = []
    for process in processes:
        try:
            found.append(Running(tuple(process.cmdline()), Path(process.cwd())))
        except psutil.Error:
            continue
    return [running for running in found if running.argv]
