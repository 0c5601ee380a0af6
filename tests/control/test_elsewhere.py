"""A control socket where state_dir can have none, and clients that find it there."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor import locate
from mesh_supervisor.control import server
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.server import listen_for
from mesh_supervisor.errors import AlreadyRunning, MeshError
from mesh_supervisor.locate import Place, control_socket, socket_inside

REFUSALS = {
    "bind": PermissionError(1, os.strerror(1)),
    "chmod": OSError(22, os.strerror(22)),
    "replace": OSError(95, os.strerror(95)),
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Short paths, and a folder of our own for what cannot be in state_dir."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        root = Path(folder)
        (root / ".mesh").mkdir()
        monkeypatch.setattr(locate, "_short_folders", lambda: [root / "short"])
        yield Place(root / "mesh.toml", root, root / ".mesh")


@pytest.fixture(params=REFUSALS)
def without_sockets(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A state_dir on a file system that refuses one of the steps."""
    refusal = REFUSALS[request.param]

    def refuse_in_state_dir(path: object) -> None:
        if str(path).startswith(str(place.state_dir)):
            raise refusal

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            refuse_in_state_dir(address)
            super().bind(address)

    if request.param == "bind":
        monkeypatch.setattr(socket, "socket", Socket)
        return place
    original = getattr(Path, request.param)

    def step(path: Path, argument: object) -> object:
        refuse_in_state_dir(path)
        return original(path, argument)

    monkeypatch.setattr(Path, request.param, step)
    return place


def test_as_a_rule_it_is_in_state_dir(place: Place) -> None:
    listener, address, why = listen_for(place.state_dir)
    with listener:
        assert (address, why) == (place.state_dir / "control.sock", "")
        assert control_socket(place.state_dir) == address


def test_where_there_can_be_none_it_is_elsewhere_and_found(without_sockets: Place) -> None:
    place = without_sockets
    listener, address, why = listen_for(place.state_dir)
    with listener:
        assert address.parent == place.root / "short"
        assert stat.S_IMODE(address.stat().st_mode) == 0o600
        assert why
        assert control_socket(place.state_dir) == address
        assert [file.name for file in place.state_dir.iterdir()] == []


def test_a_second_one_finds_the_first(without_sockets: Place) -> None:
    listener, address, _ = listen_for(without_sockets.state_dir)
    with listener, pytest.raises(AlreadyRunning, match=str(address)):
        listen_for(without_sockets.state_dir)


def test_where_a_socket_cannot_be_reached_it_is_elsewhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems make a name for it, and that is all."""
    reach = server._answers
    monkeypatch.setattr(server, "_answers", lambda path: path.parent != place.state_dir and reach(path))
    listener, address, why = listen_for(place.state_dir)
    with listener:
        assert why == "what listens there cannot be reached"
        assert control_socket(place.state_dir) == address
        assert not (place.state_dir / "control.sock").exists()


def test_where_there_is_no_place_at_all_it_is_said(without_sockets: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "_short_folders", lambda: [without_sockets.root / "gone" / "short"])
    with pytest.raises(MeshError, match="the control socket goes there"):
        listen_for(without_sockets.state_dir)


def test_the_next_folder_is_taken_where_the_best_is_not_to_be_had(
    without_sockets: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only root with no /tmp: /dev/shm."""
    root = without_sockets.root
    monkeypatch.setattr(locate, "_short_folders", lambda: [root / "gone" / "short", root / "next"])
    listener, address, _ = listen_for(without_sockets.state_dir)
    with listener:
        assert address.parent == root / "next"
        assert control_socket(without_sockets.state_dir) == address


def test_one_inside_wins_over_what_an_earlier_run_left(place: Place) -> None:
    (place.root / "short").mkdir(mode=0o700)
    left = place.root / "short" / locate._short_name(place.state_dir)
    left.touch()
    assert control_socket(place.state_dir) == left
    listener, address, _ = listen_for(place.state_dir)
    with listener:
        assert address == socket_inside(place.state_dir) == control_socket(place.state_dir)


def test_a_client_that_was_there_first_finds_it(without_sockets: Place) -> None:
    client = Client(without_sockets)
    assert not client.running()
    listener, address, _ = listen_for(without_sockets.state_dir)
    with listener:
        assert client.path == address


def test_root_finds_the_mesh_of_somebody_else(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root looks after others")
    user = 987_654
    folder = place.root / f"meshsup-{user}"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(locate, "_named_after", lambda one: [place.root / f"meshsup-{one}"])
    theirs = folder / locate._short_name(place.state_dir)
    theirs.touch()
    for path in (place.state_dir, folder):
        os.chown(path, user, user)
    assert control_socket(place.state_dir) == theirs
    folder.chmod(0o755)
    assert control_socket(place.state_dir) == place.state_dir / "control.sock"
