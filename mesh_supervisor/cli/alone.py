"""`run` and `exec`: this process becomes the program, in an agent's interpreter, folder and environment.

No supervisor, no registration, no mark of ours: terminal, process group, stdin and stdout stay what they are, so that a
debugger works and an MCP client can launch an agent over stdio.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import NoReturn

from mesh_supervisor.cli.offline import agent_of, program_of
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import Snapshot
from mesh_supervisor.errors import MeshError, NotRunning
from mesh_supervisor.host.children import Program
from mesh_supervisor.locate import Place


class NotFound(MeshError):
    """The command is not there. 127, as a shell would say it: 1 could be the command's own."""

    exit_code = 127


def run(place: Place, agent: str) -> NoReturn:
    """Become the agent. Raises MeshError when it runs in the mesh already."""
    snapshot = _snapshot(place)
    _refuse_twice(snapshot, agent)
    _become(_program(place, agent, snapshot))


def execute(place: Place, agent: str, command: Sequence[str]) -> NoReturn:
    """Become ``command`` with everything around it as the agent has it."""
    program = _program(place, agent, _snapshot(place))
    _become(Program(tuple(command), program.environ, program.directory))


def _program(place: Place, agent: str, snapshot: Snapshot | None) -> Program:
    mesh, spec = agent_of(place, agent)
    return asyncio.run(program_of(mesh, spec, snapshot.registry_url if snapshot is not None else None))


def _snapshot(place: Place) -> Snapshot | None:
    try:
        return Client(place).snapshot()
    except NotRunning:
        return None


def _refuse_twice(snapshot: Snapshot | None, agent: str) -> None:
    """Two of one agent would fight for its port and its name in the registry."""
    for view in snapshot.agents if snapshot is not None else ():
        if view.name == agent and (view.pid is not None or view.wanted):
            pid = f" (pid {view.pid})" if view.pid is not None else f" ({view.state})"
            raise MeshError(
                f"{agent} runs in the mesh already{pid}; "
                f"`meshsup stop {agent}` first, and `meshsup start {agent}` afterwards"
            )


def _become(program: Program) -> NoReturn:
    # Python ignores these two for itself, and what is ignored stays so across an exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(program.directory)
        os.execvpe(program.argv[0], list(program.argv), dict(program.environ))
    except FileNotFoundError:
        raise NotFound(f"{program.argv[0]}: no such command in {program.directory} or PATH") from None
    except OSError as error:
        raise NotFound(f"{program.argv[0]}: cannot be run: {error.strerror}") from error
