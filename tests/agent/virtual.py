"""Virtual time: a loop whose clock stands still while there is work, and jumps to the next timer when there is none.

Thirty seconds of patience take no time, and a test that waits for what never comes fails at once instead of hanging.
What would run in a thread runs in its place: the clock would not wait for it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

BEGIN = 1000.0
"""The first moment, in seconds; not zero, so that nothing works only because a time is false."""


class Stuck(AssertionError):
    """Everybody waits and no timer is set."""


class _Jumps(selectors.DefaultSelector):
    """Waiting for events means that time passes."""

    now = BEGIN

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise Stuck("everybody waits for ever")
        if not events and timeout is not None:
            self.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def run_in_executor(self, executor: Any, func: Callable[..., Result], *args: Any) -> asyncio.Future[Result]:  # type: ignore[override]
        done: asyncio.Future[Result] = self.create_future()
        done.set_result(func(*args))
        return done


def run(test: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Runs an async function to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(test())


async def settle() -> None:
    """Until everybody waits. Takes a microsecond, so that timers which are due now have their turn too."""
    await asyncio.sleep(1e-6)


def now() -> float:
    """Seconds since the test began."""
    return asyncio.get_running_loop().time() - BEGIN


def after_turns(turns: int, what: Callable[[], object]) -> None:
    """Calls it after so many turns of the loop: between two steps of whatever runs meanwhile."""
    loop = asyncio.get_running_loop()
    if turns:
        loop.call_soon(after_turns, turns - 1, what)
    else:
        loop.call_soon(what)
