"""Programs that call accept() themselves, and wait in it: the simplest server, and a thread that waits for connections.

They wait here instead, for what comes from the supervisor too: the word to go, a private connection, the end of the
socket by shutdown().
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import time

from . import serving
from .hints import Any, Callable
from .places import Spot
from .servers import active, cannot, gate, show, tell_serves

_making = _thread.RLock()

_private: dict[int | None, list[int]] = {}
"""Number of a place → descriptors of connections that the supervisor brought, and that wait for an accept()."""


def accept(sock: Any, spot: Spot, real: Any) -> Any:
    """As socket.accept(). Raises what that raises."""
    real.spare(sock, spot)
    fd = sock.fileno()
    if fd not in spot.waits:
        return _accept_at_once(sock, spot, real)
    timeout = spot.waits[fd]
    deadline = None if timeout is None else time.monotonic() + timeout
    _show(spot, timeout)
    while True:
        if spot.shut:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        private = _take_private(sock, spot)
        if private is not None:
            return private
        try:
            if not gate.closed:
                return real.accept(sock)
        except BlockingIOError:
            pass  # another generation was quicker
        _wait(fd, spot, deadline)


def _accept_at_once(sock: Any, spot: Spot, real: Any) -> Any:
    """Of a socket that the program waits for by other means."""
    private = _take_private(sock, spot)
    if private is not None:
        return private
    if gate.closed and active():
        if spot.place is not None and any(spot.place in server.places for server in serving.servers):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        cannot("it waits for connections by means of its own")
    return real.accept(sock)


def _wait(fd: int, spot: Spot, deadline: float | None) -> None:
    """Raises TimeoutError."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError("timed out")
    waiting = select.poll()
    waiting.register(_stir_of(spot), select.POLLIN)
    # Before the word to go the connections in the queue are not ours to wake up for.
    waiting.register(gate.descriptor if gate.closed else fd, select.POLLIN)
    for ready, _ in waiting.poll(None if left is None else left * 1000):
        if ready == spot.stir and not spot.shut:
            _drain(spot.stir)
            if spot.shut:
                stir(spot)  # meanwhile, and the others have not seen it yet


def _stir_of(spot: Spot) -> int:
    """The one descriptor that all who wait there look at."""
    with _making:
        if spot.stir < 0:
            spot.stir = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return spot.stir


def _drain(stir: int) -> None:
    try:
        os.eventfd_read(stir)
    except BlockingIOError:
        pass  # another thread did


def stir(spot: Spot) -> None:
    os.eventfd_write(_stir_of(spot), 1)


def shut(spot: Spot) -> None:
    """As shutdown() of a listening socket, for this process alone: whoever waits in accept() is told so."""
    spot.shut = True
    stir(spot)


def bring(number: int, fd: int) -> None:
    """A connection for the next accept() at this place; owns ``fd``."""
    _private.setdefault(number, []).append(fd)


def _take_private(sock: Any, spot: Spot) -> Any:
    try:
        fd = _private[spot.number].pop(0)
    except (KeyError, IndexError):
        return None
    import socket

    connection = socket.socket(sock.family, sock.type, sock.proto, fileno=fd)
    connection.setblocking(True)
    return connection, connection.getpeername()


def _show(spot: Spot, timeout: float | None) -> None:
    """The first time: it waits for connections now, so it is ready."""
    place = spot.place
    if place is None or not active() or any(place in one.places for one in serving.servers):
        return
    server = show("socket", [place])
    if timeout is None:
        # One that looks in from time to time may have seen by other means that somebody comes.
        server.knock = lambda fd, answer: _knock(spot, fd, answer)
    _stir_of(spot)
    tell_serves(server)


def _knock(spot: Spot, fd: int, answer: Callable[[str], None]) -> None:
    assert spot.number is not None
    bring(spot.number, fd)
    stir(spot)
    answer("")
