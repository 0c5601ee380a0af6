"""Orphans in numbers; and where the kernel shows less of processes than usual: no /proc of our own, no pidfds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host import procfs
from mesh_supervisor.host.children import pidfds_work
from mesh_supervisor.host.reaper import Reaper
from mesh_supervisor.host.spawn import stop, sweep
from mesh_supervisor.lifecycle import Exit

from .stage import PATIENCE, Stage, python, until

ORPHANS = 100
FORKS = f"""
import os, sys, time
for number in range({ORPHANS}):
    first = os.fork()
    if first == 0:
        if os.fork() == 0:
            while os.getppid() != int(sys.argv[1]):
                time.sleep(0.0005)
            os._exit(number)
        os._exit(0)
    os.waitpid(first, 0)
print("all are forked")
sys.exit(7)
"""


@pytest.fixture
def no_pidfds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As gVisor is, and Linux before 5.3."""

    def missing(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)
    pidfds_work.cache_clear()
    yield
    monkeypatch.undo()
    pidfds_work.cache_clear()


def zombies() -> set[int]:
    """Children of this process that have ended, without the help of what is tested."""
    table = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in table if ") Z " in Path(f"/proc/{pid}/stat").read_text()}


async def orphans_are_reaped(stage: Stage) -> None:
    """Beside an instance whose exit is its own to collect."""
    actor = stage.start((*python(FORKS), str(os.getpid())))
    assert await actor.line() == "all are forked"
    assert await actor.child.wait() == Exit(7)


@pytest.mark.usefixtures("subreaper")
def test_orphans_are_reaped_and_what_is_waited_for_is_not(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.reaper._GRACE", 100.0)  # who waits may be held up on a busy machine

    async def scenario() -> None:
        own = subprocess.Popen(["true"])  # noqa: ASYNC220
        with installed():
            await orphans_are_reaped(stage)
            await until(lambda: zombies() == {own.pid})
        assert own.wait() == 0

    asyncio.run(scenario())


@pytest.mark.usefixtures("subreaper")
def test_orphans_are_reaped_without_a_proc_of_our_own(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "ours", False)

    async def scenario() -> None:
        with installed():
            await orphans_are_reaped(stage)
            await until(lambda: zombies() == set())

    asyncio.run(scenario())


@contextlib.contextmanager
def installed() -> Iterator[None]:
    reaper = Reaper()
    reaper.install()
    try:
        yield
    finally:
        reaper.close()


@pytest.mark.usefixtures("no_pidfds")
def test_without_pidfds_a_session_is_stopped_and_swept_all_the_same(stage: Stage) -> None:
    polite = "trap 'sleep 0.2; echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"

    async def scenario() -> None:
        actor = stage.start(("sh", "-c", f'sh -c "{polite}"; true'))
        assert await actor.line() == "ready"
        assert await stop(actor.child, signal.SIGTERM, PATIENCE) == Exit(None, signal.SIGTERM)
        await sweep(actor.child.mark, actor.child)
        assert b"goodbye" in await actor.rest()

    asyncio.run(scenario())
