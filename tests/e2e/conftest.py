"""A mesh per test; themes that share a running one have a module-wide fixture of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Mesh, fresh_mesh


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        yield mesh
