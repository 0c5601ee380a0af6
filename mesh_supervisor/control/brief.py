"""PURE. The mesh in brief, as it travels over the control socket: for `health` and `ls`.

Apart from messages.py, because `health` runs every few seconds in a process of its own: making eight classes of values
is a tenth of what that costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class AgentBrief:
    """One agent for `health` and `ls`: what is known without looking at any process.

    ``ready``: it serves, is a task that is done, or a person has it. ``given_up``: it has ended for good, or is in a
    crash loop in prod mode, which ends the mesh if it is ``essential``."""

    name: str
    kind: Literal["agent", "task", "registry"]
    state: str
    detail: str
    wanted: bool
    ready: bool
    essential: bool
    given_up: bool

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> AgentBrief:
        return cls(**{key: row[key] for key in cls.__dataclass_fields__ if key in row})


@dataclass(frozen=True, slots=True)
class Brief:
    """The mesh in brief: cheap enough to be asked every few seconds, also with hundreds of agents, and without
    disturbing what `ps` measures between two looks.

    ``begun``: the agents are known; before that nothing can be said about them. ``gave_up``: which essential agent
    ended the mesh, and why; ``uptime`` in seconds."""

    name: str
    file: str
    state_dir: str
    pid: int
    version: str
    mode: str
    started_at: str
    uptime: float
    registry_url: str
    begun: bool
    stopping: bool
    gave_up: str | None
    agents: tuple[AgentBrief, ...]
    alone: str | None = None  # the one agent that is supervised by itself (`run`)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Brief:
        """Raises ValueError for what is none."""
        try:
            known = {key: body[key] for key in cls.__dataclass_fields__ if key in body}
            return cls(**{**known, "agents": tuple(map(AgentBrief.from_json, body["agents"]))})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no brief: {error!r}") from error
