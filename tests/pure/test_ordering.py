"""Who starts before whom."""

from __future__ import annotations

from pathlib import Path

from mesh_supervisor.ordering import start_levels, with_dependencies
from mesh_supervisor.spec import AgentSpec, CommandLine, Dependency


def mesh(**depends: str) -> dict[str, AgentSpec]:
    """``a="b c"``: a depends on b and c."""
    return {
        name: AgentSpec(name, CommandLine(("true",)), Path("/"), depends_on=tuple(map(Dependency, words.split())))
        for name, words in depends.items()
    }


def test_nobody_depends_on_anybody() -> None:
    assert start_levels(mesh(a="", b="")) == [["a", "b"]]
    assert start_levels({}) == []


def test_levels_are_as_deep_as_the_longest_way() -> None:
    agents = mesh(top="left right base", left="base", right="left", base="", lone="")
    assert start_levels(agents) == [["base", "lone"], ["left"], ["right"], ["top"]]


def test_within_a_level_the_order_is_that_of_mesh_toml() -> None:
    assert start_levels(mesh(c="z", a="z", b="z", z="")) == [["z"], ["c", "a", "b"]]


def test_a_dependency_that_is_not_there_holds_nobody_up() -> None:
    assert start_levels(mesh(a="gone")) == [["a"]]
    assert with_dependencies(mesh(a="gone"), ["a"]) == ["a"]


def test_with_all_that_they_depend_on() -> None:
    agents = mesh(top="mid", mid="base", other="base", base="", lone="")
    assert with_dependencies(agents, ["top"]) == ["top", "mid", "base"]
    assert with_dependencies(agents, ["lone", "other", "other"]) == ["other", "base", "lone"]
    assert with_dependencies(agents, []) == []
    assert with_dependencies(agents, ["nobody"]) == []


def test_a_circle_does_not_hang_the_search() -> None:
    assert with_dependencies(mesh(a="b", b="a"), ["a"]) == ["a", "b"]  # config.py refuses it; this must end anyway
