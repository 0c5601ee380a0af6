"""What `ps` shows, and `health` and `ls` in brief, taken from a supervisor when somebody asks; nothing is sampled while
nobody does."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mesh_supervisor import __version__
from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.control.messages import AgentView, Snapshot, WarmView
from mesh_supervisor.host import procfs
from mesh_supervisor.host.inputs import count
from mesh_supervisor.host.spawn import tree, usage
from mesh_supervisor.host.warm import WarmStatus
from mesh_supervisor.launcher import AgentPreparation
from mesh_supervisor.lifecycle import Agent, Phase, phase
from mesh_supervisor.member import REGISTRY, Member
from mesh_supervisor.spec import CommandLine, Kind, Module, Register, Script
from mesh_supervisor.supervisor import Supervisor
from mesh_supervisor.wording import hide

HELD = "held"
"""The word for an agent that runs in a person's terminal. Not a phase: the machine knows it as unwanted."""

TO_BE_STARTED = "to be started"

SLOW_START = 2.0
"""Seconds after which a start says what it waits for."""


def take(supervisor: Supervisor) -> Snapshot:
    mesh = supervisor.mesh
    return Snapshot(
        name=mesh.name,
        file=str(mesh.file),
        state_dir=str(supervisor.state.path),
        pid=os.getpid(),
        version=__version__,
        mode=str(mesh.mode),
        started_at=_started_at(supervisor),
        watching=supervisor.watcher is not None,
        registry_url=supervisor.registry_url,
        registry_up=supervisor.registry_serves(),
        config_error=supervisor.config_error,
        warnings=supervisor.warnings(),
        agents=tuple(_view(supervisor, name, member) for name, member in supervisor.members.items()),
        warm=tuple(map(_warm, supervisor.warmth.status())),
    )


def brief(supervisor: Supervisor) -> Brief:
    """No process is looked at: asked every few seconds it must cost nothing, and not shift what `ps` measures."""
    mesh = supervisor.mesh
    return Brief(
        name=mesh.name,
        file=str(mesh.file),
        state_dir=str(supervisor.state.path),
        pid=os.getpid(),
        version=__version__,
        mode=str(mesh.mode),
        started_at=_started_at(supervisor),
        uptime=max(0.0, time.time() - supervisor.started_at),
        registry_url=supervisor.registry_url,
        begun=supervisor.begun,
        stopping=supervisor.over.is_set(),
        gave_up=supervisor.gave_up and hide(supervisor.gave_up, mesh.secrets),
        agents=tuple(_in_brief(supervisor, name, member) for name, member in supervisor.members.items()),
        alone=mesh.alone,
    )


def _in_brief(supervisor: Supervisor, name: str, member: Member) -> AgentBrief:
    state, word = member.state, phase(member.state)
    looping = word is Phase.CRASHLOOP and not member.task.policy.dev
    coming = name in supervisor.coming
    said, detail = _state(member, coming, asyncio.get_running_loop().time())
    return AgentBrief(
        name=name,
        kind=_kind(name, member),
        state=said,
        detail=hide(detail, supervisor.mesh.secrets),
        wanted=member.wanted or coming,
        ready=state.serving is not None or word is Phase.DONE or _is_held(member),
        essential=member.spec.essential,
        given_up=looping or (word is Phase.FAILED and state.ended is not None),
    )


def _started_at(supervisor: Supervisor) -> str:
    return datetime.fromtimestamp(supervisor.started_at, UTC).isoformat(timespec="milliseconds")


def _kind(name: str, member: Member) -> Literal["agent", "task", "registry"]:
    if name == REGISTRY:
        return "registry"
    return "task" if member.spec.kind is Kind.TASK else "agent"


def _warm(one: WarmStatus) -> WarmView:
    return WarmView(one.kind, one.state, one.pid, one.agents, one.modules, usage(tree(one.pid))[1])


def _view(supervisor: Supervisor, name: str, member: Member) -> AgentView:
    state, spec = member.state, member.spec
    process = _process(member)
    cpu, memory = _use(member, process)
    tracked = supervisor.selection.agents.get(name)
    preparation = member.preparation if isinstance(member.preparation, AgentPreparation) else None
    inputs = tracked.inputs if tracked is not None else None
    now = asyncio.get_running_loop().time()
    coming = name in supervisor.coming
    said, detail = _state(member, coming, now)
    standing = member.launcher.standing
    view = AgentView(
        name=name,
        kind=_kind(name, member),
        state=said,
        detail=detail,
        pid=process.pid if process is not None else None,
        port=spec.port,
        host=spec.host,
        generation=state.generation,
        uptime=now - process.since if process is not None else None,
        restarts=state.restarts,
        cpu=cpu,
        memory=memory,
        registered=_registered(supervisor, member, preparation),
        last=member.last,
        failure=state.patience.failure,
        rejection=state.rejection,
        retry_in=None if state.patience.retry_at is None else max(0.0, state.patience.retry_at - now),
        interpreter=_interpreter(preparation),
        command=_command(member),
        directory=str(spec.directory),
        watched=bool(supervisor.watcher and tracked and tracked.enabled and inputs and inputs.watched),
        inputs=count(inputs) if inputs is not None else 0,
        warnings=_warnings(preparation),
        wanted=member.wanted or coming,
        order=standing.order,
        start=standing.start,
        runtime=standing.runtime,
        limits=standing.limits,
    )
    return _hidden(view, supervisor.mesh.secrets)


@dataclass(frozen=True, slots=True)
class _Running:
    """The process that a row is about; ``since`` in loop time."""

    pid: int
    since: float


def _state(member: Member, coming: bool, now: float) -> tuple[str, str]:
    """(state, detail). ``coming``: its start is decided, and has not reached it."""
    if coming:
        return str(Phase.WAITING), TO_BE_STARTED
    return HELD if _is_held(member) else str(phase(member.state)), _detail(member, now)


def _is_held(member: Member) -> bool:
    """A person has it, and what the mesh had of it is gone."""
    return member.held is not None and not member.state.alive


def _process(member: Member) -> _Running | None:
    """What a person holds; else the one that serves, else the one that comes, else the one that goes."""
    if member.held is not None and _is_held(member):
        return _Running(member.held.pid, member.held.since)
    living = member.launcher.instances
    order = [i for i in (member.state.serving, member.state.incoming, *member.state.draining) if i is not None]
    found = next((living[i.generation] for i in order if i.generation in living), None)
    return None if found is None else _Running(found.pid, found.spawned_at)


def _use(member: Member, process: _Running | None) -> tuple[float | None, int | None]:
    """(percent of one core since the last look, or since its start; resident bytes) of its whole tree."""
    if process is None or not procfs.ours:
        member.cpu_seen = None
        return None, None
    spent, memory = usage(tree(process.pid))
    now = asyncio.get_running_loop().time()
    since, before = member.cpu_seen or (process.since, 0.0)
    if since < process.since or spent < before:  # another instance by now, or a child of it has gone
        since, before = process.since, 0.0
    if now - since >= 0.2:
        member.cpu_seen = (now, spent)
    return round(100 * (spent - before) / max(now - since, 0.01), 1), memory


def _detail(member: Member, now: float) -> str:
    state = member.state
    word = phase(state)
    if member.held is not None and _is_held(member):
        return f"{member.held.how}, pid {member.held.pid}"
    if state.rejection is not None:
        return f"reload rejected: {state.rejection}"
    if word in (Phase.BACKOFF, Phase.CRASHLOOP):
        return _retry(state, now)
    if word is Phase.FAILED:
        return str(state.patience.failure)
    if word is Phase.WAITING:
        return "for " + ", ".join(state.blocked) if state.blocked else TO_BE_STARTED
    if word is Phase.STARTING and state.incoming is not None and state.incoming.spawned_at is None:
        return "waits for its turn"
    if word in (Phase.STARTING, Phase.RELOADING) and state.incoming is not None:
        instance = member.launcher.instances.get(state.incoming.generation)
        if instance is not None and now - instance.spawned_at > SLOW_START:
            return member.status or instance.said
    return member.status


def _retry(state: Agent, now: float) -> str:
    failure, retry_at = state.patience.failure or "", state.patience.retry_at
    return failure if retry_at is None else f"{failure}; next try in {max(0.0, retry_at - now):.0f}s"


def _registered(
    supervisor: Supervisor, member: Member, preparation: AgentPreparation | None
) -> Literal["yes", "no", "never", "-"]:
    if preparation is None:
        return "-"
    if preparation.registrar(member.spec) is Register.NEVER:
        return "never"
    serving = member.state.serving
    generation = serving.generation if serving is not None else member.held.generation if member.held else None
    if generation is None or not supervisor.registry_serves():
        return "no"
    return "yes" if supervisor.enrolment.is_registered(preparation.id_of(member.spec, generation)) else "no"


def _interpreter(preparation: AgentPreparation | None) -> str | None:
    found = preparation.interpreter if preparation is not None else None
    return None if found is None else f"{found.python} ({found.why})" if found.why else str(found.python)


def _command(member: Member) -> str:
    spec = member.spec
    match spec.command:
        case Script(path):
            words = [_short(path, spec.directory), *spec.args]
        case Module(name):
            words = ["-m", name, *spec.args]
        case CommandLine(argv):
            words = [*argv, *spec.args]
    return shlex.join(words)


def _short(path: Path, directory: Path) -> str:
    return str(path.relative_to(directory)) if path.is_relative_to(directory) else str(path)


def _warnings(preparation: AgentPreparation | None) -> tuple[str, ...]:
    if preparation is None:
        return ()
    warning = preparation.inputs.warning
    return (*((warning,) if warning else ()), *preparation.inputs.notes)


def _hidden(view: AgentView, secrets: frozenset[str]) -> AgentView:
    def safe(text: str | None) -> str | None:
        return None if text is None else hide(text, secrets)

    return replace(
        view,
        detail=safe(view.detail) or "",
        last=safe(view.last) or "",
        failure=safe(view.failure),
        rejection=safe(view.rejection),
        command=safe(view.command) or "",
    )
