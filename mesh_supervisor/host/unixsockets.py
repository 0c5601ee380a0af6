"""Who listens on Unix sockets here: what the kernel knows, so that nothing can be out of date."""

from __future__ import annotations

import os
from pathlib import Path

TABLE = Path("/proc/self/net/unix")
ACCEPTS = 1 << 16
"""__SO_ACCEPTCON in the column of flags: ``listen`` was called."""
STREAM = 1


def listening() -> list[Path] | None:
    """The paths that were bound, as they were then: a socket that was moved since still has its old one here.

    Of this network namespace, of all users, abstract names left out. None where nobody can tell (no /proc)."""
    try:
        lines = TABLE.read_bytes().splitlines()[1:]
    except OSError:
        return None
    return [path for path in map(_listener, lines) if path is not None]


def _listener(line: bytes) -> Path | None:
    """``Num: RefCount Protocol Flags Type St Inode Path``, all but the last in hexadecimal or decimal."""
    fields = line.split(None, 7)
    if len(fields) < 8 or not fields[7].startswith(b"/"):
        return None
    try:
        flags, kind = int(fields[3], 16), int(fields[4], 16)
    except ValueError:  # the rest of a path that has a line's end in it
        return None
    return Path(os.fsdecode(fields[7])) if flags & ACCEPTS and kind == STREAM else None
