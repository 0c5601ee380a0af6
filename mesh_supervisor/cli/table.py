"""PURE. Aligned text: for `ps` and everything else that has rows.

Not rich's tables: their import costs more than the whole of ``meshsup ps`` may, and in a pipe plain columns are wanted
anyway. Cells are plain text; colours are put around them after they were aligned.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from mesh_supervisor.wording import one_line

GAP = 2
SHORTEST_LAST = 8
"""Columns below which a cut last column says nothing and is left out."""

Paint = Callable[[str], str]
"""Puts colours around a cell; it is called with the text as it was written, without padding."""


def cells(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, its end replaced by … where it is longer."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cells_of(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(row[column]) for row in rows) for column in range(len(rows[0]))]


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    right: Sequence[int] = (),
    paint: Mapping[int, Paint] | None = None,
) -> list[str]:
    """One string per row; the first row is the header. Columns in ``right`` are right-aligned.

    With ``width`` (a terminal's) only the last column is cut, or left out where less than 8 columns remain for it; what
    is still too wide comes closer together, and is never cut. Nothing in a cell moves the cursor.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    wide = widths(rows)
    gap = GAP
    fixed = sum(wide[:-1]) + gap * (len(wide) - 1)
    if width is not None and fixed + min(wide[-1], SHORTEST_LAST) > width:
        gap = 1
        fixed = sum(wide[:-1]) + gap * (len(wide) - 1)
    room = None if width is None else width - fixed
    return [_row(row, wide, gap, room, right, paint or {} if index else {}) for index, row in enumerate(rows)]


def _row(
    row: Sequence[str],
    wide: Sequence[int],
    gap: int,
    room: int | None,
    right: Sequence[int],
    paint: Mapping[int, Paint],
) -> str:
    parts = [_cell(text, wide[column], column in right, paint.get(column)) for column, text in enumerate(row[:-1])]
    last = _last(row[-1], wide[-1], room)
    if last is not None:
        parts.append(paint[len(row) - 1](last) if len(row) - 1 in paint else last)
    return (" " * gap).join(parts).rstrip()


def _cell(text: str, width: int, right: bool, paint: Paint | None) -> str:
    padding = " " * (width - cells(text))
    painted = paint(text) if paint else text
    return padding + painted if right else painted + padding


def _last(text: str, natural: int, room: int | None) -> str | None:
    if room is None or natural <= room:
        return text
    return cut(text, room) if room >= SHORTEST_LAST else None


def indented(texts: Sequence[str], width: int | None) -> list[str]:
    """What stands below a row, in full: wrapped to ``width`` where there is one."""
    lines: list[str] = []
    for text in texts:
        mark = "      " if lines else "    └ "
        lines += [mark + text] if width is None else _wrapped(mark, text, width)
    return lines


def _wrapped(mark: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=mark, subsequent_indent="        ", break_on_hyphens=False)
