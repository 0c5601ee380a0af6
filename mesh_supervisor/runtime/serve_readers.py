"""Programs that accept by hand in an event loop: those that watch the listener themselves (tornado), and those that
await ``loop.sock_accept`` (anyio's listeners).

While the gate is closed the loop does not watch: an accept that finds nothing would be called again at once, for ever.
"""

from __future__ import annotations

import asyncio

from . import serve_plain, serving
from .hints import Any, Callable
from .servers import gate, place_at, show, tell_serves

Answering = Callable[[str], None]
Watched = tuple[Any, int]

_watches: dict[Watched, Watch] = {}


class Watch:
    """One listener that a program watches in one loop."""

    def __init__(self, loop: Any, fd: int, add: Callable[..., Any], place: serving.Place) -> None:
        self._loop, self._fd, self._add, self._place = loop, fd, add, place
        self._held = False
        self._called: tuple[Any, ...] = ()
        self.record = record = show("reader", [place])
        record.go = lambda done: loop.call_soon_threadsafe(self._go, done)
        record.knock = lambda private, answer: loop.call_soon_threadsafe(self._take, private, answer)

    def watch(self, called: tuple[Any, ...]) -> None:
        self._called = called
        if gate.closed:
            self._held = True
        else:
            self._add(self._loop, self._fd, *called)
        tell_serves(self.record)

    def unwatch(self) -> bool:
        """Whether it was held, so that the loop knows nothing of it."""
        held, self._held, self._called = self._held, False, ()
        return held

    def _go(self, done: Callable[[], None]) -> None:
        held, self._held = self._held, False
        try:
            if held:
                self._add(self._loop, self._fd, *self._called)
        finally:
            done()

    def _take(self, private: int, answer: Answering) -> None:
        callback, *arguments = self._called or (None,)
        serve_plain.bring(self._place.number, private)
        if callback is None:
            answer("nobody accepts there")
            return
        answer("")
        callback(*arguments)


def wrap(cls: Any) -> None:
    """``cls``: a loop."""
    add, remove, accept = cls.add_reader, cls.remove_reader, cls.sock_accept

    def add_reader(self: Any, fd: Any, callback: Any, *args: Any) -> Any:
        watch = _watch(self, fd, add)
        if watch is None:
            return add(self, fd, callback, *args)
        watch.watch((callback, *args))
        return None

    def remove_reader(self: Any, fd: Any) -> Any:
        watch = _watches.get((self, _number(fd))) if _watches else None
        if watch is not None and watch.unwatch():
            return True
        return remove(self, fd)

    async def sock_accept(self: Any, sock: Any) -> Any:
        place = place_at(_number(sock))
        if place is not None:
            await _go(self, place)
        return await accept(self, sock)

    for name, value in {"add_reader": add_reader, "remove_reader": remove_reader, "sock_accept": sock_accept}.items():
        setattr(cls, name, value)


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else int(fd.fileno())


def _watch(loop: Any, fd: Any, add: Callable[..., Any]) -> Watch | None:
    """None: it is no listener of ours, or one that a server has shown itself for."""
    try:
        number = _number(fd)
        place = place_at(number)
        if place is None:
            return None
        known = _watches.get((loop, number))
        if known is None and not any(place in server.places for server in serving.servers):
            known = _watches[loop, number] = Watch(loop, number, add, place)
        return known
    except Exception:  # noqa: BLE001 - what the program gave is judged by the real method
        return None


async def _go(loop: Any, place: serving.Place) -> None:
    """Returns at once when the gate is open."""
    record = next((server for server in serving.servers if place in server.places), None)
    if record is None:
        record = show("sock_accept", [place])
    if not gate.closed:
        tell_serves(record)
        return
    opened: asyncio.Future[None] = loop.create_future()
    earlier = record.go

    def go(done: Callable[[], None]) -> None:
        if earlier is not None:
            earlier(lambda: None)
        loop.call_soon_threadsafe(_open, opened, done)

    record.go = go
    tell_serves(record)
    if gate.closed:
        await opened


def _open(opened: asyncio.Future[None], done: Callable[[], None]) -> None:
    if not opened.done():
        opened.set_result(None)
    done()
