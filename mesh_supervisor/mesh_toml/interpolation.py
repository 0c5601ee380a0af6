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


# ---- without values --------------------------------------------------------------------------------------------------


def variables_in(text: str) -> dict[str, bool]:
    """The variables that ``text`` speaks of → whether one must be set. ``port`` and URLs of agents are none."""
    found: dict[str, bool] = {}
    for body in map(_body, _PLACEHOLDER.finditer(text)):
        if body is not None and not _is_ours(body["name"]):
            found[body["name"]] = found.get(body["name"], False) or body["default"] is None
    return found


def replaced(text: str, *, literal: str, plain: Callable[[str], str], known: Callable[[str], str]) -> str:
    """``text`` for a program that has the same ``${VAR}`` and ``${VAR:-default}``: these stay. ``literal`` is how that
    writes ``${``, ``plain`` what becomes of all other text, ``known`` gives the values of ``port`` and agents' URLs."""
    parts, at = [], 0
    for found in _PLACEHOLDER.finditer(text):
        parts.append(plain(text[at : found.start()]))
        body, at = _body(found), found.end()
        if found["literal"]:
            parts.append(literal)
        else:
            parts.append(plain(known(body["name"])) if body is not None and _is_ours(body["name"]) else _kept(found[0]))
    return "".join((*parts, plain(text[at:])))


def _kept(placeholder: str) -> str:
    """A ``$`` in a default is plain text for us; the other program would look for a variable."""
    return "${" + placeholder[2:].replace("$", "$$")


def _body(found: re.Match[str]) -> re.Match[str] | None:
    return _BODY.fullmatch(found["body"]) if found["body"] is not None else None


def _is_ours(name: str) -> bool:
    return name == "port" or name.startswith("agents.")
