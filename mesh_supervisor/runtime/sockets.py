"""The methods of socket.socket that concern what listens, so that a listening socket outlives its process.

A bind of an address for which the supervisor holds a socket takes that one over; any other is told of when it listens.
What is shared with other generations is spared: it never blocks (the program's own timeout is kept beside it), its
queue is never lowered, and shutting it down is this process's affair alone. All else is a socket as ever: for every
other socket a method of ours costs one look into a dict, and whatever goes wrong here, the real method is what counts.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
import time

from . import servers
from .after_import import when_imported
from .hints import Any, Callable, ModuleType
from .link import Link
from .places import QUEUE, Book, Spot, asked_address

Real = Callable[..., Any]

LET_GO = 2.0
"""Seconds that a bind waits for the supervisor to let go of what the program has closed."""

_ASK_AGAIN = 0.005

_FOREVER = 2_000_000.0
"""Seconds; what a socket gets as its timeout where a program of ours is not there to wait for it. About the longest."""


def install(link: Link, held: list[dict[str, Any]], descriptors: list[int], gate: bool) -> None:
    book = Book(link, held, descriptors)
    servers.install(link, book, gate)
    if gate and not held:
        link.lost = servers.go_alone  # nobody else serves there, and nobody will ever say go
    os.register_at_fork(after_in_child=servers.begin_child, after_in_parent=servers.has_forked)
    when_imported("socket", lambda module: _wrap_class(module.socket, book, link))
    when_imported("multiprocessing.reduction", lambda module: _wrap_reducer(module, book))


def _wrap_class(cls: type, book: Book, link: Link) -> None:
    real = Methods(cls)
    wraps = [
        *(_bind(real, book, link), _listen(real, book), _accept(real, book), _shutdown(real, book)),
        *(_close(real, book), _detach(real, book), _set_inheritable(real, book)),
        *(_connect(real, book), _connect_ex(real, book), _getsockopt(real, book)),
        *(_settimeout(real, book), _setblocking(real, book), _gettimeout(real, book), getblocking),
    ]
    for wrap in wraps:
        original = getattr(cls, wrap.__name__)
        wrap.__qualname__, wrap.__doc__ = original.__qualname__, original.__doc__
        wrap.__module__ = "socket"
        setattr(cls, wrap.__name__, wrap)
    timeout = property(lambda sock: sock.gettimeout(), doc="the socket timeout")
    for name, value in {"timeout": timeout}.items():
        setattr(cls, name, value)


class Methods:
    """The real ones."""

    def __init__(self, cls: type) -> None:
        self.bind, self.listen, self.accept = (getattr(cls, name) for name in ("bind", "listen", "accept"))
        self.shutdown, self.close, self.detach = (getattr(cls, name) for name in ("shutdown", "close", "detach"))
        self.connect, self.connect_ex = (getattr(cls, name) for name in ("connect", "connect_ex"))
        self.settimeout, self.setblocking = (getattr(cls, name) for name in ("settimeout", "setblocking"))
        self.gettimeout, self.set_inheritable = (getattr(cls, name) for name in ("gettimeout", "set_inheritable"))
        self.getsockopt = cls.getsockopt  # type: ignore[attr-defined]

    def spare(self, sock: Any, spot: Spot) -> None:
        """The socket never blocks from now on; what the program believes of it is kept."""
        fd = sock.fileno()
        timeout = self.gettimeout(sock)
        if timeout != 0:
            spot.waits[fd] = timeout
            self.settimeout(sock, 0)

    def settle(self, sock: Any, book: Book, spot: Spot) -> None:
        if book.settle(sock.fileno(), spot) is not None:
            self.spare(sock, spot)


# ---- bind and listen -------------------------------------------------------------------------------------------------


def _bind(real: Methods, book: Book, link: Link) -> Real:
    def bind(self: Any, address: Any, /) -> None:
        asked = _asked(self, address)
        if asked is None:
            real.bind(self, address)
            return
        if _adopt(real, book, self, asked):
            return
        try:
            real.bind(self, address)
        except OSError as error:
            if not _bind_again(real, book, self, address, asked, error):
                if error.errno == errno.EADDRINUSE:
                    link.tell("conflict", address=asked, error=str(error))
                raise
        _note(book, self, asked)

    return bind


def _asked(sock: Any, address: Any) -> list[Any] | None:
    """The address, where it concerns us: a TCP socket's."""
    try:
        if int(sock.type) != _socket.SOCK_STREAM or sock.proto not in (0, _socket.IPPROTO_TCP) or sock.fileno() < 0:
            return None
        return asked_address(int(sock.family), address)
    except Exception:  # noqa: BLE001 - a socket of another making
        return None


def _adopt(real: Methods, book: Book, sock: Any, asked: list[Any]) -> bool:
    if not book.held:
        return False
    try:
        if sock.getsockname()[1] != 0:
            return False  # it has an address already: let the kernel say so
        only = sock.family == _socket.AF_INET6 and bool(sock.getsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY))
        spot = book.take(int(sock.family), asked, sock.fileno(), only)
    except Exception:  # noqa: BLE001 - the kernel's bind says what is wrong
        return False
    if spot is None:
        return False
    real.spare(sock, spot)
    sys.audit("socket.bind", sock, tuple(asked))
    return True


def _bind_again(real: Methods, book: Book, sock: Any, address: Any, asked: list[Any], error: OSError) -> bool:
    """Whether it worked after all: the supervisor needs a moment to let go of what the program closed before."""
    if error.errno != errno.EADDRINUSE or not _guarded(lambda: book.was_given_up(int(sock.family), asked)):
        return False
    deadline = time.monotonic() + LET_GO
    while time.monotonic() < deadline:
        time.sleep(_ASK_AGAIN)
        try:
            real.bind(sock, address)
        except OSError as again:
            if again.errno == errno.EADDRINUSE:
                continue
            return False
        return True
    return False


def _note(book: Book, sock: Any, asked: list[Any]) -> None:
    _guarded(lambda: book.note(int(sock.family), asked, list(sock.getsockname()[:2]), sock.fileno()))


def _listen(real: Methods, book: Book) -> Real:
    def listen(self: Any, *backlog: Any) -> None:
        spot = book.find(self.fileno())
        if spot is None:
            real.listen(self, *backlog)
            return
        if spot.kept and backlog and isinstance(backlog[0], int):
            backlog = (max(backlog[0], QUEUE), *backlog[1:])
        real.listen(self, *backlog)
        spot.shut, spot.listened = False, True
        _guarded(lambda: real.settle(self, book, spot))
        _guarded(lambda: book.listens(spot))

    return listen


def _getsockopt(real: Methods, book: Book) -> Real:
    def getsockopt(self: Any, level: Any, option: Any, *size: Any) -> Any:
        if option == _socket.SO_ACCEPTCONN and level == _socket.SOL_SOCKET and not size:
            spot = book.find(self.fileno())
            if spot is not None and spot.adopted and not spot.listened:
                return 0  # as of one that was bound a moment ago: gunicorn asks, and would not call listen()
        return real.getsockopt(self, level, option, *size)

    return getsockopt


def _set_inheritable(real: Methods, book: Book) -> Real:
    def set_inheritable(self: Any, inheritable: bool) -> None:
        real.set_inheritable(self, inheritable)
        spot = book.find(self.fileno()) if inheritable and self.fileno() in book.spots else None
        if spot is not None:
            # It is meant for another program, where nobody can see it listen.
            _guarded(lambda: real.settle(self, book, spot))

    return set_inheritable


# ---- accept and its timeouts -----------------------------------------------------------------------------------------


def _accept(real: Methods, book: Book) -> Real:
    def accept(self: Any) -> Any:
        spot = book.find(self.fileno())
        if spot is None or not spot.kept:
            return real.accept(self)
        from . import serve_plain

        return serve_plain.accept(self, spot, real)

    return accept


def _settimeout(real: Methods, book: Book) -> Real:
    def settimeout(self: Any, timeout: Any, /) -> None:
        spot = book.find(self.fileno()) if timeout != 0 or book.spots.get(self.fileno()) else None
        if spot is None or not spot.kept:
            real.settimeout(self, timeout)
            return
        # The real one judges what it is given, and then the socket is as it must be.
        if timeout is not None:
            real.settimeout(self, timeout)
            timeout = real.gettimeout(self)
            real.settimeout(self, 0)
        if timeout == 0:
            spot.waits.pop(self.fileno(), None)
        else:
            spot.waits[self.fileno()] = timeout

    return settimeout


def _setblocking(real: Methods, book: Book) -> Real:
    def setblocking(self: Any, flag: Any, /) -> None:
        if book.spots and (flag or self.fileno() in book.spots):
            spot = book.find(self.fileno())
            if spot is not None and spot.kept:
                self.settimeout(None if flag else 0.0)
                return
        real.setblocking(self, flag)

    return setblocking


def _gettimeout(real: Methods, book: Book) -> Real:
    def gettimeout(self: Any) -> float | None:
        timeout: float | None = real.gettimeout(self)
        if timeout == 0 and self.fileno() in book.spots:
            spot = book.find(self.fileno())
            if spot is not None:
                return spot.waits.get(self.fileno(), timeout)
        return timeout

    return gettimeout


def getblocking(self: Any) -> bool:
    return bool(self.gettimeout() != 0)


# ---- the end ---------------------------------------------------------------------------------------------------------


def _shutdown(real: Methods, book: Book) -> Real:
    def shutdown(self: Any, how: Any, /) -> None:
        if book.spots and real.getsockopt(self, _socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            spot = book.find(self.fileno())
            if spot is not None and spot.kept:
                from . import serve_plain

                serve_plain.shut(spot)
                return
        real.shutdown(self, how)

    return shutdown


def _close(real: Methods, book: Book) -> Real:
    def close(self: Any) -> None:
        fd = self.fileno() if book.spots else -1
        spot = book.find(fd) if fd in book.spots else None
        if spot is None:
            real.close(self)
            return
        copy = _guarded(lambda: book.before_close(fd, spot)) or -1
        try:
            real.close(self)
        finally:
            if self.fileno() < 0:
                _guarded(lambda: book.after_close(fd, spot, copy))
            elif copy >= 0:
                os.close(copy)  # a file made of it keeps it open

    return close


def _detach(real: Methods, book: Book) -> Real:
    def detach(self: Any) -> int:
        spot = book.find(self.fileno()) if self.fileno() in book.spots else None
        if spot is not None:
            _guarded(lambda: real.settle(self, book, spot))
        return real.detach(self)  # type: ignore[no-any-return]

    return detach


# ---- connect ---------------------------------------------------------------------------------------------------------


def _connect(real: Methods, book: Book) -> Real:
    def connect(self: Any, address: Any, /) -> None:
        if book.held and _is_not_there_yet(book, self, address):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        real.connect(self, address)

    return connect


def _connect_ex(real: Methods, book: Book) -> Real:
    def connect_ex(self: Any, address: Any, /) -> int:
        if book.held and _is_not_there_yet(book, self, address):
            return errno.ECONNREFUSED
        return real.connect_ex(self, address)  # type: ignore[no-any-return]

    return connect_ex


def _is_not_there_yet(book: Book, sock: Any, address: Any) -> bool:
    """Whether the program asks if its own port is taken: it is not, by anything but an earlier generation of itself."""
    asked = _asked(sock, address)
    return asked is not None and any(
        one.spot is None and not one.limbo and one.name[1] == asked[1] and _is_here(asked[0], one.name[0])
        for one in list(book.held)
    )


def _is_here(host: str, bound: str) -> bool:
    loopback = host in ("localhost", "", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1") or host.startswith("127.")
    if bound in ("0.0.0.0", "::"):
        return loopback
    return host == bound or (loopback and host in ("localhost", ""))


# ---- other processes -------------------------------------------------------------------------------------------------


def _wrap_reducer(module: ModuleType, book: Book) -> None:
    """A socket that goes to another process is accepted on there: nothing of ours is in it to hold that back."""
    import socket

    real = module._reduce_socket

    def reduce(sock: Any) -> Any:
        rebuilt = real(sock)
        spot = book.find(sock.fileno())
        if spot is None:
            return rebuilt
        if book.settle(sock.fileno(), spot) is not None:
            servers.cannot(servers.WORKERS)
        if spot.kept and sock.gettimeout() is None and len(rebuilt) == 2:
            return (*rebuilt, _FOREVER, None, None, _socket.socket.settimeout)
        return rebuilt

    module.register(socket.socket, reduce)


def _guarded(act: Callable[[], Any]) -> Any:
    """A program's socket must not suffer from our bookkeeping."""
    try:
        return act()
    except Exception:  # noqa: BLE001 - see above
        return None
