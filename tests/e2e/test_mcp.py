"""An MCP server of the MCP SDK 2.x, called by that SDK's own client through reloads.

mcp 2.x cannot live beside mcp-mesh, which pins 1.x: it has an environment of its own, made once and kept in pytest's
cache.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.load import FRESH, KEPT, Load, failures
from benchmarks.mcp_load import mcp_load
from benchmarks.programs import KINDS
from benchmarks.venvs import Interpreters
from tests.e2e.harness import STANDSTILL, Mesh, alive, wait_for

pytestmark = pytest.mark.timeout(300)  # importing this SDK takes a second of a quiet machine

RELOADS = 5
RATE = 10
"""Calls per second: one costs client and server several milliseconds, and tests run beside others."""

SOURCE = KINDS["MCP"].source
UNREACHABLE = re.compile(
    r"failed to fetch|error sending request|dns error|could not connect|timed? ?out|network|offline", re.IGNORECASE
)


@pytest.fixture(scope="module")
def python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has mcp 2.x."""
    cache = pytestconfig.cache
    folder = cache.mkdir("mesh-venvs") if cache is not None else tmp_path_factory.mktemp("venvs")
    interpreters = Interpreters(Path(folder))
    try:
        found = interpreters.of("MCP")
    except subprocess.CalledProcessError as error:
        if not UNREACHABLE.search(error.stderr or ""):
            raise AssertionError(f"mcp 2.x cannot be installed: {error.stderr}") from error
        pytest.skip(f"the package index is out of reach for mcp 2.x: {error.stderr.strip().splitlines()[-1].strip()}")
    assert int(interpreters.versions["MCP"]["mcp"].partition(".")[0]) >= 2
    return found


def start(mesh: Mesh, python: str) -> None:
    mesh.write("agent.py", SOURCE.format(word="word0"))
    mesh.config(mesh.table("agent", f"python = '{python}'"))
    mesh.up()


def calls(mesh: Mesh, python: str) -> Load:
    return Load(mcp_load(python, mesh.port("agent"), rate=RATE, most=STANDSTILL * RATE))


def said(load: Load, word: str, kind: str) -> bool:
    return any(request.kind == kind and request.said.startswith(f"{word} ") for request in load.so_far())


def test_reloads_lose_no_call(mesh: Mesh, python: str) -> None:
    """Every tenth call by a client that is made for it, the others by one that is kept."""
    start(mesh, python)
    with calls(mesh, python) as load:
        wait_for(lambda: said(load, "word0", KEPT) and said(load, "word0", FRESH))
        for number in range(1, RELOADS + 1):
            mesh.write("agent.py", SOURCE.format(word=f"word{number}"))
            wait_for(lambda word=f"word{number}": said(load, word, KEPT), 60)  # type: ignore[misc]
        wait_for(lambda: said(load, f"word{RELOADS}", FRESH))
        requests = load.stop()
    assert failures(requests) == {}, [request for request in requests if request.failure][:5]
    assert {request.said.split()[0] for request in requests} == {f"word{number}" for number in range(RELOADS + 1)}
    view = mesh.wait_ready()["agent"]
    assert (view.generation, view.order) == (RELOADS + 1, "start-first")
    assert [row["outcome"] for row in mesh.history("agent")] == ["completed"] * RELOADS


def test_a_newcomer_that_does_not_come_up_loses_no_call(mesh: Mesh, python: str) -> None:
    start(mesh, python)
    pid = mesh.agent("agent").pid
    with calls(mesh, python) as load:
        wait_for(lambda: said(load, "word0", KEPT))
        mesh.write("agent.py", SOURCE.format(word="broken").replace("@app.tool()", "@app.tool(unknown_thing)"))
        assert "unknown_thing" in str(mesh.wait_rejected("agent").rejection)
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 20)
        requests = load.stop()
    assert failures(requests) == {}, [request for request in requests if request.failure][:5]
    assert {request.said for request in requests} == {f"word0 {pid}"}


def test_kill_9_refuses_no_fresh_client(mesh: Mesh, python: str) -> None:
    """What was open at the kill may fail; who comes afterwards waits for the next instance."""
    start(mesh, python)
    pid = mesh.agent("agent").pid or 0
    with calls(mesh, python) as load:
        wait_for(lambda: said(load, "word0", FRESH))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        wait_for(lambda: mesh.agent("agent").restarts == 1 and mesh.agent("agent").state == "ready")
        new = mesh.agent("agent").pid
        wait_for(lambda: any(request.said == f"word0 {new}" for request in load.so_far() if request.kind == FRESH))
        requests = load.stop()
    failed = [request for request in requests if request.failure]
    assert not [request for request in failed if request.kind == FRESH and "refused" in request.said.lower()], failed
    assert requests[-1].said == f"word0 {new}"
