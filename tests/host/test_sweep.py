"""What an instance leaves behind is found and killed: exactly that, wherever it went."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh_supervisor.host import procfs
from mesh_supervisor.host import sweep as sweeping
from mesh_supervisor.host.reaper import Reaper
from mesh_supervisor.host.spawn import Swept, spawn, sweep, tree, usage
from mesh_supervisor.host.sweep import seize, sweep_all, sweep_owner, tag_of

from .stage import Actor, Stage, alive, ended, held, python, until

LEAVES_BEHIND = """
import os, subprocess, sys
{before}
left = subprocess.Popen({argv}, {how})
os.write(1, b"%d\\n" % left.pid)  # in one piece: others write here too
{after}
"""
TWICE = "if os.fork(): os.wait(); os._exit(0)\nos.setsid()"

WAYS: dict[str, dict[str, object]] = {
    "in its session": {"how": ""},
    "in a session of its own": {"how": "start_new_session=True"},
    "scrubbed": {"how": "env={'PATH': os.environ['PATH']}"},
    "scrubbed, in a session of its own": {"how": "env={'PATH': os.environ['PATH']}, start_new_session=True"},
    "scrubbed, twice forked, silent": {
        "how": "env={'PATH': os.environ['PATH']}, start_new_session=True, cwd='/', stderr=subprocess.DEVNULL",
        "before": TWICE,
    },
    "with a child of its own": {
        "how": "env={'PATH': os.environ['PATH']}, start_new_session=True",
        "argv": ["sh", "-c", "sleep 600 & wait"],
    },
}


@pytest.fixture(params=["subreaper", "no subreaper"])
def adoption(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "subreaper":
        request.getfixturevalue("subreaper")
    yield


def leaver(way: str, after: str = "") -> tuple[str, ...]:
    return python(LEAVES_BEHIND.format(**{"before": "", "after": after, "argv": ["sleep", "600"], **WAYS[way]}))


async def pid_of_the_left(actor: Actor) -> int:
    return int(await actor.line())


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_an_instance_left_survives_it(stage: Stage, adoption: None, way: str) -> None:
    async def scenario() -> None:
        actor = stage.start(leaver(way, after="os.kill(os.getpid(), 9)"))
        left = await pid_of_the_left(actor)
        with held(left) as pidfd:
            if "before" not in WAYS[way]:
                await actor.child.wait()
            else:
                actor.child.send(signal.SIGKILL)
                await actor.child.wait()
            swept = await sweep(stage.mark("agent"), actor.child)
            assert ended(pidfd, 0), "sweep returns when it is gone"
        assert Swept(left, "sh" if "argv" in WAYS[way] else "sleep") in swept
        assert await sweep(stage.mark("agent"), actor.child) == []
        assert await actor.rest() == b"", "nobody holds the output"

    asyncio.run(scenario())


def test_other_instances_and_strangers_are_left_alone(stage: Stage, adoption: None) -> None:
    async def scenario() -> None:
        stranger = stage.other("import os; print(os.getpid(), flush=True); import time; time.sleep(600)")
        neighbours = [
            stage.start(leaver("scrubbed, in a session of its own", after="left.wait()"), agent=name)
            for name in ("agent2", "agen", "other")
        ]
        theirs = [await pid_of_the_left(actor) for actor in neighbours]
        actor = stage.start(leaver("scrubbed, in a session of its own"))
        left = await pid_of_the_left(actor)
        await actor.child.wait()
        assert [one.pid for one in await sweep(stage.mark("agent"), actor.child)] == [left]
        assert all(map(alive, [stranger.pid, *theirs, *(actor.child.pid for actor in neighbours)]))

    asyncio.run(scenario())


def test_the_next_generation_is_left_alone(stage: Stage, adoption: None) -> None:
    async def scenario() -> None:
        first = stage.start(leaver("in a session of its own"))
        left = await pid_of_the_left(first)
        await first.child.wait()
        reading, writing = os.pipe()
        os.close(reading)
        second = spawn(first.child.program, output=writing, mark=stage.mark("agent", 2))
        os.close(writing)
        assert [one.pid for one in await sweep(stage.mark("agent"), first.child)] == [left]
        assert second.exit is None or second.exit.signal != signal.SIGKILL
        await second.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["in a session of its own", "scrubbed, in a session of its own"])
def test_what_ran_beside_an_instance_goes_with_it(stage: Stage, adoption: None, way: str) -> None:
    async def scenario() -> None:
        probe = stage.start(leaver(way), agent="agent/1/probe")
        left = await pid_of_the_left(probe)
        await probe.child.wait()
        assert await sweep(stage.mark("agent") + "/probe/2") == []
        assert [one.pid for one in await sweep(stage.mark("agent"))] == [left]

    asyncio.run(scenario())


def test_many_instances_are_swept_at_once(stage: Stage, subreaper: None) -> None:
    async def scenario() -> None:
        actors = [stage.start(leaver("scrubbed, in a session of its own"), agent=f"a{n}") for n in range(8)]
        left = [await pid_of_the_left(actor) for actor in actors]
        await asyncio.gather(*(actor.child.wait() for actor in actors))
        swept = await asyncio.gather(*(sweep(stage.mark(f"a{n}"), actors[n].child) for n in range(8)))
        assert [[one.pid for one in found] for found in swept] == [[pid] for pid in left]

    asyncio.run(scenario())


MULTIPLIES = """
import os, signal, sys
os.setsid() if os.getsid(0) != os.getpid() else None
print("ready", flush=True)
generation = 0
while generation < 300:
    if os.fork():
        os._exit(0)
    generation += 1
signal.pause()
"""


def test_a_process_that_runs_away_by_forking_is_caught(stage: Stage, subreaper: None) -> None:
    async def scenario(agent: str) -> None:
        actor = stage.start(python(MULTIPLIES), agent=agent)
        assert await actor.line() == "ready"
        await actor.child.wait()
        await sweep(actor.child.mark, actor.child)
        assert await actor.rest() == b"", "nobody holds the output"

    for n in range(5):  # it gets away from a single look now and then
        asyncio.run(scenario(f"a{n}"))


def test_a_look_that_was_overtaken_by_a_fork_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    runaway = procfs.look(os.getpid())
    assert runaway is not None
    children = iter([{1}, {1, 2}, {1, 2}, {1, 2}])
    looks = iter([[], [runaway]])
    monkeypatch.setattr(sweeping, "orphans", lambda apart: next(children))
    monkeypatch.setattr(sweeping, "descendants", lambda pid, but_not_below: next(looks))
    assert sweeping.remains(stage.mark("agent"), runaway.session, ()) == [runaway]


def test_sweeping_an_owner_takes_all_of_its_instances_and_no_other(stage: Stage, tmp_path: Path) -> None:
    async def scenario() -> None:
        actors = [stage.start(leaver(way, after="left.wait()"), agent=f"a{n}") for n, way in enumerate(WAYS)]
        left = [await pid_of_the_left(actor) for actor in actors]
        with Stage(tmp_path) as elsewhere:
            foreign = elsewhere.start(leaver("scrubbed", after="left.wait()"))
            foreign_left = await pid_of_the_left(foreign)
            swept = await asyncio.to_thread(sweep_owner, stage.owner)
            assert {*left} <= {one.pid for one in swept}
            assert not any(map(alive, left))
            assert alive(foreign.child.pid)
            assert alive(foreign_left)
        for actor in actors:
            await actor.child.wait()

    asyncio.run(scenario())


# ---- a pid is not a process --------------------------------------------------------------------------------------


def test_a_reused_pid_is_not_killed(stage: Stage) -> None:
    stranger = stage.other("print('ready', flush=True); import time; time.sleep(600)")
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "ready\n"
    now = procfs.look(stranger.pid)
    assert now is not None
    earlier = now._replace(started=now.started - 1)  # what had that pid when it was looked at
    found = iter([[earlier], []])
    assert seize(earlier) is None
    sweep_all(lambda: next(found))
    assert stranger.poll() is None
    pidfd = seize(now)
    assert pidfd is not None
    os.close(pidfd)


def test_tags_tell_owners_and_instances_apart() -> None:
    tags = {tag_of(f"{owner}/{agent}/{n}") for owner in ("a1", "b2") for agent in ("x", "y") for n in range(500)}
    assert len(tags) == 2000
    assert len({tag >> 32 for tag in tags}) == 2
    assert all(0 <= tag < 1 << 63 for tag in tags)


# ---- orphans -----------------------------------------------------------------------------------------------------

DAEMONS = """
import os
for n in range({count}):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
        os._exit(0)
    os.wait()
print("ready", flush=True)
input()
"""


def zombies() -> list[procfs.Process]:
    return [one for one in procfs.descendants(os.getpid()) if one.over]


def test_orphans_leave_no_zombie_and_others_keep_their_exit_codes(
    stage: Stage, subreaper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.host.reaper._GRACE", 100.0)  # whoever waits is held up on a busy machine

    async def scenario() -> None:
        reaper = Reaper()
        reaper.install()
        reading, writing = os.pipe()
        try:
            actor = stage.start(python(DAEMONS.format(count=200)), stdin=reading)
            ours = [subprocess.Popen(["sh", "-c", f"exit {n}"]) for n in range(10)]  # noqa: ASYNC220
            assert await actor.line() == "ready"
            await until(lambda: {one.pid for one in zombies()} <= {process.pid for process in ours})
            assert [process.wait() for process in ours] == list(range(10))
            os.close(writing)
            await actor.child.wait()
        finally:
            os.close(reading)
            reaper.close()

    asyncio.run(scenario())


# ---- looking -----------------------------------------------------------------------------------------------------


def test_tree_and_usage_cover_children(stage: Stage) -> None:
    async def scenario() -> None:
        actor = stage.start(leaver("in a session of its own", after="left.wait()"))
        left = await pid_of_the_left(actor)
        assert tree(actor.child.pid) == [actor.child.pid, left]
        cpu, resident = usage(tree(actor.child.pid))
        assert cpu >= 0
        assert resident > 1_000_000
        actor.child.send(signal.SIGKILL)
        await actor.child.wait()
        await sweep(stage.mark("agent"), actor.child)
        assert tree(actor.child.pid) == []
        assert usage([actor.child.pid]) == (0, 0)

    asyncio.run(scenario())


def test_a_name_with_parentheses_and_newlines_is_read(stage: Stage) -> None:
    program = stage.directory / "a) R 1\n(b"
    program.symlink_to("/bin/sleep")

    async def scenario() -> None:
        child = stage.start((str(program), "600")).child
        await until(lambda: (now := procfs.look(child.pid)) is not None and "python" not in now.name)
        now = procfs.look(child.pid)
        assert now is not None
        assert (now.name, now.parent, now.session) == ("a) R 1\n(b", os.getpid(), child.pid)

    asyncio.run(scenario())
