"""A mesh.toml in a folder of its own, for tests of configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.config import load
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.spec import AgentSpec, MeshSpec

SHELL: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "HOME": "/home/nobody"}

SERVERS = """
[mesh]
name = "demo"

[agents.retriever]
command = "agents/retriever.py"
port = 8101

[agents.planner]
command = "agents/planner.py"
port = 8102
depends_on = ["retriever"]
"""
"""Two agents, one of which waits for the other. Their programs are there in the mesh.toml of ``servers``."""


class MeshFile:
    """``write`` and ``touch`` make files beside it; ``read`` loads it, ``mistakes`` says what is wrong with it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.path = self.root / "mesh.toml"

    def write(self, text: str) -> MeshFile:
        self.path.write_text(text)
        return self

    def touch(self, *names: str, content: str = "") -> MeshFile:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return self

    def read(self, text: str | None = None, shell: Mapping[str, str] = SHELL, **options: Any) -> MeshSpec:
        if text is not None:
            self.write(text)
        return load(self.path, shell, **options)

    def agent(self, keys: str = "", shell: Mapping[str, str] = SHELL, **options: Any) -> AgentSpec:
        """The only agent, with a command that is always there, and ``keys``."""
        return self.read(f'[agents.a]\ncommand = ["true"]\n{keys}\n', shell, **options).agents["a"]

    def mistakes(self, text: str, shell: Mapping[str, str] = SHELL, **options: Any) -> list[str]:
        """Each without the name of the file."""
        with pytest.raises(ConfigError) as caught:
            self.read(text, shell, **options)
        assert caught.value.exit_code == 2
        assert all(mistake.startswith("mesh.toml: ") for mistake in caught.value.mistakes), caught.value.mistakes
        return [mistake.removeprefix("mesh.toml: ") for mistake in caught.value.mistakes]

    def mistake(self, keys: str, **options: Any) -> str:
        """The one thing that is wrong with ``keys`` of an agent, without its place and its line."""
        (only,) = self.mistakes(f'[agents.a]\ncommand = ["true"]\n{keys}\n', **options)
        assert only.startswith("agents.a."), only
        return only.removeprefix("agents.a.").rpartition(" (line ")[0]
