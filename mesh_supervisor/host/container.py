"""Who started this process: a container's engine, a service manager, or a person.

From facts about PID 1 and stdout, never from the presence of an engine. Ask at the start: whose parent ends
becomes a child of PID 1 too.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import procfs

SMALL_INITS = ("docker-init", "podman-init", "tini", "dumb-init", "catatonit")
"""How the names of those begin that start one program, hand signals on to it and end as it does."""

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""Its inode, the same on every machine (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


def is_main_process() -> bool:
    """Whether the container ends when this process does: it is PID 1, or what a small init (`docker run --init`) was
    told to start. Not so below other PIDs 1 (systemd in LXC or WSL, a shell), which start many."""
    return os.getpid() == 1 or bool(_small_init())


def why_unattended() -> str:
    """Why no person waits for what this process says, in words; "" when one may. Blocks for no longer than a look at
    the processes of a container."""
    if os.getpid() == 1:
        return "meshsup is PID 1"
    init = _small_init()
    if init:
        return f"{init} is PID 1 and has started it"
    service = os.getppid() == 1 and not os.isatty(1)
    return "its parent is PID 1 and stdout is no terminal" if service else ""


def _small_init() -> str:
    """The name of the init that was told to start this process; "" when there is none, or nobody can tell."""
    if os.getppid() != 1 or not procfs.ours or not _has_own_pids():
        return ""
    first = procfs.look(1)
    if first is None or not first.name.startswith(SMALL_INITS):
        return ""
    # Its other children are orphans that it took over: of what `docker exec` or an editor's terminal has started.
    oldest = min((one for one in procfs.everything().values() if one.parent == 1), key=lambda one: one.started)
    return first.name if oldest.pid == os.getpid() else ""


def _has_own_pids() -> bool:
    """Not so: PID 1 is the machine's, and its child is a service of it."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE
    except OSError:
        return False
