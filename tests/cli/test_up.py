"""`up` around its supervisor: joining a running mesh, waiting, and a start that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.host.lines import Line
from tests.cli.conftest import Command
from tests.control.fake import AT, VIEW, FakeMesh, snapshot


def test_up_joins_a_running_mesh_and_follows(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.answers["up"] = Answer(ok=True, lines=("nothing would change",))
    mesh.past_lines = [Line(AT, "planner", 1, "long ago")]
    mesh.coming_lines = [Line(AT, "planner", 1, "from now on")]
    done = meshsup("up", "planner", "--profile", "extra")
    assert mesh.asked[0] == ("up", {"agents": ["planner"], "profiles": ["extra"]})
    assert done.out.splitlines() == ["nothing would change", "planner | from now on"]
    assert "Ctrl-C ends the following only" in done.err


def test_up_detached_on_a_running_mesh_does_not_stay(mesh: FakeMesh, meshsup: Command) -> None:
    done = meshsup("up", "-d")
    assert (done.code, [verb for verb, _ in mesh.asked]) == (0, ["up"])


def test_what_a_running_mesh_cannot_become_is_said(mesh: FakeMesh, meshsup: Command) -> None:
    said = "--prod and --no-watch and --debounce: no effect on a mesh that runs (dev mode, watching); `meshsup down`"
    assert said in meshsup("up", "-d", "--prod", "--no-watch", "--debounce", "1").err
    assert "no effect" not in meshsup("up", "-d", "--dev", "--watch").err
    assert [verb for verb, _ in mesh.asked] == ["up", "up"]


def test_waiting_ends_when_all_are_ready(mesh: FakeMesh, meshsup: Command) -> None:
    job = replace(VIEW, name="job", kind="task", state="done")
    mesh.later = [snapshot(mesh.place, replace(VIEW, state="starting"), job)] * 3
    done = meshsup("up", "--wait", "--timeout", "20")
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith(("planner", "job"))] == [
        "planner: starting",
        "job: done",
        "planner: ready",
    ]


def test_waiting_is_over_at_124(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, state="starting", detail="no answer on port 8101"))
    done = meshsup("up", "--wait", "--timeout", "0.3")
    assert done.code == 124
    assert "not ready after 0.3 s: planner (starting: no answer on port 8101)" in done.err


def test_waiting_gives_up_on_what_cannot_get_ready(mesh: FakeMesh, meshsup: Command) -> None:
    broken = replace(VIEW, name="writer", state="crashloop", failure="exit 1: ValueError: no key")
    stopped = replace(VIEW, name="extra", state="stopped", wanted=False)
    mesh.now = snapshot(mesh.place, VIEW, broken, stopped)
    done = meshsup("up", "--wait")
    assert done.code == 1
    assert "meshsup: writer cannot get ready: exit 1: ValueError: no key" in done.err


def test_waiting_says_what_it_waits_through(mesh: FakeMesh, meshsup: Command) -> None:
    troubled = replace(VIEW, state="backoff", failure="port 8101 is already in use by nc (pid 7)")
    mesh.later = [snapshot(mesh.place, troubled)] * 3
    done = meshsup("up", "--wait")
    assert done.code == 0
    assert "planner: backoff (port 8101 is already in use by nc (pid 7))" in done.err.splitlines()


def test_waiting_is_no_success_where_old_code_runs_on(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, rejection="SyntaxError: planner.py:1"))
    done = meshsup("up", "--wait")
    assert done.code == 1
    assert "meshsup: planner runs on as it was: SyntaxError: planner.py:1" in done.err


def test_a_start_that_fails_says_why_with_its_code(root: Path, meshsup: Command) -> None:
    (root / "mesh.toml").write_text('[agents.planner]\ncommand = "gone.py"\n')
    for words in (("up",), ("up", "-d"), ("up", "--wait")):
        done = meshsup(*words)
        assert (done.code, done.out) == (2, "")
        assert "gone.py" in done.err
    assert meshsup("ps").code == 3
