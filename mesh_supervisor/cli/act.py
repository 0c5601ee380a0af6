"""Verbs that change a running mesh: start, stop, restart, reload, apply, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click

from mesh_supervisor.cli.asking import Agents, Force, Json, Timeout, client_of, complete_agents, tell
from mesh_supervisor.cli.help import Topic
from mesh_supervisor.cli.parameters import argument, option
from mesh_supervisor.errors import UsageError
from mesh_supervisor.locate import absolute


def start(ctx: click.Context, agents: Agents = None, timeout: Timeout = None, as_json: Json = False) -> None:
    """Start agents, and wait until they are ready. None named: all."""
    _command(ctx, "start", agents, timeout, as_json)


def stop(ctx: click.Context, agents: Agents = None, timeout: Timeout = None, as_json: Json = False) -> None:
    """Stop agents, and wait until they are gone. None named: all; the registry and the supervisor stay.

    No edit starts them again; `start` does, and the next `up`.
    """
    _command(ctx, "stop", agents, timeout, as_json)


def restart(
    ctx: click.Context,
    agents: Agents = None,
    force: Force = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Stop agents, start them again, and wait until they are ready. None named: all.

    Refused, with nothing stopped, when a file of the agent cannot be loaded.
    """
    _command(ctx, "restart", agents, timeout, as_json, force=force)


Targets = Annotated[
    list[str] | None,
    argument(metavar="AGENT|PATH", help="Names, globs, or files: what `why FILE` names.", complete=complete_agents),
]


def reload(
    ctx: click.Context,
    targets: Targets = None,
    force: Force = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Reload agents gracefully, as a save would. None named: all.

    A word with a `/` or a `.` is a file: whom `why FILE` names is reloaded. Refused, with nothing stopped, when a file
    of the agent cannot be loaded.
    """
    words = targets or []
    paths = [str(absolute(Path.cwd(), word)) for word in words if is_path(word)]
    _command(ctx, "reload", [word for word in words if not is_path(word)], timeout, as_json, force=force, paths=paths)


def is_path(word: str) -> bool:
    """No agent's name holds a slash or a dot."""
    return "/" in word or "." in word


def apply(
    ctx: click.Context,
    dry_run: Annotated[bool, option("--dry-run", help="Only print the difference.")] = False,
    force: Force = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Read mesh.toml again, print the difference, do the least."""
    _command(ctx, "apply", [], timeout, as_json, dry_run=dry_run, force=force)


watch = Topic("watch", "What is watched; switch it on and off.")


@watch.verb()
def status(ctx: click.Context, agents: Agents = None, as_json: Json = False) -> None:
    """What is watched, how, and why not. When nothing runs: by mesh.toml alone."""
    client = client_of(ctx, agents)
    if client.running():
        _command(ctx, "watch-status", agents, 10.0, as_json)
        return
    import asyncio

    from mesh_supervisor.cli import offline

    tell(asyncio.run(offline.watch_status(client.place, agents or [])), as_json)


@watch.verb()
def enable(ctx: click.Context, agents: Agents = None, as_json: Json = False) -> None:
    """Let saves reload these agents again. None named: all.

    What has changed meanwhile is reloaded now. Remembered.
    """
    _command(ctx, "watch-enable", agents, None, as_json)


@watch.verb()
def disable(ctx: click.Context, agents: Agents = None, as_json: Json = False) -> None:
    """Let no save reload these agents. None named: all.

    Remembered, and said at every `up`.
    """
    _command(ctx, "watch-disable", agents, None, as_json)


def _command(
    ctx: click.Context, verb: str, agents: list[str] | None, timeout: float | None, as_json: bool, **arguments: Any
) -> None:
    if "" in (agents or []):
        raise UsageError("an empty word is no agent; leave it out to mean all")
    tell(client_of(ctx, agents).command(verb, timeout=timeout, agents=agents or [], **arguments), as_json)


VERBS = {"start": start, "stop": stop, "restart": restart, "reload": reload, "apply": apply, "watch": watch}
