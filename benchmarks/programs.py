"""The agents that every tool runs. Each answers ``WORD PID``: which code it has, and who to kill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STDLIB = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORD = {word!r}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{{WORD}} {{os.getpid()}}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

FASTAPI = """
import os

import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

WORD = {word!r}
app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
def answer():
    return f"{{WORD}} {{os.getpid()}}"


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
"""

SOURCES = {"stdlib": STDLIB, "FastAPI": FASTAPI}


@dataclass(frozen=True, slots=True)
class Program:
    """One agent of a tool: its file (several may share one) and the port that it finds in PORT."""

    name: str
    file: Path
    port: int

    def save(self, kind: str, word: str) -> None:
        """Write the source in place, as an editor without atomic saves does."""
        self.file.write_text(SOURCES[kind].format(word=word))
