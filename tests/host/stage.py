"""Real processes for tests: each test has an owner of its own, and whatever carries its mark is gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from mesh_supervisor.host.children import living
from mesh_supervisor.host.procfs import look
from mesh_supervisor.host.spawn import MARK, Child, Program, spawn
from mesh_supervisor.host.sweep import sweep_owner

REPOSITORY = Path(__file__).parents[2]
PLAIN = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
PATIENCE = 30.0  # seconds; a bound for failures, never what a passing test waits


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-u", "-c", code)


class Stage:
    """Starts instances of one owner; at the end closes pipes and kills all that is left."""

    def __init__(self, directory: Path) -> None:
        self.owner = "test" + secrets.token_hex(6)
        self.directory = directory
        self._descriptors: list[int] = []
        self._others: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for other in self._others:
            other.kill()
            other.wait()
            assert other.stdout is not None
            other.stdout.close()
        for child in [child for child in living.values() if child.mark.startswith(self.owner)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            child.close()
        for fd in self._descriptors:
            os.close(fd)
        sweep_owner(self.owner)

    def mark(self, agent: str, generation: int = 1) -> str:
        return f"{self.owner}/{agent}/{generation}"

    def start(
        self,
        argv: tuple[str, ...],
        *,
        agent: str = "agent",
        environ: Mapping[str, str] = PLAIN,
        stdin: int | None = None,
        pass_fds: tuple[int, ...] = (),
        directory: Path | None = None,
    ) -> Actor:
        reading, writing = os.pipe()
        self._descriptors.append(reading)
        program = Program(argv, environ, directory or self.directory)
        try:
            child = spawn(program, output=writing, stdin=stdin, mark=self.mark(agent), pass_fds=pass_fds)
        finally:
            os.close(writing)
        return Actor(child, reading)

    def other(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """A process that is no instance: a supervisor of its own, or a stranger."""
        environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        environ.pop(MARK, None)
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environ,
            start_new_session=True,
        )
        self._others.append(process)
        return process


class Actor:
    """An instance and what it says."""

    def __init__(self, child: Child, output: int) -> None:
        self.child = child
        self.output = output
        self._said = b""

    async def line(self) -> str:
        """The next line of output; the test fails when there is none."""
        while b"\n" not in self._said:
            piece = await self._piece()
            assert piece, f"it ended having said {self._said!r}"
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line.decode(errors="surrogateescape")

    async def rest(self) -> bytes:
        """Everything until the last holder of the pipe has closed it."""
        while piece := await self._piece():
            self._said += piece
        return self._said

    async def _piece(self) -> bytes:
        async with asyncio.timeout(PATIENCE), _readable(self.output):
            return os.read(self.output, 65536)


@contextlib.asynccontextmanager
async def _readable(fd: int) -> AsyncIterator[None]:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
    yield


@contextlib.contextmanager
def held(pid: int) -> Iterator[int]:
    """A pidfd of a process that lives now."""
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def is_stopped(pid: int) -> bool:
    found = look(pid)
    return found is not None and found.state == "T"


def ended(pidfd: int, patience: float = PATIENCE) -> bool:
    """Whether the process is dead, within ``patience`` seconds; 0: now."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))


async def until(fact: Callable[[], object]) -> None:
    """For facts that announce themselves to nobody; TimeoutError when it does not come true."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    process = look(pid)
    return process is not None and not process.over
