"""Gathers changed paths until it is quiet and git has finished, then hands them over at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

LONGEST_WAIT = 1.0
"""Seconds after its first path that a batch may wait for quiet."""

LONGEST_HOLD = 2.0
"""Seconds that a due batch waits for git; a git that crashed leaves its lock behind."""

_LOOK_AGAIN = 0.02


class Batcher:
    """``quiet``: seconds without news before a batch is due. ``held()``: whether somebody is in the middle of writing
    (git holds its index lock). All in the loop's thread."""

    def __init__(
        self,
        on_batch: Callable[[frozenset[Path]], None],
        *,
        quiet: float,
        held: Callable[[], bool],
        longest_hold: float = LONGEST_HOLD,
    ) -> None:
        self.quiet = quiet
        self._on_batch, self._held, self._longest_hold = on_batch, held, longest_hold
        self._paths: set[Path] = set()
        self._began = 0.0
        self._due_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, paths: Iterable[Path]) -> None:
        fresh = set(paths)
        if not fresh:
            return
        loop = asyncio.get_running_loop()
        if not self._paths:
            self._began = loop.time()
        self._paths |= fresh
        # While it is held, the next look is near anyway.
        if self._due_since is None:
            latest = self._began + max(LONGEST_WAIT, self.quiet)
            self._wake_at(min(loop.time() + self.quiet, latest))

    def cancel(self) -> None:
        """Drop what was gathered."""
        self._paths.clear()
        self._due_since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._due)

    def _due(self) -> None:
        now = asyncio.get_running_loop().time()
        self._due_since = now if self._due_since is None else self._due_since
        if now < self._due_since + self._longest_hold and self._held():
            self._wake_at(now + _LOOK_AGAIN)
            return
        batch, self._paths = frozenset(self._paths), set()
        self._timer = self._due_since = None
        self._on_batch(batch)
