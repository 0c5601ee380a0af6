"""aiohttp's server, also without an Application: one ``web.Server`` makes the protocols of all its sites."""

from __future__ import annotations

import sys

from .drain_manner import GRACE, Manner, is_quiet
from .hints import Any


def manner_of(factory: Any) -> Manner | None:
    """None if these protocols are not aiohttp's."""
    module = sys.modules.get("aiohttp.web_server")
    return Aiohttp(factory) if module is not None and isinstance(factory, module.Server) else None


class Aiohttp(Manner):
    def __init__(self, server: Any) -> None:
        self._server = server

    def announce(self) -> None:
        _announce_in_all_answers()

    def close_idle(self, quiet: float, waited: float) -> None:
        for handler in self._server.connections:
            if _is_idle(handler) and is_quiet(handler.transport.get_extra_info("socket").fileno(), quiet):
                handler.force_close()

    def hurry(self) -> None:
        runner = sys.modules["aiohttp.web_runner"].BaseRunner
        cleanup = runner.cleanup

        async def clean_up_soon(self: Any) -> None:
            if hasattr(self, "_shutdown_timeout"):  # 60 s, for streams too
                self._shutdown_timeout = min(self._shutdown_timeout, GRACE)
            await cleanup(self)

        runner.cleanup = clean_up_soon


def _is_idle(handler: Any) -> bool:
    """It waits for a request, and none has come."""
    waits = getattr(handler, "_waiter", None) is not None and not getattr(handler, "_messages", None)
    return waits and handler.transport is not None


def _announce_in_all_answers() -> None:
    """Here and not in ``on_response_prepare``: signals are frozen by now, and come when the header is chosen."""
    response = sys.modules["aiohttp.web_response"].StreamResponse
    if getattr(response.prepare, "closes", False):
        return
    prepare = response.prepare

    async def prepare_last(self: Any, request: Any) -> Any:
        if not self.prepared and self.status != 101:
            self.force_close()
        return await prepare(self, request)

    prepare_last.closes = True  # type: ignore[attr-defined]
    response.prepare = prepare_last
