"""Which way a command goes: a check that an engine runs every few seconds a short one, all else to cli/main.py.

Verbs, and the modules that all of them need, are most of what a command costs.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from mesh_supervisor.cli import probe, pulse
from mesh_supervisor.cli.shell import COMPLETE, give_up_stdout, has_closed_streams


def main() -> NoReturn:
    """Always leaves by SystemExit."""
    try:
        answer = _short_answer()
        if answer is not None:
            sys.exit(_told(*answer))
    except KeyboardInterrupt:
        sys.exit(130)
    from mesh_supervisor.cli.main import main as every_verb

    every_verb()


def _short_answer() -> tuple[str, int] | None:
    """(line, exit code) of a check; None also where more is to be done first: streams that a shell has closed, a
    completion."""
    if has_closed_streams() or COMPLETE in os.environ:
        return None
    if (question := probe.understood(sys.argv[1:])) is not None:
        return probe.answer(question, None, os.environ)
    asked = pulse.understood(sys.argv[1:])
    return None if asked is None else pulse.answer(*asked)


def _told(line: str, code: int) -> int:
    """The exit code says it all: that nobody reads the line, or it cannot be written, changes nothing."""
    try:
        print(line, flush=True)
    except (OSError, UnicodeError):
        give_up_stdout()
    return code
