"""`run` in a terminal, and `exec`: this process becomes the program, in an agent's interpreter, folder and environment.

It replaces this one: terminal, process group, stdin, stdout and exit code are the program's, so that a debugger works
and an MCP client can launch an agent over stdio. What a running mesh had of the agent is stopped before, and started
again when this process ends, however it does (holding.py). So who says what to become is looked at: ``obeyed``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from mesh_supervisor import environment
from mesh_supervisor.cli.offline import agent_of, program_of
from mesh_supervisor.cli.terminal import talk
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import Answer
from mesh_supervisor.control.near import of_agent
from mesh_supervisor.debugging import attaching
from mesh_supervisor.errors import MeshError, NotRunning
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.debugger import debug_port, refuse_without_debugpy, under_debugger
from mesh_supervisor.locate import Place


class NotFound(MeshError):
    """The command is not there. 127, as a shell would say it: 1 could be the command's own."""

    exit_code = 127


@dataclass(frozen=True, slots=True)
class Start:
    """How an agent is started. ``python``: its interpreter; ``words``: it as words for that, where that is known."""

    program: Program
    python: Path
    words: tuple[str, ...] = ()


def run(place: Place, agent: str, debug: Debug | None = None) -> NoReturn:
    """Become the agent, in the place of what the mesh has of it. Raises MeshError: nothing was stopped then."""
    client = Client(of_agent(place, agent), obeyed=True)
    debugger = _debugger(client, agent, debug) if debug is not None else None
    how = "run" if debug is None else "run --debug"
    try:
        start = _told(client.command("hold", agents=[agent], how=how))
        talk(f"{agent}: taken over from the mesh; it goes on there when this ends")
    except NotRunning:
        start = _alone(place, agent)
    if debugger is not None:
        start = debugger.around(start)
        talk(f"{agent}: {attaching(debugger.port, wait=debugger.wait)}")
    _become(start.program)


def execute(place: Place, agent: str, command: Sequence[str]) -> NoReturn:
    """Become ``command`` with everything around it as the agent has it."""
    program = _alone(place, agent, _registry_url(Client(of_agent(place, agent), obeyed=True))).program
    _become(Program(tuple(command), program.environ, program.directory))


def _alone(place: Place, agent: str, registry_url: str | None = None) -> Start:
    mesh, spec = agent_of(place, agent)
    return Start(*asyncio.run(program_of(mesh, spec, registry_url)))


def _registry_url(client: Client) -> str | None:
    try:
        return client.snapshot().registry_url
    except NotRunning:
        return None


def _told(answer: Answer) -> Start:
    """As a running mesh says it. Raises MeshError with its reason."""
    if not answer.ok or answer.body is None:
        error = MeshError(answer.error or "the supervisor does not say how it starts this agent")
        error.exit_code = answer.exit_code or 1
        raise error
    body = answer.body
    environ = environment.in_terminal(body["environ"], os.environ)
    program = Program(tuple(body["argv"]), environ, Path(body["directory"]))
    return Start(program, Path(body["python"]), tuple(body.get("words", ())))


# ---- under a debugger ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Debug:
    """``port`` None: 5678 or the next free one. ``wait``: the program starts when a debugger is attached."""

    port: int | None = None
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Debugger:
    """Where debugpy is to listen."""

    port: int
    wait: bool

    def around(self, start: Start) -> Start:
        """Raises MeshError for what is no Python program."""
        program = under_debugger(start.program, start.python, self.port, wait=self.wait, words=start.words)
        return replace(start, program=program)


def _debugger(client: Client, agent: str, debug: Debug) -> Debugger:
    """Whatever can go wrong with it is found out before anything is stopped. Raises MeshError."""
    try:
        start = _told(client.command("hold", agents=[agent], dry_run=True))
    except NotRunning:
        start = _alone(client.place, agent)
    refuse_without_debugpy(start.python, start.program)
    debugger = Debugger(debug_port(debug.port), debug.wait)
    debugger.around(start)
    return debugger


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
