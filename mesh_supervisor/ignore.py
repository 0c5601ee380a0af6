"""PURE. Which paths are no inputs: gitignore patterns in layers, most important first.

Two questions are asked of a path, and they differ (design, precedence of what counts as an input):

- *did the user say no?* ``watch.ignore`` and ``.meshwatch``. That beats every other source of inputs.
- *is it worth finding by itself?* The user's word, then ``.gitignore``, then ``BUILT_IN``. That only limits what globs
  and whole-directory watches discover: an imported module is an input also where git ignores it.

Reading the files is host/ignore.py's work; here patterns come as lines of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pathspec import GitIgnoreSpec

BUILT_IN: tuple[str, ...] = (
    # version control
    ".git/",
    ".hg/",
    ".svn/",
    ".jj/",
    # environments and installed packages
    ".venv/",
    "venv/",
    ".direnv/",
    "node_modules/",
    "site-packages/",
    # what Python and its tools write
    "__pycache__/",
    "*.py[co]",
    "*.egg-info/",
    ".eggs/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    ".tox/",
    ".nox/",
    ".coverage",
    ".coverage.*",
    "htmlcov/",
    # what builds write
    "dist/",
    "build/",
    "target/",
    ".next/",
    ".cache/",
    # editors: their folders, locks, backups and the first half of an atomic save
    ".idea/",
    ".vscode/",
    ".DS_Store",
    "*~",
    "*.swp",
    "*.swo",
    "*.swx",
    ".#*",
    r"\#*#",
    "4913",
    "*___jb_tmp___",
    "*___jb_old___",
    ".goutputstream-*",
    # what running programs write
    ".mesh/",
    "*.log",
    "*.pid",
    "*.sock",
    "*.tmp",
    "*.db-journal",
    "*.db-wal",
    "*.db-shm",
    "*.sqlite-journal",
    "*.sqlite-wal",
    "*.sqlite-shm",
)
"""gitignore patterns that hold everywhere, for discovery only: ``watch`` globs and imports win over them."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The patterns of one place (a ``.gitignore``, ``watch.ignore``), relative to ``base``, an absolute folder."""

    base: str
    spec: GitIgnoreSpec

    def verdict(self, path: str, *, directory: bool) -> bool | None:
        """True: ignored, False: a ``!pattern`` takes it back, None: no pattern speaks of it (or it lies elsewhere)."""
        stem = self.base.rstrip("/") + "/"
        if not path.startswith(stem):
            return None
        inner = path[len(stem) :]
        return self.spec.check_file(inner + "/" if directory else inner).include


def layer(base: str, lines: Iterable[str]) -> Layer:
    """Compile gitignore lines (comments, ``!`` and ``**`` as git has them). Raises ValueError for a bad pattern."""
    return Layer(base, GitIgnoreSpec.from_lines(lines))


def lenient_layer(base: str, lines: Sequence[str]) -> tuple[Layer, tuple[str, ...]]:
    """The layer of those lines that are patterns, and those that are not: somebody else's file must not stop us."""
    try:
        return layer(base, lines), ()
    except ValueError:
        bad = tuple(line for line in lines if not _is_pattern(line))
        return layer(base, [line for line in lines if line not in bad]), bad


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def first_verdict(layers: Sequence[Layer], path: str, *, directory: bool) -> bool | None:
    """What the first layer that speaks of ``path`` says. Folders above it are the caller's to ask about first:
    what lies in an ignored folder cannot be taken back, as in git."""
    for one in layers:
        verdict = one.verdict(path, directory=directory)
        if verdict is not None:
            return verdict
    return None


_BUILT_IN_SPEC = GitIgnoreSpec.from_lines(BUILT_IN)


@lru_cache(maxsize=4096)
def built_in(name: str, *, directory: bool) -> bool:
    """Whether the built-in list passes over a file or folder of this name. Its patterns speak of names only, which
    makes the answer the same everywhere, and worth remembering."""
    return bool(_BUILT_IN_SPEC.match_file(name + "/" if directory else name))
