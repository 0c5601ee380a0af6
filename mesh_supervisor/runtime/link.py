"""The guest's end of the channel to the supervisor.

Saying something never blocks and never fails: an agent must not suffer from its supervisor. Packets that find no room
wait in memory; a thread that lives no longer than they do sends them. The thread that listens is started when there is
something to be told (``listen``), so that a program that has no server has no thread of ours.
"""

from __future__ import annotations

import _socket
import _thread
import os

from . import threads, wire
from .hints import Any, Callable

Message = dict[str, Any]
Handler = Callable[[Message, list[int]], None]

MOST_WAITING = 1000
"""Packets; a supervisor that does not read for so long is told no more."""


class Link:
    """``tell`` from any thread. Handlers run in the listening thread; they own the descriptors they get."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
        self._lock = _thread.allocate_lock()
        self._once = _thread.allocate_lock()
        self._waiting: list[tuple[bytes, tuple[int, ...]]] = []
        self._pushing = False
        self.relieved: Callable[[], None] = lambda: None
        """Called when there is room again."""
        self.lost: Callable[[], None] = lambda: None
        """Called when it is found that the program has closed the descriptor, or that the supervisor is gone."""
        self._identity = _identity(fd)
        self._handlers: dict[str, Handler] = {}
        self._listening = False
        self._mute = False
        self._owner = os.getpid()

    @property
    def descriptor(self) -> int:
        """-1 once it is closed."""
        return self._socket.fileno()

    @property
    def listening(self) -> bool:
        """It has a thread."""
        return self._listening

    @property
    def crowded(self) -> bool:
        """There is no room: who has many to send may rather wait until it is ``relieved``."""
        return self._pushing

    def hear(self) -> tuple[Message, list[int]] | None:
        """The next packet, waited for; None at the end. Only before ``listen``. Raises OSError, wire.Garbled."""
        return wire.receive(self._socket)

    def on(self, kind: str, handler: Handler) -> None:
        self._handlers[kind] = handler

    def tell(self, kind: str, descriptors: tuple[int, ...] = (), /, **fields: object) -> None:
        """Descriptors are duplicated at once where they must wait: the caller may close its own afterwards."""
        if self._mute or os.getpid() != self._owner or self._is_lost():
            return
        try:
            packet = wire.pack(kind, fields)
        except (TypeError, ValueError):
            return
        # A signal handler or a destructor may come here while this very thread has the lock: nobody waits for it. Who
        # has it looks again, when he has given it back, whether somebody came meanwhile.
        if self._lock.acquire(False):
            try:
                self._send(packet, descriptors)
            finally:
                self._lock.release()
        else:
            self._wait(packet, descriptors)
        room = True
        while room and self._waiting and not self._pushing and self._lock.acquire(False):
            try:
                room = self._flush()
            finally:
                self._lock.release()

    def _is_lost(self) -> bool:
        """A program may close all descriptors that it has not opened, as daemons do; the number is then another's."""
        if _identity(self._socket.fileno()) == self._identity:
            return False
        self._mute = True
        self._socket.detach()
        self.lost()
        return True

    def _send(self, packet: bytes, descriptors: tuple[int, ...]) -> None:
        if self._waiting:
            self._wait(packet, descriptors)
            return
        try:
            wire.send(self._socket, packet, descriptors, wait=False)
        except BlockingIOError:
            self._wait(packet, descriptors)
        except OSError:
            self._mute = True

    def _wait(self, packet: bytes, descriptors: tuple[int, ...]) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._mute = True
            return
        try:
            self._waiting.append((packet, tuple([os.dup(fd) for fd in descriptors])))
        except OSError:
            self._mute = True

    def _flush(self, wait: bool = False) -> bool:
        """Whether there was room for everything."""
        try:
            while self._waiting:
                packet, descriptors = self._waiting[0]
                wire.send(self._socket, packet, descriptors, wait=wait)
                del self._waiting[0]
                for fd in descriptors:
                    os.close(fd)
        except BlockingIOError:
            self._push()
            return False
        except OSError:
            self._mute = True
            return False
        return True

    def _push(self) -> None:
        """A thread that waits until there is room."""
        self._pushing = True
        try:
            threads.start(self._pushed)
        except RuntimeError:  # no more threads: with the next packet
            self._pushing = False

    def _pushed(self) -> None:
        while self._waiting and not self._mute:
            with self._lock:
                self._flush(wait=True)
                self._pushing = False
        self.relieved()

    def listen(self) -> None:
        """From now on handlers are called. Does nothing the second time."""
        if self._mute or not self._once.acquire(False):
            return
        self._listening = True
        try:
            threads.start(self._run)
        except RuntimeError:  # no more threads
            self._listening = False
            self._once.release()

    def _run(self) -> None:
        while True:
            try:
                heard = wire.receive(self._socket)
            except wire.Garbled:
                continue
            except OSError:
                heard = None
            if heard is None:
                self.lost()
                return
            message, descriptors = heard
            handler = self._handlers.get(message["is"])
            if handler is None:
                for fd in descriptors:
                    os.close(fd)
                continue
            try:
                handler(message, descriptors)
            except Exception as error:  # noqa: BLE001 - whatever a program's server does, the link must live
                self.tell("cannot", what=message["is"], why=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """For a child that the program forks: the link belongs to its parent."""
        self._mute = True
        self._socket.close()


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
