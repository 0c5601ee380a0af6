"""PURE. Versions and constraints on them, as MCP Mesh's registry reads them (Go's Masterminds/semver, v3).

Not ``packaging``: that is PEP 440, which has neither ``^1.2``, ``~1.2``, ``||`` nor ``1.0 - 2.0``, and orders
pre-releases differently. What is special here:

- Missing numbers are wildcards in a constraint (``=2.0`` is any 2.0.z) and zeros in a version.
- A pre-release satisfies only constraints that name one in the same ``||`` alternative (``>=1.0.0-0``).
- What cannot be read is compared as text: version "blue" satisfies constraint "blue".

Text is read by hand, piece by piece, and is at most 256 characters long: the Go expressions, put into a backtracking
engine, can be made to run for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

LONGEST = 256
"""Characters of a version or constraint that we try to understand."""

_VERSION = re.compile(
    r"v?(0|[1-9][0-9]*)(?:\.(0|[1-9][0-9]*))?(?:\.(0|[1-9][0-9]*))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_NUMBER = r"[0-9xX*]+"
_BOUND = re.compile(
    rf"v?({_NUMBER})(?:\.({_NUMBER}))?(?:\.({_NUMBER}))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
_OPERATOR = re.compile(r"!=|>=|=>|<=|=<|~>|=|>|<|~|\^|")
_SPACE = re.compile(r"[ \t\n\f\r]*")
_HYPHEN = re.compile(r"[ \t\n\f\r]+-[ \t\n\f\r]+")
_WILD = frozenset({"x", "X", "*"})

PreKey = tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """``major.minor.patch-pre``; what stands behind a ``+`` says nothing about the order and is dropped."""

    major: int
    minor: int
    patch: int
    pre: str = ""

    @property
    def key(self) -> tuple[int, int, int, bool, PreKey]:
        """Orders versions: a release comes after its pre-releases; numbers before words; fewer words first."""
        words = self.pre.split(".") if self.pre else []
        return (
            self.major,
            self.minor,
            self.patch,
            not words,
            tuple((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words),
        )


@lru_cache(maxsize=4096)
def parse_version(text: str) -> Version | None:
    """``"v1.2"`` → 1.2.0. None for what is no version (also for a pre-release number with a leading zero)."""
    found = _VERSION.fullmatch(text) if len(text) <= LONGEST else None
    if found is None or not _proper(found[4] or ""):
        return None
    return Version(int(found[1]), int(found[2] or 0), int(found[3] or 0), found[4] or "")


def _proper(pre: str) -> bool:
    return not any(word.isdecimal() and len(word) > 1 and word[0] == "0" for word in pre.split("."))


@lru_cache(maxsize=4096)
def order(text: str) -> tuple[bool, tuple[object, ...], str]:
    """A key that sorts version texts: what is no version comes before everything that is, by its text."""
    version = parse_version(text)
    return (False, (), text) if version is None else (True, version.key, "")


# ---- constraints -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """One comparison. ``given``: how many of the three numbers were (``>1.2`` has 2); the others are zero in
    ``version`` and mean "any"."""

    operator: str
    version: Version
    given: int

    def admits(self, version: Version) -> bool:
        return _TESTS[self.operator](version, self)


@lru_cache(maxsize=4096)
def satisfies(version: str, constraint: str) -> bool:
    """Whether ``version`` is allowed by ``constraint``. No constraint allows all, no version satisfies none."""
    if not constraint:
        return True
    if not version:
        return False
    parsed, alternatives = parse_version(version), parse_constraint(constraint)
    if parsed is None or alternatives is None:
        return version == constraint
    return any(_all_admit(bounds, parsed) for bounds in alternatives)


def _all_admit(bounds: tuple[Bound, ...], version: Version) -> bool:
    if version.pre and not any(bound.version.pre for bound in bounds):
        return False
    return all(bound.admits(version) for bound in bounds)


@lru_cache(maxsize=4096)
def parse_constraint(text: str) -> tuple[tuple[Bound, ...], ...] | None:
    """``">=1 <2 || ^3"`` → alternatives of bounds that must all hold. None for what is no constraint."""
    if len(text) > LONGEST:
        return None
    alternatives = tuple(_parse_bounds(part) for part in text.split("||"))
    return None if any(bounds is None for bounds in alternatives) else alternatives  # type: ignore[return-value]


def _parse_bounds(text: str) -> tuple[Bound, ...] | None:
    """The bounds of one alternative, separated by spaces or one comma; ``a - b`` is ``>=a <=b``."""
    bounds: list[Bound] = []
    at = _skip_space(text, 0)
    while at < len(text):
        read = _read_range(text, at) or _read_bound(text, at)
        if read is None:
            return None
        found, end = read
        bounds += found
        at = _skip_space(text, end)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if at == len(text):
                return None
        elif at == end and at < len(text):
            return None  # two bounds without anything between them
    return tuple(bounds) or None


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _read_range(text: str, at: int) -> tuple[list[Bound], int] | None:
    low = _BOUND.match(text, at)
    hyphen = _HYPHEN.match(text, low.end()) if low else None
    high = _BOUND.match(text, hyphen.end()) if hyphen else None
    if low is None or high is None:
        return None
    first, last = _bound(">=", low), _bound("<=", high)
    return None if first is None or last is None else ([first, last], high.end())


def _read_bound(text: str, at: int) -> tuple[list[Bound], int] | None:
    operator = _OPERATOR.match(text, at)
    number = _BOUND.match(text, _skip_space(text, operator.end())) if operator else None
    if operator is None or number is None:
        return None
    bound = _bound(operator[0], number)
    return None if bound is None else ([bound], number.end())


def _bound(operator: str, found: re.Match[str]) -> Bound | None:
    numbers: list[int] = []
    for word in found.group(1, 2, 3):
        if word is None or word in _WILD:
            break
        if not word.isdecimal() or (len(word) > 1 and word[0] == "0"):
            return None
        numbers.append(int(word))
    pre = found[4] or ""
    if not _proper(pre):
        return None
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return Bound(operator, Version(major, minor, patch, pre), len(numbers))


# ---- what the operators mean -------------------------------------------------------------------------------------


def _numbers(version: Version, count: int) -> tuple[int, ...]:
    return (version.major, version.minor, version.patch)[:count]


def _same(version: Version, bound: Bound) -> bool:
    return version.key == bound.version.key if bound.given == 3 else _tilde(version, bound)


def _differs(version: Version, bound: Bound) -> bool:
    if bound.given == 3:
        return version.key != bound.version.key
    if bound.given == 2 and (version.pre or bound.version.pre):
        return _numbers(version, 2) != _numbers(bound.version, 2) or version.pre != bound.version.pre
    # Upstream looks at the major number also for "!=*"; so do we.
    count = max(bound.given, 1)
    return _numbers(version, count) != _numbers(bound.version, count)


def _greater(version: Version, bound: Bound) -> bool:
    """``>11`` means 12 or more, ``>11.1`` means 11.2 or more."""
    if bound.given == 3:
        return version.key > bound.version.key
    if bound.given == 0:
        return version.key > bound.version.key if version.major == 0 else True
    return _numbers(version, bound.given) > _numbers(bound.version, bound.given)


def _less(version: Version, bound: Bound) -> bool:
    return version.key < bound.version.key


def _at_least(version: Version, bound: Bound) -> bool:
    return version.key >= bound.version.key


def _at_most(version: Version, bound: Bound) -> bool:
    """``<=11`` allows every 11.y.z."""
    if bound.given == 3:
        return version.key <= bound.version.key
    count = max(bound.given, 1)
    return _numbers(version, count) <= _numbers(bound.version, count)


def _tilde(version: Version, bound: Bound) -> bool:
    """``~1.2.3`` and ``~1.2`` stay within 1.2, ``~1`` within 1; ``~*`` and (as upstream) ``~0.0.0`` allow all."""
    if version.key < bound.version.key:
        return False
    if bound.given == 0 or (bound.given == 3 and _numbers(bound.version, 3) == (0, 0, 0)):
        return True
    count = min(bound.given, 2)
    return _numbers(version, count) == _numbers(bound.version, count)


def _caret(version: Version, bound: Bound) -> bool:
    """The leftmost number that is not zero must stay: ``^1.2`` < 2, ``^0.2`` < 0.3, ``^0.0.3`` is 0.0.3."""
    if version.key < bound.version.key:
        return False
    if bound.given == 0:
        return True
    low = bound.version
    if low.major > 0 or bound.given == 1:
        return version.major == low.major
    if low.minor > 0 or bound.given == 2:
        return _numbers(version, 2) == _numbers(low, 2)
    return _numbers(version, 3) == _numbers(low, 3)


_TESTS: dict[str, Callable[[Version, Bound], bool]] = {
    "": _same,
    "=": _same,
    "!=": _differs,
    ">": _greater,
    "<": _less,
    ">=": _at_least,
    "=>": _at_least,
    "<=": _at_most,
    "=<": _at_most,
    "~": _tilde,
    "~>": _tilde,
    "^": _caret,
}
