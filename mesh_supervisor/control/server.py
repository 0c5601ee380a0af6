"""The control socket: one small HTTP app, for the command line and whatever else looks at a running mesh.

    GET  /health                     {"ok": true}
    GET  /snapshot                   messages.Snapshot
    GET  /brief                      brief.Brief: for who asks every few seconds
    POST /commands/VERB              a JSON object with the verb's arguments → messages.Answer
    GET  /events                     what happens from now on, one JSON object per line, until the mesh is down
    GET  /logs?agent=A&agent=B&lines=N&follow=1
                                     the last N lines, then (follow) what comes, one JSON object per line

Only this user and root get an answer: the socket is 0600, and the peer's credentials are asked for as well, because a
short path elsewhere may be in a directory that others can enter. What is refused gets a 4xx with a reason:
``{"error": "…"}``. Names from clients are handed on to be looked up, never used as paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.messages import VERBS, Answer, Snapshot
from mesh_supervisor.errors import AlreadyRunning, MeshError
from mesh_supervisor.events import iso_time
from mesh_supervisor.host import serve as host
from mesh_supervisor.host.peer import peer_of
from mesh_supervisor.locate import BEING_MADE, control_socket, socket_elsewhere, socket_inside

if TYPE_CHECKING:
    from mesh_supervisor.events import Event
    from mesh_supervisor.host.lines import Line

BODY_LIMIT = 1024 * 1024

GRACE = 0.5
"""Seconds, when the mesh is down, for streams to be read to their end. Who has stopped reading (Ctrl-S) must not hold
up a container: stop_timeout takes 8 of the 10 s of `docker stop`, and a console that is stuck takes half of one."""

LISTS = ("agents", "paths", "profiles")
"""Arguments that are lists of strings, whatever the verb."""

Item = TypeVar("Item")


class Json(JSONResponse):
    """In ASCII: the name of a file may hold bytes that are no text, and they come back as they went out."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


class Controlled(Protocol):
    """What the control socket shows and moves: the supervisor."""

    def snapshot(self) -> Snapshot: ...

    def brief(self) -> Brief: ...

    async def command(self, verb: str, arguments: Mapping[str, Any]) -> Answer: ...

    def follow_events(self) -> AsyncIterator[Event]: ...

    def follow_logs(self, agents: Collection[str], lines: int) -> AsyncIterator[Line]:
        """The last ``lines`` lines of these agents (none named: all), then what comes."""
        ...

    def recent_logs(self, agents: Collection[str], lines: int) -> Sequence[Line]:
        """The last ``lines`` lines of these agents, oldest first."""
        ...


# ---- the socket --------------------------------------------------------------------------------------------------


class NoSocket(MeshError):
    """There can be no socket at that path; ``reason`` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot listen there: {reason}")
        self.reason = reason


def listen_for(state_dir: Path) -> tuple[socket.socket, Path, str]:
    """The control socket of ``state_dir``, where it is, and why it is not inside ("" when it is, or would have too long
    a path, which is nobody's concern). Raises AlreadyRunning, ConfigError, MeshError.

    Network file systems, and folders that a virtual machine shares with its host, often have no sockets.
    """
    inside = socket_inside(state_dir)
    if inside is None:
        return listen(control_socket(state_dir)), control_socket(state_dir), ""
    try:
        return listen(inside), inside, ""
    except NoSocket as error:
        elsewhere = socket_elsewhere(state_dir)
        return listen(elsewhere), elsewhere, error.reason


def listen(path: Path) -> socket.socket:
    """A listening Unix socket at ``path``, 0600, in place of a stale one. Raises AlreadyRunning, NoSocket, MeshError.

    It is made under another name and moved into place: nobody ever meets it with wider permissions, or not listening.
    """
    refuse_if_taken(path)
    temporary = path.with_name(path.name + BEING_MADE)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(128)
        listener.setblocking(False)
        if not _answers(temporary):  # a name for it can be made there, and that is all
            raise OSError(errno.EOPNOTSUPP, "what listens there cannot be reached")
        listener.accept()[0].close()  # that was us
        temporary.replace(path)
    except (OSError, MeshError) as error:
        listener.close()
        for left in (temporary, path):
            with contextlib.suppress(OSError):
                left.unlink()
        reason = error.strerror if isinstance(error, OSError) else None
        raise NoSocket(path, reason or str(error)) from error
    return listener


def refuse_if_taken(path: Path) -> None:
    """Nothing, when ``path`` is free or a socket that its owner left behind. Raises AlreadyRunning, MeshError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise MeshError(f"{path}: is in the way of the control socket and is no socket; move it away")
    if _answers(path):
        raise AlreadyRunning(f"this mesh is already running (it answers at {path}); see `meshsup ps`")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except (BlockingIOError, TimeoutError):
            return True  # a full queue: somebody listens and is busy
        except OSError as error:
            raise MeshError(f"{path}: cannot be asked who owns it: {error.strerror or error}") from error
    return True


def withdraw(path: Path, listener_inode: int | None = None) -> None:
    """Remove the socket's file, unless (``listener_inode`` given) it is another one by now."""
    with contextlib.suppress(FileNotFoundError):
        if listener_inode is None or path.lstat().st_ino == listener_inode:
            path.unlink()


def may_talk(connection: socket.socket) -> bool:
    """Whether the other end is this user or root."""
    peer = peer_of(connection)
    return peer is None or peer.uid in (0, os.geteuid())  # None: the permissions of the file have to do


async def serve(controlled: Controlled, listener: socket.socket, *, stop: asyncio.Event) -> None:
    """Answer until ``stop`` is set; requests that are under way (``down`` itself) are finished. Closes ``listener``."""
    await host.serve(application(controlled, stop), listener, stop=stop, grace=GRACE, admit=may_talk)


# ---- the app -----------------------------------------------------------------------------------------------------


def application(controlled: Controlled, stop: asyncio.Event) -> Starlette:
    """The ASGI app. Streams end when ``stop`` is set, so that a follower never holds up the end of the mesh."""

    async def health(request: Request) -> Json:
        return Json({"ok": True})

    async def snapshot(request: Request) -> Json:
        return Json(controlled.snapshot().to_json())

    async def brief(request: Request) -> Json:
        return Json(controlled.brief().to_json())

    async def command(request: Request) -> Json:
        verb = request.path_params["verb"]
        if verb not in VERBS:
            raise HTTPException(404, f"no command is called '{verb}'")
        arguments = await _arguments(request)
        if verb == "hold":
            arguments["pid"] = request.state.peer  # who asks, as the kernel says it
        return Json((await _answer(controlled, verb, arguments)).to_json())

    async def events(request: Request) -> StreamingResponse:
        return _lines(stop, controlled.follow_events(), lambda event: event.to_json())

    async def logs(request: Request) -> StreamingResponse:
        agents, lines = request.query_params.getlist("agent"), _count(request.query_params.get("lines", "100"))
        if request.query_params.get("follow", "1") == "1":
            return _lines(stop, controlled.follow_logs(agents, lines), line_json)
        return _lines(stop, _each(controlled.recent_logs(agents, lines)), line_json)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/snapshot", snapshot),
            Route("/brief", brief),
            Route("/commands/{verb}", command, methods=["POST"]),
            Route("/events", events),
            Route("/logs", logs),
        ],
        exception_handlers={HTTPException: _refused, MeshError: _failed},
    )


async def _answer(controlled: Controlled, verb: str, arguments: Mapping[str, Any]) -> Answer:
    try:
        return await controlled.command(verb, arguments)
    except MeshError as error:
        return Answer(ok=False, error=str(error), exit_code=error.exit_code)


async def _arguments(request: Request) -> dict[str, Any]:
    """The body as an object; an empty body is an empty object. Raises HTTPException 400, 413."""
    try:
        arguments = json.loads(await _body(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise HTTPException(400, "the body must be a JSON object")
    for key in LISTS:
        _check_strings(key, arguments.get(key, []))
    return arguments


async def _body(request: Request) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > BODY_LIMIT:
            raise HTTPException(413, f"the body is larger than {BODY_LIMIT} bytes")
    return bytes(received)


def _check_strings(key: str, value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise HTTPException(400, f"'{key}' must be a list of strings")
    if any("\0" in each for each in value):
        raise HTTPException(400, f"'{key}' has a NUL character, which no name and no path can hold")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPException(400, f"lines={text!r} is no number of lines")
    return int(text)


def _refused(request: Request, error: Exception) -> Json:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, status_code=error.status_code, headers=error.headers)


def _failed(request: Request, error: Exception) -> Json:
    """A MeshError of a stream or a snapshot: the client raises it again with its exit code."""
    assert isinstance(error, MeshError)
    return Json({"error": str(error), "exit_code": error.exit_code}, status_code=409)


# ---- streams -----------------------------------------------------------------------------------------------------


def line_json(line: Line) -> dict[str, Any]:
    """{"at", "agent", "generation", "text"}, and "styled" for a line that its program coloured."""
    shape = {"at": iso_time(line.at), "agent": line.agent, "generation": line.generation, "text": line.text}
    return {**shape, "styled": line.styled} if line.styled else shape


def _lines(
    stop: asyncio.Event, items: AsyncIterator[Item], encode: Callable[[Item], Mapping[str, Any]]
) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        async with contextlib.aclosing(_until(stop, items)) as wanted:
            async for item in wanted:
                yield json.dumps(encode(item), ensure_ascii=False).encode("utf-8", "replace") + b"\n"

    return StreamingResponse(body(), media_type="application/x-ndjson")


async def _each(items: Sequence[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


async def _until(stop: asyncio.Event, items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """``items``, until they end or ``stop`` is set and nothing more is ready."""
    ending = asyncio.ensure_future(stop.wait())
    coming: asyncio.Future[Item] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(_next(items))
            await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            yield coming.result()
    except _Ended:
        return
    finally:
        await _cancelled(ending, coming)
        await _closed(items)


async def _closed(items: AsyncIterator[Any]) -> None:
    """Tell the source that nobody listens any more: a generator, or a subscription with a ``close``."""
    if isinstance(items, AsyncGenerator):
        await items.aclose()
    elif callable(close := getattr(items, "close", None)):
        close()


class _Ended(Exception):
    """StopAsyncIteration, which no future can carry."""


async def _next(items: AsyncIterator[Item]) -> Item:
    try:
        return await anext(items)
    except StopAsyncIteration:
        raise _Ended from None


async def _cancelled(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel what is still under way and wait until it is over: nobody may be left inside ``items``."""
    open_ones = [task for task in tasks if task is not None and not task.done()]
    for task in open_ones:
        task.cancel()
    if open_ones:
        await asyncio.wait(open_ones)
