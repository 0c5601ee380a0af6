"""Whether this process is what a container was started for. From facts, never from the presence of an engine."""

from __future__ import annotations

import os
from pathlib import Path

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""Its inode, the same on every machine (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


def is_main_process() -> bool:
    """PID 1, or what a small init (`docker run --init`) was told to start. Ask at the start: whose parent ends becomes
    a child of PID 1 too."""
    return os.getpid() == 1 or (os.getppid() == 1 and _has_own_pids())


def _has_own_pids() -> bool:
    """Not so: PID 1 is the machine's, and its child is a service of it."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE
    except OSError:
        return False
