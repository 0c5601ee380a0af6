"""What the tests of agents share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.meshes import Mesh


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mesh:
    return Mesh(tmp_path.resolve(), monkeypatch)
