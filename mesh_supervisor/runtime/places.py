"""The book of this process's listening sockets: which descriptor is which place, what may be adopted, what was told.

A bound socket is told of when it is plain that it will listen: at ``listen()``, when a server is made of it, when it is
handed on. Before that it is the program's alone: one that binds to see whether a port is free, closes it and gives the
number to somebody else must find it free indeed.

A place that the program closes is kept for ``LIMBO`` seconds: one that binds again (a server started anew) has it back,
and one that ends meanwhile has not closed it but ended, so that the next generation finds its callers waiting.
"""

from __future__ import annotations

import _socket
import _thread
import os
from time import sleep

from . import serving, threads
from .hints import Any
from .link import Link

QUEUE = 2048
"""What a queue that others share is never lowered below; the kernel caps it at net.core.somaxconn."""

LIMBO = 1.0
"""Seconds."""

_FAMILIES = (_socket.AF_INET, _socket.AF_INET6)


class Spot:
    """One socket that this process bound, adopted, or inherited from a parent that did: all its descriptors.

    ``address``: as it was asked for; ``name``: host and port that it got.
    ``waits``: descriptor → the timeout that the program believes its socket to have. The socket itself never blocks,
    since that is a property of what all generations share.
    """

    def __init__(self, family: int, address: list[Any], name: list[Any], inode: int) -> None:
        self.family, self.address, self.name, self.inode = family, address, name, inode
        self.number: int | None = None
        self.adopted = False
        self.place: serving.Place | None = None
        self.framework = False
        self.listened = False
        self.shut = False
        self.waits: dict[int, float | None] = {}
        self.stir = -1

    @property
    def kept(self) -> bool:
        """Whether others share it, or soon may."""
        return self.adopted or self.place is not None


class Held:
    """What a bind may adopt instead: a copy of a socket, and the address that was asked for when it was bound."""

    def __init__(self, number: int, family: int, address: list[Any], fd: int, limbo: bool = False) -> None:
        self.number, self.family, self.address, self.fd, self.limbo = number, family, address, fd, limbo
        self.inode = os.fstat(fd).st_ino
        self.name, self.v6only = _facts(fd, family)
        self.spot: Spot | None = None

    def is_for(self, family: int, address: list[Any]) -> bool:
        if self.spot is not None or self.family != family:
            return False
        if address[1] == 0:
            # Of what the program has just closed it asks for another port.
            return self.address == address and not self.limbo
        return self.address == address or plain(family, address) == self.name


def _facts(fd: int, family: int) -> tuple[list[Any], bool]:
    """(host and port that it has, whether it is for IPv6 alone). Raises OSError."""
    sock = _socket.socket(fileno=fd)
    try:
        name = list(sock.getsockname()[:2])
        only = family == _socket.AF_INET6 and bool(sock.getsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY))
        return name, only
    finally:
        sock.detach()


def plain(family: int, address: list[Any]) -> list[Any]:
    """Host and port as getsockname() gives them."""
    usual = _SIX if family == _socket.AF_INET6 else _FOUR
    return [usual.get(address[0], address[0]), address[1]]


_FOUR = {"": "0.0.0.0", "localhost": "127.0.0.1"}
_SIX = {"": "::", "localhost": "::1"}


def inode_of(fd: int) -> int | None:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None


class Book:
    """``active``: in the process that was started as the agent. A child that it forks inherits the sockets and goes on
    sparing what is shared, but says nothing."""

    def __init__(self, link: Link, held: list[dict[str, Any]], descriptors: list[int]) -> None:
        self._link = link
        self.active = True
        self.lock = _thread.RLock()
        self.spots: dict[int, Spot] = {}
        self.held: list[Held] = []
        self._given_up: list[tuple[int, list[Any], list[Any]]] = []
        for said, fd in zip(held, descriptors, strict=False):
            self._offer(said, fd)
        self._next = max((one.number for one in self.held), default=-1) + 1

    def _offer(self, said: dict[str, Any], fd: int) -> None:
        try:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)
            self.held.append(Held(said["number"], said["family"], list(said["address"]), fd))
        except (OSError, KeyError, TypeError):
            os.close(fd)

    # ---- finding -----------------------------------------------------------------------------------------------------

    def find(self, fd: int) -> Spot | None:
        """The spot of a descriptor, also of a duplicate that nobody told of."""
        if not self.spots:
            return None
        spot = self.spots.get(fd)
        if serving.draining:
            return spot  # a quiet listener stands in the place of each
        inode = inode_of(fd)
        if spot is not None and spot.inode == inode:
            return spot
        with self.lock:
            if spot is not None:
                del self.spots[fd]  # closed where Python does not see it; the number is another's now
            for other in self.spots.values():
                if other.inode == inode:
                    self.spots[fd] = other
                    return other
        return None

    def _lives(self, spot: Spot) -> bool:
        """Has this process a descriptor of it, besides copies of ours?"""
        if any(one is spot and inode_of(fd) == spot.inode for fd, one in list(self.spots.items())):
            return True
        own = {one.fd for one in self.held}
        for fd in open_descriptors():
            if fd not in own and inode_of(fd) == spot.inode:
                self.spots[fd] = spot
                return True
        return False

    # ---- binding -----------------------------------------------------------------------------------------------------

    def take(self, family: int, address: list[Any], fd: int, v6only: bool) -> Spot | None:
        """Puts the held socket for this address in the place of ``fd``. Raises OSError."""
        with self.lock:
            for one in self.held:
                if one.is_for(family, address) and (family != _socket.AF_INET6 or one.v6only == v6only):
                    os.dup2(one.fd, fd, os.get_inheritable(fd))
                    spot = self.note(family, address, one.name, fd)
                    one.spot, spot.number, spot.adopted = spot, one.number, True
                    return spot
        return None

    def note(self, family: int, address: list[Any], name: list[Any], fd: int) -> Spot:
        """A descriptor that is bound now. Raises OSError."""
        spot = Spot(family, address, name, os.fstat(fd).st_ino)
        with self.lock:
            self.spots[fd] = spot
        return spot

    def settle(self, fd: int, spot: Spot) -> serving.Place | None:
        """It will listen, so it is told of; None where it stays the program's alone."""
        with self.lock:
            if spot.place is not None or not self.active:
                return spot.place
            if not spot.adopted and _asked_flag(fd, _socket.SO_REUSEPORT):
                return None  # a copy that nobody accepts on would get its share of the connections all the same
            if spot.number is None:
                spot.number, self._next = self._next, self._next + 1
            place = serving.Place(spot.number, spot.family, _socket.SOCK_STREAM, spot.address, fd, spot.adopted)
            spot.place = place
            serving.places[:] = [one for one in serving.places if one.number != place.number] + [place]
            if spot.adopted:
                self._link.tell("adopted", number=place.number)
            else:
                fields = {"number": place.number, "family": int(place.family), "kind": int(place.kind)}
                self._link.tell("bound", (fd,), **fields, address=place.address)
        self._link.listen()
        if not self._link.listening:
            self._link.lost()  # no thread can be had: what the supervisor says is not heard
        return place

    def listens(self, spot: Spot) -> None:
        place = spot.place
        if place is not None and not place.listening and self.active:
            place.listening = True
            self._link.tell("listens", number=place.number, plain=not spot.framework)

    # ---- closing -----------------------------------------------------------------------------------------------------

    def before_close(self, fd: int, spot: Spot) -> int:
        """A copy for the time that it may be wanted back, or -1."""
        if spot.place is None or not self.active or self._is_held(spot) or serving.draining:
            return -1
        try:
            return os.dup(fd)
        except OSError:
            return -1

    def after_close(self, fd: int, spot: Spot, copy: int) -> None:
        """``fd`` is no longer the program's (or was never closed: the one who knows asks ``forget`` first)."""
        with self.lock:
            self.forget(fd)
            if self._is_held(spot):
                self._free(spot)
            elif copy >= 0 and spot.number is not None:
                self._keep_in_limbo(spot, copy)

    def forget(self, fd: int) -> None:
        spot = self.spots.pop(fd, None)
        if spot is not None:
            spot.waits.pop(fd, None)

    def _is_held(self, spot: Spot) -> bool:
        return any(one.inode == spot.inode for one in self.held)

    def _free(self, spot: Spot) -> None:
        """What was held out to it may be adopted again, once it has no descriptor of it left."""
        if not self._lives(spot):
            for one in self.held:
                if one.spot is spot:
                    one.spot = None

    def _keep_in_limbo(self, spot: Spot, copy: int) -> None:
        assert spot.number is not None
        limbo = Held(spot.number, spot.family, spot.address, copy, limbo=True)
        self.held.append(limbo)
        if self._lives(spot):
            limbo.spot = spot
        try:
            threads.start(self._end_of_limbo, limbo, spot)
        except RuntimeError:
            pass  # the interpreter ends: the supervisor sees that, too

    def _end_of_limbo(self, limbo: Held, spot: Spot) -> None:
        sleep(LIMBO)
        with self.lock:
            if limbo not in self.held:
                return
            self.held.remove(limbo)
            os.close(limbo.fd)
            if limbo.spot is None or not self._lives(limbo.spot):
                self._give_up(limbo.number, limbo.name)

    def _give_up(self, number: int, name: list[Any]) -> None:
        if serving.draining:
            return
        for place in [place for place in serving.places if place.number == number]:
            serving.places.remove(place)
            self._given_up.append((place.family, place.address, name))
            self._link.tell("closed", number=number)

    def was_given_up(self, family: int, address: list[Any]) -> bool:
        """Whether the supervisor may still have a copy of what this program had at the address, and is letting go."""
        with self.lock:
            for spot in {id(one): one for one in self.spots.values()}.values():
                if spot.place is not None and spot.family == family and not self._lives(spot):
                    self._give_up(spot.place.number, spot.name)
            wanted = plain(family, address)
            return any(one == family and (asked == address or name == wanted) for one, asked, name in self._given_up)

    def release(self) -> None:
        """This is the generation that serves: copies of ours would only keep alive what the program closes."""
        with self.lock:
            offered = [one for one in self.held if not one.limbo]
            self.held = [one for one in self.held if one.limbo]
            for one in offered:
                os.close(one.fd)
                if one.spot is None:
                    self._give_up(one.number, one.name)

    # ---- forked children ---------------------------------------------------------------------------------------------

    def begin_child(self) -> None:
        self.active = False
        self.lock = _thread.RLock()
        for one in [one for one in self.held if one.limbo]:
            os.close(one.fd)
            self.held.remove(one)
        for spot in self.spots.values():
            spot.stir = -1


def open_descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def _asked_flag(fd: int, option: int) -> bool:
    sock = _socket.socket(fileno=fd)
    try:
        return bool(sock.getsockopt(_socket.SOL_SOCKET, option))
    finally:
        sock.detach()


def asked_address(family: int, address: Any) -> list[Any] | None:
    """As it is told and compared: host and port, and what makes an IPv6 address another one; None for nonsense."""
    if family not in _FAMILIES or not isinstance(address, tuple) or len(address) < 2:
        return None
    host = address[0].decode("ascii", "replace") if isinstance(address[0], (bytes, bytearray)) else address[0]
    if not isinstance(host, str) or not isinstance(address[1], int):
        return None
    return [host, int(address[1]), *([0, address[3]] if len(address) > 3 and address[3] else [])]
