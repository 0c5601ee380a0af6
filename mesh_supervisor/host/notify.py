"""sd_notify: a datagram socket on which an agent says READY=1 and the like, as it would to systemd."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mesh_supervisor.host.lines import sanitize

LONGEST_MESSAGE = 16 * 1024
MESSAGES_PER_TURN = 64
"""Of one turn of the event loop; the rest waits for the next."""

_CREDENTIALS = struct.Struct("3i")
_MOST_DESCRIPTORS = 16


@dataclass(frozen=True, slots=True)
class Ready:
    """READY=1: may get traffic. Also the end of a RELOADING=1."""


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS=: one line for people, sanitized."""

    text: str


@dataclass(frozen=True, slots=True)
class Watchdog:
    """WATCHDOG=1: alive."""


@dataclass(frozen=True, slots=True)
class WatchdogTripped:
    """WATCHDOG=trigger: it asks to be treated as hung."""


@dataclass(frozen=True, slots=True)
class WatchdogEvery:
    """WATCHDOG_USEC=: from now on this many seconds between two WATCHDOG=1."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ExtendTimeout:
    """EXTEND_TIMEOUT_USEC=: the deadline of what is under way is this many seconds from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """STOPPING=1: it is about to end by itself."""


@dataclass(frozen=True, slots=True)
class Reloading:
    """RELOADING=1: not ready until the next READY=1."""


Notice = Ready | Status | Watchdog | WatchdogTripped | WatchdogEvery | ExtendTimeout | Stopping | Reloading

_FLAGS: dict[tuple[str, str], Notice] = {
    ("READY", "1"): Ready(),
    ("WATCHDOG", "1"): Watchdog(),
    ("WATCHDOG", "trigger"): WatchdogTripped(),
    ("STOPPING", "1"): Stopping(),
    ("RELOADING", "1"): Reloading(),
}


def parse(message: bytes) -> list[Notice]:
    """PURE. One datagram → what it says, in order. What is unknown or malformed is left out, as systemd does."""
    assignments = (row.partition("=") for row in message.decode("utf-8", "backslashreplace").split("\n"))
    notices = (_notice(key, value) for key, equals, value in assignments if equals)
    return [notice for notice in notices if notice is not None]


def _notice(key: str, value: str) -> Notice | None:
    if key == "STATUS":
        return Status(sanitize(value.strip())[:300])
    if key in ("WATCHDOG_USEC", "EXTEND_TIMEOUT_USEC"):
        if not (value.isascii() and value.isdigit()) or len(value) > 18:
            return None
        seconds = int(value) / 1e6
        return WatchdogEvery(seconds) if key == "WATCHDOG_USEC" else ExtendTimeout(seconds)
    return _FLAGS.get((key, value))


class NotifySocket:
    """One instance's socket. ``address`` is what NOTIFY_SOCKET must say; ``deliver`` is called in the event loop.

    ``belongs(pid)`` is asked about the sender, whose pid the kernel vouches for: an address can be guessed or passed
    on, and only processes of the instance are believed. Raises OSError when there are no descriptors left.
    """

    def __init__(self, belongs: Callable[[int], bool], deliver: Callable[[Notice], None]) -> None:
        self._belongs, self._deliver = belongs, deliver
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._folder: Path | None = None
        try:
            self.address = self._bind()
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._receive)
        self._closed = False

    def close(self) -> None:
        """Listen no more. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _bind(self) -> str:
        """An abstract address where there are such: no length limit to hit, nothing to clean up after a kill -9."""
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            name = f"meshsup/notify/{secrets.token_hex(8)}"
            self._socket.bind(f"\0{name}")
            return f"@{name}"
        self._folder = Path(tempfile.mkdtemp(prefix="meshsup-"))
        path = str(self._folder / "notify")
        self._socket.bind(path)
        return path

    def _receive(self) -> None:
        for message, sender in self._messages():
            if sender is None or self._belongs(sender):
                for notice in parse(message):
                    self._deliver(notice)

    def _messages(self) -> Iterator[tuple[bytes, int | None]]:
        """(message, pid of its sender; None where the system does not tell)."""
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        for _ in range(MESSAGES_PER_TURN):
            if self._closed:
                return
            try:
                message, ancillary, _, _ = self._socket.recvmsg(LONGEST_MESSAGE, room)
            except BlockingIOError:
                return
            yield message, _sender(ancillary)
            # After the message was dealt with: `systemd-notify` sends a descriptor and waits until it is closed, so
            # that it still exists, and can be recognized, when its message is read.
            _close_descriptors(ancillary)


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """0, which nobody is, when the credentials are missing where they should be there."""
    if sys.platform != "linux":
        return None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(content) >= _CREDENTIALS.size:
            pid: int = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            return pid
    return 0


def _close_descriptors(ancillary: list[tuple[int, int, bytes]]) -> None:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed = array.array("i")
            passed.frombytes(content[: len(content) - len(content) % passed.itemsize])
            for descriptor in passed:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
