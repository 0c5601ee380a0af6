"""Servers to be drained, one for each framework that the drain knows, and the generations of one of them.

Each serves ``/`` (its generation, after WORK seconds), and where the framework streams: ``/stream``, which goes on
until the file $END is there. They listen on $PORT.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.runtime.guests import PATIENCE, Guest, Packet, held

ASGI = """
import asyncio, os
GENERATION, WORK, END = os.environ["GENERATION"], float(os.environ.get("WORK", "0.01")), os.environ["END"]
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"].endswith("shutdown"):
                print("bye", flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"].endswith("shutdown"):
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "echo " + message["text"]})
        return
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while not os.path.exists(END):
            await send({"type": "http.response.body", "body": b"data: more\\n\\n", "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"data: end\\n\\n"})
        return
    if scope["path"] == "/wait":
        print("waiting", flush=True)
        while not os.path.exists(END):
            await asyncio.sleep(0.02)
    await asyncio.sleep(WORK)
    body = GENERATION.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
    if scope["path"] == "/task":
        print("answered", flush=True)
        while not os.path.exists(END):
            await asyncio.sleep(0.02)
        print("task done", flush=True)
PORT = int(os.environ["PORT"])
"""

UVICORN = (
    ASGI
    + """
import sys, uvicorn
uvicorn.run(app, port=PORT, log_level="warning", loop=sys.argv[1], http=sys.argv[2])
"""
)

THREAD = (
    ASGI
    + """
import threading, time, uvicorn
server = uvicorn.Server(uvicorn.Config(app, port=PORT, log_level="warning"))
threading.Thread(target=server.run, daemon=True).start()
while True:
    time.sleep(1)
"""
)

HYPERCORN = (
    ASGI
    + """
import sys
from hypercorn.asyncio import serve
from hypercorn.config import Config
config = Config()
config.bind, config.loglevel = [f"127.0.0.1:{PORT}"], "WARNING"
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(serve(app, config))
else:
    asyncio.run(serve(app, config))
"""
)

AIOHTTP = """
import asyncio, os
from aiohttp import web
GENERATION, WORK, END = os.environ["GENERATION"], float(os.environ.get("WORK", "0.01")), os.environ["END"]
async def answer(request):
    await asyncio.sleep(WORK)
    return web.Response(text=GENERATION)
async def wait(request):
    print("waiting", flush=True)
    while not os.path.exists(END):
        await asyncio.sleep(0.02)
    return web.Response(text=GENERATION)
async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while not os.path.exists(END):
        await response.write(b"data: more\\n\\n")
        await asyncio.sleep(0.02)
    await response.write(b"data: end\\n\\n")
    return response
async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str("echo " + message.data)
    return socket
app = web.Application()
app.add_routes([web.get("/", answer), web.get("/stream", stream), web.get("/wait", wait), web.get("/ws", echo)])
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)
"""

HTTP_SERVER = """
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
BODY, WORK = os.environ["GENERATION"].encode(), float(os.environ.get("WORK", "0.01"))
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        if self.path == "/wait":
            print("waiting", flush=True)
            while not os.path.exists(os.environ["END"]):
                time.sleep(0.02)
        time.sleep(WORK)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

FLASK = """
import logging, os, time
from flask import Flask
logging.getLogger("werkzeug").setLevel("ERROR")
app = Flask(__name__)
@app.get("/")
def answer():
    time.sleep(float(os.environ.get("WORK", "0.01")))
    return os.environ["GENERATION"]
app.run(port=int(os.environ["PORT"]))
"""

ANSWER = """
import os, sys
BODY, WORK = os.environ["GENERATION"].encode(), float(os.environ.get("WORK", "0.01"))
ANSWER = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(BODY) + BODY
ADDRESS = "127.0.0.1", int(os.environ["PORT"])
"""

STREAMS = (
    ANSWER
    + """
import asyncio
async def serve(reader, writer):
    try:
        await reader.readuntil(b"\\r\\n\\r\\n")
        await asyncio.sleep(WORK)
        writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, *ADDRESS)
    async with server:
        await server.serve_forever()
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
)

BY_HAND = (
    ANSWER
    + """
import socket, threading, time
def serve(connection):
    with connection:
        request = b""
        while not request.endswith(b"\\r\\n\\r\\n"):
            received = connection.recv(9999)
            if not received:
                return
            request += received
        time.sleep(WORK)
        connection.sendall(ANSWER)
listener = socket.socket()
listener.bind(ADDRESS)
listener.listen(5)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
)

SERVERS: dict[str, tuple[str, ...]] = {
    "uvicorn, asyncio, h11": (UVICORN, "asyncio", "h11"),
    "uvicorn, asyncio, httptools": (UVICORN, "asyncio", "httptools"),
    "uvicorn, uvloop, httptools": (UVICORN, "uvloop", "httptools"),
    "uvicorn in a thread": (THREAD,),
    "aiohttp": (AIOHTTP,),
    "hypercorn": (HYPERCORN, "asyncio"),
    "hypercorn, uvloop": (HYPERCORN, "uvloop"),
    "http.server": (HTTP_SERVER,),
    "flask": (FLASK,),
    "asyncio.start_server": (STREAMS, "asyncio"),
    "asyncio.start_server, uvloop": (STREAMS, "uvloop"),
    "accept by hand": (BY_HAND,),
}
"""Name → its source and arguments."""


class Agent:
    """The generations of one program, around one held socket; the test is the supervisor. ``current`` serves."""

    def __init__(self, folder: Path, source: str, *args: str, work: float = 0.01) -> None:
        self.script, self.end, self._args, self._work = folder / "agent.py", folder / "end", args, work
        self.script.write_text(source)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.listen(2048)
        self.port: int = self.listener.getsockname()[1]
        self._guests: list[Guest] = []

    @property
    def current(self) -> Guest:
        return self._guests[-1]

    async def start(self, *, held_socket: bool = True, serves: bool = True) -> Guest:
        """The next generation, up to accepting."""
        number = len(self._guests)
        environ = {"GENERATION": str(number), "PORT": str(self.port), "END": str(self.end), "WORK": str(self._work)}
        offer = {"held": [held(self.listener)] if held_socket else [], "gate": number > 0}
        descriptors = [self.listener.fileno()] if held_socket else []
        guest = Guest(
            ["script", str(self.script), *self._args],
            start=offer,
            descriptors=descriptors,
            environ=environ,
            flags=["-W", "ignore"],
        )
        self._guests.append(guest)
        if serves:
            await heard(guest, "serves")
        if number:
            guest.tell("go")
            await heard(guest, "accepting")
        return guest

    async def hand_over(self) -> int:
        """start-first: the next one serves, then this one is drained and ended. What was left of it."""
        old = self.current
        await self.start()
        old.tell("drain", patience=20, close_idle=False)
        left = int((await heard(old, "drained"))["left"])
        await ended(old)
        return left

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for guest in self._guests:
            guest.kill()
            guest.close()
        self.listener.close()


async def retired(agent: Agent) -> None:
    """The current generation has no listener any more: it drains."""
    inode = f"socket:[{os.fstat(agent.listener.fileno()).st_ino}]"
    folder = Path(f"/proc/{agent.current.pid}/fd")
    async with asyncio.timeout(PATIENCE):
        while any(os.path.realpath(path).endswith(inode) for path in folder.iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def heard(guest: Guest, kind: str) -> Packet:
    return await asyncio.to_thread(guest.hear, kind)


async def line(guest: Guest) -> str:
    return await asyncio.to_thread(guest.line)


async def ended(guest: Guest) -> int:
    """After SIGTERM. Its exit code; -9 is never one: nobody sends it."""
    guest.signal(signal.SIGTERM)
    return await asyncio.to_thread(guest.wait)


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
