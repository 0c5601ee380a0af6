"""The registry over HTTP: reads requests with suspicion, asks the Book, writes answers; and keeps the store current.

The API is MCP Mesh's (docs/registry.md has it, with our extensions and limits). All decisions are in book.py.

A web page must not be able to register a tool: requests for a foreign host (DNS rebinding), with an Origin, or whose
body is not declared as JSON are refused. Every refusal is a 4xx with a sentence in ``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mesh_supervisor import __version__
from mesh_supervisor.host.serve import serve
from mesh_supervisor.registry.book import LONGEST_ANSWER, Beat, Book, Changes, Full, NotYours, Saved, Seat
from mesh_supervisor.registry.records import BadRecord, Fields, Issued, Tool, read_json, read_record, unsupported
from mesh_supervisor.registry.store import Store, StoreError

LARGEST_BODY = 1024 * 1024
SLOWEST_BODY = 10.0
"""Seconds for a whole body to arrive."""
LONGEST_LEASE = 3600.0
GATHER = 0.05
"""Seconds that changes are gathered before they are written as one batch."""
RETRY = 2.0
"""Seconds until a failed write is tried again."""
AT_A_MOMENT = 256 * 1024
"""Characters of an answer that are made without letting anybody in between: a picture of one moment, in some 5 ms."""
PIECE = 64 * 1024
"""Characters that a longer answer goes on with at a time. Who does not read holds no more than that of it."""

_NOT_OFFERED = ("proxy", "jobs", "events", "schemas", "a2a", "ui", "trace", "traces")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


Guard = Callable[[ASGIApp], ASGIApp]


class Registry:
    """Book, store and clock together; one per process. ``say`` gets sentences for people."""

    def __init__(self, store: Store, *, book: Book | None = None, say: Callable[[str], None] | None = None) -> None:
        self.book = book or Book()
        self.store = store
        self.started = time.monotonic()
        self.store_trouble: str | None = None
        self._say = say or _print
        self._warned: set[str] = set()
        self._dirty = asyncio.Event()
        self._closing = asyncio.Event()

    # ---- state

    def load(self) -> None:
        """Take over what the store holds. Trouble with it is said, and the registry works from memory."""
        try:
            loaded = self.store.load()
        except StoreError as error:
            self._trouble(str(error))
            return
        for sentence in loaded.said:
            self._say(sentence)
        self.book.issued.update({issued.id: issued for issued in loaded.issued})
        now = time.monotonic()
        for saved in loaded.agents:
            self._restore(saved, now)

    def _restore(self, saved: Saved, now: float) -> None:
        try:
            record = read_record(read_json((saved.body or "").encode()))
        except BadRecord as error:
            self._say(f"the stored record of {saved.id} cannot be read and is dropped: {error}")
            self.book.changes.note(saved.id, None)
            return
        size = len(saved.body or "")
        seat = Seat(record, saved.created, saved.last_seen, saved.lease, now, saved.alive, saved.told, size)
        self.book.restore(seat, now)

    def changed(self) -> None:
        """To be called after every change of the book."""
        if self.book.changes:
            self._dirty.set()

    async def keep_store(self) -> None:
        """Write changes down as they gather, until ``close``."""
        while not self._closing.is_set():
            await self._dirty.wait()
            await self._pause(GATHER if self.store_trouble is None else RETRY)
            self._dirty.clear()
            await self.write_changes()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not over the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def write_changes(self) -> None:
        """One attempt; what could not be written stays to be written."""
        batch = self.book.changes.take()
        if not batch:
            return
        try:
            await asyncio.to_thread(self.store.save, batch)
        except StoreError as error:
            self._put_back(batch, str(error))
        else:
            if self.store_trouble is not None:
                self.store_trouble = None
                self._say("the store works again; everything is written down")

    def _put_back(self, batch: Changes, why: str) -> None:
        self.book.changes.put_back(batch)
        self._dirty.set()
        self._trouble(why)

    def _trouble(self, why: str) -> None:
        if why != self.store_trouble:
            self._say(f"cannot keep records on disk, working from memory: {why}")
        self.store_trouble = why

    async def keep_time(self) -> None:
        """Notice those who have fallen silent, for ever."""
        while True:
            await asyncio.sleep(1)
            for agent in self.book.expire(time.monotonic()):
                self._say(f"{agent} has not been heard of for {self.book.seats[agent].lease:.0f} s: unhealthy")
            self.changed()

    def warn_of(self, fields: Collection[str], agent: str) -> None:
        """Once per field and process: the agent is served, but this part of its wishes is not."""
        for name in sorted(fields):
            # Names come from outside: their number and length must not fill memory or log.
            if name in self._warned or len(self._warned) >= 100:
                continue
            self._warned.add(name)
            self._say(f"{agent} sends {name[:64]!a}, which this registry stores but does not act on")

    def _warn_of_length(self, agent: str, left_out: int) -> str:
        """Said once per agent; returns the sentence."""
        why = (
            f"{left_out} of its dependencies stay unresolved: what it would be told of their providers is longer than "
            f"{LONGEST_ANSWER // 1024} KiB"
        )
        if (key := f"length of {agent}") not in self._warned and len(self._warned) < 100:
            self._warned.add(key)
            self._say(f"{agent}: {why}")
        return why

    async def close(self, keeper: asyncio.Task[None]) -> None:
        """The last write, after the one that is under way (never cancelled: a thread is doing it).

        When the disk does not take it, agents register again after the next start.
        """
        self._closing.set()
        self._dirty.set()
        await keeper
        self.book.note_all()
        await self.write_changes()
        try:
            self.store.close()
        except StoreError as error:
            self._trouble(str(error))

    # ---- endpoints

    async def post_heartbeat(self, request: Request) -> Response:
        text = await read_body(request)
        body = read_json(text)
        record = read_record(body)
        new = self.book.post(record, text.decode(), time.monotonic(), time.time())
        self.changed()
        self.warn_of(unsupported(body), record.name)
        word = "registered" if new else "updated"
        message = f"Agent {word} via heartbeat"
        resolved = self.book.answer(record.id)
        if sum(map(len, resolved)) > LONGEST_ANSWER // 2 and (left_out := self.book.left_out(record.id)):
            message += f"; {self._warn_of_length(record.id, left_out)}"
        head = {"status": "success", "message": message, "agent_id": record.id, **_stamp()}
        start = f'{json.dumps(head)[:-1]}, "dependencies_resolved": '
        return _json_texts(iter([start, *resolved, ', "llm_tools": {}}']))

    async def head_heartbeat(self, request: Request) -> Response:
        beat = self.book.beat(request.path_params["agent_id"], time.monotonic(), time.time())
        return Response(status_code={Beat.SAME: 200, Beat.CHANGED: 202, Beat.GONE: 410}[beat])

    async def delete_agent(self, request: Request) -> Response:
        self.book.withdraw(request.path_params["agent_id"])
        self.changed()
        return Response(status_code=204)

    async def get_agents(self, request: Request) -> Response:
        wanted = {key: request.query_params.get(key) for key in ("capability", "id", "name", "owner", "status")}
        seats = [seat for seat in self.book.seats.values() if _fits(seat, wanted)]
        return _json_texts(self._listing(seats), request.is_disconnected)

    def _listing(self, seats: list[Seat]) -> Iterator[str]:
        """Bit by bit: ten thousand agents take half a second to describe, and heartbeats must not wait for that. Nor
        for forty who ask at once, each of whom would hold a whole row: one may have megabytes.

        The price: what happens meanwhile shows in the later rows, so one may name a provider that has no row.
        """
        yield f'{{"count": {len(seats)}, "timestamp": "{_now()}", "agents": ['
        for at, seat in enumerate(seats):
            if at:
                yield ", "
            yield from self._row(seat)
        yield "]}"

    def _row(self, seat: Seat) -> Iterator[str]:
        record = seat.record
        resolutions = list(self._resolutions(seat))
        short = {
            "id": record.id,
            "name": record.name,
            "agent_type": record.agent_type,
            "runtime": record.runtime,
            "version": record.version,
            "description": record.description,
            "namespace": record.namespace,
            "status": seat.status,
            "endpoint": record.endpoint,
            "created_at": _iso(seat.created),
            "last_seen": _iso(seat.last_seen),
            "a2a_producer": record.a2a_producer,
            "a2a_consumer": record.a2a_consumer,
            "total_dependencies": len(resolutions),
            "dependencies_resolved": sum(one["status"] == "available" for one in resolutions),
            "llm_tool_resolutions": None,
            "llm_provider_resolutions": None,
            "owner": record.owner,
            "generation": record.generation,
        }
        capabilities = (_capability_view(seat, tool) for tool in record.tools)
        return _object(short, capabilities=capabilities, dependency_resolutions=resolutions)

    def _resolutions(self, seat: Seat) -> Iterator[dict[str, Any]]:
        # For one that fell silent every dependency would have to be looked for: its wants are not kept current.
        told = self.book.told(seat) if seat.alive else ((function, slot, None) for function, slot in seat.slots)
        for function, slot, chosen in told:
            yield {
                "function_name": function,
                "capability": chosen.tool.capability if chosen else slot[0].capability,
                "mcp_tool": chosen.tool.function_name if chosen else "",
                "provider_agent_id": chosen.record.id if chosen else "",
                "endpoint": chosen.record.endpoint if chosen else "",
                "status": "available" if chosen else "unresolved",
                "tags": list(slot[0].tags),
            }

    async def get_health(self, request: Request) -> Response:
        return _json(
            {
                "status": "healthy",
                "service": "mcp-mesh-registry",
                "version": f"meshsup {__version__}",
                "uptime_seconds": int(time.monotonic() - self.started),
                "agents": len(self.book.seats),
                "store": self.store_trouble or "ok",
                **_stamp(),
            }
        )

    async def put_ids(self, request: Request) -> Response:
        owner = _owner(request)
        fields = Fields.of(read_json(await read_body(request)), "")
        issued = [
            Issued(one.name("id"), owner, one.required_text("name"), one.whole("generation", largest=2**53))
            for one in fields.objects("ids", self.book.most)
        ]
        self.book.issue(issued)
        self.changed()
        return _json({"issued": len(issued)})

    async def post_lease(self, request: Request) -> Response:
        owner = _owner(request)
        fields = Fields.of(read_json(await read_body(request)), "")
        ids = None
        if fields.values.get("ids") is not None:
            ids = [_id_text(one, at) for at, one in enumerate(fields.entries("ids", self.book.most))]
        known, unknown = self.book.lease(owner, _ttl(fields), ids, time.monotonic(), time.time())
        self.changed()
        return _json({"known": known, "unknown": unknown})

    async def delete_owner(self, request: Request) -> Response:
        keep = {one for value in request.query_params.getlist("keep") for one in value.split(",")}
        withdrawn = self.book.forget(_owner(request), keep)
        self.changed()
        return _json({"withdrawn": withdrawn})

    def app(self, guard: Guard) -> ASGIApp:
        """The ASGI app, behind ``guard``."""
        routes = [
            Route("/heartbeat", self.post_heartbeat, methods=["POST"]),
            Route("/heartbeat/{agent_id}", self.head_heartbeat, methods=["HEAD"]),
            Route("/agents", self.get_agents, methods=["GET"]),
            Route("/agents/{agent_id}", self.delete_agent, methods=["DELETE"]),
            Route("/health", self.get_health, methods=["GET"]),
            Route("/owners/{owner}", self.delete_owner, methods=["DELETE"]),
            Route("/owners/{owner}/ids", self.put_ids, methods=["PUT"]),
            Route("/owners/{owner}/lease", self.post_lease, methods=["POST"]),
            *(
                Route(f"/{name}{rest}", _refuse, methods=_METHODS)
                for name in _NOT_OFFERED
                for rest in ("", "/{_:path}")
            ),
        ]
        refusals: dict[Any, Any] = {
            HTTPException: _explain,
            BadRecord: lambda request, error: _refusal(400, str(error)),
            NotYours: lambda request, error: _refusal(409, str(error)),
            Full: lambda request, error: _refusal(429, str(error)),
            ClientDisconnect: lambda request, error: _refusal(
                400, "the connection was closed in the middle of the body"
            ),
        }
        return guard(Starlette(routes=routes, exception_handlers=refusals))


# ---- reading requests ------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """The body of a request that says it is JSON. 415, 413 above 1 MiB (counted, whatever was declared), 408."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException(415, "the body must be declared as JSON (Content-Type: application/json)")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > LARGEST_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise _too_large()
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {SLOWEST_BODY:.0f} s") from None
    return bytes(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than {LARGEST_BODY // 1024} KiB")


def _owner(request: Request) -> str:
    return Fields.of(request.path_params, "").name("owner")


def _id_text(value: Any, at: int) -> str:
    return Fields.of({f"ids[{at}]": value}, "").name(f"ids[{at}]")


def _ttl(fields: Fields) -> float:
    ttl = fields.values.get("ttl")
    if not isinstance(ttl, int | float) or isinstance(ttl, bool) or not 0 < ttl <= LONGEST_LEASE:
        raise BadRecord(f"ttl: must be a number of seconds, more than 0 and at most {LONGEST_LEASE:.0f}")
    return float(ttl)


def _fits(seat: Seat, wanted: dict[str, str | None]) -> bool:
    """The filters of GET /agents; those that are not given fit everybody."""
    record = seat.record
    facts = {"id": record.id, "name": record.name, "owner": record.owner, "status": seat.status}
    if any(wanted[key] not in (None, fact) for key, fact in facts.items()):
        return False
    capability = wanted["capability"]
    return capability is None or any(tool.capability == capability for tool in record.tools)


@dataclass(frozen=True, slots=True)
class HostGuard:
    """Refuses requests that a browser was tricked into: those for a host that is not us, and those of a web page.

    An IP address cannot be rebound by DNS, so on a public address (containers, port forwarding: one cannot know the
    address that clients use) every address is right; on loopback only loopback is. ``names`` (this machine's, and
    what was allowed) are right besides ``localhost``.
    """

    app: ASGIApp
    names: frozenset[str]
    loopback: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        refusal = self._objection(headers.get(b"host", b""), _of_a_page(headers))
        await (refusal or self.app)(scope, receive, send)

    def _objection(self, host: bytes, from_a_page: bool) -> Response | None:
        name = _host_name(host.decode("latin-1"))
        if not self._ours(name):
            return _refusal(421, f"this registry is not {name[:100]!a}; name it with --allow-host if it should be")
        return (
            _refusal(403, "web pages must not talk to the registry (the request has an Origin, or says it is of one)")
            if from_a_page
            else None
        )

    def _ours(self, name: str) -> bool:
        if name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


def _of_a_page(headers: Mapping[bytes, bytes]) -> bool:
    """Also a HEAD or GET in "no-cors" mode, which has no Origin: it could keep an agent alive that is none any more.
    Following a link is not what a page does but what a person does."""
    if b"origin" in headers:
        return True
    site, mode = headers.get(b"sec-fetch-site", b"none"), headers.get(b"sec-fetch-mode", b"")
    return site in (b"cross-site", b"same-site") and mode != b"navigate"


def _host_name(host: str) -> str:
    """``[::1]:8000`` → ``::1``, ``Localhost.:8000`` → ``localhost``."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")


# ---- writing answers -------------------------------------------------------------------------------------------------


def _json_text(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")


async def _never() -> bool:
    return False


def _json_texts(texts: Iterator[str], gone: Callable[[], Awaitable[bool]] = _never) -> Response:
    """JSON that comes in parts: at once when it is short, else in pieces between which others are served, until
    ``gone`` says that nobody reads them any more."""
    start = _joined(texts, AT_A_MOMENT)
    more = _joined(texts, PIECE)
    if not more:
        return _json_text(start)
    return StreamingResponse(_pieces(start, more, texts, gone), media_type="application/json")


async def _pieces(
    piece: str, more: str, texts: Iterator[str], gone: Callable[[], Awaitable[bool]]
) -> AsyncIterator[str]:
    while piece and not await gone():
        yield piece
        await asyncio.sleep(0)
        piece, more = more, _joined(texts, PIECE)


def _object(short: dict[str, Any], **long: Iterable[Any]) -> Iterator[str]:
    """One JSON object in parts: ``short``, and then arrays of which each item is a part."""
    yield json.dumps(short)[:-1]
    for key, items in long.items():
        yield f', "{key}": ['
        for at, item in enumerate(items):
            yield f"{', ' if at else ''}{json.dumps(item)}"
        yield "]"
    yield "}"


def _joined(texts: Iterator[str], least: int) -> str:
    """As many of the next texts as have ``least`` characters; '' when there are no more."""
    taken: list[str] = []
    length = 0
    for text in texts:
        taken.append(text)
        length += len(text)
        if length >= least:
            break
    return "".join(taken)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    # ASCII only: whatever texts agents sent, this can be encoded.
    return _json_text(json.dumps(body), status)


def _refusal(status: int, why: str, headers: Any = None) -> Response:
    response = _json({"error": why, **_stamp()}, status)
    response.headers.update(headers or {})
    return response


async def _refuse(request: Request) -> Response:
    """501: a part of MCP Mesh's API that is not here."""
    part = "/" + request.url.path.split("/")[1]
    return _refusal(501, f'{part} is not offered by this registry; registry.kind = "command" can run MCP Mesh\'s own')


def _explain(request: Request, error: HTTPException) -> Response:
    """Starlette's 404 and 405 say no more than their name."""
    reasons = {404: f"there is nothing at {request.url.path[:200]!a}", 405: f"{request.method} is not possible here"}
    return _refusal(error.status_code, reasons.get(error.status_code, error.detail), error.headers)


def _capability_view(seat: Seat, tool: Tool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "name": tool.capability,
        "function_name": tool.function_name,
        "version": tool.version,
        "tags": list(tool.tags),
        "description": tool.description,
        "available": seat.status == "healthy",
    }
    return {**view, "framework_internal": True} if tool.internal else view


def _iso(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _now() -> str:
    return _iso(time.time())


def _stamp() -> dict[str, str]:
    return {"timestamp": _now()}


def _print(sentence: str) -> None:
    """To stderr; a sentence with an agent's words in it must not carry control characters."""
    # Nobody reads any more, or the disk of the log is full: no reason to stop serving agents.
    with contextlib.suppress(OSError):
        print("".join(char if char.isprintable() else "?" for char in sentence), file=sys.stderr, flush=True)


# ---- the process -----------------------------------------------------------------------------------------------------


async def run(sock: socket.socket, store: Path | None, allowed: Collection[str], stop: asyncio.Event) -> None:
    """Be the registry on ``sock`` (listening) until ``stop``; the last changes are written before it returns. Raises
    what must not have happened: one that forgets nobody any more, or writes nothing down, is better started anew."""
    registry = Registry(Store(store))
    registry.load()
    address = ipaddress.ip_address(sock.getsockname()[0])
    names = frozenset(_host_name(name) for name in (*allowed, socket.gethostname()))
    app = registry.app(lambda inner: HostGuard(inner, names, address.is_loopback))
    keeper, clock = asyncio.create_task(registry.keep_store()), asyncio.create_task(registry.keep_time())
    for task in (keeper, clock):
        task.add_done_callback(lambda _: stop.set())
    try:
        await serve(app, sock, stop=stop)
    finally:
        clock.cancel()
        await registry.close(keeper)
        await asyncio.wait({clock})
    if not clock.cancelled():
        clock.result()
