"""Constraints mean what they mean to MCP Mesh's own registry (Masterminds/semver)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.registry.versions import order, parse_constraint, parse_version, satisfies

YES = """
  1.2.3: * | >=1.0.0 | >= 1.0.0 | =>1.0 | ^1 | ^1.2 | ~1.2 | ~1.2.3 | 1.2.3
  1.2.3: =1.2.3 | v1.2.3 | 1.2 | 1 | 1.x | 1.2.x | 1.2.* | =1
  1.2.3: >1.1 | >1.2.2 | <2 | <=1.2 | <=1 | <1.3.0 | !=1.2.4 | !=2 | !=1.3 | ~1 | ~>1.2 | ~* | ^* | ~0.0.0 | X
  1.2.3: >=1 <2 | >=1, <2 | >=1.0 , <1.3 | 1.0 - 1.5 | 1.0.0 - 1.2.3 | 1.0 - 1.2 | <1 || >=1.2
  1.2.3: ^2 || ^1 || ^0 | 1 - 2 <=1.2.3
  v1.2: 1.2.0 | ^1 | 1.2
  2: >=2 | >1.9 | 2.x
  0.2.5: ^0.2.3 | ^0.2 | ^0 | ~0.2.3
  0.0.3: ^0.0.3 | ^0.0
  1.2.3+build.7: 1.2.3 | >=1.2.3
  1.3.0-beta.2: >=1.3.0-0 | >1.3.0-beta.1 | ^1.2.0-0 | ~1.3.0-alpha | >=1.0 <2.0.0-0 | *-0 | >=2 || >=1.3.0-a
  2.0.0-rc.1: <2.0.0 >=2.0.0-rc | >1.0.0 <=2.0.0-rc.1
  1.0.0: >1.0.0-rc.9
"""

NO = """
  1.2.3: >1.2.3 | >1.2 | >1 | <1.2.3 | <1.2 | <=1.1 | ^2 | ^1.3 | ~1.1 | ~1.3 | 1.2.4 | =1.1
  1.2.3: !=1.2.3 | !=1.2 | !=1 | 2.x | 1.3.*
  1.2.3: >=1 <1.2 | >=1.2.4, <2 | 1.3 - 2 | 0.1 - 1.2.2 | <1 || >2 | ^0 || ^2
  0.3.0: ^0.2.3 | ^0.2 | ~0.2
  0.0.4: ^0.0.3
  1.0.0: ^0
  1.3.0-beta.2: >=1.2 | * | ^1 | <2 | !=5 | >1.3.0-beta.10 | >=1.3.0 || ^1 | 1.3.0
  1.0.0-alpha: >=1.0.0-alpha.1 | >=1.0.0-beta
"""


def _cases(table: str) -> list[tuple[str, str]]:
    rows = (line.split(":", 1) for line in table.strip().splitlines())
    return [(version.strip(), text.strip()) for version, texts in rows for text in _split(texts)]


def _split(texts: str) -> list[str]:
    return texts.replace("||", "\0").replace("|", "\n").replace("\0", "||").splitlines()


@pytest.mark.parametrize(("version", "constraint"), _cases(YES))
def test_allowed(version: str, constraint: str) -> None:
    assert parse_constraint(constraint) is not None
    assert satisfies(version, constraint)


@pytest.mark.parametrize(("version", "constraint"), _cases(NO))
def test_not_allowed(version: str, constraint: str) -> None:
    assert parse_constraint(constraint) is not None
    assert not satisfies(version, constraint)


def test_no_constraint_allows_all_and_no_version_satisfies_none() -> None:
    assert satisfies("", "")
    assert satisfies("nonsense", "")
    assert not satisfies("", "*")


@pytest.mark.parametrize(
    "text", ["blue", "1.2.3.4", ">=", ">= bar", "1.2.3~ 1.0", "1,,2", ">=1,", "||", ">=1 ||", "01.2", " "]
)
def test_what_is_no_constraint_is_compared_as_text(text: str) -> None:
    assert parse_constraint(text) is None
    assert not satisfies("1.2.3", text)
    assert satisfies(text, text)


@pytest.mark.parametrize(
    "text", ["", "1.2.3.4", "01.2.3", "1.2.3-01", "1.2.3-", "1..2", "x", "1.x", "٣.1.0", "1.0.0\n"]
)
def test_what_is_no_version(text: str) -> None:
    assert parse_version(text) is None


def test_order_of_versions() -> None:
    ascending = [
        "", "apple", "zebra", "0.9", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1",
        "1.0.0-beta", "1.0.0", "1.0.1", "1.2", "1.10", "v2",
    ]  # fmt: skip
    descending = ascending[::-1]
    assert sorted(descending, key=order) == ascending


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "bad",
    ["1 " * 120 + "!", "1," * 127, " " * 250 + "!", "1 - " * 60, ">" * 256, "1" * 100_000, "1.1-" + "a-" * 120 + "!"],
)
def test_hostile_constraints_are_read_at_once(bad: str) -> None:
    assert not satisfies("1.2.3", bad)


@given(st.text(alphabet="0123456789.xX*-+~^<>=!|, vab", max_size=40), st.text(alphabet="0123456789.-+vab", max_size=20))
def test_any_text_gets_an_answer(constraint: str, version: str) -> None:
    assert satisfies(version, constraint) in (True, False)
    assert order(version) == order(version)
