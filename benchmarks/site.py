"""One tool at work in a folder of its own: start it, ask its agents, count its processes, end it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.peers import Peer
from benchmarks.programs import Program

TOO_LONG = 30.0
"""Seconds after which something has not happened."""

MARK = "BENCHMARK_SITE"


class Missed(Exception):
    """What was waited for did not happen within TOO_LONG."""


def free_port() -> int:
    while True:
        port = random.randint(12000, 31999)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def ask(port: int) -> tuple[str, int] | None:
    """(word, pid) of the agent there, on a new connection; None while nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: line.recv(4096), b""))
    except OSError:
        return None
    words = text.rpartition(b"\r\n\r\n")[2].decode().split()
    return (words[0], int(words[1])) if len(words) == 2 else None


def wait_answer(port: int, *, word: str | None = None, not_pid: int | None = None) -> int:
    """The pid of who answers there, with this word and from another process than ``not_pid``; asked every 2 ms."""
    deadline = time.monotonic() + TOO_LONG
    while time.monotonic() < deadline:
        said = ask(port)
        if said is not None and word in (None, said[0]) and said[1] != not_pid:
            return said[1]
        time.sleep(0.002)
    raise Missed


class Site:
    """``with Site(...)`` starts the tool; leaving it ends everything, whatever happened."""

    def __init__(self, peer: Peer, kind: str, count: int, *, watch: bool) -> None:
        self.peer, self.kind, self.watch = peer, kind, watch
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self.output = Path(self._temporary.name) / "tool.out"  # beside the folder: some restart for their own output
        self.folder = Path(self._temporary.name) / "work"
        self.folder.mkdir()
        self.mark = uuid.uuid4().hex
        file = self.folder / "agent.py"
        self.programs = tuple(Program(f"a{number}", file, free_port()) for number in range(count))
        self.programs[0].save(kind, "first")

    def __enter__(self) -> Site:
        command = self.peer.configure(self.folder, self.programs, watch=self.watch)
        self.environ = {**os.environ, **self.peer.environment(self.folder), MARK: self.mark}
        self.started = time.monotonic()
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._temporary.cleanup()

    def wait_all(self) -> list[int]:
        """Until every agent answers; their pids."""
        return [wait_answer(program.port) for program in self.programs]

    def save(self, word: str) -> None:
        self.programs[0].save(self.kind, word)

    def processes(self) -> list[psutil.Process]:
        """Everything that carries our mark: the tool, its helpers, its agents."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(psutil.Process(int(entry.name)))
        return found

    def own_processes(self, agents: list[int]) -> list[psutil.Process]:
        """The tool itself: its processes, less the agents."""
        return [process for process in self.processes() if process.pid not in agents]

    def stop(self) -> float:
        """Seconds from SIGTERM to the tool until nothing of it is left."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TOO_LONG * 4)
        while self.processes():
            if time.monotonic() - start > TOO_LONG * 4:
                raise Missed
            time.sleep(0.01)
        return time.monotonic() - start


@contextlib.contextmanager
def running(peer: Peer, kind: str, count: int = 1, *, watch: bool = True) -> Iterator[Site]:
    with Site(peer, kind, count, watch=watch) as site:
        yield site
