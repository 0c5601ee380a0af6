from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registry.running import Running, running


@pytest.fixture(scope="module")
def registry() -> Iterator[Running]:
    """One registry for the tests of a module that do not mind each other; nothing goes wrong inside it."""
    with running() as one:
        yield one
        assert one.ask("GET", "/health").status == 200
    assert not [line for line in one.said if "Traceback" in line or "Exception" in line], one.said
