"""The supervisor's end of the channel to the runtime in one process. What goes over it: runtime/wire.py.

What comes from an agent's process is not to be trusted: packets that are none, floods of them, descriptors that nobody
asked for. The channel is then closed, and the agent lives on as a plain program.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from ..runtime import wire
from .closing import MOST_WAITING, Closing

Packet = dict[str, Any]

MOST_AT_ONCE = 64
BYTES_AT_ONCE = 256 * 1024
"""Packets, and bytes, of one turn of the event loop: it reads about 50 MB of JSON a second."""

MOST_IN_A_WINDOW = 20_000
BYTES_IN_A_WINDOW = 32 * 1024 * 1024
WINDOW = 10.0
"""Seconds. A runtime that traces a large program says a few hundred packets, a few hundred KB, while that starts."""

MOST_GARBLED = 3
MOST_UNSENT = 100


class Channel:
    """Owns a pair of sockets: give ``theirs`` to the process, then ``release_theirs()``.

    ``heard(packet, descriptors)`` is called in the event loop and owns the descriptors, for which there is ``closing``;
    ``over(why)`` once, at the end: "" when the other end was closed, else what was wrong.
    """

    def __init__(self, heard: Callable[[Packet, list[int]], None], over: Callable[[str], None]) -> None:
        self._heard, self._over = heard, over
        self.closing = Closing()
        self._loop = asyncio.get_running_loop()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._open = True
        self._garbled = 0
        self._counted, self._bytes, self._since = 0, 0, self._loop.time()
        self._loop.add_reader(self._ours, self._read)

    @property
    def theirs(self) -> int:
        return self._theirs.fileno()

    @property
    def open(self) -> bool:
        return self._open

    def release_theirs(self) -> None:
        """Close our copy of their end: while it is open their end cannot be seen."""
        self._theirs.close()

    def send(self, kind: str, descriptors: tuple[int, ...] = (), /, **fields: object) -> bool:
        """False when it cannot be said any more. Descriptors stay the caller's. Raises ValueError for too large a
        packet, OSError without descriptors."""
        if not self._open:
            return False
        packet = wire.pack(kind, fields)
        if self._unsent:
            return self._wait(packet, descriptors)
        try:
            wire.send(self._ours, packet, descriptors, wait=False)
        except BlockingIOError:
            return self._wait(packet, descriptors)
        except OSError:
            self._end("")
            return False
        return True

    def close(self) -> None:
        """Says nothing to ``over``."""
        self._over = lambda why: None
        self._end("")

    def _wait(self, packet: bytes, descriptors: tuple[int, ...]) -> bool:
        """There is no room: the process is stopped, or hangs. Later, or never."""
        if len(self._unsent) >= MOST_UNSENT:
            self._end("it does not read what it is told")
            return False
        self._unsent.append((packet, tuple(os.dup(fd) for fd in descriptors)))
        self._loop.add_writer(self._ours, self._write)
        return True

    def _write(self) -> None:
        try:
            while self._unsent:
                packet, descriptors = self._unsent[0]
                wire.send(self._ours, packet, descriptors, wait=False)
                self._unsent.popleft()
                self.closing.take(descriptors)
        except BlockingIOError:
            return
        except OSError:
            self._end("")
            return
        self._loop.remove_writer(self._ours)

    def _read(self) -> None:
        size = 0
        for _ in range(MOST_AT_ONCE):
            if not self._open or size >= BYTES_AT_ONCE:
                return
            if self.closing.waiting >= MOST_WAITING:
                self._end("it sends descriptors that cannot be closed")
                return
            try:
                taken = wire.take(self._ours, wait=False)
            except BlockingIOError:
                return
            except OSError:
                self._end("")
                return
            if taken is None:
                self._end("")
                return
            size += len(taken[0])
            self._take(*taken)

    def _take(self, packet: bytes, descriptors: list[int]) -> None:
        try:
            message = wire.unpack(packet)
        except wire.Garbled:
            self.closing.take(descriptors)
            self._count_garbled()
            return
        self._count(len(packet))
        self._heard(message, descriptors)

    def _count(self, size: int) -> None:
        now = self._loop.time()
        if now - self._since > WINDOW:
            self._counted, self._bytes, self._since = 0, 0, now
        self._counted += 1
        self._bytes += size
        if self._counted > MOST_IN_A_WINDOW or self._bytes > BYTES_IN_A_WINDOW:
            self._end(f"it sent {self._counted} packets, {self._bytes / 1e6:.1f} MB, in {WINDOW:g} s")

    def _count_garbled(self) -> None:
        self._garbled += 1
        if self._garbled >= MOST_GARBLED:
            self._end("what it sends is garbled")

    def _end(self, why: str) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._ours)
        self._loop.remove_writer(self._ours)
        # With what lies in their queues.
        self.closing.take(line.detach() for line in (self._ours, self._theirs) if line.fileno() >= 0)
        for _, descriptors in self._unsent:
            self.closing.take(descriptors)
        self._unsent.clear()
        self._over(why)
