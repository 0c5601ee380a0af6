"""One agent's task: a mailbox, ``lifecycle.advance``, and the effects it asks for.

The only writer of the agent's state. What takes long (waiting for a slot, starting, probing, stopping) runs as a
task of its own and reports back as an event with its generation. No lock, no status that two places set.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from mesh_supervisor import lifecycle
from mesh_supervisor.errors import MeshError, NotReady
from mesh_supervisor.lifecycle import (
    Agent,
    Announce,
    BecameReady,
    Cause,
    Effect,
    Ended,
    Event,
    Exit,
    Exited,
    GiveUp,
    NotLive,
    Policy,
    Report,
    RestartAsked,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    StartTimedOut,
    Stop,
    Tick,
    Unwanted,
    Verdict,
    Wanted,
    Withdraw,
)

SLOT_PATIENCE = 30.0
"""Seconds that one start may keep others waiting. One that takes longer waits for something (a model, a network, a
deadlock), not for the processor."""

GONE = Verdict(False, "is gone")


class Process(Protocol):
    """One spawned instance."""

    async def ready(self) -> None:
        """Returns when it is ready; raises NotReady when its deadline, counted from the spawn, is over."""

    async def unwell(self) -> str:
        """Returns, with the reason, when it is no longer live; for ever without a liveness check."""

    async def ended(self) -> Ended:
        """Returns when it is gone, and swept."""

    async def stop(self, *, at_once: bool, replaced: bool) -> None:
        """Asks it to go, and makes it go. ``replaced``: it may take its time over what it still answers."""


class Launcher(Protocol):
    async def launch(self, generation: int, start: Start) -> Process:
        """Starts one instance. Raises MeshError when there cannot be a process; cancelled, it leaves none."""


class Announcer(Protocol):
    def announce(self, generation: int) -> None:
        """This generation may get traffic."""

    def withdraw(self, generation: int) -> None:
        """This generation may not get any more."""


class Slots:
    """At most ``count`` instances start at once; the most urgent goes first, then the one that asked first."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._asked = 0

    async def take(self, urgency: float) -> Slot:
        """``urgency``: higher goes first (loop time of an edit; 0 for the rest)."""
        if self._free > 0:
            self._free -= 1
            return Slot(self)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked += 1
        heapq.heappush(self._waiting, (-urgency, self._asked, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._hand_on()  # it was our turn in the same moment
            raise
        return Slot(self)

    def resize(self, count: int) -> None:
        """From now on ``count`` at once; what has begun is not disturbed."""
        grown, self._count = count - self._count, count
        self._free += grown
        while self._free > 0 and self._waiting:
            self._free -= 1
            self._hand_on()

    def _hand_on(self) -> None:
        if self._free < 0:  # there are fewer slots than there were
            self._free += 1
            return
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Slot:
    """Released once; more often does no harm."""

    def __init__(self, slots: Slots) -> None:
        self._slots: Slots | None = slots

    def release(self) -> None:
        if self._slots is not None:
            slots, self._slots = self._slots, None
            slots._hand_on()


@dataclass(slots=True)
class _Asked:
    """Somebody who waits for what a command comes to."""

    verdict: Callable[[Agent], Verdict | None]
    answer: asyncio.Future[Verdict]


@dataclass(slots=True)
class _Life:
    """What the shell keeps of one generation."""

    task: asyncio.Task[None]
    process: Process | None = None
    stop: asyncio.Task[None] | None = None
    patient: bool = False  # its stop gives it time for streams
    given_up: bool = False  # its launch


@dataclass(slots=True)
class AgentTask:
    """``run`` is the task; ``post`` and ``ask`` are for everybody else; ``state`` is read by everybody, written here.

    ``changed`` is called after every step with the states before and after; ``report`` gets what people should know;
    ``give_up`` is called when an essential agent cannot be kept; while ``over()``, nobody is started by being wanted.
    """

    name: str
    policy: Policy
    launcher: Launcher
    announcer: Announcer
    slots: Slots
    report: Callable[[Report], None]
    changed: Callable[[Agent, Agent], None]
    give_up: Callable[[str], None]
    over: Callable[[], bool] = lambda: False
    state: Agent = field(default_factory=Agent)
    luck: Callable[[], float] = random.random
    _inbox: asyncio.Queue[tuple[Event, _Asked | None]] = field(default_factory=asyncio.Queue)
    _lives: dict[int, _Life] = field(default_factory=dict)
    _asked: list[_Asked] = field(default_factory=list)
    _tasks: asyncio.TaskGroup | None = None
    _gone: bool = False

    def post(self, event: Event) -> None:
        self._inbox.put_nowait((event, None))

    async def ask(self, event: Event, verdict: Callable[[Agent], Verdict | None]) -> Verdict:
        """Posts and waits for what it comes to. ``verdict`` is asked after every step until it has an answer; of an
        agent that ``run`` no longer cares for, nothing comes."""
        if self._gone:
            return GONE
        asked = _Asked(verdict, asyncio.get_running_loop().create_future())
        self._inbox.put_nowait((event, asked))
        try:
            return await asked.answer
        finally:
            if asked in self._asked:
                self._asked.remove(asked)

    async def run(self) -> None:
        """Until cancelled. Instances that live then are the caller's to stop beforehand."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                while True:
                    event, asked = await self._next()
                    if asked is not None:
                        self._asked.append(asked)
                    self._step(event)
        finally:
            self._answer_all()

    async def _next(self) -> tuple[Event, _Asked | None]:
        wake = lifecycle.next_wake(self.state, self.policy)
        try:
            async with asyncio.timeout_at(wake):
                return await self._inbox.get()
        except TimeoutError:
            return Tick(), None

    def _step(self, event: Event) -> None:
        if self.over() and isinstance(event, Wanted | RestartAsked):
            event = Unwanted()  # of who asked before the mesh was told to stop, and looked at files meanwhile
        before = self.state
        now = asyncio.get_running_loop().time()
        self.state, effects = lifecycle.advance(before, event, now, self.policy)
        for effect in effects:
            self._carry_out(effect)
        self.changed(before, self.state)
        self._answer()

    def _answer(self) -> None:
        for asked in list(self._asked):
            verdict = asked.verdict(self.state)
            if verdict is not None:
                self._asked.remove(asked)
                if not asked.answer.done():
                    asked.answer.set_result(verdict)

    def _answer_all(self) -> None:
        """Nobody must wait for an agent that is gone, not even who asked in its last moment."""
        self._gone = True
        while not self._inbox.empty():
            _, asked = self._inbox.get_nowait()
            if asked is not None:
                self._asked.append(asked)
        for asked in self._asked:
            if not asked.answer.done():
                asked.answer.set_result(GONE)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Spawn(generation, start):
                life = self._lives[generation] = _Life(self._spin(self._live(generation, start)))
                # Not in _live: a task that is cancelled before its first step never gets into its own body.
                life.task.add_done_callback(lambda task: self._given_up(generation, task))
            case Stop(generation, at_once, replaced):
                self._stop(generation, at_once, replaced)
            case Announce(generation):
                self.announcer.announce(generation)
            case Withdraw(generation):
                self.announcer.withdraw(generation)
            case Report():
                self.report(effect)
            case GiveUp(reason):
                self.give_up(reason)

    def hurry(self) -> None:
        """No more grace for whatever lives."""
        for generation in list(self._lives):
            self._stop(generation, at_once=True)

    def _spin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        return self._tasks.create_task(work)

    def _stop(self, generation: int, at_once: bool, replaced: bool = False) -> None:
        life = self._lives.get(generation)
        if life is None:
            return  # gone already; its Exited is in the mailbox
        if life.process is None:  # waits for a slot, or is being launched: there is no process to stop
            if at_once or not life.given_up:  # cancelled again, it has no patience
                life.task.cancel()
            life.given_up = True
        elif life.stop is None or at_once or (life.patient and not replaced):
            if life.stop is not None and life.patient:
                life.stop.cancel()
            life.patient = replaced
            life.stop = self._spin(life.process.stop(at_once=at_once, replaced=replaced))

    # ---- one generation ----------------------------------------------------------------------------------------------

    async def _live(self, generation: int, start: Start) -> None:
        try:
            process, slot = await self._launch(generation, start)
        except MeshError as error:
            self._over(generation, SpawnFailed(generation, str(error), self.luck()))
            return
        self._lives[generation].process = process
        self.post(Spawned(generation))
        carer = self._spin(self._care_for(generation, process, slot))
        try:
            ended = await process.ended()
        finally:
            carer.cancel()
            slot.release()
        self._over(generation, Exited(generation, ended.exit, ended.permanent, self.luck(), ended.crowded))

    async def _launch(self, generation: int, start: Start) -> tuple[Process, Slot]:
        edited = start.cause in (Cause.RELOAD, Cause.RESTART)
        slot = await self.slots.take(start.asked_at if edited else 0.0)
        try:
            return await self.launcher.launch(generation, start), slot
        except BaseException:
            slot.release()
            raise

    async def _care_for(self, generation: int, process: Process, slot: Slot) -> None:
        """Readiness, then liveness. Cancelled when the process has ended."""
        patience = asyncio.get_running_loop().call_later(SLOT_PATIENCE, slot.release)
        try:
            await process.ready()
        except NotReady as error:
            self.post(StartTimedOut(generation, str(error), self.luck()))
            return
        finally:
            patience.cancel()
            slot.release()
        self.post(BecameReady(generation))
        self.post(NotLive(generation, await process.unwell(), self.luck()))

    def _given_up(self, generation: int, task: asyncio.Task[None]) -> None:
        """A launch that was cancelled left no process, so it ends as if one had gone quietly."""
        life = self._lives.get(generation)
        if task.cancelled() and life is not None and life.process is None:
            self._over(generation, Exited(generation, Exit(0)))

    def _over(self, generation: int, event: Event) -> None:
        life = self._lives.pop(generation)
        if life.stop is not None:
            life.stop.cancel()
        self.post(event)
