"""The real command as a subprocess; a fake supervisor behind a real socket where one is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh_supervisor.locate import Place
from tests.control.fake import FakeMesh, running

MESHSUP = Path(sys.executable).with_name("meshsup")


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


Command = Callable[..., Done]


def environment(root: Path) -> dict[str, str]:
    """What a command in a test gets to see: nothing of the mesh or the terminal that the tests run in."""
    left_out = ("MESHSUP_", "MCP_MESH_", "NO_COLOR", "COLUMNS", "XDG_RUNTIME_DIR")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return {**kept, "HOME": str(root), "TERM": "xterm-256color", "TZ": "UTC"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a mesh.toml of one agent, and nothing above it."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "planner.py").write_text("print('planning')\n")
    (tmp_path / "mesh.toml").write_text('[mesh]\nname = "demo"\n\n[agents.planner]\ncommand = "agents/planner.py"\n')
    return tmp_path


@pytest.fixture
def meshsup(root: Path) -> Command:
    def run(*words: str, env: Mapping[str, str] = {}, cwd: Path | None = None, stdin: str = "") -> Done:
        done = subprocess.run(
            [str(MESHSUP), *words],
            cwd=cwd or root,
            env={**environment(root), **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def place(root: Path) -> Place:
    return Place(root / "mesh.toml", root, root / ".mesh")


@pytest.fixture
def mesh(place: Place) -> Iterator[FakeMesh]:
    """A supervisor that answers what the test tells it to."""
    with running(FakeMesh(place)) as fake:
        yield fake
