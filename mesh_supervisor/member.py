"""What the supervisor holds of one agent of the mesh, or of the registry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mesh_supervisor.agent import AgentTask
from mesh_supervisor.launcher import AgentLauncher, Preparation
from mesh_supervisor.lifecycle import Agent, Order, Policy
from mesh_supervisor.spec import AgentSpec, Mode

REGISTRY = "registry"
"""The name of the registry's process among the members; no agent can be called so."""


@dataclass(slots=True)
class Member:
    """One agent of the mesh, or the registry: its task, its launcher, and what is told about it."""

    task: AgentTask
    launcher: AgentLauncher
    preparation: Preparation
    last: str = ""
    status: str = ""
    blocked: tuple[str, ...] | None = None
    runner: asyncio.Task[None] | None = None
    cpu_seen: tuple[float, float] | None = None  # (loop time, seconds of CPU) of the last look
    reloaded: int = 0  # the newest generation whose reload was completed

    @property
    def spec(self) -> AgentSpec:
        return self.launcher.spec

    @property
    def state(self) -> Agent:
        return self.task.state


def policy_of(spec: AgentSpec, mode: Mode) -> Policy:
    """stop-first for all: two generations side by side need the runtime inside the agent."""
    return Policy(
        restart=spec.restart,
        backoff=spec.backoff,
        crashloop=spec.crashloop,
        kind=spec.kind,
        order=Order.STOP_FIRST,
        dev=mode is Mode.DEV,
        essential=spec.essential,
    )
