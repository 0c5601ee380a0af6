"""PURE. A command line → what of Python it runs, for the runtime to run it in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """``words``: what sys.orig_argv would be."""

    python: str
    flags: tuple[str, ...]
    kind: Literal["script", "module"]
    name: str
    args: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plain:
    """Why a program runs without the runtime, and what would help ("" nothing)."""

    reason: str
    cure: str = ""
