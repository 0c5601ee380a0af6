"""Ports of agents with ``port = 0``."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from pathlib import Path

import pytest

from mesh_supervisor.errors import ConfigError
from mesh_supervisor.host.kept_ports import KeptPorts, read_kept_port


class Finder:
    """Free are 9001, 9002, …; ``asked`` is how often somebody looked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, taken: Collection[int]) -> int:
        self.asked += 1
        return next(port for port in count(9001) if port not in taken)


def test_a_port_is_chosen_once_and_kept_for_the_next_run(tmp_path: Path) -> None:
    finder = Finder()
    assert KeptPorts(tmp_path, finder).kept_port("planner") == 9001
    later = KeptPorts(tmp_path, finder)
    assert later.kept_port("planner") == 9001
    assert finder.asked == 1


def test_no_two_agents_get_one_port_also_when_neither_runs(tmp_path: Path) -> None:
    ports = KeptPorts(tmp_path, Finder())
    assert [ports.kept_port("a"), ports.kept_port("b"), ports.kept_port("a")] == [9001, 9002, 9001]


def test_a_port_that_was_fixed_for_another_agent_since_is_given_up(tmp_path: Path) -> None:
    KeptPorts(tmp_path, Finder()).kept_port("a")
    assert KeptPorts(tmp_path, Finder()).kept_port("a", avoid={9001}) == 9002
    assert read_kept_port(tmp_path)("a", ()) == 9002


def test_the_default_finder_gives_a_real_port(tmp_path: Path) -> None:
    assert 1024 <= KeptPorts(tmp_path).kept_port("a") <= 65535


def test_looking_chooses_nothing(tmp_path: Path) -> None:
    assert read_kept_port(tmp_path)("planner", ()) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "x", "b": -1, "c": 99999999}'])
def test_a_damaged_file_is_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert KeptPorts(tmp_path, Finder()).kept_port("a") == 9001


def test_a_port_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.write_text("a file")
    with pytest.raises(ConfigError, match="cannot keep chosen ports"):
        KeptPorts(state_dir, Finder()).kept_port("a")
    assert list(tmp_path.iterdir()) == [state_dir]
