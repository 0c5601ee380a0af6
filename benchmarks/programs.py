"""The agents that every tool runs. Each answers ``WORD PID``: which code it has, and who to kill."""

from __future__ import annotations

from collections.abc import Mapping
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


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
"""

MCP = """
import os

from mcp.server import MCPServer
from starlette.responses import PlainTextResponse

WORD = {word!r}
app = MCPServer("bench", log_level="WARNING")


@app.tool()
def word() -> str:
    return f"{{WORD}} {{os.getpid()}}"


@app.custom_route("/", methods=["GET"])
async def answer(request):
    return PlainTextResponse(word())


app.run("streamable-http", host="127.0.0.1", port=int(os.environ["PORT"]), stateless_http=True, json_response=True)
"""


def importing(*statements: str) -> str:
    """The FastAPI agent with these imports before its own."""
    return "\n".join(statements) + FASTAPI


@dataclass(frozen=True, slots=True)
class Kind:
    """What an agent consists of. ``packages``: beyond what the project's own environment has; none: that one is used.
    ``asgi``: ``agent:app`` can be served by uvicorn's command."""

    source: str
    packages: tuple[str, ...] = ()
    asgi: bool = False


KINDS: Mapping[str, Kind] = {
    "stdlib": Kind(STDLIB),
    "FastAPI": Kind(FASTAPI, asgi=True),
    "numpy": Kind(
        importing("import numpy, pandas, pyarrow"), ("numpy", "pandas", "pyarrow", "fastapi", "uvicorn"), asgi=True
    ),
    "langgraph": Kind(
        importing("import langgraph.graph, langchain_openai, openai"),
        ("langgraph", "langchain-openai", "openai", "fastapi", "uvicorn"),
        asgi=True,
    ),
    "MCP": Kind(MCP, ("mcp", "uvicorn")),
}


@dataclass(frozen=True, slots=True)
class Program:
    """One agent of a tool: its file (several may share one), the port that it finds in PORT, and its interpreter."""

    name: str
    file: Path
    port: int
    python: str

    def save(self, source: str) -> None:
        """Write it in place, as an editor without atomic saves does."""
        self.file.write_text(source)
