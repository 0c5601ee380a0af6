"""Two real agents of the MCP Mesh SDK, as examples/mcp_mesh has them. One running mesh for all; they start slowly."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.request
from collections.abc import Iterator

import pytest

from benchmarks.load import failures
from tests.e2e.harness import REPOSITORY, Mesh, fresh_mesh, wait_for

pytest.importorskip("_mcp_mesh", reason="needs the mcp-mesh SDK (extra `test`)")

pytestmark = pytest.mark.timeout(300)  # they start slowly, and several times


@pytest.fixture(scope="module")
def example() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        shutil.copytree(REPOSITORY / "examples/mcp_mesh", mesh.root, dirs_exist_ok=True)
        text = (mesh.root / "mesh.toml").read_text()
        for name in ("clock", "greeter"):
            text = re.sub(rf"(\[agents\.{name}\][^[]*?port = )\d+", rf"\g<1>{mesh.port(name)}", text)
        (mesh.root / "mesh.toml").write_text(f"{text}\n[registry]\nport = {mesh.registry_port}\n")
        mesh.up("--wait", "--timeout", "60")
        yield mesh


GREET = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "greet", "arguments": {"name": "Ada"}},
}


def greet(mesh: Mesh) -> str:
    """Calls the tool ``greet`` as an MCP client does; what it said."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{mesh.port('greeter')}/mcp",
        json.dumps(GREET).encode(),
        {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        body = response.read().decode()
    answer = json.loads(next(line.removeprefix("data: ") for line in body.splitlines() if '"jsonrpc"' in line))
    return str(answer["result"]["content"][0]["text"])


def wait_greeting(mesh: Mesh) -> None:
    """Until the greeter knows the time, which it asks from the clock."""
    wait_for(lambda: "Hello Ada, it is 20" in greet(mesh), timeout=40)


def test_they_register_themselves_and_resolve_each_other(example: Mesh) -> None:
    views = example.wait_ready(timeout=60)
    assert {view.registered for view in views.values()} == {"yes"}
    rows = {row["name"]: row for row in example.registered()}
    assert rows["clock"]["endpoint"] == f"http://127.0.0.1:{example.port('clock')}"
    assert rows["clock"]["id"] == f"clock-{views['clock'].generation:04d}"
    wait_greeting(example)
    said = example.ok("registry", "list")
    assert "time_now" in said and "__mesh_job" not in said


def test_an_edit_restarts_one_and_the_other_calls_the_new_one(example: Mesh) -> None:
    with example.only_restarts("clock", timeout=60):
        example.edit("clock.py", "datetime.now().isoformat", '"2042, " + datetime.now().isoformat')
    wait_for(lambda: "it is 2042" in greet(example), timeout=40)
    wait_for(lambda: len([row for row in example.registered() if row["name"] == "clock"]) == 1)


def test_kill_9_of_one_is_survived(example: Mesh) -> None:
    before = example.wait_ready()
    example.kill("clock")
    wait_for(lambda: example.agent("clock").generation > before["clock"].generation)
    example.wait_ready(timeout=60)
    assert example.agent("greeter").pid == before["greeter"].pid
    wait_greeting(example)
    wait_for(lambda: len([row for row in example.registered() if row["name"] == "clock"]) == 1)


def test_a_restart_of_the_registry_is_survived(example: Mesh) -> None:
    before = example.wait_ready()
    pid = example.registry().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: example.registry().pid not in (None, pid) and example.snapshot().registry_up)
    after = example.wait_ready(timeout=60)
    assert {name: view.pid for name, view in after.items()} == {name: view.pid for name, view in before.items()}
    wait_for(
        lambda: {row["name"] for row in example.registered() if row["status"] == "healthy"} == {"clock", "greeter"}
    )
    wait_greeting(example)


def test_a_registry_that_comes_back_empty_learns_them_again(example: Mesh) -> None:
    """Its store is lost: SDK agents register by their own next heartbeat."""
    example.wait_ready()
    stores = [file for file in example.state_dir.iterdir() if file.name.startswith("registry.")]
    assert stores
    pid = example.registry().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for file in stores:
        file.unlink()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: example.registry().pid not in (None, pid) and example.snapshot().registry_up)
    wait_for(lambda: {row["name"] for row in example.registered()} == {"clock", "greeter"}, timeout=60)
    wait_greeting(example)


def test_reloads_of_one_lose_no_call_that_comes_through_the_other(example: Mesh) -> None:
    """50 calls of the greeter a second; each asks the clock, which is reloaded five times meanwhile. 100 are nearly all
    that one greeter can do; and where it can do less than 50, no more are asked for."""
    example.wait_ready(timeout=60)
    wait_greeting(example)
    with example.load("greeter", path="/mcp", rate=50, body=json.dumps(GREET), expect="Hello Ada, it is") as load:
        for number in range(1, 6):
            generation = example.agent("clock").generation
            example.edit("clock.py", "    return ", f"    # {number}\n    return ")
            example.wait_generation("clock", generation, timeout=60)
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 100)
        requests = load.stop()
    assert failures(requests) == {}, [request for request in requests if request.failure][:5]
    assert {row["outcome"] for row in example.history("clock")} == {"completed"}
