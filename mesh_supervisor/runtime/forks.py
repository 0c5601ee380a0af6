"""What has to be done when the program forks: its child has nothing to say to the supervisor, and the program is not to
be blamed for a thread that is ours.
"""

from __future__ import annotations

import os
import sys

from .hints import Any
from .link import Link

_TASKS = "/proc/self/task"
_WARNED_OF = ("fork", "forkpty")


def install(link: Link) -> None:
    os.register_at_fork(after_in_child=link.close)
    if sys.version_info >= (3, 12):
        os.register_at_fork(before=lambda: _blame_only_the_program(link))


def _blame_only_the_program(link: Link) -> None:
    """Python warns of a fork beside threads, also of ours (under ``-W error`` the fork would fail). Ours holds nothing
    that a child could wait for."""
    try:
        filters = (sys.modules.get("warnings") or sys.modules["_warnings"]).filters
        ours = [_filter(name) for name in _WARNED_OF]
        filters[:] = [each for each in filters if each not in ours]
        if link.listening and len(os.listdir(_TASKS)) == 2:
            filters[:0] = ours
    except Exception:  # noqa: BLE001, S110 - the program's own warnings module, or no /proc: then it is warned
        pass


def _filter(name: str) -> tuple[Any, ...]:
    """For this one sentence: C compares a message that is text as it stands."""
    sentence = (
        f"This process (pid={os.getpid()}) is multi-threaded, use of {name}() may lead to deadlocks in the child."
    )
    return ("ignore", sentence, DeprecationWarning, None, 0)
