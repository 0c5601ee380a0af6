"""A service manager to be told things: a real datagram socket, as systemd has one."""

from __future__ import annotations

import contextlib
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

Message = dict[str, str]


class Manager:
    """``address`` is what NOTIFY_SOCKET must say."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._socket, self.address = sock, address
        self.said: list[Message] = []

    def next(self, patience: float = 30.0) -> Message:
        """The next message: its fields in order. AssertionError when there is none."""
        self._socket.settimeout(patience)
        try:
            text = self._socket.recv(4096).decode()
        except TimeoutError:
            raise AssertionError(f"nothing was said for {patience} s after {self.said}") from None
        message = dict(line.split("=", 1) for line in text.split("\n"))
        self.said.append(message)
        return message

    def now(self) -> list[Message]:
        """What is there without waiting."""
        found = []
        with contextlib.suppress(AssertionError, BlockingIOError):
            while True:
                found.append(self.next(0.0))
        return found

    def until(self, **fields: str) -> Message:
        """The first message that says this."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = self.next()
            if fields.items() <= message.items():
                return message
        raise AssertionError(f"{fields} was not said: {self.said}")

    def until_status(self, words: str) -> Message:
        """The first message with these words in its STATUS."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = self.next()
            if words in message.get("STATUS", ""):
                return message
        raise AssertionError(f"no status has {words!r}: {self.said}")

    def has_said(self, field: str) -> bool:
        return any(field in message for message in self.said)


@contextlib.contextmanager
def listening(*, abstract: bool = False) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="sd-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        address = f"@meshsup-test/{secrets.token_hex(8)}" if abstract else str(Path(folder) / "notify")
        sock.bind("\0" + address[1:] if abstract else address)
        yield Manager(sock, address)
