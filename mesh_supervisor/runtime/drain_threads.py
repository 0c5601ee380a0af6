"""socketserver and what is made of it: http.server, wsgiref, Werkzeug (Flask), Django's development server."""

from __future__ import annotations

import _socket
import sys

from .drain_manner import Manner, is_quiet
from .hints import Any


class SocketServer(Manner):
    def __init__(self, server: Any) -> None:
        self._server = server

    def announce(self) -> None:
        _announce_in_all_answers()

    def close_idle(self, quiet: float, waited: float) -> None:
        for handler in _waiting_handlers():
            if is_quiet(handler.connection.fileno(), quiet):
                handler.connection.shutdown(_socket.SHUT_RD)

    def unfinished(self) -> int:
        """Children of a ForkingMixIn: they answer, and this process has not their connections any more."""
        return len(getattr(self._server, "active_children", None) or ())


def _announce_in_all_answers() -> None:
    module = sys.modules.get("http.server")
    if module is None or getattr(module.BaseHTTPRequestHandler.end_headers, "closes", False):
        return
    handler = module.BaseHTTPRequestHandler
    end_headers = handler.end_headers

    def end_last_headers(self: Any) -> None:
        # This sets close_connection too. 1xx is not an answer yet.
        if not _is_interim(self):
            self.send_header("Connection", "close")
        end_headers(self)

    end_last_headers.closes = True  # type: ignore[attr-defined]
    handler.end_headers = end_last_headers


def _is_interim(handler: Any) -> bool:
    written = getattr(handler, "_headers_buffer", None) or [b""]
    return bool(written[0].split(b" ")[1:2] < [b"2"])


def _waiting_handlers() -> list[Any]:
    """Those whose thread waits for the first byte of a request: nothing else tells."""
    module = sys.modules.get("http.server")
    if module is None:
        return []
    waits = module.BaseHTTPRequestHandler.handle_one_request.__code__
    found = []
    for frame in sys._current_frames().values():
        caller = frame.f_back
        if frame.f_code.co_name == "readinto" and caller is not None and caller.f_code is waits:
            found.append(caller.f_locals["self"])
    return found
