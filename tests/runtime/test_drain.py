"""Generations of real servers under a load that never tries again: nothing is lost when one gives way to the next."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.runtime.drained import (
    AIOHTTP,
    ANSWER,
    ASGI,
    HTTP_SERVER,
    HYPERCORN,
    SERVERS,
    THREAD,
    UVICORN,
    Agent,
    awaited,
    ended,
    heard,
    line,
    retired,
)
from tests.runtime.load import Connection, Load, parsed, read_body

H11 = (UVICORN, "asyncio", "h11")
HTTPTOOLS = (UVICORN, "uvloop", "httptools")
STREAMING = {"uvicorn": H11, "httptools": HTTPTOOLS, "aiohttp": (AIOHTTP,), "hypercorn": (HYPERCORN, "asyncio")}
KEEPING = {**STREAMING, "http.server": (HTTP_SERVER,)}
"""Those that keep connections open between requests."""


async def ask(connection: Connection, path: str = "/", extra: str = "") -> None:
    connection[1].write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{extra}\r\n".encode())


async def answer(connection: Connection) -> tuple[str, dict[str, str]]:
    status, headers = parsed(await connection[0].readuntil(b"\r\n\r\n"))
    assert status == 200
    return (await read_body(connection[0], headers)).decode(), headers


@contextlib.asynccontextmanager
async def connected(agent: Agent) -> AsyncIterator[Connection]:
    connection = await asyncio.open_connection("127.0.0.1", agent.port)
    try:
        yield connection
    finally:
        connection[1].transport.abort()


@contextlib.asynccontextmanager
async def streaming(agent: Agent) -> AsyncIterator[Connection]:
    async with connected(agent) as connection:
        await ask(connection, "/stream")
        await connection[0].readuntil(b"data: more\n\n")
        yield connection


def drain(agent: Agent, patience: float = 20, *, close_idle: bool = False) -> None:
    agent.current.tell("drain", patience=patience, close_idle=close_idle)


async def left(agent: Agent) -> int:
    return int((await heard(agent.current, "drained"))["left"])


async def gives_way(agent: Agent) -> None:
    """It drains: a new connection waits in the queue, for the next generation, which accepts it."""
    await retired(agent)
    async with connected(agent) as waiting:
        await ask(waiting)
        old = agent.current
        await agent.start()
        body, _ = await answer(waiting)
        assert body == "1"
        assert old is not agent.current


# ---- under load ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
@awaited
async def test_no_request_is_lost(name: str, tmp_path: Path) -> None:
    async with (
        Agent(tmp_path, *SERVERS[name]) as agent,
        Load(agent.port, rate=60) as fresh,
        Load(agent.port, rate=60, kept=True) as kept,
    ):
        for number in range(1, 5):
            await asyncio.gather(fresh.answered(str(number - 1), 10), kept.answered(str(number - 1), 10))
            assert await agent.hand_over() == 0
        await asyncio.gather(fresh.answered("4", 10), kept.answered("4", 10))
    assert (dict(fresh.failures), dict(kept.failures)) == ({}, {})


@pytest.mark.parametrize("name", ["uvicorn, asyncio, h11", "aiohttp", "http.server"])
@awaited
async def test_answers_that_take_long_are_waited_for(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *SERVERS[name], work=0.2) as agent, Load(agent.port, rate=60) as load:
        for number in range(2):
            await load.answered(str(number), 5)
            assert await agent.hand_over() == 0
        await load.answered("2", 5)
    assert load.failures == {}
    assert agent.current.said("cannot") == []


# ---- one connection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEEPING)
@awaited
async def test_a_kept_connection_is_told_with_its_last_answer(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *KEEPING[name]) as agent, connected(agent) as kept:
        await ask(kept)
        assert "close" not in (await answer(kept))[1].get("connection", "")
        drain(agent)
        await gives_way(agent)  # so it drains by now
        await ask(kept)
        body, headers = await answer(kept)
        assert (body, headers["connection"]) == ("0", "close")
        assert await kept[0].read() == b""


@pytest.mark.parametrize("name", ["uvicorn", "httptools", "aiohttp", "http.server"])
@awaited
async def test_a_request_under_way_is_told_too(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *KEEPING[name]) as agent, connected(agent) as busy:
        old = agent.current
        await ask(busy, "/wait")
        assert await line(old) == "waiting"
        drain(agent)
        await gives_way(agent)
        assert old.said("drained") == []
        agent.end.touch()
        assert (await answer(busy))[1]["connection"] == "close"
        assert (await heard(old, "drained"))["left"] == 0


@pytest.mark.parametrize("name", KEEPING)
@awaited
async def test_idle_connections_are_closed_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *KEEPING[name]) as agent, connected(agent) as fresh, connected(agent) as kept:
        await ask(kept)  # who came before is accepted too when this is answered
        await answer(kept)
        drain(agent, close_idle=True)
        assert await left(agent) == 0
        assert await kept[0].read() == b""
        assert await fresh[0].read() == b""


@pytest.mark.parametrize("name", ["uvicorn", "httptools", "aiohttp", "hypercorn"])
@awaited
async def test_what_is_busy_is_not_closed_as_idle(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *STREAMING[name]) as agent, streaming(agent) as stream, connected(agent) as idle:
        await ask(idle)
        await answer(idle)
        drain(agent, close_idle=True)
        assert await idle[0].read() == b""
        agent.end.touch()
        assert b"data: end\n\n" in await stream[0].read()
        assert await left(agent) == 0


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMING)
@awaited
async def test_a_stream_ends_as_it_likes_while_the_next_one_serves(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *STREAMING[name]) as agent, streaming(agent) as stream:
        old = agent.current
        drain(agent)
        await gives_way(agent)
        await stream[0].readuntil(b"data: more\n\n")
        assert old.said("drained") == []
        agent.end.touch()
        assert b"data: end\n\n" in await stream[0].read()
        assert (await heard(old, "drained"))["left"] == 0
        assert await ended(old) in {0, -signal.SIGTERM}


@pytest.mark.parametrize("name", STREAMING)
@awaited
async def test_a_stream_without_end_does_not_hold_the_exit_up(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *STREAMING[name]) as agent, streaming(agent):
        drain(agent, 0.3)
        assert await left(agent) == 1
        assert await ended(agent.current) in {0, -signal.SIGTERM}


@pytest.mark.parametrize("name", ["uvicorn", "httptools", "aiohttp"])
@awaited
async def test_a_websocket_goes_on(name: str, tmp_path: Path) -> None:
    from websockets.asyncio.client import connect

    async with Agent(tmp_path, *STREAMING[name]) as agent, connect(f"ws://127.0.0.1:{agent.port}/ws") as websocket:
        old = agent.current
        drain(agent)
        await gives_way(agent)
        await websocket.send("hello")
        assert await websocket.recv() == "echo hello"
        await websocket.close()
        assert (await heard(old, "drained"))["left"] == 0


@pytest.mark.parametrize("name", ["uvicorn", "httptools", "aiohttp"])
@awaited
async def test_a_connection_may_still_become_a_websocket(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *STREAMING[name]) as agent, connected(agent) as connection:
        await ask(connection)  # so it is accepted
        await answer(connection)
        drain(agent)
        await gives_way(agent)
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        await ask(connection, "/ws", key + "dGhlIHNhbXBsZSBub25jZQ==\r\n")
        status, headers = parsed(await connection[0].readuntil(b"\r\n\r\n"))
        assert (status, headers["connection"].split(",")[0]) == (101, "upgrade")


# ---- what is beside the connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uvicorn", "httptools"])
@awaited
async def test_a_task_of_an_answered_request_is_waited_for(name: str, tmp_path: Path) -> None:
    async with Agent(tmp_path, *STREAMING[name]) as agent, connected(agent) as connection:
        await ask(connection, "/task", "Connection: close\r\n")
        assert (await answer(connection))[0] == "0"
        assert await line(agent.current) == "answered"
        drain(agent)
        old = agent.current
        await gives_way(agent)
        assert old.said("drained") == []
        agent.end.touch()
        assert (await heard(old, "drained"))["left"] == 0
        assert await line(old) == "task done"


@awaited
async def test_a_private_connection_holds_no_drain(tmp_path: Path) -> None:
    import socket

    async with Agent(tmp_path, *H11) as agent:
        with socket.create_server(("127.0.0.1", 0)) as knocking:
            ours = socket.create_connection(knocking.getsockname())
            theirs, _ = knocking.accept()
            with theirs:
                agent.current.tell("knock", [theirs.fileno()], id=1, number=0)
        private = await asyncio.open_connection(sock=ours)
        assert (await heard(agent.current, "knocked"))["ok"]
        await ask(private)
        assert (await answer(private))[0] == "0"
        drain(agent)
        assert await left(agent) == 0
        private[1].transport.abort()


@awaited
async def test_forked_children_finish_their_answers(tmp_path: Path) -> None:
    source = HTTP_SERVER.replace("BaseHTTPRequestHandler, Threading", "BaseHTTPRequestHandler, HTTPServer as ")
    source = source.replace("import os, time", "import os, time, socketserver").replace(
        "ThreadingHTTPServer((", "type('Forking', (socketserver.ForkingMixIn, HTTPServer), {})(("
    )
    async with Agent(tmp_path, source.replace("HTTPServer as HTTPServer", "HTTPServer")) as agent:
        async with connected(agent) as busy:
            old = agent.current
            await ask(busy, "/wait")
            assert await line(old) == "waiting"
            drain(agent)
            await gives_way(agent)
            assert old.said("drained") == []
            agent.end.touch()
            assert (await answer(busy))[0] == "0"
        assert (await heard(old, "drained"))["left"] == 0


# ---- the end ---------------------------------------------------------------------------------------------------------


@awaited
async def test_the_program_says_goodbye_after_a_drain(tmp_path: Path) -> None:
    async with Agent(tmp_path, *H11) as agent:
        drain(agent)
        assert await left(agent) == 0
        assert await ended(agent.current) == -signal.SIGTERM
        assert await line(agent.current) == "bye"


@awaited
async def test_without_patience_the_answer_comes_at_once_and_the_request_is_still_answered(tmp_path: Path) -> None:
    async with Agent(tmp_path, *H11) as agent, connected(agent) as busy:
        await ask(busy, "/wait")
        assert await line(agent.current) == "waiting"
        drain(agent, 0)
        assert await left(agent) == 1
        agent.current.signal(signal.SIGTERM)
        agent.end.touch()
        assert (await answer(busy))[0] == "0"
        assert await asyncio.to_thread(agent.current.wait) == -signal.SIGTERM


@awaited
async def test_a_second_order_makes_the_first_one_stricter(tmp_path: Path) -> None:
    async with Agent(tmp_path, *H11) as agent, streaming(agent):
        drain(agent, 1000)
        drain(agent, 0.1)
        assert await left(agent) == 1
        drain(agent, 0)  # and one that comes later is answered too
        assert await left(agent) == 1


@awaited
async def test_a_loop_that_is_blocked_does_not_hold_the_answer(tmp_path: Path) -> None:
    source = ASGI.replace("    if scope", "    if scope.get('path') == '/block':\n        block()\n    if scope", 1) + (
        "import time, uvicorn\n"
        "def block():\n    print('blocking', flush=True)\n    time.sleep(1000)\n"
        "uvicorn.run(app, port=PORT, log_level='warning')"
    )
    async with Agent(tmp_path, source) as agent, connected(agent) as connection:
        await ask(connection, "/block")
        assert await line(agent.current) == "blocking"
        drain(agent, 0.2)
        assert await left(agent) == 1
        await gives_way(agent)


@awaited
async def test_uvicorn_goes_on_with_what_it_does_by_the_clock(tmp_path: Path) -> None:
    source = UVICORN.replace('log_level="warning"', 'log_level="warning", limit_max_requests=2')
    async with Agent(tmp_path, source, "asyncio", "h11") as agent:
        for _ in range(2):
            async with connected(agent) as connection:
                await ask(connection)
                await answer(connection)
        assert await line(agent.current) == "bye"
        assert await asyncio.to_thread(agent.current.wait) == 0


# ---- MCP -------------------------------------------------------------------------------------------------------------

MCP = """
import os
from mcp.server.fastmcp import FastMCP
server = FastMCP("adder", host="127.0.0.1", port=int(os.environ["PORT"]), log_level="WARNING")
@server.tool()
def add(a: int, b: int) -> int:
    return a + b
server.run("streamable-http")
"""
INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},'
    '"clientInfo":{"name":"test","version":"1"}}}'
)


@awaited
async def test_an_mcp_session_that_listens_does_not_hold_the_exit_up(tmp_path: Path) -> None:
    accept = "Accept: application/json, text/event-stream\r\n"
    async with Agent(tmp_path, MCP) as agent, connected(agent) as first, connected(agent) as listening:
        first[1].write(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{agent.port}\r\n{accept}Content-Type: application/json\r\n"
            f"Content-Length: {len(INITIALIZE)}\r\n\r\n{INITIALIZE}".encode()
        )
        session = (await answer(first))[1]["mcp-session-id"]
        listening[1].write(
            f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:{agent.port}\r\n{accept}Mcp-Session-Id: {session}\r\n\r\n".encode()
        )
        status, headers = parsed(await listening[0].readuntil(b"\r\n\r\n"))
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        drain(agent, close_idle=True)
        assert await first[0].read() == b""
        drain(agent, 0.5, close_idle=True)
        assert await left(agent) == 1
        assert await ended(agent.current) == -signal.SIGTERM


# ---- unusual programs ------------------------------------------------------------------------------------------------


@awaited
async def test_a_drain_before_any_server(tmp_path: Path) -> None:
    source = ASGI + (
        "import time, uvicorn\n"
        "print('begins', flush=True)\n"
        "while not os.path.exists(END):\n    time.sleep(0.01)\n"
        "uvicorn.run(app, port=PORT, log_level='warning')\n"
    )
    agent = Agent(tmp_path, source)
    try:
        first = await agent.start(serves=False)
        assert await line(first) == "begins"
        drain(agent)
        # Its link listens only from its first socket on.
        agent.end.touch()
        assert await left(agent) == 0
        await gives_way(agent)
    finally:
        agent.close()


@awaited
async def test_two_servers_of_one_process_one_of_them_in_a_thread(tmp_path: Path) -> None:
    source = THREAD[: THREAD.rindex("while True:")] + (
        "async def both():\n"
        "    other = uvicorn.Server(uvicorn.Config(app, port=0, log_level='warning'))\n"
        "    serving = asyncio.create_task(other.serve())\n"
        "    while not other.started:\n        await asyncio.sleep(0.01)\n"
        "    print(other.servers[0].sockets[0].getsockname()[1], flush=True)\n"
        "    await serving\n"
        "asyncio.run(both())\n"
    )
    async with Agent(tmp_path, source) as agent, streaming(agent):
        port = int(await line(agent.current))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await ask((reader, writer), "/stream")
        await reader.readuntil(b"data: more\n\n")
        drain(agent, 0.3)
        assert await left(agent) == 2
        writer.transport.abort()


@awaited
async def test_a_program_that_closes_its_server_while_it_drains(tmp_path: Path) -> None:
    source = ANSWER + (
        "import asyncio\n"
        "async def serve(reader, writer):\n"
        "    await reader.readuntil(b'\\r\\n\\r\\n')\n"
        "    server.close()\n"
        "    print('closed', flush=True)\n"
        "    while not os.path.exists(os.environ['END']):\n        await asyncio.sleep(0.02)\n"
        "    writer.write(ANSWER)\n"
        "    writer.close()\n"
        "async def main():\n"
        "    global server\n"
        "    server = await asyncio.start_server(serve, *ADDRESS)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    async with Agent(tmp_path, source) as agent, connected(agent) as first:
        old = agent.current
        drain_after = asyncio.create_task(line(old))
        await ask(first)
        assert await drain_after == "closed"
        drain(agent)
        await answers_first(agent, first)
        assert (await heard(old, "drained"))["left"] == 0
        assert old.said("closed") == []


async def answers_first(agent: Agent, connection: Connection) -> None:
    agent.end.touch()
    assert (await answer(connection))[0] == "0"


@awaited
async def test_connections_of_workers_cannot_be_drained(tmp_path: Path) -> None:
    source = ANSWER + (
        "import socket, time\n"
        "listener = socket.socket()\n"
        "listener.bind(ADDRESS)\n"
        "listener.listen(5)\n"
        "if os.fork() == 0:\n"
        "    while True:\n        listener.accept()\n"
        "print('forked', flush=True)\n"
        "time.sleep(1000)\n"
    )
    agent = Agent(tmp_path, source)
    try:
        guest = await agent.start(serves=False)
        assert await line(guest) == "forked"
        drain(agent)
        assert await left(agent) == 0
        assert [packet["what"] for packet in guest.said("cannot")] == ["gate", "drain"]
    finally:
        agent.close()
