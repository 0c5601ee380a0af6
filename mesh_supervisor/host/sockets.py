"""The listening sockets of one agent, of which the supervisor keeps copies.

While a copy is held the kernel queues connections, whoever accepts them: the next generation takes the socket over
instead of binding, and a caller that comes while none lives waits instead of being refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass, field

from ..errors import MeshError
from ..runtime.drain_sockets import NO_MORE, TCP_USER_TIMEOUT
from .closing import Closing

BACKLOG = 2048
"""What is queued while nobody accepts. A program's own listen(5) would set it for everybody; the kernel caps it at
net.core.somaxconn (4096 by default)."""

_QUEUE = struct.Struct("=24x2I")
"""tcpi_unacked and tcpi_sacked of struct tcp_info: of a listener, the length of its queue and the most it can be."""

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
_NO_NEWCOMERS = b"".join(
    _INSTRUCTION.pack(*words)
    for words in (
        (0x30, 0, 0, 13),  # load the flags of the TCP header
        (0x54, 0, 0, 0x12),  # and SYN | ACK
        (0x15, 0, 1, 0x02),  # only SYN?
        (0x06, 0, 0, 0),  # the packet was never here
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
"""A classic BPF program (linux/filter.h) for a listener."""

_INTERNET = (socket.AF_INET, socket.AF_INET6)

LINGER = 10.0
"""Seconds that callers may wait for an agent that has no instance, before they are refused as by a dead one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The address as the program gave it to bind(); port 0 stays 0."""

    family: int
    kind: int
    address: tuple[str | int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """``inode`` identifies the socket in /proc, in whichever process it is open. ``port``: the one that it got, also
    when our copy is closed; 0 for what has none. ``closing``: for when its close() may wait."""

    asked: Asked
    sock: socket.socket
    inode: int
    port: int
    closing: Closing = field(default_factory=Closing)

    @property
    def listens(self) -> bool:
        with contextlib.suppress(OSError):
            return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        return False

    @property
    def waiting(self) -> int | None:
        """Connections that nobody has accepted yet; None where the kernel does not tell, or it is closed."""
        if sys.platform != "linux":
            return None
        with contextlib.suppress(OSError, struct.error):
            told = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE.size)
            waiting, most = _QUEUE.unpack(told)
            return int(waiting) if most else None
        return None

    def take_no_more(self) -> None:
        """In no process: whoever comes now is not answered, and comes again when nobody listens; whoever waits already
        can still be accepted. A queue that is closed cuts those off. It cannot be undone; where the system has nothing
        like it, all stays as it is."""
        if sys.platform != "linux" or self.sock.family not in _INTERNET:
            return
        code = ctypes.create_string_buffer(_NO_NEWCOMERS)
        with contextlib.suppress(OSError):
            program = struct.pack("HL", len(_NO_NEWCOMERS) // _INSTRUCTION.size, ctypes.addressof(code))
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self.sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, NO_MORE)

    def close(self) -> None:
        """Our copy. Safe to call twice. The address of a TCP listener is free when this returns; what a program has
        connected since it told of it, and a Unix socket with what was sent to it, are closed elsewhere."""
        if self.sock.fileno() >= 0 and (self.sock.family not in _INTERNET or _is_connected(self.sock)):
            self.closing.take([self.sock.detach()])
        self.sock.close()

    def again(self) -> None:
        """Listen again: a generation may have lowered the queue for everybody, or shut the listener down."""
        with contextlib.suppress(OSError):
            self.sock.listen(BACKLOG)


def held_from(fd: int, asked: Asked, closing: Closing) -> Held:
    """Takes over ``fd``. Raises OSError, and leaves it to the caller, for what is no TCP socket of that family, or is
    connected. (Of a Unix socket whose listen() we call, the kernel would say that we are the one who listens there.)"""
    sock = socket.socket(fileno=fd)
    try:
        tcp = sock.type == socket.SOCK_STREAM and sock.family in _INTERNET
        if not tcp or sock.family != asked.family or _is_connected(sock):
            raise OSError("not the socket that was told of")
        sock.setblocking(False)
        return Held(asked, sock, os.fstat(fd).st_ino, _port_of(sock), closing)
    except BaseException:
        sock.detach()
        raise


def _is_connected(sock: socket.socket) -> bool:
    """Then what it has sent may still be on its way."""
    try:
        sock.getpeername()
    except OSError as error:
        return error.errno != errno.ENOTCONN
    return True


def _port_of(sock: socket.socket) -> int:
    with contextlib.suppress(OSError, IndexError, TypeError, ValueError):
        return int(sock.getsockname()[1])
    return 0


def listening_on(agent: str, host: str, port: int) -> Held:
    """A new one that listens there. Raises CannotListen."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise CannotListen(agent, host, port, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(agent, host, port, error) from error
    return Held(Asked(family, kind, (host, port)), sock, os.fstat(sock.fileno()).st_ino, port)


class CannotListen(MeshError):
    """With ``listen = "fd"`` it is we who bind."""

    def __init__(self, agent: str, host: str, port: int, error: OSError) -> None:
        super().__init__(f"{agent}: cannot listen on {host} port {port}: {error.strerror or error}")


class HeldSockets:
    """Those of one agent, in the order of their binds."""

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._linger: asyncio.TimerHandle | None = None

    def now(self) -> tuple[Held, ...]:
        return tuple(self._held)

    @property
    def ports(self) -> frozenset[int]:
        return frozenset(one.port for one in self._held)

    def hold(self, wanted: Collection[Held]) -> None:
        """From now on exactly these."""
        for one in self._held:
            if one not in wanted:
                one.close()
        self._held = [one for one in wanted if one.sock.fileno() >= 0]
        for one in self._held:
            one.again()

    def keep(self) -> None:
        """There is an instance, or there will be one at once."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def linger(self) -> None:
        """There is none: let go in LINGER seconds, unless one comes."""
        if self._held and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER, self.release)

    def release(self) -> None:
        """Nobody will take them over. Those who wait are for the instance that is still there, if there is one."""
        self.keep()
        for one in self._held:
            one.take_no_more()
        self.hold(())
