"""Where something is missing that a laptop has, the mesh runs all the same and says so; and who else is told of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host import cgroups, procfs
from tests.e2e import sharedfolder
from tests.e2e.harness import MESHSUP, Mesh, alive, fresh_mesh, server, wait_for
from tests.e2e.namespaces import Surroundings, boxed
from tests.e2e.service import Manager, listening

MIB = 2**20


# ---- a service manager -----------------------------------------------------------------------------------------------

SHOWS_ENVIRONMENT = server("{}").replace(
    "ANSWER.encode()", "repr({k: v for k, v in os.environ.items() if k.startswith(('NOTIFY', 'WATCHDOG'))}).encode()"
)
WHEN_TOLD = "import time\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.02)"


@contextlib.contextmanager
def told(mesh: Mesh, *, abstract: bool = False, **environ: str) -> Iterator[tuple[Manager, int]]:
    """``meshsup up`` as a service; its pid."""
    with listening(abstract=abstract) as systemd:
        up = mesh.foreground("up", env={"NOTIFY_SOCKET": systemd.address, **environ})
        yield systemd, up.pid
        if not systemd.has_said("STOPPING"):
            mesh.ok("down")
        assert up.wait() in (0, 1)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_all_of_its_life(mesh: Mesh, abstract: bool) -> None:
    mesh.serving("quick", "slow")
    mesh.write("quick.py", SHOWS_ENVIRONMENT)
    mesh.write("slow.py", server("slow", WHEN_TOLD))
    with told(mesh, abstract=abstract, WATCHDOG_USEC="400000") as (systemd, pid):
        systemd.until_status("1 of 2 agents are ready")
        assert not systemd.has_said("READY")
        extended = [int(message.get("EXTEND_TIMEOUT_USEC", 0)) for message in systemd.said]
        assert max(extended) >= 600_000_000, "start_timeout of the agents"
        mesh.write("go", "")
        ready = systemd.until(READY="1")
        assert "2 of 2 agents are ready" in ready["STATUS"]
        assert mesh.answer("slow") == "slow"
        assert mesh.answer("quick") == "{}", "what is meant for the supervisor is not handed on"
        for _ in range(3):
            systemd.until(WATCHDOG="1")
        os.kill(pid, signal.SIGTERM)
        assert "stopping" in systemd.until(STOPPING="1")["STATUS"]
    assert sum("READY" in message for message in systemd.said) == 1


def test_a_reload_is_told_from_its_beginning_to_its_end_whatever_comes_of_it(mesh: Mesh) -> None:
    """As Type=notify-reload asks for it: RELOADING=1 not older than the SIGHUP, then READY=1 in every case."""
    mesh.serving("agent")
    with told(mesh) as (systemd, pid):
        systemd.until(READY="1")
        good = (mesh.root / "mesh.toml").read_text()
        steps = {
            "nothing has changed": good,
            "another agent": good
            + mesh.table("agent")
            .replace("agents.agent", "agents.second")
            .replace(str(mesh.port("agent")), str(mesh.port("second"))),
            "it is broken": "[mesh",
            "good again": good,
        }
        for step, text in steps.items():
            if step != "nothing has changed":
                mesh.save_atomically("mesh.toml", text)
                systemd.until(RELOADING="1")
            else:
                asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                os.kill(pid, signal.SIGHUP)
                begun = systemd.until(RELOADING="1")
                assert asked <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert systemd.next().get("READY") == "1", step
            if step == "it is broken":
                systemd.until_status("mesh.toml is not applied, the last valid one stays")
            if step == "another agent":
                systemd.until_status("2 of 2 agents are ready")


def test_an_agent_that_waits_for_an_edit_keeps_nobody_waiting(mesh: Mesh) -> None:
    mesh.serving("agent", "broken")
    mesh.write("broken.py", "import nothing_of_that_name\n")
    with told(mesh) as (systemd, _):
        ready = systemd.until(READY="1")
        assert "1 of 2 agents are ready; broken has failed" in ready["STATUS"]
        mesh.write("broken.py", server("mended"))
        systemd.until_status("2 of 2 agents are ready")


def test_why_a_mesh_gives_up_is_told(mesh: Mesh) -> None:
    mesh.serving("agent", keys='essential = true\nrestart = "never"')
    with told(mesh) as (systemd, _):
        systemd.until(READY="1")
        victim = mesh.agent("agent").pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert "agent is essential and has ended" in systemd.until(STOPPING="1")["STATUS"]


def test_from_the_background_nothing_is_told_and_that_is_said(mesh: Mesh) -> None:
    mesh.serving("agent")
    with listening() as systemd:
        done = mesh.run("up", "--wait", env={"NOTIFY_SOCKET": systemd.address})
        assert done.code == 0
        assert "NOTIFY_SOCKET is set, but from the background nothing is told" in done.err
        assert systemd.now() == []


def test_a_service_manager_that_is_gone_stops_nothing(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.foreground("up", env={"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "100000"})
    mesh.wait_ready()
    wait_for(lambda: "the service manager is told nothing: NOTIFY_SOCKET=/nowhere/notify" in mesh.log())
    assert mesh.log().count("is told nothing") == 1


# ---- no /proc --------------------------------------------------------------------------------------------------------

LEAVES_ONE_BEHIND = """
import subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("left", left.pid, flush=True)
"""


@pytest.mark.parametrize("init", ["", "docker-init"], ids=["as-pid-1", "below-an-init"])
@pytest.mark.parametrize("proc", ["none", "other"])
def test_without_a_proc_of_its_own_a_mesh_does_everything_but_what_it_says(mesh: Mesh, proc: str, init: str) -> None:
    mesh.serving("agent", "leaving")
    mesh.config(mesh.table("agent") + mesh.table("leaving", 'ready = { http = "/" }'))
    mesh.write("leaving.py", server("leaving one", LEAVES_ONE_BEHIND))
    with boxed(mesh, "up", "--dev", around=Surroundings(proc=proc, init=init)) as box:
        wait_for(lambda: "no /proc that shows the processes of this mesh" in box.output() + box.errors())
        text = box.output() + box.errors()
        assert text.count("no /proc that shows the processes of this mesh") == 1
        # Of an agent that is slow to start, a look at it may end first, and http.server says so with a traceback.
        own = [line for line in text.splitlines() if not line.startswith(("agent ", "leaving "))]
        assert "Traceback" not in "\n".join(own) and "guardian ended" not in text
        view = mesh.agent("agent")
        assert (view.cpu, view.memory) == (None, None)
        assert "no /proc" in box.run(mesh, "ps").err + box.run(mesh, "ps").out

        # Its socket is held for it meanwhile, and takes connections: that is no sign of it.
        mesh.write("agent.py", server("agent two", WHEN_TOLD))
        wait_for(lambda: "has not bound port" in mesh.agent("agent").detail)
        assert mesh.agent("agent").state == "reloading"
        mesh.write("go", "")
        mesh.wait_answer("agent", "agent two")
        assert mesh.agent("agent").order == "stop-first"

        before = {one.pid for one in box.processes() if "time.sleep(1000)" in command_line(one.pid)}
        assert len(before) == 1
        assert box.run(mesh, "restart", "leaving").code == 0
        wait_for(lambda: not any(map(alive, before)))

        os.kill(box.outside(mesh.agent("agent").pid), signal.SIGKILL)
        mesh.wait_generation("agent", 2)
        wait_for(lambda: not box.zombies())
        box.signal(signal.SIGTERM)
        assert box.wait() == 0


def command_line(pid: int) -> str:
    return procfs.read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode()


# ---- no inotify ------------------------------------------------------------------------------------------------------


def test_without_an_inotify_instance_files_are_looked_at(mesh: Mesh) -> None:
    """In a user namespace, which has limits of its own."""
    limit = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    unshare = ("unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh")
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    mesh.serving("agent")
    mesh.foreground("up", before=unshare)
    mesh.wait_ready()
    wait_for(lambda: "user.max_inotify_instances" in mesh.log())
    assert "files are looked at every 0.5 s instead" in mesh.log()
    mesh.write("agent.py", server("agent two"))
    mesh.wait_answer("agent", "agent two")
    assert "polling, the limit user.max_inotify_instances" in mesh.ok("watch", "status")


# ---- a file system without sockets -----------------------------------------------------------------------------------


def test_on_a_shared_folder_without_sockets_commands_find_the_mesh_all_the_same(mesh: Mesh) -> None:
    """The whole project on what a virtual machine shares with its host: no sockets, no hard links, events get lost."""
    if sharedfolder.why_not():
        pytest.skip(sharedfolder.why_not())
    project, below = mesh.root / "project", mesh.root / "below"
    for folder in (project, below):
        folder.mkdir()
    with inside(mesh, project):
        mesh.serving("agent")
        for file in ("mesh.toml", "agent.py"):
            (project / file).replace(below / file)
    with sharedfolder.shared(below, project) as enter, inside(mesh, project):
        up = mesh.foreground("-C", str(project), "up", before=enter)
        try:
            mesh.wait_ready()
            wait_for(lambda: f"{project}/.mesh has no sockets (Operation not permitted)" in up.output())
            wait_for(lambda: "events of fuse.grpcfuse file systems can get lost" in up.output())
            for words in (["ps"], ["health"], ["logs", "-n", "5"], ["watch", "status"]):
                done = seen(mesh, project, *enter, *words)
                assert done.returncode == 0, done.stderr

            (below / "agent.py").write_text(server("agent two"))  # by the host: no event comes of it
            mesh.wait_answer("agent", "agent two")

            again = seen(mesh, project, *enter, "up", "-d")
            assert again.returncode == 0 and "runs already" in again.stderr
        finally:
            down = seen(mesh, project, *enter, "down")
        assert down.returncode == 0, down.stderr
        assert up.wait() == 0
    assert not (below / ".mesh/control.sock").exists()


@contextlib.contextmanager
def inside(mesh: Mesh, folder: Path) -> Iterator[None]:
    """The mesh lies there."""
    root, state_dir = mesh.root, mesh.state_dir
    mesh.root, mesh.state_dir = folder, folder / ".mesh"
    try:
        yield
    finally:
        mesh.root, mesh.state_dir = root, state_dir


def seen(mesh: Mesh, project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``ENTER… VERB…``: a command where the folder can be seen."""
    at = words.index(str(project.parent)) + 1
    command = [*words[:at], str(MESHSUP), "-C", str(project), *words[at:]]
    return subprocess.run(command, env=mesh.environ, capture_output=True, text=True, timeout=60, check=False)


# ---- two containers, one state_dir -----------------------------------------------------------------------------------


def test_a_second_container_on_one_state_dir_is_refused_and_harms_nobody(mesh: Mesh) -> None:
    mesh.serving("agent")
    with boxed(mesh) as first:
        before = mesh.agent("agent").pid
        with boxed(mesh, ready=False) as second:
            assert second.wait() == 1
            said = second.errors()
        assert "in another container or on another machine (host name " in said
        assert f"with the same state_dir {mesh.state_dir}" in said
        assert "MESHSUP_STATE_HOME" in said

        # Looking and stopping are possible from there: the socket is a file.
        with boxed(mesh, "ps", "--json", ready=False) as third:
            assert third.wait() == 0
            assert json.loads(third.output())["agents"][-1]["name"] == "agent"
        assert mesh.agent("agent").pid == before
        with boxed(mesh, "down", ready=False) as fourth:
            assert fourth.wait() == 0
        assert first.wait() == 0


def test_another_containers_mesh_says_neither_what_is_run_here_nor_that_all_is_well(mesh: Mesh) -> None:
    mesh.serving("agent")
    with boxed(mesh) as first:
        before = mesh.agent("agent").pid
        for words in (("run", "--dev", "agent"), ("run", "--debug", "agent"), ("exec", "agent", "--", "touch", "ran")):
            with boxed(mesh, *words, ready=False) as second:
                assert second.wait() == 1
                assert "what answers for this mesh runs in another container" in second.errors()
            outside = mesh.run(*words)  # the machine sees the listener, in a namespace that is not its own
            assert outside.code == 1
            assert "what answers for this mesh runs in another container" in outside.err
        assert not (mesh.root / "ran").exists()
        assert first.run(mesh, "exec", "agent", "--", "echo", "here").out == "here\n"

        with boxed(mesh, "health", ready=False) as check:
            assert check.wait() == 3
            assert check.output().startswith("not running: nobody here answers for ")
        assert first.run(mesh, "health").out == mesh.ok("health") == "ready: 1 of 1 agent is ready\n"
        assert mesh.agent("agent").pid == before


@pytest.mark.parametrize("proc", ["own", "other"])
def test_root_runs_nothing_that_another_users_mesh_says(mesh: Mesh, proc: str) -> None:
    """`docker exec -u 0`: whoever is the container's user would be root by that."""
    mesh.state_dir = mesh.root / "state"
    mesh.write("agent.py", server("agent one"))
    mesh.config(mesh.table("agent"), mesh='state_dir = "state"')
    with boxed(mesh, around=Surroundings(user=12345, writable=(mesh.state_dir,), proc=proc)) as box:
        own = box.run(mesh, "exec", "agent", "--", "id", "-u")
        assert (own.code, own.out) == (0, "12345\n")
        as_root = ["nsenter", "--target", str(box.first), "--pid", "--mount", "--wd"]
        for words in (["run", "--dev", "agent"], ["exec", "agent", "--", "id"]):
            command = [*as_root, str(MESHSUP), *words]
            done = subprocess.run(command, env=mesh.environ, capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, done.stdout) == (1, "")
            assert "belongs to user 12345, and what it says would be run as root; become that user: " in done.stderr
            assert "`docker exec -u 12345 …` or `sudo -u '#12345' …`" in done.stderr
        assert mesh.answer("agent") == "agent one"


def test_a_second_container_with_a_state_home_of_its_own_runs_beside_it(mesh: Mesh) -> None:
    mesh.serving("agent")
    with boxed(mesh), fresh_mesh() as other:
        other.serving("agent")
        with boxed(other, around=Surroundings(environ={"MESHSUP_STATE_HOME": str(other.root / "home")}), ready=False):
            wait_for(lambda: other.answer("agent") == "agent one")
        assert mesh.answer("agent") == "agent one"


# ---- out of memory ---------------------------------------------------------------------------------------------------

LIMIT = 400 * MIB
EATS = """
def eat():
    eaten = []
    while True:
        eaten.append(b"x" * 2**20)
"""


class Limited:
    """A memory control group with a limit. ``before`` runs a command in it; ``as_container``: and lets it see no other,
    as an engine does."""

    def __init__(self, folder: Path, mounted: Path) -> None:
        self.folder, self.mounted = folder, mounted

    @property
    def before(self) -> tuple[str, ...]:
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    @property
    def as_container(self) -> tuple[str, ...]:
        mount = f'mount --bind {self.folder} {self.mounted} && exec "$@"'
        return (*self.before, "unshare", "--mount", "sh", "-c", mount, "sh")


@pytest.fixture
def limited(mesh: Mesh) -> Iterator[Limited]:
    """Gone after the mesh is: fixtures end in reverse."""
    own = cgroups.around_us()
    if not own:
        pytest.skip("no memory control group can be seen here")
    folder = own[0].folder / f"meshsup-test-{mesh.mark[:8]}"
    limit, swap = ("memory.max", "memory.swap.max") if own[0].unified else (
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    )  # fmt: skip
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (folder / limit).write_text(str(LIMIT))
        if (folder / swap).exists():  # what is swapped out instead would only make it slow
            (folder / swap).write_text("0" if own[0].unified else str(LIMIT))
        probe = subprocess.run([*Limited(folder, own[-1].folder).as_container, "true"], capture_output=True, text=True)
        assert probe.returncode == 0, probe.stderr
    except (OSError, AssertionError) as error:
        folder.rmdir()
        pytest.skip(f"no limit can be set here: {error}")
    yield Limited(folder, own[-1].folder)
    mesh.close()

    def gone() -> bool:
        folder.rmdir()  # what has ended leaves it a little later
        return True

    wait_for(gone)


def eating(answer: str) -> str:
    """Eats when it is asked for /eat."""
    asked = "self.path == '/eat' and eat()"
    return server(answer, EATS).replace("self.send_response", f"{asked}\n        self.send_response")


def test_the_agent_that_reaches_the_limit_of_the_container_is_named(mesh: Mesh, limited: Limited) -> None:
    mesh.serving("small", "hungry")
    mesh.write("hungry.py", eating("hungry one"))
    mesh.foreground("up", before=limited.as_container)
    before = mesh.wait_ready()
    with contextlib.suppress(OSError):
        mesh.answer("hungry", "/eat")
    mesh.wait_generation("hungry", before["hungry"].generation)

    sentence = r"killed: out of memory \(limit of the container 400 MiB; it used (\d+) MiB\)"
    crash = mesh.events("crashed", agent="hungry")[0]["text"]
    found = re.fullmatch(sentence, crash)
    assert found, crash
    assert 100 < int(found[1]) <= 400
    wait_for(lambda: re.search("hungry crashed: " + sentence, mesh.log()))
    assert mesh.agent("small").pid == before["small"].pid
    assert mesh.events("crashed", agent="small") == []

    # Whoever is killed by hand after that is no victim of the kernel.
    victim = mesh.agent("hungry")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    mesh.wait_generation("hungry", victim.generation)
    assert mesh.events("crashed", agent="hungry")[-1]["text"] == "killed by SIGKILL"


def test_when_memory_runs_out_the_supervisor_goes_last_and_warm_processes_go_first(mesh: Mesh) -> None:
    mesh.serving("agent")
    mesh.up()
    # Looked at once: the template may be replaced by a better one at any time.
    warm = wait_for(lambda: [offered(one.pid) for one in mesh.snapshot().warm if one.state == "warm" and one.pid])
    agent = mesh.agent("agent").pid
    assert offered(mesh.snapshot().pid) < offered(agent) < warm[0]
    with mesh.only_restarts("agent"):  # from the template
        mesh.write("agent.py", server("agent two"))
    assert mesh.agent("agent").start != "cold"
    assert offered(mesh.agent("agent").pid) == offered(mesh.registry().pid) < warm[0]


def offered(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_save_that_needs_more_than_there_is_is_rejected_for_that(mesh: Mesh, limited: Limited) -> None:
    mesh.serving("agent")
    mesh.foreground("up", before=limited.before)
    mesh.wait_ready()
    assert mesh.agent("agent").order == "start-first"
    mesh.write("agent.py", server("agent two", EATS + "eat()"))
    view = mesh.wait_rejected("agent")
    words = rf"killed: out of memory \(limit of the control group \S+{limited.folder.name} 400 MiB; it used \d+ MiB\)"
    assert view.rejection and re.fullmatch(words, view.rejection), view.rejection
    assert mesh.answer("agent") == "agent one"
    assert re.search(words, mesh.history("agent")[-1]["error"])
    assert "out of memory" in mesh.ok("ps")


def test_a_worker_that_was_killed_explains_the_end_of_its_parent(mesh: Mesh, limited: Limited) -> None:
    mesh.serving("agent")
    mesh.write("worker.py", EATS + "eat()")
    mesh.write("agent.py", "import subprocess, sys\nsubprocess.run([sys.executable, 'worker.py'], check=True)\n")
    mesh.foreground("up", before=limited.before)
    mesh.wait_state("agent", "backoff", "crashloop")
    words = r"exit 1: .*died with .*SIGKILL.*; a process here was killed: out of memory \(limit of .* 400 MiB\)"
    wait_for(lambda: re.search(words, mesh.events("crashed", agent="agent")[0]["text"]))
