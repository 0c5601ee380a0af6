"""PURE. What was found around a mesh that is exported for Compose (cli/exporting.py looks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import join, normpath, relpath

from mesh_supervisor.export.references import Written
from mesh_supervisor.impact import Inputs
from mesh_supervisor.spec import MeshSpec


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``base``: the folder of the file that is written. ``app``: mesh.toml's folder in the image. ``inputs`` by agent;
    none: edits are not taken over. ``locks`` by agent: files that say what is installed for it. ``from_env_file``: the
    variables that [mesh] env_file sets."""

    base: Path
    written: Written
    app: str = "/app"
    dockerfile: Path | None = None
    dockerignore: bool = True
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    locks: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    from_env_file: frozenset[str] = frozenset()

    def place(self, path: Path) -> str:
        """As Compose reads it: relative to its file."""
        found = relpath(path, self.base)
        return found if found == "." or found.startswith("..") else f"./{found}"

    def in_image(self, text: str) -> str:
        """A path that mesh.toml names, which is relative to it there too."""
        return normpath(join(self.app, text))


def known_names(mesh: MeshSpec, port: int) -> Mapping[str, str]:
    """What ``${port}`` and ``${agents.NAME.url}`` come to, between containers."""
    urls = {f"agents.{name}.url": f"http://{name}:{spec.port}" for name, spec in mesh.agents.items()}
    return {"port": str(port), **urls}
