"""`meshsup doctor`: what it finds, how that reads, and its exit code."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.limits import Limitation
from tests.cli.conftest import Command
from tests.cli.test_command import in_terminal
from tests.control.fake import VIEW, FakeMesh, snapshot


def findings(meshsup: Command, **given: Any) -> list[tuple[str, str, str]]:
    """(group, subject, text)"""
    body = json.loads(meshsup("doctor", "--json", **given).out)
    return [(one["group"], one["subject"], one["text"]) for one in body["findings"]]


def test_nothing_is_wrong(root: Path, meshsup: Command) -> None:
    done = meshsup("doctor")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("nothing is wrong: 1 agent, 1 interpreter, ports, watching, state_dir, limits\n")
    assert not (root / ".mesh").exists(), "it only looks"
    body = json.loads(meshsup("doctor", "--json").out)
    assert (body["ok"], body["running"]) == (True, False)


def test_mistakes_are_problems(root: Path, meshsup: Command) -> None:
    (root / "mesh.toml").write_text('[agents.planner]\ncommand = "gone.py"\nprot = 1\n')
    done = meshsup("doctor")
    assert done.code == 1
    assert "mesh.toml\n  ✘ agents.planner." in done.out
    assert done.out.endswith("2 problems found\n")


def test_an_environment_with_problems(root: Path, meshsup: Command) -> None:
    (root / "python").write_text("#!/bin/sh\necho 'no such library' >&2\n")
    (root / "python").chmod(0o755)
    (root / "uv.lock").touch()
    (root / ".mesh").mkdir()
    (root / ".mesh").chmod(0o755)  # whatever the umask is
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (root / "mesh.toml").write_text(
            f'[agents.planner]\ncommand = "agents/planner.py"\nport = {port}\n\n'
            '[agents.odd]\ncommand = "agents/planner.py"\npython = "python"\n\n'
            '[agents.uv]\ncommand = ["uv", "run", "planner"]\n'
        )
        empty = root / "bin"
        empty.mkdir()
        (empty / "python").symlink_to(sys.executable)
        found = findings(meshsup, env={"PATH": str(empty)})
    assert ("agents", "uv", "its command starts with uv, which is not in PATH") in found
    assert ("agents", "planner", f"{root}/uv.lock is there, but no .venv beside it") in found
    assert ("interpreters", f"{root}/python (odd)", "does not start: no such library") in found
    assert any(group == "ports" and who == "planner" and f"port {port} is in use" in text for group, who, text in found)
    assert any(group == "state_dir" and "mode 0755" in text for group, who, text in found)


def test_a_running_mesh_tells_what_its_agents_cannot_have(mesh: FakeMesh, meshsup: Command) -> None:
    limit = Limitation("sockets", "granian binds out of sight", "serve it with uvicorn, hypercorn or aiohttp")
    mesh.now = snapshot(mesh.place, replace(VIEW, limits=(limit,)))
    mesh.answers["watch-status"] = Answer(ok=True, body={"how": "inotify", "why": "", "directories": 3})
    mesh.place.state_dir.chmod(0o700)
    done = meshsup("doctor")
    assert done.code == 0
    assert "agents\n  · planner: stop-first: granian binds out of sight\n    → serve it with uvicorn" in done.out
    mesh.answers["watch-status"] = Answer(ok=True, body={"how": "polling", "why": "the limit is reached"})
    mesh.now = snapshot(mesh.place, replace(VIEW, state="failed", failure="NameError: x"), config_error="mesh.toml: x")
    body = json.loads(meshsup("doctor", "--json").out)
    assert body["running"] and not body["ok"]
    assert [one["text"] for one in body["findings"] if one["wrong"]] == [
        "is valid, but not what runs",
        "failed: NameError: x",
        "inotify is not used: the limit is reached",
    ]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_state_dir_that_cannot_be_made(root: Path, meshsup: Command) -> None:
    root.chmod(0o555)
    try:
        assert ("state_dir", f"{root}/.mesh", "cannot be made") in findings(meshsup)
    finally:
        root.chmod(0o755)


def test_it_reads_well_at_80_columns(mesh: FakeMesh) -> None:
    limit = Limitation(
        "warm", "these modules start threads: " + ", ".join(f"module{i}" for i in range(12)), "spare " * 30
    )
    mesh.now = snapshot(mesh.place, replace(VIEW, limits=(limit,)))
    mesh.answers["watch-status"] = Answer(ok=True, body={"how": "inotify", "why": ""})
    lines = in_terminal(mesh.place.root, "doctor", columns=80, NO_COLOR="1").splitlines()
    # A path is never broken: it is to be copied.
    assert max(len(line) for line in lines if str(mesh.place.root) not in line) <= 80
    assert sum("→" in line for line in lines) >= 1
