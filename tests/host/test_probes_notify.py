"""sd_notify: what is understood, and who is believed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.host.notify import (
    MESSAGES_PER_TURN,
    ExtendTimeout,
    Notice,
    NotifySocket,
    Ready,
    Reloading,
    Status,
    Stopping,
    Watchdog,
    WatchdogEvery,
    WatchdogTripped,
    parse,
)

PATIENCE = 30.0


@pytest.mark.parametrize(
    ("message", "notices"),
    [
        (b"READY=1", [Ready()]),
        (b"READY=1\nSTATUS=Loaded 3 models\nMAINPID=4\n", [Ready(), Status("Loaded 3 models")]),
        (b"WATCHDOG=1", [Watchdog()]),
        (b"WATCHDOG=trigger", [WatchdogTripped()]),
        (b"WATCHDOG_USEC=20000000", [WatchdogEvery(20.0)]),
        (b"EXTEND_TIMEOUT_USEC=1500000", [ExtendTimeout(1.5)]),
        (b"STOPPING=1", [Stopping()]),
        (b"RELOADING=1\nMONOTONIC_USEC=5", [Reloading()]),
        (b"STATUS=\x1b[2Jforged\x07 \xff", [Status("forged\\x07 \\xff")]),
        (
            b"READY=0\nREADY\n=1\n\nready=1\nWATCHDOG_USEC=-1\nWATCHDOG_USEC=\xd9\xa3\nEXTEND_TIMEOUT_USEC="
            + b"9" * 99,
            [],
        ),
    ],
)
def test_messages(message: bytes, notices: list[Notice]) -> None:
    assert parse(message) == notices


@given(st.binary())
def test_no_message_is_too_strange(message: bytes) -> None:
    parse(message)


SEND = """
import os, socket, sys
address = os.environ["NOTIFY_SOCKET"]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("\\0" + address[1:] if address[0] == "@" else address)
s.send(sys.argv[1].encode())
sys.stdin.read()
"""


def heard(message: str, belongs: Callable[[int, int], bool]) -> list[Notice]:
    """What comes of ``message`` from a process, which ``belongs(sender, its pid)`` judges, and then ours."""
    notices: list[Notice] = []

    async def run() -> None:
        enough = asyncio.Event()

        def deliver(notice: Notice) -> None:
            notices.append(notice)
            if notice == Stopping():
                enough.set()

        def judge(sender: int) -> bool:
            judged.set()
            return sender == os.getpid() or belongs(sender, program.pid)

        judged = asyncio.Event()
        listening = NotifySocket(judge, deliver)
        environ = {**os.environ, "NOTIFY_SOCKET": listening.address}
        program = start(message, environ)
        try:
            await asyncio.wait_for(judged.wait(), PATIENCE)
            tell(listening.address, b"STOPPING=1")
            await asyncio.wait_for(enough.wait(), PATIENCE)
        finally:
            listening.close()
            listening.close()
            program.communicate(b"")

    asyncio.run(run())
    return notices


def start(message: str, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SEND, message], stdin=subprocess.PIPE, env=environ)


def tell(address: str, message: bytes, descriptors: list[int] | None = None) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address[0] == "@" else address)
        socket.send_fds(sender, [message], descriptors or [])


def tell_often(address: str, count: int) -> None:
    for _ in range(count):
        tell(address, b"WATCHDOG=1")


def test_a_process_of_the_instance_is_believed() -> None:
    assert heard("READY=1\nSTATUS=hi", lambda sender, pid: sender == pid) == [Ready(), Status("hi"), Stopping()]


@pytest.mark.skipif(sys.platform != "linux", reason="the sender's pid is known on Linux only")
def test_a_stranger_is_not() -> None:
    assert heard("READY=1", lambda sender, pid: False) == [Stopping()]


def test_many_messages_are_taken_in_turns() -> None:
    count = 0

    async def run() -> int:
        def deliver(notice: Notice) -> None:
            nonlocal count
            count += 1

        listening = NotifySocket(lambda pid: True, deliver)
        sender = threading.Thread(target=tell_often, args=(listening.address, 500))
        sender.start()
        most = 0
        async with asyncio.timeout(PATIENCE):
            while count < 500:
                before = count
                await asyncio.sleep(0)
                most = max(most, count - before)
        sender.join(PATIENCE)
        listening.close()
        return most

    assert asyncio.run(run()) <= MESSAGES_PER_TURN


def test_descriptors_that_come_along_are_closed_after_the_message() -> None:
    """`systemd-notify` waits for that, so that it still exists when its message is read."""

    async def run() -> list[str]:
        order: list[str] = []
        reader, writer = os.pipe()
        ended = asyncio.Event()

        def closed() -> None:
            order.append("closed")
            ended.set()

        asyncio.get_running_loop().add_reader(reader, closed)
        listening = NotifySocket(lambda pid: True, lambda notice: order.append("delivered"))
        tell(listening.address, b"READY=1", [writer])
        os.close(writer)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        listening.close()
        return order[:2]

    assert asyncio.run(run()) == ["delivered", "closed"]


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="needs systemd-notify")
def test_the_real_systemd_notify() -> None:
    async def run() -> list[Notice]:
        notices: list[Notice] = []
        listening = NotifySocket(lambda pid: True, notices.append)
        environ = {**os.environ, "NOTIFY_SOCKET": listening.address}
        program = await asyncio.create_subprocess_exec("systemd-notify", "--ready", "--status=fine", env=environ)
        assert await asyncio.wait_for(program.wait(), PATIENCE) == 0
        await asyncio.sleep(0)
        listening.close()
        return notices

    assert set(asyncio.run(run())) == {Ready(), Status("fine")}
