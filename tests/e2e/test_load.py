"""Callers notice no reload: requests go on at 100 a second, by a client that never tries again."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time

import pytest

from benchmarks.load import FRESH, KEPT, POOL, Load, failures
from tests.e2e.agents import fastapi, stdlib
from tests.e2e.harness import Mesh, alive, wait_for

AGENT = '[agents.agent]\ncommand = "agent.py"\nport = {port}\n'


def answered(load: Load, word: str, kind: str) -> bool:
    """Whether the load has had this word on this kind of connection."""
    return any(request.kind == kind and request.said.startswith(f"{word} ") for request in load.so_far())


def reload_under_load(mesh: Mesh, load: Load, word: str, source: str) -> None:
    """Save, and wait until the load itself has got the new code's answer on both kinds of connections."""
    mesh.write("agent.py", source)
    wait_for(lambda: answered(load, word, FRESH) and answered(load, word, KEPT))


def test_20_reloads_of_a_fastapi_agent_lose_no_request(mesh: Mesh) -> None:
    mesh.write("agent.py", fastapi("word0"))
    mesh.config(AGENT.format(port=mesh.port("agent")))
    mesh.up()
    with mesh.load("agent") as load:
        for number in range(1, 21):
            reload_under_load(mesh, load, f"word{number}", fastapi(f"word{number}"))
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said.split()[0] for request in requests} == {f"word{number}" for number in range(21)}
    assert mesh.wait_ready()["agent"].generation == 21
    assert {row["outcome"] for row in mesh.history("agent")} == {"completed"}
    assert len(mesh.history("agent")) == 20


@pytest.mark.parametrize("verb", ["reload", "save"])
def test_reloads_of_a_stdlib_agent_lose_no_request(mesh: Mesh, verb: str) -> None:
    mesh.write("agent.py", stdlib("word0"))
    mesh.config(AGENT.format(port=mesh.port("agent")))
    mesh.up()
    with mesh.load("agent") as load:
        for number in range(1, 6):
            if verb == "reload":
                mesh.ok("reload", "agent")
            else:
                reload_under_load(mesh, load, f"word{number}", stdlib(f"word{number}"))
        requests = load.stop()
    assert failures(requests) == {}
    assert mesh.wait_ready()["agent"].generation == 6


def test_an_old_word_is_never_heard_after_the_new_one_on_fresh_connections(mesh: Mesh) -> None:
    """From "go" on the newcomer accepts, and the old one has stopped to: a short while of both, and no more after the
    old process is gone."""
    mesh.write("agent.py", fastapi("old"))
    mesh.config(AGENT.format(port=mesh.port("agent")))
    mesh.up()
    pid = mesh.agent("agent").pid
    with mesh.load("agent") as load:
        reload_under_load(mesh, load, "new", fastapi("new"))
        wait_for(lambda: not alive(pid or 0))
        before = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > before + 50)
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said.split()[0] for request in requests[-30:]} == {"new"}


GATED = """
GATE = pathlib.Path(f"gate-{WORD}")


@app.get("/health")
def health(response: Response):
    if not GATE.exists():
        with open(f"probed-{WORD}", "a") as file:
            file.write("x")
        response.status_code = 503
    return {}


@app.middleware("http")
async def watch_for_early_ones(request, call_next):
    if request.url.path != "/health" and not GATE.exists():
        with open("early", "a") as file:
            file.write(f"{WORD} {request.url.path}")
    return await call_next(request)
"""


def probes(mesh: Mesh) -> int:
    """How often the newcomer was asked whether it is ready."""
    return len((mesh.root / "probed-second").read_text())


def test_a_newcomer_that_is_not_ready_gets_no_request(mesh: Mesh) -> None:
    (mesh.root / "gate-first").touch()
    mesh.write("agent.py", fastapi("first", routes=GATED))
    mesh.config(AGENT.format(port=mesh.port("agent")) + 'ready = { http = "/health", interval = 0.05 }\n')
    mesh.up()
    with mesh.load("agent") as load:
        mesh.write("agent.py", fastapi("second", routes=GATED))
        wait_for(lambda: probes(mesh) > 10)
        assert mesh.agent("agent").state == "reloading"
        before, since, probed = len(load.so_far()), time.monotonic(), probes(mesh)
        wait_for(lambda: len(load.so_far()) > before + 100)
        assert probes(mesh) - probed <= (time.monotonic() - since) / 0.05 + 2, "as often as its interval says"
        assert not [request for request in load.so_far() if request.said.startswith("second")]
        (mesh.root / "gate-second").touch()
        wait_for(lambda: answered(load, "second", FRESH) and answered(load, "second", KEPT))
        requests = load.stop()
    assert failures(requests) == {}
    assert not (mesh.root / "early").exists()


@pytest.mark.parametrize("source", [fastapi, stdlib], ids=["FastAPI", "stdlib"])
def test_kill_9_under_load_refuses_no_fresh_connection(mesh: Mesh, source: object) -> None:
    """What was open at the kill fails; who comes afterwards waits for the next instance."""
    assert callable(source)
    mesh.write("agent.py", source("word"))
    mesh.config(AGENT.format(port=mesh.port("agent")))
    mesh.up()
    mesh.ok("reload", "agent")
    pid = mesh.wait_ready()["agent"].pid or 0
    with mesh.load("agent") as load:
        wait_for(lambda: len(load.so_far()) > 50)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid))
        killed = time.monotonic()
        wait_for(lambda: mesh.agent("agent").restarts == 1 and mesh.agent("agent").state == "ready")
        before = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > before + 50)
        requests = load.stop()
    failed = [request for request in requests if request.failure]
    assert "refused" not in {request.failure for request in failed}, failures(requests)
    # A kept connection may be used once more before its end has reached the client.
    assert len([request for request in failed if request.kind == KEPT]) <= POOL, failures(requests)
    late = [request for request in failed if request.kind == FRESH and request.at > killed]
    assert not late, "only what was open at the kill"
    assert requests[-1].said.split()[1] == str(mesh.agent("agent").pid)


def test_a_stream_is_finished_while_the_new_generation_serves(mesh: Mesh) -> None:
    """The old one says one word per file that appears, so the test decides how long it lasts."""
    routes = """
    @app.get("/stream")
    async def stream():
        async def words():
            for number in range(3):
                while not pathlib.Path(f"say-{number}").exists():
                    await asyncio.sleep(0.01)
                yield f"{WORD}{number} "
        return StreamingResponse(words())
    """
    mesh.write("agent.py", fastapi("old", routes=routes))
    mesh.config(AGENT.format(port=mesh.port("agent")))
    mesh.up()
    pid = mesh.agent("agent").pid or 0
    line = http.client.HTTPConnection("127.0.0.1", mesh.port("agent"), timeout=30)
    with contextlib.closing(line), mesh.load("agent") as load:
        line.request("GET", "/stream")
        (mesh.root / "say-0").touch()
        stream = line.getresponse()
        assert stream.read(5) == b"old0 "
        reload_under_load(mesh, load, "new", fastapi("new", routes=routes))
        assert alive(pid), "it has a stream to finish"
        (mesh.root / "say-1").touch()
        (mesh.root / "say-2").touch()
        assert stream.read() == b"old1 old2 "
        wait_for(lambda: not alive(pid))
        assert failures(load.stop()) == {}
