"""Folders watched through inotify, on watchdog's reader: one descriptor and one thread, however many folders.

watchdog's own observer watches a root with everything below it (``node_modules`` and environments too), takes a thread
per scheduled path, holds back a move out of the tree for half a second, and keeps a queue overflow to itself. This
stands one floor below it, on its ``InotifyFD``, and decides folder by folder. Moves are not paired: what went away and
what came are both changes.

Nothing is lost between "a folder appeared" and "it is watched": the watch is added first, then what is already there
is listed and reported.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

# We say ourselves, in the words of a mesh, what watchdog would print to stderr.
logging.getLogger("watchdog").addHandler(logging.NullHandler())

_NAMES = (
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
)
# Never opens, reads and closes: our own reading of the tree would make events, and so on for ever.
_CONTENTS = _NAMES | InotifyConstants.IN_MODIFY | InotifyConstants.IN_CLOSE_WRITE

# The folder is gone, is no folder any more, or is not ours to read: nothing to watch, and no failure.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM})


class Depth(IntEnum):
    """How much of a folder is watched. NAMES: only coming and going. FILES: also what is written to its files. TREE:
    that, and everything below it."""

    NAMES = 0
    FILES = 1
    TREE = 2


_MASKS = {Depth.NAMES: Mask(_NAMES), Depth.FILES: Mask(_CONTENTS), Depth.TREE: Mask(_CONTENTS)}


@dataclass(slots=True)
class _Folder:
    path: str
    depth: Depth
    callback: CallbackId


class FolderWatch:
    """A set of watched folders. All paths are real (no symlink in them) and absolute.

    ``prunes(folder)`` says which subfolders a tree leaves out. The other callbacks come from the reader's thread (or,
    of ``report``, from the thread that calls ``cover``): ``report(file)`` for one that came, went or was written;
    ``turned(folder)`` for a folder that came or went; ``vanished(folder)`` for one that was moved away with all its
    content; ``overflowed()`` when the kernel dropped events; ``failed(error)`` when a limit forbids to watch a new one.

    Raises OSError (EMFILE) when the system has no inotify instance left.
    """

    def __init__(
        self,
        *,
        prunes: Callable[[str], bool],
        report: Callable[[str], None],
        turned: Callable[[str], None],
        vanished: Callable[[str], None],
        overflowed: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._prunes, self._report, self._turned, self._vanished = prunes, report, turned, vanished
        self._overflowed, self._failed = overflowed, failed
        # Held while a watch is added and noted down, so that its first event finds it noted.
        self._lock = threading.RLock()
        self._folders: dict[WatchDescriptor, _Folder] = {}
        self._descriptors: dict[str, WatchDescriptor] = {}
        self._callbacks = itertools.count(1)
        self._closed = False
        self._reader = InotifyFD()
        self._reader.start()

    # ---- asked by the watcher --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._folders)

    def cover(self, top: str, *, announce: bool) -> None:
        """Watch ``top`` and everything below it that is not pruned; ``announce`` reports each file that is there.
        Raises OSError when a limit is reached (ENOSPC)."""
        with self._lock:
            waiting = [top]
            while waiting:
                waiting += self._enter(waiting.pop(), announce=announce)

    def watch(self, folder: str, depth: Depth) -> bool:
        """Watch this one folder, at least that deep; it need not exist. Whether that was news. Raises OSError when a
        limit is reached."""
        with self._lock:
            return not self._watched_already(folder, depth) and self._add(folder, depth)

    def drop(self, top: str) -> None:
        """Watch nothing of ``top`` any more."""
        with self._lock:
            below = top.rstrip("/") + "/"
            gone = [(wd, one) for wd, one in self._folders.items() if one.path == top or one.path.startswith(below)]
            self._forget(gone)

    def keep_single(self, wanted: Collection[str]) -> None:
        """Of the folders watched by themselves (not as part of a tree) keep only these."""
        with self._lock:
            gone = [(wd, one) for wd, one in self._folders.items() if one.depth < Depth.TREE and one.path not in wanted]
            self._forget(gone)

    def close(self) -> None:
        """Ends the reader's thread; no callback comes after this returns."""
        self._closed = True
        self._reader.stop()
        self._reader.join()

    # ---- how folders come and go -----------------------------------------------------------------------------------

    def _enter(self, folder: str, *, announce: bool) -> list[str]:
        """Watch one folder of a tree, then list it; answers the subfolders to enter next."""
        if not self._add(folder, Depth.TREE):
            return []
        deeper: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        if announce:
                            self._report(entry.path)
                    elif not self._prunes(entry.path):
                        deeper.append(entry.path)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
        return deeper

    def _add(self, path: str, depth: Depth) -> bool:
        """Whether ``path`` is there to be watched, and is now."""
        callback = CallbackId(next(self._callbacks))
        try:
            wd = self._reader.add_callback(os.fsencode(path), _MASKS[depth], self, callback)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
        if wd < 0:  # how watchdog says EACCES
            return False
        self._note(wd, _Folder(path, depth, callback))
        return True

    def _watched_already(self, path: str, depth: Depth) -> bool:
        known = self._descriptors.get(path)
        return known is not None and self._folders[known].depth >= depth

    def _note(self, wd: WatchDescriptor, folder: _Folder) -> None:
        known = self._folders.get(wd)
        if known is not None:
            # The same folder again: the earlier callback stays, so that no event falls between two.
            self._reader.remove_callbacks([(wd, folder.callback)])
            folder.callback = known.callback
            folder.depth = max(folder.depth, known.depth)
            if self._descriptors.get(known.path) == wd:
                del self._descriptors[known.path]
        self._folders[wd] = folder
        self._descriptors[folder.path] = wd

    def _forget(self, gone: Iterable[tuple[WatchDescriptor, _Folder]]) -> None:
        gone = list(gone)
        for wd, folder in gone:
            self._forget_descriptor(wd, folder)
        self._reader.remove_callbacks([(wd, folder.callback) for wd, folder in gone])

    def _forget_descriptor(self, wd: WatchDescriptor, folder: _Folder) -> None:
        del self._folders[wd]
        # By now the path may belong to a newer folder of the same name.
        if self._descriptors.get(folder.path) == wd:
            del self._descriptors[folder.path]

    # ---- told by the reader ----------------------------------------------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        """watchdog's word for: something happened in a watched folder."""
        with self._lock:
            folder = self._folders.get(event.wd)
            if folder is None or self._closed:
                return
            path = f"{folder.path.rstrip('/')}/{os.fsdecode(event.name)}" if event.name else folder.path
            if event.name and event.is_directory:
                self._follow(event, folder, path)
        if event.is_directory:
            self._turned(path)
        else:
            self._report(path)

    def _follow(self, event: InotifyEvent, folder: _Folder, path: str) -> None:
        """A subfolder came or went."""
        if event.is_moved_from:
            # It lives on elsewhere under another name, and would go on reporting under this one.
            self.drop(path)
            self._vanished(path)
        elif (event.is_create or event.is_moved_to) and folder.depth is Depth.TREE and not self._prunes(path):
            try:
                self.cover(path, announce=True)
            except OSError as error:
                self._failed(error)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """watchdog's word for: the kernel has taken this watch away (deleted, unmounted)."""
        with self._lock:
            folder = self._folders.get(wd)
            if folder is None or self._closed:
                return
            self._forget_descriptor(wd, folder)
        self._turned(folder.path)

    def on_queue_overflow(self) -> None:
        """watchdog's word for: the kernel dropped events; asked once of every callback object."""
        self._overflowed()
