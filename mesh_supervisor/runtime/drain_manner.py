"""What a framework has beyond its sockets, as a drain sees it."""

from __future__ import annotations

import _socket
from types import FunctionType

from .hints import Any

QUIET, LONG_QUIET = 0.25, 5.0
"""Seconds without a byte after which a connection without a request under way is closed: where that is asked for, and
else. Frameworks wait from 5 s (uvicorn, hypercorn) to an hour (aiohttp)."""

GRACE = 0.5
"""Seconds that a framework may take to end what is left, after SIGTERM."""


class Manner:
    """What there is to do beyond sockets: this one for servers of which nothing else is known.

    ``announce``, ``close_idle`` and ``hurry`` are called in the thread of the server's loop, if it has one.
    """

    def announce(self) -> None:
        """From now on each answer says that it is the last one of its connection."""

    def close_idle(self, quiet: float, waited: float) -> None:
        """Closes connections without a request under way on which nothing has moved for ``quiet`` seconds. ``waited``:
        seconds since the drain began.
        """

    def unfinished(self) -> int:
        """What goes on beside the connections, seen from any thread: tasks in the background, children."""
        return 0

    def hurry(self) -> None:
        """SIGTERM comes next: whatever is left must not hold up the end."""


def enclosed(factory: Any) -> dict[str, Any]:
    """The names that a function took from around it, or that a partial was given, with their values."""
    given = getattr(factory, "keywords", None)
    if isinstance(given, dict):
        return given
    if not isinstance(factory, FunctionType):
        return {}
    cells = zip(factory.__code__.co_freevars, factory.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def is_quiet(fd: int, quiet: float) -> bool:
    """Whether nothing is left to read, and nothing moved for ``quiet`` seconds. False: no such socket.

    A request that is on its way to a connection that is being closed is lost. So one in use is not closed: its next
    answer says ``close``.
    """
    try:
        sock = _socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return _unmoved(sock) >= quiet
    except OSError:
        return False
    finally:
        sock.detach()
    return False


def _unmoved(sock: _socket.socket) -> float:
    """Seconds since something was sent or received; without an end for what is not TCP."""
    try:
        told = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 64)
    except (OSError, AttributeError):
        return float("inf")
    # struct tcp_info: 8 bytes, then words; the tenth and the twelfth are the ages of the last data, in ms.
    words = memoryview(told)[8:].cast("I")
    return min(words[9], words[11]) / 1000
