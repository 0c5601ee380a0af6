"""Becomes the program: ``python -I -S -X utf8 exec_helper.py PARENT TAG KEPT FILES DIRECTORY PROGRAM [ARG…]``, by
spawn.py.

Stands between the supervisor and the program because what must be done after the fork (dispositions, mask, death
signal, descriptors) may not be done by Python code in a forked copy of a process with threads. Imports next to
nothing (``signal`` alone would cost 3 ms for its enums) and nothing of ours: it runs in < 10 ms.

PARENT is the supervisor's pid; TAG the number for RLIMIT_LOCKS (see sweep.py) or "-"; KEPT the descriptors beyond
0-2 that the program gets, "3,7" or "-"; FILES the soft limit of open files, or "-" for ours. Whatever fails is one
line on stderr and exit code 126 or 127, as shells do.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has it not
import os
import sys
from errno import ENOENT, ENOEXEC

if sys.platform == "linux":
    import ctypes
    import resource

_PR_SET_PDEATHSIG = 1
_RLIMIT_LOCKS = 10


def main(parent: int, tag: str, kept: str, files: str, directory: str, argv: list[str]) -> None:
    """Never returns. The supervisor has blocked SIGINT, so that Python's own handler cannot print a traceback."""
    if os.getsid(0) != os.getpid():
        os.setsid()  # where posix_spawn cannot
    reset_dispositions()
    die_with(parent)
    carry(tag)
    close_all_but([int(fd) for fd in kept.split(",") if fd != "-"])
    limit_files(files)
    try:
        os.chdir(directory)
    except OSError as error:
        give_up(126, f"cannot enter the directory {directory}: {error.strerror}")
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
    become(argv)


def reset_dispositions() -> None:
    """Python ignores SIGPIPE and SIGXFSZ and handles SIGINT; what is ignored would survive the exec."""
    for number in _signal.valid_signals():
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)


def die_with(parent: int) -> None:
    """Ask for SIGKILL at the parent's death, then look whether it is alive: it may have died just before."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(_signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def carry(tag: str) -> None:
    if sys.platform == "linux" and tag != "-":
        try:  # noqa: SIM105 - contextlib costs 2 ms
            resource.setrlimit(_RLIMIT_LOCKS, (int(tag), resource.getrlimit(_RLIMIT_LOCKS)[1]))
        except (OSError, ValueError):
            pass  # a sandbox without it: the mark in the environment remains


def limit_files(files: str) -> None:
    if sys.platform == "linux" and files != "-":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def close_all_but(kept: list[int]) -> None:
    """Whoever started the supervisor may have left descriptors open and inheritable."""
    try:
        opened = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208
    except OSError:
        opened = list(range(3, 4096))  # a root folder without /dev and /proc
    for fd in opened:
        if fd > 2 and fd not in kept:
            try:  # noqa: SIM105
                os.close(fd)
            except OSError:
                pass  # the one that listed them


def become(argv: list[str]) -> None:
    environ = own_environ()
    if b"LISTEN_FDS" in environ:  # by the process that it is meant for: sd_listen_fds(3)
        environ[b"LISTEN_PID"] = str(os.getpid()).encode()
    try:
        os.execvpe(argv[0], argv, environ)
    except OSError as error:
        give_up(127 if error.errno == ENOENT else 126, f"cannot run {argv[0]}: {why(error, argv[0])}")


def own_environ() -> dict[bytes, bytes]:
    """As it was given: Python sets LC_CTYPE in a process that starts in the C locale."""
    try:
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - pathlib costs 4 ms
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return {name: value for name, found, value in (entry.partition(b"=") for entry in entries) if found}


def why(error: OSError, program: str) -> str:
    if error.errno == ENOEXEC:
        return "it is neither a program of this machine nor a script with a #! line"
    if error.errno == ENOENT and os.path.exists(program):  # noqa: PTH110
        return "the interpreter that its #! line names is not there"
    return str(error.strerror)


def give_up(code: int, sentence: str) -> None:
    os.write(2, f"meshsup: {sentence}\n".encode(errors="surrogateescape"))
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
