"""What can be said of the image's files, and of `tests/docker/run`, without an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docker.containers import AGENT_PORTS
from tests.docker.scenarios import REPOSITORY

EXAMPLE = REPOSITORY / "examples/docker"
MESH = tomllib.loads((REPOSITORY / "mesh.toml").read_text())


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tests/docker/run"), *words]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


def test_without_an_engine_it_is_skipped_with_its_reason(tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/nobody.sock"
    skipped = run(DOCKER_HOST=nobody)
    assert (skipped.returncode, skipped.stderr) == (0, "")
    assert re.fullmatch(
        r"skipped: (there is no docker command|no Docker engine answers at .*nobody\.sock).*\n", skipped.stdout
    )
    assert run("--require", DOCKER_HOST=nobody).returncode == 1


def test_a_scenario_that_there_is_not_is_an_error() -> None:
    refused = run("no_such_scenario")
    assert refused.returncode == 2
    assert "no_such_scenario" in refused.stderr


def test_the_ports_are_those_of_the_example_mesh() -> None:
    assert {name: agent["port"] for name, agent in MESH["agents"].items()} == AGENT_PORTS


@pytest.mark.parametrize("file", ["compose.yaml", "compose.prod.yaml"])
def test_compose_publishes_every_port(file: str) -> None:
    published = re.findall(r"\}:(\d+)\"$", (EXAMPLE / file).read_text(), re.MULTILINE)
    assert sorted(map(int, published)) == sorted(AGENT_PORTS.values())
