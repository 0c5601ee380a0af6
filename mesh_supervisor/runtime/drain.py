"""Stops accepting, and lets what was accepted come to its end: what the supervisor orders before it sends SIGTERM.

For each server: its listener is taken away (drain_sockets.py), the answers that are still given say ``Connection:
close``, and then it is waited until no accepted connection is left or patience is over. A connection that waits for its
next request is not closed under a client that may be writing just then: it gets that request answered, with ``close``.
It is closed when nothing has moved on it for some seconds; where ``close_idle`` is asked for, much sooner.

What a framework has beyond its sockets is its *manner*: drain_manner.py, drain_uvicorn.py and its neighbours.
"""

from __future__ import annotations

import _thread
import sys
import time

from . import serving, threads
from .drain_manner import LONG_QUIET, QUIET, Manner
from .drain_sockets import Accepted, Address, address_of, is_held_by_children, is_listener, quieten, takes_the_last
from .hints import Any, Callable
from .link import Link

SHORTEST, LONGEST = 0.002, 0.05
"""Seconds between two looks at what is left."""

LATEST = 0.5
"""Seconds after the deadline that the answer is given, whatever a server still does."""

STEP = 1.0
"""Seconds that a loop has for what it is asked to do at once; one that is busy for longer does it when it can."""


class Order:
    """The drain that was ordered. A second order while it is carried out can make it stricter, and has no answer of its
    own.
    """

    def __init__(self) -> None:
        self.deadline = 0.0
        self.close_idle = False
        self.given = 0.0
        """Patience, in seconds."""
        self._running = False
        self._lock = _thread.allocate_lock()

    def give(self, patience: float, close_idle: bool) -> bool:
        """Whether it is the first, or the one before has been answered."""
        with self._lock:
            deadline = time.monotonic() + patience
            first, self._running = not self._running, True
            self.deadline = deadline if first else min(deadline, self.deadline)
            self.given = max(self.given, patience)
            self.close_idle = self.close_idle or close_idle
            return first

    def end(self) -> None:
        with self._lock:
            self._running = False

    def left(self) -> float:
        """Seconds, not below 0."""
        return max(0.0, self.deadline - time.monotonic())


order = Order()


class Retirement:
    """How one server, or one listener without a server, comes to its end."""

    def __init__(self, listeners: Callable[[], list[int]], loop: Any = None, manner: Manner | None = None) -> None:
        """``listeners()``: the descriptors that still listen; none after the program closed them."""
        self.listeners, self._loop, self._manner = listeners, loop, manner or Manner()
        self._addresses: list[Address] = []
        self.left = 0
        """Connections, when it was looked last."""
        self._learn()

    def _learn(self) -> list[int]:
        """The listeners that are there. Their addresses are kept: the program may close them."""
        found = [fd for fd in self.listeners() if fd >= 0]
        for fd in found:
            address = address_of(fd)
            if address and address not in self._addresses:
                self._addresses.append(address)
        return found

    def retire(self, patience: float, done: Callable[[], None]) -> None:
        """As serving.Server.retire. Nothing is accepted any more when it returns."""
        began = time.monotonic()
        listeners = self._learn()
        # Those in the queue of a listener that nobody takes over would be cut off.
        while takes_the_last(listeners) and time.monotonic() < min(began + patience, order.deadline) - patience / 2:
            time.sleep(SHORTEST)
        quieten(listeners)
        threads.start(self._finish, began, patience, done)

    def _finish(self, began: float, patience: float, done: Callable[[], None]) -> None:
        try:
            self._in_loop(self._manner.announce)
            self._wait(began, began + patience)
            if patience > 0:
                self._in_loop(self._manner.hurry)
        finally:
            done()

    def _wait(self, began: float, deadline: float) -> None:
        accepted = Accepted(self._addresses)
        pause = SHORTEST
        while True:
            self.left = max(accepted.count(), self._manner.unfinished())
            now = time.monotonic()
            if not self.left or now >= min(deadline, order.deadline):
                return
            self._close_idle(now - began)
            time.sleep(pause)
            pause = min(LONGEST, pause * 1.3)

    def _close_idle(self, waited: float) -> None:
        quiet = QUIET if order.close_idle else LONG_QUIET
        if waited >= quiet:
            self._in_loop(lambda: self._manner.close_idle(quiet, waited))

    def _in_loop(self, step: Callable[[], None]) -> None:
        """Done when this returns, unless the loop is busy: then it is done later. A closed loop needs nothing."""
        if self._loop is None:
            _guarded(step)
            return
        finished = _thread.allocate_lock()
        finished.acquire()

        def run() -> None:
            try:
                _guarded(step)
            finally:
                finished.release()

        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError:
            return
        finished.acquire(timeout=min(STEP, order.left() + 0.1))


def _guarded(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:  # noqa: BLE001, S110 - a version that looks otherwise inside: its connections are waited for
        pass


_retirements: list[Retirement] = []


def install(link: Link) -> None:
    link.on("drain", lambda message, _: _drain(link, message))


def for_asyncio(record: serving.Server, loop: Any, server: Any, factory: Any = None) -> None:
    """Sets ``record.retire`` for what ``loop.create_server`` gave, on any loop. ``factory``: of its protocols."""
    factory = factory or getattr(server, "_protocol_factory", None)
    retirement = Retirement(lambda: [sock.fileno() for sock in server.sockets or ()], loop, _manner_of(factory))
    _retire_by(record, retirement)


def for_socketserver(record: serving.Server, server: Any) -> None:
    """Sets ``record.retire`` for an object of socketserver.BaseServer."""
    from .drain_threads import SocketServer

    _retire_by(record, Retirement(lambda: [server.socket.fileno()], None, SocketServer(server)))


def _manner_of(factory: Any) -> Manner | None:
    """What is not loaded is not asked."""
    for name in ("uvicorn", "aiohttp", "hypercorn"):
        if name in sys.modules:
            part = f"{__package__}.drain_{name}"
            __import__(part)
            found: Manner | None = sys.modules[part].manner_of(factory)
            if found is not None:
                return found
    return None


def _retire_by(record: serving.Server, retirement: Retirement) -> None:
    record.retire = retirement.retire
    _retirements.append(retirement)
    if serving.draining:
        # Too late to serve: nothing was accepted yet, and nothing will be.
        retirement.retire(0.0, lambda: None)


def _drain(link: Link, message: dict[str, Any]) -> None:
    """In the listening thread: it must go on to hear."""
    if order.give(float(message.get("patience") or 0), bool(message.get("close_idle"))):
        serving.draining = True
        threads.start(_carry_out, link)


def _carry_out(link: Link) -> None:
    """Always ends in an answer, whatever the servers do."""
    try:
        alone = [Retirement([place.fd].copy) for place in _without_manner()]
        if any(is_held_by_children(fd) for retirement in alone for fd in retirement.listeners()):
            link.tell("cannot", what="drain", why="the connections belong to worker processes")
        known = [record.retire for record in serving.servers if record.retire is not None]
        _retire_all([*known, *(retirement.retire for retirement in alone)])
        left = sum(retirement.left for retirement in [*_retirements, *alone])
    finally:
        order.end()
    link.tell("drained", left=left)


def _without_manner() -> list[serving.Place]:
    """Listeners of which no framework is known: a program's own loop around accept(), or that of its workers."""
    known = {place.number for record in serving.servers if record.retire is not None for place in record.places}
    return [place for place in serving.places if place.number not in known and _is_listening(place)]


def _is_listening(place: serving.Place) -> bool:
    """Whether its descriptor is still what it was: it may have been closed and given to another."""
    address = address_of(place.fd)
    if not is_listener(place.fd) or not isinstance(address, tuple):
        return False
    return place.address[1] in {0, address[1]}


def _retire_all(retires: list[Callable[[float, Callable[[], None]], None]]) -> None:
    """Returns when all are done, or soon after the deadline."""
    lock = _thread.allocate_lock()
    waited_for = list(range(len(retires)))

    def done() -> None:
        with lock:
            waited_for.pop()

    for retire in retires:
        try:
            retire(order.left(), done)
        except Exception:  # noqa: BLE001 - threads or descriptors may be used up; the answer must come
            done()
    while waited_for and time.monotonic() < order.deadline + LATEST:
        time.sleep(SHORTEST)
