"""Events: their stable shape, the bus, the file that outlives a run and a full disk."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import re
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.errors import MeshError
from mesh_supervisor.events import (
    Bus,
    Event,
    EventKind,
    EventLog,
    Outcome,
    Reload,
    event,
    events_file,
    history,
    iso_time,
    read_events,
    unix_time,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"

SOME = Event(1_795_225_416.123, "ready", "planner", "ready in 0.4s", {"generation": 7})


def numbered(count: int, kind: str = "ready") -> list[Event]:
    return [event(kind, f"number {number}", agent="a", at=1000.0 + number) for number in range(count)]


# ---- shape ---------------------------------------------------------------------------------------------------------


def test_the_shape_on_the_wire_is_the_documented_one() -> None:
    assert SOME.to_json() == {
        "at": "2026-11-21T01:43:36.123Z",
        "kind": "ready",
        "agent": "planner",
        "text": "ready in 0.4s",
        "details": {"generation": 7},
    }


def test_every_kind_is_documented_and_nothing_else() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| kind |")[2].partition("## A reload")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == {str(kind) for kind in EventKind}


def test_the_examples_of_the_document_can_be_read() -> None:
    one, reload = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert Event.from_json(json.loads(one)).to_json() == json.loads(one)
    body = json.loads(reload)
    record = Reload.from_details(body)
    assert {"at": body["at"], "agent": body["agent"], **record.to_details()} == body


@given(
    at=st.floats(min_value=0, max_value=4e9),
    kind=st.text(),
    agent=st.none() | st.text(),
    text=st.text(),
    details=st.dictionaries(st.text(), st.none() | st.integers() | st.text()),
)
def test_reading_gives_what_was_written(
    at: float, kind: str, agent: str | None, text: str, details: dict[str, object]
) -> None:
    one = Event(at, kind, agent, text, details)
    again = Event.from_json(json.loads(json.dumps(one.to_json())))
    assert abs(again.at - at) <= 0.001
    assert (again.kind, again.agent, again.text, again.details) == (kind, agent, text, details)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"at": 3, "kind": "ready", "text": ""},
        {"at": "yesterday", "kind": "ready", "text": ""},
        {"at": "2026-11-21T01:43:36", "kind": "ready", "text": ""},
        {"at": "2026-11-21T01:43:36Z", "kind": 7, "text": ""},
        {"at": "2026-11-21T01:43:36Z", "kind": "ready", "text": "", "details": [1]},
    ],
)
def test_what_is_no_event_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match=r"not a|Invalid isoformat"):
        Event.from_json(body)  # type: ignore[arg-type]


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert Event.from_json({**SOME.to_json(), "severity": "high"}) == SOME


def test_times_of_day_keep_their_milliseconds() -> None:
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"
    assert unix_time("2026-11-21T02:43:36.123+01:00") == SOME.at


# ---- history -------------------------------------------------------------------------------------------------------


def test_a_reload_says_what_it_came_to() -> None:
    done = Reload(outcome="completed", trigger="save", reason="a.py", generation=7, total_ms=125.0)
    assert done.sentence("planner") == "Reload completed: planner in 0.125s (generation 7)"
    assert done.as_event("planner").kind == EventKind.RELOAD_COMPLETED
    bad = Reload(outcome=Outcome.REJECTED, trigger="save", reason="a.py", generation=7, error="SyntaxError a.py:3")
    assert bad.sentence("planner") == "Reload rejected: planner (SyntaxError a.py:3)"
    assert bad.as_event("planner").kind == EventKind.RELOAD_REJECTED
    assert bad.as_event("planner", at=5.0).at == 5.0


def test_history_is_the_ends_of_reloads_whole_records_only() -> None:
    first = Reload("completed", "save", "a.py", 2, 1, ("/p/a.py",), {"ready": 12.34}, 20.0, 100, 200)
    second = Reload("failed", "command", "asked", 3, error="exit 1")
    events = [
        *numbered(2),
        first.as_event("a"),
        event("reload-started", "a.py"),
        event("reload-completed", "of no known shape", generation=4),
        second.as_event("b"),
    ]
    found = [(one.agent, reload) for one, reload in history(Event.from_json(e.to_json()) for e in events)]
    assert [agent for agent, _ in found] == ["a", "b"]
    assert found[0][1].phases_ms == {"ready": 12.3}
    assert found[0][1].paths == ("/p/a.py",)
    assert found[1][1] == second


# ---- the bus -------------------------------------------------------------------------------------------------------


def test_a_listener_gets_everything_published_from_then_on_in_order() -> None:
    async def test() -> None:
        bus = Bus()
        before, *later = numbered(4)
        bus.publish(before)
        with bus.subscribe() as subscription:
            for one in later:
                bus.publish(one)
            bus.close()
            assert [one async for one in subscription] == later
        assert bus.recent() == [before, *later]

    asyncio.run(test())


def test_a_waiting_listener_is_woken() -> None:
    async def test() -> None:
        bus = Bus()
        subscription = bus.subscribe()
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        bus.publish(SOME)
        assert await waiting == SOME
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        subscription.close()
        with pytest.raises(StopAsyncIteration):
            await waiting

    asyncio.run(test())


def test_a_slow_listener_loses_the_oldest_and_is_told_how_many() -> None:
    async def test() -> None:
        bus = Bus()
        subscription = bus.subscribe(limit=3)
        events = numbered(10)
        for one in events:
            bus.publish(one)
        bus.close()
        missed, *rest = [one async for one in subscription]
        assert (missed.kind, missed.details["count"]) == (EventKind.MISSED, 7)
        assert rest == events[-3:]

    asyncio.run(test())


def test_a_listener_that_went_away_is_fed_no_more() -> None:
    async def test() -> None:
        bus = Bus()
        for _ in range(10):
            bus.subscribe()
        gc.collect()
        assert len(bus._subscriptions) == 0

    asyncio.run(test())


def test_recent_events_are_bounded_and_can_be_chosen() -> None:
    bus = Bus(remembered=5)
    heard: list[Event] = []
    bus.listen(heard.append)
    events = [*numbered(6), event("crashed", "exit 1", agent="b")]
    for one in events:
        bus.publish(one)
    assert heard == events
    assert bus.recent() == events[-5:]
    assert bus.recent({"crashed"}) == events[-1:]
    assert bus.recent(agents={"a"}, limit=2) == events[-3:-1]


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_outlives_the_run(tmp_path: Path) -> None:
    assert read_events(tmp_path) == []
    events = [*numbered(3), Event(2000.0, "crashed", "b", "exit 1: ValueError: ü\n", {"path": "x"})]
    for half in (events[:2], events[2:]):
        log = EventLog(tmp_path)
        for one in half:
            log.append(one)
        log.close()
    assert read_events(tmp_path) == events
    assert read_events(tmp_path, {"crashed"}) == events[-1:]
    assert read_events(tmp_path, agents={"a"}, limit=2) == events[1:3]
    assert read_events(tmp_path, since=1002.0) == events[2:]
    assert events_file(tmp_path).stat().st_mode & 0o077 == 0


def test_the_file_rotates_and_keeps_the_latest(tmp_path: Path) -> None:
    log = EventLog(tmp_path, max_size=2000)
    events = numbered(200)
    for one in events:
        log.append(one)
    log.close()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes.keys() == {"events.jsonl", "events.jsonl.1"}
    assert max(sizes.values()) <= 2000
    kept = read_events(tmp_path)
    assert kept == events[-len(kept) :]
    assert len(kept) > 10


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    events_file(tmp_path).symlink_to(tmp_path / "made")
    log = EventLog(tmp_path)
    log.append(numbered(1)[0])
    log.close()
    assert not (tmp_path / "made").exists()


def test_half_a_line_of_a_crash_costs_that_line_only(tmp_path: Path) -> None:
    first, second = numbered(2)
    log = EventLog(tmp_path)
    log.append(first)
    log.close()
    with events_file(tmp_path).open("ab") as file:
        file.write(b'{"at": "2026-11-21T01:4\xff')
    log = EventLog(tmp_path)
    log.append(second)
    log.close()
    assert read_events(tmp_path) == [first, second]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c"])
def test_a_text_with_a_separator_that_json_leaves_alone_is_one_event(tmp_path: Path, separator: str) -> None:
    log = EventLog(tmp_path)
    log.append(event("crashed", f"one{separator}two"))
    log.close()
    assert [one.text for one in read_events(tmp_path)] == [f"one{separator}two"]


def test_endless_nesting_is_no_event(tmp_path: Path) -> None:
    events_file(tmp_path).write_bytes(b"[" * 100_000)
    assert read_events(tmp_path) == []


def test_a_pipe_in_the_place_of_the_file_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(events_file(tmp_path))
    log = EventLog(tmp_path)
    for one in numbered(500):  # more than a pipe takes
        log.append(event("ready", one.text, filler="x" * 1000))
    log.close()
    with pytest.raises(MeshError, match="is no file"):
        read_events(tmp_path)


def test_a_removed_file_is_made_again(tmp_path: Path) -> None:
    first, second = numbered(2)
    log = EventLog(tmp_path)
    log.append(first)
    events_file(tmp_path).unlink()
    log.append(second)
    log.close()
    assert read_events(tmp_path) == [second]


def test_a_full_disk_costs_events_and_is_said_when_it_is_over(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: part of a line fits, then nothing."""
    events = numbered(6)
    log = EventLog(tmp_path)
    log.append(events[0])
    size = events_file(tmp_path).stat().st_size
    limits, disposition = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        for one in events[1:4]:
            log.append(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, disposition)
    log.append(events[4])
    log.append(events[5])
    log.close()
    stored = read_events(tmp_path)
    missed = stored.pop(1)
    assert stored == [events[0], *events[4:]]
    assert (missed.kind, missed.details["count"]) == (EventKind.MISSED, 3)
    assert os.strerror(errno.EFBIG) in missed.text


def test_a_state_dir_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone")
    log.append(SOME)
    (tmp_path / "gone").mkdir()
    log.append(SOME)
    log.close()
    assert [one.kind for one in read_events(tmp_path / "gone")] == ["missed", "ready"]


def test_details_that_are_no_json_do_not_stop_the_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(event("watch", "\ud800 half a pair", at=1.0, path=Path("/x")))
    log.close()
    (one,) = read_events(tmp_path)
    assert one.details == {"path": "/x"}
