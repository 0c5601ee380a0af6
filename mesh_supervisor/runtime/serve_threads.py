"""Servers of socketserver, and what is made of them: http.server, Werkzeug's and Django's development servers.

They wait at the gate in ``serve_forever``. A private connection is served by a thread where the server has one for each
connection; where it has none, by the thread that serves, for its handlers may rely on being alone.
"""

from __future__ import annotations

import _thread
import os
import select
import sys

from . import serving
from .hints import Any, Callable, ModuleType
from .servers import active, cannot, gate, places_of, retire_by_drain, show, tell_serves

Answering = Callable[[str], None]


def wrap(module: ModuleType) -> None:
    serve, handle, actions = (
        module.BaseServer.serve_forever,
        module.BaseServer.handle_request,
        module.BaseServer.service_actions,
    )
    activate = module.TCPServer.server_activate

    def serve_forever(self: Any, poll_interval: float = 0.5) -> None:
        visitors = _shown(self, module)
        if visitors is None:
            serve(self, poll_interval)
            return
        tell_serves(visitors.record)
        visitors.wait_at_gate(poll_interval)
        # The selector says that somebody waits; another generation may take him, so accept must not wait for the next.
        timeout = self.socket.gettimeout()
        self.socket.settimeout(0.0)
        try:
            serve(self, poll_interval)
        finally:
            if self.socket.fileno() >= 0:
                self.socket.settimeout(timeout)

    def handle_request(self: Any) -> None:
        visitors = _shown(self, module)
        if visitors is not None:
            tell_serves(visitors.record)
            visitors.wait_at_gate(0.5)
        handle(self)

    def server_activate(self: Any) -> None:
        try:
            places_of([self.socket.fileno()])
        except Exception as error:  # noqa: BLE001 - a server of another making
            cannot(f"socketserver: {type(error).__name__}: {error}")
        activate(self)

    def service_actions(self: Any) -> None:
        visitors = self.__dict__.get("_meshsup")
        if visitors is not None:
            visitors.serve()
        actions(self)

    for cls, name, value in (
        (module.BaseServer, "serve_forever", serve_forever),
        (module.BaseServer, "handle_request", handle_request),
        (module.TCPServer, "server_activate", server_activate),
        (module.BaseServer, "service_actions", service_actions),
    ):
        original = getattr(cls, name)
        value.__qualname__, value.__doc__ = original.__qualname__, original.__doc__
        setattr(cls, name, value)


def _shown(server: Any, module: ModuleType) -> Visitors | None:
    """None for one that is none of ours."""
    known: Visitors | None = server.__dict__.get("_meshsup")
    if known is not None:
        return known
    try:
        places = places_of([server.socket.fileno()])
        if not places:
            return None
        visitors = Visitors(server, show("socketserver", places), isinstance(server, module.ThreadingMixIn))
        server._meshsup = visitors
    except Exception as error:  # noqa: BLE001 - a server of another making: it serves as ever
        cannot(f"socketserver: {type(error).__name__}: {error}")
        return None
    return visitors


class Visitors:
    """The private connections of one server."""

    def __init__(self, server: Any, record: serving.Server, threads: bool) -> None:
        self.record = record
        self._server, self._threads = server, threads
        self._waiting: list[tuple[int, Answering]] = []
        self._stir = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        record.go = self._go
        record.knock = self._knock
        retire_by_drain("for_socketserver", record, server)

    def wait_at_gate(self, poll_interval: float) -> None:
        """Ends too when somebody calls the server's shutdown()."""
        waiting = select.poll()
        waiting.register(self._stir, select.POLLIN)
        if gate.closed:
            waiting.register(gate.descriptor, select.POLLIN)
        while gate.closed and not getattr(self._server, "_BaseServer__shutdown_request", False):
            waiting.poll(poll_interval * 1000)
            self.serve()

    def serve(self) -> None:
        """In the thread that serves."""
        if not self._waiting:
            return
        try:
            os.eventfd_read(self._stir)
        except BlockingIOError:
            pass  # looked at already
        while self._waiting:
            self._serve_one(*self._waiting.pop(0))

    def _go(self, done: Callable[[], None]) -> None:
        done()  # the gate's descriptor wakes it

    def _knock(self, fd: int, answer: Answering) -> None:
        if self._threads:
            _thread.start_new_thread(self._serve_one, (fd, answer))
            return
        self._waiting.append((fd, answer))
        os.eventfd_write(self._stir, 1)

    def _serve_one(self, fd: int, answer: Answering) -> None:
        import socket

        server = self._server
        request: Any = socket.socket(fileno=fd)
        answer("")
        try:
            request = self._with_tls(request)
            address = request.getpeername()
            if server.verify_request(request, address):
                server.process_request(request, address)
            else:
                server.shutdown_request(request)
        except Exception:  # noqa: BLE001 - as the server does with any request
            if active():
                server.handle_error(request, ("supervisor", 0))
            server.shutdown_request(request)

    def _with_tls(self, request: Any) -> Any:
        ssl, listener = sys.modules.get("ssl"), self._server.socket
        if ssl is None or not isinstance(listener, ssl.SSLSocket):
            return request
        return listener.context.wrap_socket(request, server_side=True)
