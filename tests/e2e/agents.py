"""Sources of agents that are under load in tests: FastAPI on uvicorn as in the examples, and plain sockets.

Each answers ``WORD PID``: which code it has, and which process. ``top`` is run while the module is loaded, before
anything serves; line numbers of it count from ``line_of``.
"""

from __future__ import annotations

import textwrap

FASTAPI = """
import asyncio
import os
import pathlib
import time
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

WORD = {word!r}
{top}

@asynccontextmanager
async def lifespan(app):
{startup}
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=PlainTextResponse)
async def answer():
    return f"{{WORD}} {{os.getpid()}}"

{routes}

uvicorn.run(app, host=os.environ["HOST"], port=int(os.environ["PORT"]), log_level="warning")
"""


def fastapi(word: str, top: str = "", *, startup: str = "pass", routes: str = "") -> str:
    """``startup``: what its lifespan does before it serves; ``routes``: more of them."""
    return FASTAPI.format(
        word=word,
        top=textwrap.dedent(top),
        startup=textwrap.indent(textwrap.dedent(startup), "    "),
        routes=textwrap.dedent(routes),
    )


STDLIB = """
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORD = {word!r}
ADDRESS = (os.environ["HOST"], int(os.environ["PORT"]))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{{WORD}} {{os.getpid()}}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


{top}

if __name__ == "__main__":
    {serve}
"""


def stdlib(word: str, top: str = "", *, serve: str = "Server(ADDRESS, Handler).serve_forever()") -> str:
    """``serve``: what its main program does, one block."""
    block = textwrap.indent(textwrap.dedent(serve).strip(), "    ").strip()
    return STDLIB.format(word=word, top=textwrap.dedent(top), serve=block)


def line_of(source: str, text: str) -> int:
    """The number of the first line that holds ``text``."""
    return next(number for number, line in enumerate(source.splitlines(), 1) if text in line)
