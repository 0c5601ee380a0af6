"""`run` and `exec`: this process becomes the program, in an agent's interpreter, folder and environment.

No supervisor, no registration, no mark of ours: terminal, process group, stdin and stdout stay what they are, so that a
debugger works and an MCP client can launch an agent over stdio.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh_supervisor.errors import MeshError
from mesh_supervisor.locate import Place


def run(place: Place, agent: str) -> None:
    raise MeshError("not yet")


def execute(place: Place, agent: str, command: Sequence[str]) -> None:
    raise MeshError("not yet")
