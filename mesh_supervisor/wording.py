"""PURE. What is done to every text before people see it: no secrets, and no characters that move the cursor."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

HIDDEN = "•••"

SHORTEST_SECRET = 4
"""Characters. What is shorter hides nothing, and would riddle every text with dots."""

# What JSON allows raw inside a string, and a terminal or a careless reader takes for more than a character; and lone
# surrogates, which no UTF-8 can be made of.
_RISKY_IN_JSON = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_NOT_SECRET = frozenset({"true", "false", "none", "null"})


def hide(text: str, secrets: Collection[str]) -> str:
    """``text`` with every secret as •••; longest first, since one can be a part of another."""
    found = sorted((secret for secret in secrets if _is_secret(secret)), key=len, reverse=True)
    for secret in found:
        if secret in text:
            text = re.sub(_as_word(secret), HIDDEN, text)
    return text


def one_line(text: str) -> str:
    """Newlines, escape sequences and what turns the writing direction become visible: ``\\x1b``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def json_text(
    value: Any, *, indent: int | None = None, compact: bool = False, escaped: re.Pattern[str] = _RISKY_IN_JSON
) -> str:
    """JSON in which no character moves a cursor or turns the writing direction: those become ``\\u009b``, and the
    value is the same. All else stays readable. One line without ``indent``. ``escaped``: other characters instead,
    none beyond U+FFFF."""
    separators = (",", ":") if compact else None
    encoded = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    return escaped.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)


def counted(count: int, noun: str) -> str:
    """``1 file``, ``3 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _is_secret(value: str) -> bool:
    return len(value) >= SHORTEST_SECRET and value.lower() not in _NOT_SECRET


def _as_word(secret: str) -> str:
    """Not inside a longer word: LOG_LEVEL=info is no reason to print "•••rmation"."""
    before = r"(?<!\w)" if re.match(r"\w", secret) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", secret) else ""
    return before + re.escape(secret) + after
