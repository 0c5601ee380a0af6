"""What a framework has beyond its sockets, as a drain sees it."""

from __future__ import annotations

import _socket
from types import FunctionType
from typing import Any

FRESH = 0.5
"""Seconds after the order that a connection without any request has for its first one, where idle ones are closed."""

GRACE = 0.5
"""Seconds that a framework may take to end what is left, after SIGTERM."""


class Manner:
    """What there is to do beyond sockets: this one for servers of which nothing else is known.

    ``announce``, ``close_idle`` and ``hurry`` are called in the thread of the server's loop, if it has one.
    """

    def announce(self) -> None:
        """From now on each answer says that it is the last one of its connection."""

    def close_idle(self, waited: float) -> None:
        """Closes connections without a request under way; ``waited``: seconds since the drain began."""

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


def has_unread(fd: int) -> bool:
    """Whether something came that the program has not read: a request, or the client's end. False: no such socket."""
    try:
        sock = _socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except OSError:
        return False
    finally:
        sock.detach()
    return True
