"""The descriptors of a drain: the listener is taken from under the program, and what it accepted is counted.

Nothing here knows a framework. The supervisor and the next generation hold the same listening socket, so it need not be
closed, and must not be: a closed one ends ``serve_forever``, and asyncio drops what it has accepted but not yet given a
transport. Instead a listener that nobody can reach takes its descriptor: the program waits, as for quiet times.
"""

from __future__ import annotations

import _socket
import os
import stat

from .hints import Any, Iterator

NOWHERE = "127.213.77.1"
"""An address of this machine that nobody asks."""

TCP_USER_TIMEOUT = 18  # of Linux; elsewhere nobody sets the mark
NO_MORE = 0x6D657368
"""Milliseconds of TCP_USER_TIMEOUT on a listener to which no more connections can come. The value means nothing there,
so it is a mark that every holder of the socket sees; the filter itself could be asked for only with a buffer that a
longer one of somebody else would overrun."""

Address = Any
"""As getsockname() gives it."""


def quieten(listeners: list[int]) -> None:
    """From now on nothing comes to these listeners, nor to a duplicate of them in this process. What waits in their
    queues is left to the others that hold them.

    From any thread, at once. An accept that is under way on another thread gives its connection to the program as ever;
    one that comes late finds no connection (BlockingIOError where the socket does not block).
    """
    sockets = {_inode(fd) for fd in listeners if is_listener(fd)} - {None}
    same = [fd for fd in descriptors() if _inode(fd) in sockets] if sockets else []
    epolls = list(_epolls()) if same else []
    for fd in same:
        try:
            _replace(fd, epolls)
        except OSError:
            continue  # closed in between


def takes_the_last(listeners: list[int]) -> bool:
    """Whether connections wait for one of these to which no more can come (Held.take_no_more of host/sockets.py)."""
    return any(_asked(fd, _takes_the_last) for fd in listeners)


def _takes_the_last(sock: _socket.socket) -> bool:
    if sock.getsockopt(_socket.IPPROTO_TCP, TCP_USER_TIMEOUT) != NO_MORE:
        return False
    # struct tcp_info of a listener: 24 bytes on, where a connection has its unacknowledged segments, is its queue.
    told = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 28)
    return len(told) == 28 and memoryview(told)[24:].cast("I")[0] > 0


def _replace(fd: int, epolls: list[int]) -> None:
    quiet = _listener_for_nobody(fd)
    try:
        os.set_blocking(quiet.fileno(), os.get_blocking(fd))
        # An epoll watches the socket, not the number: it would go on to report connections that are not ours.
        for epoll in epolls:
            _forget(epoll, fd)
        os.dup2(quiet.fileno(), fd, os.get_inheritable(fd))
    finally:
        quiet.close()


def _listener_for_nobody(fd: int) -> _socket.socket:
    """Of the same family where that can be: some programs look at the address of what they close. Raises OSError."""
    address = address_of(fd)
    if isinstance(address, tuple):
        family = _socket.AF_INET6 if len(address) == 4 else _socket.AF_INET
        quiet = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            if family == _socket.AF_INET6:
                quiet.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
            quiet.bind((NOWHERE if family == _socket.AF_INET else f"::ffff:{NOWHERE}", 0))
            quiet.listen(1)
        except OSError:
            quiet.close()
        else:
            return quiet
    quiet = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    quiet.bind("")  # an abstract name of the kernel's choice
    quiet.listen(1)
    return quiet


def _epolls() -> Iterator[int]:
    for fd in descriptors():
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]":
                yield fd
        except OSError:
            continue


def _forget(epoll: int, fd: int) -> None:
    import select  # whoever has an epoll has it already

    try:
        # A duplicate: the object closes what it is made of.
        watching = select.epoll.fromfd(os.dup(epoll))
    except OSError:
        return
    try:
        watching.unregister(fd)
    except OSError:
        pass  # it does not watch that one
    finally:
        watching.close()


def descriptors() -> list[int]:
    """The open ones of this process, and perhaps one that was closed meanwhile."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(4096))


def is_listener(fd: int) -> bool:
    return bool(_asked(fd, lambda sock: sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)))


def address_of(fd: int) -> Address | None:
    return _asked(fd, lambda sock: sock.getsockname())


def _asked(fd: int, question: Any) -> Any:
    """What the socket at ``fd`` answers; None if there is none. The descriptor stays as it is."""
    try:
        sock = _socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        return question(sock)
    except OSError:
        return None
    finally:
        sock.detach()


class Accepted:
    """The connections of this process that came through listeners with these addresses.

    A private connection of the supervisor has another address, so it does not count. Looking at all descriptors costs
    some microseconds for each; so they are all looked at only while none is known.
    """

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses
        self._known: dict[int, int] = {}
        """Descriptor → inode."""

    def count(self) -> int:
        self._known = {fd: inode for fd, inode in self._known.items() if _inode(fd) == inode}
        if not self._known:
            self._known = self._found()
        return len(self._known)

    def _found(self) -> dict[int, int]:
        found = {}
        for fd in descriptors():
            inode = _inode(fd)
            if inode is not None and self._is_ours(fd):
                found[fd] = inode
        return found

    def _is_ours(self, fd: int) -> bool:
        address = address_of(fd)
        return any(_is_local_of(address, listener) for listener in self._addresses) and not is_listener(fd)


def _inode(fd: int) -> int | None:
    """Of a socket; a descriptor that is none, or is not there, has none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


def _is_local_of(address: Address, listener: Address) -> bool:
    """Whether a connection with this local address may have come through that listener."""
    if isinstance(listener, tuple) and isinstance(address, tuple):
        return bool(address[1] == listener[1] and (_is_any(listener[0]) or address[0] == listener[0]))
    return bool(listener) and bool(address == listener)


def _is_any(host: str) -> bool:
    return host in {"0.0.0.0", "::", ""}


def is_held_by_children(fd: int) -> bool:
    """Whether a child process has the socket at ``fd`` too."""
    try:
        wanted = os.readlink(f"/proc/self/fd/{fd}")
        children = [
            child for task in os.listdir("/proc/self/task") for child in _words(f"/proc/self/task/{task}/children")
        ]
    except OSError:
        return False
    return any(_holds(child, wanted) for child in children)


def _words(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


def _holds(process: str, wanted: str) -> bool:
    folder = f"/proc/{process}/fd"
    try:
        return any(os.readlink(f"{folder}/{name}") == wanted for name in os.listdir(folder))
    except OSError:
        return False
