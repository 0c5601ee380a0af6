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
_AGAIN = 0.05  # seconds until whoever hides the rest of the zombies has been collected


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
        self._due = False
        self._later: asyncio.TimerHandle | None = None
        self._seen: dict[tuple[int, int], float] = {}

    def install(self) -> None:
        """In the running loop, from the main thread."""
        if sys.platform == "linux":
            self._loop = asyncio.get_running_loop()
            self._loop.add_signal_handler(signal.SIGCHLD, self._reap_soon)
            self.reap()

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGCHLD)
            self._loop = None
        if self._later is not None:
            self._later.cancel()

    def _reap_soon(self) -> None:
        """One look for all signals that come at once: a thousand orphans may end in the same moment."""
        if self._loop is not None and not self._due:
            self._due = True
            self._loop.call_soon(self.reap)

    def reap(self) -> None:
        self._due = False
        if self._loop is None:
            return
        kept = [one for one in _foreign_zombies() if not self._take(one)] if self._more_than_orphans() else []
        self._come_again(kept)

    def _more_than_orphans(self) -> bool:
        """Reap the first zombie while it is an orphan. Whether there may be others, behind one that is not: those are
        found by a look at all children, and a thousand of them may be alive."""
        while (pid := _first_zombie()) is not None:
            if pid in living or not self._take(_seen(pid)):
                return True
        return False

    def _take(self, zombie: procfs.Process) -> bool:
        """Reap it, unless somebody waits for it."""
        if _is_waited_for(zombie) and not self._waited_enough(zombie):
            return False
        _reap(zombie.pid)
        return True

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
        elif not procfs.ours and self._loop is not None and _first_zombie() is not None:
            self._later = self._loop.call_later(_AGAIN, self.reap)


def _first_zombie() -> int | None:
    """Any child that has ended. The kernel names one at a time, the same until it is reaped."""
    if sys.platform != "linux":
        return None
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None


def _foreign_zombies() -> list[procfs.Process]:
    if not procfs.ours:
        first = _first_zombie()
        return [] if first is None or first in living else [_seen(first)]
    pids = procfs.children(os.getpid())
    if pids is None:
        looks = [one for one in procfs.everything().values() if one.parent == os.getpid()]
    else:
        looks = [one for one in (procfs.look(pid) for pid in pids if pid not in living) if one is not None]
    return [one for one in looks if one.state == "Z" and one.pid not in living]


def _seen(pid: int) -> procfs.Process:
    """A zombie of ours, as far as it can be seen: without a /proc, or out of descriptors, its session can."""
    try:
        return procfs.look(pid) or procfs.Process(pid, "", "Z", os.getpid(), 0, os.getsid(pid), 0, 0.0, 0)
    except ProcessLookupError:  # a sweep was quicker
        return procfs.Process(pid, "", "Z", os.getpid(), 0, 0, 0, 0.0, 0)


def _is_waited_for(zombie: procfs.Process) -> bool:
    """Without a /proc nobody can tell an instance that is being forked from an orphan."""
    forked = bool(expected) and (not procfs.ours or tag_in(zombie.pid) in expected)
    return zombie.session == os.getsid(0) or forked


def _reap(pid: int) -> None:
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):  # a sweep was quicker
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
