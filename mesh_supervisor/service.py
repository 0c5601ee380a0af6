"""What `meshsup up` tells the service manager that started it, where one wants to know (sd_notify).

READY once, when nothing that is wanted is still on its way: an agent in a crash loop, or one that waits for an edit,
must not have the others killed with it, as a start that times out would. RELOADING while mesh.toml is applied, STATUS
whenever its line changes, STOPPING when the mesh is told to stop. The watchdog is host/service_manager.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping

from mesh_supervisor import snapshot
from mesh_supervisor.applying import Applying
from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.health import judge
from mesh_supervisor.host.service_manager import Invitation, ServiceManager, monotonic_usec
from mesh_supervisor.lifecycle import Phase, phase
from mesh_supervisor.supervisor import Supervisor

ON_ITS_WAY = frozenset({"waiting", "starting", "reloading", "draining", "backoff"})

AGAIN = 10.0
"""Seconds between two extensions of the time for a start: nothing need happen while one agent waits for a long task."""

SLACK = 30.0
"""Seconds beyond mesh.toml's own limits (start_timeout, stop_timeout), after which we would have acted ourselves."""


def is_coming(agent: AgentBrief) -> bool:
    """It is not ready and will be something else in a while, without anybody doing anything."""
    return agent.wanted and not agent.ready and agent.state in ON_ITS_WAY


def is_settled(brief: Brief, awaited: Mapping[str, Collection[str]]) -> bool:
    """``awaited``: agent → those that it waits for before it starts. One that waits for what will not come by itself
    waits for somebody, too."""
    coming = {agent.name for agent in brief.agents if is_coming(agent)}
    up = {agent.name for agent in brief.agents if agent.ready}
    while stuck := {name for name in coming if set(awaited.get(name, ())) - coming - up}:
        coming -= stuck
    return brief.begun and not coming


@contextlib.contextmanager
def reporting(supervisor: Supervisor, applying: Applying, invited: Invitation | None) -> Iterator[None]:
    """While this lasts ``invited`` is told, if there is one. In the running loop."""
    if invited is None:
        yield
        return
    manager = ServiceManager(invited, supervisor.say)
    reporter = Reporter(supervisor, manager)
    applying.around = reporter.applying
    telling = (
        asyncio.create_task(reporter.tell_end(), name="tell the service manager of the end"),
        asyncio.create_task(reporter.ask_for_time(), name="ask the service manager for time"),
    )
    try:
        yield
    finally:
        for task in telling:
            task.cancel()
        reporter.close()
        manager.close()


class Reporter:
    """Looks at the mesh whenever something happens to it, at most once per turn of the loop."""

    def __init__(self, supervisor: Supervisor, manager: ServiceManager) -> None:
        self._supervisor, self._manager = supervisor, manager
        self._ready = self._reloading = self._due = self._over = False
        self._line = ""
        supervisor.outputs.bus.listen(lambda event: self._look_soon())
        self._look_soon()

    def close(self) -> None:
        self._over = True

    @contextlib.contextmanager
    def applying(self) -> Iterator[None]:
        """Around the work. `systemctl reload` (Type=notify-reload) waits for its end, also when nothing changes or
        mesh.toml is rejected."""
        if not self._ready or self._over:
            yield
            return
        self._reloading = True
        self._tell("applying mesh.toml", RELOADING=1, MONOTONIC_USEC=monotonic_usec())
        try:
            yield
        finally:
            self._reloading = False
            if not self._over:
                self._tell(self._sentence(snapshot.brief(self._supervisor)), READY=1)

    async def ask_for_time(self) -> None:
        """As long as the start lasts, however quiet it is. That the loop turns is the sign of life."""
        while not (self._ready or self._over):
            await asyncio.sleep(AGAIN)
            self._look_soon()

    async def tell_end(self) -> None:
        supervisor = self._supervisor
        await supervisor.over.wait()
        self._over = True
        why = f"stopping: {supervisor.gave_up}" if supervisor.gave_up else "stopping"
        self._tell(supervisor.outputs.hide(why), STOPPING=1, **_within(supervisor.mesh.stop_timeout))

    def _look_soon(self) -> None:
        if not self._due and not self._over:
            self._due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._due = False
        if self._over or self._reloading:
            return
        brief = snapshot.brief(self._supervisor)
        fields: dict[str, int] = {}
        if not self._ready and is_settled(brief, self._awaited()):
            self._ready = True
            fields = {"READY": 1}
        elif not self._ready:
            fields = _within(self._longest_start(brief))
        line = self._sentence(brief)
        if fields or line != self._line:
            self._tell(line, **fields)

    def _awaited(self) -> dict[str, tuple[str, ...]]:
        """What those wait for that may start as soon as it is there."""
        coming = self._supervisor.coming
        return {
            name: member.state.blocked
            for name, member in self._supervisor.members.items()
            if name not in coming and phase(member.state) is Phase.WAITING
        }

    def _longest_start(self, brief: Brief) -> float:
        """Seconds that whoever is on its way may still take, one after the other's end being another look."""
        members = self._supervisor.members
        coming = [members[agent.name].spec.start_timeout for agent in brief.agents if is_coming(agent)]
        return max(coming, default=0.0)

    def _sentence(self, brief: Brief) -> str:
        line = judge(brief, (), live=False).line
        rejected = self._supervisor.config_error is not None
        return f"mesh.toml is not applied, the last valid one stays; {line}" if rejected else line

    def _tell(self, line: str, **fields: int) -> None:
        self._line = line
        self._manager.status(line, **fields)


def _within(seconds: float) -> dict[str, int]:
    """By when the next message comes at the latest; the manager's own limits are never shortened by it."""
    return {"EXTEND_TIMEOUT_USEC": int((seconds + SLACK) * 1e6)}
