"""The ignore rules of a mesh, read from where people keep them: watch.ignore, .meshwatch, .gitignore files.

Answers are remembered per folder, since they are asked of every folder of a tree and of every event; ``refresh``
forgets them when a rule file has changed. Safe to ask from several threads: what is remembered is only ever replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mesh_supervisor.ignore import Layer, built_in, first_verdict, layer, lenient_layer

RULE_FILES = frozenset({".gitignore", ".meshwatch"})


@dataclass(slots=True)
class _Memory:
    """Answers by folder. Thrown away as a whole, so that a thread that still uses an old one does no harm."""

    chains: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    user_layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    user_folders: dict[str, bool] = field(default_factory=dict)
    found_folders: dict[str, bool] = field(default_factory=dict)
    bad_lines: list[str] = field(default_factory=list)


class Ignore:
    """``roots``: the folders below which files may be inputs. ``patterns``: watch.ignore, relative to the root that a
    path lies in. ``state_dir`` is ignored whatever anybody says. Raises ValueError for a
    pattern of watch.ignore that is none; bad lines in files are passed over and kept in ``warnings``."""

    def __init__(self, roots: Sequence[Path], patterns: Iterable[str] = (), *, state_dir: Path | None = None) -> None:
        self._patterns = tuple(patterns)
        layer("/", self._patterns)
        self._state_dir = None if state_dir is None else str(state_dir)
        self._roots: tuple[str, ...] = ()
        self._opened: tuple[str, ...] = ()
        self._memory = _Memory()
        self.cover(roots)

    def cover(self, roots: Sequence[Path], opened: Sequence[Path] = ()) -> None:
        """Other roots from now on, and every rule read anew. ``opened``: folders that somebody named (in a glob):
        .gitignore and the built-in list do not keep us out of them, only from things inside them."""
        # The deepest first: it is the one that a path "lies in".
        self._roots = tuple(sorted({str(root) for root in roots}, key=len, reverse=True))
        self._opened = tuple(sorted({str(place) for place in (*roots, *opened)}, key=len, reverse=True))
        self.refresh()

    def rule(self, patterns: Iterable[str]) -> None:
        """Other patterns of watch.ignore from now on. Raises ValueError for one that is none."""
        layer("/", patterns := tuple(patterns))
        self._patterns = patterns
        self.refresh()

    def refresh(self) -> None:
        """A rule file has changed: read them again when they are needed next."""
        self._memory = _Memory()

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each line of a rule file, read so far, that is no gitignore pattern."""
        return tuple(self._memory.bad_lines)

    # ---- the questions ---------------------------------------------------------------------------------------------

    def user_ignored(self, path: Path | str) -> bool:
        """Whether watch.ignore or .meshwatch says no, of the file or of a folder above it, up to its root."""
        text = str(path)
        if self._in_state_dir(text):
            return True
        root = self._root_of(text)
        return self._user_ignores_folder(_parent(text), root) or self._user_says(text, root, directory=False) is True

    def discovery_ignored(self, path: Path | str) -> bool:
        """Whether a glob or a watched folder passes this file over: the user's word, .gitignore, the built-in list."""
        text = str(path)
        return self.prunes(_parent(text)) or self._passes_over(text, self._root_of(text), directory=False)

    def prunes(self, folder: Path | str) -> bool:
        """Whether nothing below this folder is worth finding; an input that lies there is watched by itself."""
        text = str(folder)
        if self._in_state_dir(text):
            return True
        root, opened = self._root_of(text), self._opened_around(text)
        # In a folder that somebody opened only the user's own word holds from above it.
        return (opened != root and self._user_ignores_folder(opened, root)) or self._passes_over_folder(
            text, opened, root
        )

    # ---- how they are answered -------------------------------------------------------------------------------------

    def _in_state_dir(self, path: str) -> bool:
        return self._state_dir is not None and _within(path, self._state_dir)

    def _root_of(self, path: str) -> str:
        """The root that ``path`` lies in; elsewhere its own folder, so that patterns of names still hold."""
        return next((root for root in self._roots if _within(path, root)), _parent(path))

    def _opened_around(self, folder: str) -> str:
        """The nearest folder around it that somebody named; elsewhere its own parent."""
        return next((place for place in self._opened if _within(folder, place)), _parent(folder))

    def _user_ignores_folder(self, folder: str, root: str) -> bool:
        if not _below(folder, root):
            return False
        known = self._memory.user_folders.get(folder)
        if known is None:
            known = self._user_ignores_folder(_parent(folder), root) or bool(
                self._user_says(folder, root, directory=True)
            )
            self._memory.user_folders[folder] = known
        return known

    def _user_says(self, path: str, root: str, *, directory: bool) -> bool | None:
        layers = self._memory.user_layers.get(root)
        if layers is None:
            layers = (*self._layers_of(root, ".meshwatch"), layer(root, self._patterns))
            self._memory.user_layers[root] = layers
        return first_verdict(layers, path, directory=directory)

    def _passes_over_folder(self, folder: str, opened: str, root: str) -> bool:
        if not _below(folder, opened):
            return False
        known = self._memory.found_folders.get(folder)
        if known is None:
            known = self._passes_over_folder(_parent(folder), opened, root) or self._passes_over(
                folder, root, directory=True
            )
            self._memory.found_folders[folder] = known
        return known

    def _passes_over(self, path: str, root: str, *, directory: bool) -> bool:
        """Of this path alone; the folders above it are known not to be passed over."""
        word = self._user_says(path, root, directory=directory)
        if word is None:
            word = first_verdict(self._chain(_parent(path)), path, directory=directory)
        return built_in(path.rpartition("/")[2], directory=directory) if word is None else word

    def _chain(self, folder: str) -> tuple[Layer, ...]:
        """The .gitignore files that speak of what is in ``folder``, the nearest first."""
        known = self._memory.chains.get(folder)
        if known is None:
            own = self._layers_of(folder, ".gitignore")
            known = own if self._chain_ends(folder) else (*own, *self._chain(_parent(folder)))
            self._memory.chains[folder] = known
        return known

    def _chain_ends(self, folder: str) -> bool:
        """A repository does not obey the one around it. Above a root only the repository that it is a part of has a
        say; and where that ignores what somebody opened, its rules say nothing inside."""
        if folder == "/" or _has_git(folder):
            return True
        above = _parent(folder)
        if not any(_within(above, root) for root in self._roots) and not _in_repository(above):
            return True
        return folder in self._opened and first_verdict(self._chain(above), folder, directory=True) is True

    def _layers_of(self, folder: str, name: str) -> tuple[Layer, ...]:
        """The layer of that rule file; none where there is no such file, or it cannot be read."""
        file = Path(folder, name)
        try:
            if not file.is_file():  # of a pipe the end never comes
                return ()
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except (OSError, ValueError):  # ValueError: no name that the system knows
            return ()
        found, bad = lenient_layer(folder, lines)
        self._memory.bad_lines.extend(f"{folder}/{name}: '{line}' is no gitignore pattern; passed over" for line in bad)
        return (found,)


def _in_repository(folder: str) -> bool:
    return any(_has_git(str(place)) for place in (Path(folder), *Path(folder).parents))


def _has_git(folder: str) -> bool:
    return os.path.exists(f"{folder}/.git")  # noqa: PTH110 (Path.exists() raises where we may not look)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _within(path: str, folder: str) -> bool:
    return path == folder or _below(path, folder)


def _below(path: str, folder: str) -> bool:
    # The root folder is its own parent, but not below itself: who climbs must get to an end.
    return path != folder and path.startswith(folder if folder.endswith("/") else folder + "/")
