"""Which files the program really reads and writes, told to the supervisor as it happens (rules T of the runtime).

An audit hook sees every ``open`` of Python code before it happens; whether it succeeds is not said. Told are:

    reads   [path, "module", via, stamp, at]                               imported: its source, whatever was cached
            [path, "data", via, stamp, place, times, first, last]          opened to be read
            [folder, "list", via, stamp, place, times, first, last]        listed (iterdir, glob, scandir)
            [folder, "dropped"]                                            more data files than we tell of
    writes  path                                                           itself, or what is below it
            folder + "/*"                                                  many files in that folder

``via``: the nearest file of the project on the stack. ``stamp``: [modified_ns, size, inode] at that moment; None: there
was no such file. ``place``: who opened it, by names of files and functions (lines move with every edit).
``at``, ``first``, ``last``: monotonic seconds; ``times``: how often since it was told before: a file that is opened
again and again is read at each request. Only what lies below the roots is looked at closely.
"""

from __future__ import annotations

import os
import sys
import time
from _contextvars import ContextVar

from .hints import Any, FrameType
from .link import Link

PER_FOLDER = 200
IN_ALL = 1000
"""Data files that are told of."""

MODULES = 5000
MOST_PLACES = 8
"""From which one file is opened, that are told apart."""

APART = 0.2
"""Seconds after which two opens are two occasions, even where nothing else tells them apart."""

BATCH = 20_000
"""Characters of records in one packet, roughly; JSON may need six times as many bytes."""

FRAMES = 60
"""Of the stack that are looked at; web frameworks are deep."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IMPORTLIB = "<frozen importlib._bootstrap"
ZIPIMPORT = "<frozen zipimport>"
NOT_THE_PROGRAM = frozenset({"linecache.py", "tokenize.py", "inspect.py", "traceback.py"})
"""They read sources in order to show them."""
LISTS_FOR_IMPORTS = ("/importlib/", "/pkg_resources/", "/importlib_metadata/", IMPORTLIB, ZIPIMPORT)
NEVER_INSIDE = ("/__pycache__/", "/.git/", "/site-packages/", "/dist-packages/", ".egg-info/", ".dist-info/")
OURS = os.path.dirname(os.path.abspath(__file__)) + "/"

_occasion: ContextVar[float | None] = ContextVar("_meshsup_occasion", default=None)
"""When what runs in this context (a request, as a rule) opened its first file. The number as an object is its name."""


def install(link: Link, options: dict[str, Any] | None) -> None:
    """``options``: ``roots`` and ``never``, absolute folders; ``data``: whether data files are told of. None: nothing
    is done. An audit hook cannot be taken out again: not in a process that will be forked for others."""
    if options and options.get("roots"):
        sys.addaudithook(_hook(_Trace(link, options)))


def _hook(trace: _Trace) -> Any:
    """A closure, and in the order of what happens most: it is called for everything that Python does."""
    known, near, never, files = trace.known, trace.near, trace.never, trace.files
    opened, reopened, others = trace.opened, trace.reopened, trace.others

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        try:
            if event == "open":
                path, mode, flags = arguments
                if path in known and not flags & WRITES:
                    return
                if path in files and not flags & WRITES:
                    reopened(path)
                elif type(path) is not str or path[:1] != "/" or (path.startswith(near) and not path.startswith(never)):
                    opened(path, mode, flags)
            elif event in others:
                others[event](arguments)
        except Exception:  # noqa: BLE001, S110 - it would reach the program as an error of its own open()
            pass

    return hook


class _Opens:
    """Of one file from one place."""

    __slots__ = ("at", "first", "occasion", "pause", "times", "told")

    def __init__(self) -> None:
        self.occasion: float | None = None
        self.times = self.told = 0
        self.first = self.at = 0.0
        self.pause = 0.1

    def again(self, now: float) -> tuple[int, float] | None:
        """(times, first) to be told; None: nothing. Two opens of one request, or in one loop, are one."""
        occasion = _occasion.get()
        if occasion is None or now - occasion > APART:
            # What is set here is seen in this context and those that it starts, not by the next request.
            _occasion.set(occasion := float(now))
        if occasion is self.occasion:
            return None
        self.occasion = occasion
        self.times += 1
        if self.times == 1:
            self.first = now
        # Four at once, then ever more seldom: what counts is whether it goes on.
        if self.told >= 4 and now < self.at + self.pause:
            return None
        self.pause = self.pause * 2 if self.told >= 4 else self.pause
        told = self.times, self.first
        self.told, self.times, self.at = self.told + 1, 0, now
        return told


_Places = dict[tuple[str, ...], _Opens]
"""By the names of files and functions that lead to the open."""


class _Trace:
    def __init__(self, link: Link, options: dict[str, Any]) -> None:
        self._link = link
        self.roots = tuple(_folder(root) for root in options["roots"])
        self.near = (*self.roots, _folder(sys.pycache_prefix)) if sys.pycache_prefix else self.roots
        installed = (place for place in sys.path if place.endswith(("/site-packages", "/dist-packages")))
        places = (OURS, os.path.dirname(os.__file__), *installed, *options.get("never", ()))
        self.never = tuple(_folder(place) for place in places)
        # Who keeps a project in such a place means it.
        self._words = tuple(word for word in NEVER_INSIDE if not any(word in root for root in self.roots))
        self._data = options.get("data", True)
        self.known: set[Any] = set()
        """As they are opened: nothing more is to be said of them."""
        self.files: dict[Any, tuple[str, _Places]] = {}
        """Data files as they are opened: (path, places)."""
        self._modules: set[str] = set()
        self._places: dict[str, _Places] = {}
        self._lists: dict[str, _Places] = {}
        self._sources: dict[str, str | None] = {}
        self._folders: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._count = 0
        self._pending: list[list[Any]] = []
        link.relieved = self._tell_pending
        self._written: set[str] = set()
        self._written_in: dict[str, int] = {}
        self.others = {
            "import": self._extension,
            "os.listdir": self._listed,
            "os.scandir": self._listed,
            "os.rename": self._moved,
            "os.link": self._linked,
            "os.symlink": self._linked,
            "os.remove": self._removed,
            "os.truncate": self._truncated,
            "sqlite3.connect": self._database,
        }

    # ---- reads -------------------------------------------------------------------------------------------------------

    # The hook calls these: two frames up is who opened, listed or imported.

    def opened(self, raw: Any, mode: str | None, flags: int) -> None:
        path = None if flags & os.O_DIRECTORY else _absolute(raw)  # or O_TMPFILE: a file without a name
        if path is None:
            return
        if flags & WRITES:
            self._write(path)
            return
        frame = sys._getframe(2)
        if path.endswith((".pyc", ".pyo")):
            path = _source_of(path)
            if self._concerns(path):
                self._module(raw, path, frame)
        elif not self._concerns(path):
            self._forget(raw)
        elif _is_import(frame.f_code.co_filename) and path.endswith((".py", ".zip", ".egg", ".pyz")):
            self._module(raw, path, frame)
        elif mode is None and path != raw and _stamp(path) is None:
            return  # what is relative for os.open() may be so to another folder (dir_fd); the event does not say
        elif self._data and frame.f_code.co_filename.rpartition("/")[2] not in NOT_THE_PROGRAM:
            self._read(raw, path, frame)

    def reopened(self, raw: Any) -> None:
        frame = sys._getframe(2)
        if frame.f_code.co_filename.rpartition("/")[2] not in NOT_THE_PROGRAM:
            path, places = self.files[raw]
            self._occur(path, "data", places, frame)

    def _module(self, raw: Any, path: str, frame: FrameType) -> None:
        self._forget(raw)
        if path in self._modules or len(self._modules) >= MODULES:
            return
        self._modules.add(path)
        via, _ = self._place(frame)
        self._tell([path, "module", via, _stamp(path), time.monotonic()])

    def _extension(self, arguments: tuple[Any, ...]) -> None:
        path = arguments[1]  # only where a library is loaded
        if path is not None and path.startswith(self.roots) and self._concerns(path):
            self._module(path, path, sys._getframe(2))

    def _read(self, raw: Any, path: str, frame: FrameType) -> None:
        places = self._places.get(path)
        if places is None:
            places = self._enter(path)
        if places is not None:
            if type(raw) is str and raw[:1] == "/" and len(self.files) < 4 * IN_ALL:
                self.files[raw] = path, places
            self._occur(path, "data", places, frame)

    def _enter(self, path: str) -> _Places | None:
        """The place for one more data file; None where there are too many, or it is none."""
        folder = path.rpartition("/")[0]
        if folder in self._dropped or self._dropped_out() or not _is_file(path):
            return None
        count = self._folders.get(folder, 0) + 1
        if count > PER_FOLDER or self._count >= IN_ALL:
            self._drop(folder)
            return None
        self._folders[folder] = count
        self._count += 1
        return self._places.setdefault(path, {})

    def _dropped_out(self) -> bool:
        return len(self._dropped) >= IN_ALL

    def _drop(self, folder: str) -> None:
        self._dropped.add(folder)
        self._count -= self._folders.pop(folder, 0)
        for path in [path for path in self._places if path.rpartition("/")[0] == folder]:
            del self._places[path]
        for raw in [raw for raw, (path, _) in self.files.items() if path not in self._places]:
            del self.files[raw]
        self._tell([folder, "dropped"])

    def _listed(self, arguments: tuple[Any, ...]) -> None:
        raw = arguments[0] if arguments[0] is not None else "."
        if not self._data or (type(raw) is str and raw[:1] == "/" and not (raw + "/").startswith(self.roots)):
            return
        frame = sys._getframe(2)
        if any(word in frame.f_code.co_filename for word in LISTS_FOR_IMPORTS):
            return
        path = _absolute(raw)
        if path is None or not self._concerns(path + "/"):
            return
        if path in self._lists or len(self._lists) < PER_FOLDER:
            self._occur(path, "list", self._lists.setdefault(path, {}), frame)

    def _occur(self, path: str, how: str, places: _Places, frame: FrameType) -> None:
        via, place = self._place(frame)
        if place not in places and len(places) >= MOST_PLACES:
            place = ("elsewhere",)
        opens = places.get(place)
        if opens is None:
            opens = places[place] = _Opens()
        now = time.monotonic()
        told = opens.again(now)
        if told is not None:
            self._tell([path, how, via, _stamp(path), " < ".join(place), *told, now])

    def _place(self, frame: FrameType | None) -> tuple[str | None, tuple[str, ...]]:
        """The nearest file of the project on the stack, and the place: the innermost function, and the two nearest of
        the project."""
        via: str | None = None
        place: tuple[str, ...] = ()
        if frame is not None:
            place = frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name
        for _ in range(FRAMES):
            if frame is None or len(place) == 6:
                break
            code = frame.f_code
            source = self._source(code.co_filename)
            if source is not None:
                via = via or source
                place = *place, source, code.co_name
            frame = frame.f_back
        return via, place

    def _source(self, file: str) -> str | None:
        """Its absolute path, if a function of that file is one of the project's."""
        try:
            return self._sources[file]
        except KeyError:
            path = _absolute(file) if file[:1] != "<" else None
            self._sources[file] = path if path is not None and self._concerns(path) else None
            return self._sources[file]

    # ---- writes ------------------------------------------------------------------------------------------------------

    def _write(self, path: str) -> None:
        if path in self._written or not self._concerns(path):
            return
        folder = path.rpartition("/")[0]
        if folder + "/*" in self._written:
            return
        count = self._written_in[folder] = self._written_in.get(folder, 0) + 1
        if len(self._written) >= IN_ALL:
            path = self._outermost(path)
        elif count > PER_FOLDER:
            path = folder + "/*"
        if path not in self._written:
            self._written.add(path)
            self._link.tell("writes", files=[path])

    def _outermost(self, path: str) -> str:
        """The folder of a root that it is in: who writes everywhere below it is not told of file by file."""
        root = max((root for root in self.roots if path.startswith(root)), key=len)
        return root + path[len(root) :].partition("/")[0]

    def _removed(self, arguments: tuple[Any, ...]) -> None:
        self._write_all(arguments[:1], arguments[1:])

    def _truncated(self, arguments: tuple[Any, ...]) -> None:
        self._write_all(arguments[:1])

    def _moved(self, arguments: tuple[Any, ...]) -> None:
        self._write_all(arguments[:2], arguments[2:])

    def _linked(self, arguments: tuple[Any, ...]) -> None:
        self._write_all(arguments[1:2], arguments[2:])

    def _write_all(self, raws: tuple[Any, ...], folders: tuple[int, ...] = ()) -> None:
        """``folders``: descriptors that relative paths are relative to; -1: none."""
        for raw in raws if all(fd == -1 for fd in folders) else ():
            path = _absolute(raw)
            if path is not None:
                self._write(path)

    def _database(self, arguments: tuple[Any, ...]) -> None:
        path = os.fsdecode(arguments[0])
        if path.startswith("file:"):
            path = path[5:].partition("?")[0]
            path = path[path.index("/", 2) :] if path.startswith("//") else path
        absolute = _absolute(path) if path and path != ":memory:" else None
        if absolute is not None:
            self._write(absolute)

    # ---- both --------------------------------------------------------------------------------------------------------

    def _concerns(self, path: str) -> bool:
        """Below a root, and not in one of the places that never count."""
        if not path.startswith(self.roots) or path.startswith(self.never):
            return False
        return not any(word in path for word in self._words)

    def _forget(self, raw: Any) -> None:
        if len(self.known) < 4 * MODULES and type(raw) is str and raw[:1] == "/":
            self.known.add(raw)

    def _tell(self, record: list[Any]) -> None:
        """At once, so that a save right after it is seen; many together while the supervisor does not keep up."""
        self._pending.append(record)
        if not self._link.crowded:
            self._tell_pending()

    def _tell_pending(self) -> None:
        while self._pending:
            batch, size = [], 0
            try:
                while size < BATCH:
                    record = self._pending.pop(0)
                    size += 200 + sum([len(word) for word in record if type(word) is str])
                    batch.append(record)
            except IndexError:
                pass
            self._link.tell("reads", files=batch)


def _folder(path: str) -> str:
    return path.rstrip("/") + "/"


def _absolute(raw: Any) -> str | None:
    """None: no path (a descriptor), or a folder that is gone."""
    if type(raw) is int:
        return None
    try:
        path = os.fsdecode(raw)
        return os.path.normpath(path if path[:1] == "/" else os.getcwd() + "/" + path)
    except (OSError, TypeError, ValueError):
        return None


def _source_of(cached: str) -> str:
    """The module's source for its bytecode; a module that has only bytecode is its own."""
    prefix = sys.pycache_prefix
    folder, _, name = cached.rpartition("/")
    if prefix and cached.startswith(prefix.rstrip("/") + "/"):
        folder = folder[len(prefix.rstrip("/")) :]
    elif folder.endswith("/__pycache__"):
        folder = folder[: -len("/__pycache__")]
    else:
        return cached
    return f"{folder}/{name.partition('.')[0]}.py"


def _is_import(file: str) -> bool:
    """The import system, or our own runner, which reads the program."""
    return file.startswith((IMPORTLIB, ZIPIMPORT, OURS))


def _is_file(path: str) -> bool:
    """Or nothing yet."""
    try:
        return (os.stat(path).st_mode & 0o170000) == 0o100000
    except (OSError, ValueError):
        return True


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [max(status.st_mtime_ns, status.st_ctime_ns), status.st_size, status.st_ino]
