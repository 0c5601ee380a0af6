"""Finds what an instance left behind, and kills exactly that. Standard library only: the guardian runs it too.

A process belongs to an instance by any of these:

- the mark ``MESHSUP_INSTANCE=OWNER/agent/generation`` in its environment;
- the tag, a number made of the mark, as its soft RLIMIT_LOCKS. The kernel has ignored that limit since 2.4.25, but
  hands it down through fork, exec, setsid and a scrubbed environment, which is what MCP SDKs do to their servers;
- the session or process group of the instance's first process;
- a parent that belongs to it.

What was forked from a warm process shows that process's environment, mark and all, until it execs. So where a tag of
the same owner says another instance than the mark, the tag is right: it was set after the fork.

A pid is not a process: every kill goes through a pidfd, opened before the process is looked at for a second time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from binascii import crc32
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .procfs import Process, children, descendants, everything, look, read

MARK = "MESHSUP_INSTANCE"
_PARTS = 3
_RLIMIT_LOCKS = 10
_PATIENCE = 5.0  # seconds; only a process that hangs in the kernel needs more to die of SIGKILL
_PASSES = 5  # of looking at all processes, about 10 ms each; on a busy machine something always forks


class Swept(NamedTuple):
    """``killed`` False: it is still there (another user's process, or one that hangs in the kernel)."""

    pid: int
    name: str
    killed: bool = True


# ---- whose is it -------------------------------------------------------------------------------------------------


def tag_of(mark: str) -> int:
    """31 bits of the owner, 32 bits of owner/agent/generation: a soft limit, never 'unlimited'."""
    owner, *rest = mark.split("/")[:_PARTS]
    return _tag_of_owner(owner) << 32 | crc32("/".join([owner, *rest]).encode())


def _tag_of_owner(owner: str) -> int:
    return crc32(owner.encode()) & 0x7FFFFFFF


def drop_tag() -> None:
    """For the guardian: when meshsup itself runs inside an instance of an outer mesh, that one's tag is handed down."""
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(_RLIMIT_LOCKS)[1]
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(_RLIMIT_LOCKS, (hard, hard))


def mark_in(pid: int) -> str:
    """Of its environment as it was at its exec; "" if there is none, or none that we may read."""
    wanted = MARK.encode() + b"="
    for entry in read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(wanted):
            return entry[len(wanted) :].decode(errors="replace")
    return ""


def tag_in(pid: int) -> int | None:
    for line in read(f"/proc/{pid}/limits").splitlines():
        if line.startswith(b"Max file locks"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else None
    return None


def of_instance(mark: str, leader: int | None) -> Callable[[Process], bool]:
    """``leader``: pid of the instance's first process, if no other process can have that number by now."""
    # What runs beside an instance shares its tag, so that by its own, longer mark only the environment can tell.
    tag = tag_of(mark) if mark.count("/") < _PARTS else -1
    owner = tag_of(mark) >> 32

    def belongs(process: Process) -> bool:
        if leader is not None and leader in (process.session, process.group):
            return True
        found, carried = mark_in(process.pid), tag_in(process.pid)
        if carried is not None and carried >> 32 == owner and carried != tag_of(found):
            return carried == tag
        return found == mark or found.startswith(mark + "/") or carried == tag

    return belongs


def of_owner(owner: str) -> Callable[[Process], bool]:
    start, tag = owner + "/", _tag_of_owner(owner)

    def belongs(process: Process) -> bool:
        if mark_in(process.pid).startswith(start):
            return True
        found = tag_in(process.pid)
        return found is not None and found >> 32 == tag

    return belongs


def with_offspring(processes: Iterable[Process], belongs: Callable[[Process], bool]) -> list[Process]:
    """Those that belong, and their children; ``processes`` has parents before children. The dead are left out."""
    members: dict[int, Process] = {}
    for process in processes:
        if not process.over and (process.parent in members or belongs(process)):
            members[process.pid] = process
    return list(members.values())


# ---- finding -----------------------------------------------------------------------------------------------------


def remains(mark: str, leader: int | None, apart: Iterable[int]) -> list[Process]:
    """What is left of an ended instance, below this process (a subreaper: nothing of an instance can be elsewhere).

    ``apart``: pids of first processes of the instances that live; they and what is below them is not looked at.
    """
    apart = frozenset(apart)
    deadline = time.monotonic() + _PATIENCE
    while True:
        before = orphans(apart)
        found = with_offspring(descendants(os.getpid(), but_not_below=apart), of_instance(mark, leader))
        # One that forks and exits all the time may have moved on from pid to pid while we looked.
        if found or orphans(apart) <= before or time.monotonic() > deadline:
            return found


def orphans(apart: Iterable[int]) -> set[int]:
    """Children of this process but ``apart``, zombies too: those that came to us and those that are no instances."""
    return set(children(os.getpid()) or ()).difference(apart)


def remains_anywhere(mark: str, leader: int | None, apart: Iterable[int]) -> list[Process]:
    """The same where orphans do not come to this process."""
    return with_offspring(_all_but(apart), of_instance(mark, leader))


def remains_of_owner(owner: str) -> list[Process]:
    for _ in range(_PASSES):
        before = _newest_pid()
        found = with_offspring(_all_but(()), of_owner(owner))
        if found or _newest_pid() == before:
            break
    return found


def _newest_pid() -> bytes:
    """As long as it stays the same, nothing has forked: what a look at all processes says is the whole truth."""
    return read("/proc/loadavg").rpartition(b" ")[2]


def _all_but(apart: Iterable[int]) -> list[Process]:
    """All processes, parents first, without ``apart`` and what is below, this process, and those above it."""
    processes = everything()
    above = {os.getpid()}
    parent = os.getppid()
    while parent in processes and parent not in above:
        above.add(parent)
        parent = processes[parent].parent
    hidden = above | set(apart)
    below: dict[int, list[Process]] = {}
    for process in processes.values():
        below.setdefault(process.parent if process.parent in processes else 0, []).append(process)
    ordered, waiting = [], [0]
    while waiting:
        for child in below.get(waiting.pop(), ()):
            if child.pid in hidden and child.pid not in above:
                continue
            waiting.append(child.pid)
            if child.pid not in above:
                ordered.append(child)
    return ordered


# ---- killing -----------------------------------------------------------------------------------------------------


def seize(process: Process) -> int | None:
    """A pidfd of exactly this process; None if it has ended. OSError (EMFILE, no pidfds here) is the caller's."""
    if sys.platform != "linux":
        return None
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    now = look(process.pid)
    if now is not None and now.started == process.started and not now.over:
        return pidfd
    os.close(pidfd)
    return None


def sweep_all(find: Callable[[], list[Process]]) -> list[Swept]:
    """Kill what ``find`` finds, until it finds nothing (or only what cannot be killed). Blocks a few milliseconds."""
    outcomes: dict[tuple[int, int], Swept] = {}
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = [one for one in find() if outcomes.get((one.pid, one.started), _UNKNOWN).killed]
        if not found:
            break
        for process, killed in _kill(found, deadline):
            outcomes[process.pid, process.started] = Swept(process.pid, process.name, killed)
    return list(outcomes.values())


_UNKNOWN = Swept(0, "")


def sweep_owner(owner: str) -> list[Swept]:
    """Everything that carries a mark or tag of this owner, wherever it is; not this process, nor those above it."""
    return sweep_all(lambda: remains_of_owner(owner))


def _kill(processes: list[Process], deadline: float) -> list[tuple[Process, bool]]:
    """SIGKILL to all, then wait for each. False: it could not be killed."""
    struck = [(process, *_strike(process)) for process in processes]
    outcomes = []
    for process, pidfd, allowed in struck:
        outcomes.append((process, allowed and _gone(process, pidfd, deadline)))
        if pidfd is not None:
            os.close(pidfd)
    return outcomes


def _strike(process: Process) -> tuple[int | None, bool]:
    """(pidfd if there is one, whether we were allowed to)."""
    pidfd = None
    try:
        if sys.platform == "linux":
            pidfd = seize(process)
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        elif _still(process):
            os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return pidfd, True
    except PermissionError:
        return pidfd, False
    except OSError:  # out of descriptors: the second look must do
        if _still(process):
            os.kill(process.pid, signal.SIGKILL)
    return pidfd, True


def _gone(process: Process, pidfd: int | None, deadline: float) -> bool:
    if pidfd is None:
        while _still(process) and time.monotonic() < deadline:
            time.sleep(0.005)
        return not _still(process)
    if sys.platform != "linux":
        return True  # there are no pidfds
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        return False
    with contextlib.suppress(ChildProcessError):  # not an orphan of ours: somebody else's to reap
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    return True


def _still(process: Process) -> bool:
    now = look(process.pid)
    return now is not None and now.started == process.started and not now.over
