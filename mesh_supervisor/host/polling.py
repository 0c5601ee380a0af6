"""Watching by looking again, where no events come: the stats of known files, and the listings of a few folders.

Costs a stat per file and look (a few milliseconds for a thousand files), in a thread: a network file system may take
its time without stopping the mesh.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mesh_supervisor.host.filesystems import is_folder

INTERVAL = 0.5
"""Seconds between two looks."""

# Where times are whole seconds, two saves of equal length within one are told apart only by looking at the content;
# so a file that young is reported again, and whoever compares content finds out.
_COARSE_NS = 1_000_000_000
_YOUNG_NS = 2 * _COARSE_NS

Sign = tuple[int, int, int, int]
"""mtime_ns, ctime_ns, size, inode."""


def sign(path: str) -> Sign | None:
    """What a change of the file changes; None: there is no such file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def look(files: Collection[str], folders: Collection[str], prunes: Callable[[str], bool]) -> dict[str, Sign | None]:
    """The signs of these files, and of every file below these folders that is not pruned."""
    signs = {path: sign(path) for path in files}
    for folder in folders:
        for path in _files_below(folder, prunes):
            if path not in signs:
                signs[path] = sign(path)
    return signs


def changes(old: dict[str, Sign | None], new: dict[str, Sign | None], *, now_ns: int) -> set[str]:
    """Paths that differ. One that is only in one of both counts when it exists there: it came, or it went."""
    differing = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    return differing | {path for path, one in new.items() if one is not None and _may_be_stale(one, now_ns)}


def _may_be_stale(one: Sign, now_ns: int) -> bool:
    return one[0] % _COARSE_NS == 0 and one[1] % _COARSE_NS == 0 and 0 <= now_ns - one[0] < _YOUNG_NS


def _files_below(top: str, prunes: Callable[[str], bool]) -> Iterator[str]:
    waiting = [top]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(entries)
        except OSError:
            continue
        for entry in found:
            if not is_folder(entry):
                yield entry.path
            elif not prunes(entry.path):
                waiting.append(entry.path)


class Poller:
    """Looks every ``INTERVAL`` s and calls ``report(paths)`` in the loop's thread with what has changed."""

    def __init__(self, *, prunes: Callable[[str], bool], report: Callable[[set[str]], None]) -> None:
        self._prunes, self._report = prunes, report
        self._files: frozenset[str] = frozenset()
        self._folders: frozenset[str] = frozenset()
        self._signs: dict[str, Sign | None] = {}
        self._task: asyncio.Task[None] | None = None

    def aim(self, files: Collection[str], folders: Collection[str]) -> None:
        """Look at these from now on. What is new among them is taken as it is at this moment; what was known already
        is compared with what was last seen of it."""
        if (frozenset(files), frozenset(folders)) == (self._files, self._folders):
            return
        self._files, self._folders = frozenset(files), frozenset(folders)
        kept = {path: one for path, one in self._signs.items() if self._aimed_at(path)}
        self._signs = {**look(self._files, self._folders, self._prunes), **kept}

    def _aimed_at(self, path: str) -> bool:
        return path in self._files or any(path.startswith(folder.rstrip("/") + "/") for folder in self._folders)

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._poll(), name="poll the watched files")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            files, folders = self._files, self._folders
            fresh = await asyncio.to_thread(look, files, folders, self._prunes)
            if (files, folders) != (self._files, self._folders):
                continue  # aimed elsewhere meanwhile: the next look compares like with like
            found = changes(self._signs, fresh, now_ns=time.time_ns())
            self._signs = fresh
            if found:
                self._report(found)
