"""When a service manager is told that the mesh is ready."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.service import AGAIN, Reporter, is_settled
from tests.agent.meshes import Mesh
from tests.agent.meshes import agent as member
from tests.agent.virtual import run


def agent(name: str, state: str, *, wanted: bool = True) -> AgentBrief:
    return AgentBrief(name, "agent", state, "", wanted, state == "ready", essential=False, given_up=False)


@pytest.mark.parametrize(
    ("agents", "awaited", "settled"),
    [
        ([agent("a", "ready"), agent("b", "stopped", wanted=False)], {}, True),
        ([agent("a", "ready"), agent("b", "starting")], {}, False),
        ([agent("a", "ready"), agent("b", "waiting")], {}, False),
        ([agent("a", "starting"), agent("b", "waiting")], {"b": ["a"]}, False),
        ([agent("a", "ready"), agent("b", "waiting")], {"b": ["a"]}, False),
        ([agent("a", "failed"), agent("b", "waiting")], {"b": ["a"]}, True),
        ([agent("a", "crashloop"), agent("b", "waiting"), agent("c", "waiting")], {"b": ["a"], "c": ["b"]}, True),
        ([agent("a", "failed"), agent("b", "waiting"), agent("c", "starting")], {"b": ["a", "c"]}, False),
    ],
)
def test_what_nobody_waits_for_in_vain_is_settled(
    agents: list[AgentBrief], awaited: dict[str, list[str]], settled: bool
) -> None:
    assert is_settled(brief(agents), awaited) is settled


def brief(agents: list[AgentBrief]) -> Brief:
    words = {"name": "demo", "file": "/mesh.toml", "state_dir": "/s", "version": "1", "mode": "prod", "started_at": ""}
    return Brief(
        **words,
        pid=1,
        uptime=1.0,
        registry_url="",
        begun=True,
        stopping=False,
        gave_up=None,
        agents=tuple(agents),
    )


class Manager:
    """In place of ServiceManager: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []

    def status(self, text: str, **fields: int) -> None:
        self.told.append(fields)


def test_a_start_that_lasts_and_says_nothing_asks_for_time_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for a long task: nothing happens, and systemd would kill the mesh after its own 90 s."""
    mesh, manager = Mesh(tmp_path, monkeypatch), Manager()

    async def test() -> None:
        mesh.slow = {"migrate"}
        async with mesh.up(mesh.spec(member("web", "migrate"), member("migrate"))):
            reporter = Reporter(mesh.supervisor, manager)  # type: ignore[arg-type]
            asking = asyncio.create_task(reporter.ask_for_time())
            await asyncio.sleep(300)
            assert len(manager.told) >= 300 / AGAIN
            assert all(fields["EXTEND_TIMEOUT_USEC"] > 2 * AGAIN * 1e6 for fields in manager.told)
            mesh.processes["migrate"].gets_ready()
            await asking
            assert {"READY": 1} in manager.told
            before = len(manager.told)
            await asyncio.sleep(300)
            assert len(manager.told) == before
            reporter.close()

    run(test)
