"""Small files in state_dir: read with suspicion, written whole.

What lies there may be anything by the time it is read: a named pipe would block the supervisor for ever, /dev/zero
would fill its memory. And it may be cut short at any moment: a file is written beside its place and moved there, so
that a crash or a full disk leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

LARGEST = 1024 * 1024
"""Bytes; far more than thousands of agents need."""


def read_kept(path: Path) -> bytes:
    """Its content. Raises FileNotFoundError, and OSError for what is no regular file or cannot be one of ours."""
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, "is too large", str(path))
    return content


def write_kept(path: Path, content: bytes) -> None:
    """In place of what was there; only for this user to read. Raises OSError."""
    with _beside(path, content) as beside:
        beside.replace(path)


def write_once(path: Path, content: bytes) -> bool:
    """Only if there is nothing yet, whoever else tries at the same moment; whether it was us. Raises OSError."""
    with _beside(path, content) as beside:
        try:
            path.hardlink_to(beside)
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A new file with this content in the same folder, which is gone at the end unless it was moved."""
    # With our pid: another command may be doing the same.
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield beside
    finally:
        beside.unlink(missing_ok=True)
