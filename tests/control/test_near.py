"""Which supervisor a command is about, where one agent is supervised by itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.control.near import answering, of_agent
from mesh_supervisor.errors import UnknownAgent, UsageError
from mesh_supervisor.locate import Place, control_socket
from mesh_supervisor.own_state import own_state_dir


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "mesh.toml", tmp_path, tmp_path / ".mesh")


@contextlib.contextmanager
def listening(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(parents=True, exist_ok=True)
    address = control_socket(state_dir)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(address))
        line.listen()
        yield
    address.unlink()


@contextlib.contextmanager
def busy(state_dir: Path) -> Iterator[None]:
    """Somebody who hangs, with as many in front of him as the kernel lets wait: one."""
    state_dir.mkdir(parents=True, exist_ok=True)
    address = control_socket(state_dir)
    with socket.socket(socket.AF_UNIX) as line, socket.socket(socket.AF_UNIX) as waiting:
        line.bind(str(address))
        line.listen(0)
        waiting.connect(str(address))
        yield
    address.unlink()


def test_the_mesh_itself_where_nothing_else_is(place: Place) -> None:
    assert answering(place) == answering(place, ["planner"]) == of_agent(place, "planner") == place
    with listening(place.state_dir):
        assert answering(place) == place


def test_the_one_agent_that_is_supervised_by_itself(place: Place) -> None:
    own = own_state_dir(place.state_dir, "planner")
    with listening(own):
        assert answering(place).state_dir == answering(place, ["meshsup"]).state_dir == own
        assert of_agent(place, "planner").state_dir == own
        assert of_agent(place, "writer") == place
    assert answering(place) == place, "it has ended"


def test_the_mesh_goes_before_its_agents(place: Place) -> None:
    with listening(own_state_dir(place.state_dir, "planner")), listening(place.state_dir):
        assert answering(place) == answering(place, ["planner"]) == of_agent(place, "planner") == place


def test_of_several_one_must_be_named(place: Place) -> None:
    planner, writer = (own_state_dir(place.state_dir, name) for name in ("planner", "writer"))
    with listening(planner), listening(writer):
        assert answering(place, ["plan*"]).state_dir == of_agent(place, "planner").state_dir == planner
        assert answering(place, ["writer"]).state_dir == writer
        for words in ([], ["planner", "writer"], ["*"]):
            with pytest.raises(UsageError, match="planner and writer are supervised here, each by itself; name one"):
                answering(place, words)
        with pytest.raises(UnknownAgent):
            answering(place, ["critic"])


def test_one_that_hangs_is_there(place: Place) -> None:
    """Taken for one that has ended, it would be told as "not running"."""
    own = own_state_dir(place.state_dir, "planner")
    with busy(own):
        assert answering(place).state_dir == of_agent(place, "planner").state_dir == own
        with busy(place.state_dir):  # of the mesh's nobody tells whose it is; another container's is no reason
            assert answering(place).state_dir == of_agent(place, "planner").state_dir == own
    with busy(place.state_dir):
        assert answering(place) == of_agent(place, "planner") == place
