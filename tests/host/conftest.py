"""What the tests with real processes share."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host.reaper import adopts_orphans, become_subreaper

from .stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def subreaper() -> Iterator[None]:
    """This process adopts orphans during the test, and only then."""
    assert become_subreaper()
    assert adopts_orphans()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
