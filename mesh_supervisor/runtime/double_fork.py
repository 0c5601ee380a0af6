"""Forks a process that becomes the supervisor's own child: its first parent exits at once, and the supervisor, a
subreaper, is the next one up.
"""

from __future__ import annotations

import os

from .hints import Callable

_LONGEST_SAYING = 500


def double_fork(settle: Callable[[int], None]) -> tuple[int, str]:
    """Returns (0, "") in the new process, and (its pid, "") here when ``settle(first parent)`` has returned there; or
    (-1, why), and there is no new process. Raises OSError where not even the first fork works.
    """
    reading, writing = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if middle == 0:
        os.close(reading)
        first = os.getpid()
        if _is_grandchild(writing):
            _report(writing, lambda: settle(first))
            return 0, ""
        os._exit(0)
    os.close(writing)
    os.waitpid(middle, 0)  # before the pid is told: until then it is not the supervisor's child
    return _read(reading)


def _is_grandchild(writing: int) -> bool:
    """In the middle process. It must not do anything else, whatever happens: it is a copy of its parent."""
    try:
        return os.fork() == 0
    except OSError as error:
        os.write(writing, f"-1 it cannot be forked: {error.strerror}".encode())
        os._exit(0)


def _report(writing: int, settle: Callable[[], None]) -> None:
    try:
        settle()
        said = f"{os.getpid()} "
    except BaseException as error:  # noqa: BLE001 - a copy of the template must not go on as one
        said = f"-1 {getattr(error, 'strerror', None) or error}"
    try:
        os.write(writing, said.encode(errors="replace")[:_LONGEST_SAYING])
        os.close(writing)
    except OSError:
        pass  # the template has ended meanwhile
    if said.startswith("-"):
        os._exit(126)


def _read(reading: int) -> tuple[int, str]:
    said = b""
    while piece := os.read(reading, _LONGEST_SAYING):
        said += piece
    os.close(reading)
    pid, _, why = said.decode(errors="replace").partition(" ")
    return (int(pid), why) if pid else (-1, "it died at once")
