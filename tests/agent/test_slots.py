"""How many start at once, and who goes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh_supervisor import lifecycle as life
from mesh_supervisor.agent import SLOT_PATIENCE, Slot, Slots
from mesh_supervisor.spec import Restart
from tests.agent.fakes import FakeProcess, Stage, running
from tests.agent.virtual import BEGIN, now, run, settle


class Queue:
    """Callers of ``take`` by name; ``through`` is the order in which they got their slots."""

    def __init__(self, count: int) -> None:
        self.slots, self.through = Slots(count), list[str]()
        self.held: dict[str, Slot] = {}
        self.waiting: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str, urgency: float = 0.0) -> None:
        for name in names:
            self.waiting[name] = asyncio.create_task(self._take(name, urgency))
            await settle()

    async def _take(self, name: str, urgency: float) -> None:
        self.held[name] = await self.slots.take(urgency)
        self.through.append(name)

    async def release(self, *names: str) -> None:
        for name in names:
            self.held[name].release()
        await settle()


def test_no_more_than_the_count_and_in_the_order_of_asking() -> None:
    async def test() -> None:
        queue = Queue(2)
        await queue.ask("a", "b", "c", "d")
        assert queue.through == ["a", "b"]
        await queue.release("b")
        assert queue.through == ["a", "b", "c"]
        await queue.release("a", "c")
        assert queue.through == ["a", "b", "c", "d"]

    run(test)


def test_what_was_edited_last_goes_first() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("busy", "first", "second")
        await queue.ask("edited", urgency=BEGIN + 1)
        await queue.ask("edited later", urgency=BEGIN + 2)
        for name in ("busy", "edited later", "edited", "first", "second"):
            assert queue.through[-1] == name
            await queue.release(name)

    run(test)


def test_a_slot_is_released_once_however_often_it_is_said() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("a", "b", "c")
        await queue.release("a", "a", "a")
        assert queue.through == ["a", "b"]

    run(test)


def test_who_gave_up_waiting_is_passed_over() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("a", "b", "c")
        queue.waiting["b"].cancel()
        await queue.release("a")
        assert queue.through == ["a", "c"]
        await queue.release("c")
        await queue.ask("d")
        assert queue.through == ["a", "c", "d"]

    run(test)


def test_a_turn_that_comes_in_the_moment_of_giving_up_is_handed_on() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("a", "b", "c")
        queue.held["a"].release()  # it is b's turn now, but b has not run yet
        queue.waiting["b"].cancel()
        await settle()
        assert queue.through == ["a", "c"]

    run(test)


def test_all_give_up_and_the_slot_is_free_again() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("a", "b", "c")
        for name in ("b", "c"):
            queue.waiting[name].cancel()
        await queue.release("a")
        await queue.ask("d", "e")
        assert queue.through == ["a", "d"]

    run(test)


def test_more_slots_let_the_waiting_in_at_once() -> None:
    async def test() -> None:
        queue = Queue(1)
        await queue.ask("a", "b", "c", "d")
        queue.slots.resize(3)
        await settle()
        assert queue.through == ["a", "b", "c"]
        await queue.release("a")
        assert queue.through == ["a", "b", "c", "d"]

    run(test)


def test_fewer_slots_disturb_nobody_and_hold_from_then_on() -> None:
    async def test() -> None:
        queue = Queue(3)
        await queue.ask("a", "b", "c", "d", "e")
        queue.slots.resize(1)
        await queue.release("a", "b")
        assert queue.through == ["a", "b", "c"]
        await queue.release("c")
        assert queue.through == ["a", "b", "c", "d"]
        queue.slots.resize(2)
        await settle()
        assert queue.through == ["a", "b", "c", "d", "e"]

    run(test)


def test_fewer_and_more_again_while_nobody_waits() -> None:
    async def test() -> None:
        queue = Queue(2)
        await queue.ask("a")
        queue.slots.resize(1)
        queue.slots.resize(2)
        await queue.ask("b", "c")
        assert queue.through == ["a", "b"]
        await queue.release("b")
        assert queue.through == ["a", "b", "c"]

    run(test)


# ---- agents in the queue ---------------------------------------------------------------------------------------------


def test_a_start_keeps_its_slot_until_it_is_ready() -> None:
    async def test() -> None:
        slots = Slots(1)
        one, other = Stage(slots=slots), Stage(slots=slots)
        async with running(one, other):
            await one.tell(life.Wanted())
            await other.tell(life.Wanted())
            assert other.launcher.launches == []
            one.newest.gets_ready()
            await settle()
            assert [generation for _, generation in other.launcher.launches] == [1]

    run(test)


def test_a_start_that_dies_or_cannot_begin_gives_its_slot_back() -> None:
    async def test() -> None:
        slots = Slots(1)
        one, other = Stage(life.Policy(restart=Restart.NEVER), slots=slots), Stage(slots=slots)
        async with running(one, other):
            await one.tell(life.Wanted())
            await other.tell(life.Wanted())
            one.newest.exits()
            await settle()
            assert len(other.launcher.launches) == 1

    run(test)


def test_a_slow_start_holds_others_up_for_thirty_seconds_only() -> None:
    async def test() -> None:
        slots = Slots(1)
        slow, other = Stage(slots=slots), Stage(slots=slots)
        async with running(slow, other):
            await slow.tell(life.Wanted())
            await other.tell(life.Wanted())
            await asyncio.sleep(SLOT_PATIENCE + 1)
            assert [round(at) for at, _ in other.launcher.launches] == [SLOT_PATIENCE]
            slow.newest.gets_ready()  # must not free the slot a second time
            third = Stage(slots=slots)
            async with running(third):
                await third.tell(life.Wanted())
                assert third.launcher.launches == []

    run(test)


def test_the_agent_edited_last_starts_first() -> None:
    async def test() -> None:
        slots = Slots(1)
        order: list[str] = []

        def noting(name: str) -> Callable[[FakeProcess], None]:
            def begins(process: FakeProcess) -> None:
                order.append(name)
                process.gets_ready()

            return begins

        busy = Stage(slots=slots)
        stages = {name: Stage(slots=slots) for name in ("plain", "edited", "edited later")}
        for name, stage in stages.items():
            stage.launcher.begins = noting(name)
        async with running(busy, *stages.values()):
            await busy.tell(life.Wanted())
            for stage in stages.values():
                await stage.tell(life.Wanted())
            for name in ("edited", "edited later"):
                await stages[name].tell(life.InputsChanged("a.py"))
            busy.newest.gets_ready()
            await settle()
            assert order == ["edited later", "edited", "plain"]
            assert now() < 1

    run(test)
