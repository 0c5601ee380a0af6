"""The log of all agents on one terminal or pipe: coloured prefixes for people, JSON lines for collectors."""

from __future__ import annotations

import json
import os
import re
import select
import textwrap
import threading
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

from mesh_supervisor.host.backlog import Backlog
from mesh_supervisor.host.lines import Line, left_out
from mesh_supervisor.host.logfiles import stamp
from mesh_supervisor.wording import json_text

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_SGR = re.compile(r"(\x1b\[[0-9;:]*m)")
_MOST_COLOURS = 8
"""Of the last ones that a folded row repeats: a line that is all colours must not multiply."""
_RESERVED = ("at", "agent", "generation")
_OVERLOADED = "the console is too slow"


class Console:
    """A sink that prints to a descriptor from a thread of its own: a stopped terminal holds up nobody else.

    ``json_lines``: one object per line (prod); otherwise ``planner  | text``, coloured when ``colour``. When the other
    end is gone (``gone``), everything is dropped quietly.
    """

    def __init__(
        self, descriptor: int = 1, *, json_lines: bool = False, colour: bool | None = None, names: Iterable[str] = ()
    ) -> None:
        # A copy: were the descriptor closed while the thread hangs in it, its number could come to mean another file.
        self._descriptor = os.dup(descriptor)
        self.gone = False
        self._written = 0  # bytes, to tell a slow reader from none
        terminal = os.isatty(descriptor)
        colour = wants_colour(terminal, os.environ) if colour is None else colour
        columns = (lambda: _columns(self._descriptor)) if terminal else None
        self._render: Callable[[Line], str] = json_line if json_lines else Prefixed(names, colour, columns)
        self._backlog = Backlog(most_lines=10_000)
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        if not self.gone:
            self._backlog.put(line)

    def close(self, timeout: float = 1.0) -> None:
        """Print what is left, for at most ``timeout`` seconds. A terminal that takes nothing is given up after half of
        them: an engine that stops us does not wait for its own log either."""
        self._backlog.close()
        before = self._written
        self._thread.join(timeout / 2)
        if self._written != before:
            self._thread.join(timeout / 2)

    def _run(self) -> None:
        try:
            self._write_all()
        finally:
            os.close(self._descriptor)

    def _write_all(self) -> None:
        while not self.gone:
            lines, dropped = self._backlog.take()
            if not lines:
                return
            if dropped:
                lines.appendleft(Line(lines[0].at, "meshsup", 0, left_out(dropped, _OVERLOADED)))
            while lines and not self.gone:
                batch = [self._render(lines.popleft()) for _ in range(min(200, len(lines)))]
                self._print("".join(batch).encode("utf-8", "backslashreplace"))

    def _print(self, content: bytes) -> None:
        try:
            while content:
                content = content[self._write_some(content) :]
        except OSError:  # EPIPE, or EIO of a terminal that was closed: nobody reads this any more
            self.gone = True

    def _write_some(self, content: bytes) -> int:
        try:
            written = os.write(self._descriptor, content)
            self._written += written
            return written
        except BlockingIOError:  # somebody who shares the terminal made it non-blocking
            select.select([], [self._descriptor], [])
            return 0


def wants_colour(terminal: bool, environ: Mapping[str, str]) -> bool:
    """NO_COLOR (https://no-color.org) and a dumb terminal say no, FORCE_COLOR says yes, else a terminal does."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return terminal or bool(environ.get("FORCE_COLOR"))


# ---- for people ------------------------------------------------------------------------------------------------------


class Prefixed:
    """Line → ``planner  | text``.

    ``columns``: of a terminal, where long lines are folded under their own prefix, because the terminal's own folding
    would let a program begin a row, and write another's prefix there.
    """

    def __init__(self, names: Iterable[str], colour: bool, columns: Callable[[], int] | None = None) -> None:
        self._colour, self._columns = colour, columns
        self._colours: dict[str, int] = {}
        self._prefixes: dict[str, str] = {}
        self._width = len("meshsup")
        for name in names:
            self._know(name)

    def __call__(self, line: Line) -> str:
        prefix = self._prefixes.get(line.agent) or self._prefix(line.agent)
        text = line.styled if self._colour and line.styled else line.text
        if self._columns is None:
            return prefix + self._closed(text) + "\n"
        room = max(1, self._columns() - self._width - 3)
        text = text.expandtabs(4)
        # What we say ourselves is sentences; what programs write is shown as it is, to the column.
        parts = at_words(text, room) if line.agent == "meshsup" else [text]
        return "".join(prefix + self._closed(row) + "\n" for part in parts for row in fold(part, room))

    def _know(self, name: str) -> None:
        if name not in self._colours:
            self._colours[name] = _COLOURS[len(self._colours) % len(_COLOURS)]
        if len(name) > self._width:
            self._width = len(name)
            self._prefixes.clear()

    def _prefix(self, name: str) -> str:
        self._know(name)
        prefix = f"{name:<{self._width}} | "
        if self._colour:
            look = "1" if name == "meshsup" else str(self._colours[name])
            prefix = f"\x1b[{look}m{prefix[:-1]}\x1b[0m "
        self._prefixes[name] = prefix
        return prefix

    @staticmethod
    def _closed(text: str) -> str:
        return text + "\x1b[0m" if "\x1b" in text else text


def at_words(text: str, room: int) -> list[str]:
    """Rows that end where words do; a row can still be too long, for ``fold``."""
    if len(text) <= room:
        return [text]
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]


def fold(text: str, room: int) -> list[str]:
    """Rows of at most ``room`` columns, by the widest guess that a terminal can make; colours go on in the next."""
    if len(text) <= room and text.isascii() and "\x1b" not in text:
        return [text]
    rows, row, used = [], "", 0
    colours: deque[str] = deque(maxlen=_MOST_COLOURS)
    for piece in _SGR.split(text):
        if piece.startswith("\x1b"):
            row += piece
            colours.append(piece)
            continue
        for character in piece:
            width = widest(character)
            if used + width > room:
                rows.append(row)
                row, used = "".join(colours), 0
            row += character
            used += width
    return [*rows, row]


def widest(character: str) -> int:
    """Columns that any terminal could use for it. Too many only folds early; too few would let a row spill over."""
    if character.isascii():
        return 1
    return 2 if unicodedata.east_asian_width(character) in "WFA" or ord(character) >= 0x1F000 else 1


def _columns(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80


# ---- for collectors --------------------------------------------------------------------------------------------------


def json_line(line: Line) -> str:
    """``{"at", "agent", "generation", "text"}``; a line that is a JSON object keeps its own keys instead of "text".

    A key of its own that is called like one of ours gets an underscore: nobody speaks in another's name.
    """
    own = _json_object(line.text)
    fields: dict[str, Any] = {"at": stamp(line.at), "agent": line.agent, "generation": line.generation}
    if own is None:
        fields["text"] = line.text
    else:
        fields.update((key + "_" if key in _RESERVED else key, value) for key, value in own.items())
    return json_text(fields, compact=True) + "\n"


def _json_object(text: str) -> dict[str, Any] | None:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(text: str) -> float:
    """1e999 is JSON, but what Python makes of it is none."""
    number = float(text)
    return number if isfinite(number) else _refuse(text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
