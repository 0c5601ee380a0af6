"""PURE. What one Python file says: its imports, the names it binds, the folders it puts on ``sys.path``.

syntax.py reads it with ``ast``. Here are the values, and the way out for a file that this Python cannot parse (a syntax
error, or the syntax of a newer version): it is scanned line by line, so that its imports stay inputs and the edit which
mends it is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

STAR = "*"
"""The name in ``Import.names`` of ``from a import *``."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: ``import a.b`` (no names) or ``from ..a import x, y`` (level 2, names x and y).

    ``firm``: it runs whenever the file is loaded (top level, under no ``if``, ``try``, ``with``, ``def``).
    ``quiet``: and before it nothing in the file runs that could teach Python to find more modules.
    ``main_only``: it stands under ``if __name__ == "__main__"``.
    ``guess``: a string that looks like a module; counts only if the project has such a module.
    ``open_end``: the start of a name whose rest is made at run time: every module of that package.
    """

    module: str
    level: int = 0
    names: tuple[str, ...] = ()
    line: int = 0
    firm: bool = False
    quiet: bool = False
    main_only: bool = False
    guess: bool = False
    open_end: bool = False

    def __str__(self) -> str:
        module = "." * self.level + self.module
        return f"from {module} import {', '.join(self.names)}" if self.names else f"import {module}"


@dataclass(frozen=True, slots=True)
class PathEdit:
    """A folder that the file puts on ``sys.path``; relative ones are relative to the working directory."""

    folder: str
    front: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What one file says. ``bound`` are names that its top level may bind; ``firmly_bound`` those it always does, each
    with the number of imports (the first of ``imports``) that come before.

    ``dynamic``: it may have names that are not written in it (``__getattr__``, ``globals()``, star imports).
    ``unruly``: it may make modules findable in ways that are not followed here, so no import after it is surely gone.
    ``run_files``: Python files that it runs by path. ``poked``: attributes it sets on other objects (``other.x = 1``).
    ``public`` is a literal ``__all__``. ``broken``: scanned, not parsed.
    """

    imports: tuple[Import, ...] = ()
    bound: frozenset[str] = frozenset()
    firmly_bound: Mapping[str, int] = field(default_factory=dict)
    public: tuple[str, ...] | None = None
    dynamic: bool = False
    unruly: bool = False
    extends_path: bool = False
    path_edits: tuple[PathEdit, ...] = ()
    run_files: tuple[str, ...] = ()
    poked: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    broken: bool = False


def merge_broken(scanned: Source, last_good: Source) -> Source:
    """A file in the middle of an edit: what it imported when it last parsed still counts."""
    return replace(last_good, imports=(*last_good.imports, *scanned.imports), dynamic=True, unruly=True, broken=True)


# ---- what cannot be parsed ---------------------------------------------------------------------------------------

_FROM = re.compile(r"^[ \t]*from[ \t]+(\.*)[ \t]*([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+([^\n#;]+)", re.MULTILINE)
_IDENTIFIER = re.compile(r"[^\W\d]\w*|\*")
DOTTED = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")


def scan_source(content: bytes) -> Source:
    """Imports found by line, for a file that does not parse. No verdict is ever built on it."""
    text = content.decode("utf-8", errors="replace")
    imports = [*_scan_plain(text), *_scan_from(text)]
    return Source(imports=tuple(imports), dynamic=True, unruly=True, broken=True)


def _scan_plain(text: str) -> Iterator[Import]:
    for match in _IMPORT.finditer(text):
        for part in match[1].split(","):
            name = part.split(" as ")[0].strip()
            if DOTTED.match(name):
                yield Import(name, line=_line_of(text, match))


def _scan_from(text: str) -> Iterator[Import]:
    for match in _FROM.finditer(text):
        parts = re.sub(r"#[^\n]*", "", match[3]).strip("() \t\n").split(",")
        found = [_IDENTIFIER.match(part.strip()) for part in parts]
        names = tuple(name[0] for name in found if name)
        if names and (match[1] or match[2]):
            yield Import(match[2].strip("."), len(match[1]), names, _line_of(text, match))


def _line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1
