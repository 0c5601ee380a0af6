"""What the supervisor holds of one agent of the mesh, or of the registry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from mesh_supervisor.agent import AgentTask
from mesh_supervisor.launcher import AgentLauncher, Preparation
from mesh_supervisor.lifecycle import Agent, Event, Order, Policy, Wish
from mesh_supervisor.spec import AgentSpec, Mode

REGISTRY = "registry"
"""The name of the registry's process among the members; no agent can be called so."""


@dataclass(slots=True)
class Held:
    """Taken over by a person: by which process, since when (loop time), by which command (``run``).

    ``afterwards`` is what the agent is told when it is given back; None: it stays stopped. ``generation`` is None until
    its last instance is gone. ``serves``: it has its port open, or is registered."""

    pid: int
    since: float
    how: str
    afterwards: Event | None
    generation: int | None = None
    serves: bool = False


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
    served: int | None = None  # the newest generation that got ready, since `up`
    held: Held | None = None

    @property
    def spec(self) -> AgentSpec:
        return self.launcher.spec

    @property
    def state(self) -> Agent:
        return self.task.state

    @property
    def wanted(self) -> bool:
        """By the mesh; what a person holds is, if the mesh is to start it again afterwards."""
        return self.state.wish is Wish.UP if self.held is None else self.held.afterwards is not None

    def issue_generation(self) -> int:
        """For what runs in a terminal in the place of an instance. Nothing else about the agent changes by it."""
        self.task.state = replace(self.state, generation=self.state.generation + 1)
        return self.state.generation


def policy_of(spec: AgentSpec, mode: Mode, order: Order) -> Policy:
    """``order``: what is known of its sockets by now (AgentLauncher.order)."""
    return Policy(
        restart=spec.restart,
        backoff=spec.backoff,
        crashloop=spec.crashloop,
        kind=spec.kind,
        order=order,
        dev=mode is Mode.DEV,
        essential=spec.essential,
        stop_signal=spec.stop.signal,
    )
