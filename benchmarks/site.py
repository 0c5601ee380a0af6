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
from pathlib import Path
from typing import Self

import psutil

from benchmarks.peers import PYTHON, Peer
from benchmarks.programs import KINDS, Program

TOO_LONG = 30.0
"""Seconds after which something has not happened."""

MARK = "BENCHMARK_SITE"


class Missed(Exception):
    """What was waited for did not happen in time."""


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


def wait_answer(port: int, *, word: str | None = None, not_pid: int | None = None, patience: float = TOO_LONG) -> int:
    """The pid of who answers there, with this word and from another process than ``not_pid``; asked every 2 ms."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        said = ask(port)
        if said is not None and word in (None, said[0]) and said[1] != not_pid:
            return said[1]
        time.sleep(0.002)
    raise Missed


class Site:
    """``with Site(...)`` starts the tool; leaving it ends everything, whatever happened.

    ``python``: the agents' interpreter. All agents share one file, so that a save of it is a save of each."""

    def __init__(self, peer: Peer, kind: str, count: int, *, watch: bool, python: str = PYTHON) -> None:
        self.peer, self.kind, self.watch = peer, kind, watch
        self._temporary = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self.output = Path(self._temporary.name) / "tool.out"  # beside the folder: some restart for their own output
        self.folder = Path(self._temporary.name) / "work"
        self.folder.mkdir()
        self.mark = uuid.uuid4().hex
        self.programs = self._programs(count, python)
        self.save("first")
        self.environ = {**os.environ, **peer.environment(self.folder), MARK: self.mark}
        self.command = peer.configure(self.folder, self.programs, watch=watch)

    def _programs(self, count: int, python: str) -> tuple[Program, ...]:
        file = self.folder / "agent.py"
        ports: set[int] = set()
        while len(ports) < count:
            ports.add(free_port())  # of 300 by chance, two would be the same
        return tuple(Program(f"a{number}", file, port, python) for number, port in enumerate(ports))

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        self.started = time.monotonic()
        with self.output.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._temporary.cleanup()

    def wait_all(self, patience: float = TOO_LONG) -> list[int]:
        """Until every agent answers; their pids."""
        return [wait_answer(program.port, patience=patience) for program in self.programs]

    def save(self, word: str) -> None:
        self.programs[0].save(KINDS[self.kind].source.format(word=word))

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
