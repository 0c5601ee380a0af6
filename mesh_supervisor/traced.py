"""PURE. What instances of one agent really read and wrote → what of it are inputs (rules T of the runtime).

    records ─► heard() ─► Traced ─► verdicts() ─► inputs, and what was read and is none, with the reason
                            ▲
    settled() at ready, wrote(), caused() by a reload, edited() by a person

A module is an input once it was imported. A data file is one unless an agent of the mesh writes it, its name says that
programs write such files, it is opened again and again while requests are served (then each request sees what is in it
anyway), there are too many like it in its folder, or it caused too many reloads.

What is known of one generation is passed on to the next: what that reads before it is ready replaces what its
predecessor read before it was ready; what was only read later is kept for a while.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from mesh_supervisor.spec import AgentSpec

How = Literal["module", "data", "list"]
Stamp = tuple[int, int, int]
"""(nanoseconds of the last change, bytes, inode) of a file when it was opened."""

FORGOTTEN_AFTER = 20
"""Generations in which nobody read it, for what is only read after ready."""

MOST_RELOADS = 5
WINDOW = 60.0
"""Seconds in which one data file may cause so many reloads."""

MOST_KEPT = 6000
"""Files of one agent; its runtime tells of fewer."""

MOST_PLACES = 20
"""From which one file is opened."""

LONGEST_PATH = 4096  # PATH_MAX of Linux

PROGRAMS_WRITE = (
    *("*.db", "*.db3", "*.sqlite", "*.sqlite3", "*.duckdb", "*.mdb", "*.rdb"),
    *("*-journal", "*-wal", "*-shm", "*.wal", "*.lock", "*.pid", "*.sock", "*.tmp"),
    *("*.log", "*.log.[0-9]*", "*~", "*.swp", "*.pyc"),
)
"""Names of databases, their journals, logs, and what else programs write for themselves."""

_PROGRAMS_WRITE = re.compile("|".join(map(translate, PROGRAMS_WRITE)))

AT_EACH_REQUEST = "read at each request: the next one sees a change without a reload"
MUTED = f"muted: it caused more than {MOST_RELOADS} reloads in {WINDOW:g} s without an edit of code"
TOO_MANY = "too many data files of its folder are read"


class Record(NamedTuple):
    """One thing that a runtime said. ``how`` "dropped": it tells no more of the files in this folder."""

    path: Path
    how: How | Literal["dropped"]
    via: Path | None = None
    stamp: Stamp | None = None
    place: str = ""
    times: int = 1
    first: float = 0.0
    last: float = 0.0


def records_of(files: object) -> list[Record]:
    """Of a packet. What is none is passed over: it comes from an agent's process."""
    return [record for row in _list(files) if (record := _record(row)) is not None]


def paths_of(files: object) -> list[str]:
    """The writes of a packet."""
    return [path for path in _list(files) if _is_path(path)]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_path(value: object) -> bool:
    """One that the system could have given: it comes from an agent's process."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or len(value) > LONGEST_PATH:
        return False
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _record(row: object) -> Record | None:
    match row:
        case [str(path), "dropped"] if _is_path(path):
            return Record(Path(path), "dropped")
        case [str(path), "module", via, stamp, float(at)] if _is_path(path):
            return Record(Path(path), "module", _path(via), _stamp(stamp), first=at, last=at)
        case [str(path), "data" | "list" as how, via, stamp, str(place), int(times), float(first), float(last)]:
            if _is_path(path):
                return Record(Path(path), how, _path(via), _stamp(stamp), place[:500], times, first, last)
    return None


def _path(value: object) -> Path | None:
    return Path(str(value)) if _is_path(value) else None


def _stamp(value: object) -> Stamp | None:
    match value:
        case [int(changed), int(size), int(inode)]:
            return changed, size, inode
    return None


# ---- what is known -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """How one file was opened from one place. ``again``: on several occasions while requests were served."""

    late: int = 0
    again: bool = False


_NO_PLACES: Mapping[str, Place] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Known:
    """One file, or a folder that was listed. ``generation``: the last that read it; ``early``: before it was ready.
    ``absent``: there was no such file."""

    how: How
    via: Path | None
    generation: int
    early: bool
    absent: bool = False
    places: Mapping[str, Place] = field(default_factory=lambda: _NO_PLACES)

    @property
    def at_each_request(self) -> bool:
        return bool(self.places) and all(place.again for place in self.places.values())


_NOTHING: Mapping[Path, Known] = MappingProxyType({})
_NO_WRITES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Traced:
    """``writes``: path, or folder with ``/*`` → the generation that wrote it last. ``reloads``: (path, time) of those
    that data files caused lately."""

    files: Mapping[Path, Known] = field(default_factory=lambda: _NOTHING)
    folders: Mapping[Path, Known] = field(default_factory=lambda: _NOTHING)
    writes: Mapping[str, int] = field(default_factory=lambda: _NO_WRITES)
    dropped: frozenset[Path] = frozenset()
    muted: frozenset[Path] = frozenset()
    reloads: tuple[tuple[Path, float], ...] = ()


def heard(known: Traced, generation: int, records: Iterable[Record], ready_at: float | None) -> Traced:
    """``ready_at``: when this generation became ready (monotonic seconds); None: it is not."""
    files, folders, dropped = dict(known.files), dict(known.folders), set(known.dropped)
    for record in records:
        if record.how == "dropped":
            dropped |= {record.path} if len(dropped) < MOST_KEPT else set()
            continue
        known_ones = folders if record.how == "list" else files
        before = known_ones.get(record.path)
        if before is None and len(known_ones) >= MOST_KEPT:
            continue
        known_ones[record.path] = _with(before, record, record.how, generation, ready_at)
    return replace(known, files=files, folders=folders, dropped=frozenset(dropped))


def _with(before: Known | None, record: Record, how: How, generation: int, ready_at: float | None) -> Known:
    if before is not None and before.generation > generation:
        return before  # an old instance that drains
    early = ready_at is None or record.first < ready_at
    if before is None or before.how != how:
        before = Known(how, record.via, generation, early)
    elif before.generation < generation:
        # What its predecessor did again and again from a place, it will do too, until something else is seen.
        again = {place: Place(0, again=True) for place, one in before.places.items() if one.again}
        before = replace(before, generation=generation, early=early, places=again)
    places = before.places
    if how != "module" and (record.place in places or len(places) < MOST_PLACES):
        places = {**places, record.place: _opened(places.get(record.place, Place()), record, ready_at)}
    # A module is imported once: who asked first is the one to name.
    via = before.via or record.via
    return replace(before, via=via, early=before.early or early, absent=record.stamp is None, places=places)


def _opened(place: Place, record: Record, ready_at: float | None) -> Place:
    if ready_at is None or record.last < ready_at:
        return place
    late = place.late + (record.times if record.first >= ready_at else 1)
    return Place(late, again=place.again or late > 1)


def settled(known: Traced, generation: int) -> Traced:
    """This generation is ready: what it has not read on its way there is not read on the way there any more."""

    def kept(one: Known) -> bool:
        return one.generation >= (generation - FORGOTTEN_AFTER if not one.early else generation)

    return replace(
        known,
        files={path: one for path, one in known.files.items() if kept(one)},
        folders={path: one for path, one in known.folders.items() if kept(one)},
        writes={path: by for path, by in known.writes.items() if by >= generation - FORGOTTEN_AFTER},
    )


def wrote(known: Traced, generation: int, paths: Collection[str]) -> Traced:
    if len(known.writes) + len(paths) > MOST_KEPT:
        return known
    return replace(known, writes={**known.writes, **dict.fromkeys(paths, generation)})


# ---- too many reloads --------------------------------------------------------------------------------------------


def caused(known: Traced, paths: Collection[Path], now: float) -> tuple[Traced, frozenset[Path]]:
    """These data files, and nothing else, would cause a reload now. Returns those that are muted instead."""
    recent = [(path, at) for path, at in known.reloads if now - at < WINDOW]
    muted = frozenset(path for path in paths if sum(path == one for one, _ in recent) >= MOST_RELOADS)
    reloads = (*recent, *((path, now) for path in paths if path not in muted))
    return replace(known, reloads=reloads, muted=known.muted | muted), muted


def edited(known: Traced, code: Collection[Path] | None = None) -> Traced:
    """A person has edited code (None: nobody knows which): what was muted gets another chance, and what these files
    did again and again they may now do once."""
    names = None if code is None else [str(path) for path in code]

    def kept(one: Known) -> Known:
        places = {
            name: place
            for name, place in one.places.items()
            if not place.again or (names is not None and not any(file in name for file in names))
        }
        return one if len(places) == len(one.places) else replace(one, places=places)

    return replace(
        known,
        reloads=(),
        muted=frozenset(),
        files={path: kept(one) for path, one in known.files.items()},
        folders={path: kept(one) for path, one in known.folders.items()},
    )


# ---- what agents write -------------------------------------------------------------------------------------------


class Written:
    """What any agent of the mesh writes, itself or the folder it is in."""

    def __init__(self, all_known: Mapping[str, Traced]) -> None:
        self._writers: dict[str, str] = {}
        for agent, known in all_known.items():
            for path in known.writes:
                self._writers.setdefault(path, agent)

    def by(self, path: Path) -> str | None:
        """The agent; None: nobody that we know of."""
        if not self._writers:
            return None
        text, folder = str(path), str(path.parent)
        found = self._writers.get(text) or self._writers.get(f"{folder}/*")
        while found is None and len(folder) > 1:
            found, folder = self._writers.get(folder), folder.rpartition("/")[0]
        return found


# ---- verdicts ----------------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """A folder that was listed: a new file in it counts if it ends like one that was read there."""

    endings: frozenset[str]
    via: Path | None


class Verdicts(NamedTuple):
    """``read``: inputs, with the file of the project that reads them. ``modules``, ``absent``: those of them that were
    imported, or were not there. ``asides``: what was read, and is no input, with the reason; a folder stands for
    all files in it."""

    read: Mapping[Path, Path | None]
    modules: frozenset[Path]
    absent: frozenset[Path]
    listings: Mapping[Path, Listing]
    asides: Mapping[Path, str]


def verdicts(known: Traced, writer: Callable[[Path], str | None], *, data: bool = True) -> Verdicts:
    """``writer``: which agent writes this file. ``data`` False: modules only."""
    asides: dict[Path, str] = {}
    read: dict[Path, Path | None] = {}
    for path, one in known.files.items():
        if one.how == "data" and not data:
            continue
        why = None if one.how == "module" else _aside(path, one, known, writer)
        if why is None:
            read[path] = one.via
        elif not one.absent:
            asides[path] = why
    asides |= dict.fromkeys(known.dropped, TOO_MANY) if data else {}
    modules = frozenset(path for path in read if known.files[path].how == "module")
    absent = frozenset(path for path in read if known.files[path].absent)
    return Verdicts(read, modules, absent, _listings(known, read) if data else {}, asides)


def _aside(path: Path, one: Known, known: Traced, writer: Callable[[Path], str | None]) -> str | None:
    """Why a data file is no input."""
    by = writer(path)
    if by is not None:
        return f"{by} writes it"
    if _PROGRAMS_WRITE.match(path.name):
        return "programs write such files"
    if path.parent in known.dropped:
        return TOO_MANY
    if path in known.muted:
        return MUTED
    return AT_EACH_REQUEST if one.at_each_request else None


def _listings(known: Traced, read: Mapping[Path, Path | None]) -> dict[Path, Listing]:
    endings: dict[Path, set[str]] = {}
    for path in read:
        if path.suffix:
            endings.setdefault(path.parent, set()).add(path.suffix)
    return {
        folder: Listing(frozenset(endings[folder]), one.via)
        for folder, one in known.folders.items()
        if folder in endings and not one.at_each_request and folder not in known.dropped
    }


# ---- which content was read? -------------------------------------------------------------------------------------

THERE = "there"
"""In place of a digest: a file of a folder that was listed; only that it is there counts."""

CHANGED = "changed since it was read"
"""In place of a digest: what an instance read is not known, only that this is something else."""


class Roots(NamedTuple):
    """``digests``: to be put into what the instance was started from. ``assumed``: what stands there for a file that
    only an older instance has read."""

    digests: dict[Path, str | None]
    assumed: set[Path]


def rooted(
    before: Mapping[Path, str | None],
    found: Mapping[Path, tuple[Stamp | None, str | None]],
    new: Mapping[Path, Record],
    assumed: Collection[Path],
) -> Roots:
    """``before``: what the newest instance was started from. ``found``: (stamp, digest) now. ``new``: what that
    instance, or the one that serves, has told of just now, for the first time.

    A file that still is as it was when it was opened holds what was read. That of a module counts only where nothing is
    known from before the spawn: Python may have looked at the source a moment before it opened the bytecode."""
    roots = Roots({}, set(assumed))
    for path, (stamp, digest) in found.items():
        unknown = before.get(path, THERE) == THERE or path in assumed
        record = new.get(path)
        if record is None:
            if unknown:
                roots.digests[path] = digest
                roots.assumed.add(path)
        elif record.stamp == stamp:
            if unknown or record.how == "data":
                roots.digests[path] = digest
                roots.assumed.discard(path)
        elif unknown:
            roots.digests[path] = CHANGED
            roots.assumed.discard(path)
    return roots


# ---- options of the runtime --------------------------------------------------------------------------------------


def trace_options(spec: AgentSpec, roots: Iterable[Path], never: Iterable[Path]) -> dict[str, Any] | None:
    """``trace`` of the start packet; None: nothing is traced. ``never``: folders of which nothing counts, as far as
    they lie in a root (a root in a temporary folder is a root)."""
    roots = tuple(roots)
    if spec.trace is False or not roots:
        return None
    inside = [place for place in never if any(place != root and place.is_relative_to(root) for root in roots)]
    return {"roots": [str(root) for root in roots], "never": [str(p) for p in inside], "data": spec.trace == "auto"}


# ---- kept between runs -------------------------------------------------------------------------------------------


def to_json(known: Traced) -> dict[str, Any]:
    return {
        "files": {str(path): _row(one) for path, one in known.files.items()},
        "folders": {str(path): _row(one) for path, one in known.folders.items()},
        "writes": dict(known.writes),
        "dropped": sorted(map(str, known.dropped)),
        "muted": sorted(map(str, known.muted)),
    }


def _row(one: Known) -> list[Any]:
    via = None if one.via is None else str(one.via)
    again = [place for place, opened in one.places.items() if opened.again]
    once = [place for place, opened in one.places.items() if not opened.again]
    return [one.how, via, one.generation, one.early, one.absent, once, again]


def from_json(kept: object) -> Traced:
    """What is damaged is left out."""
    if not isinstance(kept, Mapping):
        return Traced()
    writes = kept.get("writes")
    return Traced(
        _rows(kept.get("files")),
        _rows(kept.get("folders")),
        {path: by for path, by in writes.items() if _is_path(path) and type(by) is int}
        if isinstance(writes, Mapping)
        else {},
        frozenset(map(Path, paths_of(kept.get("dropped")))),
        frozenset(map(Path, paths_of(kept.get("muted")))),
    )


def _rows(kept: object) -> dict[Path, Known]:
    rows = kept.items() if isinstance(kept, Mapping) else ()
    return {Path(path): one for path, row in rows if _is_path(path) and (one := _known(row)) is not None}


def _known(row: object) -> Known | None:
    match row:
        case [str(how), via, int(generation), bool(early), bool(absent), [*once], [*again]] if how in get_args(How):
            places = _places(once, Place(1)) | _places(again, Place(2, again=True))
            return Known(how, _path(via), generation, early, absent, places)  # type: ignore[arg-type]
    return None


def _places(names: Sequence[object], place: Place) -> dict[str, Place]:
    return {name: place for name in names if isinstance(name, str)}
