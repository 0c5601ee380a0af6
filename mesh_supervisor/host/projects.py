"""Projects on disk: what a pyproject.toml declares, and the folders below which files may be inputs."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mesh_supervisor.host.interpreter import Environment
from mesh_supervisor.locate import believed, owner_of
from mesh_supervisor.spec import AgentSpec, Script

LARGEST = 2**20
"""Bytes of a pyproject.toml. Larger ones are not read: nobody writes them."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Of the nearest project: its console scripts, and where its modules are before it is installed."""

    scripts: Mapping[str, str]
    path: tuple[str, ...]


def declared_scripts(directory: Path) -> Declared:
    """From the pyproject.toml nearest upward, and from the members of its uv workspace: known before the first
    ``uv run`` has made an environment."""
    for folder in (directory, *directory.parents):
        project = _read_toml(folder / "pyproject.toml")
        if project is not None and _is_believed(folder / "pyproject.toml", directory):
            places = [folder, *_members(folder, project)]
            scripts: dict[str, str] = {}
            for place in reversed(places):
                table = project if place == folder else _read_toml(place / "pyproject.toml") or {}
                scripts |= _table(table, "project", "scripts")
            path = [str(place / "src") for place in places if (place / "src").is_dir()]
            return Declared({key: str(target) for key, target in scripts.items()}, (*path, *map(str, places)))
    return Declared({}, ())


def _is_believed(file: Path, directory: Path) -> bool:
    """Not what a stranger has laid into a folder above."""
    return file.parent == directory or owner_of(file) in believed(os.environ, directory)


def _members(folder: Path, project: Mapping[str, Any]) -> list[Path]:
    members = _table(project, "tool", "uv", "workspace").get("members", [])
    if not isinstance(members, list):
        return []
    # A workspace's members lie in it; `..` could lead through all of a machine.
    patterns = [str(pattern) for pattern in members if ".." not in str(pattern).split("/")]
    return [place for pattern in patterns for place in _matching(folder, pattern) if place.is_dir()]


def _matching(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (ValueError, NotImplementedError):  # "" and "/x" are no patterns; uv says so
        return []
    except (OSError, RecursionError):  # what it leads through cannot be read
        return []


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        inner = table.get(key, {})
        if not isinstance(inner, dict):
            return {}
        table = inner
    return table


def _read_toml(file: Path) -> Mapping[str, Any] | None:
    """None: not there, or not TOML; whoever builds the project says so."""
    try:
        now = file.stat()
    except OSError:
        return None
    if not stat.S_ISREG(now.st_mode) or now.st_size > LARGEST:  # of a pipe the end never comes
        return None
    return _parsed_toml(file, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=256)
def _parsed_toml(file: Path, changed_at: int, size: int) -> Mapping[str, Any] | None:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None


# ---- roots -----------------------------------------------------------------------------------------------------------


def project_roots(root: Path, more: Iterable[Path] = ()) -> tuple[Path, ...]:
    """mesh.toml's folder, the git or uv workspace around it, and ``more`` (``watch.roots``). A home folder that is
    itself under version control is no project, and a stranger's ``.git`` in /tmp does not make one of it."""
    ours = believed(os.environ, root)
    around = [folder for folder in (root, *root.parents) if _is_workspace(folder, ours)]
    return outermost([root, *_of_a_size(around), *more])


def _of_a_size(folders: Iterable[Path]) -> list[Path]:
    """Never the whole system or a whole home, whoever names it."""
    # Not Path.home(), which raises for a user that has none.
    too_much = {Path("/"), Path(os.path.expanduser("~"))}  # noqa: PTH111
    return [folder for folder in folders if folder not in too_much]


def _is_workspace(folder: Path, ours: Collection[int]) -> bool:
    if owner_of(folder / ".git") in ours and os.path.exists(folder / ".git"):  # noqa: PTH110 (Path.exists() may raise)
        return True
    file = folder / "pyproject.toml"
    project = _read_toml(file) if owner_of(file) in ours else None
    return project is not None and bool(_table(project, "tool", "uv", "workspace"))


def editable_roots(environment: Environment) -> list[Path]:
    """Project folders of editable installs, and where their modules are, if that is elsewhere."""
    places = [Path(target).parent for target in environment.mappings.values()]
    places += [Path(folder) for folders in environment.namespaces.values() for folder in folders]
    return _of_a_size([*environment.editable, *places])


def own_places(spec: AgentSpec) -> list[Path]:
    """Where an agent's own code is because mesh.toml says so: its script's folder, its directory, its PYTHONPATH."""
    places = [spec.directory]
    if isinstance(spec.command, Script):
        places += [spec.command.path.parent, Path(os.path.realpath(spec.command.path)).parent]
    text = spec.environment.get("PYTHONPATH", "")
    places += [Path(os.path.normpath(spec.directory / entry)) for entry in text.split(os.pathsep) if entry]
    return _of_a_size(places)


def outermost(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Without those that lie in another."""
    kept: list[Path] = []
    for folder in sorted(set(folders)):
        if not any(folder.is_relative_to(outer) for outer in kept):
            kept.append(folder)
    return tuple(kept)
