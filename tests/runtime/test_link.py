"""The guest's end of the channel: it never blocks, loses nothing while it can help it, and waits for nobody."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mesh_supervisor.runtime import wire
from mesh_supervisor.runtime.link import MOST_WAITING, Link


class Ends:
    def __init__(self) -> None:
        self.host, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.settimeout(20)
        self.link = Link(theirs.detach())

    def heard(self, count: int) -> list[object]:
        """``number`` of the next packets."""
        found = []
        for _ in range(count):
            got = wire.receive(self.host)
            assert got is not None
            found.append(got[0].get("number"))
            for fd in got[1]:
                os.close(fd)
        return found


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.link.close()
    ends.host.close()


def test_what_finds_no_room_is_sent_in_order_as_soon_as_there_is_some(ends: Ends) -> None:
    count = MOST_WAITING
    relieved = threading.Event()
    ends.link.relieved = relieved.set
    for number in range(count):
        ends.link.tell("x", number=number)
    assert ends.link.crowded
    assert ends.heard(count) == list(range(count))
    assert relieved.wait(20)
    assert not ends.link.crowded
    ends.link.tell("x", number=-1)
    assert ends.heard(1) == [-1]


def test_descriptors_may_be_closed_by_who_sent_them_though_they_wait(ends: Ends) -> None:
    for number in range(500):
        reading, writing = os.pipe()
        ends.link.tell("x", (writing,), number=number)
        os.close(writing)
        os.close(reading)
    assert ends.heard(500) == list(range(500))


def test_who_interrupts_a_telling_in_the_same_thread_waits_for_nobody(ends: Ends) -> None:
    """A signal handler that opens a file, while what it interrupted is telling something."""
    with ends.link._lock:
        ends.link.tell("x", number=1)
    ends.link.tell("x", number=2)
    assert ends.heard(2) == [1, 2]


def test_handlers_of_signals_may_tell(ends: Ends) -> None:
    told = 0

    def tell(*_: object) -> None:
        nonlocal told
        if len(ends.link._waiting) < MOST_WAITING // 2:
            told += 1
            ends.link.tell("x", number=-1)

    before = signal.signal(signal.SIGALRM, tell)
    heard: list[object] = []
    reader = threading.Thread(target=lambda: heard.extend(ends.heard(3000)))
    reader.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        sent = 0
        while sent + told < 3000:
            if len(ends.link._waiting) < MOST_WAITING // 2:  # beyond MOST_WAITING nothing is told any more
                ends.link.tell("x", number=sent)
                sent += 1
            if ends.link.crowded:
                time.sleep(0.001)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    reader.join(20)
    assert not reader.is_alive()
    mine = [number for number in heard if number != -1]
    assert mine == list(range(len(mine)))


def test_a_supervisor_that_is_gone_is_no_error(ends: Ends) -> None:
    ends.host.close()
    for number in range(3):
        ends.link.tell("x", number=number)


def test_one_that_does_not_read_is_told_no_more_and_costs_no_memory(ends: Ends) -> None:
    for number in range(3 * MOST_WAITING):
        ends.link.tell("x", number=number)
    assert len(ends.link._waiting) <= MOST_WAITING
