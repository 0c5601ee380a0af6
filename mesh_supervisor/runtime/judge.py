"""Which modules may be preloaded, and into what: found out in throw-away copies of a clean process, at the lowest
priority.

``judge`` {"modules": [names]} is answered by one ``judged`` for each name, in that order, so that nothing is lost when
it is cut short: {"verdicts": {name: {"verdict": str, "why": str, "loads": [names]}}, "more": bool}; the last one has
``more`` false, also when there is nothing to judge. ``loads``: the third-party top-level modules that came with it.

``verdict``: "fork": into templates and spares; "spare": into spares only (threads, descriptors, handlers, …, or one of
those that are never forked, or loads one); "skip": into neither (cannot be imported, ends or hangs the process, brings
in project code). ``why`` is a sentence for people, "" for "fork".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .link import Link

if TYPE_CHECKING:
    from .preload import Preload


def judge(link: Link, preload: Preload, modules: list[str]) -> None:
    """Answers for each of them."""
