"""Keeps a tiny process beside the supervisor that sweeps the mesh if the supervisor is killed.

It needs to know nothing but the owner: marks and tags (sweep.py) tell what is to go, also with scrubbed environments
in sessions of their own. It lives in its own session, deaf to Ctrl-C, SIGTERM and SIGHUP, with neither mark nor tag.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from . import procfs
from .children import Child, Program
from .sweep import MARK

_SCRIPT = str(Path(__file__).with_name("guardian_process.py"))
_IMPORT_PATH = str(Path(__file__).parents[2])
_PAUSE = 1.0  # seconds before a guardian that was killed is replaced
_PATIENCE = 2.0  # seconds for one that was let go: it needs some milliseconds, and somebody may have stopped it


class Guardian:
    """`start` in the running loop; `close` at an orderly end. A guardian that dies is replaced, and ``say`` is told."""

    def __init__(self, owner: str, *, report: Path | None = None, say: Callable[[str], None] | None = None) -> None:
        self._owner = owner
        self._report = report
        self._say = say
        self._child: Child | None = None
        self._pipe: int | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.exit is None else None

    def start(self) -> None:
        """OSError when no process can be started. Without a /proc there is none: it could find nobody."""
        if not procfs.ours:
            return
        self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Everything is stopped: let it go without a sweep, and wait for its end. One that does not end is killed."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, b".")
            self._let_go()
        if self._child is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._child.wait()
            self._child.send(signal.SIGKILL, group=False)
            await self._child.wait()

    async def _keep(self) -> None:
        while True:
            assert self._child is not None
            exit = await self._child.wait()
            self._let_go()
            if self._say is not None:
                self._say(f"the guardian ended ({exit}) and is started again")
            while self._pipe is None:
                await asyncio.sleep(_PAUSE)
                with contextlib.suppress(OSError):  # no processes or descriptors left just now
                    self._spawn()

    def _spawn(self) -> None:
        reading, writing = os.pipe()
        argv = (sys.executable, "-I", "-S", "-X", "utf8", _SCRIPT, _IMPORT_PATH, self._owner, str(self._report or ""))
        environ = {name: value for name, value in os.environ.items() if name != MARK}
        try:
            pid = os.posix_spawn(
                sys.executable,
                argv,
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reading, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=sys.platform == "linux",
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        try:
            self._child = Child(pid, Program(argv, environ, Path("/")), mark="")
        except OSError:
            os.kill(pid, signal.SIGKILL)  # before its pipe ends: it would sweep a mesh that lives
            os.waitpid(pid, 0)
            os.close(writing)
            raise
        self._pipe = writing

    def _let_go(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
