"""Verbs for who runs meshes rather than looks into one: health, ls."""

from __future__ import annotations

import os
from typing import Annotated

import click
from click.exceptions import Exit

from mesh_supervisor.cli import probe
from mesh_supervisor.cli.asking import Agents, Json, Where
from mesh_supervisor.cli.parameters import option
from mesh_supervisor.cli.terminal import show, show_json, talk


def health(
    ctx: click.Context,
    agents: Agents = None,
    live: Annotated[bool, option("--live/--ready", help="Is it worth keeping? / Do all serve? (The default.)")] = False,
    timeout: Annotated[
        float,
        option("--timeout", least=0, most=1_000_000, metavar="SECONDS", help="No answer by then is a no."),
    ] = probe.TIMEOUT,
    as_json: Annotated[bool, option("--json", help="One line of JSON (docs/json.md).")] = False,
) -> None:
    """Whether the mesh is healthy, for HEALTHCHECK and probes. One line, and exit code 0 or 1.

    Ready: all agents that are wanted serve; tasks may have ended with 0. What is stopped by hand, or of a profile that
    was not asked for, counts only where its name is given.

    Live: the supervisor answers, and no agent that is essential, or named here, was given up: ended for good, or in
    prod mode in a crash loop. An agent that is down is no reason to kill all the others.

    Exit code 3: nothing runs; 4: no such agent.
    """
    where = ctx.find_root().obj
    assert isinstance(where, Where)
    question = probe.Question(where.file, where.directory, tuple(agents or ()), live, timeout, as_json)
    line, code = probe.answer(question, None, os.environ)
    show(line)
    raise Exit(code)


def ls(
    quiet: Annotated[bool, option("-q", "--quiet", help="Names only.")] = False,
    as_json: Json = False,
) -> None:
    """The meshes of this user that run now, wherever their mesh.toml is.

    Those in containers, and in other network namespaces, cannot be seen from here; ask inside.
    """
    from mesh_supervisor.cli import meshes

    found, blind = meshes.running()
    if as_json:
        show_json([meshes.json_of(one) for one in found])
    elif quiet:
        show(*meshes.names(found))
    elif found:
        show(*meshes.table(found))
    talk(*(meshes.remarks(found, blind=blind)))


VERBS = {"health": health, "ls": ls}
