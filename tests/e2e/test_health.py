"""`health` and `ls` with real meshes: at their start, with one agent down, with a supervisor that hangs, at the end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.control.glance import Glance
from mesh_supervisor.errors import NotRunning
from mesh_supervisor.health import Verdict, judge
from tests.e2e.harness import MESHSUP, Mesh, fresh_mesh, server, wait_for
from tests.e2e.namespaces import boxed

CRASHES = "raise SystemExit('no key')\n"
AT_A_LOOK = "crashloop = { crashes = 2, window = 60 }\nbackoff = { initial = 0.05, max = 60 }\n"
"""In a crash loop after two crashes, and tried again long after the test."""


def health(mesh: Mesh, *words: str, **options: Any) -> tuple[int, str]:
    """Exit code and line."""
    done = mesh.run("health", *words, **options)
    assert done.err == ""
    assert done.out.count("\n") == 1 and done.out.endswith("\n")
    return done.code, done.out.strip()


def wait_health(mesh: Mesh, *words: str, line: str) -> None:
    """Until it says so. (It is a fact that comes: a crash, a start.)"""

    def look() -> bool:
        said = health(mesh, *words)[1]
        assert line in said, said
        return True

    wait_for(look)


def gated(word: str, gate: Path) -> str:
    """An agent that serves, and says so, as soon as there is a file."""
    wait = f"""
    import pathlib, threading, time
    def tell():
        while not pathlib.Path({str(gate)!r}).exists():
            time.sleep(0.02)
        print("model loaded", flush=True)
    threading.Thread(target=tell, daemon=True).start()
    """
    return server(word, wait)


def test_ready_live_and_by_name_from_anywhere(mesh: Mesh, tmp_path: Path) -> None:
    mesh.serving("planner", "clock")
    assert health(mesh) == (3, f"not running: nobody answers for {mesh.root}/mesh.toml; `meshsup up` starts it")
    mesh.up()
    assert health(mesh) == (0, "ready: 2 of 2 agents are ready")
    assert health(mesh, "--live") == (0, "live: 2 of 2 agents are ready")
    assert health(mesh, "pl*", "registry") == (0, "ready: 2 of 2 agents are ready")
    assert health(mesh, "planer")[0] == 4
    elsewhere = {"cwd": tmp_path, "env": {"MESHSUP_FILE": str(mesh.root / "mesh.toml")}}
    assert health(mesh, **elsewhere) == (0, "ready: 2 of 2 agents are ready")
    body = json.loads(mesh.ok("health", "--json", "clock"))
    assert [row["name"] for row in body["agents"]] == ["clock"]
    mesh.ok("down")
    assert health(mesh)[0] == 3


def test_from_the_first_answer_on_it_is_a_no_until_all_are_ready(mesh: Mesh) -> None:
    """Nothing is wanted in the first moments; that must not pass for a mesh in which all that is wanted is ready."""
    gate = mesh.root / "gate"
    mesh.write("planner.py", gated("planner", gate))
    mesh.write("clock.py", server("clock"))
    mesh.config(mesh.table("planner", 'ready = { log = "model loaded" }') + mesh.table("clock"))
    mesh.foreground("up")
    seen: dict[str, Verdict] = {}
    deadline = time.monotonic() + 60
    while not any("1 of 2 agents are ready" in line for line in seen):
        assert time.monotonic() < deadline, seen
        verdict = looked_at(mesh)
        if verdict is not None:
            assert not verdict.healthy, verdict.line
            seen[verdict.line] = verdict
    assert {verdict.word for verdict in seen.values()} == {"starting"}
    wait_health(mesh, line="planner is starting (no line of its output matches 'model loaded')")
    assert health(mesh, "--live")[0] == 0
    assert health(mesh, "clock")[0] == 0
    assert health(mesh, "planner")[0] == 1
    gate.touch()
    wait_health(mesh, line="ready: 2 of 2 agents are ready")


def looked_at(mesh: Mesh) -> Verdict | None:
    """As `health` does it, but at once: a process takes longer than the moments that this is about."""
    try:
        with Glance(mesh.state_dir / "control.sock", 10.0) as glance:
            return judge(glance.brief(), [], live=False)
    except NotRunning:
        return None


def test_one_agent_that_is_down_does_not_end_the_others(mesh: Mesh) -> None:
    mesh.write("planner.py", server("planner"))
    mesh.write("clock.py", CRASHES)
    mesh.config(mesh.table("planner") + mesh.table("clock", AT_A_LOOK))
    mesh.up("--prod", ready=False)
    mesh.wait_ready("planner")
    mesh.wait_state("clock", "crashloop")
    code, line = health(mesh)
    assert (code, line.partition(";")[0]) == (1, "not ready: 1 of 2 agents are ready")
    assert "clock is in a crash loop (exit 1" in line
    assert "no key" in line
    assert health(mesh, "--live")[0] == 0
    assert health(mesh, "planner", "--live")[0] == 0
    assert health(mesh, "planner")[0] == 0
    code, line = health(mesh, "clock", "--live")
    assert (code, line.partition(" (")[0]) == (1, "not live: clock is in a crash loop")


def test_in_dev_mode_an_edit_can_mend_it_so_it_is_live(mesh: Mesh) -> None:
    mesh.write("clock.py", CRASHES)
    mesh.config(mesh.table("clock", AT_A_LOOK + "essential = true\n"))
    mesh.up(ready=False)
    mesh.wait_state("clock", "crashloop")
    assert health(mesh)[0] == 1
    assert health(mesh, "--live")[0] == 0
    assert health(mesh, "--live", "clock")[0] == 0


def test_what_was_stopped_by_hand_or_needs_a_profile_does_not_count(mesh: Mesh) -> None:
    mesh.write("planner.py", server("planner"))
    mesh.write("clock.py", server("clock"))
    mesh.write("extra.py", server("extra"))
    mesh.config(mesh.table("planner") + mesh.table("clock") + mesh.table("extra", 'profiles = ["debug"]'))
    mesh.up()
    mesh.ok("stop", "clock")
    assert health(mesh) == (0, "ready: 1 of 1 agent is ready; not wanted: clock, extra")
    assert health(mesh, "clock") == (1, "not ready: 0 of 1 agent is ready; clock is stopped")
    assert health(mesh, "clock", "--live")[0] == 0


def test_a_task_is_fine_when_it_is_done_and_not_when_it_failed(mesh: Mesh) -> None:
    mesh.write("migrate.py", "print('migrated')\n")
    mesh.write("import.py", "raise SystemExit(3)\n")
    mesh.config(
        '[agents.migrate]\ncommand = "migrate.py"\ntype = "task"\n'
        '[agents.import]\ncommand = "import.py"\ntype = "task"\nrestart = "never"\n'
    )
    mesh.up(ready=False)
    mesh.wait_state("migrate", "done")
    mesh.wait_state("import", "failed")
    assert health(mesh, "migrate") == (0, "ready: 1 of 1 agent is ready")
    assert health(mesh) == (1, "not ready: 1 of 2 agents are ready; import has failed (exit 3)")
    assert health(mesh, "--live")[0] == 0
    assert health(mesh, "--live", "import")[0] == 1


def test_a_supervisor_that_hangs_is_a_no_in_time(mesh: Mesh) -> None:
    mesh.serving("planner")
    supervisor = mesh.foreground("up")
    mesh.wait_ready()
    supervisor.signal(signal.SIGSTOP)
    try:
        for kind in ("--ready", "--live"):
            begun = time.monotonic()
            assert health(mesh, kind, "--timeout", "1") == (
                1,
                "no answer: the supervisor does not answer within 1 s",
            )
            assert time.monotonic() - begun < 20  # and not for ever
        (row,) = listed(mesh)
        assert (row["state"], row["name"], row["pid"]) == ("no answer", None, supervisor.pid)
        assert row["trouble"] == "the supervisor does not answer within 2 s"
    finally:
        supervisor.signal(signal.SIGCONT)
    wait_health(mesh, "--live", line="live: 1 of 1 agent is ready")


def test_while_it_stops_it_is_not_ready_and_after_an_essential_one_not_live(mesh: Mesh) -> None:
    """An agent that takes its time to go keeps the mesh in its last state for long enough to be asked."""
    stubborn = """
    import pathlib, signal, sys, threading
    def leave(*args):
        while not pathlib.Path("go").exists():
            threading.Event().wait(0.02)
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    """
    mesh.write("planner.py", server("planner", stubborn))
    mesh.write("clock.py", server("clock"))
    keys = "runtime = false\nstop = { timeout = 60 }\n"
    essential = 'essential = true\nrestart = "never"\nruntime = false\n'
    mesh.config(mesh.table("planner", keys) + mesh.table("clock", essential), mesh="stop_timeout = 60")
    up = mesh.foreground("up", "--prod")
    views = mesh.wait_ready()
    subprocess.run(["kill", "-9", str(views["clock"].pid)], check=True)
    wait_health(mesh, line="stopping: clock is essential and has ended (killed by SIGKILL)")
    assert health(mesh)[0] == 1
    assert health(mesh, "--live") == (
        1,
        "not live: clock is essential and has ended (killed by SIGKILL); the mesh stops",
    )
    (row,) = listed(mesh)
    assert row["state"] == "stopping"
    (mesh.root / "go").touch()
    assert up.wait() == 1
    assert health(mesh, "--live")[0] == 3


def test_as_pid_1_it_answers_inside_and_is_seen_in_its_network_namespace(mesh: Mesh) -> None:
    mesh.serving("planner")
    with boxed(mesh) as box:
        done = box.run(mesh, "health")
        assert (done.code, done.out, done.err) == (0, "ready: 1 of 1 agent is ready\n", "")
        assert box.run(mesh, "-f", str(mesh.root / "mesh.toml"), "health", "--live", "planner").code == 0
        inside = json.loads(box.run(mesh, "ls", "--json").out)
        assert [row["pid"] for row in inside if row["file"] == str(mesh.root / "mesh.toml")] == [1]
        # The box shares network and folders with us; its pids are told as they are here.
        (row,) = listed(mesh)
        assert row["pid"] == box.first
        assert (row["mode"], row["ready"], row["wanted"]) == ("prod", 1, 1)


def test_a_registry_elsewhere_that_is_away_takes_no_mesh_out_of_service(mesh: Mesh) -> None:
    mesh.write("planner.py", server("planner"))
    mesh.write(
        "mesh.toml",
        f'[registry]\nkind = "external"\nurl = "http://127.0.0.1:{mesh.registry_port}"\n{mesh.table("planner")}',
    )
    mesh.up(ready=False)
    mesh.wait_state("planner", "ready")
    assert health(mesh) == (0, "ready: 1 of 1 agent is ready")


def test_one_agent_by_itself(mesh: Mesh) -> None:
    mesh.serving("planner", "clock")
    alone = mesh.foreground("run", "--prod", "planner")
    wait_health(mesh, line="ready: 1 of 1 agent is ready")
    assert health(mesh, "--live", "planner")[0] == 0
    assert health(mesh, "clock")[0] == 4
    (row,) = listed(mesh)
    assert (row["alone"], row["pid"], row["ready"], row["wanted"]) == ("planner", alone.pid, 1, 1)
    assert "under-test/planner" in mesh.ok("ls", "-q").splitlines()
    alone.signal(signal.SIGTERM)
    assert alone.wait() == 0
    assert health(mesh)[0] == 3


# ---- ls ----------------------------------------------------------------------------------------------------------


def listed(mesh: Mesh) -> list[dict[str, Any]]:
    """The rows of `ls --json` that are of this mesh; other tests have theirs."""
    rows = json.loads(mesh.ok("ls", "--json"))
    return [row for row in rows if Path(row["socket"]).is_relative_to(mesh.root)]


def test_ls_shows_what_runs_while_it_runs(mesh: Mesh) -> None:
    mesh.serving("planner", "clock")
    assert listed(mesh) == []
    supervisor = mesh.foreground("up", "--no-watch")
    mesh.wait_ready()
    with fresh_mesh() as other:
        other.serving("planner")
        other.up()
        assert [row["file"] for row in listed(other)] == [str(other.root / "mesh.toml")]
        (row,) = listed(mesh)
        assert (row["name"], row["pid"], row["mode"], row["state"]) == ("under-test", supervisor.pid, "dev", "running")
        assert (row["ready"], row["wanted"]) == (2, 2)
        assert row["file"] == str(mesh.root / "mesh.toml")
        assert row["registry_url"] == f"http://127.0.0.1:{mesh.registry_port}"
        lines = [line for line in mesh.ok("ls").splitlines() if str(mesh.root) in line]
        assert [line.split()[:4] for line in lines] == [["under-test", str(supervisor.pid), "2/2", "ready"]]
    supervisor.signal(signal.SIGKILL)
    supervisor.wait()
    assert (mesh.state_dir / "control.sock").exists()
    assert listed(mesh) == []


def test_ls_in_a_network_namespace_of_its_own_sees_nothing_and_says_so(mesh: Mesh) -> None:
    mesh.serving("planner")
    mesh.up()
    unshare = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    done = subprocess.run(
        [*unshare, str(MESHSUP), "ls"], cwd=mesh.root, env=mesh.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no mesh of this user runs here; `meshsup up` starts one\n"
