"""What the verbs share: where the mesh is, asking its supervisor, telling what came of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import click
from click.exceptions import Exit

from mesh_supervisor.cli.parameters import argument, option
from mesh_supervisor.cli.terminal import complain, show, show_json, still, talk
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import AgentView, Answer
from mesh_supervisor.control.near import answering
from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.locate import Place, locate, read_leniently


@dataclass(frozen=True, slots=True)
class Where:
    """``-f FILE`` and ``-C DIR``, given before the verb."""

    file: Path | None = None
    directory: Path | None = None

    def place(self) -> Place:
        """Raises ConfigError when there is no mesh.toml, and none runs."""
        return locate(Path.cwd(), file=self.file, directory=self.directory, environ=os.environ)


def place_of(ctx: click.Context) -> Place:
    where = ctx.find_root().obj
    assert isinstance(where, Where)
    return where.place()


def running_place(ctx: click.Context, agents: Sequence[str] | None = ()) -> Place:
    """Where the supervisor keeps its state that is asked, or was when nothing runs. ``agents``: names and globs.

    Raises UnknownAgent, UsageError: several agents run here by themselves, and it cannot be told which is meant."""
    return answering(place_of(ctx), agents or ())


def client_of(ctx: click.Context, agents: Sequence[str] | None = ()) -> Client:
    return Client(running_place(ctx, agents))


def complete_agents(ctx: click.Context, incomplete: str) -> list[str]:
    """For the shell: the agents of the mesh.toml that this command would use. Never an error, never slow."""
    from mesh_supervisor.errors import MeshError

    given = ctx.find_root().params
    try:
        place = Where(given.get("file"), given.get("directory")).place()
    except (MeshError, OSError):
        return []
    agents = read_leniently(place.file).get("agents")
    return [name for name in agents if name.startswith(incomplete)] if isinstance(agents, dict) else []


Agents = Annotated[list[str] | None, argument(metavar="AGENT", help="Names or globs.", complete=complete_agents)]
OneAgent = Annotated[str, argument(metavar="AGENT", help="Its name.", complete=complete_agents)]
Json = Annotated[bool, option("--json", help="Print JSON (docs/json.md).")]
Timeout = Annotated[
    float | None,
    option("--timeout", least=0, most=1_000_000, metavar="SECONDS", help="Wait no longer; exit code 124."),
]
Force = Annotated[bool, option("--force", help="Also when its files cannot be loaded: the old instance is lost.")]


def chosen(views: Sequence[AgentView], wanted: Sequence[str]) -> list[AgentView]:
    """The views that the names and globs mean, in their order; none named: all. Raises UnknownAgent."""
    for word in wanted:
        if not any(fnmatchcase(view.name, word) for view in views):
            raise UnknownAgent(word, (view.name for view in views))
    return [view for view in views if not wanted or any(fnmatchcase(view.name, word) for word in wanted)]


def tell(answer: Answer, as_json: bool = False) -> None:
    """Print what a command came to, and leave with its exit code unless it is 0. Nothing in it moves the cursor: it may
    quote an agent, and for root it may come from anybody's supervisor."""
    if as_json:
        show_json(json_of(answer))
    else:
        show(*map(still, answer.lines))
        for outcome in answer.outcomes:
            (show if outcome.ok else talk)(still(f"{outcome.agent}: {outcome.text}"))
    if answer.error:
        complain(answer.error)
    if not answer.ok:
        raise Exit(answer.exit_code or 1)


def json_of(answer: Answer) -> dict[str, Any]:
    """What ``--json`` prints of a command: {"ok", "outcomes", "error"}, and what the verb has beyond that."""
    shape: dict[str, Any] = {"ok": answer.ok, "outcomes": [asdict(each) for each in answer.outcomes]}
    shape["error"] = answer.error
    return {**shape, **(answer.body or {})}
