"""Starts and ends the processes of instances; the only place that does.

Every instance is spawned from the main thread (its death signal is bound to the *thread* that forked) through
exec_helper.py, in a session of its own, and stopped by `stop`. The supervisor is a subreaper (reaper.py), so what an
instance leaves behind becomes the supervisor's child, and `sweep` finds it (sweep.py tells how).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import MeshError
from ..lifecycle import Exit
from . import procfs
from .children import Child, Program, living, pidfds_work
from .memory import offer
from .reaper import Reaper, adopts_orphans, become_subreaper
from .sweep import MARK, Swept, orphans, remains, remains_anywhere, seize, sweep_all, sweep_owner, tag_of

__all__ = [
    "MARK",
    "Child",
    "Program",
    "Reaper",
    "SpawnError",
    "Swept",
    "become_subreaper",
    "is_below",
    "spawn",
    "stop",
    "sweep",
    "sweep_owner",
    "tree",
    "usage",
]

_HELPER = str(Path(__file__).with_name("exec_helper.py"))
_FIRST_LISTEN_FD = 3  # SD_LISTEN_FDS_START
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox"})


LAST_WORDS = 0.2
"""Seconds for those at the end of a pipeline, once nobody writes to them any more."""

DEEPEST = 64
"""Processes between an agent's first and one that speaks for it."""

_LOOK_AGAIN = 0.02
"""Seconds, where the end of a process that is no child of ours can only be looked for."""

_own_files: str = ""
"""The soft limit of open files as it was before `allow_many_files`: what programs are started with."""


def allow_many_files() -> None:
    """This process needs three descriptors per instance, and 1024, the usual soft limit, is there for programs that use
    select(): it is raised here and given to programs as it was."""
    global _own_files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        _own_files = str(soft)


def own_files() -> int | None:
    """That limit, for a program that is not spawned here; None: it has it already."""
    return int(_own_files) if _own_files else None


class SpawnError(MeshError):
    """The program cannot be started; one sentence says why and what helps."""


# ---- starting ----------------------------------------------------------------------------------------------------


def spawn(
    program: Program,
    *,
    output: int,
    mark: str,
    stdin: int | None = None,
    pass_fds: Sequence[int] = (),
    listen: int | None = None,
) -> Child:
    """Start ``program`` with stdout and stderr on ``output``; ``stdin`` None is /dev/null. ``mark`` is
    "OWNER/agent/generation"; anything that runs beside an instance (a probe) takes its mark with a fourth part.
    ``listen``: a socket that becomes descriptor 3, and LISTEN_PID is set for it; not together with ``pass_fds``.

    Returns once the helper runs, about 1 ms; what fails after that is said on ``output``, exit code 126 or 127.
    Raises SpawnError for what is seen before: no such program, no such directory, not executable, too many processes.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("spawn() belongs to the main thread: the child dies with the thread that started it")
    _check(program)
    helper = [sys.executable, "-I", "-S", "-X", "utf8", _HELPER]
    kept = ",".join(map(str, pass_fds if listen is None else [_FIRST_LISTEN_FD])) or "-"
    words = [str(os.getpid()), str(tag_of(mark)), kept, _own_files or "-", str(program.directory), *program.argv]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*helper, *words],
            {**program.environ, MARK: mark},
            file_actions=_descriptors(output, stdin, pass_fds, listen),
            # Python's handler would print a traceback if SIGINT came while the helper starts; it unblocks it.
            setsigmask=[signal.SIGINT],
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            setsid=sys.platform == "linux",  # elsewhere the helper does it
        )
    except (OSError, ValueError) as error:
        raise SpawnError(f"cannot start {program.argv[0]}: {_reason(error)}") from error
    return _child_of(pid, program, mark)


def _child_of(pid: int, program: Program, mark: str) -> Child:
    offer(pid)
    try:
        return Child(pid, program, mark)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise SpawnError(f"cannot start {program.argv[0]}: {_reason(error)}") from error


def _descriptors(output: int, stdin: int | None, pass_fds: Sequence[int], listen: int | None) -> list[tuple[int, ...]]:
    null: tuple[object, ...] = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    source = null if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0)
    outputs = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    passed = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in pass_fds]  # onto itself: clears close-on-exec
    if listen is not None:
        passed.append((os.POSIX_SPAWN_DUP2, listen, _FIRST_LISTEN_FD))
    return [*outputs, source, *passed]  # type: ignore[list-item]


def _check(program: Program) -> None:
    name = program.argv[0]
    if not program.directory.is_dir():
        raise SpawnError(
            f"cannot start {name}: its directory {program.directory} does not exist; create it or change 'directory'"
        )
    if not os.access(program.directory, os.X_OK):
        raise SpawnError(f"cannot start {name}: its directory {program.directory} may not be entered by this user")
    if "/" in name:
        _check_file(program.directory / name)
    elif not any(_executable(program.directory / place / name) for place in os.get_exec_path(program.environ)):
        raise SpawnError(f"cannot start {name}: it is not in the agent's PATH; install it or give its path")


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SpawnError(f"cannot start {path}: there is no such file; change 'command'")
    if not _executable(path):
        raise SpawnError(f"cannot start {path}: it is not executable; chmod +x it, or put its interpreter before it")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, BlockingIOError):
        return "this user has too many processes (ulimit -u, or the container's pids limit)"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


# ---- ending ------------------------------------------------------------------------------------------------------


async def stop(child: Child, signal_number: int, grace: float) -> Exit:
    """Signal, SIGCONT with it, at most ``grace`` seconds, SIGKILL; returns when the child is reaped.

    The grace is for its whole session: ``sh -c "server; true"`` dies of SIGTERM at once, but the server in it may still
    have requests to finish. What left the session is for `sweep`, which waits for the end of a stop.
    """
    with child.being_stopped():
        try:
            async with asyncio.timeout(grace):
                untold = _tell(child, signal_number)
                await child.wait()
                await _see_off(child, untold, signal_number)
        except TimeoutError:
            child.send(signal.SIGKILL)
            for process in _companions(child):
                _signal_one(process, signal.SIGKILL)
        return await child.wait()


def _tell(child: Child, number: int) -> list[procfs.Process]:
    """Send the signal to whoever should hear it first; returns those of the session that have not been told.

    A program that catches the signal decides itself what its children are told: ``uv run`` passes it on, and the
    workers of a process pool must not die before the requests that need them. Everything else dies of it, or is a
    shell, which keeps it from its children: there each of them is told. But what catches nothing waits for those that
    do: in ``server | cat`` the cat must still be there for the server's last words.
    """
    others = _companions(child)
    if procfs.catches(child.pid, number) and not _is_shell(child.pid):
        child.send(number, group=False)
        untold = others
    else:
        polite = {one.pid for one in others if procfs.catches(one.pid, number)}
        untold = [one for one in others if polite and one.pid not in polite and one.name not in _SHELLS]
        child.send(number, group=not untold)
        for process in others:
            if process not in untold and (untold or process.group != child.pid):
                _signal_one(process, number)
    # A stopped process cannot act on a signal, so wake it as well.
    child.send(signal.SIGCONT)
    return untold


async def _see_off(child: Child, untold: list[procfs.Process], number: int) -> None:
    """Wait for those of the session that outlive its first process; the last to go are those that were not told."""
    if not procfs.ours:
        while _signal_rest_of_group(child, 0):  # noqa: ASYNC110 (they have all been told; nobody tells of their end)
            await asyncio.sleep(_LOOK_AGAIN)
    waiting = {(process.pid, process.started) for process in untold}
    for process in _companions(child):
        _signal_one(process, signal.SIGCONT)
        if (process.pid, process.started) not in waiting:
            await _end_of(process)
    # In ``server | cat`` the cat has yet to hand on the server's last words, and ends by itself then.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS):
            for process in _companions(child):
                await _end_of(process)
    for process in _companions(child):
        _signal_one(process, number)
        _signal_one(process, signal.SIGCONT)
    for process in _companions(child):
        await _end_of(process)


def _companions(child: Child) -> list[procfs.Process]:
    """The other processes in the session of ``child``, alive; orphans among them."""
    if sys.platform != "linux":
        return []
    if living.get(child.pid, child) is not child:
        return []  # its pid is another one's by now, so its session has ended
    if adopts_orphans():
        found = procfs.descendants(os.getpid(), but_not_below=set(living) - {child.pid})
    else:
        found = iter(procfs.everything().values())
    return [one for one in found if one.session == child.pid != one.pid and not one.over]


def _signal_one(process: procfs.Process, number: int) -> None:
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # gone, not ours to signal, or out of descriptors: the sweep is still to come
        if not pidfds_work():
            os.kill(process.pid, number)  # it was looked at a moment ago
            return
        pidfd = seize(process)
        if pidfd is not None:
            try:
                signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)


async def _end_of(process: procfs.Process) -> None:
    """Returns when it is dead, reaped or not. Works for processes that are not our children."""
    while not pidfds_work() and (found := procfs.look(process.pid)) is not None:
        if found.over or found.started != process.started:
            return
        await asyncio.sleep(_LOOK_AGAIN)
    pidfd = seize(process) if pidfds_work() else None
    if pidfd is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _signal_rest_of_group(child: Child, number: int) -> bool:
    """Without a /proc: to what an ended instance left of its process group, the only thing that is known of it. Whether
    there is something. While there is, the number is nobody else's."""
    if living.get(child.pid, child) is not child:
        return False
    try:
        os.killpg(child.pid, number)
    except OSError:  # nobody, or nobody that we may signal
        return False
    return True


def _is_shell(pid: int) -> bool:
    process = procfs.look(pid)
    return process is not None and process.name in _SHELLS


async def sweep(mark: str, leader: Child | None = None) -> list[Swept]:
    """Kill whatever is left of the instance ``mark`` whose first process has ended, and of what ran beside it under a
    longer mark; returns what there was, when it is gone. Other instances and their trees are never looked at.

    ``leader``, its first process, makes known its session; while it is being stopped, what it left keeps its grace and
    the sweep waits. Nearly free when nothing remained, which is the rule.
    """
    if leader is not None:
        await leader.left_alone()
    pid = leader.pid if leader is not None and leader.exit is not None and leader.pid not in living else None
    if not procfs.ours:
        if leader is not None and pid is not None:
            _signal_rest_of_group(leader, signal.SIGKILL)
        return []
    if not adopts_orphans() or procfs.children(os.getpid()) is None:
        return await asyncio.to_thread(sweep_all, lambda: remains_anywhere(mark, pid, frozenset(living)))
    if not orphans(living):
        return []
    return await asyncio.to_thread(sweep_all, lambda: remains(mark, pid, frozenset(living)))


# ---- looking -----------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """``pid`` and everything below it; empty when it is gone."""
    return [pid, *(process.pid for process in procfs.descendants(pid))] if procfs.look(pid) is not None else []


def is_below(pid: int, top: int) -> bool:
    """Whether ``pid`` is in the tree of ``top`` without being ``top``; upwards, however large that is: about 15 µs a
    step, DEEPEST at most."""
    for _ in range(DEEPEST):
        process = procfs.look(pid)
        if process is None or process.parent == top:
            return process is not None
        pid = process.parent
    return False


def usage(pids: Iterable[int]) -> tuple[float, int]:
    """(seconds of CPU, with those of children that have ended and were waited for; resident bytes), summed up."""
    looks = [process for process in map(procfs.look, pids) if process is not None]
    return sum(process.cpu for process in looks), sum(process.resident for process in looks)
