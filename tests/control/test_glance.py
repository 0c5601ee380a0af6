"""One look at a supervisor: what it says, who it is, and the sentences when it does not."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.glance import Glance
from mesh_supervisor.errors import MeshError, NotRunning, WaitTimedOut
from mesh_supervisor.locate import Place, control_socket
from tests.control.fake import PLANNER, FakeMesh, brief, running


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="meshsup-", dir="/tmp") as folder:  # short: a Unix socket has 107 bytes
        root = Path(folder)
        (root / ".mesh").mkdir()
        yield Place(root / "mesh.toml", root, root / ".mesh")


def look(place: Place, timeout: float = 10.0) -> Brief:
    with Glance(control_socket(place.state_dir), timeout) as glance:
        return glance.brief()


def test_a_brief_comes_back_as_it_was(place: Place) -> None:
    with running(FakeMesh(place)) as fake:
        lost = replace(PLANNER, name="clock", state="failed", detail="exit 1: “no”", ready=False, given_up=True)
        fake.in_brief = brief(place, PLANNER, lost, gave_up="clock is essential and has ended", stopping=True)
        assert look(place) == fake.in_brief


def test_a_brief_of_hundreds_comes_back_whole(place: Place) -> None:
    with running(FakeMesh(place)) as fake:
        fake.in_brief = brief(place, *(replace(PLANNER, name=f"a{n}", detail="x" * 500) for n in range(500)))
        assert look(place) == fake.in_brief


def test_a_brief_of_a_thousand_who_have_much_to_say_is_no_nonsense(place: Place) -> None:
    with running(FakeMesh(place)) as fake:
        fake.in_brief = brief(place, *(replace(PLANNER, name=f"a{n}", detail="\u4f60" * 500) for n in range(1000)))
        assert look(place) == fake.in_brief


def test_an_answer_that_does_not_end_is_not_kept(place: Place) -> None:
    flood = itertools.chain([b"HTTP/1.0 200 OK\r\n\r\n"], itertools.repeat(b"x" * 2**16))
    with answering(place, *itertools.islice(flood, 2**10)), pytest.raises(MeshError, match="more than 8 MiB"):
        look(place, timeout=60)


def test_who_listens_is_told_by_the_kernel(place: Place) -> None:
    with running(FakeMesh(place)), Glance(control_socket(place.state_dir), 10.0) as glance:
        peer = glance.peer()
        assert peer == (os.getpid(), os.geteuid())
        glance.brief()  # a server that ends while it accepts somebody would leave him open


def test_nobody_listens(place: Place) -> None:
    with pytest.raises(NotRunning):
        look(place)
    with running(FakeMesh(place)):
        look(place)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(control_socket(place.state_dir)))
    with pytest.raises(NotRunning):
        look(place)


@contextlib.contextmanager
def answering(place: Place, *chunks: bytes, hold: bool = False) -> Iterator[list[bytes]]:
    """Somebody who says this to whoever connects; ``hold``: and then neither hangs up nor goes on."""
    asked: list[bytes] = []
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_socket(place.state_dir)))
        listener.listen()

        def serve() -> None:
            line, _ = listener.accept()
            with line:
                asked.append(line.recv(65536))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # they have heard enough
                    for chunk in chunks:
                        line.sendall(chunk)
                if hold:
                    over.wait(30)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            over.set()
            thread.join(30)
    assert not thread.is_alive()


def test_the_time_is_for_all_of_it(place: Place) -> None:
    says = answering(place, b"HTTP/1.0 200 OK\r\n\r\n{", hold=True)
    with says as asked, pytest.raises(WaitTimedOut, match="does not answer within 1 s"):
        look(place, timeout=1.0)
    # Its thread is over, so what was asked is there also where it came late.
    assert [words.split(b"\r\n")[0] for words in asked] == [b"GET /brief HTTP/1.0"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\nnot found", "no supervisor of this version"),
        (b"HTTP/1.0 200 OK\r\n\r\n[]", "no supervisor of this version"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"name": "demo"}', "no supervisor of this version"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"agents": [{"nonsense": 1}]}', "no supervisor of this version"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe", "no supervisor of this version"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200_000, "no supervisor of this version"),
        (b"220 smtp.example.org ESMTP\r\n", "no supervisor of this version"),
        (b"", "hung up before it had answered"),
    ],
)
def test_what_is_no_answer(place: Place, said: bytes, sentence: str) -> None:
    with answering(place, said), pytest.raises(MeshError, match=sentence):
        look(place)


def test_fields_of_a_newer_supervisor_are_ignored(place: Place) -> None:
    import json

    body = brief(place).to_json()
    body["later"], body["agents"][0]["later"] = 1, 2
    with answering(place, b"HTTP/1.0 200 OK\r\n\r\n", json.dumps(body).encode()):
        assert look(place) == brief(place)
