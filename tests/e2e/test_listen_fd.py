"""``listen = "fd"``: the socket is made before the program, and outlives it; sd_listen_fds(3) for whoever knows it."""

from __future__ import annotations

import os
import signal
import textwrap
from functools import partial

import pytest

from benchmarks.load import FRESH, Load, failures
from tests.e2e.agents import line_of, stdlib
from tests.e2e.harness import Mesh, alive, wait_for

HANDED = """
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORD = {word!r}
if (os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS")) != (str(os.getpid()), "1"):
    sys.exit("no descriptor is meant for this process")
{top}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{{WORD}} {{os.getpid()}}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for what is still being answered


server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.02)
server.server_close()
"""


def handed(word: str, top: str = "") -> str:
    return HANDED.format(word=word, top=textwrap.dedent(top))


def start(mesh: Mesh, source: str, keys: str = "", command: str = '"agent.py"') -> int:
    mesh.write("agent.py", source)
    mesh.config(f'[agents.agent]\ncommand = {command}\nport = {mesh.port("agent")}\nlisten = "fd"\n{keys}\n')
    mesh.up()
    return mesh.agent("agent").pid or 0


def socket_of(mesh: Mesh) -> str:
    """``socket:[INODE]`` of what is descriptor 3 in the serving instance."""
    return os.readlink(f"/proc/{mesh.agent('agent').pid}/fd/3")  # noqa: PTH115


def answers(load: Load, word: str) -> bool:
    """Whether somebody was answered with it. (Who asks by himself may be the one who gets it.)"""
    return any(one.said.startswith(word) for one in load.so_far())


def test_reloads_under_load_lose_no_request(mesh: Mesh) -> None:
    """One after the other, on one socket: who comes between them waits in its queue."""
    start(mesh, handed("word0"))
    listener = socket_of(mesh)
    assert mesh.row("agent")["order"] == "stop-first"
    with mesh.load("agent") as load:
        wait_for(load.so_far)
        for number in range(1, 11):
            mesh.write("agent.py", handed(f"word{number}"))
            wait_for(partial(answers, load, f"word{number} "))
            mesh.wait_ready()
            assert socket_of(mesh) == listener
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said.split()[0] for request in requests} == {f"word{number}" for number in range(11)}
    assert [row["outcome"] for row in mesh.history("agent")] == ["completed"] * 10


def test_start_first_can_be_asked_for(mesh: Mesh) -> None:
    """Two accept on one socket meanwhile. A newcomer that does not come up takes nothing away."""
    start(mesh, handed("word0"), 'order = "start-first"')
    with mesh.load("agent") as load:
        for number in range(1, 4):
            old = mesh.agent("agent").pid or 0
            mesh.write("agent.py", handed(f"word{number}"))
            wait_for(lambda old=old: not alive(old))  # type: ignore[misc]
            mesh.wait_ready()
        pid = mesh.agent("agent").pid
        mesh.write("agent.py", handed("broken", "sys.exit('no licence')"))
        assert "no licence" in str(mesh.wait_rejected("agent").rejection)
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 50)
        requests = load.stop()
    assert failures(requests) == {}
    assert mesh.agent("agent").pid == pid and requests[-1].said == f"word3 {pid}"


def test_kill_9_under_load_refuses_nobody(mesh: Mesh) -> None:
    pid = start(mesh, handed("word"))
    with mesh.load("agent", kinds=(FRESH,)) as load:
        wait_for(lambda: len(load.so_far()) > 50)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: mesh.agent("agent").restarts == 1 and mesh.agent("agent").state == "ready")
        before = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > before + 50)
        requests = load.stop()
    assert "refused" not in {request.failure for request in requests}, failures(requests)
    assert requests[-1].said.split()[1] == str(mesh.agent("agent").pid)


def test_a_wrapper_that_execs_keeps_the_descriptor_and_its_meaning(mesh: Mesh) -> None:
    start(mesh, handed("first"), 'watch = ["agent.py"]', '["sh", "-c", "exec python agent.py"]')
    mesh.write("agent.py", handed("second"))
    mesh.wait_word("agent", "second")


def test_a_server_that_is_told_a_descriptor(mesh: Mesh) -> None:
    app = """
    WORD = "first"
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": WORD.encode()})
    """
    mesh.write("app.py", app)
    start(mesh, "", command='["python", "-m", "uvicorn", "app:app", "--fd", "3", "--log-level", "warning"]')
    assert mesh.answer("agent") == "first"
    mesh.edit("app.py", "first", "second")
    mesh.wait_answer("agent", "second")
    mesh.wait_ready()


# ---- programs that do not know of it ---------------------------------------------------------------------------------


def test_one_that_binds_by_itself_is_told_what_to_do(mesh: Mesh) -> None:
    source = stdlib("agent")
    mesh.write("agent.py", source)
    keys = f'port = {mesh.port("agent")}\nlisten = "fd"\ncrashloop = {{ crashes = 2 }}'
    mesh.config(f'[agents.agent]\ncommand = "agent.py"\n{keys}\n')
    mesh.up(ready=False)
    failure = str(mesh.wait_state("agent", "crashloop").failure)
    assert f"Address already in use (agent.py:{line_of(source, 'serve_forever()')})" in failure
    assert 'handed to it as descriptor 3 (listen = "fd")' in failure and "take `listen` out of mesh.toml" in failure
    wait_for(lambda: failure in mesh.log())


@pytest.mark.parametrize("probe", ["", 'ready = { http = "/" }'], ids=["no probe", "http"])
def test_one_that_takes_nothing_is_not_ready(mesh: Mesh, probe: str) -> None:
    """Callers would be connected, and wait for ever."""
    mesh.write("agent.py", "import time\ntime.sleep(1000)\n")
    mesh.config(f'[agents.agent]\ncommand = "agent.py"\nport = {mesh.port("agent")}\nlisten = "fd"\n{probe}\n')
    assert mesh.run("up", "--wait", "--timeout", "3").code == 124
    told = "no answer" if probe else "it accepts nothing from the socket that it was given as descriptor 3 (LISTEN_FDS)"
    wait_for(lambda: told in mesh.agent("agent").detail)
    assert mesh.agent("agent").state == "starting"
