"""What SIGHUP means: the end of a terminal, or, in a container, a question."""

from __future__ import annotations

import os
import pty
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
