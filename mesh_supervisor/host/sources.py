"""Python files and folders as the import system sees them, read once and kept until they change.

``Disk`` remembers between looks, ``Look`` is one look at it: within one look every folder and file is asked for once.
What was read less than two seconds after its last change is read again (a second save of equal length would not show in
its time and size), as git does with its index.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from stat import S_ISDIR, S_ISREG

from mesh_supervisor.finder import Search
from mesh_supervisor.imports import Closure, Entry, closure
from mesh_supervisor.source import Source, merge_broken
from mesh_supervisor.syntax import read_source

_RACY = 2_000_000_000
_NOTHING: Mapping[str, bool] = {}


@dataclass(frozen=True, slots=True)
class _Kept:
    """What stood in a file. ``key``: its time, size and inode then; None: too fresh to be told apart by them."""

    key: tuple[int, int, int] | None
    digest: bytes
    source: Source
    last_good: Source | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions and their answers: what a closure depends on."""

    folders: Mapping[str, Mapping[str, bool]]
    sources: Mapping[str, Source | None]


@dataclass(frozen=True, slots=True)
class _KeptClosure:
    entry: Entry
    search: Search
    asked: Asked
    closure: Closure


@dataclass(slots=True)
class Disk:
    """Shared by all agents. ``lock``: one look at a time; the work is CPU, two threads would only be slower."""

    folders: dict[str, tuple[int, Mapping[str, bool]]] = field(default_factory=dict)
    files: dict[str, _Kept] = field(default_factory=dict)
    closures: dict[str, _KeptClosure] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def closure(self, agent: str, entry: Entry, search: Search, look: Look) -> Closure:
        """The closure of one agent's program, the one of last time if nothing that it was read from has changed."""
        kept = self.closures.get(agent)
        if kept is not None and kept.entry == entry and kept.search == search and look.agrees(kept.asked):
            return kept.closure
        found = closure(entry, search, look)
        self.closures[agent] = _KeptClosure(entry, search, look.asked, found)
        return found


class Look:
    """A ``Tree`` (imports.py). Use it under ``disk.lock``, for one question, and throw it away."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._folders: dict[str, Mapping[str, bool]] = {}
        self._sources: dict[str, Source | None] = {}

    def names(self, folder: str) -> Mapping[str, bool]:
        if folder not in self._folders:
            self._folders[folder] = self._list(folder)
        return self._folders[folder]

    def source(self, file: str) -> Source | None:
        if file not in self._sources:
            self._sources[file] = self._read(file)
        return self._sources[file]

    def is_file(self, file: str) -> bool:
        if self._sources.get(file) is not None:
            return True
        try:
            return S_ISREG(os.stat(file).st_mode)  # noqa: PTH116 (called for every word of a command line)
        except (OSError, ValueError):
            return False

    @property
    def asked(self) -> Asked:
        """Everything that was asked of this look so far, with the answers."""
        return Asked(self._folders, self._sources)

    def agrees(self, asked: Asked) -> bool:
        """Would all those questions be answered the same now?"""
        return all(self.names(folder) == names for folder, names in asked.folders.items()) and all(
            self.source(file) is source for file, source in asked.sources.items()
        )

    def _list(self, folder: str) -> Mapping[str, bool]:
        try:
            now = os.stat(folder)  # noqa: PTH116 (a Path would cost more than the call)
        except (OSError, ValueError):
            return _NOTHING
        if not S_ISDIR(now.st_mode):
            return _NOTHING
        kept = self._disk.folders.get(folder)
        if kept is not None and kept[0] == now.st_mtime_ns:
            return kept[1]
        names = _listing(folder)
        if time.time_ns() - now.st_mtime_ns > _RACY:
            self._disk.folders[folder] = (now.st_mtime_ns, names)
        return names

    def _read(self, file: str) -> Source | None:
        try:
            now = os.stat(file)  # noqa: PTH116
            key = (now.st_mtime_ns, now.st_size, now.st_ino)
            kept = self._disk.files.get(file)
            if kept is not None and kept.key == key:
                return kept.source
            with open(file, "rb") as opened:  # noqa: PTH123
                content = opened.read()
        except (OSError, ValueError):
            return None
        read = _parsed(file, content, kept, key if time.time_ns() - now.st_mtime_ns > _RACY else None)
        self._disk.files[file] = read
        return read.source


@contextmanager
def _no_collection() -> Iterator[None]:
    """A syntax tree is many small objects and no cycles: while it is made, looking for garbage doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _listing(folder: str) -> Mapping[str, bool]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_dir() for entry in entries}
    except OSError:
        return _NOTHING


def _parsed(file: str, content: bytes, kept: _Kept | None, key: tuple[int, int, int] | None) -> _Kept:
    digest = blake2b(content, digest_size=16).digest()
    if kept is not None and kept.digest == digest:
        return _Kept(key, digest, kept.source, kept.last_good)
    with _no_collection():
        source = read_source(content, file)
    if not source.broken:
        return _Kept(key, digest, source, source)
    last_good = kept.last_good if kept is not None else None
    return _Kept(key, digest, source if last_good is None else merge_broken(source, last_good), last_good)
