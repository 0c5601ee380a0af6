"""Starts a program through the runtime as the supervisor does, and gives the test the supervisor's end of the channel.

    with Guest(["script", str(file)]) as guest:
        assert guest.hear("hello")["pid"] == guest.pid
        guest.tell("drain", patience=5, close_idle=True)
        assert guest.hear("drained")["left"] == 0

Nothing here waits longer than PATIENCE, and nothing of it outlives the ``with``: the guest, and what it has left in its
session, is killed.
"""

from __future__ import annotations

import contextlib
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

from mesh_supervisor.runtime import wire

RUNTIME = Path(wire.__file__).parent / "__main__.py"

PATIENCE = 30.0
"""Seconds for anything that is waited for."""

Packet = dict[str, Any]


class Silent(AssertionError):
    """What was waited for was not said."""


class Channel:
    """The supervisor's end. ``heard`` keeps every packet in order, ``descriptors`` those that came, by packet index."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self.heard: list[Packet] = []
        self.descriptors: dict[int, list[int]] = {}
        self._read = 0
        self.over = False

    @property
    def raw(self) -> socket.socket:
        """For what is no packet."""
        return self._socket

    def tell(self, kind: str, descriptors: Sequence[int] = (), /, **fields: object) -> None:
        wire.send(self._socket, wire.pack(kind, fields), tuple(descriptors))

    def hear(self, kind: str, patience: float = PATIENCE) -> Packet:
        """The next packet of this kind, after the one that was heard last. Raises Silent."""
        return self.hear_with_descriptors(kind, patience)[0]

    def hear_with_descriptors(self, kind: str, patience: float = PATIENCE) -> tuple[Packet, list[int]]:
        """Its descriptors are closed with the channel; duplicate what is to live longer."""
        deadline = time.monotonic() + patience
        while True:
            while self._read < len(self.heard):
                index, self._read = self._read, self._read + 1
                if self.heard[index]["is"] == kind:
                    return self.heard[index], self.descriptors.get(index, [])
            if not self._receive(deadline):
                raise Silent(f"no {kind!r}, only {[packet['is'] for packet in self.heard]}")

    def hear_all(self, patience: float = PATIENCE) -> list[Packet]:
        """Everything until the other end is closed."""
        deadline = time.monotonic() + patience
        while self._receive(deadline):
            pass
        if not self.over:
            raise Silent("the channel is still open")
        return self.heard

    def said(self, kind: str) -> list[Packet]:
        """Those packets of this kind that have been read so far."""
        return [packet for packet in self.heard if packet["is"] == kind]

    def _receive(self, deadline: float) -> bool:
        if self.over or not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            got = wire.receive(self._socket)
        except ConnectionError:
            got = None
        if got is None:
            self.over = True
            return False
        packet, descriptors = got
        if descriptors:
            self.descriptors[len(self.heard)] = descriptors
        self.heard.append(packet)
        return True

    def close(self) -> None:
        for descriptors in self.descriptors.values():
            for fd in descriptors:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.descriptors.clear()
        self._socket.close()


class Guest(Channel):
    """A process with the runtime in it.

    ``program``: [KIND, NAME, ARG…]. ``start``: more keys of the start packet, None: no packet is sent (a warm process).
    ``descriptors``: those of ``held``. ``flags``: of Python. ``environ``: more names. ``process``: a Popen whose stdout
    and stderr are pipes, text; ``out()`` ends it.
    """

    def __init__(
        self,
        program: Sequence[str],
        *,
        start: Mapping[str, Any] | None = {},
        descriptors: Sequence[int] = (),
        python: str = sys.executable,
        flags: Sequence[str] = (),
        directory: Path | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        text: bool = True,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        if start is not None:
            self.tell("start", descriptors, **started(program, python, flags, start))
        with theirs:
            self.process = subprocess.Popen(
                [python, *flags, str(RUNTIME), str(theirs.fileno()), *program],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=text,
                cwd=directory,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.close()

    def line(self) -> str:
        """The next line of its stdout, without its end; "" at the end."""
        assert self.process.stdout is not None
        fd, line = self.process.stdout.fileno(), b""
        while not line.endswith(b"\n"):
            if not select.select([fd], [], [], PATIENCE)[0]:
                raise Silent(f"no line on stdout, only {line!r}")
            piece = os.read(fd, 1)  # what is read too far, neither select() nor communicate() would find again
            if not piece:
                break
            line += piece
        return line.decode().rstrip("\n")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def out(self) -> tuple[str, str]:
        """(stdout, stderr) from here to its end, which is waited for."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return out, err

    def kill(self) -> None:
        """It and its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def started(
    program: Sequence[str],
    python: str = sys.executable,
    flags: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> Packet:
    """The start packet of a cold instance, all parts on."""
    kind, name, *args = program
    words = [python, *flags, *(["-m"] if kind == "module" else []), name, *args]
    return {"held": [], "gate": False, "trace": None, "learn": False, "words": words, **(more or {})}


@contextlib.contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A held socket of the supervisor: bound to a free port, listening."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        sock.listen(128)
        yield sock


def held(sock: socket.socket, number: int = 0, host: str | None = None) -> dict[str, Any]:
    """The entry in ``held`` for this socket, asked for as ``host`` (default: as it is bound)."""
    address = list(sock.getsockname()[:2])
    if host is not None:
        address[0] = host
    return {"number": number, "family": int(sock.family), "kind": int(sock.type), "address": address}
