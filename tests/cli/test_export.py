"""`export` before it writes: what it asks of others. What it writes is in tests/pure and tests/e2e."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize("verb", ["compose", "systemd"])
def test_an_interpreter_is_asked_once(root: Path, meshsup: Command, verb: str) -> None:
    """Starting one takes longer than all else that an export does."""
    counted = root / "counted"
    counted.write_text(f'#!/bin/sh\necho asked >> {root}/asked\nexec {sys.executable} "$@"\n')
    counted.chmod(0o755)
    agent = 'command = "agents/planner.py"\npython = "counted"\n'
    (root / "mesh.toml").write_text(f"[agents.planner]\n{agent}\n[agents.other]\n{agent}")
    done = meshsup("export", verb)
    assert done.code == 0, done.err
    assert (root / "asked").read_text() == "asked\n"
