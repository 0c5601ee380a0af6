"""What ``ps`` shows of a process that was forked: its own command line and environment, not those of its template.

The kernel is told where they are (PR_SET_MM_MAP needs no privileges, and a kernel built with checkpoint/restore, as
nearly all are). Nothing is overwritten: libraries may have kept pointers into the old ones. Where it is refused, the
process is shown as its template.
"""

from __future__ import annotations

import ctypes
import os

_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
_FIELDS = (
    *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk"),
    *("start_stack", "arg_start", "arg_end", "env_start", "env_end"),
)
_FIRST_IN_STAT = 3
"""proc(5) counts the fields from 1; what follows the name in parentheses is number 3."""

_kept: list[ctypes.Array[ctypes.c_char]] = []


class _Map(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in _FIELDS),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


def show(words: list[bytes], environ: list[bytes]) -> bool:
    """Whether it is shown. Only in a process with one thread: another one could move the break meanwhile."""
    arguments, variables = (b"".join(word + b"\0" for word in part) for part in (words, environ))
    area = ctypes.create_string_buffer(arguments + variables)
    start = ctypes.addressof(area)
    end = start + len(arguments)
    shown = _map(arg_start=start, arg_end=end, env_start=end, env_end=end + len(variables))
    if shown:
        _kept[:] = [area]
    return shown


def _map(**areas: int) -> bool:
    with open("/proc/self/stat", "rb") as file:
        stat = file.read().rpartition(b")")[2].split()

    def number(field: int) -> int:
        return int(stat[field - _FIRST_IN_STAT])

    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    asked = _Map(
        start_code=number(26),
        end_code=number(27),
        start_stack=number(28),
        start_data=number(45),
        end_data=number(46),
        start_brk=number(47),
        auxv=None,
        auxv_size=0,
        exe_fd=0xFFFFFFFF,
        **areas,
    )
    where, size = ctypes.byref(asked), ctypes.c_ulong(ctypes.sizeof(asked))
    asked.brk = libc.sbrk(0)  # last: whoever asks for memory may move it
    return bool(libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, where, size, 0) == 0)


def own_words() -> list[bytes]:
    """The command line as it was given to this process."""
    with open("/proc/self/cmdline", "rb") as file:
        return file.read().split(b"\0")[:-1]


def as_bytes(name: str, value: str) -> bytes:
    return os.fsencode(name) + b"=" + os.fsencode(value)
