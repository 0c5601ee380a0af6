"""What SIGHUP means: the end of a terminal, or, in a container, a question; and what SIGINT does when all is done."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from mesh_supervisor import signals


@pytest.mark.parametrize("main", [False, True])
def test_a_container_has_no_terminal_to_lose(monkeypatch: pytest.MonkeyPatch, main: bool) -> None:
    """`docker run -t`, with and without `--init`."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0), os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(signals, "is_main_process", lambda: main)
        assert signals.has_terminal() is not main


def test_who_asks_once_more_when_all_is_done_gets_no_words_from_a_loop_that_closes() -> None:
    code = """
import asyncio, os, signal
from mesh_supervisor.signals import heard

async def main():
    with heard(terminal=False):
        pass
    os.kill(os.getpid(), signal.SIGINT)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
