"""`meshsup run`: an agent in a person's terminal, taken over from the running mesh and given back."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.harness import MESHSUP, REPOSITORY, Mesh, alive, server, wait_for
from tests.e2e.terminal import terminal

ASKING = """
    import os, sys
    if sys.stdin.isatty():
        print("foreground", os.tcgetpgrp(0) == os.getpgrp(), "generation", os.environ["MESHSUP_GENERATION"])
        name = input("who? ")
        breakpoint()
        print("hello", name)
        if name == "seven":
            sys.exit(7)
"""
"""In a terminal: asks, stands in the debugger, then serves like any other agent."""


@pytest.fixture
def planner(mesh: Mesh) -> Mesh:
    mesh.write("planner.py", server("planner one", ASKING))
    mesh.config(mesh.table("planner"))
    mesh.up()
    return mesh


def held(mesh: Mesh) -> bool:
    view = mesh.agent("planner")
    assert view.state == "held", f"{view.state} ({view.detail})"
    return True


def given_back(mesh: Mesh, above: int) -> None:
    mesh.wait_generation("planner", above)
    mesh.wait_answer("planner", "planner one")


def test_taken_over_debugged_and_given_back(planner: Mesh) -> None:
    before = planner.agent("planner")
    with terminal(planner, "run", "planner") as person:
        person.see("foreground True generation 2")
        assert before.pid is not None and not alive(before.pid), "two of one agent"
        person.type("seven\n")
        person.see("(Pdb)")
        view = planner.agent("planner")
        assert (view.state, view.detail, view.pid) == ("held", f"run, pid {person.pid}", person.pid)
        assert (view.generation, view.wanted, view.restarts) == (2, True, 0)
        person.type("p name * 2\n")
        person.see("'sevenseven'")
        person.type("c\n")
        person.see("hello seven")
        assert person.ends() == 7, "the exit code is the program's"
    given_back(planner, 2)
    assert planner.agent("planner").generation == 3
    kinds = [event["kind"] for event in planner.events(agent="planner")]
    assert [kind for kind in kinds if kind in ("held", "given-back")] == ["held", "given-back"]
    assert "crashed" not in kinds


def test_it_serves_and_is_registered_while_it_is_held(planner: Mesh) -> None:
    planner.wait_ready()
    with terminal(planner, "run", "planner") as person:
        person.see("who? ")
        person.type("ada\n")
        person.see("(Pdb)")
        assert not planner.registered("?name=planner") or planner.agent("planner").registered == "no"
        person.type("c\n")
        person.see("hello ada")
        planner.wait_answer("planner", "planner one")
        wait_for(lambda: planner.agent("planner").registered == "yes")
        assert [row["id"] for row in planner.registered() if row["name"] == "planner"] == ["planner-0002"]
        person.type("\x03")
        person.see("Program interrupted")  # by pdb: Ctrl-C is the program's
        person.type("q\n")
        assert person.ends() == 1
    given_back(planner, 2)
    wait_for(lambda: [row["id"] for row in planner.registered() if row["name"] == "planner"] == ["planner-0003"])


def test_an_edit_counts_when_it_is_given_back(planner: Mesh) -> None:
    with terminal(planner, "run", "planner") as person:
        person.see("who? ")
        planner.edit("planner.py", "planner one", "planner two")
        wait_for(lambda: planner.events("reload-held", agent="planner"))
        held(planner)
        assert "held" in planner.ok("history")
        person.type("\x04")
        assert person.ends() == 1
    planner.wait_answer("planner", "planner two")
    assert planner.agent("planner").generation == 3, "started once, not reloaded once more"


def test_killed_with_9_it_is_given_back(planner: Mesh) -> None:
    with terminal(planner, "run", "planner") as person:
        person.see("who? ")
        held(planner)
        os.kill(person.pid, signal.SIGKILL)
        assert person.ends() == -signal.SIGKILL
    given_back(planner, 2)


def test_what_was_stopped_stays_stopped(planner: Mesh) -> None:
    planner.ok("stop", "planner")
    with terminal(planner, "run", "planner") as person:
        person.see("who? ")
        held(planner)
        assert not planner.agent("planner").wanted
        person.type("\x04")
        person.ends()
    planner.wait_state("planner", "stopped")
    wait_for(lambda: planner.events("given-back"))
    assert planner.agent("planner").state == "stopped" and len(planner.events("ready", agent="planner")) == 1


def test_others_keep_their_hands_off(planner: Mesh) -> None:
    with terminal(planner, "run", "planner") as person:
        person.see("who? ")
        who = f"held by `meshsup run` (pid {person.pid})"
        second = planner.run("run", "planner")
        assert (second.code, second.out) == (1, "")
        assert second.err == f"meshsup: planner is {who} already; end that first\n"
        for verb in ("stop", "restart", "reload"):
            named, all_of_them = planner.run(verb, "planner"), planner.run(verb)
            assert named.code == 1 and named.err == f"planner: is {who}; end it there (Ctrl-C)\n", (verb, named)
            assert all_of_them.code == 0 and who in all_of_them.out, (verb, all_of_them)
        assert planner.ok("start", "planner") == f"planner: is {who}; it is started when that ends\n"
        planner.ok("up", "-d", "--wait")
        held(planner)
        assert f"held (run, pid {person.pid})" in planner.ok("ps")
        assert who in planner.ok("why", "planner.py")
        assert person.process.poll() is None
        down = planner.run("down")
        assert (down.code, down.out) == (0, f"planner goes on: it is {who}\n")
        assert person.process.poll() is None
        person.type("\x04")
        person.ends()


def test_stdin_and_stdout_are_untouched(mesh: Mesh) -> None:
    mesh.write(
        "echo.py",
        """
        import os, sys, time
        if os.environ["MESHSUP_GENERATION"] == "1":
            time.sleep(600)
        print(sys.stdin.read().upper(), end="")
        """,
    )
    mesh.config('[agents.echo]\ncommand = "echo.py"\nenv = { MODEL = "small" }\n')
    mesh.up()
    words = [str(MESHSUP), "run", "echo"]
    environ = {**mesh.environ, "MODEL": "large"}
    done = subprocess.run(
        words, cwd=mesh.root, env=environ, input="over stdio", capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "OVER STDIO")
    assert done.stderr == "echo: taken over from the mesh; it goes on there when this ends\n"


def test_the_environment_is_the_meshs(mesh: Mesh) -> None:
    """Not that of the shell that `run` was typed in, but for what tells of its terminal."""
    mesh.write("report.py", "import json, os, time\nprint(json.dumps(dict(os.environ)), flush=True)\ntime.sleep(600)\n")
    mesh.config('[agents.report]\ncommand = "report.py"\nenv = { MODEL = "small" }\nport = 0\n')
    mesh.run("up", "-d", env={"OF_THE_MESH": "1"})
    mesh.wait_state("report", "starting", "ready")
    wait_for(lambda: "OF_THE_MESH" in mesh.log("report"))
    with terminal(mesh, "run", "report") as person:
        person.see("}\r\n")
        started = json.loads(person.screen[person.screen.index("{") : person.screen.rindex("}") + 1])
    assert (started["OF_THE_MESH"], started["MODEL"], started["TERM"]) == ("1", "small", "dumb")
    assert "MESHSUP_INSTANCE" not in started
    assert started["PORT"] == str(mesh.agent("report").port)


def test_a_dependent_starts_once_it_serves(mesh: Mesh) -> None:
    mesh.write("planner.py", server("planner one", ASKING))
    mesh.write("writer.py", server("writer one"))
    mesh.config(mesh.table("planner") + mesh.table("writer", 'depends_on = ["planner"]\nprofiles = ["more"]'))
    mesh.up()
    with terminal(mesh, "run", "planner") as person:
        person.see("who? ")
        starting = mesh.foreground("start", "writer")
        mesh.wait_state("writer", "waiting")
        person.type("ada\n")
        person.see("(Pdb)")
        person.type("c\n")
        mesh.wait_ready("writer")
        assert starting.wait() == 0


@pytest.mark.timeout(300)
def test_an_sdk_agent_registers_itself_out_of_a_terminal(mesh: Mesh) -> None:
    pytest.importorskip("_mcp_mesh", reason="needs the mcp-mesh SDK (extra `test`)")
    shutil.copy(REPOSITORY / "examples/mcp_mesh/clock.py", mesh.root)
    # Long, so that a busy machine does not make two servers of the SDK's one.
    mesh.config(mesh.table("clock"))
    mesh.up(ready=False)
    mesh.wait_ready(timeout=90)
    with terminal(mesh, "run", "clock") as person:
        wait_for(lambda: (now := mesh.agent("clock")).state == "held" and now.registered == "yes", 90)
        healthy = [row["id"] for row in mesh.registered() if row["status"] == "healthy"]
        assert healthy == [f"clock-{mesh.agent('clock').generation:04d}"]
        person.type("\x03")
        person.ends(60)
    mesh.wait_generation("clock", 2, timeout=90)


# ---- under a debugger ------------------------------------------------------------------------------------------------

STAND_IN = """
    import json, runpy, sys
    print(json.dumps(sys.argv[1:]), flush=True)
    at = next(at for at, word in enumerate(sys.argv) if word.endswith(".py") and at)
    sys.argv = sys.argv[at:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""In the place of debugpy: says how it was called, and runs the program."""


def test_run_debug_takes_over_under_debugpy(planner: Mesh) -> None:
    planner.write("debugpy/__main__.py", STAND_IN)
    planner.write("debugpy/__init__.py", "")
    with terminal(planner, "run", "--debug", "planner") as person:
        person.see("planner: debugpy listens on 127.0.0.1:")
        person.see(";")
        port = person.screen[person.screen.index("127.0.0.1:") + 10 :].partition(";")[0]
        person.see(f'["--listen", "127.0.0.1:{port}", "{planner.root}/planner.py"]')
        person.see("generation 2")
        assert planner.agent("planner").detail == f"run --debug, pid {person.pid}"
        person.type("\x04")
        person.ends()
    given_back(planner, 2)
    own = planner.port("another")
    with terminal(planner, "run", "planner", "--debug", str(own), "--debug-wait") as person:
        person.see(f'["--listen", "127.0.0.1:{own}", "--wait-for-client", "{planner.root}/planner.py"]')
        taken = planner.run("run", "--debug", str(planner.registry_port), "planner")
        assert taken.code == 1 and "is held by `meshsup run --debug`" in taken.err
        person.see("who? ")


def test_what_keeps_it_from_being_debugged_stops_nothing(mesh: Mesh) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", mesh.root / "env"], check=True)  # without debugpy
    mesh.write("planner.py", server("planner one", ASKING))
    mesh.config(mesh.table("planner", 'python = "env/bin/python"'))
    mesh.up()
    before = mesh.agent("planner")
    missing = mesh.run("run", "--debug", "planner")
    assert missing.code == 1
    assert "debugpy is not installed for " in missing.err and "install" in missing.err.partition("`")[2]
    mesh.write("debugpy/__init__.py", "")
    taken = mesh.run("run", "--debug", str(mesh.registry_port), "planner")
    assert taken.code == 1 and f"port {mesh.registry_port} is already in use by" in taken.err
    assert mesh.run("run", "--debug=many", "planner").code == 2
    after = mesh.agent("planner")
    assert (after.pid, after.generation) == (before.pid, before.generation)
    assert not mesh.events("held")


@pytest.mark.skipif(importlib.util.find_spec("debugpy") is None, reason="debugpy is not installed here")
def test_a_debugger_attaches(planner: Mesh) -> None:
    planner.write("planner.py", "print('hello', flush=True)\n")
    with terminal(planner, "run", "--debug", str(planner.port("another")), "--debug-wait", "planner") as person:
        person.see("attach there")
        with editor(planner.port("another")):
            person.see("hello")


@contextlib.contextmanager
def editor(port: int) -> Iterator[None]:
    """Attached to the debugger there, as an editor does: again, where debugpy hangs up because the program that it is
    to debug has not come to it yet."""
    with wait_for(lambda: attached(port)) as line:
        line.sendall(dap(3, "configurationDone"))
        yield


def attached(port: int) -> socket.socket:
    """Raises OSError."""
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
        line.sendall(dap(1, "initialize") + dap(2, "attach"))
        said = b""
        while b'"initialized"' not in said:
            more = line.recv(65536)
            if not more:
                raise ConnectionError(f"it hung up after {said!r}")
            said += more
        stack.pop_all()
        return line


def dap(number: int, command: str) -> bytes:
    """A request of the Debug Adapter Protocol."""
    request = {"seq": number, "type": "request", "command": command, "arguments": {"adapterID": "test"}}
    body = json.dumps(request)
    return f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
