"""sd_notify: what is understood, and who is believed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.host import notify, procfs
from mesh_supervisor.host.instance import Instance, Watchers
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
from mesh_supervisor.host.peer import SO_PASSRIGHTS
from mesh_supervisor.host.spawn import Child, Program, is_below, spawn
from mesh_supervisor.spec import AgentSpec, CommandLine, LiveCheck, NotifyProbe, ReadyCheck

from .lingering import closers, is_closed, lingering, pipe
from .stage import PATIENCE, PLAIN, Stage, python, until


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
        listening.hear()
        environ = {**os.environ, "NOTIFY_SOCKET": listening.address}
        program = start(message, environ)
        try:
            async with asyncio.timeout(PATIENCE):
                await judged.wait()
            tell(listening.address, b"STOPPING=1")
            async with asyncio.timeout(PATIENCE):
                await enough.wait()
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
        listening.hear()
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
        listening.hear()
        tell(listening.address, b"READY=1", [writer])
        os.close(writer)
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        listening.close()
        return order[:2]

    assert asyncio.run(run()) == ["delivered", "closed"]


def test_what_is_said_before_anybody_can_tell_who_belongs_is_heard_then() -> None:
    async def run() -> list[Notice]:
        notices: list[Notice] = []
        listening = NotifySocket(lambda pid: True, notices.append)
        tell(listening.address, b"READY=1")
        await asyncio.sleep(0)
        assert notices == []
        listening.hear()
        await until(lambda: notices)
        listening.close()
        return notices

    assert asyncio.run(run()) == [Ready()]


def test_a_program_that_is_ready_before_its_start_is_over_is_heard(stage: Stage) -> None:
    """As one from a template can be. And a stranger's message then has nobody to be compared with."""
    spec = AgentSpec("agent", CommandLine(("sh",)), stage.directory, ready=ReadyCheck(NotifyProbe()), start_timeout=20)
    watchers = Watchers(line=print, slow=print, status=print, swept=print)

    async def start_late(program: Program, *, output: int, mark: str) -> Child:
        child = spawn(program, output=output, mark=mark)
        await until(lambda: _has_said_it(child.pid))
        for _ in range(3):  # turns of the loop in which it could be read
            await asyncio.sleep(0)
        return child

    async def run() -> None:
        one = Instance(spec, stage.mark("agent"), 1, watchers, None)
        await one.start(Program(python(SEND_AND_STAY), PLAIN, stage.directory), start_late)
        await one.ready()
        await one.stop(at_once=True, replaced=False)
        await one.ended()

    asyncio.run(run())


def test_more_time_that_is_asked_for_when_it_is_ready_already_disturbs_nobody(stage: Stage) -> None:
    """As systemd's services do before they stop; what else the message says counts."""
    spec = AgentSpec("agent", CommandLine(("sh",)), stage.directory, ready=ReadyCheck(NotifyProbe()), start_timeout=20)
    mistakes: list[object] = []

    async def spawned(program: Program, *, output: int, mark: str) -> Child:
        return spawn(program, output=output, mark=mark)

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: mistakes.append(context))
        said: list[str] = []
        one = Instance(
            spec, stage.mark("agent"), 1, Watchers(line=print, slow=print, status=said.append, swept=print), None
        )
        await one.start(Program(python(SEND_MORE), PLAIN, stage.directory), spawned)
        await one.ready()
        one.child.send(signal.SIGUSR1)
        await until(lambda: said or mistakes)
        await one.stop(at_once=True, replaced=False)
        await one.ended()
        assert (said, mistakes) == (["going"], [])

    asyncio.run(run())


def test_a_call_for_help_that_comes_before_anybody_asks_is_heard(stage: Stage) -> None:
    """Whether it lives is asked once it serves, and what it has imported is known; its next interval is far."""
    live = LiveCheck(NotifyProbe(), interval=600)
    spec = AgentSpec("agent", CommandLine(("sh",)), stage.directory, ready=ReadyCheck(NotifyProbe()), live=live)

    async def spawned(program: Program, *, output: int, mark: str) -> Child:
        return spawn(program, output=output, mark=mark)

    async def run() -> str:
        one = Instance(spec, stage.mark("agent"), 1, Watchers(line=print, slow=print, status=print, swept=print), None)
        await one.start(Program(python(SEND_FOR_HELP), PLAIN, stage.directory), spawned)
        await one.ready()
        async with asyncio.timeout(PATIENCE):
            why = await one.unwell()
        await one.stop(at_once=True, replaced=False)
        await one.ended()
        return why

    assert asyncio.run(run()) == "not live: it said WATCHDOG=trigger"


SEND_FOR_HELP = """
import os, signal, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
s.connect("\\0" + address[1:] if address[0] == "@" else address)
s.send(b"READY=1\\nWATCHDOG=trigger")
signal.pause()
"""

SEND_MORE = """
import os, signal, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
s.connect("\\0" + address[1:] if address[0] == "@" else address)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
s.send(b"READY=1")
signal.sigwait([signal.SIGUSR1])
s.send(b"EXTEND_TIMEOUT_USEC=9000000\\nSTATUS=going")
signal.pause()
"""

SEND_AND_STAY = """
import os, signal, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"]
s.sendto(b"READY=1", "\\0" + address[1:] if address[0] == "@" else address)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pause()
"""


def _has_said_it(pid: int) -> bool:
    """It goes on to the handler of a signal."""
    return procfs.catches(pid, signal.SIGUSR1)


# ---- descriptors that hang -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def hearing(belongs: Callable[[int], bool], deliver: Callable[[Notice], None]) -> Iterator[NotifySocket]:
    """A socket that hears from the beginning, and is closed in the end."""
    listening = NotifySocket(belongs, deliver)
    listening.hear()
    try:
        yield listening
    finally:
        listening.close()


linux = pytest.mark.skipif(sys.platform != "linux", reason="who is a stranger is known on Linux only")


@linux
@pytest.mark.parametrize("before", [0, 252])
def test_a_strangers_descriptor_that_hangs_holds_up_neither_the_loop_nor_an_honest_agent(before: int) -> None:
    """With 252 before it there is room for it only where there is for as many as the kernel allows."""

    async def run() -> None:
        notices: list[Notice] = []
        with (
            hearing(lambda pid: False, notices.append) as attacked,
            hearing(lambda pid: True, notices.append) as honest,
            lingering() as one,
            pipe() as (reader, writer),
            pipe() as (filling, end),
        ):
            one.give(lambda fd: tell(attacked.address, b"READY=1", [end] * before + [fd]))
            os.close(end)
            await until(lambda: is_closed(filling) and closers())
            tell(honest.address, b"READY=1", [writer])
            os.close(writer)
            await until(lambda: is_closed(reader))
            assert notices == [Ready()]
            assert closers(), "the other one hangs still"
        await until(lambda: not closers())

    asyncio.run(run())


def test_what_nobody_has_read_hangs_no_close() -> None:
    async def run() -> None:
        listening = NotifySocket(lambda pid: True, lambda notice: None)
        with lingering() as one:
            one.give(lambda fd: tell(listening.address, b"READY=1", [fd]))
            listening.close()
            assert closers(), "it is closed elsewhere"
        assert not closers()

    asyncio.run(run())


@linux
def test_while_strangers_hang_agents_are_heard_and_no_more_descriptors_taken_where_that_can_be_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "MOST_REFUSED", 3)

    async def run() -> None:
        believed = False
        notices: list[Notice] = []
        heard = hearing(lambda pid: believed, notices.append)
        with heard as listening, lingering() as one, pipe() as (reader, writer):
            one.give(lambda fd: tell(listening.address, b"READY=1", [fd]))
            await until(closers)
            tell(listening.address, b"READY=1", [writer] * 3)
            await until(lambda: _refuses(listening.address, writer))
            believed = True
            tell(listening.address, b"READY=1")
            await until(lambda: notices)
            one.let_go()
            await until(lambda: not _refuses(listening.address, writer) or not _can_refuse())
            os.close(writer)
            await until(lambda: is_closed(reader))
        await until(lambda: not closers())

    asyncio.run(run())


def _refuses(address: str, descriptor: int) -> bool:
    try:
        tell(address, b"", [descriptor])
    except PermissionError:
        return True
    return not _can_refuse()


def _can_refuse() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


@linux
def test_with_too_many_that_hang_it_reads_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "MOST_WAITING", 3)

    async def run() -> None:
        notices: list[Notice] = []
        heard = hearing(lambda pid: True, notices.append)
        with heard as listening, lingering() as one, pipe() as (reader, writer):
            one.give(lambda fd: tell(listening.address, b"STATUS=1", [fd]))
            await until(closers)
            tell(listening.address, b"STATUS=2", [writer] * 3)
            os.close(writer)
            await until(lambda: len(notices) == 2)
            tell(listening.address, b"READY=1")
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(notices) == 2, "it would not stop taking descriptors"
            one.let_go()
            await until(lambda: Ready() in notices)
            await until(lambda: is_closed(reader))
        await until(lambda: not closers())

    asyncio.run(run())


@linux
def test_who_sends_much_is_looked_at_once_in_a_turn_and_of_many_only_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking may read /proc, and anybody may send."""
    monkeypatch.setattr(notify, "SENDERS_PER_TURN", 2)

    async def run() -> None:
        turns: list[list[int]] = [[]]

        def look(pid: int) -> bool:
            turns[-1].append(pid)
            return False

        listening = NotifySocket(look, lambda notice: None)
        senders = []
        for _ in range(3):
            program = await asyncio.create_subprocess_exec(sys.executable, "-c", TWICE, listening.address, stdout=-1)
            assert (await program.communicate())[0] == b"sent"
            senders.append(program.pid)
        listening.hear()
        async with asyncio.timeout(PATIENCE):
            while sum(map(len, turns)) < 3:
                await asyncio.sleep(0)
                turns.append([])
        listening.close()
        first, second, third = senders
        assert [turn for turn in turns if turn] == [[first, second], [second, third]]

    asyncio.run(run())


TWICE = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for _ in range(2):
    s.sendto(b"READY=1", "\\0" + sys.argv[1][1:])
print("sent", end="")
"""


CHAIN = """
import os, subprocess, sys
depth = int(sys.argv[2])
if depth:
    subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[1], str(depth - 1)], start_new_session=True)
else:
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_who_is_below_is_told_from_below_whatever_its_session() -> None:
    argv = [sys.executable, "-c", CHAIN, CHAIN, "2"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as top:
        assert top.stdout is not None
        lowest = int(top.stdout.readline())
        assert is_below(lowest, top.pid) and is_below(lowest, os.getpid())
        assert not is_below(top.pid, lowest) and not is_below(os.getpid(), top.pid)
        assert not is_below(top.pid, top.pid)
        top.communicate()
        assert not is_below(lowest, top.pid), "gone"


@pytest.mark.skipif(shutil.which("systemd-notify") is None, reason="needs systemd-notify")
def test_the_real_systemd_notify() -> None:
    async def run() -> list[Notice]:
        notices: list[Notice] = []
        with hearing(lambda pid: True, notices.append) as listening:
            environ = {**os.environ, "NOTIFY_SOCKET": listening.address}
            program = await asyncio.create_subprocess_exec("systemd-notify", "--ready", "--status=fine", env=environ)
            async with asyncio.timeout(PATIENCE):
                assert await program.wait() == 0
            await asyncio.sleep(0)
        return notices

    assert set(asyncio.run(run())) == {Ready(), Status("fine")}
