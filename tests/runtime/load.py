"""A client that asks at a steady rate, never tries again, and counts what became of each request.

Open-loop: requests begin when they are due, however long the ones before take. Fresh: each has its own connection.
Kept: as pooled clients do it, an idle connection is used again unless the server is seen to have closed it, or has
announced that it will. The standard library only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import TracebackType

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

TIMEOUT = 30.0
"""Seconds for one request, connecting included."""


class Failed(Exception):
    """A request without a whole answer of status 200. Its text is the kind that is counted."""


class Load:
    """``async with Load(port, rate=100) as load``: asks from beginning to end; at the end it waits for what is open."""

    def __init__(self, port: int, *, rate: float = 100, kept: bool = False, path: str = "/") -> None:
        self.port, self.rate, self.kept, self.path = port, rate, kept, path
        self.answers: Counter[str] = Counter()
        """Bodies."""
        self.failures: Counter[str] = Counter()
        """Kinds: refused, reset, closed (without an answer), cut (in the middle), timeout, status 503, …"""
        self.latencies: list[float] = []
        """Seconds, of answered requests, connecting included."""
        self.connections = 0
        self._idle: list[Connection] = []
        self._open: set[asyncio.Task[None]] = set()
        self._answered = asyncio.Condition()

    @property
    def sent(self) -> int:
        return len(self.latencies) + self.failures.total() + len(self._open)

    async def __aenter__(self) -> Load:
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, trace: TracebackType | None) -> None:
        self._sending.cancel()
        await asyncio.wait([self._sending, *self._open])
        for _reader, writer in self._idle:
            writer.close()
        if kind is None and not self._sending.cancelled():
            self._sending.result()

    async def answered(self, body: str, times: int = 1) -> None:
        """Waits until that many more answers have been ``body``."""
        wanted = self.answers[body] + times
        async with self._answered:
            await self._answered.wait_for(lambda: self.answers[body] >= wanted)

    async def _send(self) -> None:
        began = time.monotonic()
        for number in range(10**9):
            await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))
            task = asyncio.create_task(self._ask())
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                body = await self._asked()
        except TimeoutError:
            self.failures["timeout"] += 1
        except Failed as failed:
            self.failures[str(failed)] += 1
        else:
            self.latencies.append(time.monotonic() - began)
            async with self._answered:
                self.answers[body] += 1
                self._answered.notify_all()

    async def _asked(self) -> str:
        connection = self._reused() or await self._connected()
        try:
            body, goes_on = await self._exchanged(connection)
        except BaseException:
            connection[1].transport.abort()
            raise
        if self.kept and goes_on:
            self._idle.append(connection)
        else:
            connection[1].close()
        return body

    def _reused(self) -> Connection | None:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and reader.exception() is None and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    async def _connected(self) -> Connection:
        self.connections += 1
        try:
            return await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            raise Failed(f"connect: {type(error).__name__}") from None

    async def _exchanged(self, connection: Connection) -> tuple[str, bool]:
        """The body, and whether the connection may be used again."""
        reader, writer = connection
        ending = "" if self.kept else "Connection: close\r\n"
        writer.write(f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{ending}\r\n".encode())
        head = b""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = parsed(head)
            body = await read_body(reader, headers)
        except asyncio.IncompleteReadError as error:
            raise Failed("cut" if head or error.partial else "closed") from None
        except ConnectionError as error:
            raise Failed("cut" if head else type(error).__name__) from None
        if status != 200:
            raise Failed(f"status {status}")
        return body.decode(), "close" not in headers.get("connection", "")


def parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        name = name.lower()
        headers[name] = ", ".join(filter(None, [headers.get(name), value.strip().lower()]))
    return int(first.split()[1]), headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
