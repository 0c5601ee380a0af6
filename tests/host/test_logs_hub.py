"""The hub keeps, forwards, and drops rather than grows."""

from __future__ import annotations

import asyncio

from mesh_supervisor.host.logs import FOLLOWER_LINES, KEPT_CHARACTERS, KEPT_LINES, Line, LogHub


def line(text: str, agent: str = "planner", at: float = 1.0) -> Line:
    return Line(at, agent, 1, text)


class Listed:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, line: Line) -> None:
        self.texts.append(line.text)


def test_every_sink_gets_every_line() -> None:
    first, second = Listed(), Listed()
    hub = LogHub(first, second)
    hub.publish(line("a"))
    hub.say("two\nlines \x1b[2J\x07", at=2.0)
    assert first.texts == second.texts == ["a", "two", "lines \\x07"]


def test_recent_lines_by_agent_in_the_order_of_time() -> None:
    hub = LogHub()
    for number in range(3):
        hub.publish(line(f"p{number}", "planner", number))
        hub.publish(line(f"r{number}", "retriever", number))
    assert [each.text for each in hub.recent(lines=2)] == ["p1", "r1", "p2", "r2"]
    assert [each.text for each in hub.recent(["retriever"])] == ["r0", "r1", "r2"]
    assert hub.recent(["nobody"]) == hub.recent(lines=0) == []


def test_what_is_kept_is_bounded_in_number_and_size() -> None:
    hub = LogHub()
    for number in range(KEPT_LINES + 5):
        hub.publish(line(str(number)))
    assert hub.recent()[0].text == "5"
    for _ in range(100):
        hub.publish(line("x" * 64 * 1024))
    assert sum(len(each.text) for each in hub.recent()) <= KEPT_CHARACTERS


def test_a_follower_gets_the_last_lines_and_all_that_come() -> None:
    async def run() -> list[str]:
        hub = LogHub()
        for text in "abc":
            hub.publish(line(text))
        with hub.subscribe(["planner"], lines=2) as follower:
            hub.publish(line("not mine", "retriever"))
            hub.publish(line("d"))
            return [(await anext(follower)).text for _ in range(3)]

    assert asyncio.run(run()) == ["b", "c", "d"]


def test_a_slow_follower_is_told_what_it_missed() -> None:
    async def run() -> list[str]:
        hub = LogHub()
        with hub.subscribe() as follower:
            for number in range(FOLLOWER_LINES + 7):
                hub.publish(line(str(number)))
            return [(await anext(follower)).text for _ in range(2)]

    assert asyncio.run(run()) == ["(7 lines left out: read too slowly)", "7"]


def test_closing_ends_the_iteration_and_leaves_the_hub() -> None:
    async def run() -> list[str]:
        hub = LogHub()
        follower = hub.subscribe()
        reading = asyncio.ensure_future(collect(follower))
        hub.publish(line("a"))
        await asyncio.sleep(0)
        follower.close()
        follower.close()
        hub.publish(line("too late"))
        async with asyncio.timeout(10):
            return await reading

    async def collect(follower: object) -> list[str]:
        return [each.text async for each in follower]  # type: ignore[attr-defined]

    assert asyncio.run(run()) == ["a"]
