"""Where an agent that registers itself can be reached: a foreign registry hands on whatever somebody said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from mesh_supervisor.enrolment import Enrolment
from mesh_supervisor.host.instance import Place


class Rows:
    """A registry that has these rows; nothing else of it is asked."""

    def __init__(self, *rows: Mapping[str, Any]) -> None:
        self.rows = list(rows)

    async def agents(self) -> list[Mapping[str, Any]]:
        return self.rows


def place(endpoint: object) -> Place | None:
    registry: Any = Rows(
        {"id": ["no", "id"], "status": "healthy"}, {"id": "a-1", "status": "healthy", "endpoint": endpoint}
    )
    return asyncio.run(Enrolment(registry, "owner", lambda about, text: None).place_of("a-1"))


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://127.0.0.1:8101", Place("127.0.0.1", 8101)),
        ("http://127.0.0.1:8101/", Place("127.0.0.1", 8101)),
        ("http://[::1]:8101", Place("::1", 8101)),
        ("https://agent.example:443/mcp", Place("agent.example", 443)),
    ],
)
def test_an_address(endpoint: str, expected: Place) -> None:
    assert place(endpoint) == expected


@pytest.mark.parametrize(
    "endpoint",
    [
        None,
        5,
        "",
        "stdio://a-1",
        "http://127.0.0.1",
        "http://127.0.0.1:²",
        "http://[::1:80",
        "http://x:99999",
        "http://x:0",
        f"http://127.0.0.1:{'9' * 5000}",
    ],
)
def test_what_is_no_address_is_none(endpoint: object) -> None:
    assert place(endpoint) is None


def test_rows_whose_id_is_no_text_are_nobodys() -> None:
    registry: Any = Rows({"id": ["a-1"], "status": "healthy"}, {"id": {}, "status": "healthy"})
    enrolment = Enrolment(registry, "owner", lambda about, text: None)
    enrolment.issue("a-1", "a", 1)
    asyncio.run(enrolment._look_at_issued())
    assert not enrolment.is_registered("a-1")
