"""What people ask of a running mesh, and what it comes to for each agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mesh_supervisor import snapshot
from mesh_supervisor.agent import AgentTask
from mesh_supervisor.applying import NO_CHANGE, Applying
from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.messages import Answer, Outcome, Snapshot
from mesh_supervisor.errors import MeshError, UnknownAgent, UsageError, suggestion
from mesh_supervisor.events import Event
from mesh_supervisor.explain import explain, watch_lines, watch_row
from mesh_supervisor.holding import Holding, by_whom
from mesh_supervisor.host.logs import SUPERVISOR, Line
from mesh_supervisor.lifecycle import (
    EditRejected,
    InputsChanged,
    RestartAsked,
    Unwanted,
    Verdict,
    Wanted,
    Wish,
    verdict_down,
    verdict_up,
)
from mesh_supervisor.lifecycle import Event as LifeEvent
from mesh_supervisor.member import REGISTRY, Member
from mesh_supervisor.ordering import start_levels, with_dependencies
from mesh_supervisor.supervisor import Supervisor

Arguments = Mapping[str, Any]

_OWN = frozenset({REGISTRY, SUPERVISOR})


class Commands:
    """What control/server.py calls Controlled. Names from clients are looked up, never used as paths."""

    def __init__(self, supervisor: Supervisor, applying: Applying) -> None:
        self._supervisor, self._applying = supervisor, applying
        self._holding = Holding(supervisor)
        self._verbs: Mapping[str, Callable[[Arguments], Awaitable[Answer]]] = {
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "reload": self._reload,
            "apply": self._apply,
            "down": self._down,
            "up": self._up,
            "hold": self._hold,
            "why": self._why,
            "watch-status": self._watch_status,
            "watch-enable": self._watch_enable,
            "watch-disable": self._watch_disable,
        }

    def known(self, words: Collection[str]) -> list[str]:
        """The agents that these names and globs mean, before any of them was added. Raises UnknownAgent."""
        return _matching(words, list(self._supervisor.mesh.agents))

    def check_profiles(self, profiles: Collection[str]) -> None:
        """Raises UsageError for one that no agent is in: nothing of what was meant would be started."""
        known = sorted({profile for spec in self._supervisor.mesh.agents.values() for profile in spec.profiles})
        for name in profiles:
            if name not in known:
                raise UsageError(f"no agent is in a profile '{name}'{suggestion(name, known)}")

    def snapshot(self) -> Snapshot:
        return snapshot.take(self._supervisor)

    def brief(self) -> Brief:
        return snapshot.brief(self._supervisor)

    async def command(self, verb: str, arguments: Arguments) -> Answer:
        """Raises MeshError: a name that is unknown, a file that cannot be read."""
        if verb != "down":
            self._supervisor.check_going()
        return await self._verbs[verb](arguments)

    def follow_events(self) -> AsyncIterator[Event]:
        return self._supervisor.outputs.bus.subscribe()

    def follow_logs(self, agents: Collection[str], lines: int) -> AsyncIterator[Line]:
        return self._supervisor.outputs.hub.subscribe(self._logs_of(agents), lines)

    def recent_logs(self, agents: Collection[str], lines: int) -> Sequence[Line]:
        return self._supervisor.outputs.hub.recent(self._logs_of(agents), lines)

    # ---- start, stop, restart, reload ------------------------------------------------------------------------------

    async def _start(self, arguments: Arguments) -> Answer:
        names, held = self._not_held(self._chosen(arguments))
        self._supervisor.want(held)
        agents = self._supervisor.mesh.agents
        self._supervisor.want([n for n in with_dependencies(agents, names) if n not in names])
        if REGISTRY in names:
            self._supervisor.members[REGISTRY].task.post(Wanted("asked to start"))
        started = await asyncio.gather(*(self._ask_up(name, Wanted("asked to start"), True) for name in names))
        return _answer([*started, *(self._left(name, True, "it is started when that ends") for name in held)])

    async def _stop(self, arguments: Arguments) -> Answer:
        names, held = self._not_held(self._chosen(arguments))
        outcomes = self._hands_off(held, arguments)
        for level in [*reversed(start_levels(self._supervisor.mesh.agents)), [REGISTRY]]:
            outcomes += await asyncio.gather(*(self._ask_down(name) for name in level if name in names))
        return _answer(outcomes)

    async def _restart(self, arguments: Arguments) -> Answer:
        names, held = self._not_held(self._chosen(arguments))
        force = bool(arguments.get("force"))
        done = await asyncio.gather(*(self._restart_one(name, force) for name in names))
        return _answer([*done, *self._hands_off(held, arguments)])

    async def _restart_one(self, name: str, force: bool) -> Outcome:
        refusal = None if force else await self._refusal(name, "asked to restart")
        return refusal or await self._ask_up(name, RestartAsked("asked to restart"), False)

    async def _reload(self, arguments: Arguments) -> Answer:
        names = self._chosen(arguments) if arguments.get("agents") or not arguments.get("paths") else []
        if not arguments.get("agents") and not arguments.get("paths"):
            members = self._supervisor.members
            names = [name for name in names if members[name].wanted]
        for text in arguments.get("paths", ()):
            concerned = await self._supervisor.selection.why(Path(text))
            if not concerned:
                raise MeshError(f"{text}: is an input of no agent; see `meshsup why {text}` and `meshsup watch status`")
            names += [name for name in concerned if name not in names]
        names, held = self._not_held(names)
        force = bool(arguments.get("force"))
        done = await asyncio.gather(*(self._reload_one(name, force) for name in names))
        return _answer([*done, *self._hands_off(held, arguments)])

    async def _reload_one(self, name: str, force: bool) -> Outcome:
        if self._member(name).state.wish is Wish.DOWN:
            return Outcome(name, False, f"is stopped; use `meshsup start {name}`")
        refusal = None if force else await self._refusal(name, "asked to reload")
        return refusal or await self._ask_up(name, InputsChanged("asked to reload"), False)

    async def _refusal(self, name: str, reason: str) -> Outcome | None:
        """A healthy agent is not killed for a file that cannot load."""
        member = self._member(name)
        if name == REGISTRY or member.state.serving is None:
            return None
        broken = await self._supervisor.selection.accept(name)
        if broken is None:
            return None
        member.task.post(EditRejected(broken, reason))
        return Outcome(name, False, f"refused, it keeps running: {broken} (--force does it anyway)")

    async def _ask_up(self, name: str, happened: LifeEvent, running_is_enough: bool) -> Outcome:
        if self._member(name).held is not None:  # since it was looked up
            return self._left(name, False, "end it there (Ctrl-C)")
        task = self._member(name).task
        after = task.state.generation
        if running_is_enough and (task.state.serving or task.state.incoming):
            after -= 1
        begun = asyncio.get_running_loop().time()
        verdict = await task.ask(happened, lambda agent: verdict_up(agent, after))
        return self._outcome(task, verdict, begun)

    async def _ask_down(self, name: str) -> Outcome:
        task, begun = self._member(name).task, asyncio.get_running_loop().time()
        return self._outcome(task, await task.ask(Unwanted(), verdict_down), begun)

    def _outcome(self, task: AgentTask, verdict: Verdict, begun: float) -> Outcome:
        seconds = asyncio.get_running_loop().time() - begun
        text = f"{verdict.text} in {seconds:.2f}s" if verdict.ok else verdict.text
        hidden = self._supervisor.outputs.hide(text)
        return Outcome(task.name, verdict.ok, hidden, task.state.generation, round(seconds, 3))

    # ---- what a person holds ---------------------------------------------------------------------------------------

    async def _hold(self, arguments: Arguments) -> Answer:
        """Of `run`: ``agents`` is one name, ``pid`` who asks; ``dry_run``: only say how it would be started."""
        member = self._member(next(iter(arguments.get("agents", ())), ""))
        if arguments.get("dry_run"):
            return await self._holding.preview(member)
        return await self._holding.hold(member, int(arguments["pid"]), how=str(arguments.get("how", "run")))

    def _not_held(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        held = [name for name in names if self._member(name).held is not None]
        return [name for name in names if name not in held], held

    def _hands_off(self, names: Sequence[str], arguments: Arguments) -> list[Outcome]:
        """A program in a person's terminal is not ours to end; that is a failure only for who named it."""
        return [self._left(name, not arguments.get("agents"), "end it there (Ctrl-C)") for name in names]

    def _left(self, name: str, ok: bool, way_out: str) -> Outcome:
        held = self._member(name).held
        return Outcome(name, ok, f"is {by_whom(held)}; {way_out}" if held is not None else "was given back meanwhile")

    # ---- the mesh --------------------------------------------------------------------------------------------------

    async def _apply(self, arguments: Arguments) -> Answer:
        if arguments.get("dry_run"):
            return self._applying.preview()
        return await self._applying.apply(force=bool(arguments.get("force")))

    async def _down(self, arguments: Arguments) -> Answer:
        if not self._supervisor.over.is_set():  # asking twice is no wish for less grace, as a second Ctrl-C is
            self._supervisor.finish()
        held = [(name, member.held) for name, member in self._supervisor.members.items() if member.held is not None]
        return Answer(ok=True, lines=tuple(f"{name} goes on: it is {by_whom(one)}" for name, one in held))

    async def _up(self, arguments: Arguments) -> Answer:
        answer = await self._applying.apply()
        if not answer.ok:
            return answer
        names = self._named(arguments.get("agents", ()))
        self.check_profiles(arguments.get("profiles", ()))
        wanted = self._supervisor.chosen(names, arguments.get("profiles", ()))
        members = self._supervisor.members
        begun = [name for name in wanted if members[name].state.wish is Wish.DOWN and members[name].held is None]
        self._supervisor.want(wanted)
        lines = [*answer.lines, f"starts {', '.join(begun)}"] if begun else answer.lines
        return Answer(ok=True, lines=tuple(line for line in lines if line != NO_CHANGE or not begun))

    # ---- watching --------------------------------------------------------------------------------------------------

    async def _why(self, arguments: Arguments) -> Answer:
        supervisor = self._supervisor
        paths = arguments.get("paths", ())
        return await explain(paths, supervisor.selection, supervisor.mesh, supervisor.ignore, self._gate)

    def _gate(self, name: str) -> str:
        tracked = self._supervisor.selection.agents[name]
        if self._supervisor.watcher is None:
            return " - watching is off"
        if not tracked.inputs.watched:
            return " - watch = false in mesh.toml"
        if (held := self._supervisor.members[name].held) is not None:
            return f" - {by_whom(held)}; counts when that ends"
        return "" if tracked.enabled else f" - switched off; `meshsup watch enable {name}`"

    async def _watch_status(self, arguments: Arguments) -> Answer:
        supervisor = self._supervisor
        names = self._chosen(arguments, registry=False)
        lines, body = [], supervisor.watch_status()
        how = f"{body['how']}, {body['why']}" if body["why"] else body["how"]
        lines.append(f"watching: {how}; {body['directories']} folders, {body['files']} files by themselves")
        body["agents"] = {}
        for name in names:
            tracked = supervisor.selection.agents[name]
            body["agents"][name] = watch_row(tracked.inputs, enabled=tracked.enabled)
            lines += watch_lines(name, tracked.inputs, supervisor.mesh.root, self._gate(name))
        return Answer(ok=True, lines=tuple(lines), body=body)

    async def _watch_enable(self, arguments: Arguments) -> Answer:
        names = self._chosen(arguments, registry=False)
        self._supervisor.switch_watching(names, on=True)
        if self._supervisor.watcher is None:
            return _answer([Outcome(name, True, "is watched as soon as watching is on") for name in names])
        for name in names:
            await self._supervisor.selection.catch_up(name)
        return _answer([Outcome(name, True, "is watched") for name in names])

    async def _watch_disable(self, arguments: Arguments) -> Answer:
        names = self._chosen(arguments, registry=False)
        self._supervisor.switch_watching(names, on=False)
        return _answer([Outcome(name, True, "is not watched any more") for name in names])

    # ---- names -----------------------------------------------------------------------------------------------------

    def _chosen(self, arguments: Arguments, *, registry: bool = True) -> list[str]:
        """Those named (globs too), in the order of mesh.toml. Raises UnknownAgent.

        None named: all agents, less those of a profile that nobody asked for."""
        words = arguments.get("agents", ())
        if not words:
            members = self._supervisor.members
            agents = self._supervisor.mesh.agents.items()
            return [name for name, spec in agents if not spec.profiles or members[name].wanted]
        return [name for name in self._named(words) if registry or name != REGISTRY]

    def _named(self, words: Collection[str]) -> list[str]:
        return _matching(words, list(self._supervisor.members))

    def _logs_of(self, words: Collection[str]) -> list[str]:
        return _matching(words, [*self._supervisor.members, SUPERVISOR])

    def _member(self, name: str) -> Member:
        """Raises UnknownAgent: a mesh.toml without it may have been applied since its name was looked up."""
        if name not in self._supervisor.members:
            raise UnknownAgent(name, self._supervisor.members)
        return self._supervisor.members[name]


def _matching(words: Collection[str], names: list[str]) -> list[str]:
    """A glob means agents; the registry, and the supervisor's own log, must be called by their names."""
    chosen: set[str] = set()
    for word in words:
        found = [name for name in names if name == word or (fnmatchcase(name, word) and name not in _OWN)]
        if not found:
            raise UnknownAgent(word, names)
        chosen.update(found)
    return [name for name in names if name in chosen]


def _answer(outcomes: Sequence[Outcome]) -> Answer:
    failed = [outcome for outcome in outcomes if not outcome.ok]
    return Answer(ok=not failed, outcomes=tuple(outcomes), exit_code=1 if failed else 0)
