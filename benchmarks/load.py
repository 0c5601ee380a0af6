"""Requests at a steady rate, whatever becomes of them, by a client that never tries again; and what became of each.

The client is a process of its own (``python -m benchmarks.load``), so that whoever measures does not hold up its clock.
Open loop: request n is due at ``start + n / rate``, and its latency counts from then, so that a server which stands
still cannot slow the client down. (``most`` leaves out those that would be more than so many at once: for tests, which
ask whether a request is lost, also on a machine that cannot answer so many a second.) Every other request goes over a
kept connection of a pool, as HTTP libraries do it: a connection that the server has closed is not used again,
``Connection: close`` is obeyed, nothing else is forgiven.

One JSON line per request on stdout: see Request. ``Load`` starts such a client (this one or another one that writes
such lines) and reads what it says; times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

FRESH, KEPT = "fresh", "keep-alive"
POOL = 10
"""Kept connections."""

PATIENCE = 10.0
"""Seconds after which an answer has not come."""


# ---- what became of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """``kind``: fresh or keep-alive; ``at``: when it was due; ``seconds`` from then to the end of the answer;
    ``failure``: "" or refused, reset, cut (closed without an answer), timeout, "status 500", wrong; ``said``: the body,
    or how it failed in more words."""

    kind: str
    at: float
    seconds: float
    failure: str
    said: str


Span = tuple[float, float]


def failures(requests: Iterable[Request]) -> Counter[str]:
    """{"fresh refused": 3, …}"""
    return Counter(f"{request.kind} {request.failure}" for request in requests if request.failure)


def within(requests: Iterable[Request], spans: Sequence[Span]) -> tuple[list[Request], list[Request]]:
    """Those that were due in one of the spans, and the others."""
    inside: list[Request] = []
    outside: list[Request] = []
    for request in requests:
        (inside if any(start <= request.at <= end for start, end in spans) else outside).append(request)
    return inside, outside


def quantile(requests: Sequence[Request], share: float) -> float:
    """Seconds that ``share`` of the requests stay below (the nearest rank); nan of none. A failed one counts too."""
    ranked = sorted(request.seconds for request in requests)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan


# ---- the client, as its own process --------------------------------------------------------------------------------


class Load:
    """``with Load(http_load(port)) as load:`` … ``load.stop()`` gives all requests, after the last answer."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="load-", suffix=".jsonl")  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._file, env=environ, cwd=Path(__file__).parents[1]
        )
        self._said = Path(self._file.name).open("rb")  # noqa: SIM115  # closed in __exit__
        self._requests: list[Request] = []

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._said.close()
        self._file.close()

    def so_far(self) -> list[Request]:
        """The requests that have ended by now, in the order of their ends."""
        while (line := self._said.readline()).endswith(b"\n"):
            self._requests.append(Request(**json.loads(line)))
        self._said.seek(-len(line), os.SEEK_CUR)  # half a line: later
        return list(self._requests)

    def stop(self) -> list[Request]:
        """No further request; all of them, by the time at which they were due. CalledProcessError if it broke."""
        assert self._process.stdin
        self._process.stdin.close()
        if code := self._process.wait(PATIENCE + 10):
            raise subprocess.CalledProcessError(code, "load")
        return sorted(self.so_far(), key=lambda request: request.at)


def http_load(
    port: int,
    path: str = "/",
    *,
    rate: float = 100,
    kinds: Sequence[str] = (FRESH, KEPT),
    body: str | None = None,
    expect: str = "",
    most: int | None = None,
) -> list[str]:
    """The command of a client that GETs (with ``body``: POSTs JSON); an answer without ``expect`` in it is wrong."""
    words = [sys.executable, "-m", "benchmarks.load", str(port), "--path", path, "--rate", str(rate), "--kinds", *kinds]
    return [*words, "--expect", expect, *([] if body is None else ["--body", body]), *at_most(most)]


def at_most(most: int | None) -> list[str]:
    return [] if most is None else ["--most", str(most)]


# ---- inside that process -------------------------------------------------------------------------------------------


class Cut(Exception):
    """The server closed the connection without a complete answer."""


class Line(asyncio.Protocol):
    """One connection: one question at a time, of whose answer the status and the body are returned."""

    def __init__(self) -> None:
        self.closed = False
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answer and not self._answer.done() and (whole := complete(self._received, ended=False)):
            self.closed = self.closed or whole.closes
            self._answer.set_result((whole.status, whole.body))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer and not self._answer.done():
            if whole := complete(self._received, ended=True):
                self._answer.set_result((whole.status, whole.body))
            else:
                self._answer.set_exception(error or Cut("closed without an answer"))

    async def ask(self, question: bytes) -> tuple[int, bytes]:
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            raise Cut("closed before the question")
        self.transport.write(question)
        return await self._answer


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete answer. ``closes``: the connection is not to be used again."""

    status: int
    body: bytes
    closes: bool


def complete(received: bytes, *, ended: bool) -> Whole | None:
    """The answer if all of it is there; ``ended``: nothing follows, so that one without a length is complete."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *fields = head.decode("latin-1").lower().split("\r\n")
    headers = {name.strip(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    closes = headers.get("connection") == "close" or not first.startswith("http/1.1")
    status = int(first.split()[1])
    if "chunked" in headers.get("transfer-encoding", ""):
        return Whole(status, body, closes) if body.endswith(b"0\r\n\r\n") else None
    if "content-length" in headers:
        length = int(headers["content-length"])
        return Whole(status, body[:length], closes) if len(body) >= length else None
    return Whole(status, body, closes=True) if ended else None


class Client:
    """Asks as it is told, and tells every outcome to ``tell``."""

    def __init__(self, port: int, questions: Mapping[str, bytes], expect: str, tell: Callable[[Request], None]) -> None:
        self.port, self.questions, self.expect, self.tell = port, questions, expect, tell
        self.idle: list[Line] = []

    async def ask(self, kind: str, at: float) -> None:
        failure, said = "", ""
        try:
            async with asyncio.timeout(PATIENCE):
                failure, said = self._judged(*await self._answer(kind))
        except (OSError, Cut, ValueError, IndexError) as error:  # the last two: what came is no HTTP
            failure, said = failure_of(error), f"{type(error).__name__}: {error}"
        self.tell(Request(kind, at, time.monotonic() - at, failure, said[:200]))

    def _judged(self, status: int, body: bytes) -> tuple[str, str]:
        text = body.decode(errors="replace")
        if not 200 <= status < 300:
            return f"status {status}", text
        return ("" if self.expect in text else "wrong"), text

    async def _answer(self, kind: str) -> tuple[int, bytes]:
        line = self._kept() if kind == KEPT else None
        if line is None:
            _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", self.port)
        answered = False
        try:
            answer = await line.ask(self.questions[kind])
            answered = True
        finally:
            if answered and kind == KEPT and not line.closed:
                self.idle.append(line)
            else:
                line.transport.close()
        return answer

    def _kept(self) -> Line | None:
        """The connection that has waited longest; so all of the pool stay in use."""
        while self.idle:
            line = self.idle.pop(0)
            if not line.closed:
                return line
        return None


def failure_of(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case Cut():
            return "cut"
        case OSError():
            return "no connection"
    return "no HTTP"


def question(method: str, path: str, body: bytes, kind: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if kind == FRESH:
        lines.append("Connection: close")
    if method == "POST":
        lines += ["Content-Type: application/json", "Accept: application/json, text/event-stream"]
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


Asking = Callable[[str, float], Coroutine[Any, Any, None]]
"""Makes one request of this kind, due at that time, and tells what became of it."""


async def fire(ask: Asking, rate: float, kinds: Sequence[str], *, most: int | None, pool: int = POOL) -> None:
    """A request every ``1 / rate`` seconds, of each kind in turn, until stdin ends; then the last answers. None while
    ``most`` are unanswered.

    The pool is filled first, so that there is one at the first reload too."""
    ended, turns = asyncio.Event(), itertools.cycle(kinds)
    await asyncio.get_running_loop().connect_read_pipe(lambda: Ending(ended), sys.stdin)
    asked: set[asyncio.Task[None]] = set()

    def begin(kind: str, at: float) -> None:
        task = asyncio.create_task(ask(kind, at))
        asked.add(task)
        task.add_done_callback(asked.discard)

    due = time.monotonic() + 0.2
    for _ in range(pool if KEPT in kinds else 0):
        begin(KEPT, due)
    while not ended.is_set():
        due += 1 / rate
        await asyncio.sleep(due - time.monotonic())
        if most is None or len(asked) < most:
            begin(next(turns), due)
    await asyncio.gather(*asked)


async def run(options: argparse.Namespace) -> None:
    method, body = ("GET", b"") if options.body is None else ("POST", options.body.encode())
    questions = {kind: question(method, options.path, body, kind) for kind in options.kinds}
    client = Client(options.port, questions, options.expect, print_line)
    await fire(client.ask, options.rate, options.kinds, most=options.most)


class Ending(asyncio.Protocol):
    """stdin: its end ends the load, also when whoever started it is gone."""

    def __init__(self, ended: asyncio.Event) -> None:
        self.ended = ended

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()


def print_line(request: Request) -> None:
    names = ("kind", "at", "seconds", "failure", "said")
    print(json.dumps({name: getattr(request, name) for name in names}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--path", default="/")
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--kinds", nargs="+", choices=(FRESH, KEPT), default=(FRESH, KEPT))
    parser.add_argument("--body")
    parser.add_argument("--expect", default="")
    parser.add_argument("--most", type=int)
    options = parser.parse_args()
    gc.disable()  # a pause of the client would be a latency of the server
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
