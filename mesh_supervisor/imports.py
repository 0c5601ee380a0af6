"""PURE. A program's entry → every project file that it imports.

A file outside ``Search.roots``, or in a folder of ``Search.foreign`` (standard library, site-packages), is no input and
is not read; its top-level name is noted as third-party. Paths are plain strings inside and ``Path`` in the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from posixpath import basename, dirname, join, normpath

from mesh_supervisor.finder import Finder, Search, Spot, Tree, below
from mesh_supervisor.source import STAR, Import, PathEdit, Source

MAIN = "__main__"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a program starts: a ``script``, a ``module`` (as ``python -m`` runs it), ``code`` (``python -c``), and
    ``imported``: modules that its launcher imports (``uvicorn app.main:app``, a console script). ``front``: folders
    that stand before the interpreter's ``sys.path`` because it is started that way."""

    script: str | None = None
    module: str | None = None
    code: Source | None = None
    imported: tuple[str, ...] = ()
    front: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """How a file came in: ``via`` is the file that imports it (None: the program starts there)."""

    via: Path | None
    how: str


@dataclass(frozen=True, slots=True)
class Gone:
    """An import that cannot work any more. ``sure``: found without a guess; else it only counts when one of
    ``candidates`` used to be an input (the module was the project's and was deleted). ``module``: the file that lacks
    the name."""

    file: Path
    line: int
    message: str
    kind: str = "ModuleNotFoundError"
    sure: bool = True
    candidates: frozenset[Path] = frozenset()
    module: Path | None = None


@dataclass(frozen=True, slots=True)
class Closure:
    """``missing``: files that do not exist and would answer an import if they did (it failed, or they would come
    first), each with the file that imports. ``folders``: every module in them counts, also new ones (plug-ins).
    ``outside``: folders that the program imports from and that are below no root. ``notes``: what was not followed."""

    files: Mapping[Path, Step]
    third_party: frozenset[str] = frozenset()
    missing: Mapping[Path, Path | None] = field(default_factory=dict)
    folders: Mapping[Path, Path | None] = field(default_factory=dict)
    gone: tuple[Gone, ...] = ()
    outside: frozenset[Path] = frozenset()
    notes: tuple[str, ...] = ()


def closure(entry: Entry, search: Search, tree: Tree) -> Closure:
    """Everything that the program imports. Folders that its own code puts on ``sys.path`` are found on the way, and
    may answer imports seen before: then once more, until there is nothing new."""
    search = replace(search, path=_unique((*entry.front, *search.path)))
    for _ in range(8):
        walk = _Walk(search, tree)
        walk.start(entry)
        wider = _widened(search, walk.edits)
        if wider.path == search.path:
            break
        search = wider
    return walk.result()


def _widened(search: Search, edits: Iterable[PathEdit]) -> Search:
    front: list[str] = []
    back: list[str] = []
    for edit in edits:
        folder = normpath(join(search.directory, edit.folder))
        # The last one inserted at 0 stands first.
        if edit.front:
            front.insert(0, folder)
        else:
            back.append(folder)
    known = set(search.path)
    new_front = [folder for folder in front if folder not in known]
    return replace(search, path=_unique((*new_front, *search.path, *back)))


def _unique(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(folders))


# ---- the walk ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Visit:
    """One file under one module name. ``certain``: it is loaded at every start. ``quiet``: and nothing before it
    could have made more modules findable."""

    file: str
    name: str
    package: str
    certain: bool
    quiet: bool


@dataclass(frozen=True, slots=True)
class _Suspect:
    """An import that seems not to work; judged at the end, when all files are known."""

    visit: _Visit
    found: Import
    message: str
    attribute: str = ""
    unknown: bool = False  # nowhere in the project, so it could be somebody else's
    candidates: tuple[str, ...] = ()
    module: str | None = None


class _Walk:
    """Follows imports from an entry. Certain ones first, so that each file is known as certainly loaded if it is."""

    def __init__(self, search: Search, tree: Tree) -> None:
        self._search = search
        self._tree = tree
        self._finder = Finder(search, tree)
        self._files: dict[str, tuple[str | None, str]] = {}
        self._missing: dict[str, str | None] = {}
        self._folders: dict[str, str] = {}
        self._third_party: set[str] = set()
        self._certain: list[_Visit] = []
        self._others: list[_Visit] = []
        self._seen: set[tuple[str, str]] = set()
        self._suspects: list[_Suspect] = []
        self._outside: set[str] = set()
        self._notes: list[str] = []
        self._poked: set[str] = set()
        self._unruly = not search.certain
        self.edits: list[PathEdit] = []

    def start(self, entry: Entry) -> None:
        origin = _Visit("", "", "", certain=True, quiet=True)
        if entry.script is not None:
            self._add(entry.script, MAIN, "", origin, "the program")
        if entry.code is not None:
            self._read(origin, entry.code)
        for name in entry.imported:
            self._import(name, origin, Import(name, firm=True, quiet=True))
        if entry.module is not None:
            self._run_module(entry.module, origin)
        while self._certain or self._others:
            visit = self._certain.pop(0) if self._certain else self._others.pop(0)
            source = self._tree.source(visit.file)
            if source is not None:
                self._read(visit, source)

    def _run_module(self, name: str, origin: _Visit) -> None:
        """``python -m NAME``: its packages are imported, then it runs as ``__main__``, a package by its __main__.py."""
        spot = self._finder.find(name)
        if spot is not None and spot.inside is not None:
            name += "." + MAIN
        parent, _, _ = name.rpartition(".")
        if parent:
            self._import(parent, origin, Import(parent, firm=True, quiet=True))
        spot = self._finder.find(name)
        self._pass_over(name, "")
        if spot is None:
            self._note_missing(name, "")
            self._suspect_start(name)
        elif spot.file is not None and spot.ours:
            self._add(spot.file, MAIN, parent, origin, "the program")
        else:
            self._third_party.add(name.partition(".")[0])

    def _add(self, file: str, name: str, package: str, by: _Visit, how: str, sure: Import | None = None) -> None:
        self._files.setdefault(file, (by.file or None, how))
        if (file, name) in self._seen:
            return
        certain = by.certain and (sure is None or sure.firm)
        visit = _Visit(file, name, package, certain, certain and by.quiet and (sure is None or sure.quiet))
        if not certain:
            self._others.append(visit)
            return
        self._seen.add((file, name))
        self._certain.append(visit)

    def _read(self, visit: _Visit, source: Source) -> None:
        if not visit.certain:
            if (visit.file, visit.name) in self._seen:
                return
            self._seen.add((visit.file, visit.name))
        self.edits.extend(source.path_edits)
        self._poked |= source.poked
        self._unruly |= source.unruly
        self._notes += [f"{visit.file}: {note}" for note in source.notes]
        for found in source.imports:
            if not found.main_only or visit.name in {MAIN, ""}:
                self._follow(found, visit)
        for file in source.run_files:
            file = normpath(join(self._search.directory, file))
            if self._search.owns(file) and basename(file) in self._tree.names(dirname(file)):
                self._add(file, MAIN, "", visit, "run by path", Import(""))

    # -- one import statement

    def _follow(self, found: Import, visit: _Visit) -> None:
        name = _absolute(found, visit.package)
        if not name or name == MAIN:
            return
        if found.guess and not self._is_ours(name):
            return
        spot = self._import(name, visit, found)
        if spot is None or not spot.ours:
            return
        if found.open_end:
            self._import_all(name, spot, visit, found)
        source = self._tree.source(spot.file) if spot.file is not None else None
        if spot.file is not None and source is None:
            return
        for wanted in self._wanted(found, source):
            self._import_from(name, wanted, spot, source, visit, found)

    def _wanted(self, found: Import, source: Source | None) -> tuple[str, ...]:
        """The names of a ``from`` import; of ``*`` those in ``__all__`` (which may name submodules)."""
        if found.names != (STAR,):
            return found.names
        public = source.public if source is not None else None
        return public or ()

    def _is_ours(self, name: str) -> bool:
        spot = self._finder.find(name) if name else None
        return spot is not None and spot.ours and (spot.file is not None or "." in name)

    def _import(self, name: str, visit: _Visit, found: Import) -> Spot | None:
        """``import a.b.c`` loads a, a.b and a.b.c. Returns the spot of the last, None if one of them is missing."""
        spot = None
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            prefix = ".".join(parts[:count])
            spot = self._finder.find(prefix)
            self._pass_over(prefix, visit.file)
            if spot is None:
                self._fail(name, prefix, visit, found)
                return None
            if spot.file is not None and spot.ours:
                package = prefix if spot.inside is not None else prefix.rpartition(".")[0]
                self._add(spot.file, prefix, package, visit, str(found), found)
            elif not spot.ours:
                self._note_foreign(parts[0])
                return spot
        return spot

    def _import_from(
        self, name: str, wanted: str, spot: Spot, source: Source | None, visit: _Visit, found: Import
    ) -> None:
        """``from name import wanted``: an attribute of the module if it has one, else a submodule."""
        if source is not None and self._is_attribute(wanted, name, source):
            return
        full = f"{name}.{wanted}"
        if spot.inside is not None:
            if self._finder.find(full) is not None:
                self._import(full, visit, found)
                return
            if source is None or wanted not in source.bound:
                self._note_missing(full, visit.file)
        self._suspect_attribute(name, wanted, spot, source, visit, found)

    def _is_attribute(self, wanted: str, package: str, source: Source) -> bool:
        """Is the name surely bound whenever somebody asks the package for it? Not after an import of the project's
        own: that may lead back here in a circle, before the name is bound, and then Python loads the submodule."""
        before = source.firmly_bound.get(wanted)
        return before is not None and not any(
            self._is_ours(_absolute(found, package)) for found in source.imports[:before]
        )

    def _import_all(self, name: str, spot: Spot, visit: _Visit, found: Import) -> None:
        for folder in spot.inside or ():
            if self._search.owns(folder):
                self._folders.setdefault(folder, visit.file)
        for module in self._finder.modules_in(spot):
            self._import(f"{name}.{module}", visit, replace(found, firm=False, guess=True))

    # -- what is not there

    def _pass_over(self, name: str, by: str) -> None:
        for file in self._finder.passed(name):
            self._missing.setdefault(file, by or None)

    def _note_missing(self, name: str, by: str) -> None:
        self._pass_over(name, by)
        for file in self._finder.candidates(name) if self._finder.find(name.partition(".")[0]) is None else ():
            self._missing.setdefault(file, by or None)

    def _note_foreign(self, top: str) -> None:
        if top not in self._search.stdlib and top not in self._search.builtin:
            self._third_party.add(top)

    def _fail(self, name: str, prefix: str, visit: _Visit, found: Import) -> None:
        self._note_missing(name, visit.file)
        top = prefix if "." not in prefix else ""
        if top:
            self._note_foreign(top)
        if not visit.file and not found.guess and found.firm:
            self._suspect_start(name)
        if found.guess or not visit.certain or not found.firm or not visit.file:
            return
        parent = self._finder.find(prefix.rpartition(".")[0]) if not top else None
        shared = parent is not None and not all(map(self._search.owns, parent.inside or ()))
        candidates = (*self._finder.passed(prefix), *(self._finder.candidates(name) if top else ()))
        if self._finder.is_clear(prefix):
            message = f"No module named '{prefix}'"
            self._suspects.append(_Suspect(visit, found, message, unknown=bool(top) or shared, candidates=candidates))

    def _suspect_start(self, name: str) -> None:
        """The module that the program starts in is nowhere: it counts when it was there, and was deleted."""
        files = tuple(dict.fromkeys((*self._finder.passed(name), *self._finder.candidates(name))))
        if files and self._finder.is_clear(name):
            place = _Visit(files[-1], "", "", certain=True, quiet=False)
            message = f"No module named '{name}'"
            self._suspects.append(_Suspect(place, Import(name), message, unknown=True, candidates=files))

    def _suspect_attribute(
        self, name: str, wanted: str, spot: Spot, source: Source | None, visit: _Visit, found: Import
    ) -> None:
        if not visit.certain or not found.firm or not visit.file or found.guess or found.names == (STAR,):
            return
        if wanted.startswith("__") and wanted.endswith("__"):
            return
        if source is not None and (source.dynamic or source.extends_path or wanted in source.bound):
            return
        if self._finder.is_clear(f"{name}.{wanted}"):
            message = f"cannot import name '{wanted}' from '{name}'"
            files = self._finder.passed(f"{name}.{wanted}")
            self._suspects.append(_Suspect(visit, found, message, attribute=wanted, candidates=files, module=spot.file))

    # -- the end

    def result(self) -> Closure:
        files = {
            Path(file): Step(Path(via) if via is not None else None, how) for file, (via, how) in self._files.items()
        }
        return Closure(
            files=files,
            third_party=frozenset(self._third_party),
            missing={Path(file): Path(by) if by else None for file, by in self._missing.items()},
            folders={Path(folder): Path(by) if by else None for folder, by in self._folders.items()},
            gone=tuple(self._judged()),
            outside=frozenset(Path(folder) for folder in self._search.path if self._is_outside(folder)),
            notes=tuple(self._notes),
        )

    def _is_outside(self, folder: str) -> bool:
        """On the path, with Python files, and neither project nor installed: edits there would go unseen."""
        if below(folder, self._search.roots) or below(folder, self._search.foreign):
            return False
        return any(name.endswith(".py") for name in self._tree.names(folder))

    def _judged(self) -> Iterator[Gone]:
        """Suspects that are left when it is known what every file of the program does."""
        for suspect in self._suspects:
            if suspect.attribute in self._poked and suspect.attribute:
                continue
            if self._unruly and not suspect.attribute:
                continue
            sure = not suspect.unknown or (suspect.visit.quiet and suspect.found.quiet)
            yield Gone(
                Path(suspect.visit.file),
                suspect.found.line,
                suspect.message,
                "ImportError" if suspect.attribute else "ModuleNotFoundError",
                sure,
                frozenset(Path(file) for file in suspect.candidates),
                None if suspect.module is None else Path(suspect.module),
            )


def _absolute(found: Import, package: str) -> str:
    """The full name of a relative import; '' where Python would refuse it (a script has no package)."""
    if not found.level:
        return found.module
    parts = package.split(".") if package else []
    if found.level > len(parts):
        return ""
    kept = parts[: len(parts) - found.level + 1]
    return ".".join([*kept, found.module] if found.module else kept)
