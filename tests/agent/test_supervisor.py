"""The whole mesh without a process: real supervisor, commands and applying on fake instances and virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from mesh_supervisor.errors import ConfigError, MeshError, UnknownAgent
from mesh_supervisor.host.inputs import InputFinder
from mesh_supervisor.host.interpreter import Interpreter
from mesh_supervisor.lifecycle import Exit, Phase, phase
from mesh_supervisor.spec import (
    AgentSpec,
    Condition,
    CrashLoop,
    Dependency,
    LogSpec,
    Mode,
    WatchSpec,
)
from tests.agent.meshes import Mesh, agent
from tests.agent.virtual import now, run, settle

# ---- before anything is started --------------------------------------------------------------------------------------


def test_a_venv_of_a_stranger_is_said_for_any_program(mesh: Mesh) -> None:
    """A command line like ``uvicorn app:app`` is not found without it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    python = mesh.root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

    async def test() -> None:
        spec = dataclasses.replace(agent("a"), directory=mesh.root)
        async with mesh.up(mesh.spec(spec)):
            assert f"(nearest .venv ({mesh.root}/.venv))" in mesh.said()
        os.chown(mesh.root / ".venv", 54321, 54321)
        mesh.root.chmod(0o1777)
        async with mesh.up(mesh.spec(spec)):
            assert f"; not {mesh.root}/.venv, which belongs to uid 54321 (`python` takes it))" in mesh.said()
        async with mesh.up(mesh.spec(agent("a"))):
            assert "python: " not in mesh.said()

    run(test)


def test_what_up_was_asked_for_is_wanted_before_it_is_started(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreters are asked first, which takes as long as they take; `up --wait` looks meanwhile."""
    really = InputFinder.interpreter_of

    async def test() -> None:
        asked, answers = asyncio.Event(), asyncio.Event()

        async def slowly(self: InputFinder, spec: AgentSpec) -> Interpreter:
            asked.set()
            await answers.wait()
            return await really(self, spec)

        monkeypatch.setattr(InputFinder, "interpreter_of", slowly)
        spec = mesh.spec(agent("a", "db"), agent("db"), agent("extra", profiles=("x",)))
        async with mesh.up(spec):
            assert asked.is_set() and mesh.happened == []
            assert seen(mesh) == {
                "a": ("waiting", "to be started", True),
                "db": ("waiting", "to be started", True),
                "extra": ("stopped", "", False),
            }
            answers.set()
            await settle()
            assert {name: wanted for name, (_, _, wanted) in seen(mesh).items()} == {
                "a": True, "db": True, "extra": False,
            }  # fmt: skip
            assert mesh.supervisor.coming == set()

    run(test)


def seen(mesh: Mesh) -> dict[str, tuple[str, str, bool]]:
    """{agent: (state, detail, wanted)} as `ps` has them."""
    return {view.name: (view.state, view.detail, view.wanted) for view in mesh.commands.snapshot().agents}


# ---- order -----------------------------------------------------------------------------------------------------------


def test_dependencies_start_first_and_stop_last(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("web", "api"), agent("api", "db"), agent("db"))):
            assert mesh.happened == ["+db", "+api", "+web"]
        assert mesh.happened[3:] == ["-web", "-api", "-db"]
        assert mesh.exit_code == 0

    run(test)


def test_one_waits_for_readiness_or_only_for_the_start(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.slow = {"db"}
        begun = Dependency("db", Condition.STARTED)
        async with mesh.up(mesh.spec(agent("a", "db"), agent("b", begun), agent("db"))):
            assert mesh.happened == ["+db", "+b"]
            assert mesh.phases()["a"] == "waiting"
            mesh.processes["db"].gets_ready()
            await settle()
            assert mesh.happened == ["+db", "+b", "+a"]

    run(test)


def test_only_those_named_with_what_they_need(mesh: Mesh) -> None:
    async def test() -> None:
        spec = mesh.spec(agent("a", "db"), agent("b"), agent("db"), agent("extra", profiles=("x",)))
        async with mesh.up(spec, "a"):
            assert mesh.happened == ["+db", "+a"]
            assert (await mesh.ask("up", profiles=["x"])).ok
            await settle()
            assert mesh.happened[2:] in (["+b", "+extra"], ["+extra", "+b"])

    run(test)


def test_what_does_not_stop_in_time_is_killed(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.stubborn = {"db"}
        async with mesh.up(mesh.spec(agent("a", "db"), agent("db"), stop_timeout=5.0)):
            mesh.supervisor.finish()
            await asyncio.sleep(4)
            assert mesh.happened[2:] == ["-a", "-db"]
            await asyncio.sleep(2)
            assert mesh.happened[4:] == ["!db"]
        assert now() < 7

    run(test)


def test_asked_twice_means_at_once(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.stubborn = {"a", "db"}
        async with mesh.up(mesh.spec(agent("a", "db"), agent("db"))):
            mesh.supervisor.finish()
            await settle()
            mesh.supervisor.finish()
            await settle()
            assert {"!a", "!db"} <= set(mesh.happened)
        assert now() < 1

    run(test)


def test_an_essential_agent_that_ended_for_good_ends_the_mesh(mesh: Mesh) -> None:
    async def test() -> None:
        keys: Mapping[str, Any] = {"essential": True, "crashloop": CrashLoop(crashes=1)}
        async with mesh.up(mesh.spec(agent("a", **keys), agent("b"), mode=Mode.PROD)):
            mesh.processes["a"].exits(Exit(3))
            async with asyncio.timeout(10):
                await mesh.supervisor.over.wait()
        assert mesh.exit_code == 1

    run(test)


# ---- dependencies that are started again -----------------------------------------------------------------------------


def test_a_dependent_is_started_again_with_its_dependency_if_it_says_so(mesh: Mesh) -> None:
    async def test() -> None:
        again = Dependency("db", restart=True)
        async with mesh.up(mesh.spec(agent("a", again), agent("b", "db"), agent("db"))):
            mark = len(mesh.happened)
            mesh.processes["db"].exits()
            await settle()
            assert mesh.since(mark) == ["+db", "-a", "+a"]

    run(test)


def test_a_dependent_that_waited_is_started_once(mesh: Mesh) -> None:
    """Its dependency crashed before it was ready for the first time: there is nothing to start again."""

    async def test() -> None:
        mesh.slow = {"db"}
        async with mesh.up(mesh.spec(agent("a", Dependency("db", restart=True)), agent("db"))):
            mesh.slow = set()
            mesh.processes["db"].exits()
            await settle()
            assert mesh.happened == ["+db", "+db", "+a"]
            assert mesh.supervisor.members["a"].state.generation == 1

    run(test)


# ---- commands --------------------------------------------------------------------------------------------------------


def test_stop_and_start_by_name_and_glob(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("web1", "db"), agent("web2", "db"), agent("db"))):
            mark = len(mesh.happened)
            answer = await mesh.ask("stop", "web*", "db")
            assert answer.ok
            assert [outcome.agent for outcome in answer.outcomes] == ["web1", "web2", "db"]
            assert mesh.since(mark)[-1] == "-db"
            mark = len(mesh.happened)
            assert (await mesh.ask("start", "web1")).ok
            assert mesh.since(mark) == ["+db", "+web1"], "what it needs comes up with it, and first"
            assert mesh.phases() == {"web1": "ready", "web2": "stopped", "db": "ready"}

    run(test)


def test_start_of_one_that_was_never_wanted_waits_for_what_it_needs(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.slow = {"db"}
        async with mesh.up(mesh.spec(agent("a"), agent("web", "db", profiles=("x",)), agent("db", profiles=("x",)))):
            starting = mesh.ask("start", "web")
            await settle()
            assert mesh.happened == ["+a", "+db"]
            mesh.processes["db"].gets_ready()
            assert (await starting).ok
            assert mesh.happened == ["+a", "+db", "+web"]

    run(test)


def test_start_of_what_runs_is_answered_at_once(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            assert (await mesh.ask("start", "a")).ok
            assert mesh.happened == ["+a"]

    run(test)


def test_reload_of_a_stopped_agent_is_refused_and_an_edit_does_not_start_it(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"), agent("b"))):
            await mesh.ask("stop", "a")
            answer = await mesh.ask("reload", "a")
            assert answer.exit_code == 1
            assert "meshsup start a" in answer.outcomes[0].text
            answer = await mesh.ask("reload")
            assert [outcome.agent for outcome in answer.outcomes] == ["b"]

    run(test)


def test_a_restart_that_fails_says_why(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.slow = {"a"}
            asked = mesh.ask("restart", "a")
            await settle()
            mesh.processes["a"].exits(Exit(1, None, "NameError: x"), permanent=True)
            answer = await asked
            assert answer.exit_code == 1
            assert "NameError: x" in answer.outcomes[0].text

    run(test)


@pytest.mark.parametrize(
    "verb", ["start", "stop", "restart", "reload", "up", "watch-status", "watch-enable", "watch-disable"]
)
@pytest.mark.parametrize("name", ["nobody", "meshsup", "../a", ""])
def test_a_name_that_no_agent_has(mesh: Mesh, verb: str, name: str) -> None:
    """The supervisor's own log has a name, but it is no agent."""

    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            with pytest.raises(UnknownAgent):
                await mesh.ask(verb, name)
            assert mesh.phases() == {"a": "ready"}

    run(test)


def test_up_of_a_name_that_no_agent_has(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            for name in ("meshsup", "registry", "nobody"):
                with pytest.raises(UnknownAgent):
                    mesh.commands.known([name])
            assert mesh.commands.known(["*"]) == ["a"]

    run(test)


def test_the_supervisors_own_log_can_be_asked_for(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.supervisor.say("hello")
            assert [line.text for line in mesh.commands.recent_logs(["meshsup"], 1)] == ["hello"]

    run(test)


def test_nothing_is_started_while_the_mesh_stops(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.stubborn = {"a"}
        async with mesh.up(mesh.spec(agent("a"))):
            assert (await mesh.ask("down")).ok
            await settle()
            with pytest.raises(MeshError, match="is stopping"):
                await mesh.ask("start", "a")
            assert (await mesh.ask("down")).ok
            await settle()
            assert "!a" not in mesh.happened, "asking twice is no second Ctrl-C"

    run(test)


# ---- mesh.toml -------------------------------------------------------------------------------------------------------


def test_apply_adds_removes_and_restarts_and_leaves_the_rest_alone(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("same"), agent("goes"), agent("changes"))):
            mark = len(mesh.happened)
            mesh.read = mesh.spec(agent("same"), agent("changes", args=("--x",)), agent("new"))
            answer = await mesh.ask("apply")
            await settle()
            assert answer.body is not None
            assert (answer.body["added"], answer.body["removed"]) == (["new"], ["goes"])
            assert sorted(mesh.since(mark)) == ["+changes", "+new", "-changes", "-goes"]
            assert mesh.phases() == {"same": "ready", "changes": "ready", "new": "ready"}
            mark = len(mesh.happened)
            assert (await mesh.ask("apply")).lines == ("nothing changes",)
            assert mesh.since(mark) == []

    run(test)


def test_an_added_agent_starts_if_its_profile_was_chosen_at_up(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a")), profiles=("extra",)):
            extra, other = agent("x", profiles=("extra",)), agent("y", profiles=("other",))
            mesh.read = mesh.spec(agent("a"), extra, other)
            await mesh.ask("apply")
            await settle()
            assert mesh.phases() == {"a": "ready", "x": "ready", "y": "stopped"}

    run(test)


def test_a_dry_run_changes_nothing(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.read = mesh.spec(agent("b"))
            answer = await mesh.ask("apply", dry_run=True)
            await settle()
            assert answer.lines == ("+ agents.b", "- agents.a")
            assert mesh.happened == ["+a"]

    run(test)


def test_an_invalid_mesh_toml_keeps_the_last_valid_one_and_is_said_once(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.read = ConfigError("mesh.toml: agents.a.port: no number")
            for _ in range(2):
                await mesh.supervisor._config_changed()
            assert mesh.supervisor.config_error == "mesh.toml: agents.a.port: no number"
            assert mesh.said().count("no number") == 1
            with pytest.raises(ConfigError):
                await mesh.ask("apply")
            assert mesh.phases() == {"a": "ready"}
            mesh.read = mesh.spec(agent("a"))
            await mesh.supervisor._config_changed()
            assert mesh.supervisor.config_error is None

    run(test)


def test_policies_of_a_changed_mesh_toml_need_no_restart(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.read = mesh.spec(agent("a", crashloop=CrashLoop(crashes=1)))
            await mesh.ask("apply")
            assert mesh.happened == ["+a"]
            mesh.slow = {"a"}
            mesh.processes["a"].exits()
            await settle()
            assert phase(mesh.supervisor.members["a"].state) is Phase.CRASHLOOP

    run(test)


def test_what_needs_down_and_up_stays_what_it_is(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            before = mesh.supervisor.mesh
            mesh.read = mesh.spec(agent("a"), mode=Mode.PROD, logs=LogSpec(keep=9))
            answer = await mesh.ask("apply")
            assert answer.body is not None
            assert answer.body["needs_down"] == ["mesh.mode", "logs.keep"]
            assert mesh.supervisor.mesh == before
            assert mesh.supervisor.members["a"].task.policy.dev

    run(test)


def test_other_globs_and_other_ignore_rules_need_no_restart(mesh: Mesh) -> None:
    async def test() -> None:
        notes = mesh.root / "notes.md"
        notes.touch()
        async with mesh.up(mesh.spec(agent("a"))):
            mesh.read = mesh.spec(agent("a", watch=("*.md",)))
            await mesh.ask("apply")
            assert await mesh.supervisor.selection.why(notes) != {}
            assert notes in mesh.supervisor.selection.files()
            ignoring = WatchSpec(enabled=False, ignore=("notes.md",))
            mesh.read = dataclasses.replace(mesh.spec(agent("a", watch=("*.md",))), watch=ignoring)
            await mesh.ask("apply")
            assert await mesh.supervisor.selection.why(notes) == {}
            assert notes not in mesh.supervisor.selection.agents["a"].inputs.paths
            assert mesh.happened == ["+a"]

    run(test)


def test_an_agent_that_was_stopped_by_hand_is_not_started_by_mesh_toml(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            await mesh.ask("stop", "a")
            mesh.read = mesh.spec(agent("a", args=("--x",)))
            await mesh.ask("apply")
            await settle()
            assert mesh.phases() == {"a": "stopped"}

    run(test)


def test_an_agent_is_removed_while_somebody_waits_for_its_stop(mesh: Mesh) -> None:
    async def test() -> None:
        mesh.stubborn = {"a"}
        async with mesh.up(mesh.spec(agent("a"), agent("b"))):
            mesh.read = mesh.spec(agent("b"))
            applying = mesh.ask("apply")
            await settle()
            stopping = mesh.ask("stop", "a")
            await settle()
            mesh.processes["a"].exits(Exit(0))
            assert (await applying).ok
            assert (await stopping).ok
            assert mesh.phases() == {"b": "ready"}

    run(test)


@pytest.mark.parametrize("verb", ["restart", "reload"])
def test_an_agent_is_removed_while_it_is_looked_at(mesh: Mesh, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"), agent("b"))):

            async def removed_meanwhile(name: str) -> None:
                mesh.read = mesh.spec(agent("b"))
                await mesh.ask("apply")

            monkeypatch.setattr(mesh.supervisor.selection, "accept", removed_meanwhile)
            with pytest.raises(UnknownAgent):
                await mesh.ask(verb, "a")

    run(test)


def test_where_watching_is_off_switching_one_on_reloads_nothing(mesh: Mesh) -> None:
    async def test() -> None:
        async with mesh.up(mesh.spec(agent("a"))):
            assert (await mesh.ask("watch-disable", "a")).ok
            mesh.supervisor.selection.agents["a"].withheld = "mesh.toml: args"
            answer = await mesh.ask("watch-enable", "a")
            await settle()
            assert answer.outcomes[0].text == "is watched as soon as watching is on"
            assert mesh.happened == ["+a"]

    run(test)
