"""Serve one ASGI app on one listening socket, inside an event loop that belongs to somebody else.

The one place that knows uvicorn. Left to itself, uvicorn takes SIGINT and SIGTERM of the whole process, calls
``sys.exit`` when it cannot start, wakes up ten times a second to look whether it should stop, and closes a kept-alive
connection after 5 s: exactly when the next heartbeat of an agent that beats every 5 s is on its way. None of that here.

The registry serves TCP with it, the supervisor's control server a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable, Generator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: far from every common heartbeat interval, as nginx has it."""

BACKLOG = 2048

Admit = Callable[[socket.socket], bool]


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError: taken, not an address of this machine, a name that nobody knows.

    SO_REUSEADDR, so that a restart can take the port over although connections of the earlier process linger.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it every answer takes 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def allow_many_connections() -> None:
    """As many open files as the system lets this user have; the usual 1024 is less than a thousand agents need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(
    app: ASGIApp, sock: socket.socket, *, stop: asyncio.Event, grace: int = 3, admit: Admit | None = None
) -> None:
    """Answer requests on ``sock`` until ``stop`` is set; then accept no more and give open requests ``grace`` seconds.

    ``sock`` is bound by the caller (who can say in his own words that the port is taken); it may already listen. It is
    closed here in every case, also when this task is cancelled: then open connections are cut. ``admit`` sees every
    accepted socket (peer credentials) before a byte of it is read; False hangs up. Lifespan events are not sent.
    """
    server = _Server(_configuration(app, grace, admit), stop)
    try:
        await server.serve(sockets=[sock])
    finally:
        server.close_listeners()
        sock.close()


def _configuration(app: ASGIApp, grace: int, admit: Admit | None) -> uvicorn.Config:
    # h11 even where httptools is installed: one parser, one behaviour, and these servers are not busy ones.
    return uvicorn.Config(
        app,
        http=_admitting(admit) if admit else H11Protocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=grace,
    )


def _admitting(admit: Admit) -> type[H11Protocol]:
    """uvicorn's protocol, hanging up on those whom ``admit`` does not want."""

    class Admitting(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not admit(transport.get_extra_info("socket")):
                transport.abort()

    return Admitting


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self.stop = stop
        self.servers: list[asyncio.base_events.Server] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of whoever owns the process."""
        yield

    async def main_loop(self) -> None:
        """Wait for ``stop`` instead of looking ten times a second; the date header is the only thing lost."""
        await self.on_tick(0)
        await self.stop.wait()

    def close_listeners(self) -> None:
        """What ``shutdown`` did not get to do because the task was cancelled; harmless after it."""
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
