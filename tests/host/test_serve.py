"""Serving an app inside somebody else's loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from mesh_supervisor.host.serve import HEAD_PATIENCE, Admit, listen, serve

PATIENCE = 20.0


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def served(admit: Admit | None = None) -> AsyncIterator[tuple[int, asyncio.Event, asyncio.Task[None]]]:
    sock, stop = listen("127.0.0.1", 0), asyncio.Event()
    port = sock.getsockname()[1]
    task = asyncio.create_task(serve(hello, sock, stop=stop, admit=admit))
    try:
        yield port, stop, task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def get(port: int) -> bytes:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().read()


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_it_answers_until_stop_and_closes_the_port() -> None:
    async def scene() -> None:
        async with served() as (port, stop, task):
            assert await asyncio.to_thread(get, port) == b"hello"
            stop.set()
            async with asyncio.timeout(PATIENCE):
                await task
            assert refused(port)

    asyncio.run(scene())


def test_cancelling_it_closes_the_port_as_well() -> None:
    async def scene() -> None:
        async with served() as (port, _, task):
            assert await asyncio.to_thread(get, port) == b"hello"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert refused(port)

    asyncio.run(scene())


def test_signal_handlers_are_left_alone() -> None:
    async def scene() -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        async with served() as (port, _, _):
            assert await asyncio.to_thread(get, port) == b"hello"
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    asyncio.run(scene())


def test_those_who_are_not_admitted_are_hung_up_on() -> None:
    seen: list[tuple[str, int]] = []

    def nobody(peer: socket.socket) -> bool:
        seen.append(peer.getpeername())
        return False

    async def scene() -> None:
        async with served(nobody) as (port, _, _):
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(get, port)

    asyncio.run(scene())
    assert len(seen) == 1


def test_a_taken_port_is_an_oserror_for_the_caller() -> None:
    with listen("127.0.0.1", 0) as sock, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", sock.getsockname()[1])


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Without a word; by a reset where something had come that was not read yet."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["nothing", "half a head"])
def test_who_does_not_ask_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr("mesh_supervisor.host.serve.HEAD_PATIENCE", 0.05)

    async def scene() -> None:
        async with served() as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            assert await hung_up(reader)
            writer.close()

    asyncio.run(scene())


def test_a_kept_connection_that_begins_another_request_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with served() as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"hello")
            monkeypatch.setattr("mesh_supervisor.host.serve.HEAD_PATIENCE", 0.05)
            writer.write(b"GET / HTTP/1.1\r\n")
            assert await hung_up(reader)
            writer.close()

    asyncio.run(scene())


def test_while_an_answer_is_made_nobody_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `restart` may take minutes."""
    patience: list[asyncio.TimerHandle] = []
    running: list[bool] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(delay: float, *words: Any) -> asyncio.TimerHandle:
            handle = call_later(delay, *words)
            patience.extend([handle] if delay == HEAD_PATIENCE else [])
            return handle

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            running.append(all(handle.cancelled() for handle in patience))
            await hello(scope, receive, send)

        monkeypatch.setattr(loop, "call_later", noted)
        sock, stop = listen("127.0.0.1", 0), asyncio.Event()
        task = asyncio.create_task(serve(slow, sock, stop=stop))
        assert await asyncio.to_thread(get, sock.getsockname()[1]) == b"hello"
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await task

    asyncio.run(scene())
    assert (len(patience), running) == (1, [True])


def test_used_up_descriptors_are_no_news(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """asyncio reports every attempt to accept with a traceback, thousands in a second; other mistakes are reported."""

    async def scene() -> None:
        async with served() as (port, _, _):
            assert await asyncio.to_thread(get, port) == b"hello"
            loop = asyncio.get_running_loop()
            full = {"message": "socket.accept() out of system resource", "socket": None}
            loop.call_exception_handler({**full, "exception": OSError(errno.EMFILE, "Too many open files")})
            loop.call_exception_handler({"message": "something else", "exception": OSError(errno.EMFILE, "x")})

    asyncio.run(scene())
    reported = [record.message.splitlines()[0] for record in caplog.records if record.name == "asyncio"]
    assert reported == ["something else"]
