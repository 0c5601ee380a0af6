"""Serving an app inside somebody else's loop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from mesh_supervisor.host.serve import Admit, listen, serve


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
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
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
            await asyncio.wait_for(task, 10)
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
