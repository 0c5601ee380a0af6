"""Numbers and tables as people read them."""

from __future__ import annotations

import pytest

from mesh_supervisor.cli.moments import parse_since
from mesh_supervisor.cli.table import aligned, cells, cut
from mesh_supervisor.cli.words import duration, one_line, percent, size
from mesh_supervisor.errors import UsageError
from mesh_supervisor.wording import counted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (7500, "2h05m"), (280_000, "3d05h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0K"), (2048, "2K"), (47_400_000, "45.2M"), (300 * 2**20, "300M"), (2**30, "1.0G")],
)
def test_size(count: int | None, text: str) -> None:
    assert size(count) == text


def test_small_words() -> None:
    assert [percent(value) for value in (None, 0.04, 12.34, 199.96)] == ["-", "0.0%", "12.3%", "200%"]
    assert (counted(1, "file"), counted(0, "file")) == ("1 file", "0 files")
    assert one_line("a\n\tb  \x1b[31mc\x1b[0m") == "a b c"


def test_columns_are_columns_of_the_terminal() -> None:
    assert (cells("abc"), cells("日本"), cells("e\u0301")) == (3, 4, 1)
    assert cut("日本語", 5) == "日本…"
    lines = aligned([("NAME", "X"), ("日本", "1"), ("a", "2")])
    assert aligned([("A", "B"), ("x\x1b[2J", "\u202ey\n")]) == ["A         B", "x\\x1b[2J  \\u202ey\\n"]
    assert [cells(line[: line.index(x)]) for line, x in zip(lines, "X12", strict=True)] == [6, 6, 6]


def test_numbers_are_right_aligned() -> None:
    assert aligned([("N", "X"), ("1", "a"), ("10", "b")], right=[0]) == [" N  X", " 1  a", "10  b"]


@pytest.mark.parametrize(
    ("text", "seconds_ago"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400)]
)
def test_since_a_span(text: str, seconds_ago: float) -> None:
    assert parse_since(text, now=1_000_000.0) == 1_000_000.0 - seconds_ago


def test_since_a_time() -> None:
    assert parse_since("2026-11-21T01:43:36Z") == 1_795_225_416.0
    assert parse_since(None) is None
    for nonsense in ("", "5", "m", "yesterday", "5 m"):
        with pytest.raises(UsageError):
            parse_since(nonsense)
