"""Warm processes for tests, and the instances that come from them, with the test in the supervisor's place.

with Warm(["fastapi"]) as warm:
    assert warm.hear("warmed")["fork"]
    with warm.fork(["script", "x.py"], directory=folder) as instance:
        assert instance.hear("hello")["pid"] == instance.pid
        assert instance.wait() == 0
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .guests import PATIENCE, Channel, Guest, Packet, Silent, started

TAG = 4711 << 32 | 42
_PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def subreaper() -> Iterator[None]:
    """While it lasts this process is one, as the supervisor is."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Unforked(AssertionError):
    """``packet``: what it answered."""

    def __init__(self, packet: Packet) -> None:
        super().__init__(packet["why"])
        self.packet = packet


class Instance(Channel):
    """A process that a warm one has forked or become. Its stdout and stderr are pipes."""

    def __init__(self, ours: socket.socket, out: int, err: int) -> None:
        super().__init__(ours)
        self.pid = 0
        self._streams = [os.fdopen(fd, "rb", buffering=0) for fd in (out, err)]
        self._code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid and self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        for stream in self._streams:
            stream.close()
        self.close()

    def line(self) -> str:
        """The next line of its stdout; "" at the end."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._streams[0]], [], [], PATIENCE)[0]:
                raise Silent(f"no line on stdout, only {line!r}")
            piece = self._streams[0].read(1)
            if not piece:
                break
            line += piece
        return line.decode().rstrip("\n")

    def out(self) -> tuple[str, str]:
        """(stdout, stderr) to their end."""
        found = dict.fromkeys(self._streams, b"")
        waiting = list(self._streams)
        while waiting:
            ready = select.select(waiting, [], [], PATIENCE)[0]
            if not ready:
                raise Silent(f"no end of its output: {list(found.values())}")
            for stream in ready:
                piece = stream.read(65536)
                found[stream] += piece or b""
                if not piece:
                    waiting.remove(stream)
        out, err = (found[stream].decode(errors="replace") for stream in self._streams)
        return out, err

    def wait(self) -> int:
        """Its exit code, collected by this process; negative: the signal."""
        deadline = time.monotonic() + PATIENCE
        while self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise Silent(f"{self.pid} does not end")
            else:
                time.sleep(0.002)
        return self._code


class Warm(Guest):
    """A warm process that was told its modules. ``trial``: a template."""

    def __init__(
        self,
        modules: Sequence[str] = (),
        *,
        trial: bool = True,
        python: str = sys.executable,
        flags: Sequence[str] = (),
        directory: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._python, self._flags = python, flags
        super().__init__(["warm", "test"], start=None, python=python, flags=flags, directory=directory, environ=environ)
        self.tell("warm", modules=list(modules), trial=trial)
        self._asked = 0
        self._became = False

    def hear(self, kind: str, patience: float = PATIENCE) -> Packet:
        try:
            return super().hear(kind, patience)
        except Silent as silent:
            code = self.process.poll()
            raise Silent(f"{silent}; it has ended: {code}, {self.out() if code is not None else ''}") from None

    def fork(self, program: Sequence[str], **more: Any) -> Instance:
        """Raises Unforked."""
        return self._start(program, become=False, **more)

    def become(self, program: Sequence[str], **more: Any) -> Instance:
        """The instance is this process; ``with`` the warm one around it, ends it. Raises Unforked."""
        return self._start(program, become=True, **more)

    def _start(
        self,
        program: Sequence[str],
        *,
        become: bool,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        start: Mapping[str, Any] | None = None,
        descriptors: Sequence[int] = (),
        stdin: int | None = None,
    ) -> Instance:
        self._asked += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        instance = Instance(ours, out, err)
        kind, name, *args = program
        fields = {
            **started(program, self._python, self._flags),
            **{"id": self._asked, "become": become, "program": {"kind": kind, "name": name, "args": args}},
            "environ": {**os.environ, "PYTHONUNBUFFERED": "1"} if environ is None else dict(environ),
            **{"directory": str(directory), "umask": None, "tag": TAG, "parent": os.getpid(), "files": None},
            **(start or {}),
        }
        given = [null if stdin is None else stdin, out_end, err_end, theirs.fileno(), *descriptors]
        try:
            self.tell("start", given, **fields)
        finally:
            theirs.close()
            for fd in (out_end, err_end, null):
                os.close(fd)
        try:
            instance.pid = self._answer(self._asked)
        except AssertionError:
            instance.__exit__()
            raise
        if become:
            self._became = True
            self.raw.close()
        return instance

    def _answer(self, number: int) -> int:
        deadline = time.monotonic() + PATIENCE
        while True:
            for packet in self.heard:
                if packet.get("id") == number and packet["is"] == "forked":
                    return int(packet["pid"])
                if packet.get("id") == number and packet["is"] == "unforked":
                    raise Unforked(packet)
            if not self._receive(deadline):
                raise Silent(f"no answer, only {[packet['is'] for packet in self.heard]}")

    def kill(self) -> None:
        if not self._became:
            super().kill()
            return
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        # Its exit was collected as the instance's.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0)
