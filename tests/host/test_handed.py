"""When does a program take what waits on the socket that was handed to it?"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from mesh_supervisor.host.handed import NOT_YET, Queue
from mesh_supervisor.host.sockets import Held, listening_on
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the length of a listener's queue is told by Linux")


@pytest.fixture
def held() -> Iterator[Held]:
    held = listening_on("planner", "127.0.0.1", 0)
    yield held
    held.sock.close()


def call(held: Held) -> socket.socket:
    """It waits in the queue when this returns: a caller is connected a moment before that."""
    before = held.waiting or 0
    caller = socket.create_connection(held.sock.getsockname(), 30)
    wait_for(lambda: held.waiting == before + 1)
    return caller


def accept(held: Held) -> None:
    held.sock.accept()[0].close()


def test_what_waits_is_counted(held: Held) -> None:
    assert held.waiting == 0
    with call(held), call(held):
        assert held.waiting == 2
        accept(held)
        assert held.waiting == 1


def test_one_that_has_hung_up_waits_on_until_it_is_accepted(held: Held) -> None:
    call(held).close()
    assert held.waiting == 1


def test_accepting_is_seen_though_others_go_on_coming(held: Held) -> None:
    with call(held), call(held):
        queue = Queue(held)
        assert queue.known and not queue.look().ok
        with call(held), call(held):
            assert not queue.look().ok
            accept(held)
            assert queue.look().ok


def test_an_empty_queue_was_accepted_from(held: Held) -> None:
    with call(held):
        queue = Queue(held)
        assert queue.look().said == NOT_YET
        accept(held)
        assert queue.look().ok


def test_a_closed_one_is_accepted_from_by_nobody(held: Held) -> None:
    with call(held):
        queue = Queue(held)
        held.sock.close()
        assert held.waiting is None
        assert not queue.look().ok
    assert not Queue(held).known
