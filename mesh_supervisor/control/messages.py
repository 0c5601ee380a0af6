"""PURE. What travels over the control socket, as frozen values; JSON on the wire, ``--json`` on the command line.

The shapes are stable and documented in docs/json.md: fields are only added. Times of day are ISO 8601 in UTC,
durations are seconds, sizes bytes. No import of ours but limits, and nothing heavy: ``ps`` answers in < 150 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mesh_supervisor.limits import Limitation


@dataclass(frozen=True, slots=True)
class AgentView:
    """One row of ``ps``. ``state`` is the derived word of design, ``detail`` what stands behind it in parentheses."""

    name: str
    kind: Literal["agent", "task", "registry"]
    state: str
    detail: str
    pid: int | None
    port: int | None
    host: str
    generation: int
    uptime: float | None
    restarts: int
    cpu: float | None  # percent of one core, since the last look or (first look) since its start
    memory: int | None  # resident bytes of its whole process tree
    registered: Literal["yes", "no", "never", "-"]
    last: str  # what happened last, in a few words
    failure: str | None
    rejection: str | None
    retry_in: float | None
    interpreter: str | None
    command: str
    directory: str
    watched: bool
    inputs: int  # how many files are its inputs
    warnings: tuple[str, ...]
    wanted: bool
    order: str = ""  # start-first, stop-first; "" not known yet
    start: str = ""  # how its newest instance was started: warm fork, warm spare, cold
    runtime: str = ""  # yes, plain
    limits: tuple[Limitation, ...] = ()

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> AgentView:
        known: dict[str, Any] = {key: row[key] for key in cls.__dataclass_fields__ if key in row}
        known["warnings"] = tuple(row.get("warnings", ()))
        known["limits"] = tuple(Limitation(one["what"], one["why"], one["cure"]) for one in row.get("limits", ()))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class WarmView:
    """A process that waits with its imports done. ``kind``: template, spare or judge; ``state``: warming, warm, refused
    or over; ``agents``: those that it is for; ``modules``: how many it was asked to import; ``memory`` in bytes."""

    kind: str
    state: str
    pid: int
    agents: tuple[str, ...]
    modules: int
    memory: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> WarmView:
        known: dict[str, Any] = {key: row[key] for key in cls.__dataclass_fields__ if key in row}
        return cls(**{**known, "agents": tuple(row.get("agents", ()))})


@dataclass(frozen=True, slots=True)
class Snapshot:
    name: str
    file: str
    state_dir: str
    pid: int
    version: str
    mode: str
    started_at: str
    watching: bool
    registry_url: str
    registry_up: bool
    config_error: str | None  # why the mesh.toml on disk is not the one that runs
    warnings: tuple[str, ...]
    agents: tuple[AgentView, ...]
    warm: tuple[WarmView, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Snapshot:
        """Fields of a newer supervisor are ignored, so that an older command line can still read it."""
        known = {key: body[key] for key in cls.__dataclass_fields__ if key in body}
        known["agents"] = tuple(map(AgentView.from_json, body["agents"]))
        known["warnings"] = tuple(body.get("warnings", ()))
        known["warm"] = tuple(map(WarmView.from_json, body.get("warm", ())))
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to for one agent. ``text`` is for people, one line."""

    agent: str
    ok: bool
    text: str
    generation: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a command. ``ok`` False: exit code ``exit_code`` and ``error`` on stderr."""

    ok: bool
    outcomes: tuple[Outcome, ...] = ()
    lines: tuple[str, ...] = ()  # talk for people, in order (the difference that `apply` made, a chain of `why`)
    error: str | None = None
    exit_code: int = 0
    body: Mapping[str, Any] | None = None  # what `--json` prints, where it is more than outcomes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Answer:
        return cls(
            ok=body["ok"],
            outcomes=tuple(Outcome(**row) for row in body.get("outcomes", ())),
            lines=tuple(body.get("lines", ())),
            error=body.get("error"),
            exit_code=body.get("exit_code", 0),
            body=body.get("body"),
        )


VERBS = (
    "start",
    "stop",
    "restart",
    "reload",
    "apply",
    "down",
    "watch-status",
    "watch-enable",
    "watch-disable",
    "why",
    "up",
    "hold",
)
"""Commands: POST /commands/VERB with a JSON object (``agents``: names or globs, and what the verb takes)."""
