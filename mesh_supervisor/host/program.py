"""One agent's program, read from disk: its command line, what that starts, what it imports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mesh_supervisor.commandline import Place, Started, read_command
from mesh_supervisor.finder import Finder, Search
from mesh_supervisor.host.interpreter import Environment
from mesh_supervisor.host.projects import declared_scripts
from mesh_supervisor.host.sources import Disk, Look
from mesh_supervisor.impact import Inputs
from mesh_supervisor.imports import Closure, Entry, Gone, Step
from mesh_supervisor.spec import AgentSpec, CommandLine, Module, Script

_UNKNOWN = "no known inputs before it runs: its program is not found, or not installed yet"


class ProgramOnDisk:
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
        note = f"its folder {folder} is watched as a whole, less what is ignored; a `directory` of its own narrows that"
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
            gone=(*found.gone, *_deleted(found, self._look)),
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
        """``uv run`` installs before it runs: what is missing now may be there then. A script that is installed
        beside the interpreter (``uvicorn``) takes things as they are."""
        command = self._spec.command
        if not isinstance(command, CommandLine) or Path(command.argv[0]).name.startswith("python"):
            return False
        return self._environment is None or Path(command.argv[0]).name not in self._environment.scripts

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


def _deleted(found: Closure, look: Look) -> list[Gone]:
    """The same files as a verdict, for the moment in which one is deleted: the program cannot start without it."""
    return [
        Gone(file, 0, "no such file", "FileNotFoundError", sure=False, candidates=frozenset({file}))
        for file in _absent(found, look)
    ]


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
