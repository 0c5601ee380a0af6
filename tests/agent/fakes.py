"""An agent's surroundings under the control of a test: processes that do what they are told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from mesh_supervisor import lifecycle as life
from mesh_supervisor.agent import AgentTask, Slots
from mesh_supervisor.errors import MeshError, NotReady
from mesh_supervisor.lifecycle import Agent, Ended, Exit, Phase, Policy, Report, Start, phase
from tests.agent.virtual import now, settle


class FakeProcess:
    """Gets ready, falls ill and ends when a test says so. ``stubborn``: only ``at_once`` ends it."""

    def __init__(self, *, stubborn: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._unwell: asyncio.Future[str] = loop.create_future()
        self._ended: asyncio.Future[Ended] = loop.create_future()
        self._stubborn = stubborn
        self.stops: list[bool] = []
        self.stops_given_up = 0

    # ---- what agent.py asks ------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        await self._ready

    async def unwell(self) -> str:
        return await self._unwell

    async def ended(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def stop(self, *, at_once: bool, replaced: bool) -> None:
        self.stops.append(at_once)
        if at_once or not self._stubborn:
            self.exits(Exit(None, 9) if at_once else Exit(0))
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self.stops_given_up += 1
            raise

    # ---- what a test says --------------------------------------------------------------------------------------------

    def gets_ready(self) -> None:
        self._ready.set_result(None)

    def misses_its_deadline(self, text: str = "not ready after 600 s") -> None:
        self._ready.set_exception(NotReady(text))

    def falls_ill(self, text: str = "not live") -> None:
        self._unwell.set_result(text)

    def exits(self, how: Exit = Exit(1), *, permanent: bool = False) -> None:  # noqa: B008 - frozen
        if not self._ended.done():
            self._ended.set_result(Ended(how, permanent))


@dataclass
class FakeLauncher:
    """``launches``: (when, generation) of every launch that began. ``before``: awaited in each, may wait or raise."""

    stubborn: bool = False
    launches: list[tuple[float, int]] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)
    processes: dict[int, FakeProcess] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    error: MeshError | None = None
    begins: Callable[[FakeProcess], None] = lambda process: None

    async def launch(self, generation: int, start: Start) -> FakeProcess:
        self.launches.append((now(), generation))
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up.append(generation)
            raise
        if self.error is not None:
            raise self.error
        process = self.processes[generation] = FakeProcess(stubborn=self.stubborn)
        self.begins(process)
        return process


@dataclass
class FakeAnnouncer:
    asked: list[tuple[str, int]] = field(default_factory=list)

    def announce(self, generation: int) -> None:
        self.asked.append(("announce", generation))

    def withdraw(self, generation: int) -> None:
        self.asked.append(("withdraw", generation))


class Stage:
    """One agent that runs on fakes."""

    def __init__(self, policy: Policy = Policy(), *, slots: Slots | None = None, **launching: object) -> None:  # noqa: B008
        self.launcher, self.announcer = FakeLauncher(**launching), FakeAnnouncer()  # type: ignore[arg-type]
        self.reports: list[Report] = []
        self.phases: list[Phase] = []
        self.gave_up: list[str] = []
        self.task = AgentTask(
            "planner",
            policy,
            self.launcher,
            self.announcer,
            slots or Slots(2),
            self.reports.append,
            self._changed,
            self.gave_up.append,
            luck=lambda: 0.5,  # the middle: no jitter
        )

    def _changed(self, before: Agent, after: Agent) -> None:
        if phase(after) is not phase(before):
            self.phases.append(phase(after))

    def phase(self) -> Phase:
        return phase(self.task.state)

    @property
    def newest(self) -> FakeProcess:
        return self.launcher.processes[max(self.launcher.processes)]

    def kinds(self) -> list[str]:
        return [report.kind for report in self.reports]

    async def tell(self, *events: life.Event) -> None:
        """All of them are in the mailbox before the first is read."""
        for event in events:
            self.task.post(event)
        await settle()

    async def started(self) -> FakeProcess:
        await self.tell(life.Wanted())
        self.newest.gets_ready()
        await settle()
        assert self.phase() is Phase.READY
        return self.newest


@contextlib.asynccontextmanager
async def running(*stages: Stage) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(stage.task.run()) for stage in stages]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if not isinstance(result, asyncio.CancelledError):
            raise AssertionError("the agent's task ended by itself") from result
