"""uvicorn 0.15 to 0.54, h11 and httptools, on any loop, in any thread.

``config.encoded_headers`` is what the default headers of all answers are made of anew every second;
``server_state.default_headers`` is what they were last time, and each request keeps the list of its own beginning.
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
    server, config = given.get("self"), given.get("config")
    state = given.get("server_state") or getattr(server, "server_state", None)
    if not hasattr(config, "encoded_headers") or not hasattr(state, "default_headers"):
        return None
    return Uvicorn(config, state, server)


class Uvicorn(Manner):
    def __init__(self, config: Any, state: Any, server: Any) -> None:
        self._config, self._state, self._server = config, state, server

    def announce(self) -> None:
        self._config.encoded_headers = [*self._config.encoded_headers, CLOSE]
        # The list itself, not another one: requests under way hold it.
        lists = [self._state.default_headers, *(cycle.default_headers for cycle in self._cycles())]
        for headers in lists:
            if CLOSE not in headers:
                headers.append(CLOSE)
        if self._server is not None:
            leave_at_once(self._server)

    def _cycles(self) -> list[Any]:
        """The requests under way, or the last one of each idle connection."""
        found = [getattr(connection, "cycle", None) for connection in list(self._state.connections)]
        return [cycle for cycle in found if isinstance(getattr(cycle, "default_headers", None), list)]

    def close_idle(self, quiet: float, waited: float) -> None:
        for connection in list(self._state.connections):
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


def leave_at_once(server: Any) -> None:
    """SIGTERM wakes the server, which otherwise looks every 0.1 s whether it should exit.

    Only where its signal handler is uvicorn's own. Once a second it does what it did ten times a second.
    """
    handler = signal.getsignal(signal.SIGTERM)
    asyncio = sys.modules["asyncio"]
    if getattr(handler, "__self__", None) is not server or not callable(handler):
        return
    ticking: Any = server
    tick, loop, called = ticking.on_tick, asyncio.get_running_loop(), asyncio.Event()

    def handle_exit(number: int, frame: Any) -> None:
        handler(number, frame)
        loop.call_soon_threadsafe(called.set)

    async def on_tick(counter: int) -> bool:
        while not await tick(0):
            try:
                await asyncio.wait_for(called.wait(), 1.0)
            except asyncio.TimeoutError:
                continue
        return True

    try:
        signal.signal(signal.SIGTERM, handle_exit)
    except ValueError:  # the server's thread is not the main one
        return
    ticking.on_tick = on_tick
