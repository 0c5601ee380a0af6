"""Agents that die: how soon they are back, when patience ends, and what people are told."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Mesh, fresh_mesh, get, server, wait_for

PATIENT = "backoff = { initial = 4 }\n"  # so long that nobody who looks can miss it


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    """``fragile`` dies in many ways, ``bystander`` never."""
    with fresh_mesh() as mesh:
        mesh.serving("fragile", "bystander", keys=PATIENT)
        mesh.up()
        yield mesh


def kill(mesh: Mesh, name: str) -> int:
    """kill -9 of the agent; its pid."""
    pid = mesh.wait_ready(name)[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_killed_agents_are_back_at_once_the_first_time_then_after_a_while(running: Mesh) -> None:
    bystander = running.wait_ready()["bystander"].pid
    kill(running, "fragile")
    wait_for(lambda: running.agent("fragile").restarts == 1 and running.answer("fragile"))
    running.wait_ready()
    running.wait_log("fragile is ready in", count=2)
    assert "fragile is started again in" not in running.log(), "the first restart waits for nothing"
    assert "SIGKILL" in running.agent("fragile").last + str(running.agent("fragile").failure)

    kill(running, "fragile")
    view = running.wait_state("fragile", "backoff")
    assert view.pid is None and view.retry_in is not None and 0 < view.retry_in <= 4.8
    assert "SIGKILL" in str(view.failure)
    running.wait_ready()
    assert running.agent("fragile").restarts == 2
    assert running.pids()["bystander"] == bystander
    running.wait_log("fragile crashed: killed by SIGKILL", count=2)
    running.wait_log("fragile is started again in")


def test_a_crash_after_a_good_reload_is_a_crash_and_no_failed_reload(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.up()
    mesh.write("agent.py", server("second"))
    mesh.wait_answer("agent", "second")
    kill(mesh, "agent")
    wait_for(lambda: mesh.agent("agent").restarts == 1 and mesh.wait_ready("agent"))
    assert mesh.events("crashed", agent="agent") and not mesh.events("reload-failed")
    assert [row["outcome"] for row in json.loads(mesh.ok("history", "--json"))] == ["completed"]
    wait_for(lambda: "agent crashed: killed by SIGKILL" in mesh.log())


def test_a_program_that_exits_at_start_ends_in_crashloop_and_an_edit_revives_it(running: Mesh) -> None:
    """Also says why: with the last line of the traceback. The window is narrow here, to see it soon."""
    quick = "backoff = { initial = 0.02, factor = 1, max = 60 }\ncrashloop = { crashes = 3, window = 60 }\nport = "
    running.write("doomed.py", "import json\njson.loads('nonsense')\n")
    running.config(
        running.table("fragile", PATIENT)
        + running.table("bystander", PATIENT)
        + f'[agents.doomed]\ncommand = "doomed.py"\n{quick}{running.port("doomed")}\n'
    )
    wait_for(lambda: running.agent("doomed").generation >= 0)
    view = running.wait_state("doomed", "crashloop")
    assert "JSONDecodeError" in str(view.failure)
    assert "JSONDecodeError" in running.ok("ps", "-o", "wide")
    assert running.events("crashloop", agent="doomed")
    running.write("doomed.py", server("revived"))
    running.wait_answer("doomed", "revived")
    running.wait_ready("doomed")


def test_a_program_that_cannot_load_waits_for_an_edit(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.write("agent.py", "import no_such_module_at_all\n")
    mesh.up(ready=False)
    view = mesh.wait_state("agent", "failed")
    assert "no_such_module_at_all" in str(view.failure)
    wait_for(lambda: "agent waits for an edit or `meshsup start agent`" in mesh.log())
    assert mesh.log().count("No module named 'no_such_module_at_all'") == 1, "said once"
    assert mesh.run("up", "--wait", "--timeout", "20").code == 1
    mesh.write("no_such_module_at_all.py", "")  # a new file that satisfies the failed import is an edit of the agent
    mesh.write("agent.py", "import no_such_module_at_all\n" + server("loaded"))
    mesh.wait_answer("agent", "loaded")


def test_exit_codes_and_restart_policies(mesh: Mesh) -> None:
    mesh.write("three.py", "raise SystemExit(3)\n")
    mesh.write("fine.py", "import pathlib, time\nwhile not pathlib.Path('enough').exists(): time.sleep(0.02)\n")
    mesh.write("job.py", "print('the job is done')\n")
    mesh.write("bad_job.py", "raise SystemExit(9)\n")
    mesh.config("""
        [agents.never]
        command = "three.py"
        restart = "never"
        [agents.on-failure]
        command = "fine.py"
        restart = "on-failure"
        [agents.job]
        command = "job.py"
        type = "task"
        [agents.bad-job]
        command = "bad_job.py"
        type = "task"
        restart = "never"
        [agents.after-job]
        command = ["sleep", "1000"]
        depends_on = { job = { condition = "completed" } }
        [agents.after-bad-job]
        command = ["sleep", "1000"]
        depends_on = { bad-job = { condition = "completed" } }
    """)
    mesh.up(ready=False)
    assert "3" in str(mesh.wait_state("never", "failed", "stopped").failure)
    mesh.wait_state("job", "done")
    assert "9" in str(mesh.wait_state("bad-job", "failed").failure)
    mesh.wait_ready("after-job")
    assert mesh.agent("after-bad-job").state == "waiting"
    mesh.wait_ready("on-failure")
    (mesh.root / "enough").touch()
    wait_for(lambda: mesh.agent("on-failure").pid is None)
    assert mesh.agent("on-failure").restarts == 0
    assert "the job is done" in mesh.ok("logs", "job")


def test_an_essential_agent_that_is_given_up_stops_the_whole_mesh(mesh: Mesh) -> None:
    mesh.serving("bystander")
    mesh.write("vital.py", "raise SystemExit(3)\n")
    mesh.config(
        mesh.table("bystander")
        + '[agents.vital]\ncommand = "vital.py"\nessential = true\n'
        + "backoff = { initial = 0.02, factor = 1 }\ncrashloop = { crashes = 3, window = 60 }\n"
    )
    up = mesh.foreground("up", "--prod")
    assert up.wait() == 1
    assert "vital" in up.output()
    mesh.nothing_remains()


def test_a_hung_agent_is_found_by_its_liveness_probe(mesh: Mesh) -> None:
    mesh.serving("agent", keys="live = { http = '/', interval = 0.1, failures = 2, timeout = 2 }\n")
    mesh.up()
    before = mesh.agent("agent")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)  # it lives on, its port accepts, but nobody answers
    assert mesh.wait_generation("agent", before.generation).pid != before.pid
    assert mesh.events("not-live", agent="agent")


def test_readiness_by_log_line_exec_and_sd_notify(mesh: Mesh) -> None:
    mesh.write("says.py", "import time\nprint('all is prepared', flush=True)\ntime.sleep(1000)\n")
    mesh.write("makes.py", "import pathlib, time\npathlib.Path('made').touch()\ntime.sleep(1000)\n")
    mesh.write(
        "notifies.py",
        """
        import os, socket, time
        address = os.environ["NOTIFY_SOCKET"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(b"READY=1\\nSTATUS=warmed up", "\\0" + address[1:] if address[0] == "@" else address)
        time.sleep(1000)
        """,
    )
    mesh.write("silent.py", "import time\ntime.sleep(1000)\n")
    mesh.config(
        """
        [agents.says]
        command = "says.py"
        ready = { log = "all is prepared" }
        [agents.makes]
        command = "makes.py"
        ready = { exec = ["test", "-e", "made"], interval = 0.05 }
        [agents.notifies]
        command = "notifies.py"
        ready = { notify = true }
        [agents.silent]
        command = "silent.py"
        ready = { log = "never said" }
    """,
        mesh="parallel_starts = 8",
    )
    mesh.up(ready=False)
    mesh.wait_ready("says", "makes", "notifies")
    assert mesh.agent("silent").state == "starting"
    assert mesh.run("up", "--wait", "--timeout", "0.5").code == 124


BROKEN = textwrap.dedent("""
    import runpy, sys
    from pathlib import Path
    from mesh_supervisor.selection import Selection

    takes = Selection._take

    async def forgets(self, paths):
        if "two" in Path("agent.py").read_text():
            raise ZeroDivisionError("nobody thought of two")
        await takes(self, paths)

    Selection._take = forgets
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
""")


@pytest.mark.parametrize("in_the_way", [False, True], ids=["a report is left", "a link lies where the report goes"])
def test_a_mistake_of_meshsup_itself_stops_the_mesh_in_one_sentence(mesh: Mesh, *, in_the_way: bool) -> None:
    mesh.serving("agent")
    up = mesh.foreground("up", before=(sys.executable, "-c", BROKEN))
    mesh.wait_ready()
    port, report = mesh.port("agent"), mesh.state_dir / "crash.log"
    other = mesh.write("precious.txt", "mine")
    if in_the_way:
        report.symlink_to(other)
    mesh.write("agent.py", server("two"))
    assert up.wait() == 1
    last = up.output().splitlines()[-1]
    assert last.startswith("meshsup: internal error: ZeroDivisionError('nobody thought of two'); ")
    assert str(report) in last
    assert "Traceback" not in up.output()
    mesh.nothing_remains()
    with pytest.raises(OSError, match="refused"):
        get(port)
    assert other.read_text() == "mine"
    assert in_the_way or "ZeroDivisionError: nobody thought of two" in report.read_text()
