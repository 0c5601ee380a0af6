"""Orphans: they come to this process because it is a subreaper (or PID 1), and somebody must reap them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from . import procfs
from .children import expected, living
from .sweep import tag_in

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_GRACE = 5.0  # seconds that a zombie of our own session may wait for the code that started it


def become_subreaper() -> bool:
    """From now on, orphans among our descendants become our children. False where the system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def adopts_orphans() -> bool:
    if sys.platform != "linux":
        return False
    if os.getpid() == 1:
        return True
    import ctypes

    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return answer.value == 1


class Reaper:
    """Reaps zombies that nobody else waits for: orphans, never a `Child`, which collects its own exit.

    What this process started by other means (subprocess) is told by its session, which is ours: it is left to whoever
    waits for it, unless nobody does for some seconds. So is an instance that a warm process is forking just now.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._later: asyncio.TimerHandle | None = None
        self._seen: dict[tuple[int, int], float] = {}

    def install(self) -> None:
        """In the running loop, from the main thread."""
        if sys.platform == "linux":
            self._loop = asyncio.get_running_loop()
            self._loop.add_signal_handler(signal.SIGCHLD, self.reap)
            self.reap()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGCHLD)
            self._loop = None
        if self._later is not None:
            self._later.cancel()

    def reap(self) -> None:
        zombies = _foreign_zombies()
        kept = [zombie for zombie in zombies if _is_waited_for(zombie)]
        for zombie in zombies:
            if zombie not in kept or self._waited_enough(zombie):
                _reap(zombie.pid)
        self._come_again(kept)

    def _waited_enough(self, zombie: procfs.Process) -> bool:
        assert self._loop is not None
        now = self._loop.time()
        return now - self._seen.setdefault((zombie.pid, zombie.started), now) >= _GRACE

    def _come_again(self, kept: list[procfs.Process]) -> None:
        self._seen = {key: since for key, since in self._seen.items() if key in {(z.pid, z.started) for z in kept}}
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._seen and self._loop is not None:
            self._later = self._loop.call_later(_GRACE, self.reap)


def _foreign_zombies() -> list[procfs.Process]:
    pids = procfs.children(os.getpid())
    if pids is None:
        looks = [one for one in procfs.everything().values() if one.parent == os.getpid()]
    else:
        looks = [one for one in (procfs.look(pid) for pid in pids if pid not in living) if one is not None]
    return [one for one in looks if one.state == "Z" and one.pid not in living]


def _is_waited_for(zombie: procfs.Process) -> bool:
    return zombie.session == os.getsid(0) or (bool(expected) and tag_in(zombie.pid) in expected)


def _reap(pid: int) -> None:
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):  # a sweep was quicker
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
