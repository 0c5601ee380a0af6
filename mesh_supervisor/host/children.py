"""The processes of ours: one `Child` each, from its spawn until it is reaped.

An exit is seen through a pidfd, at once, without polling; on macOS a thread waits instead. An instance that was forked
by a warm process is ours too: its parent ended at once, and orphans come to the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..lifecycle import Exit
from .procfs import look

living: dict[int, Child] = {}
"""Our children that are not reaped yet, by pid: what tells them from orphans."""

expected: set[int] = set()
"""Tags (sweep.py) of instances that are being forked for us. Such a one may have ended before we learn its pid: then
its exit is not the reaper's to collect."""

_KIB = 1024

_AGAIN = 0.005  # seconds; what ended while its first parent lived becomes ours as soon as that one is gone


@dataclass(frozen=True, slots=True)
class Program:
    """``argv[0]`` is searched in the PATH of ``environ``, or relative to ``directory`` if it has a slash."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    directory: Path


class Child:
    """One process of ours, from its spawn until it is reaped. ``exit`` is None while it runs. ``killed``: we sent it
    SIGKILL. ``peak``: the most memory that it has had, in bytes, once it has ended; None: nobody knows."""

    def __init__(self, pid: int, program: Program, mark: str) -> None:
        self.pid = pid
        self.program = program
        self.mark = mark
        self.exit: Exit | None = None
        self.killed = False
        self.peak: int | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stops: list[asyncio.Event] = []
        self._pidfd = _open_pidfd(pid)
        living[pid] = self

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self.mark} {self.exit or 'running'}>"

    async def wait(self) -> Exit:
        """How it ended. May be asked by several tasks, again and again, and cancelled."""
        if self.exit is None:
            await asyncio.shield(self._ending())
        assert self.exit is not None
        return self.exit

    def becomes(self, program: Program, mark: str) -> None:
        """From now on it is this instance: a spare was given its program."""
        self.program, self.mark = program, mark

    def send(self, number: int, *, group: bool = True) -> None:
        """The signal to its process group, or to it alone, unless it is reaped: until then its pid is nobody else's.

        One that became another user's (sudo; or root's, and we may kill nobody) goes on, and counts as ended when it is
        to be killed: nobody can wait for it. The sweep says that it is still there."""
        if self.exit is not None:
            return
        self.killed = self.killed or number == signal.SIGKILL
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            if number == signal.SIGKILL:
                self._finish(Exit(None, why="not permitted, it is another user's and goes on"))

    @contextlib.contextmanager
    def being_stopped(self) -> Iterator[None]:
        """While this lasts, what the first process leaves is still in its grace: `left_alone` waits for the end."""
        over = asyncio.Event()
        self._stops.append(over)
        try:
            yield
        finally:
            self._stops.remove(over)
            over.set()

    async def left_alone(self) -> None:
        """Returns when nobody is stopping it (any more)."""
        while self._stops:
            await self._stops[0].wait()

    def close(self) -> None:
        """Give back the descriptor. Of a child that still runs, the exit is not collected here any more."""
        self._stop_watching()
        living.pop(self.pid, None)

    def _ending(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if self._ended is None or self._ended.get_loop() is not loop:
            self._ended = loop.create_future()
            if self._pidfd is None:
                threading.Thread(target=self._wait_in_thread, args=(loop,), daemon=True).start()
            else:
                loop.add_reader(self._pidfd, self._collect)
        return self._ended

    def _collect(self) -> None:
        if sys.platform != "linux" or self._pidfd is None:
            return
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._collect_later()
            return
        if result is not None:
            self._reap()
            exited = result.si_code == os.CLD_EXITED
            self._finish(Exit(result.si_status) if exited else Exit(None, result.si_status))

    def _reap(self) -> None:
        """Of a zombie of ours the pid is nobody else's, and by its pid the kernel tells more."""
        with contextlib.suppress(ChildProcessError):  # a sweep was quicker
            self.peak = os.wait4(self.pid, os.WNOHANG)[2].ru_maxrss * _KIB

    def _collect_later(self) -> None:
        """It has ended, and is not our child: not yet, or not any more."""
        found = look(self.pid)
        if found is None or not found.over or self._ended is None or self._pidfd is None:
            self._finish(Exit(None))  # somebody else reaped it: how it ended is lost
            return
        loop = self._ended.get_loop()
        loop.remove_reader(self._pidfd)  # it would call us all the time
        loop.call_later(_AGAIN, self._watch_again, loop)

    def _watch_again(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._collect)

    def _wait_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            loop.call_soon_threadsafe(self._finish, Exit(None))
        else:
            loop.call_soon_threadsafe(self._finish, Exit(code) if code >= 0 else Exit(None, -code))

    def _finish(self, exit: Exit) -> None:
        self.exit = exit
        self.close()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _stop_watching(self) -> None:
        if self._pidfd is None:
            return
        if self._ended is not None and not self._ended.get_loop().is_closed():
            self._ended.get_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = None


@cache
def pidfds_work() -> bool:
    """Not on macOS, Linux before 5.3, gVisor, and behind a filter of system calls that is older than they are."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def _open_pidfd(pid: int) -> int | None:
    return os.pidfd_open(pid) if sys.platform == "linux" and pidfds_work() else None
