"""Output of real processes: read promptly, to the end, in slices, and never holding anybody up."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh_supervisor.host import capture as capture_module
from mesh_supervisor.host.capture import Capture
from mesh_supervisor.host.lastwords import Failure
from mesh_supervisor.host.lines import Line

PATIENCE = 60.0


@contextmanager
def running(capture: Capture, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """``program`` (Python) with its output in ``capture``; killed at the end, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdin=subprocess.PIPE, stdout=capture.output, stderr=capture.output
    )
    capture.release_output()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
        capture.close()


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait)


def captured(program: str) -> tuple[list[Line], Capture]:
    lines: list[Line] = []

    async def run() -> Capture:
        capture = Capture("planner", 7, lines.append, clock=lambda: 1.5)
        with running(capture, program) as process:
            await ended(process)
            await capture.finished(PATIENCE)
        return capture

    return lines, asyncio.run(run())


def test_lines_carry_who_and_when() -> None:
    lines, _ = captured("import sys; print('out'); print('err', file=sys.stderr); print('rest', end='')")
    assert lines == [Line(1.5, "planner", 7, text) for text in ("out", "err", "rest")]


def test_last_words_and_their_place() -> None:
    _, capture = captured("print('hello')\nraise ValueError('x')")
    assert capture.last_words() == "ValueError: x"
    assert capture.failure() == Failure("ValueError: x", "<string>", 2)
    _, capture = captured("import gone_for_ever")
    assert capture.failure().loading
    _, capture = captured("")
    assert capture.failure() == Failure()


def test_a_flood_is_read_completely() -> None:
    lines, _ = captured("import sys\nfor n in range(100_000): sys.stdout.write(f'{n}\\n')")
    assert [int(line.text) for line in lines] == list(range(100_000))


def test_a_flood_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which every look costs a second, a slice is over after its first few lines."""
    ticks = itertools.count()
    monkeypatch.setattr(capture_module, "perf_counter", lambda: float(next(ticks)))
    per_turn: list[int] = [0]

    async def run() -> None:
        def count(line: Line) -> None:
            per_turn[-1] += 1

        capture = Capture("planner", 1, count)
        writer = os.fdopen(os.dup(capture.output), "wb")
        capture.release_output()
        writer.write(b"x\n" * 5000)
        writer.close()
        while sum(per_turn) < 5000:
            per_turn.append(0)
            await asyncio.sleep(0)  # one turn of the loop
        await capture.finished(PATIENCE)
        capture.close()

    asyncio.run(run())
    assert max(per_turn) <= 32


def test_floods_of_several_share_a_slice() -> None:
    async def run() -> int:
        counted: list[str] = []
        captures = [Capture(name, 1, lambda line: counted.append(line.agent)) for name in "ab"]
        for capture in captures:
            with os.fdopen(os.dup(capture.output), "wb") as writer:
                writer.write(b"x\n" * 60_000)
            capture.release_output()
        await until(lambda: {"a", "b"} <= set(counted))
        seen = len(counted)
        for capture in captures:
            await capture.finished(PATIENCE)
            capture.close()
        assert len(counted) == 120_000
        return seen

    assert asyncio.run(run()) < 120_000  # neither had to wait for the end of the other


def test_an_agent_that_writes_much_at_once_does_not_wait_for_us() -> None:
    """It writes a quarter of a megabyte and reports by its exit code, while the loop is not running at all."""

    async def run() -> int:
        capture = Capture("planner", 1, lambda line: None)
        with running(capture, "import os; os.write(1, b'x' * 200_000)") as process:
            return process.wait(PATIENCE)  # blocks the loop on purpose

    assert asyncio.run(run()) == 0


HOLDER = """
import os, sys, time
if os.fork() == 0:
    sys.stdin.read()  # lives on, holding the pipe, until the test is over
    os._exit(0)
print('last', flush=True)
"""


def test_a_survivor_that_holds_the_pipe_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "LONGEST_WAIT", 10 * PATIENCE)
    lines: list[str] = []

    async def run() -> None:
        capture = Capture("planner", 1, lambda line: lines.append(line.text))
        with running(capture, HOLDER) as process:
            await ended(process)
            async with asyncio.timeout(PATIENCE):
                await capture.finished(0.05)

    asyncio.run(run())
    assert lines == ["last"]


def test_close_hands_on_the_unfinished_line_and_is_safe_twice() -> None:
    lines: list[str] = []

    async def run() -> None:
        capture = Capture("planner", 1, lambda line: lines.append(line.text))
        os.write(capture.output, b"one\ntwo")
        await until(lambda: lines == ["one"])
        capture.close()
        capture.close()
        await capture.finished()

    asyncio.run(run())
    assert lines == ["one", "two"]


async def until(fact: Callable[[], bool]) -> None:
    async def look() -> None:
        while not fact():  # noqa: ASYNC110 (a fact, not an event, is what is waited for)
            await asyncio.sleep(0)

    waiting: Awaitable[None] = look()
    async with asyncio.timeout(PATIENCE):
        await waiting


def test_no_descriptor_is_left() -> None:
    before = open_descriptors()
    for _ in range(3):
        captured("print('x')")
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))
