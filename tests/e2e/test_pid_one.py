"""``ENTRYPOINT ["meshsup", "up"]``: as PID 1 of a PID namespace, in surroundings like those of containers."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from mesh_supervisor.host import procfs
from tests.e2e.harness import Mesh, get, server, wait_for
from tests.e2e.namespaces import Box, Surroundings, boxed

GRACE = 10.0
"""Seconds that `docker stop` waits before it kills."""

SOMEBODY = 12345  # of whom no passwd file knows

DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"

STUBBORN = "stop = { timeout = 600 }"
NEVER_IN_TIME = "stop_timeout = 600"


def says_goodbye(name: str) -> str:
    """Source that says so when it is told to stop, and whether the registry still answers then."""
    return f"""
        import http.client, signal, sys, urllib.parse

        def leave(*_):
            registry = http.client.HTTPConnection(urllib.parse.urlsplit(os.environ["MESHSUP_REGISTRY_URL"]).netloc)
            registry.request("GET", "/health")
            print("{name} leaves, and the registry says", registry.getresponse().status, flush=True)
            os._exit(0)

        signal.signal(signal.SIGTERM, leave)
        """


# ---- orphans ---------------------------------------------------------------------------------------------------------

ORPHANS = 1000
FORKS = f"""
import os, time
for number in range({ORPHANS}):
    first = os.fork()
    if first == 0:
        if os.fork() == 0:
            os.setsid() if number % 2 else None
            while os.getppid() != 1:
                time.sleep(0.0005)
            os.write(1, b"an orphan ends\\n")
            os._exit(number % 256)
        os._exit(0)
    os.waitpid(first, 0)
"""


def test_every_orphan_is_reaped(mesh: Mesh) -> None:
    """A thousand that are double-forked, every other one in a session of its own; and one of a `docker exec`."""
    mesh.serving("mother")
    mesh.write("forks.py", FORKS)
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-IS', 'forks.py'], check=True)\n"
    mesh.write("mother.py", server("mother one", start))
    with boxed(mesh) as box:
        wait_for(lambda: Counter(line.get("text") for line in box.log())["an orphan ends"] == ORPHANS, 60)
        wait_for(lambda: not box.zombies())
        subprocess.run(box.command("sh", "-c", "sleep 0.1 & exec true"), check=True, timeout=20)
        wait_for(lambda: not [one for one in box.processes() if one.name == "sleep"])
        wait_for(lambda: not box.zombies())
        # What is an instance is collected by whoever waits for it, with its exit code.
        crashed = mesh.agent("mother")
        subprocess.run(["kill", "-9", str(box.outside(crashed.pid))], check=True)
        wait_for(lambda: box.says("mother crashed: killed by SIGKILL"))
        mesh.wait_generation("mother", crashed.generation, timeout=60)
        wait_for(lambda: not box.zombies())


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_stops_all_in_order(mesh: Mesh, number: signal.Signals) -> None:
    mesh.config(
        mesh.table("base")
        + mesh.table("middle", 'depends_on = ["base"]')
        + mesh.table("top", 'depends_on = ["middle"]')
    )
    for name in ("base", "middle", "top"):
        mesh.write(f"{name}.py", server(name, says_goodbye(name)))
    with boxed(mesh) as box:
        box.signal(number)
        assert box.wait() == 0
        left = [line["text"] for line in box.log() if "leaves" in line["text"]]
        assert left == [f"{name} leaves, and the registry says 200" for name in ("top", "middle", "base")]
        assert box.says(f"{number.name}: stopping")
        assert box.log()[-1]["text"] == "stopped"
        assert box.errors() == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(mesh: Mesh, number: signal.Signals, code: int) -> None:
    mesh.write("stubborn.py", server("stubborn one", DEAF))
    mesh.config(mesh.table("stubborn", STUBBORN), mesh=NEVER_IN_TIME)
    with boxed(mesh) as box:
        box.signal(number)
        mesh.wait_state("stubborn", "draining", "stopped")
        box.signal(number)
        assert box.wait(GRACE) == code


def test_what_does_not_stop_is_killed_inside_the_grace_of_an_engine(mesh: Mesh) -> None:
    """With `--init` too, where meshsup is not PID 1 itself."""
    mesh.write("stubborn.py", server("stubborn one", DEAF))
    mesh.config(mesh.table("stubborn", STUBBORN))
    with boxed(mesh, around=Surroundings(init="docker-init")) as box:
        began = time.monotonic()
        box.signal(signal.SIGTERM)
        assert box.wait() == 0
        print(f"it took {time.monotonic() - began:.2f} s")
        assert box.says("not everything stopped within 8 s; the rest is killed")


CHATTERS = """
import threading, time
def chatter():
    while True:
        print("x" * 4000, flush=True)
        time.sleep(0.005)
threading.Thread(target=chatter, daemon=True).start()
"""


def test_who_follows_the_log_and_does_not_read_it_adds_hardly_anything_to_that(mesh: Mesh) -> None:
    """A terminal that was paused: what is sent to it waits, and the engine does not."""
    mesh.write("stubborn.py", server("stubborn one", DEAF + CHATTERS))
    mesh.config(mesh.table("stubborn", STUBBORN), mesh="stop_timeout = 1")
    # A busy machine can take that long by itself, but not each time.
    assert any(seconds_to_the_end_with_a_paused_follower(mesh) < 2.5 for _ in range(3))


def seconds_to_the_end_with_a_paused_follower(mesh: Mesh) -> float:
    """After the agents were killed."""
    with boxed(mesh) as box, socket.socket(socket.AF_UNIX) as paused:
        paused.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        paused.connect(str(mesh.state_dir / "control.sock"))
        paused.sendall(b"GET /logs HTTP/1.1\r\nHost: mesh\r\n\r\n")
        before = len(box.log())
        wait_for(lambda: len(box.log()) > before + 250)  # a megabyte: far more than the kernel keeps for it
        box.signal(signal.SIGTERM)
        box.wait_says("not everything stopped within 1 s; the rest is killed")
        began = time.monotonic()
        assert box.wait() == 0
        took = time.monotonic() - began
        assert box.says("stopped", "meshsup")
        assert box.errors() == ""
        return took


GIVES_UP = """
[agents.vital]
command = "vital.py"
essential = true
backoff = { initial = 0.05 }
crashloop = { crashes = 2, window = 60 }
"""


def test_an_essential_agent_that_is_given_up_ends_it_with_1(mesh: Mesh) -> None:
    mesh.write("vital.py", "raise SystemExit(3)\n")
    mesh.write("other.py", server("other", says_goodbye("other")))
    mesh.config(GIVES_UP + mesh.table("other"))
    with boxed(mesh, ready=False) as box:
        assert box.wait() == 1
        assert box.says("vital is essential and")
        assert box.says("stopped")


def test_a_signal_that_cuts_such_an_end_short_does_not_make_it_a_clean_one(mesh: Mesh) -> None:
    mesh.write("vital.py", "raise SystemExit(3)\n")
    mesh.write("stubborn.py", server("stubborn one", DEAF + "print('is deaf', flush=True)\n"))
    mesh.config(
        GIVES_UP + 'depends_on = { stubborn = { condition = "ready" } }\n' + mesh.table("stubborn", STUBBORN),
        mesh=NEVER_IN_TIME,
    )
    with boxed(mesh, ready=False) as box:
        box.wait_says("the mesh stops")
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 1


# ---- signals at other moments ----------------------------------------------------------------------------------------


SLOW_IMPORT = """
import importlib, pathlib, sys, time
here = pathlib.Path(__file__).parent
(here / "importing").touch()
while not (here / "go").exists():
    time.sleep(0.01)
sys.path.remove(str(here))
del sys.modules["click"]
importlib.import_module("click")
"""


def test_sigterm_while_it_is_still_imported_ends_it(mesh: Mesh) -> None:
    """PID 1 has no default action: without a handler the signal would be lost, and the grace with it."""
    mesh.serving("agent")
    slow = mesh.write("slow/click.py", SLOW_IMPORT).parent
    path = os.pathsep.join([str(slow), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with boxed(mesh, around=Surroundings(environ={"PYTHONPATH": path.rstrip(os.pathsep)}), ready=False) as box:
        wait_for((slow / "importing").exists)
        box.signal(signal.SIGTERM)
        (slow / "go").touch()
        assert box.wait(GRACE) == 0
        assert box.output() == box.errors() == ""


def test_sigterm_ends_a_registry_by_itself(mesh: Mesh) -> None:
    with boxed(mesh, "registry", "serve", "--port", str(mesh.registry_port), ready=False) as box:
        wait_for(lambda: get(mesh.registry_port, "/health")[0] == 200)
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 0


@pytest.mark.parametrize("around", [Surroundings(), Surroundings(init="docker-init")], ids=["pid one", "init"])
def test_sigterm_while_agents_start(mesh: Mesh, around: Surroundings) -> None:
    slow = "import time\nprint('begins', flush=True)\ntime.sleep(600)\n"
    mesh.write("slow.py", server("never", slow))
    mesh.config(mesh.table("slow"))
    with boxed(mesh, around=around, ready=False) as box:
        box.wait_says("begins")
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 0
        assert box.says("stopped")


def test_sigterm_while_an_interpreter_owes_an_answer(mesh: Mesh) -> None:
    """It is asked at the start, in a process that nobody else stops, and may take half a minute."""
    mesh.serving("agent", keys='python = "python"')
    mesh.write("python", "#!/bin/sh\necho asked > $(dirname $0)/asked\nsleep 600\n").chmod(0o755)
    with boxed(mesh, ready=False) as box:
        wait_for((mesh.root / "asked").exists)
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 0


def test_sigterm_during_a_reload_ends_both_generations(mesh: Mesh) -> None:
    mesh.write("agent.py", server("one", says_goodbye("one")))
    mesh.config(mesh.table("agent"))
    with boxed(mesh) as box:
        mesh.write("agent.py", server("two", "import time\nprint('two begins', flush=True)\ntime.sleep(600)\n"))
        reload = mesh.foreground("reload", "agent", before=tuple(box.command()))
        box.wait_says("two begins")
        assert mesh.agent("agent").state == "reloading" and mesh.answer("agent") == "one"
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 0
        assert box.says("one leaves")
        reload.wait(GRACE)


def test_sighup_applies_mesh_toml(mesh: Mesh) -> None:
    mesh.serving("agent", "other")
    with boxed(mesh) as box:
        before = mesh.wait_ready()
        box.signal(signal.SIGHUP)
        box.wait_says("nothing changes")

        mesh.edit("mesh.toml", "[agents.agent]", "[agents.agent]\nargs = ['--more']")
        box.signal(signal.SIGHUP)
        mesh.wait_generation("agent", before["agent"].generation)
        assert mesh.agent("other").pid == before["other"].pid


def test_sighup_with_a_broken_mesh_toml_keeps_the_last_valid_one(mesh: Mesh) -> None:
    mesh.serving("agent")
    valid = (mesh.root / "mesh.toml").read_text()
    with boxed(mesh) as box:
        before = mesh.pids()
        for broken, said in (("[agents.agent", "not TOML"), (f"{valid}\nprot = 1\n", "agents.agent.prot")):
            mesh.write("mesh.toml", broken)
            box.signal(signal.SIGHUP)
            box.wait_says(said, "meshsup")
            assert mesh.pids() == before
            assert mesh.answer("agent") == "agent one"
        said_before = len(box.log())
        box.signal(signal.SIGHUP)
        wait_for(lambda: any("is not applied" in line["text"] for line in box.log()[said_before:]))
        mesh.write("mesh.toml", valid)
        box.signal(signal.SIGHUP)
        box.wait_says("mesh.toml is valid again")
        assert mesh.pids() == before
        (mesh.root / "mesh.toml").unlink()
        box.signal(signal.SIGHUP)
        box.wait_says("no such file")
        assert mesh.answer("agent") == "agent one"


def test_signals_without_a_meaning_are_said_and_change_nothing(mesh: Mesh) -> None:
    mesh.serving("agent")
    with boxed(mesh) as box:
        before = mesh.pids()
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            box.signal(number)
            box.wait_says(f"{number.name} means nothing here")
        for number in (signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH):
            box.signal(number)
        assert box.run(mesh, "ps").code == 0
        assert mesh.pids() == before


@pytest.mark.parametrize("init", ["", "docker-init"])
def test_it_does_not_go_into_the_background(mesh: Mesh, init: str) -> None:
    mesh.serving("agent")
    with boxed(mesh, "up", "-d", around=Surroundings(init=init), ready=False) as box:
        assert box.wait() == 2
        assert "the container would end" in box.errors() and "-d" in box.errors()


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_every_line_is_one_json_object_without_colours(mesh: Mesh) -> None:
    talks = r"""
        print('{"level": "info", "msg": "structured", "agent": "somebody else"}')
        print("\x1b[31mred\x1b[0m", flush=True)
        print("not { JSON }")
        """
    mesh.write("agent.py", server("one", talks))
    mesh.config(mesh.table("agent"))
    with boxed(mesh, around=Surroundings(environ={"NO_COLOR": None, "FORCE_COLOR": "1"})) as box:
        box.wait_says("not { JSON }", "agent")
        first = box.log()[0]
        assert "prod mode (meshsup is PID 1), not watching" in first["text"] and first["agent"] == "meshsup"
        merged = next(line for line in box.log() if line.get("level") == "info")
        assert (merged["agent"], merged["agent_"], merged["msg"]) == ("agent", "somebody else", "structured")
        assert "text" not in merged
        assert box.says("red", "agent")
        box.signal(signal.SIGTERM)
        assert box.wait() == 0
        box.log()
        assert "\x1b" not in box.output() and "\\u001b" not in box.output()
        assert box.errors() == ""


# ---- surroundings ----------------------------------------------------------------------------------------------------


ALL: dict[str, Any] = {"read_only": True, "user": SOMEBODY, "capabilities": False, "stdin": False}
SURROUNDINGS: dict[str, dict[str, Any]] = {
    "read-only": {"read_only": True},
    "somebody": {"user": SOMEBODY},
    "no capabilities": {"capabilities": False},
    "init": {"init": "docker-init"},
    "stdin closed": {"stdin": False},
    "foreign proc": {"proc": "other"},
    "all": ALL,
    "all with init": {**ALL, "init": "docker-init"},
}
"""Each by itself, and all that an engine can take away at once."""


@pytest.mark.parametrize("keys", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_it_runs_where_much_is_missing(mesh: Mesh, keys: dict[str, Any]) -> None:
    """Start, crash, restart, the commands of a `docker exec`, SIGHUP, stop: nothing of it needs more."""
    mesh.state_dir = mesh.root / "state"
    around = Surroundings(writable=(mesh.state_dir,), **keys)
    says_host = "print('listens on', os.environ['HOST'], 'for', os.getuid(), flush=True)\n"
    mesh.write("agent.py", server("one", says_host))
    mesh.config(mesh.table("agent"), mesh='state_dir = "state"')
    with boxed(mesh, around=around) as box:
        wait_for(lambda: box.says(f"listens on 0.0.0.0 for {around.user or 0}"))
        assert box.says("no /proc that shows the processes of this mesh") is (around.proc == "other")
        assert _refused_to_write(box, mesh) is bool(around.read_only or around.user)
        assert mesh.answer("agent") == "one"
        before = mesh.agent("agent")
        subprocess.run(["kill", "-9", str(_serving(box))], check=True)
        mesh.wait_generation("agent", before.generation)
        done = box.run(mesh, "restart", "agent")
        assert done.code == 0, done
        box.signal(signal.SIGHUP)
        box.wait_says("nothing changes")
        box.signal(signal.SIGTERM)
        assert box.wait(GRACE) == 0
        assert box.log()[-1]["text"] == "stopped"
        assert box.errors() == ""


def _serving(box: Box) -> int:
    """The pid outside of the agent's process, found by its command line: nothing inside need know it."""
    pids = [one.pid for one in box.processes() if b"agent.py" in procfs.read(f"/proc/{one.pid}/cmdline")]
    assert len(pids) == 1, pids
    return pids[0]


def _refused_to_write(box: Box, mesh: Mesh) -> bool:
    done = subprocess.run(box.command("touch", str(mesh.root / "trial")), capture_output=True, text=True, check=False)
    return done.returncode != 0


# ---- whose child it is -----------------------------------------------------------------------------------------------

SMALL_INIT = Surroundings(init="docker-init")


def test_the_child_of_a_small_init_is_what_the_container_was_started_for(mesh: Mesh) -> None:
    mesh.serving("agent")
    with boxed(mesh, around=SMALL_INIT) as box:
        assert "prod mode (docker-init is PID 1 and has started it)" in wait_for(box.log)[0]["text"]


@pytest.mark.parametrize("name", ["systemd", "sh"])
def test_the_child_of_what_starts_many_is_one_of_them(mesh: Mesh, name: str) -> None:
    """A service of systemd in LXC or WSL is no container, though it has a PID namespace of its own."""
    mesh.write("agent.py", server("one", "print('listens on', os.environ['HOST'], flush=True)\n"))
    mesh.config(mesh.table("agent"))
    with boxed(mesh, around=Surroundings(init=name)) as box:
        assert "prod mode (its parent is PID 1 and stdout is no terminal)" in wait_for(box.log)[0]["text"]
        box.wait_says("listens on 127.0.0.1", "agent")


def test_an_orphan_of_a_terminal_in_the_container_is_not_what_it_was_started_for(mesh: Mesh) -> None:
    """What `docker exec` leaves in the background becomes a child of the init too."""
    mesh.serving("agent")
    out = mesh.root / "asked"
    script = f"""
import os, pathlib, time
while os.getppid() != 1:
    time.sleep(0.001)
from mesh_supervisor.host.container import is_main_process, why_unattended
pathlib.Path({str(out)!r}).write_text(f"{{is_main_process()}} {{why_unattended()}}\\n")
"""
    with boxed(mesh, around=SMALL_INIT) as box:
        words = shlex.join([sys.executable, "-c", script])
        subprocess.run(box.command("sh", "-c", f"{words} >{out}.log 2>&1 &"), cwd=mesh.root, check=True)
        wait_for(lambda: out.exists() and out.read_text().endswith("\n"))
        assert out.read_text() == "False its parent is PID 1 and stdout is no terminal\n"
