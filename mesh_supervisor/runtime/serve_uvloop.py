"""Servers of uvloop: its own are made in C, so what the program gets of those that we keep stands before them."""

from __future__ import annotations

import asyncio

from . import serving
from .hints import Any, Callable, ModuleType
from .places import QUEUE
from .serve_asyncio import take
from .serve_readers import wrap as wrap_readers
from .servers import cannot, closing, gate, places_of, retire_by_drain, show, tell_listens, tell_serves


def wrap(module: ModuleType) -> None:
    real = module.Loop.create_server

    async def create_server(self: Any, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = kwargs.get("start_serving", True)
        # It listens in C, where nobody sees how long a queue it asks for.
        if isinstance(kwargs.get("backlog", 100), int):
            kwargs["backlog"] = max(kwargs.get("backlog", 100), QUEUE)
        server = await real(self, protocol_factory, *args, **{**kwargs, "start_serving": False})
        ours = _ours(server, self, protocol_factory, kwargs.get("ssl"))
        if wanted:
            await ours.start_serving()
        return ours

    for name, value in {"create_server": create_server}.items():
        setattr(module.Loop, name, value)
    wrap_readers(module.Loop)


def _ours(server: Any, loop: Any, factory: Any, tls: Any) -> Any:
    """What the program gets: the server itself where no socket of it is kept."""
    try:
        descriptors = [sock.fileno() for sock in server.sockets]
        places = places_of(descriptors)
        return Kept(server, loop, factory, tls, places, descriptors) if places else server
    except Exception as error:  # noqa: BLE001 - a version that looks otherwise inside: it serves as ever
        cannot(f"uvloop: {type(error).__name__}: {error}")
        return server


class Kept(asyncio.AbstractServer):
    """A server of uvloop: as that, but it waits at the gate, and its closing is seen."""

    def __init__(
        self, server: Any, loop: Any, factory: Any, tls: Any, places: list[serving.Place], descriptors: list[int]
    ) -> None:
        self._server, self._loop, self._descriptors = server, loop, descriptors
        self._held = False
        self._forever: asyncio.Future[None] | None = None
        self._record = record = show("uvloop", places)
        record.go = lambda done: loop.call_soon_threadsafe(self._go, done)
        record.knock = lambda fd, answer: loop.call_soon_threadsafe(take, loop, factory, tls, fd, answer)
        retire_by_drain("for_asyncio", record, loop, server, factory)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def __repr__(self) -> str:
        return repr(self._server)

    def get_loop(self) -> Any:
        return self._loop

    def is_serving(self) -> bool:
        return bool(self._server.is_serving())

    async def start_serving(self) -> None:
        if gate.closed and not self._closed:
            self._hold()
        else:
            await self._server.start_serving()
            tell_listens(self._descriptors)
        tell_serves(self._record)

    async def serve_forever(self) -> None:
        if not gate.closed or self._closed:
            tell_serves(self._record)
            await self._server.serve_forever()
            return
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._hold()
        tell_serves(self._record)
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None
        await self._server.serve_forever()

    def close(self) -> None:
        closed = closing(self._descriptors)
        self._server.close()
        closed()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    async def wait_closed(self) -> None:
        await self._server.wait_closed()

    async def __aenter__(self) -> Kept:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await self.wait_closed()

    @property
    def _closed(self) -> bool:
        return not self._server.sockets

    def _hold(self) -> None:
        """The kernel may queue from now on."""
        import socket

        self._held = True
        for fd in self._descriptors:
            sock = socket.socket(fileno=fd)
            try:
                sock.listen(QUEUE)
            finally:
                sock.detach()

    def _go(self, done: Callable[[], None]) -> None:
        task = self._loop.create_task(self._begin(done))
        self._beginning = task

    async def _begin(self, done: Callable[[], None]) -> None:
        try:
            if self._held and not self._closed:
                await self._server.start_serving()
                tell_listens(self._descriptors)
            if self._forever is not None and not self._forever.done():
                self._forever.set_result(None)
        except Exception as error:  # noqa: BLE001 - the supervisor is told, the program goes on
            cannot(f"uvloop: {type(error).__name__}: {error}")
        finally:
            done()
