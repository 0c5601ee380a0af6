"""One agent's task on fakes and virtual time: what it asks of processes, and what it makes of their news."""

from __future__ import annotations

import asyncio

import pytest

from mesh_supervisor import lifecycle as life
from mesh_supervisor.errors import MeshError
from mesh_supervisor.lifecycle import Exit, Phase, Policy, Verdict, verdict_down, verdict_up
from mesh_supervisor.spec import Backoff, CrashLoop, Kind, Restart
from tests.agent.fakes import FakeProcess, Stage, running
from tests.agent.virtual import Stuck, now, run, settle

PATIENT = Policy(backoff=Backoff(initial=1, factor=2, max=8, reset_after=30), crashloop=CrashLoop(crashes=99))


# ---- starting and stopping -------------------------------------------------------------------------------------------


def test_start_ready_stop() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            process = await stage.started()
            assert stage.announcer.asked == [("announce", 1)]
            await stage.tell(life.Unwanted())
            assert process.stops == [False]
            assert stage.phase() is Phase.STOPPED
            assert stage.announcer.asked == [("announce", 1), ("withdraw", 1)]
            assert stage.kinds() == ["ready", "stopped"]

    run(test)


def test_a_start_that_is_stopped_while_it_is_launched_leaves_no_process() -> None:
    async def test() -> None:
        stage = Stage(gate=asyncio.Event())
        async with running(stage):
            await stage.tell(life.Wanted())
            await stage.tell(life.Unwanted())
            assert stage.launcher.given_up == [1]
            assert stage.launcher.processes == {}
            assert stage.phase() is Phase.STOPPED

    run(test)


@pytest.mark.parametrize("second", [life.Unwanted(), life.RestartAsked(), life.InputsChanged("a.py")])
def test_a_start_and_its_opposite_in_one_breath(second: life.Event) -> None:
    """Both are in the mailbox before the launch had its first moment; it must be seen to end all the same."""

    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.tell(life.Wanted(), second)
            assert not stage.task.state.draining
            if second == life.Unwanted():
                assert stage.phase() is Phase.STOPPED
                assert stage.launcher.launches == []
            else:
                assert [generation for _, generation in stage.launcher.launches] == [2]

    run(test)


def test_no_more_patience_before_a_launch_had_its_first_moment() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            stage.task.post(life.Wanted())
            stage.task.changed = lambda before, after: stage.task.hurry() if after.incoming else None
            await settle()
            assert not stage.task.state.alive

    run(test)


def test_a_launch_that_waits_for_its_turn_is_cancelled_without_one() -> None:
    async def test() -> None:
        stage, busy = Stage(), Stage()
        stage.task.slots.resize(1)
        busy.task.slots = stage.task.slots
        async with running(stage, busy):
            await busy.tell(life.Wanted())
            await stage.tell(life.Wanted())
            await stage.tell(life.Unwanted())
            assert stage.phase() is Phase.STOPPED
            assert stage.launcher.launches == []
            await stage.tell(life.Wanted())
            busy.newest.gets_ready()
            await settle()
            assert [generation for _, generation in stage.launcher.launches] == [2]

    run(test)


def test_start_during_a_stop_waits_for_its_end() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            process = await stage.started()
            await stage.tell(life.Unwanted())
            await stage.tell(life.Wanted())
            assert list(stage.launcher.processes) == [1]
            process.exits(Exit(0))
            await settle()
            assert list(stage.launcher.processes) == [1, 2]

    run(test)


def test_two_saves_during_one_stop_are_one_restart_for_the_last_reason() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            process = await stage.started()
            await stage.tell(life.InputsChanged("a.py"))
            await stage.tell(life.InputsChanged("b.py"))
            assert process.stops == [False]
            process.exits(Exit(0))
            await settle()
            stage.newest.gets_ready()
            await settle()
            assert list(stage.launcher.processes) == [1, 2]
            assert stage.reports[-1].text == "b.py"

    run(test)


# ---- hurry -----------------------------------------------------------------------------------------------------------


def test_hurry_ends_what_is_stubborn_at_once() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            process = await stage.started()
            await stage.tell(life.Unwanted())
            assert stage.phase() is Phase.DRAINING
            stage.task.hurry()
            await settle()
            assert process.stops == [False, True]
            assert stage.phase() is Phase.STOPPED

    run(test)


def test_hurry_gives_up_a_launch() -> None:
    async def test() -> None:
        stage = Stage(gate=asyncio.Event())
        async with running(stage):
            await stage.tell(life.Wanted())
            await stage.tell(life.Unwanted())
            stage.task.hurry()
            await settle()
            assert stage.phase() is Phase.STOPPED

    run(test)


def test_only_who_is_in_a_hurry_cancels_a_launch_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time, what was asked of a template is seen through; the second time it is ended for that."""

    async def test() -> None:
        stage = Stage()
        cancelled: list[str] = []

        async def launch(generation: int, start: life.Start) -> FakeProcess:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("once")
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append("twice")
            raise AssertionError("unreachable")

        monkeypatch.setattr(stage.launcher, "launch", launch)
        async with running(stage):
            await stage.tell(life.Wanted())
            await stage.tell(life.Unwanted(), life.Unwanted())
            assert (cancelled, stage.phase()) == (["once"], Phase.DRAINING)
            stage.task.hurry()
            await settle()
            assert (cancelled, stage.phase()) == (["once", "twice"], Phase.STOPPED)

    run(test)


def test_a_stop_that_was_still_waiting_ends_with_its_process() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            process = await stage.started()
            await stage.tell(life.Unwanted())
            process.exits(Exit(0))
            await settle()
            assert stage.phase() is Phase.STOPPED
            assert process.stops_given_up <= 1

    run(test)


# ---- news in any order -----------------------------------------------------------------------------------------------


def test_it_is_ready_and_gone_in_the_same_moment() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.tell(life.Wanted())
            first = stage.newest
            first.gets_ready()
            first.exits(Exit(3))
            await settle()
            assert first is not stage.newest, "the crash is followed by a start at once"
            assert stage.task.state.serving is None
            assert stage.announcer.asked in ([], [("announce", 1), ("withdraw", 1)])

    run(test)


def test_it_ends_in_the_moment_of_being_stopped() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            process = await stage.started()
            process.exits(Exit(1))
            await stage.tell(life.Unwanted())
            assert stage.phase() is Phase.STOPPED
            assert list(stage.launcher.processes) == [1]

    run(test)


def test_readiness_after_a_stop_is_no_news() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            await stage.tell(life.Wanted())
            await stage.tell(life.Unwanted())
            stage.newest.gets_ready()
            await settle()
            assert stage.phase() is Phase.DRAINING
            assert stage.announcer.asked == []

    run(test)


def test_illness_of_a_generation_that_was_replaced_is_no_news() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            old = await stage.started()
            await stage.tell(life.RestartAsked())
            old.falls_ill()
            old.exits(Exit(0))
            await settle()
            stage.newest.gets_ready()
            await settle()
            assert stage.phase() is Phase.READY
            assert "not-live" not in stage.kinds()
            await stage.tell(life.NotLive(1, "late"), life.Exited(1, Exit(1)), life.BecameReady(1))
            assert stage.phase() is Phase.READY
            assert list(stage.launcher.processes) == [1, 2]

    run(test)


def test_one_that_is_ill_is_stopped_and_started_again() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            process = await stage.started()
            process.falls_ill("not live: 503")
            await settle()
            assert process.stops == [False]
            assert list(stage.launcher.processes) == [1, 2]
            assert stage.announcer.asked == [("announce", 1), ("withdraw", 1)]
            assert "not-live" in stage.kinds()

    run(test)


def test_one_that_never_gets_ready_is_stopped_and_started_again() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.tell(life.Wanted())
            process = stage.newest
            process.misses_its_deadline()
            await settle()
            assert process.stops == [False]
            assert list(stage.launcher.processes) == [1, 2]
            assert stage.reports[0].text == "not ready after 600 s"

    run(test)


def test_nothing_is_asked_of_a_process_that_has_ended() -> None:
    """Its readiness and liveness are no longer waited for."""

    async def test() -> None:
        stage = Stage(Policy(restart=Restart.NEVER))
        async with running(stage):
            await stage.tell(life.Wanted())
            process = stage.newest
            process.exits(Exit(0))
            await settle()
            assert process._ready.cancelled()
            assert stage.phase() is Phase.FAILED

    run(test)


# ---- patience --------------------------------------------------------------------------------------------------------


def test_backoff_is_kept_to_the_second() -> None:
    async def test() -> None:
        stage = Stage(PATIENT)
        stage.launcher.begins = lambda process: process.exits(Exit(1))
        async with running(stage):
            await stage.tell(life.Wanted())
            await asyncio.sleep(24)
            begun = [round(at, 3) for at, _ in stage.launcher.launches]
            assert begun == [0, 0, 1, 3, 7, 15, 23]

    run(test)


def test_a_crash_loop_tries_at_the_cap_and_an_edit_at_once() -> None:
    async def test() -> None:
        stage = Stage(Policy(crashloop=CrashLoop(crashes=2)))
        stage.launcher.begins = lambda process: process.exits(Exit(1))
        async with running(stage):
            await stage.tell(life.Wanted())
            assert stage.phase() is Phase.CRASHLOOP
            await asyncio.sleep(61)
            assert [round(at) for at, _ in stage.launcher.launches] == [0, 0, 30, 60]
            stage.launcher.begins = lambda process: process.gets_ready()
            await stage.tell(life.InputsChanged("a.py"))
            assert stage.phase() is Phase.READY

    run(test)


def test_patience_is_restored_by_being_ready_for_long_enough() -> None:
    async def test() -> None:
        stage = Stage(PATIENT)
        async with running(stage):
            process = await stage.started()
            for _ in range(3):
                process.exits()
                await asyncio.sleep(10)
                process = stage.newest
                process.gets_ready()
                await settle()
            assert stage.task.state.patience.attempts == 3
            await asyncio.sleep(31)
            assert stage.task.state.patience == life.Patience()
            before = now()
            process.exits()
            await settle()
            assert stage.launcher.launches[-1][0] == pytest.approx(before, abs=0.01), "the first restart is at once"

    run(test)


def test_a_stop_ends_the_waiting_for_a_retry() -> None:
    async def test() -> None:
        stage = Stage(PATIENT)
        stage.launcher.begins = lambda process: process.exits(Exit(1))
        async with running(stage):
            await stage.tell(life.Wanted())
            assert stage.phase() is Phase.BACKOFF
            await stage.tell(life.Unwanted())
            launches = len(stage.launcher.launches)
            await asyncio.sleep(1000)
            assert len(stage.launcher.launches) == launches
            assert stage.phase() is Phase.STOPPED

    run(test)


def test_no_process_can_be_had_and_it_is_tried_again() -> None:
    async def test() -> None:
        stage = Stage(PATIENT, error=MeshError("port 8101 is already in use"))
        async with running(stage):
            await stage.tell(life.Wanted())
            assert stage.phase() is Phase.BACKOFF
            assert stage.task.state.patience.failure == "port 8101 is already in use"
            stage.launcher.error = None
            await asyncio.sleep(1.1)
            stage.newest.gets_ready()
            await settle()
            assert stage.phase() is Phase.READY

    run(test)


def test_nothing_ever_wakes_an_agent_that_has_nothing_to_do() -> None:
    """A Tick that comes again and again would burn a processor."""

    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.started()
            await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run(test)


# ---- the end of things -----------------------------------------------------------------------------------------------


def test_a_task_is_done() -> None:
    async def test() -> None:
        stage = Stage(Policy(kind=Kind.TASK))
        stage.launcher.begins = lambda process: process.exits(Exit(0))
        async with running(stage):
            await stage.tell(life.Wanted())
            assert stage.phase() is Phase.DONE
            assert stage.kinds() == ["done"]

    run(test)


def test_an_essential_agent_that_is_over_gives_the_mesh_up() -> None:
    async def test() -> None:
        stage = Stage(Policy(restart=Restart.NEVER, essential=True))
        async with running(stage):
            process = await stage.started()
            process.exits(Exit(3))
            await settle()
            assert stage.gave_up == ["has ended (exit 3)"]

    run(test)


# ---- what a command came to ------------------------------------------------------------------------------------------


def _ask_up(stage: Stage, event: life.Event) -> asyncio.Task[Verdict]:
    after = stage.task.state.generation
    return asyncio.create_task(stage.task.ask(event, lambda agent: verdict_up(agent, after)))


def test_a_restart_is_answered_by_the_next_generation() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.started()
            asked = _ask_up(stage, life.RestartAsked())
            await settle()
            assert not asked.done()
            stage.newest.gets_ready()
            assert await asked == Verdict(True, "ready (generation 2)")

    run(test)


def test_a_restart_that_fails_is_answered_too() -> None:
    async def test() -> None:
        stage = Stage()
        async with running(stage):
            await stage.started()
            asked = _ask_up(stage, life.RestartAsked())
            await settle()
            stage.newest.exits(Exit(1, None, "NameError: x"), permanent=True)
            verdict = await asked
            assert not verdict.ok
            assert "NameError: x" in verdict.text

    run(test)


def test_two_askers_both_get_their_answer() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            process = await stage.started()
            stop = asyncio.create_task(stage.task.ask(life.Unwanted(), verdict_down))
            again = asyncio.create_task(stage.task.ask(life.Unwanted(), verdict_down))
            await settle()
            process.exits(Exit(0))
            assert await stop == await again == Verdict(True, "stopped")

    run(test)


def test_a_stop_that_is_overtaken_by_a_start_says_so() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            await stage.started()
            stop = asyncio.create_task(stage.task.ask(life.Unwanted(), verdict_down))
            await settle()
            await stage.tell(life.Wanted())
            assert await stop == Verdict(False, "was started again meanwhile")

    run(test)


def test_an_asker_who_gives_up_is_forgotten() -> None:
    async def test() -> None:
        stage = Stage(stubborn=True)
        async with running(stage):
            await stage.started()
            asked = asyncio.create_task(stage.task.ask(life.Unwanted(), verdict_down))
            await settle()
            asked.cancel()
            await settle()
            assert stage.task._asked == []
            stage.newest.exits(Exit(0))
            await settle()
            assert stage.phase() is Phase.STOPPED

    run(test)
