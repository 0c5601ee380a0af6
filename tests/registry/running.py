"""A registry as its own process on a free port, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

PATIENCE = 60.0
"""Seconds after which a test gives up on something that should happen soon."""

JSON = {"Content-Type": "application/json"}

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true answer of ``look``; fails with ``what`` and the last answer when there is none in time."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {patience} s: {what} (last: {found!r})"
        time.sleep(0.02)
    return found


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A registry process. ``said``: its stderr so far."""

    process: subprocess.Popen[str]
    port: int
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON) -> Answer:
        """One request on a connection of its own. ``body``: bytes, an iterator of bytes (chunked), or JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        raw = body if body is None or isinstance(body, bytes | Iterator) else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))
        finally:
            connection.close()

    def heartbeat(self, body: Any) -> Any:
        answer = self.ask("POST", "/heartbeat", body)
        assert answer.status == 200, answer.body
        return answer.json

    def beat(self, agent: str) -> int:
        return self.ask("HEAD", f"/heartbeat/{agent}").status

    def agents(self, query: str = "") -> dict[str, Any]:
        return {one["id"]: one for one in self.ask("GET", f"/agents{query}").json["agents"]}

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def running(*options: str, store: Path | None = None, port: int = 0, before: str = "") -> Iterator[Running]:
    """``before``: Python statements that the process runs on itself before it becomes the registry."""
    argv = ["-m", "mesh_supervisor.registry", "--port", str(port), *options]
    if store is not None:
        argv += ["--store", str(store)]
    if before:
        argv = ["-c", f"import os, sys\n{before}\nos.execv(sys.executable, [sys.executable, *sys.argv[1:]])", *argv]
    environ = {**os.environ, "PYTHONDEVMODE": "1"}
    process = subprocess.Popen([sys.executable, *argv], stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stderr is not None
    said: list[str] = []
    listener = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    listener.start()
    try:
        found = eventually(
            lambda: [match for line in said if (match := re.search(r"listening on \S+:(\d+)", line))],
            "the registry listens",
        )
        yield Running(process, int(found[0][1]), said)
    finally:
        process.kill()
        process.wait()
        listener.join(PATIENCE)
        process.stderr.close()
