"""uvicorn 0.15 to 0.54, h11 and httptools, on any loop, in any thread.

``config.encoded_headers`` is what the default headers of all answers are made of anew every second;
``server_state.default_headers`` is what they were last time, and each request (before 0.17 each connection)
keeps the list of its own beginning.
"""

from __future__ import annotations

import signal
import sys

from .drain_manner import GRACE, Manner, enclosed, is_quiet
from .hints import Any

CLOSE = (b"connection", b"close")


def manner_of(factory: Any) -> Manner | None:
    """None if these protocols are not uvicorn's."""
    given = enclosed(factory)
    given = {**given, **enclosed(given.get("client_connected_cb"))}  # before 0.17 it begins with streams
    server, config = given.get("self"), given.get("config")
    state = given.get("server_state") or getattr(server, "server_state", None)
    if not hasattr(config, "encoded_headers") or not hasattr(state, "default_headers"):
        return None
    if server is not None:
        leave_at_once(server)
    return Uvicorn(config, state)


class Uvicorn(Manner):
    def __init__(self, config: Any, state: Any) -> None:
        self._config, self._state = config, state

    def announce(self) -> None:
        self._config.encoded_headers = [*self._config.encoded_headers, CLOSE]
        # The lists themselves, not others: requests under way hold them, and before 0.17 connections.
        for holder in (self._state, *self._connections(), *self._cycles()):
            headers = getattr(holder, "default_headers", None)
            if isinstance(headers, list) and CLOSE not in headers:
                headers.append(CLOSE)

    def _connections(self) -> list[Any]:
        return list(self._state.connections)

    def _cycles(self) -> list[Any]:
        """The requests under way, or the last one of each idle connection."""
        return [getattr(connection, "cycle", None) for connection in self._connections()]

    def close_idle(self, quiet: float, waited: float) -> None:
        for connection in self._connections():
            # Those of WebSockets and HTTP/2 have no such attribute.
            cycle = getattr(connection, "cycle", self)
            idle = cycle is None or getattr(cycle, "response_complete", False)
            if idle and is_quiet(connection.transport.get_extra_info("socket").fileno(), quiet):
                connection.shutdown()

    def unfinished(self) -> int:
        return len(self._state.tasks)

    def hurry(self) -> None:
        limit = getattr(self._config, "timeout_graceful_shutdown", GRACE)
        if limit is None or limit > GRACE:
            self._config.timeout_graceful_shutdown = GRACE


TICK = 0.1
"""Seconds between two looks of uvicorn whether it should exit."""


def leave_at_once(server: Any) -> None:
    """SIGTERM wakes the server, which otherwise sleeps through up to TICK of it. In the thread of its loop.

    Its ticks go on as ever, but from within the first one, where the sleep between them can be cut short. Only where
    the signal handler is uvicorn's own (0.29 and newer, in the main thread).
    """
    handler = signal.getsignal(signal.SIGTERM)
    if getattr(handler, "__self__", None) is not server or not callable(handler):
        return
    loop = sys.modules["asyncio"].get_running_loop()
    ticking: Any = server
    tick, sleeper = ticking.on_tick, [loop.create_future()]

    def wake() -> None:
        if not sleeper[0].done():
            sleeper[0].set_result(None)

    def handle_exit(number: int, frame: Any) -> None:
        handler(number, frame)
        if not loop.is_closed():
            loop.call_soon_threadsafe(wake)

    async def on_tick(counter: int) -> bool:
        while not await tick(counter):
            counter += 1
            sleeper[0] = loop.create_future()
            timer = loop.call_later(TICK, wake)
            try:
                await sleeper[0]
            finally:
                timer.cancel()
        return True

    try:
        signal.signal(signal.SIGTERM, handle_exit)
    except ValueError:  # the loop's thread is not the main one
        return
    ticking.on_tick = on_tick
