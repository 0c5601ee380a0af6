"""The state machine, driven by hand and by random walk. No clock, no process."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_supervisor import lifecycle as life
from mesh_supervisor.lifecycle import Agent, Cause, Exit, Order, Phase, Policy, advance, next_wake, phase
from mesh_supervisor.spec import CrashLoop, Kind, Restart

STOP_FIRST = Policy()
START_FIRST = Policy(order=Order.START_FIRST)


class Story:
    """An agent whose shell is the test: ``tell`` advances it and keeps what it asked for."""

    def __init__(self, policy: Policy = STOP_FIRST) -> None:
        self.agent, self.policy, self.now = Agent(), policy, 100.0
        self.effects: list[life.Effect] = []

    def tell(self, event: life.Event, *, after: float = 0.0) -> Story:
        self.now += after
        self.agent, effects = advance(self.agent, event, self.now, self.policy)
        self.effects = list(effects)
        return self

    def ready(self) -> Story:
        assert self.agent.incoming is not None
        generation = self.agent.incoming.generation
        return self.tell(life.Spawned(generation)).tell(life.BecameReady(generation))

    def crash(self, *, code: int | None = 1, signal: int | None = None, permanent: bool = False) -> Story:
        living = self.agent.incoming or self.agent.serving
        assert living is not None
        return self.tell(life.Exited(living.generation, Exit(code, signal, "ValueError: x"), permanent))

    def gone(self, generation: int) -> Story:
        return self.tell(life.Exited(generation, Exit(0)))

    def phase(self) -> Phase:
        return phase(self.agent)

    def did(self, kind: type[life.Effect]) -> list[life.Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def delay(self) -> float:
        assert self.agent.patience.retry_at is not None
        return self.agent.patience.retry_at - self.now


def running(policy: Policy = STOP_FIRST) -> Story:
    return Story(policy).tell(life.Wanted()).ready()


def test_an_agent_starts_gets_ready_and_is_announced() -> None:
    story = Story()
    assert story.phase() is Phase.STOPPED
    story.tell(life.Wanted())
    assert story.phase() is Phase.STARTING
    assert [type(e) for e in story.effects] == [life.Spawn]
    story.ready()
    assert story.phase() is Phase.READY
    assert story.did(life.Announce) == [life.Announce(1)]


def test_a_first_start_waits_for_its_dependencies() -> None:
    story = Story().tell(life.Blocked(("db",))).tell(life.Wanted())
    assert story.phase() is Phase.WAITING
    assert story.tell(life.Blocked(())).phase() is Phase.STARTING


def test_a_crash_restart_does_not_wait_for_dependencies() -> None:
    story = running().tell(life.Blocked(("db",))).crash()
    assert story.phase() is Phase.STARTING


def test_the_first_restart_is_at_once_then_delays_double_up_to_the_cap() -> None:
    story = running(replace(STOP_FIRST, crashloop=CrashLoop(crashes=100))).crash()
    assert story.phase() is Phase.STARTING
    delays = []
    for _ in range(8):
        story.crash()
        assert story.phase() is Phase.BACKOFF
        delays.append(round(story.delay, 3))
        story.tell(life.Tick(), after=story.delay)
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_jitter_is_a_fifth_to_both_sides() -> None:
    story = running().crash()
    assert story.agent.incoming is not None
    for luck, delay in ((0.0, 0.4), (1.0, 0.6)):
        after, _ = advance(story.agent, life.Exited(2, Exit(1), luck=luck), story.now, story.policy)
        assert after.patience.retry_at == pytest.approx(story.now + delay)


def test_five_crashes_in_the_window_are_a_crash_loop_and_an_edit_revives_it_at_once() -> None:
    story = Story().tell(life.Wanted())
    for _ in range(4):
        story.crash()
        if story.agent.incoming is None:
            story.tell(life.Tick(), after=story.delay)
    story.crash()
    assert story.phase() is Phase.CRASHLOOP
    assert 24 <= story.delay <= 36
    story.tell(life.InputsChanged("main.py"))
    assert story.phase() is Phase.RELOADING
    assert story.agent.patience == life.Patience()


def test_crashes_that_are_far_apart_are_no_crash_loop() -> None:
    story = running(replace(STOP_FIRST, crashloop=CrashLoop(crashes=3, window=10)))
    for _ in range(6):
        story.tell(life.Tick(), after=11)
        story.crash()
        if story.agent.incoming is None:
            story.tell(life.Tick(), after=story.delay)
        story.ready()
    assert not story.agent.patience.looping


def test_patience_is_restored_after_being_ready_for_long_enough() -> None:
    story = running().crash().ready()
    assert next_wake(story.agent, story.policy) == story.now + 30
    assert story.tell(life.Tick(), after=29).agent.patience.attempts == 1
    assert story.tell(life.Tick(), after=1).agent.patience == life.Patience()
    assert next_wake(story.agent, story.policy) is None


def test_a_crash_loop_stays_one_while_it_keeps_trying() -> None:
    story = Story(replace(STOP_FIRST, crashloop=CrashLoop(crashes=2))).tell(life.Wanted()).crash().crash()
    assert story.phase() is Phase.CRASHLOOP
    story.tell(life.Tick(), after=story.delay)
    assert story.agent.incoming is not None
    assert story.phase() is Phase.CRASHLOOP


def test_a_dependency_that_becomes_ready_is_worth_a_try_at_once() -> None:
    story = running().crash().crash()
    assert story.phase() is Phase.BACKOFF
    assert story.tell(life.DependencyReady()).phase() is Phase.STARTING


def test_a_failure_that_no_retry_can_mend_waits_for_an_edit_in_dev_and_retries_in_prod() -> None:
    story = Story().tell(life.Wanted()).crash(permanent=True)
    assert story.phase() is Phase.FAILED
    assert next_wake(story.agent, story.policy) is None
    assert story.tell(life.InputsChanged("main.py")).agent.incoming is not None
    prod = Story(replace(STOP_FIRST, dev=False)).tell(life.Wanted()).crash(permanent=True)
    assert prod.phase() is Phase.STARTING


def test_exit_zero_before_ready_is_a_failed_start_but_not_for_a_task() -> None:
    story = Story().tell(life.Wanted()).crash(code=0)
    assert story.agent.patience.attempts == 1
    task = Story(replace(STOP_FIRST, kind=Kind.TASK)).tell(life.Wanted()).crash(code=0)
    assert task.phase() is Phase.DONE


def test_a_failing_task_is_retried_or_not_by_its_policy() -> None:
    never = Story(Policy(kind=Kind.TASK, restart=Restart.NEVER)).tell(life.Wanted()).crash()
    assert never.phase() is Phase.FAILED
    retried = Story(Policy(kind=Kind.TASK, restart=Restart.ON_FAILURE)).tell(life.Wanted()).crash()
    assert retried.phase() is Phase.STARTING


def test_a_service_that_ends_well_at_once_is_told_what_it_may_be() -> None:
    story = Story().tell(life.Wanted()).tell(life.Spawned(1)).gone(1)
    assert str(story.agent.patience.failure) == 'exit 0 before it was ready (a program that is to end is type = "task")'


def test_on_failure_leaves_a_clean_exit_alone() -> None:
    story = running(Policy(restart=Restart.ON_FAILURE)).crash(code=0)
    assert story.phase() is Phase.FAILED
    assert story.agent.incoming is None


def test_stop_first_never_has_two_instances_alive() -> None:
    story = running().tell(life.InputsChanged("main.py"))
    assert story.phase() is Phase.RELOADING
    assert [type(e) for e in story.effects] == [life.Report, life.Withdraw, life.Stop]
    story.gone(1)
    assert story.did(life.Spawn) == [life.Spawn(2, life.Start(Cause.RELOAD, "main.py", 100.0))]
    story.ready()
    assert [e.kind for e in story.did(life.Report) if isinstance(e, life.Report)] == ["reload-completed"]


def test_stop_first_the_newest_of_two_saves_wins() -> None:
    story = running().tell(life.InputsChanged("a.py")).tell(life.InputsChanged("b.py")).gone(1)
    assert story.agent.incoming is not None
    assert story.agent.incoming.start.reason == "b.py"
    story.tell(life.InputsChanged("c.py"))
    assert story.did(life.Stop) == [life.Stop(2)]
    assert story.gone(2).agent.incoming is not None


def test_start_first_serves_until_the_newcomer_is_ready() -> None:
    story = running(START_FIRST).tell(life.InputsChanged("main.py"))
    assert story.agent.serving is not None
    assert story.agent.serving.generation == 1
    assert story.phase() is Phase.RELOADING
    story.ready()
    assert story.did(life.Stop) == [life.Stop(1, replaced=True)]
    assert [i.generation for i in story.agent.draining] == [1]


def test_start_first_a_newcomer_that_dies_is_rejected_and_the_old_one_keeps_serving() -> None:
    story = running(START_FIRST).tell(life.InputsChanged("main.py")).crash()
    assert story.phase() is Phase.READY
    assert story.agent.rejection == "exit 1: ValueError: x"
    assert story.agent.patience == life.Patience()


def test_start_first_the_old_one_may_die_while_the_newcomer_comes() -> None:
    story = running(START_FIRST).tell(life.InputsChanged("main.py"))
    story.tell(life.Exited(1, Exit(None, 9)))
    assert story.agent.incoming is not None
    assert story.ready().phase() is Phase.READY


def test_start_first_a_newcomer_that_cannot_share_its_address_comes_once_more_alone() -> None:
    story = running(START_FIRST)
    story.tell(life.InputsChanged("x.py"))
    story.tell(life.Exited(2, Exit(1, last_words="address already in use"), crowded=True))
    assert story.did(life.Stop) == [life.Stop(1)]
    assert [i.generation for i in story.agent.alive] == [1]
    story.tell(life.Exited(1, Exit(0)))
    assert [type(effect) for effect in story.did(life.Spawn)] == [life.Spawn]
    # Alone it is a crash like any other, and no third try of this kind.
    story.tell(life.Exited(3, Exit(1), crowded=True))
    assert len(story.agent.patience.crashes) == 1


def test_a_restart_gives_no_more_time_to_what_drains() -> None:
    story = running(START_FIRST).tell(life.InputsChanged("x.py")).ready()
    story.tell(life.RestartAsked())
    assert set(story.did(life.Stop)) == {life.Stop(2), life.Stop(1)}
    story.tell(life.InputsChanged("y.py"))
    assert story.agent.pending is not None
    assert story.agent.pending.cause is Cause.RESTART, "a save does not soften it"
    assert story.did(life.Spawn) == []


def test_one_that_is_not_live_is_replaced_by_the_newcomer_that_comes_anyway() -> None:
    story = running(START_FIRST).tell(life.InputsChanged("x.py"))
    story.tell(life.NotLive(1, "hung"))
    assert story.agent.pending is None
    assert not story.agent.patience.crashes
    assert story.ready().phase() is Phase.READY


def test_sockets_are_held_while_somebody_will_come_and_answer() -> None:
    story = running()
    assert life.hold(story.agent) is life.Hold.KEEP
    story.tell(life.InputsChanged("x.py"))
    assert life.hold(story.agent) is life.Hold.KEEP
    story.tell(life.Exited(1, Exit(0)))
    story.tell(life.BecameReady(2))
    story.tell(life.Exited(2, Exit(1)))
    assert life.hold(story.agent) is life.Hold.KEEP  # the first restart is at once
    story.tell(life.Exited(3, Exit(1)))
    assert phase(story.agent) is Phase.BACKOFF
    assert life.hold(story.agent) is life.Hold.LINGER
    story.tell(life.Unwanted())
    assert life.hold(story.agent) is life.Hold.RELEASE


def test_start_first_many_saves_keep_at_most_two_draining() -> None:
    story = running(START_FIRST)
    for number in range(5):
        story.tell(life.InputsChanged(f"{number}"))
    at_once = [e for e in story.effects if isinstance(e, life.Stop) and e.at_once]
    assert [e.generation for e in at_once] == [3, 2]


def test_an_edit_that_does_not_load_is_a_rejection_and_undoing_it_clears_it() -> None:
    story = running().tell(life.EditRejected("SyntaxError main.py:3"))
    assert (story.phase(), story.agent.rejection) == (Phase.READY, "SyntaxError main.py:3")
    assert story.tell(life.EditUndone()).agent.rejection is None


@pytest.mark.parametrize("comes_up", [True, False])
def test_an_edit_that_is_rejected_while_an_older_one_comes_stays_rejected(comes_up: bool) -> None:
    story = running(START_FIRST).tell(life.InputsChanged("main.py")).tell(life.Spawned(2))
    story.tell(life.EditRejected("SyntaxError"), after=1)
    story = story.tell(life.BecameReady(2)) if comes_up else story.crash()
    assert (story.phase(), story.agent.rejection) == (Phase.READY, "SyntaxError")
    assert story.tell(life.EditUndone()).agent.rejection is None


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (Exit(0), "stopped"),
        (Exit(None, 2), "stopped"),  # KeyboardInterrupt is raised again as the signal
        (Exit(130), "stopped"),
        (Exit(None, 15), "stopped"),
        (Exit(143), "stopped"),
        (Exit(None, 9), "stopped (killed by SIGKILL)"),
        (Exit(1, None, "OSError: disk full"), "stopped (exit 1: OSError: disk full)"),
        (Exit(131), "stopped (exit 131)"),
    ],
)
def test_an_end_by_the_signal_that_asked_for_it_is_as_it_should_be(how: Exit, told: str) -> None:
    story = running(replace(STOP_FIRST, stop_signal=2)).tell(life.Unwanted()).tell(life.Exited(1, how))
    assert story.effects == [life.Report("stopped", told, 1)]


def test_another_signal_than_the_one_that_asked_is_told() -> None:
    story = running().tell(life.Unwanted()).tell(life.Exited(1, Exit(None, 2)))
    assert story.effects == [life.Report("stopped", "stopped (killed by SIGINT)", 1)]


def test_an_edit_never_starts_what_was_stopped_by_hand() -> None:
    story = running().tell(life.Unwanted()).gone(1).tell(life.InputsChanged("main.py"))
    assert story.phase() is Phase.STOPPED


def test_stopping_withdraws_stops_and_ends() -> None:
    story = running().tell(life.Unwanted())
    assert story.phase() is Phase.DRAINING
    assert [type(e) for e in story.effects] == [life.Withdraw, life.Stop]
    assert story.gone(1).phase() is Phase.STOPPED


def test_start_during_a_stop_starts_after_it() -> None:
    story = running().tell(life.Unwanted()).tell(life.Wanted())
    assert story.agent.incoming is None
    assert story.gone(1).agent.incoming is not None


def test_a_restart_is_hard_even_where_generations_may_overlap() -> None:
    story = running(START_FIRST).tell(life.RestartAsked())
    assert story.agent.serving is None
    assert story.agent.incoming is None
    assert story.gone(1).agent.incoming is not None


def test_late_news_about_an_old_generation_change_nothing() -> None:
    story = running().crash().ready()
    before = story.agent
    for event in (life.BecameReady(1), life.StartTimedOut(1, "late"), life.NotLive(1, "late"), life.Spawned(1)):
        assert story.tell(event).agent == before
        assert story.effects == []


def test_an_instance_that_is_not_ready_in_time_goes_and_counts_as_a_crash() -> None:
    story = Story().tell(life.Wanted()).tell(life.StartTimedOut(1, "not ready after 600 s"))
    assert story.did(life.Stop) == [life.Stop(1)]
    assert story.agent.patience.failure == "not ready after 600 s"
    assert story.gone(1).agent.incoming is not None


def test_one_that_is_not_live_is_withdrawn_stopped_and_started_again() -> None:
    story = running().tell(life.NotLive(1, "503"))
    assert [type(e) for e in story.effects][:3] == [life.Report, life.Withdraw, life.Stop]
    assert story.gone(1).agent.incoming is not None


def test_a_start_without_a_process_backs_off() -> None:
    story = Story().tell(life.Wanted()).tell(life.SpawnFailed(1, "port 8101 is already in use"))
    assert story.agent.incoming is not None  # the first time at once
    story.tell(life.SpawnFailed(2, "port 8101 is already in use"))
    assert story.phase() is Phase.BACKOFF


@pytest.mark.parametrize(
    "failure", [life.SpawnFailed(1, "no such program"), life.StartTimedOut(1, "not ready"), life.NotLive(1, "503")]
)
def test_never_means_never_also_for_what_did_not_end_by_itself(failure: life.Event) -> None:
    policy = Policy(restart=Restart.NEVER, essential=True)
    story = running(policy) if isinstance(failure, life.NotLive) else Story(policy).tell(life.Wanted())
    story.tell(failure)
    assert story.did(life.GiveUp)
    story.gone(1)
    assert story.phase() is Phase.FAILED
    assert next_wake(story.agent, policy) is None
    assert story.tell(life.DependencyReady()).phase() is Phase.FAILED


def test_an_essential_agent_in_a_crash_loop_gives_the_mesh_up_in_prod_only() -> None:
    for dev, expected in ((True, 0), (False, 1)):
        policy = Policy(dev=dev, essential=True, crashloop=CrashLoop(crashes=1))
        assert len(running(policy).crash().did(life.GiveUp)) == expected


def test_an_essential_agent_that_ended_for_good_gives_the_mesh_up() -> None:
    assert running(Policy(essential=True, restart=Restart.NEVER)).crash(code=0).did(life.GiveUp)


def test_verdicts() -> None:
    story = running()
    assert life.verdict_up(story.agent, 0) == life.Verdict(True, "ready (generation 1)")
    assert life.verdict_up(story.agent, 1) is None
    story.tell(life.EditRejected("SyntaxError"))
    assert life.verdict_up(story.agent, 1) == life.Verdict(False, "rejected: SyntaxError")
    story.tell(life.Unwanted())
    assert life.verdict_down(story.agent) is None
    assert life.verdict_down(story.gone(1).agent) == life.Verdict(True, "stopped")


def _events(agent: Agent) -> st.SearchStrategy[life.Event]:
    generations = st.integers(0, agent.generation + 1)
    luck = st.floats(0, 1)
    exits = st.sampled_from([Exit(0), Exit(1), Exit(None, 9)])
    return st.one_of(
        st.just(life.Wanted()),
        st.just(life.Unwanted()),
        st.just(life.RestartAsked()),
        st.just(life.InputsChanged("x.py")),
        st.just(life.EditRejected("no")),
        st.just(life.EditUndone()),
        st.sampled_from([life.Blocked(()), life.Blocked(("db",))]),
        st.just(life.DependencyReady()),
        st.just(life.Tick()),
        st.builds(life.Spawned, generations),
        st.builds(life.SpawnFailed, generations, st.just("no"), luck),
        st.builds(life.BecameReady, generations),
        st.builds(life.StartTimedOut, generations, st.just("slow"), luck),
        st.builds(life.NotLive, generations, st.just("hung"), luck),
        st.builds(life.Exited, generations, exits, st.booleans(), luck, st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(Order),
    st.sampled_from(Restart),
    st.sampled_from(Kind),
    st.booleans(),
)
def test_random_walk(data: st.DataObject, order: Order, restart: Restart, kind: Kind, dev: bool) -> None:
    policy = Policy(order=order, restart=restart, kind=kind, dev=dev, essential=True)
    agent, now = Agent(), 0.0
    processes: set[int] = set()  # what the shell would have: spawned, not yet exited
    for _ in range(40):
        event = data.draw(_events(agent))
        if isinstance(event, life.SpawnFailed | life.Exited):
            if event.generation not in processes and data.draw(st.booleans()):
                continue
            processes.discard(event.generation)
        now += data.draw(st.floats(0, 40))
        agent, effects = advance(agent, event, now, policy)
        for effect in effects:
            if isinstance(effect, life.Spawn):
                if order is Order.STOP_FIRST:
                    assert len(agent.alive) == 1, "stop-first: two alive"
                assert effect.generation not in processes
                processes.add(effect.generation)
        _holds(agent, policy, now)
    _ends(agent, policy, now)


def _holds(agent: Agent, policy: Policy, now: float) -> None:
    generations = [i.generation for i in agent.alive]
    assert len(set(generations)) == len(generations)
    assert all(g <= agent.generation for g in generations)
    if agent.wish is life.Wish.DOWN:
        assert agent.serving is None
        assert agent.incoming is None
        assert agent.pending is None
    assert phase(agent) in Phase
    if agent.wish is life.Wish.UP and not agent.alive:
        word = phase(agent)
        assert word is not Phase.STOPPED
        # Whatever waits has something that will wake it: a tick, an edit, a dependency.
        if word is Phase.BACKOFF:
            wake = next_wake(agent, policy)
            assert wake is not None
            assert wake <= now + policy.backoff.max * (1 + life.JITTER)


def _ends(agent: Agent, policy: Policy, now: float) -> None:
    """From wherever the walk came, a stop ends, and a start after it comes up."""
    agent, _ = advance(agent, life.Unwanted(), now, policy)
    for instance in agent.alive:
        agent, _ = advance(agent, life.Exited(instance.generation, Exit(None, 15)), now, policy)
    assert phase(agent) is Phase.STOPPED
    agent, _ = advance(agent, life.Blocked(()), now, policy)
    agent, effects = advance(agent, life.Wanted(), now, policy)
    assert [type(e) for e in effects] == [life.Spawn]
    agent, _ = advance(agent, life.BecameReady(agent.generation), now, policy)
    assert phase(agent) is Phase.READY
