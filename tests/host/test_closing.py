"""What others opened is closed where nobody waits for it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading

import pytest

from mesh_supervisor.host.closing import Closing

from .lingering import closers, is_closed, lingering, pipe
from .stage import PATIENCE, until


def test_what_hangs_holds_up_its_own_line_only() -> None:
    async def main() -> None:
        hung, other = Closing(), Closing()
        with lingering() as one, pipe() as (behind, writer), pipe() as (beside, another):
            hung.take([one.release()])
            hung.take([writer])
            other.take([another])
            await until(lambda: is_closed(beside))
            await until(lambda: hung.waiting == 1)  # the first is being closed; both wait until its thread has begun
            assert not is_closed(behind)
            one.let_go()
            await until(lambda: is_closed(behind))
            await until(lambda: not closers())

    asyncio.run(main())


def test_a_descriptor_that_is_none_stops_nothing() -> None:
    with pipe() as (reader, writer):
        Closing().take([-1, 1_000_000, writer])
        for thread in closers():
            thread.join(PATIENCE)
        assert is_closed(reader)


def test_without_a_thread_they_wait_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closing = Closing()
    with pipe() as (reader, writer):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            closing.take([writer])
        assert closing.waiting == 1 and not is_closed(reader)
        closing.take()
        for thread in closers():
            thread.join(PATIENCE)
        assert is_closed(reader)


EXIT = """
import os, socket, sys
from mesh_supervisor.host.closing import Closing
from tests.host.lingering import make_linger
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
make_linger(sock)
closing = Closing()
closing.take([sock.detach()])
while closing.waiting:
    pass
"""


def test_what_hangs_holds_up_no_exit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = [sys.executable, "-c", EXIT, str(listener.getsockname()[1])]
        program = subprocess.Popen(argv)
        reader, _ = listener.accept()
        with reader:
            assert program.wait(PATIENCE / 2) == 0, "and its connection was never read"
