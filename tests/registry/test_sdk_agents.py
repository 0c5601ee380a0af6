"""Two real agents of the MCP Mesh SDK live with our registry: they find each other, and outlive a kill and restarts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import free_port
from tests.registry.running import PATIENCE, Running, eventually, running

pytest.importorskip("mesh", reason="needs the mcp-mesh SDK (extra: test)")

CLOCK = """
import mesh
from fastmcp import FastMCP

app = FastMCP("clock")

@app.tool()
@mesh.tool(capability="time_now", version="1.2.0", tags=["system"])
def time_now() -> str:
    return "tea time"

@mesh.agent(name="clock", auto_run=True)
class Clock:
    pass
"""

GREETER = """
import mesh
from fastmcp import FastMCP

app = FastMCP("greeter")

@app.tool()
@mesh.tool(capability="greeting", dependencies=[{"capability": "time_now", "version": "^1.1", "tags": ["system"]}])
async def greet(time_now: mesh.McpMeshTool = None) -> str:
    return "it is " + str(await time_now()) if time_now else "nobody knows"

@mesh.agent(name="greeter", auto_run=True)
class Greeter:
    pass
"""


@contextmanager
def started(folder: Path, source: str, agent_id: str, registry_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An agent process, as a supervisor would start it; killed with its whole group at the end."""
    script = folder / f"{agent_id}.py"
    script.write_text(source)
    ours = {
        "MCP_MESH_REGISTRY_URL": f"http://127.0.0.1:{registry_port}",
        "MCP_MESH_AGENT_ID": agent_id,
        "MCP_MESH_HTTP_PORT": "0",
        "MCP_MESH_HTTP_HOST": "127.0.0.1",
        "HOST": "127.0.0.1",
        "MCP_MESH_HEALTH_INTERVAL": "1",
    }
    strangers = ("MCP_MESH_", "PYTHONDEVMODE", "PYTHONWARNINGS")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(strangers)} | ours
    with (folder / f"{agent_id}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)], cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def greeting(registry_rows: dict[str, Any]) -> str:
    """What the greeter's tool answers to a call; '' when it cannot be called."""
    host, port = registry_rows["greeter-0001"]["endpoint"].removeprefix("http://").split(":")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "greet", "arguments": {}}}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as connection:
        try:
            connection.request("POST", "/mcp", json.dumps(call), headers)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""


def healthy(registry: Running) -> dict[str, Any]:
    return {agent: row for agent, row in registry.agents().items() if row["status"] == "healthy"}


def resolved(registry: Running, provider: str) -> dict[str, Any]:
    """The rows, once the greeter has ``provider``; else nothing."""
    rows = healthy(registry)
    found = rows.get("greeter-0001", {}).get("dependency_resolutions", [])
    return rows if [one["provider_agent_id"] for one in found] == [provider] else {}


def seen(registry: Running) -> dict[str, str]:
    return {agent: row["last_seen"] for agent, row in healthy(registry).items()}


def issue(registry: Running, generation: int) -> None:
    ids = [{"id": f"clock-{generation:04}", "name": "clock", "generation": generation}]
    assert registry.ask("PUT", "/owners/me/ids", {"ids": ids}).status == 200


@pytest.mark.timeout(300)
def test_two_agents_find_each_other_and_outlive_a_kill_and_restarts(tmp_path: Path) -> None:
    store = tmp_path / "registry.db"
    with ExitStack() as stage:
        # Not one that the kernel hands out: agents that look for a registry that is away would get it for themselves.
        port = free_port()
        registry = stage.enter_context(running(store=store, port=port))
        clock = stage.enter_context(started(tmp_path, CLOCK, "clock-0001", port))
        stage.enter_context(started(tmp_path, GREETER, "greeter-0001", port))
        issue(registry, 1)
        rows = eventually(lambda: resolved(registry, "clock-0001"), "the greeter has the clock")
        eventually(lambda: "it is tea time" in greeting(rows), "a call through the mesh works")
        assert (rows["clock-0001"]["owner"], rows["clock-0001"]["generation"]) == ("me", 1)

        # kill -9: the supervisor withdraws the dead one at once, and starts the next generation.
        clock.kill()
        clock.wait()
        assert registry.ask("DELETE", "/agents/clock-0001").status == 204
        eventually(lambda: "nobody knows" in greeting(rows), "the greeter has learnt of the loss")
        issue(registry, 2)
        stage.enter_context(started(tmp_path, CLOCK, "clock-0002", port))
        eventually(lambda: resolved(registry, "clock-0002"), "the greeter has the new clock")
        eventually(lambda: "it is tea time" in greeting(rows), "calls work again")
        assert set(registry.agents()) == {"clock-0002", "greeter-0001"}, "a withdrawn record is gone"

        # The registry is killed: calls go on without it, and the next one knows everybody from its file.
        registry.stop(signal.SIGKILL)
        assert "it is tea time" in greeting(rows)
        registry = stage.enter_context(running(store=store, port=port))
        assert resolved(registry, "clock-0002")
        before = seen(registry)
        eventually(lambda: all(seen(registry).get(agent, "") > at for agent, at in before.items()), "both beat again")
        assert "it is tea time" in greeting(rows)

        # And one that starts with nothing is told everything by their next heartbeats.
        registry.stop(signal.SIGTERM)
        registry = stage.enter_context(running(port=port))
        eventually(lambda: resolved(registry, "clock-0002"), "both have registered again", 90)
        # Whoever registers before its provider learns of it one heartbeat later.
        eventually(lambda: "it is tea time" in greeting(rows), "the greeter has learnt of the clock")


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="on Python 3.12 the SDK's own goodbye comes too late; the supervisor withdraws for it",
)
def test_an_agent_that_ends_in_order_withdraws_itself(tmp_path: Path) -> None:
    with running() as registry, started(tmp_path, CLOCK, "clock-0001", registry.port) as clock:
        eventually(lambda: "clock-0001" in healthy(registry), "it has registered")
        clock.terminate()
        assert clock.wait(PATIENCE) == 0
        assert registry.agents() == {}
    assert not [line for line in registry.said if "does not act on" in line], registry.said
