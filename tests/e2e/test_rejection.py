"""A file that cannot work takes nothing down."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mesh_supervisor.control.messages import AgentView
from tests.e2e.harness import Mesh, fresh_mesh, server, wait_for

IMPORTING = "from rules import greeting\ngreeting()\n"


@pytest.fixture(scope="module")
def pair() -> Iterator[Mesh]:
    """``planner`` imports rules.py, ``clock`` nothing."""
    with fresh_mesh() as mesh:
        mesh.serving("planner", "clock")
        mesh.write("rules.py", "def greeting():\n    return 'hello'\n")
        mesh.write("planner.py", server("planner one", IMPORTING))
        mesh.up()
        yield mesh


@pytest.fixture
def mended(pair: Mesh) -> Iterator[Mesh]:
    """The pair, with both files good again afterwards."""
    yield pair
    # Nothing that is as it was: that would be a change of its own, seen some time later, perhaps in the next test.
    good = {"rules.py": "def greeting():\n    return 'hello'\n", "planner.py": server("planner one", IMPORTING)}
    for name, text in good.items():
        file = pair.root / name
        if not file.exists() or file.read_text() != text:
            pair.write(name, text)
    pair.wait_answer("planner", "planner one")
    wait_for(lambda: pair.agent("planner").rejection is None)


def rejected(mesh: Mesh) -> AgentView:
    def look() -> AgentView:
        view = mesh.agent("planner")
        assert view.rejection, view
        return view

    return wait_for(look)


def test_a_syntax_error_keeps_the_old_pid_and_mending_reloads(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    mended.write("planner.py", "def broken(:\n")
    view = rejected(mended)
    assert (view.pid, view.state) == (before.pid, "ready")
    assert "SyntaxError" in str(view.rejection) and "planner.py:1" in str(view.rejection)
    assert "reload rejected" in mended.ok("ps") and "SyntaxError" in mended.ok("ps", "-o", "wide")
    assert mended.answer("planner") == "planner one"
    mended.wait_log("Reload rejected")

    mended.write("planner.py", server("planner two", IMPORTING))
    mended.wait_answer("planner", "planner two")
    assert mended.wait_ready("planner")["planner"].generation == before.generation + 1
    assert mended.agent("planner").rejection is None


def test_a_syntax_error_in_an_imported_module_names_that_module(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    mended.write("rules.py", "def greeting():\n    return 'hello\n")
    assert "rules.py:2" in str(rejected(mended).rejection)
    assert mended.agent("planner").pid == before.pid


def test_an_import_of_a_project_name_that_is_gone_keeps_the_old_pid(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    mended.write("rules.py", "def salutation():\n    return 'hello'\n")
    view = rejected(mended)
    assert (view.pid, view.state) == (before.pid, "ready")
    assert "greeting" in str(view.rejection)
    mended.edit("planner.py", "from rules import greeting\ngreeting()", "from rules import salutation\nsalutation()")
    mended.edit("planner.py", "planner one", "planner mended")
    mended.wait_answer("planner", "planner mended")


def test_an_imported_project_module_that_is_deleted_keeps_the_old_pid(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    (mended.root / "rules.py").unlink()
    assert "rules" in str(rejected(mended).rejection)
    assert mended.agent("planner").pid == before.pid


def test_history_tells_what_was_edited_and_why_it_was_rejected(mended: Mesh) -> None:
    mended.write("rules.py", "def greeting(:\n")
    rejected(mended)
    (row,) = json.loads(mended.ok("history", "--json", "-n", "1", "planner"))
    assert (row["outcome"], row["trigger"]) == ("rejected", "save")
    assert row["reason"] == "rules.py ← planner.py (import)"
    assert "SyntaxError" in row["error"] and "rules.py:1" in row["error"]


def test_undoing_a_bad_edit_clears_the_rejection_without_a_restart(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    good = (mended.root / "planner.py").read_text()
    mended.write("planner.py", "def broken(:\n")
    rejected(mended)
    (mended.root / "planner.py").write_text(good)
    wait_for(lambda: mended.agent("planner").rejection is None)
    assert mended.agent("planner").pid == before.pid


def test_restart_and_reload_refuse_to_kill_a_healthy_agent_for_a_file_that_cannot_load(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    mended.write("planner.py", "def broken(:\n")
    rejected(mended)
    for verb in ("restart", "reload"):
        done = mended.run(verb, "planner")
        assert done.code == 1 and "planner.py" in done.out + done.err
        assert "Traceback" not in done.err
    assert mended.agent("planner").pid == before.pid


def test_the_others_never_noticed(pair: Mesh) -> None:
    clock = pair.wait_ready()["clock"]
    assert (clock.generation, clock.restarts) == (1, 0)
    assert pair.answer("clock") == "clock one"


def test_a_program_that_is_deleted_keeps_the_old_pid_and_its_return_is_no_edit(mended: Mesh) -> None:
    before = mended.wait_ready()["planner"]
    program = mended.root / "planner.py"
    good = program.read_text()
    program.unlink()
    assert "planner.py" in str(rejected(mended).rejection)
    assert mended.agent("planner").pid == before.pid
    program.write_text(good)
    wait_for(lambda: mended.agent("planner").rejection is None)
    assert mended.agent("planner").pid == before.pid
