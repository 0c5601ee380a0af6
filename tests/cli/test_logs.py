"""`logs`, `history`, `events`: from the supervisor, and from files when there is none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mesh_supervisor.events import Event, EventLog, Reload
from mesh_supervisor.host.lines import Line
from tests.cli.conftest import Command
from tests.cli.test_command import in_terminal
from tests.control.fake import AT, VIEW, FakeMesh, snapshot

STAMP = "2026-11-21T01:43:36.123Z"


def write_log(root: Path, agent: str, *lines: str) -> None:
    logs = root / ".mesh" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{agent}.log").write_text("".join(f"{STAMP} [1] {line}\n" for line in lines))


def test_from_the_supervisor(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, VIEW, VIEW.__class__(**{**json.loads(json.dumps(asdict(VIEW))), "name": "web"}))
    mesh.past_lines = [Line(AT, "planner", 7, "one"), Line(AT, "web", 1, "two")]
    assert meshsup("logs").out == "planner | one\nweb     | two\n"
    assert meshsup("logs", "web").out == "web     | two\n"
    assert json.loads(meshsup("logs", "-n", "1", "--json").out) == {
        "at": STAMP,
        "agent": "web",
        "generation": 1,
        "text": "two",
    }


def asdict(view: object) -> dict[str, object]:
    import dataclasses

    return dataclasses.asdict(view)  # type: ignore[call-overload, no-any-return]


def test_memory_is_searched_when_there_are_no_files(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.past_lines = [Line(AT, "planner", 7, "an error"), Line(time.time(), "planner", 7, "fine")]
    assert meshsup("logs", "--grep", "err").out == "planner | an error\n"
    assert meshsup("logs", "--since", "10m").out == "planner | fine\n"


def test_from_files_when_nothing_runs(meshsup: Command, root: Path) -> None:
    write_log(root, "planner", *(f"line {n}" for n in range(150)))
    lines = meshsup("logs").out.splitlines()
    assert (len(lines), lines[-1]) == (100, "planner | line 149")
    assert meshsup("logs", "--grep", "line 1$", "planner").out == "planner | line 1\n"
    assert meshsup("logs", "--since", "1m").out == ""


def test_colours_of_an_agent_reach_only_terminals(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    mesh.past_lines = [Line(AT, "planner", 7, "red", "\x1b[31mred\x1b[0m")]
    assert meshsup("logs").out == "planner | red\n"
    assert "\x1b[31mred\x1b[0m\x1b[0m" in in_terminal(root, "logs")
    assert in_terminal(root, "logs", NO_COLOR="1") == "planner | red\n"


def write_events(root: Path, *events: Event) -> None:
    (root / ".mesh").mkdir(exist_ok=True)
    log = EventLog(root / ".mesh")
    for event in events:
        log.append(event)
    log.close()


RELOAD = Reload(
    outcome="completed",
    trigger="save",
    reason="common/llm.py ← agents/planner.py (import)",
    generation=7,
    previous=6,
    paths=("common/llm.py",),
    phases_ms={"check": 12.0, "stop": 80.4, "start": 310.0},
    total_ms=402.4,
)


def test_history_with_phases(meshsup: Command, root: Path) -> None:
    broken = Reload("rejected", "save", "agents/planner.py", 8, error="NameError: name 'x' … agents/planner.py:12")
    write_events(root, Event(AT - 9, "ready", "planner", "ready"), RELOAD.as_event("planner", at=AT))
    write_events(root, broken.as_event("planner", at=AT + 60))
    lines = meshsup("history").out.splitlines()
    assert lines[0].split() == ["AT", "AGENT", "OUTCOME", "TOOK", "GEN", "WHY"]
    assert lines[1].split("  ")[0] == "2026-11-21 01:43:36"
    assert lines[1].endswith("common/llm.py ← agents/planner.py (import)")
    assert lines[2] == "    └ check 12ms · stop 80ms · start 310ms"
    assert lines[3].endswith("NameError: name 'x' … agents/planner.py:12 (agents/planner.py)")
    newest = json.loads(meshsup("history", "-n", "1", "--json").out)
    assert [(row["agent"], row["outcome"], row["generation"]) for row in newest] == [("planner", "rejected", 8)]
    write_events(root, Event(AT, "ready", "writer", "ready"))
    assert json.loads(meshsup("history", "--json", "writer").out) == []
    assert len(json.loads(meshsup("history", "--json", "plan*").out)) == 2


def test_no_history_is_said(meshsup: Command) -> None:
    done = meshsup("history")
    assert (done.code, done.out, done.err) == (0, "", "no reload yet\n")


def test_events_of_the_past_when_nothing_runs(meshsup: Command, root: Path) -> None:
    write_events(root, *(Event(AT + n, "ready", "planner", f"ready {n}") for n in range(30)))
    lines = meshsup("events").out.splitlines()
    assert (len(lines), lines[-1]) == (10, "2026-11-21 01:44:05  planner       ready             ready 29")
    assert json.loads(meshsup("events", "-n", "1", "--json").out)["text"] == "ready 29"
    assert meshsup("events", "--kind", "exited").out == ""


@pytest.mark.parametrize("verb", ["history", "events"])
def test_an_agent_that_never_was_is_4(meshsup: Command, root: Path, verb: str) -> None:
    write_events(root, Event(AT, "ready", "writer", "an agent of the past"))
    done = meshsup(verb, "planer")
    assert (done.code, done.out, done.err) == (4, "", "meshsup: no agent is called 'planer'; did you mean 'planner'?\n")
    assert meshsup(verb, "writer").code == 0 and meshsup(verb, "planner").code == 0


def test_a_kind_that_is_none_is_told(meshsup: Command) -> None:
    done = meshsup("events", "--kind", "crash")
    assert done.code == 2
    assert "--kind crash: no such kind; did you mean 'crashed'?" in done.err


def test_events_of_globs_past_and_live(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    write_events(root, Event(AT, "ready", "planner", "past"), Event(AT, "ready", "web", "other"))
    mesh.coming_events = [Event(AT + 1, "ready", "planner", "live"), Event(AT + 2, "ready", "web", "other")]
    texts = [json.loads(line)["text"] for line in meshsup("events", "--json", "pl*").out.splitlines()]
    assert texts == ["past", "live"]


def test_events_past_and_live_none_twice(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    both = Event(AT, "exited", "planner", "in the file and in the stream")
    write_events(root, Event(AT - 1, "ready", "planner", "before"), both)
    mesh.coming_events = [both, Event(AT + 1, "ready", "planner", "after"), Event(AT + 2, "ready", "web", "another")]
    texts = [json.loads(line)["text"] for line in meshsup("events", "--json", "planner").out.splitlines()]
    assert texts == ["before", "in the file and in the stream", "after"]
