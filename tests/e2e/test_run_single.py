"""`meshsup run AGENT` as the process of a container: one agent, supervised by itself, registered elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any

import pytest

from benchmarks.load import FRESH
from mesh_supervisor.own_state import RUNS, own_state_dir
from tests.e2e.harness import REPOSITORY, Foreground, Mesh, alive, get, server, wait_for
from tests.e2e.namespaces import Box, Surroundings, boxed

CAPABLE = 'capabilities = ["plan"]\n'


@pytest.fixture
def engine(mesh: Mesh) -> Mesh:
    """A registry of its own, and a mesh.toml that knows nothing of it, with a dependency that runs elsewhere."""
    mesh.foreground("registry", "serve", "--port", str(mesh.registry_port))
    wait_for(lambda: get(mesh.registry_port, "/health")[0] == 200)
    mesh.serving("planner", "retriever", keys=CAPABLE)
    mesh.edit("mesh.toml", "[agents.planner]\n", '[agents.planner]\ndepends_on = ["retriever"]\n')
    return mesh


def told(mesh: Mesh, **more: str) -> dict[str, str]:
    """What the engine says in the environment."""
    return {"MESHSUP_REGISTRY_URL": f"http://127.0.0.1:{mesh.registry_port}", **more}


def begin(mesh: Mesh, agent: str, *words: str, env: Mapping[str, str] | None = None) -> Foreground:
    """`run` of that agent, which snapshots are about from now on; not waited for."""
    running = mesh.foreground("run", agent, *(words or ("--prod",)), env=told(mesh) if env is None else env)
    mesh.state_dir = own_state_dir(mesh.root / ".mesh", agent)
    return running


def start(mesh: Mesh, agent: str, *words: str, env: Mapping[str, str] | None = None) -> Foreground:
    running = begin(mesh, agent, *words, env=env)
    mesh.wait_ready()
    return running


def said(running: Foreground) -> list[dict[str, Any]]:
    """Its log, in prod mode: every line is JSON."""
    return [json.loads(line) for line in running.output().splitlines(keepends=True) if line.endswith("\n")]


def stop(running: Foreground) -> int:
    running.signal(signal.SIGTERM)
    return running.wait()


def healthy(mesh: Mesh) -> list[dict[str, Any]]:
    return [row for row in mesh.registered() if row["status"] == "healthy"]


# ---- it runs, is found and is looked at ------------------------------------------------------------------------------


def test_one_agent_registered_under_its_advertised_name(engine: Mesh) -> None:
    running = start(engine, "planner", env=told(engine, MESHSUP_ADVERTISE="planner.internal"))
    (row,) = healthy(engine)
    assert (row["name"], row["endpoint"]) == ("planner", f"http://planner.internal:{engine.port('planner')}")
    owner = (engine.state_dir / "owner").read_text()
    assert row["id"] == f"planner-{owner}-0001", "no other container can have this id"
    assert engine.answer("planner") == "planner one"
    assert engine.ok("ps", "-q") == "planner\n"
    assert engine.row("planner")["registered"] == "yes"
    assert engine.ok("health").startswith("ready")
    assert engine.ok("health", "--live").startswith("live")
    assert "planner is ready" in engine.ok("logs", "meshsup")
    first = wait_for(lambda: said(running))[0]["text"]
    assert "planner, prod mode (--prod), not watching; registry http://127.0.0.1:" in first
    assert not (engine.root / ".mesh" / "logs").exists()
    assert stop(running) == 0
    assert engine.registered() == []
    assert list((engine.root / ".mesh" / RUNS).iterdir()) == [], "nothing of a container outlives it"
    assert engine.run("health").code == 3
    assert said(running)[-1]["text"] == "stopped"


def test_without_saying_more_others_are_told_the_address_that_the_registry_sees(engine: Mesh) -> None:
    start(engine, "planner")
    assert [row["endpoint"] for row in healthy(engine)] == [f"http://127.0.0.1:{engine.port('planner')}"]


def test_a_registry_whose_name_gets_its_address_later(mesh: Mesh) -> None:
    """Kubernetes: the Service is made after the pod. Until then nobody could find the agent under its host's name."""
    hosts = mesh.write("hosts", "127.0.0.1 localhost\n")
    mesh.foreground("registry", "serve", "--port", str(mesh.registry_port), "--allow-host", "hub.test")
    mesh.serving("planner", keys=CAPABLE)
    around = Surroundings(
        prepare=(("mount", "--bind", str(hosts), "/etc/hosts"),),
        environ={"MESHSUP_REGISTRY_URL": f"http://hub.test:{mesh.registry_port}"},
    )
    mesh.state_dir = own_state_dir(mesh.root / ".mesh", "planner")
    with boxed(mesh, "run", "planner", around=around, ready=False) as box:
        box.wait_says("hub.test, where the registry is, has no address here (yet)")
        box.wait_says("planner is ready")
        with hosts.open("a") as same:
            same.write("127.0.0.1 hub.test\n")
        box.wait_says("is found now, and sees us at 127.0.0.1")
        wait_for(lambda: [row["endpoint"] for row in healthy(mesh)] == [f"http://127.0.0.1:{mesh.port('planner')}"])
        assert not [line for line in box.run(mesh, "ps", "-o", "wide").out.splitlines() if "hub.test, where" in line]


def test_the_registry_of_mesh_toml(engine: Mesh) -> None:
    url = f'kind = "external"\nurl = "http://127.0.0.1:{engine.registry_port}"'
    engine.edit("mesh.toml", f"port = {engine.registry_port}", url)
    start(engine, "retriever", env={})
    assert [row["name"] for row in healthy(engine)] == ["retriever"]


def test_without_a_registry_it_runs_and_that_is_said(engine: Mesh) -> None:
    running = start(engine, "planner", env={})
    assert engine.agent("planner").registered == "never"
    notes = wait_for(lambda: [line["text"] for line in said(running) if "planner is not registered" in line["text"]])
    assert "set MESHSUP_REGISTRY_URL" in notes[0]
    assert "planner is not registered" in engine.run("ps").err
    assert engine.run("registry", "list").err == "meshsup: nothing says where the registry is; name it with --url\n"
    assert stop(running) == 0
    assert engine.registered() == []


def test_it_needs_nothing_of_the_other_agents(engine: Mesh) -> None:
    (engine.root / "retriever.py").unlink()
    engine.edit("mesh.toml", "[agents.retriever]\n", '[agents.retriever]\nenv = { KEY = "${NOT_FOR_PLANNER}" }\n')
    assert engine.run("check").code == 2
    running = start(engine, "planner")
    assert engine.answer("planner") == "planner one"
    assert stop(running) == 0


@pytest.mark.timeout(300)
def test_an_sdk_agent_registers_itself_under_what_it_is_told(engine: Mesh) -> None:
    pytest.importorskip("_mcp_mesh", reason="needs the mcp-mesh SDK (extra `test`)")
    shutil.copy(REPOSITORY / "examples/mcp_mesh/clock.py", engine.root)
    engine.config(engine.table("clock"))
    running = begin(engine, "clock", env=told(engine, MESHSUP_ADVERTISE="localhost"))
    engine.wait_ready(timeout=90)
    (row,) = healthy(engine)
    owner = (engine.state_dir / "owner").read_text()
    assert (row["id"], row["endpoint"]) == (f"clock-{owner}-0001", f"http://localhost:{engine.port('clock')}")
    assert stop(running) == 0
    assert engine.registered() == []


# ---- when it stays and when it becomes the program -------------------------------------------------------------------

WHO = """
import os, sys
print("supervised" if "MESHSUP_INSTANCE" in os.environ else "itself", flush=True)
"""


@pytest.mark.parametrize(
    ("words", "mode", "environ", "who"),
    [
        ((), "", {}, "itself"),
        (("--prod",), "", {}, "supervised"),
        (("--watch",), "", {}, "supervised"),
        ((), "", {"MESHSUP_MODE": "prod"}, "supervised"),
        ((), 'mode = "prod"', {}, "supervised"),
        (("--dev",), 'mode = "prod"', {}, "itself"),
        ((), 'mode = "prod"', {"MESHSUP_MODE": "dev"}, "itself"),
    ],
)
def test_it_stays_in_prod_mode(
    mesh: Mesh, words: tuple[str, ...], mode: str, environ: dict[str, str], who: str
) -> None:
    mesh.write("who.py", WHO)
    mesh.config('[agents.who]\ncommand = "who.py"\ntype = "task"\n', mesh=mode)
    done = mesh.run("run", "who", *words, env=environ)
    assert done.code == 0
    assert who in done.out, done


def test_a_person_inside_takes_it_over(engine: Mesh) -> None:
    """`docker exec CONTAINER meshsup run planner`: the container goes on, and so does the agent afterwards."""
    engine.write("planner.py", server("planner one", "if os.environ['MESHSUP_GENERATION'] == '2': raise SystemExit(7)"))
    running = start(engine, "planner", env=told(engine, MESHSUP_MODE="prod"))
    done = engine.run("run", "planner", env={"MESHSUP_MODE": "prod"})
    assert (done.code, done.err) == (7, "planner: taken over from the mesh; it goes on there when this ends\n")
    engine.wait_generation("planner", 2)
    assert running.process.poll() is None
    assert stop(running) == 0


# ---- its end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "keys", "code"),
    [
        ("raise SystemExit(0)", "", 0),
        ("raise SystemExit(3)", "", 3),
        ("import time\ntime.sleep(1.5)\nraise SystemExit(4)", "", 4),  # it has been ready by then
        ("import time\ntime.sleep(1.5)", "", 0),
        ("import os\nos.kill(os.getpid(), 9)", "", 137),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "", 143),
        ("import time\ntime.sleep(600)", 'ready = { log = "never said" }\nstart_timeout = 1', 1),
        ("def broken(:", "", 1),
        ("raise SystemExit(0)", 'type = "task"', 0),
        ("raise SystemExit(5)", 'type = "task"', 5),
        ("raise SystemExit(6)", 'restart = "always"\nessential = true', 6),
    ],
)
def test_the_exit_code_is_the_programs(mesh: Mesh, source: str, keys: str, code: int) -> None:
    mesh.write("ending.py", source + "\n")
    mesh.config(f'[agents.ending]\ncommand = "ending.py"\nregister = "never"\n{keys}\n')
    done = mesh.run("run", "ending", "--prod")
    assert done.code == code, done
    lines = [json.loads(line)["text"] for line in done.out.splitlines()]
    assert f"this ends with ending, exit code {code}" in lines
    assert not [line for line in lines if "again" in line and "started" in line], "restarts are the engine's"


def test_no_process_to_start(mesh: Mesh) -> None:
    mesh.config('[agents.missing]\ncommand = ["no-such-program"]\n')
    done = mesh.run("run", "missing", "--prod")
    assert done.code == 1
    assert "no-such-program" in done.out


def test_killed_from_outside(engine: Mesh) -> None:
    running = start(engine, "planner")
    engine.kill("planner")
    assert running.wait() == 137
    assert engine.registered() == []


def test_names_and_files_that_are_wrong(engine: Mesh) -> None:
    unknown = engine.run("run", "planer", "--prod")
    assert (unknown.code, unknown.out) == (4, "")
    assert unknown.err == "meshsup: no agent is called 'planer'; did you mean 'planner'?\n"
    url = engine.run("run", "planner", "--prod", env={"MESHSUP_REGISTRY_URL": "registry:8000"})
    assert url.code == 2 and "MESHSUP_REGISTRY_URL: is no URL" in url.err
    both = engine.run("run", "planner", "--debug", "--prod")
    assert both.code == 2 and "leave one of them out" in both.err
    engine.edit("mesh.toml", "[agents.planner]\n", "[agents.planner]\nprot = 1\n")
    assert engine.run("run", "planner", "--prod").code == 2


SLOW = """
import time
class Slow(Handler):
    def do_GET(self):
        if self.path == "/slow":
            open("asked", "w").close()
            time.sleep(1)
        super().do_GET()
"""


def test_sigterm_drains(engine: Mesh) -> None:
    """No request is lost under load until the listener is closed, and what was accepted is answered."""
    source = server("planner one").replace("ThreadingHTTPServer.allow", SLOW + "ThreadingHTTPServer.allow")
    engine.write("planner.py", source.replace("), Handler)", "), Slow)"))
    running = start(engine, "planner")
    late = HTTPConnection("127.0.0.1", engine.port("planner"), timeout=10)
    with engine.load("planner", rate=200, kinds=(FRESH,), expect="planner one") as load:
        wait_for(lambda: len(load.so_far()) > 100)
        late.request("GET", "/slow")
        wait_for((engine.root / "asked").exists)
        asked_at = time.monotonic()
        assert stop(running) == 0
        answered = late.getresponse()
        assert (answered.status, answered.read()) == (200, b"planner one")
        requests = load.stop()
    failed = [request for request in requests if request.failure]
    lost = [request for request in failed if request.failure != "refused"]
    assert not lost, lost[:5]
    assert all(request.at + request.seconds > asked_at for request in failed)
    assert len([request for request in requests if not request.failure]) > 100
    assert engine.registered() == []


# ---- reloads, on request ---------------------------------------------------------------------------------------------


def test_with_watch_a_save_reloads_it_beside_the_old_one(engine: Mesh) -> None:
    running = start(engine, "planner", "--prod", "--watch")
    with engine.load("planner") as load:
        engine.edit("planner.py", "planner one", "planner two")
        engine.wait_answer("planner", "planner two")
        engine.wait_generation("planner", 1)
        assert not [request for request in load.stop() if request.failure]
    engine.edit("planner.py", "ANSWER = ", "ANSWER = (")
    wait_for(lambda: engine.agent("planner").rejection)
    assert engine.answer("planner") == "planner two"
    assert [row["id"][-4:] for row in healthy(engine)] == ["0002"]
    assert stop(running) == 0


def test_sighup_applies_what_mesh_toml_says_of_it(engine: Mesh) -> None:
    running = start(engine, "planner")
    engine.edit("mesh.toml", '["plan"]', '["plan", "think"]')
    running.signal(signal.SIGHUP)
    wait_for(lambda: engine.registered("?capability=think"))
    valid = (engine.root / "mesh.toml").read_text()
    engine.write("mesh.toml", "[agents.planner\n")
    running.signal(signal.SIGHUP)
    wait_for(lambda: engine.snapshot().config_error)
    engine.write("mesh.toml", valid.replace("[agents.planner]", "[agents.other]"))
    running.signal(signal.SIGHUP)
    wait_for(lambda: "no agent is called 'planner'" in (engine.snapshot().config_error or ""))
    engine.write("mesh.toml", valid)
    running.signal(signal.SIGHUP)
    wait_for(lambda: engine.snapshot().config_error is None)
    assert engine.agent("planner").generation == 1, "nothing of that needed another process"
    assert engine.answer("planner") == "planner one"
    assert stop(running) == 0


# ---- containers beside each other ------------------------------------------------------------------------------------


def on(host: str) -> tuple[str, ...]:
    """A wrapper: the machine has this name, as every container has its own."""
    own_users = () if os.geteuid() == 0 else ("--map-root-user",)
    unshare = ("unshare", *own_users, "--uts")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("UTS namespaces are not allowed here")
    return (*unshare, "sh", "-c", f'hostname {host} && exec "$0" "$@"')


def machine(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, host: str, agent: str = "planner") -> None:
    """Snapshots are about that agent on this machine from now on."""
    with monkeypatch.context() as patched:
        patched.setattr("os.uname", lambda: type("Uname", (), {"nodename": host}))
        mesh.state_dir = own_state_dir(mesh.root / ".mesh", agent)


def test_replicas_that_share_a_state_dir(engine: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records, two ids, two ports (containers would have two addresses); one's end is nothing to the other."""
    engine.edit("mesh.toml", f"port = {engine.port('planner')}", f'port = "${{AT:-{engine.port("planner")}}}"')
    first = engine.foreground("run", "planner", "--prod", env=told(engine), before=on("one"))
    machine(engine, monkeypatch, "one")
    engine.wait_ready()
    second = engine.foreground(
        "run", "planner", "--prod", env=told(engine, AT=str(engine.port("two"))), before=on("two")
    )
    machine(engine, monkeypatch, "two")
    engine.wait_ready()
    rows = healthy(engine)
    assert len({row["id"] for row in rows}) == 2
    assert {row["name"] for row in rows} == {"planner"}
    assert {row["endpoint"] for row in rows} == {f"http://127.0.0.1:{engine.port(name)}" for name in ("planner", "two")}
    assert stop(second) == 0
    (left,) = engine.registered()
    assert left["endpoint"].endswith(f":{engine.port('planner')}")
    assert engine.answer("planner") == "planner one"
    assert stop(first) == 0


def test_twice_in_one_container_is_refused(engine: Mesh) -> None:
    start(engine, "planner")
    again = engine.run("run", "planner", "--prod")
    assert (again.code, again.out) == (1, "")
    assert "already runs" in again.err


def test_two_agents_on_one_machine_are_told_apart_by_name(engine: Mesh) -> None:
    start(engine, "planner")
    planner = engine.state_dir
    start(engine, "retriever")
    assert engine.ok("ps", "-q", "planner") == "planner\n"
    assert engine.ok("health", "retriever").startswith("ready")
    both = engine.run("ps")
    assert both.code == 2
    assert "planner and retriever are supervised here, each by itself; name one of them" in both.err
    engine.state_dir = planner
    assert engine.agent("planner").state == "ready"


# ---- as PID 1 --------------------------------------------------------------------------------------------------------


def container(mesh: Mesh, environ: Mapping[str, str] = {}) -> contextlib.AbstractContextManager[Box]:
    mesh.state_dir = own_state_dir(mesh.root / ".mesh", "planner")
    return boxed(mesh, "run", "planner", around=Surroundings(environ=environ))


def test_as_pid_1_it_stays_whatever_the_mode(engine: Mesh) -> None:
    engine.edit("mesh.toml", 'name = "under-test"', 'name = "under-test"\nmode = "dev"')
    with container(engine) as box:
        assert box.run(engine, "health").out.startswith("ready")
        assert box.run(engine, "ps", "-q").out == "planner\n"
        box.signal(signal.SIGTERM)
        assert box.wait() == 0


def test_as_pid_1_it_drains_and_ends(engine: Mesh) -> None:
    with container(engine, told(engine)) as box:
        assert "prod mode (meshsup is PID 1), not watching" in wait_for(box.log)[0]["text"]
        assert [row["name"] for row in healthy(engine)] == ["planner"]
        assert engine.agent("planner").host == "0.0.0.0"
        with engine.load("planner", rate=200, kinds=(FRESH,), expect="planner one") as load:
            wait_for(lambda: len(load.so_far()) > 50)
            box.signal(signal.SIGTERM)
            assert box.wait() == 0
            assert {request.failure for request in load.stop()} <= {"", "refused"}
    assert engine.registered() == []


def test_as_pid_1_it_ends_as_the_program_does(engine: Mesh) -> None:
    with container(engine, told(engine)) as box:
        os.kill(box.outside(engine.agent("planner").pid), signal.SIGKILL)
        assert box.wait() == 137
    assert engine.registered() == []


def test_a_mesh_outside_that_shares_the_folder_is_another_one(mesh: Mesh) -> None:
    """People run the mesh on the host, and a container has its folder too: the sockets are reached from both."""
    mesh.serving("planner", "retriever")
    mesh.ok("up", "-d", "retriever")
    mesh.wait_ready("retriever")
    outside, pid = mesh.state_dir, mesh.snapshot().pid
    with container(mesh) as box:
        assert box.run(mesh, "ps", "-q").out == "planner\n"
        assert box.run(mesh, "health").out.startswith("ready")
        assert mesh.ok("ps", "-q").split() == ["registry", "planner", "retriever"]
        box.signal(signal.SIGTERM)
        assert box.wait() == 0
    mesh.state_dir = outside
    assert mesh.snapshot().pid == pid and alive(pid)
