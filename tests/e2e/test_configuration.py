"""Bad configuration gets a clear error and loses nothing; good configuration is applied with the least effect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Finished, Mesh, fresh_mesh, server, wait_for


def refused(done: Finished, *words: str, code: int = 2) -> None:
    """It ended with this code and one clear sentence that holds these words; never with a traceback."""
    assert done.code == code, done
    assert "Traceback" not in done.out + done.err
    for word in words:
        assert word in done.err, f"{word!r} is not in {done.err!r}"


BAD = {
    "toml syntax": ("[agents.a\ncommand = 'a.py'", ["mesh.toml", "line 1"]),
    "unknown key, with a suggestion": ("[agents.a]\ncomand = 'a.py'", ["agents.a.comand", "command"]),
    "the word of another tool": ("[agents.a]\ncommand = 'a.py'\ncwd = '.'", ["agents.a.cwd", "directory"]),
    "wrong type": ("[agents.a]\ncommand = 'a.py'\nport = 'many'", ["agents.a.port"]),
    "a port that is none": ("[agents.a]\ncommand = 'a.py'\nport = 70000", ["agents.a.port"]),
    "two agents with one port": (
        "[agents.a]\ncommand = 'a.py'\nport = 8201\n[agents.b]\ncommand = 'a.py'\nport = 8201",
        ["8201", "a", "b"],
    ),
    "cyclic depends_on": (
        "[agents.a]\ncommand = 'a.py'\ndepends_on = ['b']\n[agents.b]\ncommand = 'a.py'\ndepends_on = ['a']",
        ["depends_on", "a", "b"],
    ),
    "unknown dependency": ("[agents.a]\ncommand = 'a.py'\ndepends_on = ['nobody']", ["depends_on", "nobody"]),
    "a bad name": ("[agents.Big_Agent]\ncommand = 'a.py'", ["Big_Agent"]),
    "a reserved name": ("[agents.registry]\ncommand = 'a.py'", ["registry", "reserved"]),
    "a missing script": ("[agents.a]\ncommand = 'missing.py'", ["agents.a.command", "missing.py"]),
    "a command line as a string": ("[agents.a]\ncommand = 'uv run a'", ["agents.a.command", '["uv", "run", "a"]']),
    "a missing interpreter": ("[agents.a]\ncommand = 'a.py'\npython = 'no/python'", ["agents.a.python", "no/python"]),
    "a missing directory": ("[agents.a]\ncommand = 'a.py'\ndirectory = 'nowhere'", ["agents.a.directory", "nowhere"]),
    "a missing env_file": ("[agents.a]\ncommand = 'a.py'\nenv_file = 'no.env'", ["agents.a.env_file", "no.env"]),
    "an unset variable": ("[agents.a]\ncommand = 'a.py'\nargs = ['${NOT_SET_AT_ALL}']", ["NOT_SET_AT_ALL"]),
    "a key of later work": (
        "[agents.a]\ncommand = 'a.py'\nrestart_above = { memory = '1GiB' }",
        ["agents.a.restart_above", "not available in this version"],
    ),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Mesh]:
    """A folder in which nothing ever runs."""
    with fresh_mesh() as mesh:
        mesh.write("a.py", "pass\n")
        yield mesh


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_refused_with_its_place(folder: Mesh, name: str) -> None:
    text, words = BAD[name]
    folder.write("mesh.toml", text + "\n")
    refused(folder.run("check"), *words)


def test_up_refuses_as_check_does_and_starts_nothing(folder: Mesh) -> None:
    folder.write("mesh.toml", "[agents.a]\ncomand = 'a.py'\nport = 'x'\n[agents.B]\ncommand = 'a.py'\n")
    for words in (["up"], ["up", "-d"]):
        refused(folder.run(*words), "agents.a.comand", "agents.a.port", "B")
    assert not folder.processes()


def test_no_mesh_toml(folder: Mesh) -> None:
    (folder.root / "mesh.toml").unlink(missing_ok=True)
    refused(folder.run("up"), "mesh.toml", "meshsup init")
    refused(folder.run("-f", "other.toml", "up"), "other.toml")
    refused(folder.run("-C", "no/such/folder", "up"), "no/such/folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_mesh_toml(folder: Mesh) -> None:
    folder.write("mesh.toml", "[agents.a]\ncommand = 'a.py'\n").chmod(0)
    refused(folder.run("check"), "mesh.toml", "Permission")
    (folder.root / "mesh.toml").chmod(0o600)


def test_a_folder_as_mesh_toml(folder: Mesh) -> None:
    (folder.root / "mesh.toml").unlink(missing_ok=True)
    (folder.root / "mesh.toml").mkdir()
    done = folder.run("-f", "mesh.toml", "check")
    (folder.root / "mesh.toml").rmdir()
    refused(done, "mesh.toml")


def test_a_state_dir_that_cannot_be_written(folder: Mesh) -> None:
    folder.write("mesh.toml", "[mesh]\nstate_dir = 'a.py/state'\n[agents.a]\ncommand = 'a.py'\n")
    done = folder.run("up", "-d")
    assert done.code in (1, 2)
    refused(done, "a.py/state", code=done.code)


def test_found_upward_and_by_option_and_by_environment(folder: Mesh) -> None:
    folder.write("mesh.toml", "[agents.a]\ncommand = 'a.py'\n")
    deep = folder.root / "deep/er"
    deep.mkdir(parents=True)
    elsewhere = Path("/")
    assert folder.run("check", cwd=deep).code == 0
    assert folder.run("-C", str(folder.root), "check", cwd=elsewhere).code == 0
    assert folder.run("-f", str(folder.root / "mesh.toml"), "check", cwd=elsewhere).code == 0
    assert folder.run("check", cwd=elsewhere, env={"MESHSUP_FILE": str(folder.root / "mesh.toml")}).code == 0
    refused(folder.run("check", cwd=elsewhere), "mesh.toml")


def test_the_schema_is_json(folder: Mesh) -> None:
    assert folder.ok("schema").lstrip().startswith("{")


# ---- a mesh.toml that changes while it runs ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        mesh.serving("one", "two")
        mesh.up()
        yield mesh


def restore(mesh: Mesh) -> None:
    mesh.config(mesh.table("one") + mesh.table("two"))
    mesh.ok("apply")
    wait_for(lambda: set(mesh.agents()) == {"one", "two"} and mesh.snapshot().config_error is None)
    mesh.wait_ready()


def test_a_valid_change_is_applied_with_the_least_effect(running: Mesh) -> None:
    restore(running)
    running.write("three.py", server("three"))
    before = running.wait_ready()
    running.config(running.table("one", "env = { WORD = 'new' }") + running.table("two") + running.table("three"))
    running.wait_generation("one", before["one"].generation)
    wait_for(lambda: "three" in running.agents())
    running.wait_ready()
    assert running.answer("three") == "three"
    assert running.agent("two").pid == before["two"].pid
    running.wait_log("three")
    running.wait_log("env")
    running.config(running.table("one", "env = { WORD = 'new' }") + running.table("two"))
    wait_for(lambda: "three" not in running.agents())
    assert not [line for line in running.processes().values() if "three.py" in line]


def test_an_invalid_change_keeps_the_last_valid_one_and_says_why(running: Mesh) -> None:
    restore(running)
    before = running.pids()
    running.write("mesh.toml", "[agents.one\n")
    wait_for(lambda: running.snapshot().config_error)
    assert "line 1" in str(running.snapshot().config_error)
    refused(running.run("apply"), "mesh.toml", code=2)
    (running.root / "mesh.toml").unlink()
    wait_for(lambda: "line 1" not in (running.snapshot().config_error or "line 1"))
    assert running.pids() == before
    assert "one" in running.ok("ps")
    assert running.events("config-rejected")
    restore(running)
    assert running.pids() == before


def test_apply_dry_run_prints_the_difference_and_does_nothing(mesh: Mesh) -> None:
    mesh.serving("one", "two")
    mesh.up("--no-watch")
    before = mesh.pids()
    mesh.config(mesh.table("one", "env = { TOKEN = 'swordfish' }") + mesh.table("two"))
    said = mesh.ok("apply", "--dry-run")
    assert "one" in said and "env" in said and "swordfish" not in said
    assert mesh.pids() == before
    mesh.ok("apply")
    mesh.wait_ready()
    assert mesh.agent("one").pid != before["one"] and mesh.agent("two").pid == before["two"]


def test_an_env_file_is_an_input(running: Mesh) -> None:
    restore(running)
    running.write("one.env", "WORD=first\n")
    running.write("one.py", server("", 'WORD = os.environ.get("WORD", "none")').replace("ANSWER = ''", "ANSWER = WORD"))
    running.config(running.table("one", "env_file = 'one.env'") + running.table("two"))
    running.wait_answer("one", "first")
    with running.only_restarts("one"):
        running.write("one.env", "WORD=second\n")
    assert running.answer("one") == "second"
    restore(running)


def test_secrets_are_never_printed(running: Mesh) -> None:
    restore(running)
    with running.only_restarts("one"):
        running.config(running.table("one", "env = { TOKEN = 'swordfish' }") + running.table("two"))
    said = running.log() + running.ok("ps", "-o", "wide") + running.ok("check") + running.ok("history")
    assert "swordfish" not in said + (running.state_dir / "events.jsonl").read_text()
    restore(running)
