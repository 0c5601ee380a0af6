"""What a shell may have done before a command begins: asked for completions, closed its streams, left its pipe. Light:
`health` starts with it."""

from __future__ import annotations

import os
import sys

COMPLETE = "_MESHSUP_COMPLETE"
"""The variable by which a shell asks for completions; click's convention for a command of our name."""

STREAMS = ("stdin", "stdout", "stderr")


def has_closed_streams() -> bool:
    return any(getattr(sys, name) is None for name in STREAMS)


def open_closed_streams() -> None:
    """A shell can close them (`>&-`): Python has None there, and the next file that is opened gets it."""
    for number, name in enumerate(STREAMS):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # dup2 onto itself does nothing, not even that
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def give_up_stdout() -> None:
    """What was to be written could not be. Python flushes stdout once more at its end: give it something that can be
    flushed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
