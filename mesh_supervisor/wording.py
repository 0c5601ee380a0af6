"""PURE. What is done to every text before people see it: no secrets, and no characters that move the cursor."""

from __future__ import annotations

import re
from collections.abc import Collection

HIDDEN = "•••"

SHORTEST_SECRET = 4
"""Characters. What is shorter hides nothing, and would riddle every text with dots."""

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
