"""Servers of asyncio's own loops: held back where they begin to serve, whoever asks them to.

``create_server``, ``start_serving`` and ``serve_forever`` all go through ``Server._start_serving`` (3.7 to 3.14), so
that is the one place; what the server knows of itself says the rest.
"""

from __future__ import annotations

from . import serving
from .hints import Any, Callable, ModuleType
from .servers import cannot, gate, places_of, retire_by_drain, show, tell_serves

Begin = Callable[[Any], None]

_serving: set[Any] = set()
"""Tasks that serve private connections: a loop keeps only weak references."""


def wrap(module: ModuleType) -> None:
    begin: Begin | None = getattr(module.Server, "_start_serving", None)
    if begin is None:
        cannot("this asyncio is not known")
        return

    def _start_serving(self: Any) -> None:
        server = _shown(self, begin)
        if server is None:
            begin(self)
            return
        if gate.closed:
            _listen(self)
        else:
            begin(self)
        tell_serves(server)

    for name, value in {"_start_serving": _start_serving}.items():
        setattr(module.Server, name, value)


def _listen(server: Any) -> None:
    """The kernel may queue from now on. A server that cannot listen must say so now, as ever."""
    for sock in server._sockets or ():
        sock.listen(server._backlog)


def _shown(server: Any, begin: Begin) -> serving.Server | None:
    """Its record; None for one that is none of ours."""
    known: serving.Server | None = getattr(server, "_meshsup", None)
    if known is not None:
        return known
    try:
        places = places_of([sock.fileno() for sock in server.sockets])
        if not places:
            return None
        record = show("asyncio", places)
        server._meshsup = record
        _equip(record, server, begin)
    except Exception as error:  # noqa: BLE001 - a version that looks otherwise inside: it serves as ever
        cannot(f"asyncio: {type(error).__name__}: {error}")
        return None
    return record


def _equip(record: serving.Server, server: Any, begin: Begin) -> None:
    loop, factory, tls = server.get_loop(), server._protocol_factory, server._ssl_context
    record.go = lambda done: loop.call_soon_threadsafe(_go, server, begin, done)
    record.knock = lambda fd, answer: loop.call_soon_threadsafe(take, loop, factory, tls, fd, answer)
    retire_by_drain("for_asyncio", record, loop, server, factory)


def _go(server: Any, begin: Begin, done: Callable[[], None]) -> None:
    try:
        if server._sockets is not None:
            begin(server)
    except Exception as error:  # noqa: BLE001 - what a loop says that is about to close
        cannot(f"asyncio: {type(error).__name__}: {error}")
    finally:
        done()


def take(loop: Any, factory: Any, tls: Any, fd: int, answer: Callable[[str], None]) -> None:
    """Serves a connection that was not accepted. In the loop's thread; owns ``fd``."""
    import socket

    try:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        task = loop.create_task(_serve(loop, factory, tls, sock))
    except Exception as error:  # noqa: BLE001 - the supervisor is told, the program goes on
        answer(f"{type(error).__name__}: {error}")
        return
    _serving.add(task)
    task.add_done_callback(_serving.discard)
    answer("")


async def _serve(loop: Any, factory: Any, tls: Any, sock: Any) -> None:
    try:
        await loop.connect_accepted_socket(factory, sock, ssl=tls)
    except Exception:  # noqa: BLE001 - the other end sees it closed
        sock.close()
