"""Which way a command goes: a check that an engine runs every few seconds a short one, all else to cli/main.py.

Verbs, and the modules that all of them need, are most of what a command costs.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from mesh_supervisor.cli import probe
from mesh_supervisor.cli.shell import COMPLETE, give_up_stdout, has_closed_streams


def main() -> NoReturn:
    """Always leaves by SystemExit."""
    try:
        question = _short_question()
        if question is not None:
            sys.exit(_told(*probe.answer(question, None, os.environ)))
    except KeyboardInterrupt:
        sys.exit(130)
    from mesh_supervisor.cli.main import main as every_verb

    every_verb()


def _short_question() -> probe.Question | None:
    """None also where more is to be done first: streams that a shell has closed, a completion."""
    if has_closed_streams() or COMPLETE in os.environ:
        return None
    return probe.understood(sys.argv[1:])


def _told(line: str, code: int) -> int:
    """The exit code says it all: that nobody reads the line, or it cannot be written, changes nothing."""
    try:
        print(line, flush=True)
    except (OSError, UnicodeError):
        give_up_stdout()
    return code
