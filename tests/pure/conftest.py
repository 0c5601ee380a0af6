from __future__ import annotations

from pathlib import Path

import pytest

from tests.pure.meshfile import MeshFile


@pytest.fixture
def mesh(tmp_path: Path) -> MeshFile:
    folder = tmp_path / "demo"
    folder.mkdir()
    return MeshFile(folder)


@pytest.fixture
def servers(mesh: MeshFile) -> MeshFile:
    """For ``SERVERS``."""
    return mesh.touch("agents/planner.py", "agents/retriever.py")
