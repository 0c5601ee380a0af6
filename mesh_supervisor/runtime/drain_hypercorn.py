"""hypercorn on asyncio and uvloop: the last answer of a connection says ``close``, or GOAWAY in HTTP/2."""

from __future__ import annotations

import sys

from .drain_manner import GRACE, LONG_QUIET, Manner, enclosed
from .hints import Any


def manner_of(factory: Any) -> Manner | None:
    """None if these protocols are not hypercorn's."""
    given = enclosed(enclosed(factory).get("client_connected_cb"))
    config = given.get("config")
    if not type(config).__module__.startswith("hypercorn") or not hasattr(config, "keep_alive_max_requests"):
        return None
    return Hypercorn(config, given.get("context"))


class Hypercorn(Manner):
    def __init__(self, config: Any, context: Any) -> None:
        self._config, self._context = config, context

    def announce(self) -> None:
        self._config.keep_alive_max_requests = 0

    def close_idle(self, quiet: float, waited: float) -> None:
        """All at once: hypercorn does not tell its connections apart. After LONG_QUIET it closes each by itself."""
        if quiet < LONG_QUIET and waited > quiet and not self._context.terminated.is_set():
            self._closing = sys.modules["asyncio"].ensure_future(self._context.terminated.set())

    def hurry(self) -> None:
        self._config.graceful_timeout = min(self._config.graceful_timeout, GRACE)
