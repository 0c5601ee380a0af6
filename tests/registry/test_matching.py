"""Who is chosen: tags, versions, generations, ties."""

from __future__ import annotations

import json

import pytest

from mesh_supervisor.registry.matching import Candidate, choose, tag_score, unresolved_entry
from mesh_supervisor.registry.records import Dependency, Record, Tool

Groups = list[list[str]]


@pytest.mark.parametrize(
    ("offered", "wanted", "groups", "score"),
    [
        (["a", "b"], [], [], 0),
        (["a", "b"], ["a"], [], 5),
        (["a", "b"], ["a", "b"], [], 10),
        (["a"], ["b"], [], None),
        (["a"], ["+a"], [], 10),
        (["a"], ["+b"], [], 0),
        (["a"], ["-b"], [], 0),
        (["a"], ["-a"], [], None),
        (["a", "b"], ["a", "+b", "-c"], [], 15),
        (["a"], [""], [], 0),
        (["a"], ["+", "-"], [], 0),
        (["a", "py"], ["a"], [["py", "ts"]], 10),
        (["a", "py", "ts"], [], [["py", "ts"]], 5),
        (["a"], ["a"], [["py", "ts"]], None),
        (["py"], [], [["py", "+py"]], 10),
        (["py"], [], [["+ts", "py"]], 5),
        (["py"], [], [["-py", "py"]], None),
        (["py"], [], [["-ts"]], None),
        (["py", "x"], [], [["py"], ["x", "y"]], 10),
        (["py"], [], [[]], 0),
        (["py"], [], [[""]], None),
        (["A"], ["a"], [], None),
    ],
)
def test_tag_score(offered: list[str], wanted: list[str], groups: Groups, score: int | None) -> None:
    assert tag_score(offered, wanted, groups) == score


def candidate(
    agent: str,
    *,
    version: str = "1.0.0",
    tags: tuple[str, ...] = (),
    owner: str = "",
    generation: int = 0,
    name: str = "",
) -> Candidate:
    tool = Tool("f", "cap", version, tags)
    record = Record(agent, name or agent, http_host="h", http_port=1, owner=owner, agent=name, generation=generation)
    return Candidate.of(record, tool)


def chosen(wanted: Dependency, *candidates: Candidate) -> str | None:
    """The same whatever the order in which they stand."""
    forward, backward = choose(wanted, candidates), choose(wanted, reversed(candidates))
    assert forward == backward
    return forward.record.id if forward else None


def test_the_capability_must_be_the_same() -> None:
    assert chosen(Dependency("other"), candidate("a")) is None
    assert chosen(Dependency("cap"), candidate("a")) == "a"


def test_a_version_constraint_excludes() -> None:
    both = candidate("a", version="1.9.0"), candidate("b", version="2.1.0")
    assert chosen(Dependency("cap", version="^1"), *both) == "a"
    assert chosen(Dependency("cap", version="^3"), *both) is None


def test_score_goes_before_version_and_version_before_id() -> None:
    plain, better, preferred = candidate("a"), candidate("b", version="1.2"), candidate("c", tags=("x",))
    assert chosen(Dependency("cap", tags=("+x",)), plain, better, preferred) == "c"
    assert chosen(Dependency("cap"), plain, better, preferred) == "b"
    assert chosen(Dependency("cap"), plain, preferred) == "a"


def test_versions_are_compared_as_numbers_and_words_come_last() -> None:
    assert chosen(Dependency("cap"), candidate("a", version="1.9"), candidate("b", version="1.10")) == "b"
    assert chosen(Dependency("cap"), candidate("a", version="newest"), candidate("b", version="0.1")) == "b"


def test_the_newest_generation_of_an_agent_wins_even_with_a_lower_version() -> None:
    old = candidate("p-0001", version="9.0.0", owner="me", generation=1, name="p")
    new = candidate("p-0002", version="1.0.0", owner="me", generation=2, name="p")
    assert chosen(Dependency("cap"), old, new) == "p-0002"


def test_an_older_generation_serves_what_the_newer_one_does_not_fit() -> None:
    old = candidate("p-0001", tags=("x",), owner="me", generation=1, name="p")
    new = candidate("p-0002", owner="me", generation=2, name="p")
    assert chosen(Dependency("cap", tags=("x",)), old, new) == "p-0001"


def test_generations_of_different_owners_do_not_compete() -> None:
    mine = candidate("a", owner="me", generation=1, name="p")
    yours = candidate("b", owner="you", generation=7, name="p")
    assert chosen(Dependency("cap"), mine, yours) == "a"


def test_entries_have_what_the_sdk_needs_and_kwargs_pass_through() -> None:
    record = Record("clock-1", "clock", http_host="::1", http_port=7)
    entry = json.loads(Candidate.of(record, Tool("now", "time", kwargs='{"task": false}')).entry)
    assert entry == {
        "agent_id": "clock-1",
        "capability": "time",
        "endpoint": "http://[::1]:7",
        "function_name": "now",
        "status": "available",
        "kwargs": {"task": False},
    }
    assert set(json.loads(unresolved_entry("time"))) == set(entry) - {"kwargs"}
