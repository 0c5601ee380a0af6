"""sd_notify: a datagram socket on which an agent says READY=1 and the like, as it would to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import secrets
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mesh_supervisor.host.closing import MOST_WAITING, MOST_WITH_ONE, Closing
from mesh_supervisor.host.lines import sanitize
from mesh_supervisor.host.peer import SO_PASSRIGHTS, Peer
from mesh_supervisor.runtime import wire

LONGEST_MESSAGE = 16 * 1024
MESSAGES_PER_TURN = 64
"""Of one turn of the event loop; the rest waits for the next."""

SENDERS_PER_TURN = 8
"""Processes that are looked at in one turn: where one belongs may have to be read from /proc."""

MOST_REFUSED = 64
"""Descriptors of strangers that wait to be closed, from which on the kernel is asked to take no more of them."""

PAUSE = 0.05
"""Seconds between two looks whether descriptors wait no more."""

_CREDENTIALS = struct.Struct("3i")
_strangers = Closing()
"""Of all sockets: what those send who are not believed."""


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

    ``belongs(pid)`` is asked about the sender, whose pid the kernel vouches for: an address can be guessed, read in
    /proc/net/unix or passed on, and only processes of the instance are believed. What is sent before ``hear`` waits.
    Raises OSError when there are no descriptors left.
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
        self._closing = Closing()
        self._refuses = False
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    def hear(self) -> None:
        """From now on ``belongs`` can tell."""
        if not self._closed:
            self._loop.add_reader(self._socket.fileno(), self._receive)

    def close(self) -> None:
        """Listen no more. Safe to call twice."""
        if not self._closed:
            self._closed = True
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(self._socket.fileno())
            self._closing.take([self._socket.detach()])  # with what nobody has read, and its descriptors
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
        """One turn."""
        known: dict[Peer, bool] = {}
        for _ in range(MESSAGES_PER_TURN):
            if self._closed or len(known) >= SENDERS_PER_TURN or not self._has_room():
                return
            try:
                message, sender, descriptors = _read(self._socket)
            except BlockingIOError:
                return
            believed = False
            try:
                believed = sender is None or self._is_known(sender, known)
                for notice in parse(message) if believed else ():
                    self._deliver(notice)
            finally:
                # After the message was dealt with: `systemd-notify` sends a descriptor and waits until it is closed,
                # so that it still exists, and can be recognized, when its message is read.
                (self._closing if believed else _strangers).take(descriptors)

    def _is_known(self, sender: Peer, known: dict[Peer, bool]) -> bool:
        if sender not in known:
            known[sender] = self._belongs(sender.pid)
        return known[sender]

    # ---- descriptors that hang ---------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether more may be read. If not, it goes on by itself when there is."""
        crowded = _strangers.waiting >= MOST_REFUSED
        full = _strangers.waiting >= _most_of_strangers() or self._closing.waiting >= MOST_WAITING
        if crowded != self._refuses:
            self._refuses = crowded
            if sys.platform == "linux":
                with contextlib.suppress(OSError):  # an older kernel
                    self._socket.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0 if crowded else 1)
        if full:
            self._loop.remove_reader(self._socket.fileno())
        if (crowded or full) and self._pause is None:
            self._pause = self._loop.call_later(PAUSE, self._look_again)
        return not full

    def _look_again(self) -> None:
        self._pause = None
        for line in (_strangers, self._closing):
            line.take()
        if self._has_room():
            self.hear()


def _most_of_strangers() -> int:
    """What is in the queues when the kernel takes no more, ten messages or so of each socket, may still come."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(MOST_WAITING, files // 4)


def _read(line: socket.socket) -> tuple[bytes, Peer | None, list[int]]:
    """(message, its sender, descriptors that came along). The sender is None where the system does not tell, and pid 0,
    which nobody is, when it should. Raises BlockingIOError."""
    room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * MOST_WITH_ONE)
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    message, ancillary, _, _ = line.recvmsg(LONGEST_MESSAGE, room, flags)
    sender = Peer(0, -1) if sys.platform == "linux" else None
    for level, kind, content in ancillary:
        if sys.platform != "linux" or (level, kind) != (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            continue
        if len(content) >= _CREDENTIALS.size:
            sender = Peer(*_CREDENTIALS.unpack(content[: _CREDENTIALS.size])[:2])
    return message, sender, wire.passed(ancillary)
