"""A file system in memory, for what asks through imports.Tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from posixpath import basename, dirname
from textwrap import dedent

from mesh_supervisor.finder import Search
from mesh_supervisor.imports import Closure, Entry, closure
from mesh_supervisor.source import Source
from mesh_supervisor.syntax import read_source


class MemoryTree:
    """``files``: absolute path → text."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = {path: dedent(text) for path, text in files.items()}
        self._folders: dict[str, dict[str, bool]] = {}
        for path in self._files:
            is_folder = False
            while path != "/":
                self._folders.setdefault(dirname(path), {})[basename(path)] = is_folder
                path, is_folder = dirname(path), True

    def names(self, folder: str) -> Mapping[str, bool]:
        return self._folders.get(folder, {})

    def source(self, file: str) -> Source | None:
        text = self._files.get(file)
        return None if text is None else read_source(text.encode(), file)


STDLIB = frozenset({"os", "sys", "json", "importlib", "typing", "pkgutil", "pathlib", "runpy"})


def project(
    files: Mapping[str, str],
    *,
    entry: Entry | None = None,
    path: tuple[str, ...] = ("/lib", "/site"),
    mappings: Mapping[str, str] | None = None,
    namespaces: Mapping[str, tuple[str, ...]] | None = None,
    roots: tuple[str, ...] = ("/p",),
    certain: bool = True,
) -> Closure:
    """The closure of /p/main.py (as a script) or of ``entry``, in a project at /p with packages installed in /site."""
    standard = {f"/lib/{name}.py": "" for name in STDLIB}
    search = Search(
        path,
        roots,
        foreign=("/lib", "/site"),
        mappings=mappings or {},
        namespaces=namespaces or {},
        builtin=frozenset({"time", "sys"}),
        stdlib=STDLIB,
        extensions=(".cpython-311-x86_64-linux-gnu.so", ".so"),
        directory="/p",
        certain=certain,
    )
    start = entry if entry is not None else Entry(script="/p/main.py", front=("/p",))
    return closure(start, search, MemoryTree({**standard, **files}))


def names(found: Closure) -> set[str]:
    """The files of a closure, relative to /p where they are in it."""
    return {str(file.relative_to("/p")) if file.is_relative_to("/p") else str(file) for file in found.files}


def missing(found: Closure) -> set[str]:
    return {str(Path(file).relative_to("/p")) for file in found.missing}
