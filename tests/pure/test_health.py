"""What a supervisor says in brief, as one line and a yes or no."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.health import LONGEST_REASON, SAYS, Verdict, judge, share
from mesh_supervisor.lifecycle import Phase
from mesh_supervisor.locate import Place
from mesh_supervisor.snapshot import HELD
from tests.control import fake

PLACE = Place(Path("/app/mesh.toml"), Path("/app"), Path("/app/.mesh"))
REGISTRY = AgentBrief("registry", "registry", "ready", "", wanted=True, ready=True, essential=False, given_up=False)


def agent(name: str, state: str = "ready", detail: str = "", **changed: bool) -> AgentBrief:
    ready = state in ("ready", "done", "held")
    whole = AgentBrief(name, "agent", state, detail, wanted=True, ready=ready, essential=False, given_up=False)
    return replace(whole, **changed)  # type: ignore[arg-type]


def mesh(*agents: AgentBrief, **changed: object) -> Brief:
    return fake.brief(PLACE, REGISTRY, *agents, **changed)


def ready(brief: Brief, *words: str) -> tuple[bool, str]:
    return _told(judge(brief, words, live=False))


def live(brief: Brief, *words: str) -> tuple[bool, str]:
    return _told(judge(brief, words, live=True))


def _told(verdict: Verdict) -> tuple[bool, str]:
    assert verdict.line.startswith(f"{verdict.word}: ")
    return verdict.healthy, verdict.line


FAILED = agent("clock", "failed", "exit 1: ValueError: no key", given_up=True)
LOOPING = agent("clock", "crashloop", "exit 1; next try in 12s", given_up=True)  # in prod mode


# ---- ready -------------------------------------------------------------------------------------------------------


def test_all_that_are_wanted_serve() -> None:
    assert ready(mesh(agent("planner"), agent("clock"))) == (True, "ready: 2 of 2 agents are ready")
    assert ready(mesh(agent("planner"))) == (True, "ready: 1 of 1 agent is ready")


def test_while_it_starts_it_says_who_waits_for_what() -> None:
    brief = mesh(
        agent("planner", "starting", "loading the model"), agent("clock"), agent("web", "waiting", "for planner")
    )
    assert ready(brief) == (
        False,
        "starting: 1 of 3 agents are ready; planner is starting (loading the model); web is waiting (for planner)",
    )


def test_one_that_crashes_is_no_start() -> None:
    brief = mesh(agent("planner", "starting"), agent("clock", "backoff", "exit 1: KeyError; next try in 2s"))
    assert ready(brief) == (
        False,
        "not ready: 0 of 2 agents are ready; planner is starting; clock has crashed (exit 1: KeyError; next try in 2s)",
    )


def test_a_task_that_is_done_is_ready() -> None:
    assert ready(mesh(agent("migrate", "done"), agent("planner"))) == (True, "ready: 2 of 2 agents are ready")
    assert ready(mesh(agent("migrate", "failed", "exit 3"))) == (
        False,
        "not ready: 0 of 1 agent is ready; migrate has failed (exit 3)",
    )


def test_a_reload_beside_the_old_one_is_ready_and_one_without_is_not() -> None:
    assert ready(mesh(agent("planner", "reloading", ready=True)))[0]
    assert ready(mesh(agent("planner", "reloading"))) == (
        False,
        "not ready: 0 of 1 agent is ready; planner is reloading",
    )


def test_what_nobody_wants_does_not_count_and_is_said() -> None:
    brief = mesh(agent("planner"), agent("extra", "stopped", wanted=False), agent("clock", "stopped", wanted=False))
    assert ready(brief) == (True, "ready: 1 of 1 agent is ready; not wanted: extra, clock")
    assert ready(mesh(agent("extra", "stopped", wanted=False))) == (
        True,
        "ready: no agent is wanted; not wanted: extra",
    )


def test_a_name_counts_also_what_nobody_wants_and_a_glob_does_not() -> None:
    brief = mesh(agent("planner"), agent("extra", "stopped", wanted=False))
    assert ready(brief, "extra") == (False, "not ready: 0 of 1 agent is ready; extra is stopped")
    assert ready(brief, "*") == (True, "ready: 1 of 1 agent is ready; not wanted: extra")


def test_a_check_of_nothing_is_no_yes() -> None:
    brief = mesh(agent("planner"), agent("extra", "stopped", wanted=False))
    assert ready(brief, "ext*") == (False, "not ready: none of ext* is wanted")


def test_only_those_that_were_named_count() -> None:
    brief = mesh(agent("planner"), agent("web-1"), agent("web-2", "backoff"), agent("clock", "backoff"))
    assert ready(brief, "planner", "web-1") == (True, "ready: 2 of 2 agents are ready")
    assert ready(brief, "web-*") == (False, "not ready: 1 of 2 agents are ready; web-2 has crashed")
    with pytest.raises(UnknownAgent, match="did you mean 'planner'"):
        judge(brief, ["planer"], live=False)


def test_the_registry_counts_but_is_no_agent() -> None:
    down = fake.brief(PLACE, replace(REGISTRY, state="backoff", ready=False), agent("planner"))
    assert ready(down) == (False, "not ready: 1 of 1 agent is ready; the registry has crashed")
    assert ready(down, "*") == (True, "ready: 1 of 1 agent is ready")
    assert ready(down, "registry") == (False, "not ready: 0 of 1 agent is ready; the registry has crashed")


def test_before_its_agents_are_known_nothing_is_ready() -> None:
    brief = fake.brief(PLACE, begun=False, agents=())
    assert ready(brief) == (False, "starting: the supervisor has just been started")
    assert ready(brief, "planner") == (False, "starting: the supervisor has just been started")  # not unknown: not yet


def test_a_mesh_that_stops_is_not_ready_though_nothing_is_wanted_any_more() -> None:
    brief = mesh(agent("planner", "stopped", wanted=False), stopping=True)
    assert ready(brief) == (False, "stopping: the mesh was told to stop")
    assert ready(replace(brief, gave_up="planner is essential and has ended (exit 3)")) == (
        False,
        "stopping: planner is essential and has ended (exit 3)",
    )


# ---- live --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [FAILED, LOOPING, agent("clock", "backoff"), agent("clock", "starting")])
def test_one_that_is_down_is_no_reason_to_kill_all(down: AgentBrief) -> None:
    healthy, line = live(mesh(agent("planner"), down))
    assert healthy
    assert line.startswith("live: 1 of 2 agents are ready; clock ")
    assert not ready(mesh(agent("planner"), down))[0]


@pytest.mark.parametrize("lost", [FAILED, LOOPING])
def test_an_essential_or_a_named_one_that_was_given_up_is(lost: AgentBrief) -> None:
    reason = f"not live: clock {SAYS[lost.state]} ({lost.detail})"
    assert live(mesh(agent("planner"), replace(lost, essential=True))) == (False, reason)
    assert live(mesh(agent("planner"), lost), "clock") == (False, reason)
    assert live(mesh(agent("planner"), lost), "c*") == (False, reason)
    assert live(mesh(agent("planner"), lost), "planner") == (True, "live: 1 of 1 agent is ready")


def test_one_that_is_tried_again_or_was_stopped_by_hand_is_not_given_up() -> None:
    crashing = agent("clock", "crashloop", essential=True)  # in dev mode: an edit mends it
    assert live(mesh(crashing), "clock")[0]
    assert live(mesh(agent("clock", "stopped", wanted=False, essential=True)), "clock")[0]


def test_a_start_and_a_stop_are_live_unless_it_was_given_up() -> None:
    assert live(fake.brief(PLACE, begun=False, agents=())) == (True, "live: the supervisor has just been started")
    stopping = mesh(stopping=True)
    assert live(stopping) == (True, "live: the mesh was told to stop")
    assert live(replace(stopping, gave_up="clock is essential and has ended (exit 3)")) == (
        False,
        "not live: clock is essential and has ended (exit 3); the mesh stops",
    )


# ---- one line ----------------------------------------------------------------------------------------------------


def test_what_agents_say_stays_one_line_and_of_a_bearable_length() -> None:
    _, line = ready(mesh(agent("planner", "failed", "Boom\n\x1b[2Jnext\u2028line " + "x" * 1000)))
    assert line.isprintable()
    assert "Boom" in line and "next line" in line
    assert len(line) < LONGEST_REASON + 100


def test_many_are_not_all_named() -> None:
    _, line = ready(mesh(*(agent(f"a{number}", "starting") for number in range(300))))
    assert line == "starting: 0 of 300 agents are ready; a0 is starting; a1 is starting; a2 is starting; and 297 more"


def test_there_are_words_for_every_state() -> None:
    assert SAYS.keys() == {*map(str, Phase), HELD}


def test_the_share_of_ls_is_of_the_agents_that_are_wanted() -> None:
    brief = mesh(agent("planner"), agent("clock", "starting"), agent("extra", "stopped", wanted=False))
    assert share(brief) == (1, 2)
