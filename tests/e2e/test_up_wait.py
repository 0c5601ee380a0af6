"""`up --wait` returns when what was asked for is there, or cannot be; never because nothing has been begun yet."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.e2e.harness import Mesh, server, wait_for

EMBEDDED = "port = {port}"
EXTERNAL = 'kind = "external"\nurl = "http://127.0.0.1:{port}"'


@pytest.mark.parametrize("registry", [EMBEDDED, EXTERNAL], ids=["embedded", "external"])
def test_what_is_not_begun_yet_is_waited_for(mesh: Mesh, registry: str) -> None:
    """An interpreter that takes its time when it is asked what it has, before anything is started from it."""
    mesh.write("agent.py", server("agent"))
    gate, python = mesh.root / "enough", mesh.root / "slow/python"
    mesh.write("slow/python", f'#!/bin/sh\nuntil [ -e "{gate}" ]; do sleep 0.02; done\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    table = mesh.table("agent", 'python = "slow/python"')
    mesh.write("mesh.toml", f"[registry]\n{registry.format(port=mesh.registry_port)}\n{table}")
    up = mesh.foreground("up", "--wait", "--timeout", "60")
    wait_for(lambda: "agent: waiting" in up.output())
    if registry is EMBEDDED:
        wait_for(lambda: "registry: ready" in up.output())
    assert mesh.agent("agent").wanted and mesh.agent("agent").generation == 0
    gate.touch()
    assert up.wait() == 0, up.output()
    assert mesh.agent("agent").state == "ready" and mesh.answer("agent") == "agent"


def test_a_port_that_is_taken_is_said_and_the_rest_goes_on(mesh: Mesh) -> None:
    mesh.serving("agent", "other", keys="crashloop = { crashes = 2 }")
    with socket.create_server(("127.0.0.1", mesh.port("agent"))):
        done = mesh.run("up", "--wait", "--timeout", "60")
        assert done.code == 1, done
        wrong = f"agent cannot get ready: port {mesh.port('agent')} is already in use by "
        assert wrong in done.err and "see `meshsup ps`" in done.err
        assert "Traceback" not in done.err
    assert mesh.wait_ready("other")["other"].restarts == 0
    assert mesh.run("up", "--wait", "--timeout", "60").code == 0, "it is free now, and to start is to try at once"
    assert mesh.answer("agent") == "agent one"


def test_one_that_fails_is_said_with_its_reason(mesh: Mesh) -> None:
    mesh.serving("agent", "other", keys="crashloop = { crashes = 2 }")
    mesh.write("agent.py", "raise ValueError('no key')\n")
    done = mesh.run("up", "--wait", "--timeout", "60")
    assert done.code == 1
    assert "agent cannot get ready: exit 1: ValueError: no key (agent.py:1)" in done.err
    assert mesh.wait_ready("other")["other"].pid is not None


def test_it_gives_up_after_its_time_and_the_mesh_goes_on(mesh: Mesh) -> None:
    gate = mesh.root / "enough"
    waiting = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.02)\n"
    mesh.write("agent.py", server("agent", waiting))
    # A registry of ours would have to be up first.
    mesh.write("mesh.toml", f"[registry]\n{EXTERNAL.format(port=mesh.registry_port)}\n{mesh.table('agent')}")
    done = mesh.run("up", "--wait", "--timeout", "3")
    assert done.code == 124
    assert "not ready after 3 s: agent (starting" in done.err and "the mesh goes on" in done.err
    again = mesh.foreground("up", "--wait")
    wait_for(lambda: "agent: starting" in again.output())
    gate.touch()
    assert again.wait() == 0
    assert (mesh.answer("agent"), mesh.agent("agent").generation) == ("agent", 1)


def test_on_a_running_mesh_what_mesh_toml_asks_for_now_is_waited_for(mesh: Mesh) -> None:
    """And an agent that runs on as it was, because the change did not work, is no success."""
    check = "if os.environ['FLAVOUR'] == 'bitter':\n    raise SystemExit('no such taste')"
    mesh.write("agent.py", server("agent", check))
    mesh.config(mesh.table("agent", 'env = { FLAVOUR = "mint" }'))
    mesh.ok("up", "-d", "--no-watch", "--wait")
    before = mesh.agent("agent")
    mesh.edit("mesh.toml", "mint", "lemon")
    mesh.ok("up", "--wait")
    after = mesh.agent("agent")
    assert after.state == "ready" and after.generation == before.generation + 1
    mesh.edit("mesh.toml", "lemon", "bitter")
    done = mesh.run("up", "--wait")
    assert done.code == 1 and "agent runs on as it was: exit 1: no such taste" in done.err
    assert mesh.agent("agent").pid == after.pid
