"""The registry beside its agents: it dies, comes back, is another program's, or is not there at all."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.e2e.harness import MESHSUP, Mesh, fresh_mesh, get, server, wait_for

CAPABLE = 'capabilities = ["plan"]\n'


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        mesh.serving("planner", "other", keys=CAPABLE)
        mesh.up()
        yield mesh


def test_agents_that_do_not_register_themselves_are_registered(running: Mesh) -> None:
    running.wait_ready()
    rows = {row["name"]: row for row in running.registered("?capability=plan")}
    assert set(rows) == {"planner", "other"}
    assert rows["planner"]["endpoint"] == f"http://127.0.0.1:{running.port('planner')}"
    assert rows["planner"]["status"] == "healthy"
    assert rows["planner"]["id"] == f"planner-{running.agent('planner').generation:04d}"
    assert json.loads(get(running.registry_port, "/health")[1])["status"] == "healthy"


def test_registry_list(running: Mesh) -> None:
    said = running.ok("registry", "list")
    assert "planner-" in said and "plan" in said and "healthy" in said
    assert {row["name"] for row in json.loads(running.ok("registry", "list", "--json"))["agents"]} == {
        "planner",
        "other",
    }


def test_kill_9_of_the_registry_brings_it_back_with_everybody_in_it(running: Mesh) -> None:
    before = running.wait_ready()
    pid = running.registry().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: running.registry().pid not in (None, pid) and running.snapshot().registry_up)
    wait_for(lambda: {row["name"] for row in running.registered()} == {"planner", "other"})
    after = running.wait_ready()
    assert {n: v.pid for n, v in after.items()} == {n: v.pid for n, v in before.items()}, "no agent was disturbed"


def test_records_of_old_generations_are_withdrawn_on_every_exit(running: Mesh) -> None:
    running.wait_ready()
    running.ok("restart", "planner")
    generation = running.agent("other").generation
    running.kill("other")
    running.wait_generation("other", generation)
    running.wait_ready()
    current = {f"{name}-{view.generation:04d}" for name, view in running.agents().items()}
    wait_for(lambda: {row["id"] for row in running.registered()} == current)
    running.ok("stop", "planner")
    wait_for(lambda: {row["name"] for row in running.registered()} == {"other"})
    running.ok("start", "planner")
    wait_for(lambda: running.agent("planner").registered == "yes")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "statuses"),
    [
        ("POST", "/heartbeat", b"{not json", {}, {400}),
        ("POST", "/heartbeat", b"[]", {}, {400}),
        ("POST", "/heartbeat", b'{"agent_id": 7}', {}, {400}),
        ("POST", "/heartbeat", b'{"agent_id": "x", "tools": [{}]}', {}, {400}),
        ("POST", "/heartbeat", b" " * (1024 * 1024 + 1), {}, {413}),
        ("POST", "/heartbeat", b'{"agent_id": "x"}', {"Host": "evil.example"}, {400, 403, 421}),
        ("POST", "/heartbeat", b'{"agent_id": "x"}', {"Content-Type": "text/plain"}, {415}),
        ("PATCH", "/heartbeat", b"", {}, {405}),
        ("GET", "/nowhere", b"", {}, {404}),
        ("POST", "/proxy/127.0.0.1:1/mcp", b"{}", {}, {501}),
        ("POST", "/jobs", b"{}", {}, {501}),
        ("HEAD", "/heartbeat/nobody", b"", {}, {410}),
    ],
)
def test_bad_requests_get_a_reason(
    running: Mesh, method: str, path: str, body: bytes, headers: dict[str, str], statuses: set[int]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.registry_port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        assert answer.status in statuses
        if method != "HEAD":
            assert json.loads(answer.read())["error"]
    finally:
        connection.close()
    assert running.snapshot().registry_up


def test_a_command_as_registry(mesh: Mesh) -> None:
    """Our own registry stands in for any other program that speaks the same API."""
    words = [str(MESHSUP), "registry", "serve", "--port", str(mesh.registry_port)]
    mesh.serving("planner", keys=CAPABLE)
    text = (mesh.root / "mesh.toml").read_text()
    text = text.replace("[registry]\n", f'[registry]\nkind = "command"\ncommand = {json.dumps(words)}\n')
    (mesh.root / "mesh.toml").write_text(text)
    mesh.up()
    assert [row["name"] for row in mesh.registered()] == ["planner"]
    pid = mesh.registry().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: mesh.registry().pid not in (None, pid))
    wait_for(lambda: [row["name"] for row in mesh.registered()] == ["planner"])


def test_an_external_registry_shared_by_two_meshes(mesh: Mesh) -> None:
    mesh.foreground("registry", "serve", "--port", str(mesh.registry_port))
    wait_for(lambda: get(mesh.registry_port, "/health")[0] == 200)
    external = f'[registry]\nkind = "external"\nurl = "http://127.0.0.1:{mesh.registry_port}"\n'
    for place in ("one", "two"):
        mesh.write(f"{place}/{place}.py", server(place))
        mesh.write(f"{place}/mesh.toml", external + mesh.table(place, CAPABLE))
        mesh.ok("-C", place, "up", "--wait")
    wait_for(lambda: {row["name"] for row in mesh.registered()} == {"one", "two"})
    mesh.ok("-C", "one", "down")
    assert {row["name"] for row in mesh.registered() if row["status"] == "healthy"} == {"two"}
    mesh.ok("-C", "two", "down")


class Nonsense(BaseHTTPRequestHandler):
    """A registry that is none."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    do_POST = do_HEAD = do_DELETE = do_PUT = do_GET

    def log_message(self, *args: object) -> None:
        pass


def test_a_registry_that_is_unreachable_or_answers_nonsense_does_not_keep_agents_from_running(mesh: Mesh) -> None:
    mesh.serving("planner", keys=CAPABLE)
    text = (mesh.root / "mesh.toml").read_text()
    url = f'kind = "external"\nurl = "http://127.0.0.1:{mesh.registry_port}"'
    (mesh.root / "mesh.toml").write_text(text.replace(f"port = {mesh.registry_port}", url))
    mesh.up(ready=False)
    mesh.wait_state("planner", "ready")
    assert mesh.agent("planner").registered == "no"
    assert mesh.answer("planner") == "planner one"
    mesh.wait_log(str(mesh.registry_port))

    with ThreadingHTTPServer(("127.0.0.1", mesh.registry_port), Nonsense) as nonsense:
        Thread(target=nonsense.serve_forever, daemon=True).start()
        before = mesh.agent("planner")
        mesh.ok("reload", "planner")
        assert mesh.agent("planner").generation == before.generation + 1
        assert mesh.agent("planner").registered == "no"
        nonsense.shutdown()
    assert "Traceback" not in mesh.log()

    mesh.foreground("registry", "serve", "--port", str(mesh.registry_port))
    wait_for(lambda: [row["name"] for row in mesh.registered()] == ["planner"])
    mesh.wait_ready()


def test_records_outlive_a_restart_of_the_mesh_but_ghosts_do_not(mesh: Mesh) -> None:
    mesh.serving("planner", "leaving", keys=CAPABLE)
    mesh.up()
    os.kill(mesh.snapshot().pid, signal.SIGKILL)
    mesh.nothing_remains()
    mesh.serving("planner", keys=CAPABLE)
    mesh.up()
    assert {row["id"] for row in mesh.registered()} == {"planner-0002"}


def test_the_registry_alone_takes_no_traceback_for_a_taken_port(mesh: Mesh) -> None:
    mesh.foreground("registry", "serve", "--port", str(mesh.registry_port))
    wait_for(lambda: get(mesh.registry_port, "/health")[0] == 200)
    done = mesh.run("registry", "serve", "--port", str(mesh.registry_port))
    assert done.code in (1, 2)
    assert str(mesh.registry_port) in done.err and "Traceback" not in done.err
