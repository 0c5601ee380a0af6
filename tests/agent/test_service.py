"""When a service manager is told that the mesh is ready."""

from __future__ import annotations

import pytest

from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.service import is_settled


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
