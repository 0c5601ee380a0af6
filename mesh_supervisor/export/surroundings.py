"""PURE. What was found around a mesh that is exported for Compose (cli/exporting.py looks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import join, normpath, relpath

from mesh_supervisor.export.references import Written, by_compose
from mesh_supervisor.export.yaml import Reference
from mesh_supervisor.impact import Inputs
from mesh_supervisor.spec import AgentSpec, MeshSpec


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``base``: the folder of the file that is written. ``app``: mesh.toml's folder in the image. ``inputs`` by agent;
    none: edits are not taken over. ``locks`` by agent: files that say what is installed for it. ``from_env_file``: the
    variables that [mesh] env_file sets. ``otherwise``: the lines of .env that Compose reads otherwise than we do."""

    base: Path
    written: Written
    app: str = "/app"
    dockerfile: Path | None = None
    dockerignore: bool = True
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    locks: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    from_env_file: frozenset[str] = frozenset()
    otherwise: Sequence[int] = ()

    def place(self, path: Path) -> str:
        """As Compose reads it: relative to its file."""
        found = relpath(path, self.base)
        return found if found == "." or found.startswith("..") else f"./{found}"

    def in_image(self, text: str) -> str:
        """A path that mesh.toml names, which is relative to it there too."""
        return normpath(join(self.app, text))


def port_of(spec: AgentSpec, written: Written) -> Reference:
    """For Compose to find, where a variable says it: the container asks the same variable."""
    return by_compose(written.of(spec.name, "port"), spec.port)


def registry_port(mesh: MeshSpec, written: Written) -> Reference:
    return by_compose(written.table("registry").get("port"), mesh.registry.port)


def known_names(mesh: MeshSpec, written: Written, port: Reference) -> Mapping[str, str]:
    """What ``${port}`` (the given one) and ``${agents.NAME.url}`` come to, between containers."""
    urls = {
        f"agents.{name}.url": Reference(f"http://{name}:{port_of(spec, written)}") for name, spec in mesh.agents.items()
    }
    return {"port": port, **urls}
