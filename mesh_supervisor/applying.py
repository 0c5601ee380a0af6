"""mesh.toml while the mesh runs: read again, compared, applied with the least effect; or the last valid one is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.difference import Difference, differences
from mesh_supervisor.errors import ConfigError, Stopping
from mesh_supervisor.events import EventKind, event
from mesh_supervisor.launcher import AgentPreparation
from mesh_supervisor.lifecycle import EditRejected, InputsChanged, Wish
from mesh_supervisor.member import policy_of
from mesh_supervisor.spec import AgentSpec, MeshSpec
from mesh_supervisor.supervisor import Supervisor

NO_CHANGE = "nothing changes"


class Applying:
    """``load`` reads mesh.toml as `up` did, with the same options; raises ConfigError."""

    def __init__(self, supervisor: Supervisor, load: Callable[[], MeshSpec]) -> None:
        self._supervisor, self._load = supervisor, load
        self._one_at_a_time = asyncio.Lock()
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered for every `apply`, whatever comes of it."""
        supervisor.on_config = self.file_changed

    def preview(self) -> Answer:
        """What `apply` would do. Raises ConfigError."""
        difference = differences(self._supervisor.mesh, self._load())
        return _answer(difference.lines() or ["nothing would change"], difference)

    async def file_changed(self) -> None:
        """It, or an env file of it, was saved: apply it, or say why not and keep the last valid one."""
        try:
            await self.apply(trigger="saved")
        except Stopping:
            return
        except ConfigError as error:
            if self._supervisor.config_error != str(error):
                self._reject(error)

    async def asked_by(self, whom: str) -> None:
        """Like a command, but the answer is a line of the log: whoever sent a signal sees nothing else."""
        try:
            answer = await self.apply()
        except Stopping:
            return
        except ConfigError as error:
            self._reject(error)
        else:
            if answer.lines == (NO_CHANGE,):
                self._supervisor.say(f"{whom}: mesh.toml was read again; {NO_CHANGE}")

    def _reject(self, error: ConfigError) -> None:
        supervisor = self._supervisor
        supervisor.config_error = str(error)
        supervisor.say(f"mesh.toml is not applied, the last valid one stays:\n{error}")
        supervisor.outputs.bus.publish(event(EventKind.CONFIG_REJECTED, str(error)))

    async def apply(self, *, force: bool = False, trigger: str = "asked") -> Answer:
        """Does what the difference needs, and no more. Raises ConfigError: then nothing was changed; and Stopping."""
        async with self._one_at_a_time:
            with self.around():
                return await self._apply(force, trigger)

    async def _apply(self, force: bool, trigger: str) -> Answer:
        supervisor = self._supervisor
        supervisor.check_going()
        new = self._load()
        if supervisor.config_error is not None:
            supervisor.config_error = None
            supervisor.say("mesh.toml is valid again")
        difference = differences(supervisor.mesh, new)
        if not difference:
            supervisor.mesh = supervisor.ground.mesh = new
            self._watch_config_files(new)
            return _answer([NO_CHANGE], difference)
        lines = difference.lines()
        supervisor.say("\n".join(["mesh.toml: applying", *lines]))
        await self._carry_out(difference, new, force, by_save=trigger == "saved")
        supervisor.outputs.bus.publish(event(EventKind.CONFIG_APPLIED, "; ".join(lines), trigger=trigger, lines=lines))
        return _answer(lines, difference)

    async def _carry_out(self, difference: Difference, new: MeshSpec, force: bool, *, by_save: bool) -> None:
        supervisor = self._supervisor
        await asyncio.gather(*(supervisor.remove(name) for name in difference.removed))
        supervisor.check_going()  # what is added now would be stopped by nobody
        supervisor.mesh = supervisor.ground.mesh = _keep_what_needs_down(supervisor.mesh, new)
        other_places = not {"watch.ignore", "watch.roots"}.isdisjoint(difference.mesh_changes)
        supervisor.retune_mesh(other_places=other_places)
        for name, spec in new.agents.items():
            if name in difference.added:
                supervisor.add(spec)
            else:
                self._retune(name, spec)
        self._watch_config_files(new)
        await self._relearn(name for name in new.agents if other_places or "watch" in difference.retuned.get(name, ()))
        supervisor.check_going()
        for name, keys in difference.restarted.items():
            if by_save and not supervisor.selection.agents[name].enabled:
                self._withhold(name, keys)
            else:
                await self._restart(name, keys, force)
        for name in difference.reregistered:
            self._announce_again(name)
        supervisor.want(set(difference.added) & set(supervisor.chosen([], supervisor.profiles)))

    def _retune(self, name: str, spec: AgentSpec) -> None:
        supervisor = self._supervisor
        member = supervisor.members[name]
        member.launcher.retune(spec)
        member.task.policy = policy_of(spec, supervisor.mesh.mode, member.launcher.order)
        supervisor.selection.track(spec, enabled=name not in supervisor.state.unwatched())

    async def _relearn(self, names: Iterable[str]) -> None:
        for name in names:
            await self._supervisor.selection.relearn(name)

    async def _restart(self, name: str, keys: tuple[str, ...], force: bool) -> None:
        supervisor = self._supervisor
        member = supervisor.members[name]
        if member.state.wish is Wish.DOWN:
            return
        why = f"mesh.toml: {', '.join(keys)}"
        broken = None if force or member.state.serving is None else await supervisor.selection.accept(name)
        if broken is not None:
            member.task.post(EditRejected(broken, why))
        else:
            member.task.post(InputsChanged(why))

    def _withhold(self, name: str, keys: tuple[str, ...]) -> None:
        """No save restarts an agent whose watching is off, not even one of mesh.toml."""
        self._supervisor.selection.agents[name].withheld = f"mesh.toml: {', '.join(keys)}"
        self._supervisor.say(f"{name} is not watched: it runs on as it was; `meshsup restart {name}` or `watch enable`")

    def _announce_again(self, name: str) -> None:
        member = self._supervisor.members[name]
        serving = member.state.serving
        if serving is not None and isinstance(member.preparation, AgentPreparation):
            member.preparation.announce(member.spec, serving.generation)

    def _watch_config_files(self, mesh: MeshSpec) -> None:
        supervisor = self._supervisor
        supervisor.selection.config_files = config_files(mesh)
        supervisor.inputs_changed()


def config_files(mesh: MeshSpec) -> frozenset[Path]:
    """mesh.toml and the env files that it was read with; ``.env`` beside it also while there is none."""
    named = (spec.env_files for spec in mesh.agents.values())
    return frozenset({mesh.file, mesh.root / ".env"}).union(*named)


def _keep_what_needs_down(old: MeshSpec, new: MeshSpec) -> MeshSpec:
    """What Difference.needs_down names stays what it is until `down` and `up`."""
    return replace(
        new,
        name=old.name,
        state_dir=old.state_dir,
        mode=old.mode,
        mode_reason=old.mode_reason,
        registry=old.registry,
        logs=old.logs,
    )


def _answer(lines: list[str], difference: Difference) -> Answer:
    body = {
        "added": list(difference.added),
        "removed": list(difference.removed),
        "restarted": {name: list(keys) for name, keys in difference.restarted.items()},
        "reregistered": sorted(difference.reregistered),
        "retuned": {name: list(keys) for name, keys in difference.retuned.items()},
        "mesh": list(difference.mesh_changes),
        "needs_down": list(difference.needs_down),
    }
    return Answer(ok=True, lines=tuple(lines), body=body)
