"""Who listens on Unix sockets, as the kernel tells it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host import unixsockets
from mesh_supervisor.host.unixsockets import listening


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sockets ", dir="/tmp") as folder:  # with a blank in it
        yield Path(folder)


def here(folder: Path) -> set[str]:
    found = listening()
    assert found is not None
    return {path.name for path in found if path.parent == folder}


def test_only_those_who_listen_and_only_while_they_do(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as bound:
        listener.bind(str(folder / "a listener"))
        bound.bind(str(folder / "bound"))
        assert here(folder) == set()
        listener.listen()
        assert here(folder) == {"a listener"}
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(folder / "a listener"))
            accepted, _ = listener.accept()
            with accepted:  # it has the listener's name, and does not listen
                assert here(folder) == {"a listener"}
    assert here(folder) == set()
    assert (folder / "a listener").exists()  # what is left behind is no listener


def test_a_socket_that_was_moved_keeps_the_name_it_was_bound_to(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "one"))
        listener.listen()
        (folder / "one").rename(folder / "other")
        assert here(folder) == {"one"}


def test_names_that_are_no_text(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bytes(folder / "x") + b"\xff")
        listener.listen()
        assert here(folder) == {"x\udcff"}


def test_other_kinds_of_sockets_are_none(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets, socket.socket(socket.AF_UNIX) as abstract:
        packets.bind(str(folder / "packets"))
        packets.listen()
        abstract.bind("\0" + str(folder / "abstract"))
        abstract.listen()
        assert here(folder) == set()


def test_a_name_with_a_line_s_end_confuses_nobody(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as odd, socket.socket(socket.AF_UNIX) as good:
        (folder / "a\n1: 2 3 x y 6 7 ").mkdir()
        odd.bind(str(folder / "a\n1: 2 3 x y 6 7 " / "b"))
        odd.listen()
        good.bind(str(folder / "good"))
        good.listen()
        assert "good" in here(folder)
        assert Path("/b") not in (listening() or [])


def test_where_nobody_can_tell(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(unixsockets, "TABLE", folder / "no such file")
    assert listening() is None
