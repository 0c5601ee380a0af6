"""A descriptor whose close() waits, and who waits in it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from .stage import PATIENCE


class Lingering:
    """``fd``: one end of a connection that nobody reads at the other, with SO_LINGER. It is the tester's to close."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            self._reader, _ = listener.accept()
        make_linger(sock)
        self.fd = sock.detach()

    def give(self, send: Callable[[int], object]) -> None:
        """``send(fd)`` makes a copy, which nobody closes before it returns: it is the last one then."""
        send(self.fd)
        self.close()

    def release(self) -> int:
        """It is the caller's to close."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def let_go(self) -> None:
        """Whoever waits in close() returns."""
        self._reader.close()


def make_linger(sock: socket.socket) -> None:
    """Fill what is not read. Its close() then waits, whatever its mode, PATIENCE seconds."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, int(PATIENCE)))


@contextlib.contextmanager
def lingering() -> Iterator[Lingering]:
    """In the end nobody waits any more."""
    one = Lingering()
    try:
        yield one
    finally:
        one.let_go()
        one.close()
        for thread in closers():
            thread.join(PATIENCE)


def closers() -> list[threading.Thread]:
    """Those who close, or wait in close(), now."""
    return [thread for thread in threading.enumerate() if thread.name == "closing"]


def is_closed(reader: int) -> bool:
    """Whether a pipe has no writer any more. ``reader``: non-blocking."""
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """(reader, non-blocking; writer, the tester's to close)."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        yield reader, writer
    finally:
        os.close(reader)
