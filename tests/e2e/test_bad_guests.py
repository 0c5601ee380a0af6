"""Programs that do what nobody expects of a program that is to be replaced under load. Each test has its own mesh.

What they have in common: in the end the newest code answers, everywhere, and nothing of an older one is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.load import FRESH, failures
from tests.e2e.agents import fastapi, stdlib
from tests.e2e.harness import Mesh, alive, children, wait_for


def start(mesh: Mesh, source: str, keys: str = "", *, ready: bool = True) -> int:
    """``agent.py`` of this source, up; its pid."""
    mesh.write("agent.py", source)
    mesh.config(f'[agents.agent]\ncommand = "agent.py"\nport = {mesh.port("agent")}\n{keys}\n')
    mesh.up(ready=ready)
    return mesh.agent("agent").pid or 0


def replaced(mesh: Mesh, word: str, source: str) -> None:
    """Save; until the new code answers each of 20 connections in a row, and the agent is ready."""
    mesh.write("agent.py", source)
    mesh.wait_word("agent", word)
    mesh.wait_ready()
    wait_for(lambda: {mesh.word("agent") for _ in range(20)} == {word})


def refused(port: int) -> bool:
    """Nobody listens there: no black hole either."""
    with socket.socket() as line:
        line.settimeout(2)
        return line.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


# ---- newcomers that do not stay --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave",
    ["raise SystemExit(0)", "os._exit(0)", "os.fork() and os._exit(0)"],
    ids=["exits 0", "exits at once", "forks away"],
)
def test_a_newcomer_that_leaves_is_rejected_and_swept(mesh: Mesh, leave: str) -> None:
    pid = start(mesh, stdlib("first"))
    with mesh.load("agent") as load:
        mesh.write("agent.py", stdlib("second", leave))
        view = mesh.wait_rejected("agent")
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 50)
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said for request in requests} == {f"first {pid}"}
    assert (view.pid, view.state) == (pid, "ready")
    assert [row["outcome"] for row in mesh.history("agent")] == ["rejected"]


def test_a_newcomer_that_dies_while_the_old_one_drains(mesh: Mesh) -> None:
    """The old one is held up by a stream. It does not come back; a third instance does, and nobody is refused."""
    routes = """
    @app.get("/stream")
    async def stream():
        async def words():
            yield "begun"
            while not pathlib.Path("enough").exists():
                await asyncio.sleep(0.01)
        return StreamingResponse(words())
    """
    old = start(mesh, fastapi("first", routes=routes))
    with (
        socket.create_connection(("127.0.0.1", mesh.port("agent"))) as stream,
        mesh.load("agent", kinds=(FRESH,)) as load,
    ):
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: agent\r\n\r\n")
        stream.recv(10)
        mesh.write("agent.py", fastapi("second", routes=routes))
        mesh.wait_word("agent", "second")
        new = wait_for(lambda: pid if (pid := mesh.agent("agent").pid) != old else None) or 0
        assert alive(old)
        os.kill(new, 9)
        wait_for(lambda: mesh.agent("agent").pid not in (None, old, new) and mesh.agent("agent").state == "ready")
        mesh.wait_word("agent", "second")
        (mesh.root / "enough").touch()
        wait_for(lambda: not alive(old))
        requests = load.stop()
    assert "refused" not in {request.failure for request in requests}
    assert mesh.agent("agent").restarts == 1


# ---- what is done to descriptors and sockets -------------------------------------------------------------------------


def test_one_that_closes_what_it_inherited(mesh: Mesh) -> None:
    closing = "os.closerange(3, 4096)"
    start(mesh, stdlib("first", closing))
    replaced(mesh, "second", stdlib("second", closing))
    replaced(mesh, "third", stdlib("third"))
    replaced(mesh, "fourth", stdlib("fourth", closing))


def test_one_that_binds_other_ports_than_its_predecessor(mesh: Mesh) -> None:
    """The port that nobody binds any more is given up, not held for ever."""
    extra = "import threading\nbeside = Server(('127.0.0.1', {port}), Handler)\n"
    extra += "threading.Thread(target=beside.serve_forever, daemon=True).start()\n"
    first, second = mesh.port("first"), mesh.port("second")
    start(mesh, stdlib("first", extra.format(port=first)))
    assert mesh.word("first") == "first"
    with mesh.load("agent") as load:
        replaced(mesh, "second", stdlib("second", extra.format(port=second)))
        wait_for(lambda: refused(first))
        assert mesh.word("second") == "second"
        replaced(mesh, "third", stdlib("third"))
        wait_for(lambda: refused(second))
        assert failures(load.stop()) == {}


def test_one_that_shuts_its_listener_down_when_it_ends(mesh: Mesh) -> None:
    """A shutdown of a shared listener would stop it for everybody."""
    rude = """
    import signal
    def on_term(*_):
        server.socket.shutdown(socket.SHUT_RDWR)
        os._exit(0)
    signal.signal(signal.SIGTERM, on_term)
    server = Server(ADDRESS, Handler)
    """
    start(mesh, stdlib("word0", rude, serve="server.serve_forever()"))
    with mesh.load("agent") as load:
        for number in (1, 2, 3):
            old = mesh.agent("agent").pid or 0
            replaced(mesh, f"word{number}", stdlib(f"word{number}", rude, serve="server.serve_forever()"))
            wait_for(lambda old=old: not alive(old))  # type: ignore[misc]
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 50)
        assert failures(load.stop()) == {}


def test_one_that_sets_so_reuseport(mesh: Mesh) -> None:
    """Held, such a socket would take a share of the connections and answer none of them."""
    reuse = "Server.server_bind = lambda self: (self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1), "
    reuse += "self.socket.bind(self.server_address))"
    start(mesh, stdlib("first", reuse))
    replaced(mesh, "second", stdlib("second", reuse))
    assert [mesh.word("agent") for _ in range(40)] == ["second"] * 40
    mesh.reload("agent")
    assert [mesh.word("agent") for _ in range(40)] == ["second"] * 40


def test_one_that_tests_its_port_by_connecting(mesh: Mesh) -> None:
    careful = """
    with socket.socket() as probe:
        if probe.connect_ex(ADDRESS) == 0:
            sys.exit(f"port {ADDRESS[1]} is in use")
    """
    start(mesh, stdlib("first", careful))
    with mesh.load("agent") as load:
        replaced(mesh, "second", stdlib("second", careful))
        replaced(mesh, "third", stdlib("third", careful))
        assert failures(load.stop()) == {}


@pytest.mark.parametrize("failing", ["sys.exit('port in use')", "raise OSError(98, 'Address already in use')"])
def test_one_that_tests_its_port_with_psutil(mesh: Mesh, failing: str) -> None:
    """That sees the held socket whatever we do: found out, and started again with the port free."""
    careful = f"""
    import psutil
    if any(c.laddr.port == ADDRESS[1] and c.status == "LISTEN" for c in psutil.net_connections("tcp")):
        {failing}
    """
    start(mesh, stdlib("first", careful))
    replaced(mesh, "second", stdlib("second", careful))
    replaced(mesh, "third", stdlib("third", careful))
    assert mesh.agent("agent").rejection is None


def test_one_that_binds_in_a_child_of_multiprocessing(mesh: Mesh) -> None:
    spawning = """
    import multiprocessing
    child = multiprocessing.get_context("spawn").Process(target=work)
    child.start()
    child.join()
    """
    work = "def work():\n    Server(ADDRESS, Handler).serve_forever()\n"
    start(mesh, stdlib("first", work, serve=spawning))
    replaced(mesh, "second", stdlib("second", work, serve=spawning))
    replaced(mesh, "third", stdlib("third"))


def test_a_worker_parent_that_is_killed_leaves_no_worker_with_old_code(mesh: Mesh) -> None:
    """Workers hold the shared listener and would go on answering."""
    mesh.write("app.py", fastapi("first").replace("uvicorn.run(", "if __name__ == '__main__': uvicorn.run("))
    port = mesh.port("agent")
    words = f'["python", "-m", "uvicorn", "app:app", "--workers", "2", "--port", "{port}", "--log-level", "warning"]'
    mesh.config(f"[agents.agent]\ncommand = {words}\nport = {port}\n")
    mesh.up()
    old = {int(mesh.answer("agent").split()[1]) for _ in range(30)}
    mesh.kill("agent")
    mesh.edit("app.py", "'first'", "'second'")
    wait_for(lambda: {mesh.word("agent") for _ in range(30)} == {"second"})
    assert not [pid for pid in old if alive(pid)]


# ---- the channel -----------------------------------------------------------------------------------------------------

CHANNELS = """
import stat
channels = []
for number in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            channel = socket.socket(fileno=os.dup(number))
            if channel.type == socket.SOCK_SEQPACKET:
                channels.append(channel)
    except OSError:
        pass
for channel in channels:
    channel.setblocking(False)
    for packet in {packets}:
        try:
            channel.send(packet)
        except OSError:
            break
open("channels", "w").write(str(len(channels)))
"""


GARBLED = [b"\xff\x00 no json", b"", b"[1, 2]", b"{}", b"null", b'{"is": 7}', b'{"is": "bound"}', b"x" * 60000]
LIES = [
    b'{"is": "accepting"}',
    b'{"is": "serves", "numbers": [99999], "how": {}}',
    b'{"is": "knocked", "id": "x"}',
    b'{"is": "closed", "number": -1}',
    b'{"is": "reads", "files": 3}',
    b'{"is": "drained"}',
]
FLOOD = """(b'{"is": "reads", "files": [["/tmp/x", "r"]]}' for _ in range(200000))"""


@pytest.mark.parametrize("packets", [repr(GARBLED), repr(LIES), FLOOD], ids=["garbled", "lies", "flood"])
def test_one_that_misuses_the_channel_harms_only_itself(mesh: Mesh, packets: str) -> None:
    bad = CHANNELS.format(packets=packets)
    mesh.write("bystander.py", stdlib("bystander"))
    start(mesh, stdlib("first"), f'[agents.bystander]\ncommand = "bystander.py"\nport = {mesh.port("bystander")}')
    bystander, supervisor = mesh.wait_ready()["bystander"].pid, mesh.snapshot().pid
    mesh.write("agent.py", stdlib("second", bad))
    wait_for(lambda: int((mesh.root / "channels").read_text()) >= 1, 20)
    mesh.write("agent.py", stdlib("third"))
    mesh.wait_word("agent", "third")
    mesh.wait_ready()
    assert (mesh.snapshot().pid, mesh.agent("bystander").pid) == (supervisor, bystander)
    assert "Traceback" not in mesh.log()


# ---- too much --------------------------------------------------------------------------------------------------------


def test_one_that_opens_files_a_hundred_thousand_times(mesh: Mesh) -> None:
    """5,000 different ones in its folder, 20 times each, before it serves."""
    (mesh.root / "many").mkdir()
    for number in range(5000):
        (mesh.root / f"many/{number}.txt").write_text("x")
    opening = """
    for _ in range(20):
        for number in range(5000):
            with open(f"many/{number}.txt") as file:
                file.read()
    """
    start(mesh, stdlib("first", opening))
    replaced(mesh, "second", stdlib("second", opening))
    assert mesh.agent("agent").inputs < 1100
    memory = int(Path(f"/proc/{mesh.snapshot().pid}/statm").read_text().split()[1]) * 4096
    assert memory < 150e6


def test_one_that_ignores_sigterm_is_killed_in_the_end(mesh: Mesh) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    old = start(mesh, stdlib("first", deaf), "stop = { timeout = 0.5 }\ndrain = 1")
    with mesh.load("agent") as load:
        replaced(mesh, "second", stdlib("second", deaf))
        wait_for(lambda: not alive(old))
        assert failures(load.stop()) == {}


def test_a_save_every_20_ms_ends_with_the_last_save_and_few_processes(mesh: Mesh) -> None:
    start(mesh, fastapi("word"))
    supervisor = mesh.snapshot().pid
    quiet = len(children(supervisor))
    most = 0
    with mesh.load("agent") as load:
        for number in range(200):
            mesh.write("agent.py", fastapi(f"word{number}"))
            most = max(most, len(children(supervisor)))
            time.sleep(0.02)  # this is what is tested
        mesh.wait_word("agent", "word199")
        mesh.wait_ready()
        assert failures(load.stop()) == {}
    assert most <= quiet + 3 + 3, "two live and two draining generations; and what warms up"
    wait_for(lambda: len(children(supervisor)) <= quiet + 2)
    wait_for(lambda: {mesh.word("agent") for _ in range(20)} == {"word199"})


def test_a_git_switch_of_hundreds_of_files_is_one_reload_per_agent(mesh: Mesh) -> None:
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org")

    def run(*words: str) -> None:
        subprocess.run([*git, *words], cwd=mesh.root, check=True, capture_output=True, env=mesh.environ)

    def write(word: str) -> None:
        for number in range(300):
            mesh.write(f"parts/part{number}.py", f"WORD = {word!r}\n")
        mesh.write("parts/__init__.py", "".join(f"from . import part{number}\n" for number in range(300)))
        for name in ("one", "two"):
            mesh.write(f"{name}.py", fastapi(word, "import parts"))

    write("old")
    mesh.config(mesh.table("one") + mesh.table("two"))
    mesh.write(".gitignore", ".mesh/\n__pycache__/\n*.out\n")
    run("init", "-q", "-b", "main")
    run("add", ".")
    run("commit", "-q", "-m", "old")
    run("checkout", "-q", "-b", "other")
    write("new")
    run("commit", "-q", "-a", "-m", "new")
    run("checkout", "-q", "main")
    mesh.up()
    with mesh.load("one") as load:
        with mesh.only_restarts("one", "two"):  # each once
            run("checkout", "-q", "other")
        mesh.wait_word("one", "new")
        mesh.wait_word("two", "new")
        assert failures(load.stop()) == {}


def test_a_file_that_one_writes_and_another_reads_starts_no_loop(mesh: Mesh) -> None:
    """The reader reads it while it starts and at each request; the writer writes it all the time."""
    writing = """
    import pathlib, threading, time
    def write():
        number = 0
        while True:
            pathlib.Path("board.tmp").write_text(str(number))
            os.replace("board.tmp", "board.json")
            pathlib.Path("direct.json").write_text(str(number))
            number += 1
            time.sleep(0.02)
    threading.Thread(target=write, daemon=True).start()
    while not pathlib.Path("direct.json").exists(): time.sleep(0.01)
    """
    reading = """
    import pathlib
    NOTES = [pathlib.Path(name).read_text() for name in ("board.json", "direct.json")]
    """
    for name, top in (("writer", writing), ("reader", reading)):
        mesh.write(f"{name}.py", stdlib(name, top))
    mesh.write("canary.py", stdlib("canary"))
    mesh.config(
        mesh.table("writer") + mesh.table("reader", "depends_on = ['writer']") + mesh.table("canary"),
    )
    mesh.up()
    board = mesh.root / "direct.json"
    seen = int(board.read_text() or 0)
    wait_for(lambda: int(board.read_text() or 0) > seen + 100)
    for word in ("canary2", "canary3"):  # seen through: what was saved before has had its effect
        mesh.write("canary.py", stdlib(word))
        mesh.wait_word("canary", word)
    views = mesh.wait_ready()
    assert (views["reader"].generation, views["writer"].generation) == (1, 1)


# ---- interpreters ----------------------------------------------------------------------------------------------------


def environment(mesh: Mesh) -> Path:
    """A virtual environment of the mesh's own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", mesh.root / "env"], check=True)
    return mesh.root / "env"


def test_an_interpreter_that_is_too_old_runs_its_agent_plainly_and_says_so(mesh: Mesh) -> None:
    """It claims to be 3.9, which is as far as a test can get without one."""
    env = environment(mesh)
    site = next((env / "lib").iterdir()) / "site-packages/sitecustomize.py"
    site.write_text(
        "import sys\n"
        "class Version(tuple):\n"
        "    major, minor, micro, releaselevel, serial = 3, 9, 18, 'final', 0\n"
        "sys.version_info = Version((3, 9, 18, 'final', 0))\n"
        "sys.hexversion = 0x030912F0\n"
    )
    start(mesh, stdlib("first"), 'python = "env/bin/python"')
    replaced(mesh, "second", stdlib("second"))
    assert "3.9" in mesh.ok("ps", "-o", "wide")


def test_an_interpreter_that_vanishes_keeps_the_old_generation(mesh: Mesh) -> None:
    env = environment(mesh)
    pid = start(mesh, stdlib("first"), 'python = "env/bin/python"\nwarm = false')
    with mesh.load("agent") as load:
        (env / "bin").rename(env / "away")
        mesh.write("agent.py", stdlib("second"))
        wait_for(lambda: mesh.agent("agent").rejection)
        assert mesh.agent("agent").pid == pid
        assert failures(load.stop()) == {}
    (env / "away").rename(env / "bin")
    with contextlib.suppress(AssertionError):
        mesh.run("reload", "agent")
    mesh.wait_word("agent", "second")
