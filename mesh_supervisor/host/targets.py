"""What an agent's command line runs, looked up on disk (target.py decides)."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mesh_supervisor.host.interpreter import Environment, Interpreter, InterpreterError, Interpreters, argv_of
from mesh_supervisor.spec import AgentSpec
from mesh_supervisor.target import Plain, Python, Target, target_of
from mesh_supervisor.uvrun import normalized

START = 64 * 1024


class Targets:
    """``shell``: the environment that agents inherit."""

    def __init__(self, shell: Mapping[str, str], interpreters: Interpreters) -> None:
        self._shell, self._interpreters = shell, interpreters

    async def of(self, spec: AgentSpec, interpreter: Interpreter) -> Target | Plain:
        """As it is on disk now. Never raises."""
        if not spec.runtime:
            return Plain("runtime = false", "remove `runtime = false` from mesh.toml")
        known: dict[str, Environment | None] = {}
        while True:
            ground = _OnDisk(spec, interpreter, {**self._shell, **spec.environment}, known)
            argv = argv_of(spec, interpreter)
            found = await asyncio.to_thread(target_of, argv, str(spec.directory), ground)
            if not ground.unknown:
                return found
            for python in ground.unknown:
                known[python] = await self._ask(python)

    async def _ask(self, python: str) -> Environment | None:
        try:
            return await self._interpreters.inspect(Path(python))
        except InterpreterError:
            return None


class _OnDisk:
    """What target.py calls Ground. Interpreters that it must be told about first are in ``unknown`` afterwards."""

    def __init__(
        self,
        spec: AgentSpec,
        interpreter: Interpreter,
        environ: Mapping[str, str],
        known: Mapping[str, Environment | None],
    ) -> None:
        self._directory, self._environ, self._known = str(spec.directory), environ, known
        own = f"{interpreter.bin}{os.pathsep}" if interpreter.bin is not None else ""
        self._path = own + environ.get("PATH", os.defpath)
        self.python = str(interpreter.python)
        self.unknown: set[str] = set()

    def which(self, name: str) -> str | None:
        return shutil.which(os.path.join(self._directory, name) if "/" in name else name, path=self._path)  # noqa: PTH118

    def real_path(self, path: str) -> str:
        return os.path.realpath(path)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)  # noqa: PTH113

    def start_of(self, path: str) -> str:
        try:
            with open(path, "rb") as opened:  # noqa: PTH123
                return opened.read(START).decode(errors="surrogateescape")
        except OSError:
            return ""

    def text(self, path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def variable(self, name: str) -> str | None:
        return self._environ.get(name)

    def about(self, python: str) -> Python | None:
        environment = self._environment(python)
        if environment is None:
            return None
        return Python(environment.version, "pypy" if "__pypy__" in environment.builtin else "cpython")

    def installed(self) -> Mapping[str, str]:
        environment = self._environment(self.python)
        folders = environment.foreign if environment is not None else ()
        found: dict[str, str] = {}
        for folder in reversed(folders):
            found |= _distributions(folder, _changed_at(folder))
        return found

    def _environment(self, python: str) -> Environment | None:
        if python not in self._known:
            self.unknown.add(python)
        return self._known.get(python)


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _distributions(folder: str, changed_at: int) -> dict[str, str]:
    """By the names of their folders. ``changed_at`` is part of the key: a new one changes the time of ``folder``."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return {}
    found = {}
    for name in names:
        if name.endswith(".dist-info"):
            distribution, _, version = name.removesuffix(".dist-info").rpartition("-")
            found[normalized(distribution)] = version
    return found
