"""A process that was started by somebody else, and stands in for an instance while it runs (`meshsup run`)."""

from __future__ import annotations

import asyncio
import os
import sys

from ..errors import MeshError
from .ports import listeners
from .spawn import tree


class Foreign:
    """Watched through a pidfd: whatever ends it, also ``kill -9``, is seen at once, and its pid stays its own.

    Raises MeshError when it cannot be seen from here: it runs in another container, or has ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = _open(pid)

    async def ended(self) -> None:
        """Returns when it has. To be asked once."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._pidfd)

    def listens(self, port: int) -> bool:
        """Whether it, or a process below it, has this TCP port open."""
        return any(held == port for _, held in listeners(tree(self.pid)))

    def close(self) -> None:
        os.close(self._pidfd)


def _open(pid: int) -> int:
    if sys.platform != "linux":
        raise MeshError("nothing can be taken over from a running mesh on this system; `meshsup stop` it first")
    try:
        return os.pidfd_open(pid)
    except (OSError, OverflowError) as error:  # 0 is the pid of a process in another PID namespace
        raise MeshError(
            "the supervisor cannot see this process (another container?); `meshsup stop` the agent, then run it"
        ) from error
