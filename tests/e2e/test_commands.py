"""What people type while a mesh runs, and while none does."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.harness import MESHSUP, Foreground, Mesh, fresh_mesh, server, wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        mesh.serving("planner", "retriever")
        mesh.write("extra.py", server("extra"))
        with (mesh.root / "mesh.toml").open("a") as file:
            file.write(mesh.table("extra", 'profiles = ["more"]'))
        mesh.up("--wait")
        yield mesh


def test_ps(running: Mesh) -> None:
    running.wait_ready()
    said = running.ok("ps")
    assert said.splitlines()[0].split()[:5] == ["NAME", "STATE", "PID", "PORT", "GEN"]
    assert {"planner", "retriever", "registry"} <= {line.split()[0] for line in said.splitlines()[1:]}
    views = {row["name"]: row for row in json.loads(running.ok("ps", "--json"))["agents"]}
    assert views["planner"]["state"] == "ready" and views["planner"]["port"] == running.port("planner")
    assert views["planner"]["memory"] > 1_000_000
    assert str(views["planner"]["pid"]) in running.ok("ps", "-q").split() or "planner" in running.ok("ps", "-q")


def test_ps_imports_nothing_heavy(running: Mesh) -> None:
    """What makes it quick (the benchmark measures how quick), asserted without a clock."""
    words = [sys.executable, "-X", "importtime", str(MESHSUP), "ps"]
    done = subprocess.run(words, cwd=running.root, env=running.environ, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"starlette", "uvicorn", "watchdog", "httpx2", "psutil", "pydantic", "asyncio"}


def test_unknown_names_get_a_suggestion_and_exit_code_4(running: Mesh) -> None:
    for verb in ("restart", "stop", "start", "reload", "logs"):
        done = running.run(verb, "planer")
        assert done.code == 4, (verb, done)
        assert "planner" in done.err and "Traceback" not in done.err
    assert running.run("frobnicate").code == 2


def test_stop_start_restart_reload_and_globs(running: Mesh) -> None:
    before = running.wait_ready()
    running.ok("stop", "plan*")
    assert running.agent("planner").state == "stopped"
    assert running.agent("retriever").pid == before["retriever"].pid
    assert running.run("reload", "planner").code == 1, "a stopped agent is started, not reloaded"
    running.edit("planner.py", "planner one", "planner edited")
    running.edit("retriever.py", "retriever one", "retriever edited")
    running.wait_answer("retriever", "retriever edited")
    assert running.agent("planner").state == "stopped", "an edit never starts what was stopped by hand"
    running.ok("start", "planner")
    assert running.answer("planner") == "planner edited"
    generation = running.agent("planner").generation
    running.ok("reload", "planner.py")
    assert running.agent("planner").generation == generation + 1
    running.ok("restart")
    assert running.agent("planner").generation == generation + 2


def test_an_agent_of_a_profile_is_started_by_its_name_or_profile_only(running: Mesh) -> None:
    running.wait_ready()
    running.ok("restart")
    running.ok("start")
    assert (running.agent("extra").state, running.agent("extra").generation) == ("stopped", 0)
    running.ok("start", "extra")
    assert running.answer("extra") == "extra"
    running.ok("stop", "extra")
    assert running.ok("up", "-d", "--profile", "more").splitlines() == ["starts extra"]
    assert running.ok("up", "-d", "--profile", "more").splitlines() == ["nothing changes"]
    running.ok("stop", "extra")
    done = running.run("up", "-d", "--profile", "mroe")
    assert done.code == 2 and "no agent is in a profile 'mroe'; did you mean 'more'?" in done.err


def test_a_second_up_follows_and_its_ctrl_c_ends_the_following_only(running: Mesh) -> None:
    pids = running.wait_ready()["planner"].pid
    second = running.foreground("up")
    wait_for(lambda: _restarted_and_seen(running, second))
    second.signal(signal.SIGINT)
    assert second.wait() in (0, 130)
    assert running.agent("planner").pid == pids


def _restarted_and_seen(running: Mesh, second: Foreground) -> bool:
    """The follower shows what happens once it follows; when that is, only trying tells."""
    running.ok("restart", "retriever")
    return "retriever" in second.output()


def test_watch_disable_truly_gates_and_enable_catches_up(running: Mesh) -> None:
    before = running.wait_ready()["planner"]
    running.ok("watch", "disable", "planner")
    assert "planner" in running.ok("watch", "status")
    running.write("planner.py", server("planner in secret"))
    for number in range(2):  # two edits of another agent, seen through, prove that the watcher was past the first
        generation = running.agent("retriever").generation
        running.write("retriever.py", server(f"retriever {number}"))
        running.wait_generation("retriever", generation)
    assert running.agent("planner").pid == before.pid
    running.ok("watch", "enable", "planner")
    running.wait_answer("planner", "planner in secret")


def test_watch_disable_is_remembered(mesh: Mesh) -> None:
    mesh.serving("agent", "other")
    mesh.up()
    mesh.ok("watch", "disable", "agent")
    mesh.ok("down")
    mesh.foreground("up")
    mesh.wait_ready()
    said = mesh.run("ps")
    assert "not watched (switched off by hand): agent" in said.out + said.err
    mesh.write("agent.py", server("agent two"))
    for number in range(2):
        generation = mesh.agent("other").generation
        mesh.write("other.py", server(f"other {number}"))
        mesh.wait_generation("other", generation)
    assert mesh.answer("agent") == "agent one"


def test_no_watch_switches_everything_off(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.up("--no-watch")
    assert not mesh.snapshot().watching
    mesh.write("agent.py", server("agent two"))
    mesh.reload("agent")
    assert mesh.answer("agent") == "agent two"
    assert mesh.agent("agent").generation == 2


def test_nothing_runs(mesh: Mesh) -> None:
    mesh.serving("agent")
    for verb in (["ps"], ["stop"], ["restart", "agent"], ["watch", "enable"], ["reload"], ["ps", "--json"]):
        done = mesh.run(*verb)
        assert done.code == 3, (verb, done)
        assert done.err.strip() and "Traceback" not in done.err
    assert mesh.run("down").code in (0, 3)


def test_a_stale_socket_and_a_private_state_dir(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.state_dir.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(mesh.state_dir / "control.sock"))
    assert mesh.run("ps").code == 3
    mesh.up()
    assert stat.S_IMODE(mesh.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((mesh.state_dir / "control.sock").stat().st_mode) == 0o600
    assert (mesh.state_dir / ".gitignore").read_text().strip() == "*"


def test_wait_tells_success_failure_and_time_out(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.ok("up", "--wait")
    assert mesh.answer("agent") == "agent one"
    mesh.ok("down")
    mesh.write("agent.py", "import time\ntime.sleep(1000)\n")
    assert mesh.run("up", "--wait", "--timeout", "1").code == 124
    mesh.ok("down")
    mesh.write("agent.py", "this is no Python\n")
    assert mesh.run("up", "--wait", "--timeout", "30").code == 1


def test_up_of_some_agents_starts_their_dependencies(mesh: Mesh) -> None:
    for name in ("front", "back", "aside"):
        mesh.write(f"{name}.py", server(name))
    mesh.config(mesh.table("front", 'depends_on = ["back"]') + mesh.table("back") + mesh.table("aside"))
    mesh.ok("up", "--wait", "front")
    states = {name: view.state for name, view in mesh.agents().items()}
    assert states["front"] == states["back"] == "ready"
    assert states.get("aside", "stopped") == "stopped"
    started = [event["agent"] for event in mesh.events("ready") if event["agent"] in ("front", "back")]
    assert started == ["back", "front"]


def test_run_and_exec(mesh: Mesh) -> None:
    """One agent alone in this terminal; and any command where an agent would run."""
    mesh.write("agent.py", "import os, sys\nprint('argv', sys.argv[1:], os.environ['WORD'])\nraise SystemExit(7)\n")
    mesh.config('[agents.agent]\ncommand = "agent.py"\nargs = ["--fast"]\nenv = { WORD = "said" }\n')
    done = mesh.run("run", "agent")
    assert (done.code, done.out.strip()) == (7, "argv ['--fast'] said")
    words = [sys.executable, "-c", "import os; print(os.environ['WORD'], os.environ.get('MESHSUP_INSTANCE'))"]
    assert mesh.ok("exec", "agent", "--", *words).strip() == "said None"
    assert mesh.run("run", "nobody").code == 4


def test_events_and_history_as_json(running: Mesh) -> None:
    running.wait_ready()
    running.ok("reload", "planner")
    rows = json.loads(running.ok("history", "--json"))
    assert rows and json.dumps(rows).count("planner")
    assert running.events("reload-completed", agent="planner")


def test_init_writes_a_mesh_toml_that_check_accepts(mesh: Mesh) -> None:
    mesh.write("planner.py", server("planner"))
    mesh.ok("init")
    assert "planner" in (mesh.root / "mesh.toml").read_text()
    mesh.ok("check")
    assert mesh.run("init").code != 0, "what is there is not overwritten"
