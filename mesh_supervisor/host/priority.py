"""Who waits for whom on a busy machine: what is done ahead of need must cost no agent anything.

A user without privileges may lower a nice value and not raise it again, and a warm process becomes, or forks, an agent
that deserves the whole processor. So where that is so, work ahead of need is SCHED_BATCH: it never interrupts another
one that wakes up, and can be undone by anybody.
"""

from __future__ import annotations

import contextlib
import enum
import os
import resource
import sys

_NICEST = 19
_CAP_SYS_NICE = 23


class Priority(enum.Enum):
    """``LATER``: behind what somebody waits for, and can be made NORMAL again. ``IDLE``: the rest of the time, for
    good."""

    NORMAL = "normal"
    LATER = "later"
    IDLE = "idle"


def give_priority(pid: int, priority: Priority) -> None:
    """To all its threads; what it forks inherits it. Nothing happens to a process that is gone."""
    if sys.platform != "linux":
        return
    for thread in _threads(pid):
        with contextlib.suppress(OSError):  # gone, or a sandbox without it
            _give(thread, priority)


def _give(thread: int, priority: Priority) -> None:
    if sys.platform != "linux":
        return
    param = os.sched_param(0)
    match priority:
        case Priority.IDLE:
            os.setpriority(os.PRIO_PROCESS, thread, _NICEST)
            os.sched_setscheduler(thread, os.SCHED_IDLE, param)
        case Priority.LATER if _may_raise():
            os.setpriority(os.PRIO_PROCESS, thread, _NICEST)
        case Priority.LATER:
            os.sched_setscheduler(thread, os.SCHED_BATCH, param)
        case Priority.NORMAL:
            os.sched_setscheduler(thread, os.SCHED_OTHER, param)
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0))


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except OSError:
        return []


def _may_raise() -> bool:
    """CAP_SYS_NICE, or a limit that allows a nice value as low as ours."""
    if sys.platform != "linux":
        return False
    soft = resource.getrlimit(resource.RLIMIT_NICE)[0]
    if soft == resource.RLIM_INFINITY or 20 - soft <= os.getpriority(os.PRIO_PROCESS, 0):
        return True
    return bool(_capabilities() >> _CAP_SYS_NICE & 1)


def _capabilities() -> int:
    try:
        with open("/proc/self/status", "rb") as file:  # noqa: PTH123
            return next((int(line.split()[1], 16) for line in file if line.startswith(b"CapEff:")), 0)
    except (OSError, ValueError):
        return 0
