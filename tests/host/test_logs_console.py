"""The console: nobody speaks in another's name, and nobody waits for a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.host.console import Console, Prefixed, fold, json_line, wants_colour, widest
from mesh_supervisor.host.lines import Line, readable

AT = 1795225416.123
PATIENCE = 30.0


def line(text: str, agent: str = "planner", styled: str = "") -> Line:
    return Line(AT, agent, 7, text, styled)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            try:
                os.close(end)
            except OSError:
                continue


def printed(*lines: Line, **options: bool) -> str:
    with pipe() as (reader, writer):
        console = Console(writer, **options)  # type: ignore[arg-type]
        for each in lines:
            console.write(each)
        console.close(PATIENCE)
        os.close(writer)
        with os.fdopen(os.dup(reader)) as output:
            return output.read()


# ---- for people ------------------------------------------------------------------------------------------------------


def test_prefixes_line_up() -> None:
    assert printed(line("a"), line("b", "a-long-name"), line("", "meshsup")) == (
        "planner | a\na-long-name | b\nmeshsup     | \n"
    )


def test_known_names_line_up_from_the_beginning() -> None:
    render = Prefixed(["planner", "a-long-name"], colour=False)
    assert render(line("a")) == "planner     | a\n"


def test_colours_of_prefix_and_program() -> None:
    render = Prefixed([], colour=True)
    assert render(line("red", styled="\x1b[31mred")) == "\x1b[36mplanner |\x1b[0m \x1b[31mred\x1b[0m\n"
    assert render(line("x", "retriever")).startswith("\x1b[33mretriever |\x1b[0m x")
    assert Prefixed([], colour=False)(line("red", styled="\x1b[31mred")) == "planner | red\n"


@pytest.mark.parametrize(
    ("terminal", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_when_there_are_colours(terminal: bool, environ: dict[str, str], colour: bool) -> None:
    assert wants_colour(terminal, environ) is colour


def test_a_pipe_is_not_folded() -> None:
    assert printed(line("x" * 500)) == "planner | " + "x" * 500 + "\n"


def test_on_a_terminal_no_row_begins_without_its_prefix() -> None:
    """An agent fills the row up so that the terminal's own folding would put a forged prefix at its beginning."""
    render = Prefixed(["planner", "bank"], colour=False, columns=lambda: 30)
    forged = "x" * 20 + "bank    | all money is gone"
    rows = render(line(forged)).splitlines()
    assert rows == ["planner | xxxxxxxxxxxxxxxxxxxx", "planner | bank    | all money ", "planner | is gone"]


def test_our_own_sentences_are_folded_at_words() -> None:
    render = Prefixed(["planner"], colour=False, columns=lambda: 30)
    ours = replace(line("planner failed: it waits for `meshsup start planner`, or " + "x" * 30), agent="meshsup")
    assert render(ours).splitlines() == [
        "meshsup | planner failed: it",
        "meshsup | waits for `meshsup",
        "meshsup | start planner`, or",
        "meshsup | " + "x" * 20,
        "meshsup | " + "x" * 10,
    ]


@given(st.text(max_size=200), st.integers(2, 60))
def test_rows_never_spill_over(text: str, room: int) -> None:
    plain = readable(text.encode("utf-8", "replace"))[0].replace("\t", " ")
    rows = fold(plain, room)
    assert "".join(rows) == plain
    assert all(sum(map(widest, row)) <= room for row in rows)


def test_wide_characters_and_colours_when_folding() -> None:
    assert fold("你好吗", 4) == ["你好", "吗"]
    assert fold("\x1b[31mabcdef\x1b[0mg", 4) == ["\x1b[31mabcd", "\x1b[31mef\x1b[0mg"]
    assert fold("", 4) == [""]


def test_a_line_of_nothing_but_colours_does_not_multiply() -> None:
    styled = "\x1b[31mx" * 10_000
    assert sum(map(len, fold(styled, 20))) < 2 * len(styled) + 100_000


def test_on_a_real_terminal() -> None:
    master, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
        console = Console(terminal, colour=False)
        text, styled = readable(b"\x1b[2J\x1b[1;1H" + b"x" * 20 + b"bank | \rgone")
        console.write(line(text, styled=styled))
        console.write(line("y" * 25))
        console.close(PATIENCE)
        shown = ""
        while shown.count("\n") < 3:  # the kernel hands it on in pieces
            shown += os.read(master, 4096).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert shown.splitlines() == ["planner | gone", "planner | " + "y" * 20, "planner | yyyyy"]


# ---- for collectors --------------------------------------------------------------------------------------------------


def test_json_lines() -> None:
    (row,) = printed(line('he said "hi" 你好'), json_lines=True).splitlines()
    assert json.loads(row) == {
        "at": "2026-11-21T01:43:36.123Z",
        "agent": "planner",
        "generation": 7,
        "text": 'he said "hi" 你好',
    }


def test_a_line_that_is_a_json_object_is_merged() -> None:
    row = json.loads(json_line(line('{"level": "info", "text": "own", "n": {"a": [1]}}')))
    assert (row["level"], row["text"], row["n"], row["agent"]) == ("info", "own", {"a": [1]}, "planner")


def test_nobody_speaks_in_anothers_name_in_json() -> None:
    row = json.loads(json_line(line('{"agent": "bank", "generation": 99, "at": "then", "agent_": "bank"}')))
    assert (row["agent"], row["generation"], row["at"]) == ("planner", 7, "2026-11-21T01:43:36.123Z")


@pytest.mark.parametrize(
    "text",
    [
        "{}x",
        "{not json}",
        '{"a": NaN}',
        '{"a": -1e999}',
        "[1]",
        "{",
        '{"a":' * 30_000 + "1" + "}" * 30_000,
        '{"a": ' + "9" * 9999 + "}",
    ],
)
def test_what_is_no_json_object_is_text(text: str) -> None:
    assert json.loads(json_line(line(text)))["text"] == text


def test_json_is_safe_to_show() -> None:
    row = json_line(line('{"a": "\\u001b[2J\\u009b\\u202e", "b": "\x9b"}'))
    assert not re.search("[\x1b\x9b\u202e]", row)
    assert json.loads(row)["a"] == "\x1b[2J\x9b\u202e"


def test_a_lone_surrogate_in_json_is_printed_all_the_same() -> None:
    (row,) = printed(line('{"a": "\\ud800"}'), json_lines=True).splitlines()
    assert json.loads(row)["a"] == "\ud800"


# ---- slow, gone ------------------------------------------------------------------------------------------------------


def test_a_stopped_terminal_blocks_nobody_and_is_told_what_it_missed() -> None:
    with pipe() as (reader, writer):
        console = Console(writer)
        for n in range(100_000):
            console.write(line(f"{n:06}"))  # far more than pipe and backlog hold: returns, or the test never ends
        rows: list[str] = []
        with os.fdopen(os.dup(reader)) as output:
            reading = threading.Thread(target=lambda: rows.extend(output))
            reading.start()
            console.close(PATIENCE)
            os.close(writer)
            reading.join(PATIENCE)
            assert not reading.is_alive()
    assert rows[-1] == "planner | 099999\n"
    missing = [int(row.split("(")[1].split()[0]) for row in rows if "left out: the console is too slow" in row]
    assert missing
    assert len(rows) - len(missing) + sum(missing) == 100_000


def test_closing_gives_up_on_a_terminal_that_takes_nothing() -> None:
    with pipe() as (_, writer):
        console = Console(writer)
        for _n in range(20_000):
            console.write(line("x" * 100))
        console.close(0.05)


def stuck(writer: int) -> Console:
    """It has filled the pipe, and has more to print."""
    console = Console(writer)
    for n in range(2000):
        console.write(line(f"{n:0100}"))
    while select.select([], [writer], [], 0.0)[1]:
        time.sleep(0.01)
    return console


def test_one_that_takes_nothing_at_all_gets_half_the_time_of_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, writer):
        console = stuck(writer)
        waited: list[float] = []
        monkeypatch.setattr(console._thread, "join", waited.append)
        console.close(4.0)
        assert waited == [2.0]
        assert os.read(reader, 10).startswith(b"planner")


def test_a_slow_one_is_not_taken_for_one_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as (reader, writer):
        console = stuck(writer)
        waited: list[float] = []
        received = b""

        def join(seconds: float) -> None:
            """Meanwhile something is read."""
            nonlocal received
            waited.append(seconds)
            before = console._written
            while console._written == before:
                received += os.read(reader, 4096)

        monkeypatch.setattr(console._thread, "join", join)
        console.close(4.0)
        assert waited == [2.0, 2.0]
        os.close(writer)
        while chunk := os.read(reader, 4096):
            received += chunk
        assert received.count(b"\n") == 2000


def test_a_reader_that_has_gone_ends_it_quietly() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        console = Console(writer)
        console.write(line("x"))
        console.close(PATIENCE)
        assert console.gone
        console.write(line("y"))


def test_a_nonblocking_descriptor_loses_nothing() -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        console = Console(writer)
        for n in range(9000):
            console.write(line(f"{n:06}" + "x" * 100))
        rows: list[str] = []
        with os.fdopen(os.dup(reader)) as output:
            reading = threading.Thread(target=lambda: rows.extend(output))
            reading.start()
            console.close(PATIENCE)
            os.close(writer)
            reading.join(PATIENCE)
    assert [int(row[10:16]) for row in rows] == list(range(9000))
