"""The supervisor's side: against our registry, against one without our extensions, against nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from mesh_supervisor.errors import Refused, RegistryError
from mesh_supervisor.registry.client import Announcement, Heard, RegistryClient
from mesh_supervisor.registry.records import Issued
from mesh_supervisor.spec import Capability
from tests.registry.bodies import agent, tool
from tests.registry.running import Running

Steps = Callable[[RegistryClient], Awaitable[None]]


def talk(url: str, steps: Steps, *, timeout: float = 10) -> None:
    async def session() -> None:
        async with RegistryClient(url, timeout=timeout) as client:
            await steps(client)

    asyncio.run(session())


def planner(generation: int = 1) -> Announcement:
    capabilities = [Capability("plan", "1.2.0", ("fast",), "Plans")]
    return Announcement(f"planner-{generation:04}", "planner", "me", generation, "127.0.0.1", 8101, capabilities)


def test_a_life_in_our_registry(registry: Running) -> None:
    async def steps(client: RegistryClient) -> None:
        assert (await client.health())["status"] == "healthy"
        await client.register(planner(1))
        await client.register(planner(2))
        (row, *_) = found = await client.agents(capability="plan")
        assert [one["id"] for one in found] == ["planner-0001", "planner-0002"]
        assert (row["agent_type"], row["endpoint"]) == ("service", "http://127.0.0.1:8101")
        assert await client.agents(capability="nothing") == []
        assert await client.heartbeat_head("planner-0001") is Heard.KNOWN
        assert await client.heartbeat_head("planner-0009") is Heard.UNKNOWN
        assert await client.lease("me", 30, ["planner-0002", "planner-0009"]) == (["planner-0002"], ["planner-0009"])
        assert await client.issue("me", [Issued("sdk-0001", "me", "sdk", 1)])
        registry.heartbeat(agent("sdk-0001", tool("c")))
        assert (await client.agents(agent="sdk-0001"))[0]["owner"] == "me"
        assert sorted(await client.forget_ghosts("me", ["planner-0002"])) == ["planner-0001", "sdk-0001"]
        for _ in range(2):
            await client.withdraw("planner-0002")
        assert await client.lease("me", 30, ["planner-0002"]) == ([], ["planner-0002"])

    talk(registry.url, steps)


def test_a_refusal_has_the_registrys_reason(registry: Running) -> None:
    async def steps(client: RegistryClient) -> None:
        with pytest.raises(Refused, match="400: agent_id: must be printable"):
            await client.register(Announcement("a/b", "a", "me", 1, "127.0.0.1", 1))

    talk(registry.url, steps)


def test_nobody_there() -> None:
    async def steps(client: RegistryClient) -> None:
        with pytest.raises(RegistryError, match=f"the registry at {client.url} does not answer"):
            await client.health()

    with socket.socket() as held:  # nobody else gets it, and nobody listens
        held.bind(("127.0.0.1", 0))
        talk(f"http://127.0.0.1:{held.getsockname()[1]}", steps)


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that lets ``answer`` write whatever it likes."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def respond(self) -> None:
            answer(self)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = respond

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any = None) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(raw)


def test_a_registry_without_our_extensions() -> None:
    asked: list[tuple[str, str]] = []

    def upstream(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.command, handler.path))
        rows = [{"id": "a", "capabilities": [{"name": "x"}]}, {"id": "b", "capabilities": []}]
        if handler.path.startswith("/owners"):
            reply(handler, 404, b"404 page not found")
        elif handler.command == "HEAD":
            reply(handler, {"/heartbeat/a": 200, "/heartbeat/b": 202}.get(handler.path, 410))
        elif handler.command == "DELETE":
            reply(handler, 204)
        else:
            reply(handler, 200, {"agents": rows})

    async def steps(client: RegistryClient) -> None:
        assert await client.lease("me", 30, ["a", "b", "c"]) == (["a", "b"], ["c"])
        assert await client.issue("me", [Issued("a", "me", "a", 1)]) is False
        assert await client.forget_ghosts("me", ["a"], ["a", "b", "c"]) == ["b", "c"]
        assert [one["id"] for one in await client.agents(capability="x")] == ["a"]
        assert [one["id"] for one in await client.agents(agent="b")] == ["b"]

    with answering(upstream) as url:
        talk(url, steps)
    assert sorted(path for method, path in asked if method == "DELETE") == ["/agents/b", "/agents/c"]
    assert len([path for _, path in asked if path.startswith("/owners")]) == 1, "asked only once"


@pytest.mark.parametrize(
    "body", [b"", b"<html>hello</html>", b"[]", b"5", b'{"agents": 5}', b'{"agents": [5]}', b"[" * 100_000]
)
def test_nonsense_is_one_sentence(body: bytes) -> None:
    async def steps(client: RegistryClient) -> None:
        with pytest.raises(RegistryError, match="is it a registry"):
            await client.agents()

    with answering(lambda handler: reply(handler, 200, body)) as url:
        talk(url, steps)


def test_an_error_page_is_shown_short_and_printable() -> None:
    async def steps(client: RegistryClient) -> None:
        with pytest.raises(RegistryError, match="GET /health with 500: oops") as caught:
            await client.health()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400

    with answering(lambda handler: reply(handler, 500, b"oops\x1b[31m\n" + b"x" * 10_000)) as url:
        talk(url, steps)


def test_a_refusal_with_200_as_upstream_has_it() -> None:
    async def steps(client: RegistryClient) -> None:
        with pytest.raises(Refused, match="refuses planner-0001: a cycle"):
            await client.register(planner())

    with answering(lambda handler: reply(handler, 200, {"status": "error", "message": "a cycle"})) as url:
        talk(url, steps)


def test_a_drip_does_not_hold_us() -> None:
    """Each byte comes in time, the answer never."""
    over = Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not over.wait(0.05):
                handler.wfile.write(b" ")
        except ConnectionError:
            over.set()

    async def steps(client: RegistryClient) -> None:
        with pytest.raises(RegistryError, match=r"did not answer within 0\.5 s"):
            await client.health()

    with answering(drip) as url:
        try:
            talk(url, steps, timeout=0.5)
        finally:
            over.set()
