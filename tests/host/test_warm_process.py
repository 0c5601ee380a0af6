"""Templates and spares, with real processes: what is forked is ours alone, and whatever goes wrong leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mesh_supervisor.host import warm_process
from mesh_supervisor.host.children import Child, Program, living
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.memory import OutOfMemory
from mesh_supervisor.host.priority import Priority, give_priority
from mesh_supervisor.host.procfs import look
from mesh_supervisor.host.spawn import MARK, stop, sweep
from mesh_supervisor.host.sweep import mark_in, remains_of_owner
from mesh_supervisor.host.warm_process import NotWarm, Order, WarmProcess
from mesh_supervisor.lifecycle import Exit
from mesh_supervisor.warmth import Verdict

from .lingering import closers
from .stage import PATIENCE, PLAIN, Stage, alive, is_stopped, until

FAKE = Path(__file__).with_name("fake_guest.py")
WAITS = "import os, signal, sys; print(os.getpid(), os.environ['MESHSUP_INSTANCE'], flush=True); signal.pause()"

LEAVES_ONE = "import os, signal\nif os.fork() == 0: os.setsid()\nprint(os.getpid(), flush=True)\nsignal.pause()"


class Bench:
    """One warm process and what its instances say."""

    def __init__(
        self,
        stage: Stage,
        *modules: str,
        forks: bool = True,
        priority: Priority = Priority.NORMAL,
        memory: OutOfMemory | None = None,
    ) -> None:
        self.stage = stage
        self.lines: list[str] = []
        self.reading, self.writing = os.pipe()
        self.theirs, self.ours = socket.socketpair()
        self.process = WarmProcess(
            "warm",
            stage.mark("warm"),
            Program((sys.executable, "-S"), PLAIN, stage.directory),
            modules,
            forks=forks,
            line=self._line,
            memory=memory,
            priority=priority,
            guest=FAKE,
        )

    def _line(self, line: Line) -> None:
        self.lines.append(line.text)

    def order(self, code: str = WAITS, generation: int = 1, agent: str = "agent", **environ: str) -> Order:
        program = Program(("python",), {**PLAIN, **environ}, self.stage.directory)
        mark = self.stage.mark(agent, generation)
        return Order(mark, program, "code", code, ("--fast",), {"held": []}, self.writing, self.theirs.fileno())

    def said(self) -> str:
        return os.read(self.reading, 65536).decode()

    def nothing_is_left(self) -> bool:
        return remains_of_owner(self.stage.owner) == []

    async def close(self) -> None:
        await self.process.close()
        os.close(self.reading)
        os.close(self.writing)
        self.theirs.close()
        self.ours.close()


@contextlib.asynccontextmanager
async def bench(stage: Stage, *modules: str, **how: object) -> AsyncIterator[Bench]:
    found = Bench(stage, *modules, **how)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        await found.close()


async def ended(child: Child) -> Exit:
    await stop(child, signal.SIGTERM, PATIENCE)
    await sweep(child.mark, child)
    return await child.wait()


async def refused(work: Awaitable[Child]) -> str:
    with pytest.raises(NotWarm) as caught:
        await work
    return str(caught.value)


pytestmark = pytest.mark.usefixtures("subreaper", "in_no_hurry")


@pytest.fixture
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork, or a flood, may take long on a busy machine."""
    monkeypatch.setattr(warm_process, "FORK_AT_MOST", PATIENCE)
    monkeypatch.setattr("mesh_supervisor.host.channel.WINDOW", 1000.0)


# ---- what goes well --------------------------------------------------------------------------------------------------


def test_a_template_forks_an_instance_that_is_ours(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage, "a", "b") as here:
            assert await here.process.settled(30)
            assert (here.process.state, here.process.milliseconds) == ("warm", 12.5)
            child = await here.process.fork(here.order())
            assert here.said().split() == [str(child.pid), stage.mark("agent")]
            assert living[child.pid] is child
            assert mark_in(child.pid) == stage.mark("warm"), "what /proc shows is the template's"
            found = look(child.pid)
            assert found is not None
            assert (found.parent, found.session) == (os.getpid(), child.pid)
            assert await ended(child) == Exit(None, signal.SIGTERM)
            await until(lambda: here.lines == ["imports a b 2"])
        assert here.nothing_is_left()

    asyncio.run(scenario())


def test_an_instance_that_ends_at_once_has_its_own_exit_code(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            for code in (0, 7):
                child = await here.process.fork(here.order(f"raise SystemExit({code})", code + 1))
                assert await child.wait() == Exit(code)

    asyncio.run(scenario())


def test_instances_live_on_without_their_template(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            child = await here.process.fork(here.order(LEAVES_ONE))
            here.process.child.send(signal.SIGKILL)
            await here.process.close()
            pids: set[int] = set()
            while len(pids) < 2:
                pids |= set(map(int, here.said().split()))
            assert child.pid in pids
            assert all(map(alive, pids)), "the second one shows the template's mark, has a session of its own"
            child.send(signal.SIGKILL)
            await child.wait()
            assert {one.pid for one in await sweep(child.mark, child)} == pids - {child.pid}

    asyncio.run(scenario())


def test_many_at_once(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            orders = [here.order("raise SystemExit(3)", n) for n in range(1, 21)]
            children = await asyncio.gather(*map(here.process.fork, orders))
            assert len({child.pid for child in children}) == 20
            assert [await child.wait() for child in children] == [Exit(3)] * 20

    asyncio.run(scenario())


def test_a_spare_becomes_the_instance(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage, "refuse", forks=False, priority=Priority.LATER) as here:
            await here.process.settled(30)
            assert (here.process.state, here.process.why) == ("refused", "it has 3 threads")
            assert "3 threads" in await refused(here.process.fork(here.order()))
            child = await here.process.become(here.order())
            assert child.pid == here.process.pid
            assert here.said().split() == [str(child.pid), stage.mark("agent")]
            assert (child.mark, child.program.argv) == (stage.mark("agent"), ("python",))
            assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0)
            assert os.sched_getscheduler(child.pid) == os.SCHED_OTHER
            await sweep(stage.mark("warm"))
            assert alive(child.pid), "nothing of the spare is left in it"
            assert "became" in await refused(here.process.become(here.order(generation=2)))
            await here.process.close()
            assert alive(child.pid)
            assert await ended(child) == Exit(None, signal.SIGTERM)

    asyncio.run(scenario())


def test_a_spare_whose_program_ends_at_once(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage, forks=False) as here:
            await here.process.settled(30)
            child = await here.process.become(here.order("raise SystemExit(7)"))
            assert await child.wait() == Exit(7)

    asyncio.run(scenario())


def test_verdicts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        found: dict[str, Verdict] = {}
        async with bench(stage, forks=False, priority=Priority.IDLE) as here:
            await here.process.judge(("good", "bad1"), found.__setitem__)
            assert found == {"good": Verdict("fork"), "bad1": Verdict("spare", "starts a thread")}
            assert os.sched_getscheduler(here.process.pid) == os.SCHED_IDLE
        async with bench(stage, forks=False) as here:
            with pytest.raises(NotWarm, match="SIGABRT"):
                await here.process.judge(("good2", "die"), found.__setitem__)
            assert "good2" in found, "what was found out before is not lost"
        monkeypatch.setattr(warm_process, "JUDGE_AT_MOST", 0.05)
        async with bench(stage, forks=False) as here:
            with pytest.raises(NotWarm, match="for ever"):
                await here.process.judge(("hang",), found.__setitem__)

    asyncio.run(scenario())


def test_thousands_of_modules_are_told_in_pieces(stage: Stage) -> None:
    names = [f"package.module{number}" for number in range(5000)]

    async def scenario() -> None:
        async with bench(stage, *names) as here:
            assert await here.process.settled(30)
            await until(lambda: bool(here.lines))
            assert here.lines == [" ".join(["imports", *names[:9], "5000"])]

    asyncio.run(scenario())


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("unforked", "no processes left"),
        ("die at fork", "it ended"),
        ("half a fork", "it ended"),
        ("no tag", "cannot be marked"),
        ("no session", "not a child of the supervisor"),
    ],
)
def test_a_fork_that_fails_leaves_nothing_and_says_why(stage: Stage, what: str, why: str) -> None:
    async def scenario() -> None:
        async with bench(stage, what) as here:
            await here.process.settled(30)
            assert why in await refused(here.process.fork(here.order()))
            if what == "unforked":
                assert here.process.state == "warm"
            else:
                assert here.process.state == "over"
                assert here.nothing_is_left()
                assert not alive(here.process.pid)

    asyncio.run(scenario())


def test_a_template_that_never_answers_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_process, "FORK_AT_MOST", 0.05)

    async def scenario() -> None:
        async with bench(stage, "never fork") as here:
            await here.process.settled(30)
            assert "said nothing for 0.05 s" in await refused(here.process.fork(here.order()))
            assert here.nothing_is_left()

    asyncio.run(scenario())


def test_one_that_is_stopped_in_the_middle_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_process, "FORK_AT_MOST", 0.05)

    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            here.process.child.send(signal.SIGSTOP)
            await refused(here.process.fork(here.order()))
            assert here.nothing_is_left()

    asyncio.run(scenario())


@pytest.mark.parametrize(("what", "why"), [("die", "SIGABRT"), ("flood", " packets, "), ("garble", "garbled")])
def test_a_template_that_dies_or_talks_nonsense(stage: Stage, what: str, why: str) -> None:
    async def scenario() -> None:
        async with bench(stage, what) as here:
            await until(lambda: here.process.state == "over")
            assert await here.process.settled(30)
            assert why in here.process.why
            assert why in await refused(here.process.fork(here.order()))
            await here.process.close()
            assert here.nothing_is_left()

    asyncio.run(scenario())


def test_a_descriptor_that_hangs_does_not_hold_up_the_loop(stage: Stage) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with bench(stage, f"linger {listener.getsockname()[1]}") as here:
                listener.settimeout(30)
                reader, _ = listener.accept()
                with reader:
                    listener.accept()[0].close()  # meanwhile the loop reads nothing: the copy on its way is the last
                    assert await here.process.settled(30)
                    assert here.process.state == "warm"
                    assert closers(), "and it was never read"
        await until(lambda: not closers())

    asyncio.run(scenario())


@pytest.mark.parametrize("becomes", [False, True])
def test_the_kernel_that_takes_one_has_taken_no_agent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, becomes: bool
) -> None:
    """When memory runs out they go first. One that has become an agent is that one's to account for."""
    kills = [0]
    monkeypatch.setattr(OutOfMemory, "_count", lambda memory: kills[0])

    async def scenario() -> None:
        memory = OutOfMemory()
        async with bench(stage, forks=False, memory=memory) as here:
            assert await here.process.settled(30)
            child = await here.process.become(here.order()) if becomes else here.process.child
            kills[0] += 1
            os.kill(child.pid, signal.SIGKILL)
            how = await child.wait()
            await until(lambda: here.process.state in ("over", "given"))
            assert ("out of memory" in here.process.why) is not becomes
            assert ("out of memory" in str(memory.explained(how, ours=False, peak=None))) is becomes

    asyncio.run(scenario())


def test_an_import_that_hangs_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with bench(stage, "hang") as here:
            assert not await here.process.settled(0.01), "whoever needs it waits no longer than it wants"
        monkeypatch.setattr(warm_process, "WARMING_AT_MOST", 0.05)
        async with bench(stage, "hang") as here:
            await until(lambda: here.process.state == "over")
            assert here.process.why == "importing takes for ever"

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 8])
def test_a_launch_that_is_cancelled_leaves_no_process(stage: Stage, moment: int) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            task = asyncio.create_task(here.process.fork(here.order()))
            for _ in range(moment):
                await asyncio.sleep(0.001 if moment > 3 else 0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                child = await task
                await ended(child)
            assert [one.pid for one in remains_of_owner(stage.owner)] == [here.process.pid]
            assert here.process.state == "warm"

    asyncio.run(scenario())


def test_a_launch_that_is_cancelled_twice_leaves_no_process_either(stage: Stage) -> None:
    """Whoever has no patience any more does not wait for a template that hangs, and leaves no instance of it."""

    async def scenario() -> None:
        async with bench(stage, "stop at fork") as here:
            await here.process.settled(30)
            task = asyncio.create_task(here.process.fork(here.order()))
            await until(lambda: is_stopped(here.process.pid))
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done(), "once: what was asked of the template is seen through"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert here.nothing_is_left()
            assert here.process.state == "over"

    asyncio.run(scenario())


def kill_template(here: Bench) -> None:
    here.process.child.send(signal.SIGKILL)


def close_channel(here: Bench) -> None:
    here.process._channel._end("tried")


@pytest.mark.parametrize("end", [kill_template, close_channel])
@pytest.mark.parametrize("pause", [0, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01])
def test_a_template_killed_in_the_middle_of_a_fork(stage: Stage, pause: float, end: Callable[[Bench], None]) -> None:
    """Either there is an instance, or nothing of it: whenever it happens."""

    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            task = asyncio.create_task(here.process.fork(here.order()))
            await asyncio.sleep(pause)
            end(here)
            try:
                child = await task
            except NotWarm:
                assert here.nothing_is_left()
            else:
                await here.process.close()
                assert alive(child.pid)
                assert [one.pid for one in remains_of_owner(stage.owner)] == [child.pid]
                assert await ended(child) == Exit(None, signal.SIGTERM)

    asyncio.run(scenario())


def test_an_environment_that_fits_into_no_packet(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            assert "too large" in await refused(here.process.fork(here.order(HUGE="x" * 200_000)))
            assert here.process.state == "warm"

    asyncio.run(scenario())


def test_a_mark_is_no_part_of_what_a_template_tells(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage) as here:
            await here.process.settled(30)
            child = await here.process.fork(here.order("import os; print(os.environ['X'], flush=True)", X="1"))
            await child.wait()
            assert here.said() == "1\n"
            assert MARK not in child.program.environ

    asyncio.run(scenario())


def test_priorities_can_be_undone(stage: Stage) -> None:
    async def scenario() -> None:
        async with bench(stage, "hang", priority=Priority.LATER) as here:
            pid = here.process.pid
            later = (os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid))
            assert later in {(19, os.SCHED_OTHER), (os.getpriority(os.PRIO_PROCESS, 0), os.SCHED_BATCH)}
            here.process.hurry()
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
            assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        give_priority(pid, Priority.NORMAL)  # it is gone: nothing happens

    asyncio.run(scenario())
