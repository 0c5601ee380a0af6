"""PURE. Changed paths → {agent: reason}.

What an agent's inputs are is found by host/inputs.py, and by its instances (traced.py); here they are only compared.
Who may overrule whom (strongest first): the user's own ignore rules; ``watch`` globs; imports and what instances read;
.gitignore and the built-in list, which limit only globs, whole folders and new files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from types import MappingProxyType
from typing import Literal

from pathspec import GitIgnoreSpec

from mesh_supervisor.imports import Gone, Step
from mesh_supervisor.traced import Listing
from mesh_supervisor.wording import one_line

SourceOfInput = Literal["import", "watch", "env", "read", "directory", "config"]
Predicate = Callable[[Path], bool]

_ORDER: tuple[SourceOfInput, ...] = ("config", "import", "env", "watch", "read", "directory")
_WILD = frozenset("*?[")
_NO_STEPS: Mapping[Path, Step] = MappingProxyType({})
_NO_PATHS: Mapping[Path, Path | None] = MappingProxyType({})
_NO_LISTINGS: Mapping[Path, Listing] = MappingProxyType({})
_NO_WORDS: Mapping[Path, str] = MappingProxyType({})


# ---- globs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Glob:
    """One ``watch`` pattern, anchored: ``base`` is its part before the first wildcard (a folder, or the file itself).

    A pattern without a wildcard names a file, or a folder with all that is in it. ``explicit``: its last part fixes
    an ending (``*.md``), so that what it matches was meant, even where .gitignore names such files.
    """

    text: str
    base: Path
    spec: GitIgnoreSpec | None
    negated: bool = False
    explicit: bool = False

    @classmethod
    def of(cls, root: Path, text: str) -> Glob:
        """``text`` is relative to ``root`` (mesh.toml's folder), may climb out of it or be absolute."""
        negated = text.startswith("!")
        parts = (text[1:] if negated else text).split("/")
        literal = next((index for index, part in enumerate(parts) if _WILD & set(part)), len(parts))
        base = Path(normpath(root / "/".join(parts[:literal])) if parts[0] or literal > 1 else "/")
        rest = "/".join(parts[literal:])
        if not rest:
            return cls(text, base, None, negated, explicit=True)
        explicit = "." in parts[-1].rpartition("*")[2]
        return cls(text, base, GitIgnoreSpec.from_lines(["/" + rest]), negated, explicit)

    def matches(self, path: Path) -> bool:
        if not path.is_relative_to(self.base):
            return False
        return self.spec is None or self.spec.match_file(path.relative_to(self.base).as_posix())

    def allows(self, path: Path, discovery_ignored: Predicate) -> bool:
        """May this match stand, where .gitignore or the built-in list say no? ``**/*.json`` does not reach into
        node_modules, ``node_modules/mine/*.json`` and ``notes/*.log`` do what they say."""
        if not discovery_ignored(path):
            return True
        if path == self.base or discovery_ignored(self.base / "x"):
            return True
        between = [folder for folder in path.parents if folder != self.base and folder.is_relative_to(self.base)]
        return self.explicit and not any(discovery_ignored(folder / "x") for folder in between)


def globs_of(root: Path, patterns: Iterable[str]) -> tuple[Glob, ...]:
    return tuple(Glob.of(root, text) for text in patterns)


# ---- inputs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one agent's behaviour depends on. All paths absolute.

    ``files``: its import closure, each with its step. ``missing``: files that do not exist yet and would answer an
    import, with the importer. ``folders``: plug-in packages, of which each ``.py`` counts, also a new one, with the
    importer. ``globs``, ``env_files``: from mesh.toml. ``directories``: watched whole, for programs that cannot be
    read. ``matched``: the files that globs, directories and folders hold now. ``ignored``: those of all these that the
    user's own rules take out again.

    ``read``: what its instances really read and ``files`` does not hold, each with the file that read it; of these
    ``modules`` were imported, and ``absent`` looked for and not found. ``listings``: folders that it listed, of which a
    new file counts; ``listed``: those that are there. ``asides``: what it read and is no input, with the reason (of a
    folder: all files in it).

    ``third_party``: top-level names it imports that are not the project's (also uninstalled ones). ``gone``: imports
    that cannot work. ``notes``: said in ``-o wide`` and by ``watch status``; ``warning``: said at start.
    ``watched`` False (``watch = false``): no save reloads it. ``known`` False: ask again when it runs.
    """

    files: Mapping[Path, Step] = field(default_factory=lambda: _NO_STEPS)
    missing: Mapping[Path, Path | None] = field(default_factory=lambda: _NO_PATHS)
    folders: Mapping[Path, Path | None] = field(default_factory=lambda: _NO_PATHS)
    globs: tuple[Glob, ...] = ()
    env_files: frozenset[Path] = frozenset()
    directories: tuple[Path, ...] = ()
    matched: frozenset[Path] = frozenset()
    read: Mapping[Path, Path | None] = field(default_factory=lambda: _NO_PATHS)
    modules: frozenset[Path] = frozenset()
    absent: frozenset[Path] = frozenset()
    listings: Mapping[Path, Listing] = field(default_factory=lambda: _NO_LISTINGS)
    listed: frozenset[Path] = frozenset()
    asides: Mapping[Path, str] = field(default_factory=lambda: _NO_WORDS)
    third_party: frozenset[str] = frozenset()
    gone: tuple[Gone, ...] = ()
    notes: tuple[str, ...] = ()
    warning: str | None = None
    watched: bool = True
    known: bool = True
    ignored: frozenset[Path] = frozenset()

    @property
    def paths(self) -> frozenset[Path]:
        """Every file that is an input now: what to fingerprint before a start."""
        return (frozenset(self.files) | self.env_files | self.matched) - self.ignored | self.read.keys()

    def heeds(self, path: Path, discovery_ignored: Predicate) -> Glob | None:
        """The glob that makes this path an input, if one does. The last pattern that matches decides, as in
        .gitignore: ``!prompts/draft.md`` takes one out again."""
        last = self._last_glob(path)
        return None if last is None or last.negated or not last.allows(path, discovery_ignored) else last

    def takes_out(self, path: Path) -> bool:
        """Whether the ``watch`` globs say that this is no input, whoever reads it."""
        last = self._last_glob(path)
        return last is not None and last.negated

    def _last_glob(self, path: Path) -> Glob | None:
        return next((glob for glob in reversed(self.globs) if glob.matches(path)), None)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a change concerns an agent. ``path`` is the one to name, ``chain`` leads from it to where the program
    starts, ``paths`` are all the changed inputs."""

    path: Path
    chain: tuple[Path, ...]
    source: SourceOfInput
    paths: tuple[Path, ...] = ()
    detail: str = field(default="", compare=False)


def _nothing(_: Path) -> bool:
    return False


def affected(
    changed: Collection[Path],
    inputs: Mapping[str, Inputs],
    user_ignored: Predicate = _nothing,
    discovery_ignored: Predicate = _nothing,
    *,
    unwatched_too: bool = False,
) -> dict[str, Reason]:
    """Which agents these changes concern. ``unwatched_too``: also those with ``watch = false`` (for ``why``)."""
    relevant = sorted(path for path in changed if not user_ignored(path))
    found: dict[str, Reason] = {}
    for agent, own in inputs.items():
        if not own.watched and not unwatched_too:
            continue
        reasons = [reason for path in relevant if (reason := reason_for(path, own, discovery_ignored)) is not None]
        if reasons:
            found[agent] = _foremost(reasons)
    return found


def reason_for(path: Path, own: Inputs, discovery_ignored: Predicate = _nothing) -> Reason | None:
    """Why this path is an input of one agent; None: it is none. Ignore rules of the user are not asked here."""
    if path in own.files:
        return Reason(path, chain_of(path, own.files), "import", detail=own.files[path].how)
    if path in own.missing:
        return _new_file(path, own.missing[path], own)
    if path.suffix == ".py" and path.parent in own.folders:
        return _new_file(path, own.folders[path.parent], own)
    if path in own.env_files:
        return Reason(path, (path,), "env")
    glob = own.heeds(path, discovery_ignored)
    if glob is not None:
        return Reason(path, (path,), "watch", detail=glob.text)
    if path in own.read:
        return Reason(path, _read_by(path, own.read[path], own), "read")
    listing = own.listings.get(path.parent)
    if listing is not None and _is_new(path, listing, own) and not discovery_ignored(path):
        return Reason(path, _read_by(path, listing.via, own), "read", detail="new file")
    if any(path.is_relative_to(folder) for folder in own.directories) and not discovery_ignored(path):
        return Reason(path, (path,), "directory")
    return None


def _new_file(path: Path, importer: Path | None, own: Inputs) -> Reason:
    chain = () if importer is None else chain_of(importer, own.files)
    return Reason(path, (path, *chain), "import", detail="new file")


def _is_new(path: Path, listing: Listing, own: Inputs) -> bool:
    return path.suffix in listing.endings and path not in own.listed and not own.takes_out(path)


def _read_by(path: Path, reader: Path | None, own: Inputs) -> tuple[Path, ...]:
    """From a file that was read to where the program starts: by files that were read (modules), then by imports."""
    chain = [path]
    while reader is not None and reader not in own.files and reader not in chain:
        chain.append(reader)
        reader = own.read.get(reader)
    return (*chain, *(() if reader is None or reader in chain else chain_of(reader, own.files)))


def _foremost(reasons: list[Reason]) -> Reason:
    """The one to name: the strongest source, then the shortest chain. It carries the paths of all."""
    first = min(reasons, key=lambda reason: (_ORDER.index(reason.source), len(reason.chain), reason.path))
    paths = tuple(reason.path for reason in reasons)
    return Reason(first.path, first.chain, first.source, paths, first.detail)


def chain_of(path: Path, files: Mapping[Path, Step]) -> tuple[Path, ...]:
    """From an imported file back to where the program starts."""
    return tuple(_climb(path, files))


def _climb(path: Path, files: Mapping[Path, Step]) -> Iterator[Path]:
    seen: set[Path] = set()
    at: Path | None = path
    while at is not None and at not in seen:
        seen.add(at)
        yield at
        step = files.get(at)
        at = step.via if step is not None else None


def chain_text(reason: Reason, root: Path) -> str:
    """``common/llm.py ← tools/search.py ← agents/planner.py (import)``, relative to ``root`` where below it."""
    words = " ← ".join(short(path, root) for path in reason.chain)
    if reason.source == "watch":
        return f"{words} (watch: {reason.detail})"
    new = ", new file" if reason.detail == "new file" else ""
    return f"{words} ({reason.source}{new})"


def short(path: Path, root: Path) -> str:
    """For people: relative where it is below ``root``."""
    # A file's name may hold newlines and escape sequences: it must not begin a line of the log.
    return one_line(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))
