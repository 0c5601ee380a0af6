"""Serve one ASGI app on one listening socket, inside an event loop that belongs to somebody else.

The one place that knows uvicorn. Left to itself, uvicorn takes SIGINT and SIGTERM of the whole process, calls
``sys.exit`` when it cannot start, wakes up ten times a second to look whether it should stop, and closes a kept-alive
connection after 5 s: exactly when the next heartbeat of an agent that beats every 5 s is on its way. None of that here.

The registry serves TCP with it, the supervisor's control server a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Callable, Generator, Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .peer import peer_of, refuse_descriptors

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: far from every common heartbeat interval, as nginx has it."""

HEAD_PATIENCE = 30.0
"""Seconds for a request's head to arrive. Nobody's half a request holds a descriptor for longer."""

BACKLOG = 2048

AFTER_THE_CUT = 0.5
"""Seconds for a request to notice at the end that its connection was cut. They notice at once."""

_USED_UP = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

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
    app: ASGIApp, sock: socket.socket, *, stop: asyncio.Event, grace: float = 3.0, admit: Admit | None = None
) -> None:
    """Answer requests on ``sock`` until ``stop`` is set; then accept no more and give open requests ``grace`` seconds,
    after which their connections are cut.

    ``sock`` is bound by the caller (who can say in his own words that the port is taken); it may already listen. It is
    closed here in every case, also when this task is cancelled: then open connections are cut. ``admit`` sees every
    accepted socket (peer credentials) before a byte of it is read; False hangs up. Lifespan events are not sent.
    ``request.state.peer`` is the pid of who connected, as the kernel knows it; 0 where it is not a process seen here.
    """
    server = _Server(_configuration(app, grace, admit), stop, grace)
    try:
        with _calm(asyncio.get_running_loop()):
            await server.serve(sockets=[sock])
    finally:
        server.close_listeners()
        sock.close()


def _configuration(app: ASGIApp, grace: float, admit: Admit | None) -> uvicorn.Config:
    # h11 even where httptools is installed: one parser, one behaviour, and these servers are not busy ones.
    return uvicorn.Config(
        app,
        http=_patient(admit),
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
        # For asyncio.wait_for, which takes fractions. Later than our own cut: uvicorn's way ends in a traceback each.
        timeout_graceful_shutdown=grace + AFTER_THE_CUT,  # type: ignore[arg-type]
    )


def _patient(admit: Admit | None) -> type[H11Protocol]:
    """uvicorn's protocol, hanging up on those whom ``admit`` does not want, and on those who do not get to the end of
    a request's head: uvicorn would keep a connection on which nothing comes for ever."""

    class Patient(H11Protocol):
        patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            refuse_descriptors(connection)
            self.app_state = {**self.app_state, "peer": _pid_of_peer(connection)}
            if admit is not None and not admit(connection):
                transport.abort()
            else:
                self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_asked():
                self._expect_nothing()
            else:
                self._expect_head()

        def send_400_response(self, msg: str) -> None:
            # Nonsense behind an answer that is under way or given (413, and the body goes on): it can have no other.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            super().connection_lost(exc)

        def _is_asked(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_head(self) -> None:
            if self.patience is None:
                self.patience = self.loop.call_later(HEAD_PATIENCE, self._give_up)

        def _expect_nothing(self) -> None:
            if self.patience is not None:
                self.patience.cancel()
                self.patience = None

        def _give_up(self) -> None:
            self.patience = None
            if not self._is_asked():
                self.transport.close()

    return Patient


def _pid_of_peer(connection: socket.socket) -> int:
    """0 where nobody can tell."""
    peer = peer_of(connection)
    return 0 if peer is None else peer.pid


@contextlib.contextmanager
def _calm(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """While descriptors are used up asyncio tries again every second, as often as the backlog is long, and reports a
    traceback each time: that alone would keep a processor busy."""
    before = loop.get_exception_handler()

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _USED_UP and "socket" in context:
            return
        if before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(report)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: asyncio.Event, grace: float) -> None:
        super().__init__(config)
        self.stop, self.grace = stop, grace
        self.servers: list[asyncio.base_events.Server] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the business of whoever owns the process."""
        yield

    async def main_loop(self) -> None:
        """Wait for ``stop`` instead of looking ten times a second; the date header is the only thing lost."""
        await self.on_tick(0)
        await self.stop.wait()
        # Who has stopped reading gets to its end in no other way: what was sent to it waits to be read.
        asyncio.get_running_loop().call_later(self.grace, self._cut)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def close_listeners(self) -> None:
        """What ``shutdown`` did not get to do because the task was cancelled; harmless after it."""
        for listener in self.servers:
            listener.close()
        self._cut()
