"""PURE. On which line of a TOML text a key stands, for messages about its value (tomllib does not tell).

Reads only text that tomllib has accepted, so it looks for boundaries and checks nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence

Lines = Mapping[tuple[str, ...], int]
"""Path of a table or key -> its first line, counted from 1. Keys inside inline tables have none of their own."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_KEY = re.compile(r"[ \t]*(\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*(\.?)")
_VALUE_PART = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # strings first: brackets and hashes mean nothing inside
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<newline>\n)"
    r"|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def key_lines(text: str) -> Lines:
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    position = _end(_BLANK, text, 0)
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        if text[position] == "[":
            table, position = _key(text, position + (2 if text.startswith("[[", position) else 1))
            _note(lines, (), table, line)
            position = _end(_REST_OF_LINE, text, position)
        else:
            key, position = _key(text, position)
            _note(lines, table, key, line)
            position = _value_end(text, position)
        position = _end(_BLANK, text, position)
    return lines


def line_of(lines: Lines, path: Sequence[str | int]) -> int | None:
    """The line of ``path``, or of the nearest thing around it that has one."""
    for length in range(len(path), 0, -1):
        line = lines.get(tuple(str(part) for part in path[:length]))
        if line is not None:
            return line
    return None


def _note(lines: dict[tuple[str, ...], int], table: tuple[str, ...], key: tuple[str, ...], line: int) -> None:
    """``a.b`` says that there is an ``a``, too."""
    for length in range(1, len(key) + 1):
        lines.setdefault((*table, *key[:length]), line)


def _key(text: str, position: int) -> tuple[tuple[str, ...], int]:
    parts: list[str] = []
    while found := _KEY.match(text, position):
        parts.append(_unquoted(found[1]))
        position = found.end()
        if not found[2]:
            break
    return tuple(parts), position


def _unquoted(part: str) -> str:
    return str(tomllib.loads(f"key = {part}")["key"]) if part[0] in "\"'" else part


def _value_end(text: str, position: int) -> int:
    depth = 0
    while found := _VALUE_PART.match(text, position):
        position = found.end()
        depth += bool(found["open"]) - bool(found["close"])
        if found["newline"] and depth == 0:
            break
    return position if position < len(text) and found else len(text)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position
