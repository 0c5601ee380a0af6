"""Nothing of an agent survives it, and nothing of a mesh survives its supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import Mesh, alive, children, open_files, server, signal_all, wait_for

DAUGHTER = (
    "import os, pathlib, sys, time; note = pathlib.Path(sys.argv[1]); "
    "note.with_suffix('.new').write_text(str(os.getpid())); note.with_suffix('.new').rename(note); time.sleep(1000)"
)
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def with_daughter(mesh: Mesh, name: str, before: str = "", *, environ: str = "None") -> Path:
    """An agent that starts a process in a session of its own, as MCP SDKs do; the file that will hold its pid.

    ``environ`` is the expression that says what that process finds in its environment."""
    note = mesh.root / f"{name}.daughter"
    words = f"[sys.executable, '-c', {DAUGHTER!r}, {str(note)!r}]"
    start = f"import subprocess, sys\nsubprocess.Popen({words}, start_new_session=True, env={environ})\n"
    mesh.write(f"{name}.py", server(f"{name} one", before + start))
    return note


def pid_in(note: Path) -> int:
    pid = wait_for(lambda: int(note.read_text()))
    assert alive(pid)
    return pid


def test_a_grandchild_in_its_own_session_is_swept_with_its_agent(mesh: Mesh) -> None:
    mesh.serving("mother", "other")
    note, others = with_daughter(mesh, "mother"), with_daughter(mesh, "other")
    mesh.up()
    bystander = pid_in(others)

    first = pid_in(note)
    note.unlink()
    mesh.kill("mother")  # a crash
    wait_for(lambda: not alive(first))

    second = pid_in(note)
    note.unlink()
    mesh.ok("restart", "mother")
    wait_for(lambda: not alive(second))

    third = pid_in(note)
    mesh.ok("stop", "mother")
    assert not alive(third), "stop returns when nothing of the agent is left"
    assert mesh.agent("mother").state == "stopped"
    assert alive(bystander), "what belongs to another agent is nobody's business"
    mesh.ok("down")
    mesh.nothing_remains()


def test_a_grandchild_with_a_scrubbed_environment_is_swept_too(mesh: Mesh) -> None:
    mesh.serving("mother")
    note = with_daughter(mesh, "mother", environ="{}")
    mesh.up()
    daughter = pid_in(note)
    note.unlink()
    mesh.kill("mother")
    wait_for(lambda: not alive(daughter))


def test_kill_9_of_the_supervisor_leaves_nothing_and_the_next_up_works(mesh: Mesh) -> None:
    mesh.serving("mother", "stubborn", "plain")
    note = with_daughter(mesh, "mother")
    other = with_daughter(mesh, "stubborn", DEAF)
    mesh.up()
    pid_in(note), pid_in(other)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        os.kill(mesh.snapshot().pid, signal.SIGKILL)
        mesh.nothing_remains()
        assert mesh.run("ps").code == 3
        assert stranger.poll() is None

        before = {name: mesh.port(name) for name in ("mother", "plain")}
        mesh.up()
        assert {name: mesh.agent(name).port for name in before} == before
        assert mesh.answer("plain") == "plain one"
        assert min(view.generation for view in mesh.agents().values()) == 2, "a generation is never used twice"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_up_sweeps_what_an_earlier_supervisor_and_its_guardian_left(mesh: Mesh) -> None:
    """The guardian is killed first: everything else but the supervisor, then the supervisor."""
    mesh.serving("mother")
    note = with_daughter(mesh, "mother")
    mesh.up()
    daughter = pid_in(note)
    note.unlink()
    supervisor = mesh.snapshot().pid
    known = {supervisor, daughter, mesh.agent("mother").pid, mesh.registry().pid}
    os.kill(supervisor, signal.SIGSTOP)
    signal_all(mesh.processes().keys() - known, signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not alive(supervisor))
    mesh.up()
    assert not alive(daughter)
    assert pid_in(note) != daughter


def test_the_end_is_orderly_whoever_asks_for_it(mesh: Mesh) -> None:
    """Ctrl-C, SIGTERM, ``down``; and SIGHUP, which without a terminal is no end but re-reads mesh.toml."""
    mesh.serving("agent")
    on_term = "import atexit, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
    mesh.write("agent.py", server("one", on_term + "atexit.register(print, 'said goodbye', flush=True)\n"))
    for number in (signal.SIGINT, signal.SIGTERM):
        up = mesh.foreground("up")
        mesh.wait_ready()
        up.signal(number)
        assert up.wait() in (0, 130)
        assert "said goodbye" in up.output()
        mesh.nothing_remains()
    up = mesh.foreground("up")
    generation = mesh.wait_ready()["agent"].generation
    up.signal(signal.SIGHUP)
    mesh.ok("restart", "agent")
    assert mesh.agent("agent").generation == generation + 1
    assert up.process.poll() is None
    mesh.ok("down")
    assert up.wait() == 0


def test_the_second_ctrl_c_kills(mesh: Mesh) -> None:
    mesh.serving("stubborn", keys="stop = { timeout = 600 }")
    mesh.write("stubborn.py", server("stubborn one", DEAF))
    up = mesh.foreground("up")
    mesh.wait_ready()
    up.signal(signal.SIGINT)
    mesh.wait_state("stubborn", "draining", "stopped")
    up.signal(signal.SIGINT)
    up.wait(20)
    mesh.nothing_remains()


def test_stubborn_and_stopped_processes_are_killed_after_the_timeout(mesh: Mesh) -> None:
    mesh.serving("stubborn", "frozen", keys="stop = { timeout = 0.3 }")
    mesh.write("stubborn.py", server("stubborn one", DEAF))
    mesh.up()
    mesh.kill("frozen", signal.SIGSTOP)
    mesh.ok("stop", timeout=20)
    assert {view.state for view in mesh.agents().values()} == {"stopped"}
    assert {view.pid for view in mesh.agents().values()} == {None}


def test_wrappers_stop_cleanly(mesh: Mesh) -> None:
    """``sh -c`` without exec, a pipeline, and ``setsid``: the program inside ends with its wrapper, and in peace."""
    goodbye = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('goodbye'), sys.exit(0)))\n"
    mesh.write("inner.py", goodbye + "print('hello', flush=True)\ntime.sleep(1000)\n")
    mesh.config("""
        [agents.shell]
        command = ["sh", "-c", "python inner.py; echo never"]
        ready = { log = "hello" }
        [agents.pipe]
        command = ["sh", "-c", "python inner.py | cat"]
        ready = { log = "hello" }
    """)
    mesh.up()
    mesh.ok("stop", timeout=30)
    for name in ("shell", "pipe"):
        assert mesh.agent(name).state == "stopped"
        assert "goodbye" in mesh.ok("logs", name)
    assert len([line for line in mesh.processes().values() if "inner.py" in line]) == 0


def test_a_stop_by_the_signal_that_mesh_toml_names_is_no_failure(mesh: Mesh) -> None:
    """Of a program without a handler, of one that raises KeyboardInterrupt, and of one that says 130 as shells do."""
    mesh.write("plain.py", "import time\nprint('up', flush=True)\ntime.sleep(1000)\n")
    mesh.write("says.sh", "trap 'exit 130' INT\necho up\nwhile :; do sleep 0.05; done\n")
    keys = 'ready = { log = "up" }\nstop = { signal = "SIGINT" }\n'
    mesh.config(
        f'[agents.plain]\ncommand = "plain.py"\nruntime = false\n{keys}'
        f'[agents.guest]\ncommand = "plain.py"\n{keys}'
        f'[agents.shell]\ncommand = ["sh", "says.sh"]\n{keys}'
        f'[agents.other]\ncommand = ["sleep", "1000"]\nstop = {{ signal = "SIGINT" }}\n'
    )
    mesh.up()
    mesh.ok("stop")
    for name in ("plain", "guest", "shell", "other"):
        assert (mesh.row(name)["state"], mesh.row(name)["last"]) == ("stopped", "stopped")
        assert [event["text"] for event in mesh.events("stopped", agent=name)] == ["stopped"]
    assert "SIGINT" not in mesh.ok("ps", "-o", "wide") + mesh.log()


def test_signals_ignored_by_the_shell_that_started_us_are_not_inherited(mesh: Mesh) -> None:
    """A shell's background job has SIGINT ignored; agents that wait for SIGINT must stop all the same."""
    mesh.write(
        "waits.py",
        """
        import time
        print("hello", flush=True)
        try:
            time.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted")
        """,
    )
    mesh.config("""
        [agents.waits]
        command = "waits.py"
        ready = { log = "hello" }
        stop = { signal = "SIGINT", timeout = 60 }
    """)
    mesh.foreground("up", before=("sh", "-c", 'trap "" INT; exec "$@"', "sh"))
    mesh.wait_ready()
    mesh.ok("stop", timeout=30)
    assert "interrupted" in mesh.ok("logs", "waits")


def test_no_zombies_and_no_inherited_descriptors(mesh: Mesh) -> None:
    mesh.serving("agent")
    litter = "import subprocess\nfor _ in range(20): subprocess.Popen(['true'], start_new_session=True)\n"
    mesh.write("agent.py", server("one", litter))
    mesh.up()
    for _ in range(2):
        mesh.ok("restart", "agent")
    supervisor = mesh.snapshot().pid
    wait_for(lambda: not [pid for pid in children(supervisor) if not alive(pid)])
    agent = mesh.agent("agent").pid
    assert agent is not None

    def sockets() -> list[str]:
        return [name for name in open_files(agent) if name.startswith("socket:")]

    wait_for(lambda: len(sockets()) == 2)  # its own listener, and the channel: no connection of a probe any more
    assert not [name for name in open_files(agent) if str(mesh.state_dir) in name]


def test_a_taken_port_is_an_error_that_names_the_holder(mesh: Mesh) -> None:
    mesh.serving("agent", "other")
    with socket.create_server(("127.0.0.1", mesh.port("agent"))):
        mesh.up(ready=False)
        mesh.wait_ready("other")
        wait_for(lambda: mesh.agent("agent").failure)
        view = mesh.agent("agent")
        assert view.state != "ready"
        assert str(view.failure).startswith(f"port {mesh.port('agent')} ") and f"pid {os.getpid()}" in str(view.failure)
    mesh.run("restart", "agent")
    mesh.wait_ready("agent")


def test_a_taken_registry_port_is_an_error_that_names_the_holder(mesh: Mesh) -> None:
    mesh.serving("agent")
    with socket.create_server(("127.0.0.1", mesh.registry_port)):
        done = mesh.run("up", "-d")
        assert done.code == 1
        assert str(mesh.registry_port) in done.err and f"pid {os.getpid()}" in done.err
        assert "Traceback" not in done.err
    mesh.nothing_remains()


def test_two_checkouts_of_one_mesh_never_touch_each_other(mesh: Mesh) -> None:
    for place in ("one", "two"):
        (mesh.root / place).mkdir()
        registry, port = mesh.port(f"registry {place}"), mesh.port(place)
        mesh.write(f"{place}/agent.py", server(place))
        mesh.write(
            f"{place}/mesh.toml",
            f"""
            [mesh]
            name = "same"
            [registry]
            port = {registry}
            [agents.agent]
            command = "agent.py"
            port = {port}
            """,
        )
        mesh.ok("-C", place, "up", "--wait")
    assert mesh.answer("two") == "two"
    mesh.ok("-C", "one", "down")
    assert mesh.answer("two") == "two"
    mesh.ok("-C", "one", "up", "--wait")
    assert mesh.answer("one") == "one"
    mesh.ok("-C", "one", "down")
    mesh.ok("-C", "two", "down")
