"""What is in a file, as a short digest: a touch, an identical save and an undone edit are no changes.

A digest is remembered by the file's stat, but only where that is safe. A file system's clock ticks coarsely, so two
saves of equal length within one tick look alike; git calls such an entry racily clean. Therefore a digest is trusted
again only if the file had been left alone for a while when it was read.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh_supervisor.traced import Stamp

# Longer than the coarsest clock of a file system in use (FAT: 2 s).
RACY_NS = 2_000_000_000

_CHUNK = 1 << 20

LARGE = 4 << 20
"""Bytes. What is larger (models, tables that an agent reads) is known by its time of change and size: nobody waits for
a start until gigabytes have been read."""


def digest(path: Path) -> str | None:
    """The hash of the file's content; None when there is no such regular file, or it cannot be read."""
    fingerprint = _read(path)
    return None if fingerprint is None else fingerprint.digest


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    key: tuple[int, ...]
    digest: str
    modified_ns: int

    @property
    def stamp(self) -> Stamp:
        _, _, size, inode, _ = self.key
        return self.modified_ns, size, inode


class Fingerprints:
    """Digests of many files, cheap when asked again. Usable from one thread at a time."""

    def __init__(self, *, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock = wall_clock_ns
        self._settled: dict[Path, _Fingerprint] = {}

    def digests(self, paths: Iterable[Path]) -> dict[Path, str | None]:
        """path -> digest; None: missing, unreadable or no regular file."""
        return {path: self.digest(path) for path in paths}

    def digest(self, path: Path) -> str | None:
        known = self._settled.get(path)
        if known is not None and known.key == _key_of(path):
            return known.digest
        fresh = self._read_again(path)
        return None if fresh is None else fresh.digest

    def stamped(self, paths: Iterable[Path]) -> dict[Path, tuple[Stamp | None, str | None]]:
        """path -> (how a runtime would stamp it, digest), of one and the same content."""
        return {path: self._stamped(path) for path in paths}

    def _stamped(self, path: Path) -> tuple[Stamp | None, str | None]:
        known = self._settled.get(path)
        if known is None or known.key != _key_of(path):
            known = self._read_again(path)
        return (None, None) if known is None else (known.stamp, known.digest)

    def forget(self, paths: Iterable[Path]) -> None:
        """Read these anew when they are asked for next."""
        for path in paths:
            self._settled.pop(path, None)

    def _read_again(self, path: Path) -> _Fingerprint | None:
        self._settled.pop(path, None)
        before = self._clock()
        fresh = _read(path)
        if fresh is None:
            return None
        # A time in the future (another machine's clock, a restored backup) says nothing about being left alone.
        if fresh.modified_ns <= before - RACY_NS:
            self._settled[path] = fresh
        return fresh


def _key_of(path: Path) -> tuple[int, ...] | None:
    try:
        return _key(path.stat())
    except (OSError, ValueError):
        return None


def _key(status: os.stat_result) -> tuple[int, ...]:
    # The change time sees a rewrite whose modification time was set back (`cp -p`, `touch -d`, tar).
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


def _read(path: Path) -> _Fingerprint | None:
    """The stat is taken from the opened file, before it is read: a save meanwhile makes the key stale, not wrong."""
    try:
        # O_NONBLOCK: a fifo that somebody put in a source's place must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = _hash(descriptor) if status.st_size <= LARGE else f"{status.st_size} bytes at {status.st_mtime_ns}"
        return _Fingerprint(_key(status), digest, max(status.st_mtime_ns, status.st_ctime_ns))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _hash(descriptor: int) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    while chunk := os.read(descriptor, _CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()
