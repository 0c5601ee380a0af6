"""Servers of frameworks: each shows itself here, waits at the gate, and serves connections that the supervisor brings.

The gate is closed until the supervisor says ``go``: what has no ``accept`` takes no request, while the kernel queues.
How a framework is held back stands in serve_asyncio.py, serve_uvloop.py, serve_threads.py and serve_plain.py.
"""

from __future__ import annotations

import _thread
import os

from . import serving
from .after_import import when_imported
from .hints import Any, Callable
from .link import Link
from .places import Book

WORKERS = "worker processes"
"""Why a gate does not hold: those who accept are other processes."""


class Gate:
    """``closed`` is a plain attribute since it is looked at wherever something is accepted."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = _thread.allocate_lock()
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """Readable from ``go`` on. Raises OSError."""
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = os.eventfd(0 if self.closed else 1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return self._descriptor

    def open(self) -> None:
        with self._lock:
            self.closed = False
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def begin_child(self) -> None:
        self.closed, self._lock, self._descriptor = False, _thread.allocate_lock(), -1


class Counted:
    """Calls ``then`` once, after it was called as often as was said."""

    def __init__(self, left: int, then: Callable[[], None]) -> None:
        self._left, self._then, self._lock = left, then, _thread.allocate_lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            left = self._left
        if left == 0:
            self._then()


gate = Gate()
_link: Link
_book: Book
_cannot_said: set[str] = set()
_told: set[serving.Server] = set()


def install(link: Link, book: Book, closed: bool) -> None:
    global _link, _book
    _link, _book = link, book
    gate.closed = closed
    link.on("go", lambda message, _: _go())
    link.on("knock", _knock)
    when_imported("asyncio.base_events", lambda module: _part("serve_asyncio").wrap(module))
    when_imported("asyncio.selector_events", lambda module: _part("serve_readers").wrap(module.BaseSelectorEventLoop))
    when_imported("uvloop", lambda module: _part("serve_uvloop").wrap(module))
    when_imported("socketserver", lambda module: _part("serve_threads").wrap(module))


def _part(name: str) -> Any:
    """Imported with what it is for."""
    return __import__(f"{__package__}.{name}", fromlist=[name])


def has_forked() -> None:
    """A listener that no server of this process serves is there for those that were forked."""
    for place in serving.places:
        if place.listening and not _has_server(place):
            cannot(WORKERS)


def _has_server(place: serving.Place) -> bool:
    """Or will have one."""
    spot = _book.find(place.fd)
    return (spot is not None and spot.framework) or any(place in server.places for server in serving.servers)


def begin_child() -> None:
    """A process that the program forked is nobody's newcomer."""
    gate.begin_child()
    _book.begin_child()


# ---- showing ---------------------------------------------------------------------------------------------------------


def active() -> bool:
    return _book.active


def places_of(descriptors: list[int]) -> list[serving.Place]:
    """What is listened on there, told of by now; none in a forked child, and none of what is not kept."""
    found = []
    for fd in descriptors:
        spot = _book.find(fd)
        if spot is not None and _book.active:
            spot.framework = True
            place = _book.settle(fd, spot)
            if place is not None:
                found.append(place)
    return found


def place_at(fd: int) -> serving.Place | None:
    """The place that is told of already; None in a forked child."""
    spot = _book.spots.get(fd) and _book.find(fd)
    return spot.place if spot and _book.active else None


def show(how: str, places: list[serving.Place]) -> serving.Server:
    server = serving.Server(how, places)
    # Those whose places were closed, or belong to a newer server, have come to their end.
    serving.servers[:] = [one for one in serving.servers if any(place in serving.places for place in one.places)]
    serving.servers.append(server)
    _told.intersection_update(serving.servers)
    return server


def tell_serves(server: serving.Server) -> None:
    """It would accept now. Told once."""
    if server not in _told:
        _told.add(server)
        _link.tell("serves", numbers=[place.number for place in server.places], how=server.how)


def tell_listens(descriptors: list[int]) -> None:
    for fd in descriptors:
        spot = _book.find(fd)
        if spot is not None:
            _book.listens(spot)


def cannot(why: str) -> None:
    """The gate does not hold something. Said once for each reason."""
    if _book.active and why not in _cannot_said:
        _cannot_said.add(why)
        _link.tell("cannot", what="gate", why=why)


def retire_by_drain(name: str, *arguments: Any) -> None:
    """Lets drain.py say how it retires this one."""
    try:
        getattr(_part("drain"), name)(*arguments)
    except Exception as error:  # noqa: BLE001 - a version that looks otherwise inside: it is stopped by its signal
        _link.tell("cannot", what="drain", why=f"{type(error).__name__}: {error}")


# ---- closing, for those who close where sockets.py does not see it ---------------------------------------------------


def closing(descriptors: list[int]) -> Callable[[], None]:
    """To be called before; what it returns, after."""
    marked = [(fd, spot, _book.before_close(fd, spot)) for fd in descriptors if (spot := _book.find(fd)) is not None]

    def closed() -> None:
        for fd, spot, copy in marked:
            _book.after_close(fd, spot, copy)

    return closed


# ---- what the supervisor says ----------------------------------------------------------------------------------------


def go_alone() -> None:
    """The supervisor will not say it."""
    if gate.closed:
        _go()


def _go() -> None:
    gate.open()
    _book.release()
    waiting = [(server, server.go) for server in list(serving.servers) if server.go is not None]
    accepting = Counted(len(waiting) + 1, lambda: _link.tell("accepting"))
    for server, go in waiting:
        _begin(server.how, go, accepting)
    accepting()


def _begin(how: str, go: Callable[[Callable[[], None]], None], done: Callable[[], None]) -> None:
    try:
        go(done)
    except Exception as error:  # noqa: BLE001 - a closed loop, or whatever else a framework says
        cannot(f"{how}: {type(error).__name__}: {error}")
        done()


def _knock(message: dict[str, Any], descriptors: list[int]) -> None:
    number, answer = message.get("number"), Answer(message.get("id"))
    fd = descriptors.pop(0) if descriptors else -1
    for other in descriptors:
        os.close(other)
    if fd < 0:
        answer("no connection came with it")
        return
    for server in serving.servers:
        if server.knock is not None and any(place.number == number for place in server.places):
            try:
                server.knock(fd, answer)
            except Exception as error:  # noqa: BLE001 - as above
                os.close(fd)
                answer(f"{type(error).__name__}: {error}")
            return
    os.close(fd)
    answer("no server takes private connections there")


class Answer:
    def __init__(self, name: Any) -> None:
        self._name = name

    def __call__(self, why: str = "") -> None:
        """An empty ``why`` is yes."""
        _link.tell("knocked", id=self._name, ok=not why, why=why)
