"""The exits of processes that were not spawned here but came to us."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mesh_supervisor.host.children import Child, Program, expected
from mesh_supervisor.host.reaper import Reaper
from mesh_supervisor.host.spawn import stop, sweep
from mesh_supervisor.host.sweep import tag_of
from mesh_supervisor.lifecycle import Exit

from .stage import PATIENCE, PLAIN, Actor, Stage, alive, python, until

FORKS = """
import os, resource, signal, sys
tag, stays, code = int(sys.argv[1]), sys.argv[2] == "stays", int(sys.argv[3])
reading, writing = os.pipe()
if os.fork() == 0:  # the intermediate
    pid = os.fork()
    if pid == 0:
        os.setsid()
        resource.setrlimit(10, (tag, resource.getrlimit(10)[1]))
        os.write(1, b"%d\\n" % os.getpid())
        os.read(reading, 1) if code == 9 else None
        os._exit(code)
    signal.pause() if stays else os._exit(0)
os.wait()
os.write(1, b"the intermediate is reaped\\n")
signal.pause()
"""
"""Two forks: the grandchild has the tag and a session of its own, says its pid and ends with the code (9: it stays)."""


def forker(tag: int, intermediate: str, code: int) -> tuple[str, ...]:
    return (*python(FORKS), str(tag), intermediate, str(code))


async def forked(actor: Actor) -> int:
    """Its pid, when the intermediate is reaped: by then it is a child of ours."""
    return int(min(await actor.line(), await actor.line()))  # digits come before letters


def adopted(pid: int, mark: str, stage: Stage) -> Child:
    return Child(pid, Program(("forked",), PLAIN, stage.directory), mark)


def test_the_exit_of_a_forked_instance_is_collected_like_any_other(stage: Stage, subreaper: None) -> None:
    async def scenario() -> Exit:
        mark = stage.mark("agent")
        actor = stage.start(forker(tag_of(mark), "goes", 9), agent="template")
        child = adopted(await forked(actor), mark, stage)
        await stop(child, signal.SIGTERM, PATIENCE)
        return await child.wait()

    assert asyncio.run(scenario()) == Exit(None, signal.SIGTERM)


def test_an_exit_from_before_it_was_ours_is_collected_when_it_is(stage: Stage, subreaper: None) -> None:
    async def scenario() -> None:
        mark = stage.mark("agent")
        actor = stage.start(forker(tag_of(mark), "stays", 7), agent="template")
        child = adopted(int(await actor.line()), mark, stage)
        waiting = asyncio.create_task(child.wait())
        await until(lambda: child.pid in _zombies_elsewhere(child))
        await asyncio.sleep(0)  # its descriptor has been readable for a turn
        assert child.exit is None
        actor.child.send(signal.SIGKILL)  # with its session: the intermediate too
        assert await waiting == Exit(7)

    asyncio.run(scenario())


def _zombies_elsewhere(child: Child) -> set[int]:
    return set() if alive(child.pid) else {child.pid}


def test_one_that_has_ended_before_we_knew_it_is_not_the_reapers(
    stage: Stage, subreaper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.host.reaper._GRACE", 100.0)  # who waits may be held up on a busy machine

    async def scenario() -> None:
        reaper = Reaper()
        reaper.install()
        mark = stage.mark("agent")
        expected.add(tag_of(mark))
        try:
            actor = stage.start(forker(tag_of(mark), "goes", 7), agent="template")
            pid = await forked(actor)
            await until(lambda: not alive(pid))
            reaper.reap()
            assert await adopted(pid, mark, stage).wait() == Exit(7)
        finally:
            expected.discard(tag_of(mark))
            reaper.close()

    asyncio.run(scenario())


def test_a_forked_instance_that_nobody_took_is_reaped_all_the_same(stage: Stage, subreaper: None) -> None:
    async def scenario() -> None:
        reaper = Reaper()
        reaper.install()
        mark = stage.mark("agent")
        actor = stage.start(forker(tag_of(mark), "goes", 7), agent="template")
        pid = await forked(actor)
        await until(lambda: not os.path.exists(f"/proc/{pid}"))  # noqa: PTH110
        reaper.close()

    asyncio.run(scenario())


# ---- whose it is -----------------------------------------------------------------------------------------------------


def test_a_template_is_swept_and_what_was_forked_from_it_lives_on(stage: Stage, subreaper: None) -> None:
    """Both show the template's mark: /proc/PID/environ is as at the exec. The tag tells."""

    async def scenario() -> None:
        mark = stage.mark("agent", 3)
        actor = stage.start(forker(tag_of(mark), "goes", 9), agent="warm")
        pid = await forked(actor)
        actor.child.send(signal.SIGKILL)
        await actor.child.wait()
        assert await sweep(stage.mark("warm"), actor.child) == []  # although it is nobody's child of ours yet
        assert alive(pid)
        swept = await sweep(mark)
        assert [one.pid for one in swept] == [pid]

    asyncio.run(scenario())


def test_a_half_made_instance_goes_with_its_template(stage: Stage, subreaper: None) -> None:
    async def scenario() -> None:
        actor = stage.start(forker(tag_of(stage.mark("warm")), "goes", 9), agent="warm")
        pid = await forked(actor)
        actor.child.send(signal.SIGKILL)
        await actor.child.wait()
        assert [one.pid for one in await sweep(stage.mark("warm"), actor.child)] == [pid]

    asyncio.run(scenario())
