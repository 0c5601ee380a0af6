"""One GET over a connected socket, as HTTP/1.0 by hand: http.client would be most of what a process costs that asks one
thing every few seconds (`health`, `registry health`).

The time is for everything together: what hangs still has its socket, and the kernel accepts connections for it.
"""

from __future__ import annotations

import socket
import time


class HungUp(ConnectionError):
    """Without a word, or in the middle of one."""


class Endless(ValueError):
    """More than anybody who is meant would say."""


class Deadline:
    """``seconds`` from now. ``left()``: seconds, more than 0. Raises TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def get(line: socket.socket, path: str, host: str, *, deadline: Deadline, most: int) -> tuple[int, bytes]:
    """(status, body). ``most``: bytes of the whole answer. Raises OSError (TimeoutError, HungUp),
    Endless, ValueError: what answers does not speak HTTP."""
    line.settimeout(deadline.left())
    line.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode())
    received = _received(line, deadline, most)
    if len(received) > most:
        raise Endless(f"what is there sends more than an answer to GET {path}")
    head, _, body = received.partition(b"\r\n\r\n")
    if not head:
        raise HungUp("it hung up")
    protocol, _, rest = head.partition(b" ")
    if not protocol.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("what is there does not speak HTTP")
    if len(body) < _announced(head):
        raise HungUp("it hung up in the middle of its answer")
    return int(rest[:3]), body


def _announced(head: bytes) -> int:
    """Bytes of the body; 0: it was not said."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value[:20])
    return 0


def _received(line: socket.socket, deadline: Deadline, most: int) -> bytes:
    """Until the other end closes, as it does after an answer to HTTP/1.0, or until it is too much."""
    received = bytearray()
    while len(received) <= most:
        line.settimeout(deadline.left())
        chunk = line.recv(65536)
        if not chunk:
            break
        received += chunk
    return bytes(received)
