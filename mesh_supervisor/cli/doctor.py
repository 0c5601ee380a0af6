"""`doctor`: what is wrong with a mesh's surroundings, with its cure. Looks, changes nothing, and needs no running mesh.

Looking is host/surroundings.py, judging diagnosis.py; here the one is put together for the other, and printed.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mesh_supervisor.cli.offline import finder_of, ignore_of
from mesh_supervisor.cli.terminal import BOLD, RED, YELLOW, painted, show, show_json, width
from mesh_supervisor.cli.words import one_line
from mesh_supervisor.config import load
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import AgentView, Snapshot
from mesh_supervisor.diagnosis import AgentSeen, Finding, InterpreterSeen, Seen, diagnose, summary
from mesh_supervisor.errors import ConfigError, NotRunning
from mesh_supervisor.host import surroundings
from mesh_supervisor.host.interpreter import Interpreter
from mesh_supervisor.host.kept_ports import read_kept_port
from mesh_supervisor.host.projects import project_roots
from mesh_supervisor.limits import limitation
from mesh_supervisor.locate import Place
from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec

COLUMNS = 80
"""Of a pipe; a terminal has its own."""


def examine(place: Place, as_json: bool) -> bool:
    """Prints what is found. Returns whether something is wrong."""
    seen = look(place)
    found = diagnose(seen)
    wrong = any(one.wrong for one in found)
    if as_json:
        show_json({"ok": not wrong, "running": seen.running, "findings": [asdict(one) for one in found]})
    else:
        show(*printed(found, width() or COLUMNS), summary(found, seen))
    return wrong


# ---- looking ---------------------------------------------------------------------------------------------------------


def look(place: Place) -> Seen:
    """Everything that diagnosis.py judges."""
    client = Client(place)
    snapshot, watching = _running(client)
    mesh, mistakes = _loaded(place)
    seen = Seen(
        mistakes=mistakes,
        not_applied=snapshot.config_error or "" if snapshot is not None else "",
        running=snapshot is not None,
        agents=_views_seen(snapshot),
        inotify=surroundings.inotify_seen(watching.get("directories", 0)),
        polls=str(watching.get("why", "")) if "polling" in watching.get("how", "") else "",
        state_dir=surroundings.state_dir_seen(place.state_dir, place.root),
        open_files=surroundings.open_files(),
        container=surroundings.in_container(),
        wsl=surroundings.in_wsl(),
        missing=surroundings.missing(),
    )
    return seen if mesh is None else _of_mesh(seen, mesh, snapshot)


def _of_mesh(seen: Seen, mesh: MeshSpec, snapshot: Snapshot | None) -> Seen:
    """What can be looked at only where mesh.toml can be read."""
    interpreters = asyncio.run(_interpreters(mesh))
    roots = project_roots(mesh.root, mesh.watch.roots)
    folders = seen.inotify.needed or surroundings.folders_below(roots, ignore_of(mesh).prunes)
    return replace(
        seen,
        watching=mesh.watch.enabled,
        agents=_agents_seen(mesh, interpreters, snapshot),
        interpreters=_interpreters_seen(mesh, interpreters),
        ports=surroundings.ports_in_use(_ports_wanted(mesh, snapshot)),
        inotify=replace(seen.inotify, needed=folders),
        lossy=surroundings.lossy_roots(roots),
    )


def _running(client: Client) -> tuple[Snapshot | None, Mapping[str, Any]]:
    """The running mesh, and how it watches."""
    try:
        return client.snapshot(), client.command("watch-status", timeout=10.0).body or {}
    except NotRunning:
        return None, {}


def _loaded(place: Place) -> tuple[MeshSpec | None, tuple[str, ...]]:
    try:
        return load(place.file, os.environ, kept_port=read_kept_port(place.state_dir)), ()
    except ConfigError as error:
        return None, error.mistakes


async def _interpreters(mesh: MeshSpec) -> dict[str, Interpreter]:
    finder = finder_of(mesh)
    return {name: await finder.interpreter_of(spec) for name, spec in mesh.agents.items()}


def _interpreters_seen(mesh: MeshSpec, interpreters: Mapping[str, Interpreter]) -> tuple[InterpreterSeen, ...]:
    """Each once. Of a command line only one that was found for it: `node` needs no Python."""
    users: dict[Path, list[AgentSpec]] = {}
    for name, found in interpreters.items():
        spec = mesh.agents[name]
        if not isinstance(spec.command, CommandLine) or found.virtual_env is not None:
            users.setdefault(found.python, []).append(spec)
    return tuple(surroundings.interpreter_seen(python, specs, os.environ) for python, specs in users.items())


def _agents_seen(
    mesh: MeshSpec, interpreters: Mapping[str, Interpreter], snapshot: Snapshot | None
) -> tuple[AgentSeen, ...]:
    views = {view.name: view for view in (snapshot.agents if snapshot is not None else ())}
    return tuple(_agent_seen(mesh, spec, interpreters[name], views.get(name)) for name, spec in mesh.agents.items())


def _agent_seen(mesh: MeshSpec, spec: AgentSpec, interpreter: Interpreter, view: AgentView | None) -> AgentSeen:
    asked_for = [
        *([limitation("runtime", "runtime = false in mesh.toml")] if not spec.runtime else []),
        *([limitation("order", 'order = "stop-first" in mesh.toml')] if spec.order == "stop-first" else []),
        *([limitation("warm", "warm = false in mesh.toml")] if spec.warm is False else []),
    ]
    return AgentSeen(
        spec.name,
        limits=view.limits if view is not None else tuple(asked_for),
        failure=_failure(view),
        needs_uv=surroundings.needs_uv(spec, os.environ),
        lock_file=surroundings.lock_file_without_environment(spec, interpreter, mesh.root),
    )


def _failure(view: AgentView | None) -> str:
    failing = view is not None and view.state in ("failed", "crashloop", "backoff")
    return f"{view.state}: {view.failure or view.detail}" if view is not None and failing else ""


def _views_seen(snapshot: Snapshot | None) -> tuple[AgentSeen, ...]:
    """While mesh.toml cannot be read: what runs is known all the same."""
    views = snapshot.agents if snapshot is not None else ()
    return tuple(AgentSeen(view.name, view.limits, _failure(view)) for view in views if view.kind != "registry")


def _ports_wanted(mesh: MeshSpec, snapshot: Snapshot | None) -> Iterator[tuple[str, int, str]]:
    """Of those that have no process: what a running one has is its own."""
    running = {view.name for view in (snapshot.agents if snapshot is not None else ()) if view.pid is not None}
    for name, spec in mesh.agents.items():
        if name not in running and spec.port is not None:
            yield name, spec.port, spec.host
    if "registry" not in running and mesh.registry.kind != "external" and mesh.registry.strict:
        yield "registry", mesh.registry.port, "127.0.0.1"


# ---- printing --------------------------------------------------------------------------------------------------------


def printed(found: Sequence[Finding], columns: int) -> list[str]:
    """A heading per group, a mark per finding, its cure below it; at most ``columns`` wide."""
    lines: list[str] = []
    for group, members in groupby(found, key=lambda one: one.group):
        lines.append(painted(group, BOLD))
        for one in members:
            lines += _finding(one, columns)
        lines.append("")
    return lines


def _finding(one: Finding, columns: int) -> list[str]:
    text = one_line(f"{one.subject}: {one.text}" if one.subject else one.text)
    lines = _wrapped(text, "  ✘ " if one.wrong else "  · ", columns)
    lines[0] = lines[0].replace("✘", painted("✘", RED), 1).replace("·", painted("·", YELLOW), 1)
    return lines + (_wrapped(one_line(one.cure), "    → ", columns) if one.cure else [])


def _wrapped(text: str, mark: str, columns: int) -> list[str]:
    below = " " * len(mark)
    return textwrap.wrap(
        text, columns, initial_indent=mark, subsequent_indent=below, break_on_hyphens=False, break_long_words=False
    )
