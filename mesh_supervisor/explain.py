"""`why`: in words, whom a change of a file would reload and by which chain, or why nobody.

`meshsup why` asks it of a supervisor, and of mesh.toml when none runs.
`Selection` knows the inputs of every agent, `gate` what stands between a change and its effect ("" if nothing does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.impact import chain_text
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import MeshSpec


async def explain(
    paths: Iterable[str], selection: Selection, mesh: MeshSpec, ignore: Ignore, gate: Callable[[str], str]
) -> Answer:
    """A line per file and agent; body: {"files": [{"path", "agents": {name: chain}}]}."""
    lines: list[str] = []
    body: dict[str, Any] = {"files": []}
    for text in paths:
        found = await selection.why(Path(text))
        chains = {name: chain_text(reason, mesh.root) for name, reason in found.items()}
        lines += [f"{name}: {chain}{gate(name)}" for name, chain in chains.items()]
        if not chains:
            lines.append(f"{text}: {why_nobody(Path(text), mesh, ignore)}")
        body["files"].append({"path": text, "agents": chains})
    return Answer(ok=True, lines=tuple(lines), body=body)


def why_nobody(path: Path, mesh: MeshSpec, ignore: Ignore) -> str:
    if path == mesh.file:
        return "it is applied when it is saved: what differs decides who restarts (`meshsup apply --dry-run`)"
    return f"no agent depends on it ({_reason(path, mesh, ignore)})"


def _reason(path: Path, mesh: MeshSpec, ignore: Ignore) -> str:
    if not path.exists():
        return "there is no such file"
    if ignore.user_ignored(path):
        return "watch.ignore or .meshwatch excludes it"
    if not any(path.is_relative_to(root) for root in (mesh.root, *mesh.watch.roots)):
        return "it lies outside mesh.toml's folder and watch.roots"
    return "nobody imports it, and no watch glob matches it"
