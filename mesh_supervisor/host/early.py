"""Signals before anybody listens to them. For PID 1, and small: it is imported before everything else.

The kernel gives PID 1 no default actions: a signal without a handler is dropped. Without this, the SIGTERM of a
`docker stop` that comes while Python still imports would be lost, and the engine would wait out its whole grace.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

STOPPING: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""What people and engines end a program with. SIGQUIT is the stop signal of many images, SIGPWR that of LXC."""
if sys.platform == "linux":
    STOPPING += (signal.SIGPWR,)

_caught: list[int] = []


def catch() -> None:
    """From now on they are kept, until `decide` says what they mean."""
    for number in STOPPING:
        signal.signal(number, _keep)


def _keep(number: int, frame: FrameType | None) -> None:
    _caught.append(number)


def decide(exit_code: int | None) -> None:
    """From now on, and for what came before: one of them ends this process at once, by ``exit_code``; None: as it ends
    other processes, which shells tell as 128 and its number. Nothing has begun that would have to be undone."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number if exit_code is None else exit_code)

    for number in STOPPING:
        signal.signal(number, end)
    if _caught:
        end(_caught[0], None)
