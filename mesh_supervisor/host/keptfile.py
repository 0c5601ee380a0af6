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
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _write_new(path, content)
    return True


_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK, errno.EXDEV})
"""What file systems without hard links say: FAT, many network file systems, folders shared with a virtual machine."""


def _write_new(path: Path, content: bytes) -> bool:
    """Not quite the same: who reads it in between finds less than everything."""
    try:
        _write(path, content)
    except FileExistsError:
        return False
    return True


def _write(path: Path, content: bytes) -> None:
    """Raises FileExistsError, OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A new file with this content in the same folder, which is gone at the end unless it was moved."""
    # With our pid: another command may be doing the same.
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    try:
        _write(beside, content)
        yield beside
    finally:
        beside.unlink(missing_ok=True)
