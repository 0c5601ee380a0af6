"""PURE. What the command line asks of one `up`, handed from the command to the supervisor (also across `-d`)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from mesh_supervisor.spec import Mode


@dataclass(frozen=True, slots=True)
class UpOptions:
    """``agents``: names or globs to start; empty: all that belong to no profile or to one of ``profiles``.

    ``mode`` None: mesh.toml or the default decides, else ``mode_reason`` says in words why ("--prod", "meshsup is
    PID 1"). ``watch`` and ``debounce`` (seconds) None: mesh.toml decides. ``detached``: there is no terminal to write
    the agents' lines to, nor to hang up. ``show_secrets``: values of environment are printed as they are. ``alone``:
    the one agent that is supervised by itself (`run`).
    """

    agents: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    mode: Mode | None = None
    mode_reason: str = ""
    watch: bool | None = None
    debounce: float | None = None
    detached: bool = False
    show_secrets: bool = False
    alone: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UpOptions:
        """What ``to_json`` of the same version wrote."""
        fields: dict[str, Any] = json.loads(text)
        mode = fields["mode"]
        return cls(
            **{
                **fields,
                "agents": tuple(fields["agents"]),
                "profiles": tuple(fields["profiles"]),
                "mode": None if mode is None else Mode(mode),
            }
        )
