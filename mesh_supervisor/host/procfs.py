"""What /proc tells about processes. Standard library only, and light: the guardian (a few MB) runs it too.

Every function answers for a process that may end at any moment: then None, or an empty list, never an error.
Elsewhere than on Linux there is no /proc; psutil answers in its place (`everything` and what is built on it). On Linux
without one of our own (``ours``) there is nothing to tell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _is_ours() -> bool:
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115 (pathlib would double the guardian's size)
    except OSError:
        return False


ours = sys.platform != "linux" or _is_ours()
"""False: there is no /proc, or that of another PID namespace (`unshare --pid` without `--mount-proc`), where a pid is
somebody else's. Then nothing is told of any process, rather than of wrong ones."""


class Process(NamedTuple):
    """One look at one process. (pid, ``started``) is unique: a reused pid has another start. A NamedTuple, because
    ``dataclasses`` would double the guardian's size."""

    pid: int
    name: str
    state: str  # R S D Z T …
    parent: int
    group: int
    session: int
    started: int  # clock ticks since boot
    cpu: float  # seconds, including children that were waited for
    resident: int  # bytes

    @property
    def over(self) -> bool:
        return self.state in "ZXx"


def read(path: str) -> bytes:
    """The whole of a small file below /proc or /sys; b"" when it is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)


def text(path: str) -> str:
    """The same as text; what is no UTF-8 is replaced."""
    return read(path).decode(errors="replace")


def look(pid: int) -> Process | None:
    if sys.platform != "linux":
        return everything().get(pid)
    if not ours:
        return None
    stat = read(f"/proc/{pid}/stat")
    # The name stands in parentheses and may hold any byte, also ")" and newlines.
    before, _, after = stat.rpartition(b")")
    fields = after.split()
    if len(fields) < 22:
        return None
    return Process(
        pid=pid,
        name=before.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        cpu=sum(map(int, fields[11:15])) / _TICKS,
        resident=int(fields[21]) * _PAGE,
    )


def catches(pid: int, number: int) -> bool:
    """Whether it has a handler for that signal."""
    words = status(pid, b"SigCgt")
    return bool(words) and bool(int(words[0], 16) >> (number - 1) & 1)


def depth(pid: int) -> int:
    """Of its PID namespace, counted from that of this /proc: 1 in the same one. 0: it is gone, or nobody says."""
    return len(status(pid, b"NSpid"))


def status(pid: int | str, name: bytes) -> list[bytes]:
    """The words behind that name in /proc/PID/status (``pid`` may be "self"); [] when nobody says."""
    for line in read(f"/proc/{pid}/status").splitlines():
        before, _, words = line.partition(b":")
        if before == name:
            return words.split()
    return []


def everything() -> dict[int, Process]:
    """All processes that can be seen: about 15 µs each."""
    if sys.platform != "linux":
        return _everything_by_psutil()
    if not ours:
        return {}
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    return {found.pid: found for found in map(look, pids) if found is not None}


def children(pid: int) -> list[int] | None:
    """Direct children, of all its threads; None where the kernel does not keep the list (CONFIG_PROC_CHILDREN)."""
    if sys.platform != "linux":
        return None
    if not ours:
        return []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return []
    if not _kernel_lists_children():
        return None
    return [int(child) for thread in threads for child in read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(pid: int, *, but_not_below: Iterable[int] = ()) -> Iterator[Process]:
    """Everything below ``pid``, parents before their children, without the trees that ``but_not_below`` heads."""
    closed = set(but_not_below)
    if children(pid) is None:
        yield from _descendants_in(everything(), pid, closed)
        return
    waiting = [pid]
    while waiting:
        for child in reversed(children(waiting.pop()) or ()):  # the newest first: zombies wait at the front
            if child not in closed and (found := look(child)) is not None:
                closed.add(child)
                waiting.append(child)
                yield found


def _descendants_in(processes: dict[int, Process], pid: int, closed: set[int]) -> Iterator[Process]:
    below: dict[int, list[Process]] = {}
    for process in processes.values():
        below.setdefault(process.parent, []).append(process)
    waiting = [pid]
    while waiting:
        for child in below.get(waiting.pop(), ()):
            if child.pid not in closed:
                closed.add(child.pid)
                waiting.append(child.pid)
                yield child


def _kernel_lists_children() -> bool:
    return os.access(f"/proc/self/task/{os.getpid()}/children", os.R_OK)


def _everything_by_psutil() -> dict[int, Process]:
    import psutil

    found = {}
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                cpu, memory = process.cpu_times(), process.memory_info()
                found[process.pid] = Process(
                    process.pid,
                    process.name(),
                    "Z" if process.status() == psutil.STATUS_ZOMBIE else "R",
                    process.ppid(),
                    os.getpgid(process.pid),
                    os.getsid(process.pid),
                    int(process.create_time() * _TICKS),
                    cpu.user + cpu.system,
                    memory.rss,
                )
        except (psutil.Error, OSError):
            continue  # gone, or not ours to look at
    return found
