"""A mesh in virtual time, whose processes and registry are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor import supervisor as under_test
from mesh_supervisor.applying import Applying
from mesh_supervisor.commands import Commands
from mesh_supervisor.control.messages import Answer
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.events import Bus
from mesh_supervisor.host.logs import LogHub
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.launcher import Phases, Standing
from mesh_supervisor.lifecycle import Hold, Order, Start, phase
from mesh_supervisor.news import Outputs
from mesh_supervisor.spec import (
    AgentSpec,
    CommandLine,
    Dependency,
    MeshSpec,
    RegistrySpec,
    WatchSpec,
)
from mesh_supervisor.supervisor import Supervisor
from tests.agent.fakes import FakeProcess
from tests.agent.test_enrolment import FakeRegistry
from tests.agent.virtual import settle


class Client(FakeRegistry):
    """In place of RegistryClient."""

    def __init__(self, url: str) -> None:
        super().__init__()

    async def aclose(self) -> None:
        return


class Launcher:
    """In place of AgentLauncher: processes that get ready at once, unless they are told to be ``slow``."""

    def __init__(self, mesh: Mesh, spec: AgentSpec) -> None:
        self._mesh, self.spec = mesh, spec
        self.instances: dict[int, Any] = {}
        self.starts: dict[int, Start] = {}
        self.phases: dict[int, Phases] = {}
        self.order = Order.STOP_FIRST
        self.standing = Standing()

    async def launch(self, generation: int, start: Start) -> FakeProcess:
        mesh, name = self._mesh, self.spec.name
        process = Process(mesh, name)
        mesh.processes[name] = process
        mesh.launched.append(process)
        mesh.happened.append(f"+{name}")
        if name not in mesh.slow:
            process.gets_ready()
        return process

    def announce(self, generation: int) -> None:
        return

    def withdraw(self, generation: int) -> None:
        return

    def retune(self, spec: AgentSpec) -> None:
        self.spec = spec

    def hold(self, wanted: Hold) -> None:
        self.held = wanted


class Process(FakeProcess):
    def __init__(self, mesh: Mesh, name: str) -> None:
        super().__init__(stubborn=name in mesh.stubborn)
        self._mesh, self._name = mesh, name

    @property
    def gone(self) -> bool:
        return self._ended.done()

    async def stop(self, *, at_once: bool, replaced: bool) -> None:
        self._mesh.happened.append(f"{'!' if at_once else '-'}{self._name}")
        await super().stop(at_once=at_once, replaced=replaced)


class Mesh:
    """``happened``: "+a" a launch, "-a" a stop, "!a" one without grace, in order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.happened: list[str] = []
        self.processes: dict[str, Process] = {}
        self.launched: list[Process] = []
        self.slow: set[str] = set()
        self.stubborn: set[str] = set()
        self.read: MeshSpec | ConfigError = self.spec()
        self.exit_code: int | None = None

    def spec(self, *agents: AgentSpec, **keys: Any) -> MeshSpec:
        return MeshSpec(
            "demo",
            self.root / "mesh.toml",
            self.root,
            self.root / ".mesh",
            parallel_starts=9,
            registry=RegistrySpec("external", url="http://reg:8000"),
            watch=WatchSpec(enabled=False),
            agents={agent.name: agent for agent in agents},
            **keys,
        )

    def load(self) -> MeshSpec:
        if isinstance(self.read, ConfigError):
            raise self.read
        return self.read

    @contextlib.asynccontextmanager
    async def up(self, spec: MeshSpec, *names: str, profiles: tuple[str, ...] = ()) -> AsyncIterator[None]:
        self.read = spec
        self.monkeypatch.setattr(under_test, "RegistryClient", Client)
        self.monkeypatch.setattr(under_test, "AgentLauncher", lambda spec, *rest, **keys: Launcher(self, spec))
        outputs = Outputs(LogHub(), Bus())
        self.supervisor = Supervisor(spec, StateDir.open(spec.state_dir), outputs)
        self.commands = Commands(self.supervisor, Applying(self.supervisor, self.load))
        running = asyncio.create_task(self.supervisor.run(names, profiles))
        await settle()
        try:
            yield
        finally:
            if not self.supervisor.over.is_set():
                self.supervisor.finish()
            if self.stubborn:
                self.supervisor.hurry()
            async with asyncio.timeout(60):  # of virtual time
                self.exit_code = await running

    def phases(self) -> dict[str, str]:
        return {name: str(phase(member.state)) for name, member in self.supervisor.members.items()}

    def said(self) -> str:
        return "\n".join(line.text for line in self.supervisor.outputs.hub.recent(["meshsup"], 1000))

    def ask(self, verb: str, *agents: str, **arguments: Any) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.commands.command(verb, {"agents": list(agents), **arguments}))

    def since(self, mark: int) -> list[str]:
        return self.happened[mark:]


def agent(name: str, *depends: str | Dependency, **keys: Any) -> AgentSpec:
    dependencies = tuple(Dependency(one) if isinstance(one, str) else one for one in depends)
    return AgentSpec(name, CommandLine(("sh",)), Path("/nowhere"), depends_on=dependencies, **keys)
