"""PURE. Who starts before whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh_supervisor.spec import AgentSpec


def start_levels(agents: Mapping[str, AgentSpec]) -> list[list[str]]:
    """Agents in the order of starting; those of one level do not depend on each other. config.py refuses cycles."""
    depth: dict[str, int] = {}

    def depth_of(name: str) -> int:
        if name not in depth:
            below = [depth_of(d.agent) for d in agents[name].depends_on if d.agent in agents]
            depth[name] = max(below, default=-1) + 1
        return depth[name]

    levels: list[list[str]] = []
    for name in agents:
        while len(levels) <= depth_of(name):
            levels.append([])
        levels[depth_of(name)].append(name)
    return levels


def with_dependencies(agents: Mapping[str, AgentSpec], names: Iterable[str]) -> list[str]:
    """These and all that they depend on, in the order of mesh.toml."""
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in agents and name not in wanted:
            wanted.add(name)
            waiting.extend(dependency.agent for dependency in agents[name].depends_on)
    return [name for name in agents if name in wanted]
