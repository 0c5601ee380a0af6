"""The inputs of an agent: its imports as its own interpreter would find them, its globs, its env files.

    spec ─► interpreter ─► what it can import ─► command line ─► entry ─► closure ─► Inputs
            (find)         (ask once)            (pure)                   (pure)

All of this happens before the first start and reads files only. CPU work is done in a thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from mesh_supervisor.host.filesystems import is_folder
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
from mesh_supervisor.host.program import ProgramOnDisk
from mesh_supervisor.host.projects import editable_roots, outermost, own_places, project_roots
from mesh_supervisor.host.sources import Disk, Look
from mesh_supervisor.host.targets import Targets
from mesh_supervisor.impact import Glob, Inputs, globs_of
from mesh_supervisor.imports import Gone
from mesh_supervisor.spec import AgentSpec, Command, CommandLine
from mesh_supervisor.target import Plain, Target

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
        self._targets = Targets(shell, self._interpreters)
        self._disk = Disk()

    def widen(self, more_roots: Sequence[Path]) -> None:
        """Other ``watch.roots`` from now on."""
        self._more_roots = tuple(more_roots)
        self._project_roots = project_roots(self._root, self._more_roots)

    # ---- the interpreter ---------------------------------------------------------------------------------------------

    async def interpreter_of(self, spec: AgentSpec) -> Interpreter:
        return find_interpreter(spec, {**self._shell, **spec.environment}, self._root)

    def argv_of(self, spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]:
        return argv_of(spec, interpreter)

    async def target_of(self, spec: AgentSpec, interpreter: Interpreter) -> Target | Plain:
        return await self._targets.of(spec, interpreter)

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
            found |= {folder for folder in editable_roots(environment) if folder.is_dir()}
            found |= set(own_places(spec))
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
        modules = inputs.files.keys() | {path for path in inputs.modules if path.suffix == ".py"}
        found = await self._unreadable(spec, sorted(path for path in changed if path in modules))
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
            program = ProgramOnDisk(spec, environment, self._disk, look, self._roots_of(spec, environment), self._shell)
            inputs = self._with_globs(spec, program.inputs())
        ignored = frozenset(path for path in inputs.paths if self._ignore.user_ignored(path))
        return replace(inputs, ignored=ignored)

    def _roots_of(self, spec: AgentSpec, environment: Environment | None) -> tuple[str, ...]:
        roots = [*self._project_roots, *own_places(spec)]
        if environment is not None:
            roots += editable_roots(environment)
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
                if not is_folder(entry):
                    yield Path(entry.path)
                elif (depth is None or level < depth) and not self._passed_over(entry, named, ignored):
                    waiting.append((entry.path, level + 1))

    def _passed_over(self, entry: os.DirEntry[str], named: bool, ignored: Callable[[Path], bool]) -> bool:
        if entry.name in {".git", "__pycache__"}:
            return True
        return not named and ignored(Path(entry.path) / "x")


def env_files_there(inputs: Inputs) -> list[Path]:
    """``.env`` is an input also while there is none, but counts as one only when there is."""
    return [file for file in sorted(inputs.env_files) if file.exists()]


def count(inputs: Inputs) -> int:
    """How many files it has been found to depend on, for people."""
    return len(inputs.paths - inputs.env_files - inputs.absent) + len(env_files_there(inputs))


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


_NO_PYTHON = frozenset({"sh", "bash", "zsh", "dash", "node", "npm", "npx", "deno", "bun", "go"})


def _may_be_python(spec: AgentSpec) -> bool:
    """Whether asking the interpreter can tell anything: not for ``node`` or a shell."""
    if not isinstance(spec.command, CommandLine):
        return True
    return Path(spec.command.argv[0]).name not in _NO_PYTHON


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
