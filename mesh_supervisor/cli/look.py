"""Verbs that look and change nothing: ps, logs, history, events, why, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
from click.exceptions import Exit

from mesh_supervisor.cli.asking import Agents, Json, chosen, client_of, place_of, running_place, tell
from mesh_supervisor.cli.parameters import argument, option
from mesh_supervisor.cli.terminal import show, show_json, talk
from mesh_supervisor.errors import UsageError
from mesh_supervisor.locate import absolute

Since = Annotated[
    str | None, option("--since", metavar="WHEN", help="Not older than `90s`, `5m`, `2h`, `1d`, or a time.")
]
Count = Annotated[int | None, option("-n", "--lines", least=0, metavar="N", help="The last N only.")]


def ps(
    ctx: click.Context,
    agents: Agents = None,
    output: Annotated[str, option("-o", "--output", metavar="wide", help="`wide`: all that is known.")] = "",
    quiet: Annotated[bool, option("-q", "--quiet", help="Names only.")] = False,
    as_json: Json = False,
) -> None:
    """What runs, how it is, and what happened to it last."""
    from mesh_supervisor.cli import rows

    if output not in ("", "wide"):
        raise UsageError(f"-o {output}: there is only `-o wide`; --json prints JSON")
    snapshot = client_of(ctx, agents).snapshot()
    views = chosen(snapshot.agents, agents or [])
    if as_json:
        body = snapshot.to_json()
        names = {view.name for view in views}
        show_json({**body, "agents": [row for row in body["agents"] if row["name"] in names]})
    elif quiet:
        show(*(view.name for view in views))
    else:
        show(*rows.processes(views, wide=output == "wide"))
        if output == "wide":
            show(*rows.warm(snapshot.warm))
        talk(*rows.remarks(snapshot))


def logs(
    ctx: click.Context,
    agents: Agents = None,
    follow: Annotated[bool, option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Count = None,
    since: Since = None,
    grep: Annotated[str | None, option("--grep", metavar="REGEX", help="Only lines in which it is found.")] = None,
    previous: Annotated[bool, option("--previous", "-p", help="What the previous generation wrote.")] = False,
    as_json: Annotated[bool, option("--json", help="One JSON object per line (docs/json.md).")] = False,
) -> None:
    """What the agents wrote. 100 lines, or all that --since, --grep and --previous let through.

    `meshsup` is the supervisor's own log. Works also when nothing runs.
    """
    from mesh_supervisor.cli import logs as reading

    wanted = reading.Wanted.of(agents or [], lines=lines, since=since, grep=grep, previous=previous)
    if follow and previous:
        raise UsageError("--previous has ended; it cannot be followed")
    reading.print_logs(client_of(ctx, agents), wanted, follow=follow, as_json=as_json)


def history(
    ctx: click.Context, agents: Agents = None, lines: Count = None, since: Since = None, as_json: Json = False
) -> None:
    """Reloads: what caused them, and how long each phase took. Works also when nothing runs."""
    from mesh_supervisor.cli import happened

    happened.print_history(running_place(ctx, agents), agents or [], lines=lines, since=since, as_json=as_json)


def events(
    ctx: click.Context,
    agents: Agents = None,
    kinds: Annotated[
        list[str] | None, option("--kind", metavar="KIND", help="Only these (docs/events.md); repeatable.")
    ] = None,
    lines: Count = None,
    since: Since = None,
    no_follow: Annotated[bool, option("--no-follow", help="Only what has happened so far.")] = False,
    as_json: Annotated[bool, option("--json", help="One JSON object per line (docs/json.md).")] = False,
) -> None:
    """What happened, and what happens as it happens. The last 10 events, or --since, then live until Ctrl-C.

    When nothing runs: what happened, and no more.
    """
    from mesh_supervisor.cli import happened

    wanted = happened.Wanted.of(agents or [], kinds or [], lines=lines, since=since)
    happened.print_events(client_of(ctx, agents), wanted, follow=not no_follow, as_json=as_json)


def why(
    ctx: click.Context,
    files: Annotated[list[Path], argument(metavar="FILE", help="Also one that does not exist (any more).")],
    as_json: Json = False,
) -> None:
    """Which agents a change of FILE would reload, and by which chain. When nothing runs: by mesh.toml alone."""
    paths = [str(absolute(Path.cwd(), str(file))) for file in files]
    client = client_of(ctx)
    if client.running():
        tell(client.command("why", timeout=60.0, paths=paths), as_json)
    else:
        import asyncio

        from mesh_supervisor.cli import offline

        talk("nothing runs; this is what mesh.toml says")
        tell(asyncio.run(offline.why(client.place, paths)), as_json)


def doctor(ctx: click.Context, as_json: Json = False) -> None:
    """Find what is wrong around the mesh, with its cure. Exit code 1 when something is.

    mesh.toml, interpreters, ports, watching, state_dir, limits; of a running mesh also what makes an agent start cold,
    stop-first or plainly. Changes nothing, and works also when nothing runs.
    """
    from mesh_supervisor.cli import doctor as examining

    try:
        place = running_place(ctx)
    except UsageError:  # of several agents by themselves none is meant
        place = place_of(ctx)
    wrong = examining.examine(place, as_json)
    if wrong:
        raise Exit(1)


VERBS = {"ps": ps, "logs": logs, "history": history, "events": events, "why": why, "doctor": doctor}
