"""A mesh that stops, or an agent that goes, at every turn of the loop in which something else is under way."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.errors import Stopping, UnknownAgent
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.warm import Warmth
from mesh_supervisor.host.watch import Watcher
from mesh_supervisor.launcher import AgentPreparation
from mesh_supervisor.lifecycle import Exit
from mesh_supervisor.spec import (
    AgentSpec,
    RegistrySpec,
    WatchSpec,
)
from mesh_supervisor.warmth import Wanted
from tests.agent.meshes import Mesh, agent
from tests.agent.virtual import after_turns, run, settle

TURNS = range(25)
"""Of the loop; a stop of the meshes below takes about twenty."""


async def stopped_while(
    mesh: Mesh, looks: str, turns: int, ask: Callable[[], asyncio.Task[Answer]]
) -> asyncio.Task[Answer]:
    """What ``ask`` asks of a mesh that is told to stop while selection.``looks`` does, which comes back so many turns
    later."""
    looked = asyncio.Event()

    async def look(name: str) -> None:
        await looked.wait()

    async with mesh.up(mesh.spec(agent("a"))):
        mesh.monkeypatch.setattr(mesh.supervisor.selection, looks, look)
        asked = ask()
        await settle()
        mesh.supervisor.finish()
        after_turns(turns, looked.set)
    return asked


@pytest.mark.parametrize("turns", TURNS)
def test_what_was_asked_before_the_stop_starts_nothing_after_it(mesh: Mesh, turns: int) -> None:
    """Of a restart the files are looked at first, and the mesh is told to stop meanwhile."""

    async def test() -> None:
        asked = await stopped_while(mesh, "accept", turns, lambda: mesh.ask("restart", "a"))
        assert not (await asked).ok
        assert all(process.gone for process in mesh.launched)

    run(test)


@pytest.mark.parametrize("turns", TURNS)
def test_mesh_toml_that_is_being_applied_adds_nothing_to_a_mesh_that_stops(mesh: Mesh, turns: int) -> None:
    def apply() -> asyncio.Task[Answer]:
        mesh.read = mesh.spec(agent("a", watch=("*.md",)), agent("new"))
        return mesh.ask("up")

    async def test() -> None:
        asked = await stopped_while(mesh, "relearn", turns, apply)
        with pytest.raises(Stopping):
            await asked
        assert all(process.gone for process in mesh.launched)

    run(test)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("by", ["command", "save"])
def test_the_mesh_stops_while_an_agent_is_removed(mesh: Mesh, turns: int, by: str) -> None:
    async def test() -> None:
        mesh.stubborn = {"goes"}
        async with mesh.up(mesh.spec(agent("a"), agent("goes"))):
            mesh.read = mesh.spec(agent("a"), agent("new"))
            if by == "save":
                mesh.supervisor.selection.soon(mesh.supervisor._config_changed)
            asked = mesh.ask("apply") if by == "command" else None
            await settle()
            mesh.supervisor.finish()
            mesh.stubborn = set()
            after_turns(turns, mesh.processes["goes"].exits)
        assert mesh.exit_code == 0
        assert all(process.gone for process in mesh.launched)
        if asked is not None:
            with pytest.raises(Stopping):
                await asked

    run(test)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_whoever_asks_for_an_agent_in_the_moment_of_its_removal_gets_an_answer(
    mesh: Mesh, turns: int, verb: str
) -> None:
    async def test() -> None:
        mesh.stubborn = {"goes"}
        async with mesh.up(mesh.spec(agent("a"), agent("goes"))):
            mesh.read = mesh.spec(agent("a"))
            applying = mesh.ask("apply")
            await settle()
            mesh.stubborn = set()
            asked: list[asyncio.Task[Answer]] = []
            after_turns(turns, lambda: asked.append(mesh.ask(verb, "goes")))
            mesh.processes["goes"].exits(Exit(0))
            await settle()
            async with asyncio.timeout(60):
                await asyncio.wait([applying, *asked])
            assert isinstance(asked[0].exception(), UnknownAgent | None)
            assert all(process.gone for process in mesh.launched if process is not mesh.processes["a"])

    run(test)


def test_one_that_is_being_removed_is_not_started_again_for_nobody(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.stubborn = {"goes"}
        async with mesh.up(mesh.spec(agent("a"), agent("goes"))):
            mesh.read = mesh.spec(agent("a"))
            applying = mesh.ask("apply")
            await settle()
            starting = mesh.ask("start", "goes")
            await settle()
            assert not applying.done()
            mesh.processes["goes"].exits(Exit(0))
            assert (await applying).ok
            assert "stopped meanwhile" in (await starting).outcomes[0].text
            assert mesh.happened == ["+a", "+goes", "-goes"]

    run(test)


@pytest.mark.parametrize("removed", ["a", "b"])
def test_an_agent_that_goes_while_the_start_looks_at_them_is_not_started(
    mesh: Mesh, removed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each will import ahead is found out one after the other; mesh.toml is saved while ``a`` is looked at."""

    async def test() -> None:
        looked = asyncio.Event()
        found: list[str] = []

        async def wanted(self: AgentPreparation, spec: AgentSpec) -> Wanted:
            await self.ground.selection.preview(spec.name)
            if spec.name == "a":
                await looked.wait()
            found.append(spec.name)
            return Wanted(spec.name, "auto", "python", (), {}, "/")

        expected: list[str] = []
        monkeypatch.setattr(AgentPreparation, "wanted", wanted)
        monkeypatch.setattr(Warmth, "expect", lambda self, wanted: expected.extend(one.agent for one in wanted))
        spec = mesh.spec(*map(agent, "abc"))
        async with mesh.up(spec):
            mesh.read = mesh.spec(*(one for one in spec.agents.values() if one.name != removed))
            assert (await mesh.ask("apply")).ok
            looked.set()
            await settle()
            left = sorted(mesh.read.agents)
            assert (found, expected) == (["a", "c"] if removed == "b" else ["a", "b", "c"], left)
            assert sorted(mesh.processes) == left

    run(test)


@pytest.mark.parametrize("words", [("start", "a"), ("restart",), ("reload",), ("stop",), ("watch-status",)])
def test_commands_while_one_is_removed_already_and_another_not_yet(mesh: Mesh, words: tuple[str, ...]) -> None:
    async def test() -> None:
        mesh.stubborn = {"slow"}
        gone = agent("gone", profiles=("x",))
        async with mesh.up(mesh.spec(agent("a", "gone"), gone, agent("slow")), profiles=("x",)):
            mesh.read = mesh.spec(agent("a"))
            applying = mesh.ask("apply")
            await settle()
            assert mesh.supervisor.members.keys() == {"a", "slow"}
            asked = mesh.ask(*words)
            await settle()
            mesh.stubborn = set()
            mesh.processes["slow"].exits(Exit(0))
            assert (await applying).ok
            answer = await asked
            body = answer.body or {}
            named = [one.agent for one in answer.outcomes] or list(body["agents"])
            assert named[:1] == ["a"]
            assert "gone" not in named

    run(test)


@pytest.mark.parametrize("turns", TURNS)
def test_the_mesh_stops_while_somebody_takes_an_agent_over(
    mesh: Mesh, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meshsup run` is told how to start it once interpreters were asked; nothing may wait for it afterwards."""

    async def test() -> None:
        known = asyncio.Event()

        async def program(self: AgentPreparation, spec: AgentSpec, generation: int) -> Program:
            await known.wait()
            return Program(("sh",), {}, Path("/"))

        monkeypatch.setattr(AgentPreparation, "program", program)
        async with mesh.up(mesh.spec(agent("a", port=1))):
            asked = mesh.ask("hold", "a", pid=os.getppid())
            await settle()
            mesh.supervisor.finish()
            after_turns(turns, known.set)
        with pytest.raises(Stopping):
            await asked

    run(test)


@pytest.mark.parametrize("turns", range(12))
def test_a_stop_in_the_first_moments_leaves_nobody_watching(
    mesh: Mesh, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watching begins when the registry's process is on its way, or when it is gone before that."""

    async def test() -> None:
        started: list[Watcher] = []
        monkeypatch.setattr(Watcher, "start", lambda self, roots, files: started.append(self))
        monkeypatch.setattr(Watcher, "stop", lambda self: started.remove(self))
        mesh.slow = {"registry"}
        spec = mesh.spec(agent("a"))
        watched = dataclasses.replace(spec, registry=RegistrySpec(), watch=WatchSpec(enabled=True))
        after_turns(turns, lambda: mesh.supervisor.finish())
        async with mesh.up(watched):
            pass
        assert started == []

    run(test)
