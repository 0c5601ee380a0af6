"""`why` and `watch status`: in words, whom a change of a file would reload and by which chain, and what is watched.

Both are asked of a supervisor, and of mesh.toml when none runs.
`Selection` knows the inputs of every agent, `gate` what stands between a change and its effect ("" if nothing does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.inputs import env_files_there
from mesh_supervisor.impact import Inputs, chain_text, short
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import MeshSpec
from mesh_supervisor.wording import counted

MOST_NAMED = 8
"""Files of one kind that are named; --json names all."""


async def explain(
    paths: Iterable[str], selection: Selection, mesh: MeshSpec, ignore: Ignore, gate: Callable[[str], str]
) -> Answer:
    """A line per file and agent; body: {"files": [{"path", "agents": {name: chain}, "asides": {name: reason}}]};
    asides: who reads it without being reloaded for it."""
    lines: list[str] = []
    body: dict[str, Any] = {"files": []}
    for text in paths:
        found = await selection.why(Path(text))
        chains = {name: chain_text(reason, mesh.root) for name, reason in found.items()}
        lines += [f"{name}: {chain}{gate(name)}" for name, chain in chains.items()]
        if not chains:
            lines.append(f"{text}: {why_nobody(Path(text), mesh, ignore)}")
        asides = {name: why for name, why in selection.asides(Path(text)).items() if name not in chains}
        lines += [f"{name} has read it, which does not count: {why}" for name, why in asides.items()]
        body["files"].append({"path": text, "agents": chains, "asides": asides})
    return Answer(ok=True, lines=tuple(lines), body=body)


def watch_row(inputs: Inputs, *, enabled: bool) -> dict[str, Any]:
    """What `watch status --json` prints of one agent."""
    return {
        "enabled": enabled and inputs.watched,
        "imports": len(inputs.files),
        "globs": [glob.text for glob in inputs.globs],
        "matched": len(inputs.matched),
        "read": sorted(map(str, inputs.read.keys() - inputs.absent)),
        "listed": sorted(map(str, inputs.listings)),
        "asides": {str(path): why for path, why in sorted(inputs.asides.items())},
        "env_files": [str(file) for file in env_files_there(inputs)],
        "directories": [str(folder) for folder in inputs.directories],
        "notes": [*((inputs.warning,) if inputs.warning else ()), *inputs.notes],
    }


def watch_lines(name: str, inputs: Inputs, root: Path, gate: str) -> list[str]:
    """The same for people."""
    row = watch_row(inputs, enabled=True)
    parts = [counted(row["imports"], "imported file")] if row["imports"] else []
    parts += [f"{counted(len(row['read']), 'file')} seen being read"] if row["read"] else []
    parts += [f"{counted(row['matched'], 'file')} by {', '.join(row['globs'])}"] if row["globs"] else []
    parts += [counted(len(row["env_files"]), "env file")] if row["env_files"] else []
    parts += [f"all of {folder}" for folder in row["directories"]]
    notes = [f"  {note}" for note in (*traced_lines(inputs, root), *row["notes"])]
    return [f"{name}: {', '.join(parts) or 'no known inputs'}{gate}", *notes]


def traced_lines(inputs: Inputs, root: Path) -> list[str]:
    """For `watch status`: what its instances really read, and what of it does not count."""
    there = sorted(inputs.read.keys() - inputs.absent)
    groups = {"read": there, "a new file counts in": sorted(inputs.listings)}
    for path, why in sorted(inputs.asides.items()):
        groups.setdefault(f"no input, {why}", []).append(path)
    return [f"{words}: {_named(paths, root)}" for words, paths in groups.items() if paths]


def _named(paths: Sequence[Path], root: Path) -> str:
    names = [short(path, root) for path in paths[:MOST_NAMED]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


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
    return "nobody imports it or has read it as an input, and no watch glob matches it"
