"""PURE. ``${VAR}``, ``${VAR:-default}``, ``${port}`` and ``${agents.NAME.url}`` in the strings of mesh.toml.

``$${`` is a literal ``${``. A ``$`` without a brace means nothing here: patterns and shell words stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Lookup = Callable[[str], "str | None"]
"""The value of a name; None: it has none, the default counts. May raise `CannotInterpolate` with a better reason."""

_PLACEHOLDER = re.compile(r"(?P<literal>\$\$\{)|\$\{(?P<body>[^{}]*)\}|(?P<open>\$\{)")
_BODY = re.compile(r"(?P<name>[A-Za-z_]\w*|agents\.[^.:]+\.url)(?::-(?P<default>.*))?", re.DOTALL)


class CannotInterpolate(ValueError):
    """``str(error)`` is the rest of a sentence whose subject is the key in mesh.toml."""


class Interpolated(str):
    """A string that had a ``${…}``: it may stand for a number or a truth value, and messages do not show it."""

    __slots__ = ()


def expand(text: str, lookup: Lookup) -> str:
    """``text`` with its placeholders replaced; an `Interpolated` when there was one. Raises CannotInterpolate."""
    if "${" not in text:
        return text
    return Interpolated(_PLACEHOLDER.sub(lambda found: _replacement(found, lookup), text))


def _replacement(found: re.Match[str], lookup: Lookup) -> str:
    if found["literal"]:
        return "${"
    body = _BODY.fullmatch(found["body"] or "")
    if body is None:
        raise CannotInterpolate(_not_understood(found))
    value = lookup(body["name"])
    # As in a shell, ":-" also stands in for a variable that is set to nothing.
    if body["default"] is not None and not value:
        return body["default"]
    if value is None:
        name = body["name"]
        raise CannotInterpolate(
            f"${{{name}}} is not set; export {name}, put it into .env, or write ${{{name}:-default}}"
        )
    return value


def _not_understood(found: re.Match[str]) -> str:
    known = "there are ${VAR}, ${VAR:-default}, ${port} and ${agents.NAME.url}; a literal ${ is written $${"
    if found["open"]:
        return f"a ${{ has no closing brace, or another brace inside; {known}"
    return f"{found[0]} is not understood; {known}"
