"""What is told of reloads: how many generations there were, and whose phases they are, by what really happened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mesh_supervisor.events import Bus, Reload, history
from mesh_supervisor.host.logs import LogHub
from mesh_supervisor.launcher import Phases
from mesh_supervisor.lifecycle import Agent, Cause, Instance, Report, Start
from mesh_supervisor.member import Member
from mesh_supervisor.news import News, Outputs
from mesh_supervisor.spec import AgentSpec, CommandLine
from tests.agent.virtual import BEGIN, run

SPEC = AgentSpec("planner", CommandLine(("sh",)), Path("/nowhere"))


class Told:
    """News about one agent, whose launcher and state are what a test says. Times count from BEGIN."""

    def __init__(self) -> None:
        self.bus, self.hub = Bus(), LogHub()
        self.news = News(Outputs(self.hub, self.bus), quiet=lambda: False)
        self.launcher = SimpleNamespace(spec=SPEC, starts={}, phases={})
        self.task = SimpleNamespace(state=Agent())
        fakes: Any = (self.task, self.launcher, None)
        self.member = Member(*fakes)

    def launched(self, generation: int, cause: Cause = Cause.RELOAD, *, spawned: bool = True) -> None:
        """Asked for half a second ago; ``spawned``: 0.1 s ago, launched 0.2 s ago."""
        self.launcher.starts[generation] = Start(cause, "agent.py", BEGIN - 0.5)
        if spawned:
            self.launcher.phases[generation] = Phases(BEGIN - 0.5, BEGIN - 0.2, BEGIN - 0.1)

    def tell(self, kind: str, generation: int, seconds: float | None = None) -> None:
        async def main() -> None:
            self.news.report(self.member, Report(kind, "exit 1", generation, seconds, "agent.py"))

        run(main)

    def rejected(self, generation: int, *, spawned: bool = True) -> None:
        self.launched(generation, spawned=spawned)
        self.tell("reload-rejected", generation, seconds=0.5)

    def served(self, generation: int, kind: str = "reload-completed") -> None:
        cause = Cause.RELOAD if kind == "reload-completed" else Cause.START
        self.launched(generation, cause)
        self.tell(kind, generation, seconds=0.5)

    @property
    def reloads(self) -> list[Reload]:
        return [reload for _, reload in history(self.bus.recent())]


def test_the_one_before_is_the_one_that_served_not_the_number_before() -> None:
    told = Told()
    told.served(1, "ready")
    told.rejected(2)
    told.rejected(3)
    told.served(4)
    told.served(5)
    found = [(reload.outcome, reload.generation, reload.previous) for reload in told.reloads]
    assert found == [("rejected", 2, 1), ("rejected", 3, 1), ("completed", 4, 1), ("completed", 5, 4)]


def test_after_a_crash_it_is_the_one_that_was_started_again() -> None:
    told = Told()
    told.served(1, "ready")
    told.tell("crashed", 1)
    told.served(2, "ready")
    told.served(3)
    assert [reload.previous for reload in told.reloads] == [2]


def test_before_the_first_that_serves_there_is_none() -> None:
    told = Told()
    told.served(7)
    assert [(reload.generation, reload.previous) for reload in told.reloads] == [(7, None)]


def test_an_edit_that_cannot_load_has_started_nothing() -> None:
    told = Told()
    told.served(1, "ready")
    told.tell("reload-rejected", 1)
    (reload,) = told.reloads
    assert (reload.generation, reload.previous, reload.phases_ms, reload.total_ms) == (1, None, {}, 0.0)


def test_phases_are_of_the_newcomer() -> None:
    told = Told()
    told.served(1, "ready")
    told.served(2)
    assert told.reloads[-1].phases_ms == pytest.approx({"stop": 300.0, "start": 100.0, "ready": 100.0}, abs=0.1)


def test_one_that_could_not_be_spawned_has_none_and_not_its_predecessors() -> None:
    told = Told()
    told.served(1, "ready")
    told.served(2)
    told.task.state = Agent(serving=Instance(2, Start(Cause.RELOAD, "agent.py", 0.0)))
    told.rejected(3, spawned=False)
    reload = told.reloads[-1]
    assert (reload.generation, reload.previous, reload.phases_ms) == (3, 2, {})
    assert reload.total_ms == pytest.approx(500.0, abs=0.1)


def test_a_stop_first_reload_that_could_not_be_spawned_has_failed() -> None:
    told = Told()
    told.served(1, "ready")
    told.launched(2, spawned=False)
    told.tell("crashed", 2)
    (reload,) = told.reloads
    assert (reload.outcome, reload.reason, reload.generation, reload.previous) == ("failed", "agent.py", 2, 1)
    assert (reload.phases_ms, reload.error) == ({}, "exit 1")


def test_how_it_was_stopped_is_said_once() -> None:
    told = Told()
    told.served(1, "ready")
    told.tell("stopped", 1)
    assert told.member.last == "exit 1"  # the text of the report alone
