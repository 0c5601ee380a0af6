"""PURE. The YAML of a Compose file: mappings, lists, scalars and comments, no more.

A string stands as it is only where no YAML reader of any version could take it for something else; all others are
JSON strings, which YAML takes over. A ``$`` would begin a variable for Compose and is doubled, but in a `Reference`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mesh_supervisor.wording import json_text, one_line

WIDTH = 118


class Reference(str):
    """Text in which ``${…}`` is for Compose to replace."""

    __slots__ = ()


class Alias(str):
    """The name of an anchor."""

    __slots__ = ()


Scalar = str | int | None
"""bool is an int. None: nothing stands there, which Compose reads as "from the environment of `docker compose`"."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment. Each of its lines takes as many as it needs, but one that begins with a space stays as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Blank:
    """An empty line."""


@dataclass(frozen=True, slots=True)
class Words:
    """A list, on one line where it fits."""

    words: Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class Items:
    """A list of mappings."""

    items: Sequence[Rows]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. ``anchor``: the name under which others take the value over."""

    key: str
    value: Value
    anchor: str = ""


Row = Remark | Blank | Entry
Rows = tuple[Row, ...]
Value = Scalar | Words | Items | Rows

MERGE = "<<"

_PLAIN = re.compile(
    r"""
    [A-Za-z_][A-Za-z0-9_./+-]*       # a word
    | (\.{0,2}/)+[A-Za-z0-9_./+-]*   # a path
    | \.{1,2}
    | [0-9]+(\.[0-9]+)?s             # seconds
    | --[a-z-]+                      # an option
    """,
    re.VERBOSE,
)
_NO_STRINGS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))


def written(rows: Iterable[Row]) -> str:
    return "".join(f"{line}\n" for line in _lines(rows, ""))


def scalar(value: Scalar) -> str:
    """On one line. A string must be encodable (see `is_text`)."""
    match value:
        case None:
            return ""
        case Alias():
            return f"*{value}"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Reference():
            return _quoted(value)
    text = value.replace("$", "$$")
    return text if _PLAIN.fullmatch(text) and text.lower() not in _NO_STRINGS else _quoted(text)


def is_text(text: str) -> bool:
    """Whether it can stand in a file at all: a file name that is no UTF-8 cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


_UNSEEN = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is and YAML forbids, or takes for the end of a line."""


def _quoted(text: str) -> str:
    return json_text(text, escaped=_UNSEEN)


def _key(key: str) -> str:
    return key if key == MERGE else scalar(key)


def _lines(rows: Iterable[Row], indent: str) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Blank):
            yield ""
        elif isinstance(row, Remark):
            yield from (
                f"{indent}# {line}".rstrip() for text in row.text.split("\n") for line in _wrapped(text, indent)
            )
        else:
            yield from _entry(row, indent)


def _wrapped(text: str, indent: str) -> list[str]:
    text = one_line(text)
    if not text or text.startswith(" "):
        return [text]
    width, inner = WIDTH - len(indent), "  " if text.startswith("- ") else ""
    return textwrap.wrap(text, width, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False)


def _entry(entry: Entry, indent: str) -> Iterator[str]:
    head = f"{indent}{_key(entry.key)}:" + (f" &{entry.anchor}" if entry.anchor else "")
    value = entry.value
    if isinstance(value, Words):
        line = f"{head} [{', '.join(map(scalar, value.words))}]"
        yield from [line] if len(line) <= WIDTH else [head, *(f"{indent}  - {scalar(one)}" for one in value.words)]
    elif isinstance(value, Items):
        yield head if value.items else f"{head} []"
        for item in value.items:
            yield from _item(item, indent + "  ")
    elif isinstance(value, tuple):
        yield head if any(isinstance(row, Entry) for row in value) else f"{head} {{}}"
        yield from _lines(value, indent + "  ")
    else:
        yield f"{head} {scalar(value)}".rstrip()


def _item(rows: Rows, indent: str) -> Iterator[str]:
    first, *others = _lines(rows, "") if rows else ["{}"]
    yield f"{indent}- {first}"
    yield from (f"{indent}  {line}" for line in others)
