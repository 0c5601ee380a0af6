"""The listeners of which the supervisor keeps copies, at their end."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import cast

import pytest

from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.closing import Closing
from mesh_supervisor.host.guest import Guest, Told
from mesh_supervisor.host.sockets import Asked, HeldSockets, held_from, listening_on
from mesh_supervisor.host.starting import Begin, Cold, Warmly
from mesh_supervisor.host.warm import Warmth
from mesh_supervisor.host.warm_process import Order
from mesh_supervisor.runtime.drain_sockets import takes_the_last
from mesh_supervisor.target import Target
from mesh_supervisor.warmth import Wanted
from tests.e2e.harness import open_files, wait_for

from .lingering import closers, lingering

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters of sockets are Linux's")


def connecting(port: int) -> socket.socket:
    caller = socket.socket()
    caller.setblocking(False)
    caller.connect_ex(("127.0.0.1", port))
    return caller


def test_who_waits_is_still_accepted_and_who_comes_is_refused_when_nobody_listens() -> None:
    held = listening_on("planner", "127.0.0.1", 0)
    port = held.sock.getsockname()[1]
    programs = held.sock.dup()
    with connecting(port) as early:
        wait_for(lambda: held.waiting == 1)
        assert not takes_the_last([programs.fileno()]), "others may come, or another may take it over"
        sockets = HeldSockets()
        sockets.hold([held])
        sockets.release()
        assert held.sock.fileno() == -1
        with connecting(port) as late:
            assert takes_the_last([programs.fileno()])
            connection, _ = programs.accept()
            assert not takes_the_last([programs.fileno()]), "the late one is not in the queue"
            early.setblocking(True)
            early.sendall(b"?")
            assert connection.recv(1) == b"?"
            connection.close()
            programs.close()
            assert select.select([], [late], [], 10)[1]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED, "not cut off"


def test_what_a_warm_start_takes_over_is_still_there_when_its_template_is_ready() -> None:
    """Meanwhile its predecessor may close it, and the number be that of a log file or of somebody's connection."""
    told: list[int] = []

    class Slow:
        async def launch(self, wanted: Wanted, order: Order) -> Child:
            sockets.hold(())
            with tempfile.TemporaryFile():
                told.append(os.fstat(order.held[0]).st_ino)
            return cast(Child, object())

    async def scene() -> None:
        guest = Guest(sockets, Told())
        target = Target(sys.executable, (), "script", "agent.py", (), ())
        start = Warmly(cast(Warmth, Slow()), "agent", "fork", frozenset(), Cold(target, guest, Begin()))
        await start(Program((sys.executable,), {}, Path("/")), output=1, mark="owner/agent/1")
        guest.close()

    sockets = HeldSockets()
    held = listening_on("agent", "127.0.0.1", 0)
    sockets.hold([held])
    assert f"socket:[{held.inode}]" in open_files(os.getpid())
    asyncio.run(scene())
    assert told == [held.inode]
    wait_for(lambda: f"socket:[{held.inode}]" not in open_files(os.getpid()))


def test_a_long_filter_of_the_programs_own_is_none_of_ours() -> None:
    pass_all = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF) * 1000
    code = ctypes.create_string_buffer(pass_all)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = struct.pack("HL", len(pass_all) // 8, ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        with connecting(listener.getsockname()[1]):
            assert select.select([listener], [], [], 10)[0]
            assert not takes_the_last([listener.fileno()])


def test_what_is_no_listener_has_no_last_one() -> None:
    with socket.socket() as other:
        assert not takes_the_last([other.fileno()])


def test_one_that_is_connected_is_not_held_and_stays_its_owners() -> None:
    with lingering() as one:
        with pytest.raises(OSError):
            held_from(one.fd, Asked(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)), Closing())
        assert os.fstat(one.fd)


def test_a_unix_socket_is_not_held(tmp_path: Path) -> None:
    """We would call listen() for it, and from then on who connects would be told that we are the one who listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError):
            held_from(listener.fileno(), Asked(socket.AF_UNIX, socket.SOCK_STREAM, ("x",)), Closing())


def test_the_port_of_a_listener_is_free_at_once() -> None:
    held = listening_on("planner", "127.0.0.1", 0)
    place = held.sock.getsockname()
    held.close()
    held.close()
    assert not closers()
    with socket.socket() as other:
        other.bind(place)
