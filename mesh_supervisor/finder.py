"""PURE. Where a module is, found the way the program's interpreter would find it.

What Python does, in its order: built-in modules; each entry of ``sys.path`` (a package before a module, an extension
before a source, folders without ``__init__`` last, as namespace portions); then the finders of editable installs.
Files are asked for through ``Tree``, so that all of this is tested on trees in memory. Paths are plain strings
(pathlib would cost more than the rest).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from posixpath import basename, dirname, join
from typing import Protocol

from mesh_supervisor.source import Source


class Tree(Protocol):
    """The file system as the import system asks it; all paths absolute."""

    def names(self, folder: str) -> Mapping[str, bool]:
        """What is in a folder: name → whether it is a folder itself. Empty for what is no readable folder."""

    def source(self, file: str) -> Source | None:
        """None: not readable."""


@dataclass(frozen=True, slots=True)
class Search:
    """Where one program looks for modules.

    ``mappings``: full module name → file or package folder; ``namespaces``: name → folders (both from the finders of
    editable installs). ``certain``: nothing but what is listed here answers an import, as far as we know.
    ``directory``: the working directory, for relative folders that a program puts on its path.
    """

    path: tuple[str, ...]
    roots: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    mappings: Mapping[str, str] = field(default_factory=dict)
    namespaces: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    builtin: frozenset[str] = frozenset()
    stdlib: frozenset[str] = frozenset()
    extensions: tuple[str, ...] = (".so",)
    directory: str = "/"
    certain: bool = True

    def owns(self, path: str) -> bool:
        """Is this a place whose files may be inputs?"""
        return below(path, self.roots) and not below(path, self.foreign)


def below(path: str, folders: Iterable[str]) -> bool:
    """Is it one of these folders, or in one?"""
    return any(path == folder or path.startswith(folder if folder == "/" else folder + "/") for folder in folders)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a module is. ``file`` None: a namespace package, or nothing that has source. ``inside``: where its
    submodules are looked for; None: it has none. ``ours``: its file is a project file."""

    file: str | None
    inside: tuple[str, ...] | None
    ours: bool


_FOREIGN = Spot(None, None, False)


class Finder:
    """Finds modules by full name, as Python would, and remembers which missing files it looked past."""

    def __init__(self, search: Search, tree: Tree) -> None:
        self._search = search
        self._tree = tree
        self._found: dict[str, Spot | None] = {}
        self._passed: dict[str, tuple[str, ...]] = {}
        self._owned: dict[str, bool] = {}

    def find(self, name: str) -> Spot | None:
        """None: there is no such module."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def passed(self, name: str) -> tuple[str, ...]:
        """Files that do not exist and would have been taken before (or instead of) what ``find`` found."""
        self.find(name)
        return self._passed.get(name, ())

    def candidates(self, name: str) -> tuple[str, ...]:
        """Files that would answer the import of a name whose parent is missing too: ``x/y.py`` for ``x.y``."""
        inner = name.replace(".", "/")
        folders = [folder for folder in self._search.path if self._owns(folder)]
        return tuple(join(folder, inner + end) for folder in folders for end in ("/__init__.py", ".py"))

    def is_clear(self, name: str) -> bool:
        """No file of any kind (.pyx, .so of another version, .zip) has this name where a module could be."""
        parent, _, tail = name.rpartition(".")
        spot = self.find(parent) if parent else None
        folders = self._search.path if not parent else (spot.inside if spot and spot.inside else ())
        names = (known for folder in folders for known in self._tree.names(folder))
        return not any(known == tail or known.startswith(tail + ".") for known in names)

    def modules_in(self, spot: Spot) -> Iterator[str]:
        """The names of the direct submodules of a package."""
        for folder in spot.inside or ():
            for name, is_folder in self._tree.names(folder).items():
                if is_folder and "__init__.py" in self._tree.names(join(folder, name)):
                    yield name
                elif name.endswith(".py") and name not in {"__init__.py", "__main__.py"}:
                    yield name[:-3]

    def _find(self, name: str) -> Spot | None:
        parent, _, tail = name.rpartition(".")
        if not parent:
            if tail in self._search.builtin:
                return _FOREIGN
            return self._look(name, self._search.path, tail) or self._mapped(name)
        outer = self.find(parent)
        if outer is None or outer.inside is None:
            # A foreign package is not opened, so nothing is known about what is in it.
            return _FOREIGN if outer is not None and not outer.ours and outer.file is None else None
        return self._look(name, outer.inside, tail) or self._mapped(name)

    def _look(self, name: str, folders: tuple[str, ...], tail: str) -> Spot | None:
        passed: list[str] = []
        portions: list[str] = []
        found = None
        for folder in folders:
            found = self._look_in(folder, tail, folders, passed)
            if found is not None:
                break
            if self._tree.names(folder).get(tail):
                portions.append(join(folder, tail))
        self._passed[name] = tuple(passed)
        if found is None and portions:
            portions += self._search.namespaces.get(name, ())
            return Spot(None, tuple(portions), True) if any(map(self._owns, portions)) else _FOREIGN
        return found

    def _look_in(self, folder: str, tail: str, folders: tuple[str, ...], passed: list[str]) -> Spot | None:
        names = self._tree.names(folder)
        ours = self._owns(folder)
        if names.get(tail):
            inner = join(folder, tail)
            inside = self._tree.names(inner)
            if "__init__.py" in inside:
                return self._package(inner, tail, folders, ours)
            if "__init__.pyc" in inside or any("__init__" + end in inside for end in self._search.extensions):
                return _FOREIGN
        if ours:
            passed.append(join(folder, tail, "__init__.py"))
        if any(tail + end in names for end in self._search.extensions):
            return _FOREIGN
        if names.get(tail + ".py") is False:
            return Spot(join(folder, tail + ".py"), None, True) if ours else _FOREIGN
        if ours:
            passed.append(join(folder, tail + ".py"))
        return _FOREIGN if names.get(tail + ".pyc") is False else None

    def _package(self, inner: str, tail: str, folders: tuple[str, ...], ours: bool) -> Spot:
        if not ours:
            return _FOREIGN
        file = join(inner, "__init__.py")
        inside = [inner]
        source = self._tree.source(file)
        if source is not None and source.extends_path:
            # pkgutil.extend_path: the same folder in every other place too.
            inside += [join(folder, tail) for folder in folders if join(folder, tail) != inner]
        return Spot(file, tuple(inside), True)

    def _mapped(self, name: str) -> Spot | None:
        """The finders of editable installs stand last."""
        target = self._search.mappings.get(name)
        if target is not None:
            return self._mapped_spot(target)
        folders = self._search.namespaces.get(name)
        return Spot(None, folders, True) if folders else None

    def _mapped_spot(self, target: str) -> Spot | None:
        ours = self._owns(target)
        if target.endswith(".py"):
            if basename(target) not in self._tree.names(dirname(target)):
                return None
            inside = (dirname(target),) if basename(target) == "__init__.py" else None
            return Spot(target, inside, True) if ours else _FOREIGN
        inside_names = self._tree.names(target)
        if "__init__.py" in inside_names:
            return Spot(join(target, "__init__.py"), (target,), True) if ours else _FOREIGN
        if basename(target) + ".py" in self._tree.names(dirname(target)):
            return Spot(target + ".py", None, True) if ours else _FOREIGN
        return Spot(None, (target,), True) if inside_names else None

    def _owns(self, folder: str) -> bool:
        if folder not in self._owned:
            self._owned[folder] = self._search.owns(folder)
        return self._owned[folder]
