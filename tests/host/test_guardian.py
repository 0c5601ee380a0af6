"""When the supervisor is killed, nothing of the mesh remains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host.guardian import Guardian
from mesh_supervisor.host.procfs import everything, status
from mesh_supervisor.host.sweep import mark_in, of_owner, tag_in
from tests.e2e.harness import wait_for

from .stage import PATIENCE, PLAIN, Stage, alive, ended, held, is_stopped, python, until
from .test_sweep import WAYS, leaver

SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from mesh_supervisor.host.guardian import Guardian
from mesh_supervisor.host.spawn import Program, become_subreaper, spawn

async def main(owner, report, *programs):
    become_subreaper()
    guardian = Guardian(owner, report=Path(report))
    guardian.start()
    os.write(1, b"%d\\n" % guardian.pid)  # in one piece: others write here too
    for n, code in enumerate(programs):
        argv = (sys.executable, "-S", "-u", "-c", code)
        child = spawn(Program(argv, {"PATH": os.environ["PATH"]}, Path("/")), output=1, mark=f"{owner}/a{n}/1")
        os.write(1, b"%d\\n" % child.pid)
    if not programs:
        print("closing")
        await guardian.close()
        print("closed")
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def numbers(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


@contextlib.contextmanager
def all_held(pids: list[int]) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(held(pid)) for pid in pids]


def is_deaf(guardian: int) -> bool:
    """To all that it ignores: SIGQUIT comes last. Until its code runs, each of them ends it."""
    ignored = status(guardian, b"SigIgn")
    return bool(ignored) and bool(int(ignored[0], 16) >> (signal.SIGQUIT - 1) & 1)


def members(owner: str) -> list[int]:
    belongs = of_owner(owner)
    return [one.pid for one in everything().values() if not one.over and belongs(one)]


def test_nothing_remains_of_a_supervisor_that_is_killed(stage: Stage) -> None:
    report = stage.directory / "report"
    programs = [leaver(way, after="left.wait()")[-1] for way in WAYS]
    supervisor = stage.other(SUPERVISOR, stage.owner, str(report), *programs)
    pids = numbers(supervisor, 1 + 2 * len(programs))
    guardian, mesh = pids[0], pids[1:]
    wait_for(lambda: is_deaf(guardian))
    with all_held(mesh) as pidfds, held(guardian) as keeper:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guardian, number)
        supervisor.kill()
        assert ended(keeper), "the guardian goes when it has done its work"
        assert all(ended(pidfd, 0) for pidfd in pidfds)
    assert members(stage.owner) == []
    assert "the supervisor was killed; swept " in report.read_text()
    assert report.read_text().count("sleep (") >= 3


def test_an_orderly_end_lets_the_guardian_go_without_a_sweep(stage: Stage) -> None:
    bystander = stage.start(("sleep", "600"))
    supervisor = stage.other(SUPERVISOR, stage.owner, str(stage.directory / "report"))
    (guardian,) = numbers(supervisor, 1)
    assert supervisor.stdout is not None
    assert [supervisor.stdout.readline() for _ in range(2)] == ["closing\n", "closed\n"]
    assert not alive(guardian)
    assert alive(bystander.child.pid)
    assert not (stage.directory / "report").exists()


def test_the_guardian_carries_nothing_that_an_outer_mesh_would_kill(stage: Stage) -> None:
    """meshsup run inside an instance of another meshsup."""
    inner = SUPERVISOR.replace('"/a{n}/1"', '"inner/a/1"')
    argv = python(inner)
    environ = {**PLAIN, "PYTHONPATH": str(Path(__file__).parents[2])}

    async def scenario() -> None:
        actor = stage.start(
            (argv[0], "-u", "-c", inner, "inner" + stage.owner, str(stage.directory / "report"), "input()"),
            environ=environ,
        )
        guardian = int(await actor.line())
        await actor.line()
        with held(guardian) as keeper:
            await until(lambda: tag_in(guardian) is None)  # before its code runs, it has what it was born with
            assert mark_in(guardian) == ""
            actor.child.send(signal.SIGKILL)
            await actor.child.wait()
            assert await asyncio.to_thread(ended, keeper)

    asyncio.run(scenario())


def test_a_guardian_that_is_killed_is_replaced(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.guardian._PAUSE", 0.0)

    async def scenario() -> None:
        said: asyncio.Queue[str] = asyncio.Queue()
        guardian = Guardian(stage.owner, say=said.put_nowait)
        guardian.start()
        try:
            first = guardian.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE):
                assert "killed by SIGKILL" in await said.get()
            await until(lambda: guardian.pid not in (None, first))
        finally:
            second = guardian.pid
            await guardian.close()
        assert second is not None
        assert not alive(second)

    asyncio.run(scenario())


def test_a_guardian_that_cannot_be_replaced_at_once_is_replaced_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.host.guardian._PAUSE", 0.0)
    spawn, refused = os.posix_spawn, threading.Event()

    def full(*args: object, **kwargs: object) -> int:
        refused.set()
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def scenario() -> None:
        guardian = Guardian(stage.owner)
        guardian.start()
        try:
            first = guardian.pid
            assert first is not None
            monkeypatch.setattr("os.posix_spawn", full)
            os.kill(first, signal.SIGKILL)
            await until(refused.is_set)
            assert guardian.pid is None
            monkeypatch.setattr("os.posix_spawn", spawn)
            await until(lambda: guardian.pid not in (None, first))
        finally:
            await guardian.close()

    asyncio.run(scenario())


def test_a_guardian_that_somebody_stopped_holds_up_no_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.guardian._PATIENCE", 0.1)

    async def scenario() -> None:
        guardian = Guardian(stage.owner)
        guardian.start()
        pid = guardian.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: is_stopped(pid))
        async with asyncio.timeout(PATIENCE):
            await guardian.close()
        assert not alive(pid)

    asyncio.run(scenario())


def test_an_end_without_a_guardian_is_an_end_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.guardian._PAUSE", 0.0)
    refused = threading.Event()

    def full(*args: object, **kwargs: object) -> int:
        refused.set()
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def scenario() -> None:
        guardian = Guardian(stage.owner)
        guardian.start()
        assert guardian.pid is not None
        monkeypatch.setattr("os.posix_spawn", full)
        os.kill(guardian.pid, signal.SIGKILL)
        await until(refused.is_set)
        await guardian.close()

    asyncio.run(scenario())
