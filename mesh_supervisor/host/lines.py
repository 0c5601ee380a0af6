"""PURE. Bytes of a program's output → lines that are safe to show, in a terminal, a file and JSON.

Whatever an agent writes, a line of it is one line: no control character moves the cursor, no escape sequence retitles
the terminal, no bidi override turns text around. Well-formed escape sequences are left out, everything else that does
not print is written as ``\\x1b`` or ``\\u202e``. Colours (SGR) survive apart, in ``Line.styled``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_LINE = 64 * 1024
"""Bytes of one line that are kept; what is beyond is counted, not stored."""

_SGR = re.compile(r"\x1b\[[0-9;:]{0,32}m")

# One pass, so that taking out one sequence cannot make another: an ESC that starts no sequence matches the last
# alternative and is spelled out. No alternative can run over another ESC, which keeps the whole linear.
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: cursor, erase, colours
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: title, links, clipboard
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]+[0-~]"  # charsets
    r"|\x1b[0-OQ-WYZ\\`-~]"  # the two-character ones: reset, save the cursor
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output. ``at`` is unix time; ``text`` is sanitized, without newline and without colours.

    ``styled`` is the same with the colours that the program wrote, '' when it wrote none. Lines of the supervisor
    itself have the agent ``meshsup`` and generation 0; so has a note about lines that are missing.
    """

    at: float
    agent: str
    generation: int
    text: str
    styled: str = ""

    @property
    def weight(self) -> int:
        """Characters, for those who hold lines and must not hold too much."""
        return len(self.text) + len(self.styled)


def sanitize(text: str) -> str:
    """Everything that is not plain text left out or spelled out; a tab stays."""
    return text if text.isprintable() else _UNSAFE.sub(_without_sequences, text)


def readable(raw: bytes) -> tuple[str, str]:
    """(text, styled) of one line as it was written, without its newline; see ``Line``.

    A lone carriage return starts the line over, as on a terminal: of a progress bar its last state is left. Bytes that
    are no UTF-8 are spelled out.
    """
    if b"\r" in raw:
        raw = raw.rstrip(b"\r").rpartition(b"\r")[2]
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():  # nearly always, and by far the fastest question
        return text, ""
    plain = _UNSAFE.sub(_without_sequences, text)
    if "\x1b[" not in text:
        return plain, ""
    styled = _UNSAFE.sub(_with_colours, text)
    return plain, "" if styled == plain else styled


def _without_sequences(found: re.Match[str]) -> str:
    it = found.group()
    return _spelled(it) if len(it) == 1 else ""


def _with_colours(found: re.Match[str]) -> str:
    it = found.group()
    return it if _SGR.fullmatch(it) else _without_sequences(found)


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class LineSplitter:
    """Cuts a stream of bytes into lines, never holding more than ``limit`` bytes of an unfinished one."""

    def __init__(self, limit: int = LONGEST_LINE) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._cut = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that ``chunk`` (at most ``limit`` bytes) completes, without their newlines."""
        first, *more = chunk.split(b"\n")
        self._grow(first)
        if not more:
            return []
        lines = [self._take(), *more]
        self._grow(lines.pop())
        return lines

    def rest(self) -> list[bytes]:
        """At the end of the stream: the last line, if it had no newline."""
        return [self._take()] if self._partial else []

    def _grow(self, piece: bytes) -> None:
        self._partial += piece
        self._forget_overwritten()
        excess = len(self._partial) - self._limit
        if excess > 0:
            del self._partial[self._limit :]
            self._cut += excess

    def _forget_overwritten(self) -> None:
        """A progress bar draws over itself for hours without a newline: only what is visible needs to be kept."""
        end = len(self._partial)
        while end and self._partial[end - 1] == 0x0D:
            end -= 1
        start = self._partial.rfind(b"\r", 0, end)
        if start >= 0:
            del self._partial[: start + 1]
            self._cut = 0

    def _take(self) -> bytes:
        line = bytes(self._partial)
        if self._cut:
            line += f" … ({self._cut} bytes more)".encode()
        self._partial.clear()
        self._cut = 0
        return line


def left_out(count: int, why: str) -> str:
    """The note in place of lines that are missing."""
    return f"({count} {'line' if count == 1 else 'lines'} left out: {why})"
