"""Stand-in until selection lands."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from mesh_supervisor.host.interpreter import Interpreter, argv_of, find_interpreter
from mesh_supervisor.impact import Inputs
from mesh_supervisor.spec import AgentSpec
from mesh_supervisor.supervisor import Supervisor


class HostFinding:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def inputs_of(self, spec: AgentSpec) -> Inputs:
        return Inputs()

    async def broken(self, spec: AgentSpec, inputs: Inputs, changed: Collection[Path]) -> str | None:
        return None

    def forget_bytecode(self, changed: Iterable[Path]) -> None:
        return

    async def interpreter_of(self, spec: AgentSpec) -> Interpreter:
        return find_interpreter(spec, self._supervisor.shell)

    def argv_of(self, spec: AgentSpec, interpreter: Interpreter) -> tuple[str, ...]:
        return argv_of(spec, interpreter)

    async def inputs_of_running(self, spec: AgentSpec, pid: int) -> Inputs | None:
        return None
