"""How an instance comes to be, up to the moment before its process; and what becomes of it in the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.errors import MeshError, PortTaken
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.instance import Watchers
from mesh_supervisor.host.interpreter import Interpreter
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.impact import Inputs
from mesh_supervisor.launcher import AgentLauncher, AgentPreparation, Ground
from mesh_supervisor.lifecycle import Cause, Start
from mesh_supervisor.registry.client import Announcement
from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec, Register
from mesh_supervisor.target import Plain, Target

START = Start(Cause.START, "start", 0.0)
SILENT = Watchers(lambda line: None, lambda text: None, lambda text: None, lambda swept: None)


@dataclass
class FakeEnrolment:
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def issue(self, id: str, name: str, generation: int) -> None:
        self.asked.append(("issue", id))

    def announce(self, announcement: Announcement) -> None:
        self.asked.append(("announce", announcement.id))

    def withdraw(self, id: str) -> None:
        self.asked.append(("withdraw", id))


@dataclass
class FakeSelection:
    inputs: Inputs = field(default_factory=Inputs)

    async def look(self, agent: str) -> Inputs:
        return self.inputs


class FakeInterpreters:
    async def interpreter_of(self, spec: AgentSpec) -> Interpreter:
        return Interpreter(Path("/usr/bin/python3"), None, None, "the test's")

    def argv_of(self, spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]:
        assert isinstance(spec.command, CommandLine)
        return spec.command.argv

    async def roots(self, specs: Iterable[AgentSpec]) -> tuple[Path, ...]:
        return ()

    async def target_of(self, spec: AgentSpec, interpreter: Interpreter) -> Target | Plain:
        return Plain("not asked for", "")

    async def inputs_of_running(self, spec: AgentSpec, pid: int) -> Inputs | None:
        return None


class FakeWarmth:
    def how(self, agent: str) -> None:
        return None


class Yard:
    """One agent whose program does not exist, so that nothing is ever spawned."""

    def __init__(self, root: Path, **spec: Any) -> None:
        self.spec = AgentSpec("planner", CommandLine((str(root / "nowhere"),)), root, **spec)
        self.enrolment, self.selection, self.said = FakeEnrolment(), FakeSelection(), list[str]()
        self.state = StateDir.open(root / ".mesh")
        mesh = MeshSpec("demo", root / "mesh.toml", root, root / ".mesh")
        ground = Ground(
            mesh,
            self.state,
            {"PATH": "/usr/bin:/bin"},
            "http://127.0.0.1:8000",
            self.enrolment,  # type: ignore[arg-type]
            self.selection,  # type: ignore[arg-type]
            FakeInterpreters(),
            FakeWarmth(),  # type: ignore[arg-type]
        )
        self.preparation = AgentPreparation(ground, self.said.append)
        self.launcher = AgentLauncher(self.spec, self.preparation, self.state, SILENT, lambda: 0.0)

    def launch(self, generation: int = 1) -> None:
        async def main() -> None:
            await self.launcher.launch(generation, START)

        asyncio.run(main())

    def program(self) -> Program:
        return asyncio.run(self.preparation.program(self.spec, 1))


def test_no_program_no_instance_and_the_generation_is_spent(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    with pytest.raises(MeshError, match="no such file"):
        yard.launch(4)
    assert yard.launcher.instances == {}
    assert (yard.launcher.phases, yard.launcher.starts) == ({}, {4: START})
    assert StateDir.open(tmp_path / ".mesh").last_generation("planner") == 4


def test_an_id_is_taken_back_when_no_process_came_to_be(tmp_path: Path) -> None:
    yard = Yard(tmp_path, register=Register.SELF)
    with pytest.raises(MeshError, match="no such file"):
        yard.launch(4)
    assert yard.enrolment.asked == [("issue", "planner-0004"), ("withdraw", "planner-0004")]


def test_a_port_that_belongs_to_somebody_else_is_said_before_anything_is_issued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.launcher.holder_of", lambda port, host: f"nc (pid {port})")
    yard = Yard(tmp_path, port=8101, register=Register.SELF)
    with pytest.raises(PortTaken, match="already in use by nc"):
        yard.launch()
    assert yard.enrolment.asked == []
    assert yard.state.last_generation("planner") == 0


def test_a_state_dir_that_cannot_be_written_is_said_and_the_agent_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StateDir, agent: str, generation: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateDir, "keep_generation", full)
    yard, said = Yard(tmp_path), list[str]()
    yard.launcher.watchers = replace(SILENT, slow=said.append)
    with pytest.raises(MeshError, match="no such file"):  # as far as its program
        yard.launch()
    assert said == [f"cannot write {tmp_path}/.mesh/generations.json: No space left on device; started all the same"]


# ---- who is registered -----------------------------------------------------------------------------------------------


def test_what_was_announced_is_withdrawn_whatever_mesh_toml_says_by_now(tmp_path: Path) -> None:
    yard = Yard(tmp_path, port=8101)
    yard.launcher.announce(1)
    yard.launcher.retune(replace(yard.spec, port=None, register=Register.NEVER))
    yard.launcher.withdraw(1)
    assert yard.enrolment.asked == [("announce", "planner-0001"), ("withdraw", "planner-0001")]


def test_what_registered_itself_is_withdrawn_whatever_it_imports_by_now(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.selection.inputs = Inputs(third_party=frozenset({"mesh"}))
    yard.program()
    assert yard.preparation.enrolled(yard.spec, 1) is not None
    yard.selection.inputs = Inputs()
    yard.program()
    assert yard.preparation.enrolled(yard.spec, 2) is None
    for generation in (1, 2):
        yard.launcher.withdraw(generation)
    assert yard.enrolment.asked == [("issue", "planner-0001"), ("withdraw", "planner-0001")]


def test_nothing_is_asked_for_an_agent_that_is_not_registered(tmp_path: Path) -> None:
    yard = Yard(tmp_path, port=8101, register=Register.NEVER)
    yard.launcher.announce(1)
    yard.launcher.withdraw(1)
    assert yard.enrolment.asked == []


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_that_nothing_can_be_registered_is_said_once(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    yard.program()
    yard.program()
    assert [text for text in yard.said if "is not registered" in text] == yard.said != []
    quiet = Yard(tmp_path, register=Register.NEVER)
    quiet.program()
    assert quiet.said == []


def test_a_warning_is_said_again_only_after_it_was_gone(tmp_path: Path) -> None:
    yard = Yard(tmp_path, register=Register.NEVER)
    for warning in ("no known inputs", "no known inputs", None, "no known inputs"):
        yard.selection.inputs = Inputs(warning=warning)
        yard.program()
    assert yard.said == ["no known inputs"] * 2


def test_the_agents_own_folder_is_made_and_private(tmp_path: Path) -> None:
    program = Yard(tmp_path).program()
    folder = Path(program.environ["MESHSUP_STATE_DIR"])
    assert folder == tmp_path / ".mesh/agents/planner"
    assert folder.stat().st_mode & 0o777 == 0o700
