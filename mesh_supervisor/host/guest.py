"""The runtime inside one instance, as the supervisor sees it: its sockets, whether it serves, what it cannot do.

Everything here is what an agent's process says, so nothing depends on it alone: a guest that falls silent is a plain
program, stopped by its signal and found ready by its listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .channel import Channel, Packet
from .sockets import Asked, Held, HeldSockets, held_from

MOST_PLACES = 60
"""Listening sockets of one process that are kept copies of. A start packet carries them all, with four more."""

MOST_LIMITS = 64

MOST_PARTS = 20
"""Packets of an inventory; one holds about 2,000 names."""

PLAIN_PAUSE = 0.05
"""Seconds after listen() in which a framework's server shows itself; what does not accepts by hand."""

LONGEST_WORD = 300

ANSWER = 1.0
"""Seconds beyond the patience of a drain in which its runtime says how it went."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a guest says that concerns others. Called in the event loop; must not block."""

    reads: Callable[[Packet], None] = lambda packet: None
    writes: Callable[[Packet], None] = lambda packet: None


class Guest:
    """One instance's. ``changed`` is set whenever something new is known."""

    def __init__(self, sockets: HeldSockets, told: Told, *, hands_over: bool = True) -> None:
        """``hands_over`` False: it takes nothing over from the one before, and nothing of it is held."""
        self._sockets, self._told, self._hands_over = sockets, told, hands_over
        self._loop = asyncio.get_running_loop()
        self.channel = Channel(self._heard, self._over)
        self.changed = asyncio.Event()
        self.limits: dict[str, str] = {}
        self.present = False
        self.crowded = False
        self.current = False  # it is the generation that serves
        self.deaf_since: float | None = None  # loop time
        self._places: dict[int, Held] = {}
        self._offered: dict[int, Held] = {}
        self._serves: set[int] = set()
        self._listens: dict[int, float] = {}  # number → loop time
        self._drained = asyncio.Event()  # or gone: either way there is nothing to wait for
        self._knocks: dict[int, asyncio.Future[str]] = {}
        self._modules: asyncio.Future[None] | None = None
        self._parts: list[Packet] = []

    def offer(self) -> tuple[list[dict[str, object]], tuple[int, ...]]:
        """(``held`` of the start packet, their descriptors): what it may adopt."""
        self._offered = dict(enumerate(self._sockets.now() if self._hands_over else ()))
        held = [
            {"number": number, "family": int(one.asked.family), "kind": one.asked.kind, "address": one.asked.address}
            for number, one in self._offered.items()
        ]
        return held, tuple(one.sock.fileno() for one in self._offered.values())

    @property
    def open(self) -> bool:
        return self.channel.open

    @property
    def listening(self) -> tuple[Held, ...]:
        """The sockets it listens on, of those that it told of or took over."""
        return tuple(one for one in self._places.values() if one.listens)

    @property
    def inodes(self) -> frozenset[int]:
        """Of every socket that it was offered or told of: what is in its descriptors without being its own listener."""
        return frozenset(one.inode for one in (*self._offered.values(), *self._places.values()))

    @property
    def offered_ports(self) -> frozenset[int]:
        """Those that its predecessor listens on: an answer there may be the predecessor's."""
        return frozenset(one.port for one in self._offered.values())

    @property
    def by_hand(self) -> tuple[int, ...]:
        """Ports on which it accepts without a framework that could be asked to wait."""
        return tuple(one.port for number, one in self._places.items() if one.listens and number not in self._serves)

    def has(self, port: int | None) -> bool:
        """Whether it told of a place with this port (None: of any)."""
        return any(port in (None, one.port) for one in self._places.values())

    def serves(self, port: int | None) -> bool:
        """Would it answer there as soon as it may accept?"""
        now = self._loop.time()
        for number, one in self._places.items():
            if port not in (None, one.port):
                continue
            if number in self._serves or now >= self._listens.get(number, now + 1) + PLAIN_PAUSE:
                return True
        return False

    # ---- commands ----------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """It is the one that serves: it may accept, and what it listens on is kept for the next one."""
        self.current = True
        self._hold()
        self.channel.send("go")

    def keep_apart(self) -> None:
        """Its sockets are its own after all: nothing of them is held any more, here or elsewhere."""
        self._hands_over = False
        self._hold()
        for one in self._places.values():
            one.close()

    def _hold(self) -> None:
        self._sockets.hold(self.listening if self._hands_over else ())

    async def drain(self, patience: float, *, close_idle: bool) -> None:
        """Returns when nothing that it accepted is left, after ``patience`` seconds, or when it is gone."""
        self.current = False
        if not self.channel.send("drain", patience=patience, close_idle=close_idle):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience + ANSWER):
                await self._drained.wait()

    async def knock(self, port: int) -> socket.socket | None:
        """One end of a connection of its own to the server on this port, whether it accepts or not; None: it cannot."""
        number = next((number for number in sorted(self._serves) if self._place_has(number, port)), None)
        if number is None or not self.open:
            return None
        ours, theirs = await _connected_pair()
        answer = self._loop.create_future()
        name = max(self._knocks, default=0) + 1
        self._knocks[name] = answer
        try:
            with theirs:
                told = self.channel.send("knock", (theirs.fileno(),), id=name, number=number)
            if not told and not answer.done():  # it ended before it could be asked, while the pair was connected
                answer.set_exception(ConnectionError("the channel was closed"))
            why = await answer
        except BaseException:
            ours.close()
            raise
        finally:
            self._knocks.pop(name, None)
        if why:
            ours.close()
            self._limit("gate", why)
            return None
        return ours

    async def inventory(self, patience: float) -> list[Packet]:
        """What it has imported (runtime/learn.py), in parts; []: it does not say so within ``patience`` seconds."""
        self._parts.clear()
        self._modules = self._loop.create_future()
        if not self.channel.send("inventory"):
            return []
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(patience):
                await self._modules
            return list(self._parts)
        return []

    def close(self) -> None:
        """Its process is gone. What it alone had told of is given up."""
        self.channel.close()
        self._over("")
        kept = self._sockets.now()
        for one in self._places.values():
            if one not in kept:
                one.close()
        self._places.clear()

    # ---- what it says ------------------------------------------------------------------------------------------------

    def _heard(self, packet: Packet, descriptors: list[int]) -> None:
        with self._owned(descriptors):
            match packet["is"]:
                case "hello":
                    self.present = True
                case "bound":
                    self._bound(packet, descriptors)
                case "adopted":
                    self._adopted(packet)
                case "listens":
                    self._listened(packet)
                case "serves":
                    self._served(packet)
                case "closed":
                    self._closed(_number(packet.get("number")))
                case "conflict":
                    self._collided(packet.get("address"))
                case "drained":
                    self._drained.set()
                case "knocked":
                    self._knocked(packet)
                    return  # whoever knocked knows; as news it would make the next probe come at once, again and again
                case "cannot":
                    self._limit(str(packet.get("what"))[:LONGEST_WORD], str(packet.get("why"))[:LONGEST_WORD])
                case "modules":
                    self._imported(packet)
                case "reads":
                    self._told.reads(packet)
                    return  # a program that imports has no news for whoever waits until it serves
                case "writes":
                    self._told.writes(packet)
                    return
        self.changed.set()

    def _bound(self, packet: Packet, descriptors: list[int]) -> None:
        number, asked = _number(packet.get("number")), _asked(packet)
        if asked is None or number is None or len(descriptors) != 1 or len(self._places) >= MOST_PLACES:
            return
        self._forget(number)
        with contextlib.suppress(OSError):
            self._places[number] = held_from(descriptors[0], asked, self.channel.closing)
            descriptors.clear()

    def _adopted(self, packet: Packet) -> None:
        number = _number(packet.get("number"))
        if number is not None and number in self._offered:
            self._places[number] = self._offered[number]

    def _listened(self, packet: Packet) -> None:
        number = _number(packet.get("number"))
        if number is None or number not in self._places:
            return
        # A framework's listener is ready when its server shows itself; one that has none, when it listens.
        if packet.get("plain", True):
            self._listens[number] = self._loop.time()
            self._loop.call_later(PLAIN_PAUSE, self.changed.set)
        if self.current:
            self._hold()

    def _served(self, packet: Packet) -> None:
        numbers = packet.get("numbers")
        if isinstance(numbers, list):
            self._serves.update(number for number in map(_number, numbers) if number in self._places)
        if self.current:
            self.go()  # a server that came later, of the generation that serves

    def _closed(self, number: int | None) -> None:
        if number is None:
            return
        self._forget(number)
        if self.current:
            self._hold()

    def _forget(self, number: int) -> None:
        self._serves.discard(number)
        self._listens.pop(number, None)
        gone = self._places.pop(number, None)
        if gone is not None and gone not in self._sockets.now() and gone not in self._places.values():
            gone.close()

    def _collided(self, address: object) -> None:
        """It counts only where its predecessor is: some programs look for a free port by trying."""
        port = address[1] if isinstance(address, list) and len(address) > 1 else None
        if isinstance(port, int) and port in self.offered_ports:
            self.crowded = True

    def _knocked(self, packet: Packet) -> None:
        answer = self._knocks.get(_number(packet.get("id")) or 0)
        if answer is not None and not answer.done():
            answer.set_result("" if packet.get("ok") else str(packet.get("why") or "it refuses")[:LONGEST_WORD])

    def _imported(self, packet: Packet) -> None:
        if self._modules is None or self._modules.done():
            return
        self._parts.append(packet)
        if not packet.get("more") or len(self._parts) >= MOST_PARTS:
            self._modules.set_result(None)

    def _limit(self, what: str, why: str) -> None:
        if len(self.limits) < MOST_LIMITS:
            self.limits[what] = why

    def _over(self, why: str) -> None:
        if why:
            self._limit("runtime", why)
        if self.deaf_since is None:
            self.deaf_since = self._loop.time()
        self._drained.set()
        self.changed.set()
        for answer in (*self._knocks.values(), self._modules):
            if answer is not None and not answer.done():
                answer.set_exception(ConnectionError("the channel was closed"))
                answer.exception()  # nobody may be waiting

    @contextlib.contextmanager
    def _owned(self, descriptors: list[int]) -> Iterator[None]:
        """Whatever is left in the list is closed."""
        try:
            yield
        finally:
            self.channel.closing.take(descriptors)

    def _place_has(self, number: int, port: int) -> bool:
        return number in self._places and self._places[number].port == port


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1_000_000 else None


def _asked(packet: Packet) -> Asked | None:
    family, kind, address = packet.get("family"), packet.get("kind"), packet.get("address")
    if not isinstance(family, int) or not isinstance(kind, int) or not isinstance(address, list):
        return None
    if len(address) > 4 or not all(isinstance(part, str | int) for part in address):
        return None
    if len(repr(address)) > LONGEST_WORD:
        return None
    return Asked(family, kind, tuple(address))


async def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection through the loopback: a server's framework asks a socket for its peer's address,
    and a Unix socket has none. Raises OSError."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        listener.setblocking(False)
        ours = socket.socket()
        ours.setblocking(False)
        try:
            await loop.sock_connect(ours, listener.getsockname())
            while True:
                theirs, peer = await loop.sock_accept(listener)
                if peer == ours.getsockname():
                    return ours, theirs
                theirs.close()  # a stranger who tries ports
        except BaseException:
            ours.close()
            raise
