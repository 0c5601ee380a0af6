"""Whatever a program writes, a line of it stays one line and cannot steer a terminal."""

from __future__ import annotations

import itertools
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.host.lines import LineSplitter, readable, sanitize

SGR = re.compile(r"\x1b\[[0-9;:]*m")
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

nasty = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\x1b", b"[", b"]", b"0;", b"31m", b"\x07", b"\\", b"\r", b"\x9b", b"P", b"2J", b"\xe2\x80\xae"]
        ),
        st.binary(max_size=6),
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
    ),
    max_size=40,
).map(b"".join)


def harmless(text: str) -> bool:
    return not any(
        character not in "\t" and (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI)
        for character in text
    )


@given(nasty)
def test_no_bytes_leave_a_control_character(raw: bytes) -> None:
    text, styled = readable(raw.replace(b"\n", b""))
    assert harmless(text)
    assert harmless(SGR.sub("", styled))
    if styled:
        assert SGR.sub("", styled) == text


@given(nasty)
def test_sanitizing_twice_changes_nothing(raw: bytes) -> None:
    once = sanitize(raw.decode("utf-8", "backslashreplace"))
    assert sanitize(once) == once


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain", "plain"),
        ("grüße 你好 👩‍👩‍👧".encode(), "grüße 你好 👩‍👩‍👧"),
        (b"a\tb", "a\tb"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b[2J\x1b[H\x1b[1;1Hplanner | forged", "planner | forged"),
        (b"\x1b]0;new title\x07after", "after"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1b]52;c;never ended", "\\x1b]52;c;never ended"),
        (b"\x1b\x1b[0m[31m", "\\x1b[31m"),
        (b"\x1bPq#0\x1b\\sixel", "sixel"),
        (b"\x1bc\x1b7\x1b(Breset", "reset"),
        (b"bell\x07 back\x08 del\x7f", "bell\\x07 back\\x08 del\\x7f"),
        (b"\xc2\x9b2J", "\\x9b2J"),
        ("left\u202etfel".encode(), "left\\u202etfel"),
        ("one\u2028two\u0085three".encode(), "one\\u2028two\\x85three"),
        (b"caf\xe9", "caf\\xe9"),
        (b"\x00", "\\x00"),
        (b"10%\r 50%\r100%", "100%"),
        (b"done\r", "done"),
        (b"done\r\r", "done"),
        (b"", ""),
    ],
)
def test_what_is_left(raw: bytes, text: str) -> None:
    assert readable(raw)[0] == text


def test_colours_survive_apart_and_nothing_else_does() -> None:
    assert readable(b"\x1b[1;31mred\x1b[0m\x1b[2J plain") == ("red plain", "\x1b[1;31mred\x1b[0m plain")
    assert readable(b"\x1b[2Jno colours") == ("no colours", "")
    assert readable(b"\x1b[?25hno \x1b[>4mcolours") == ("no colours", "")


def test_a_long_hostile_line_is_read_in_time() -> None:
    for piece in (b"\x1b]", b"\x1b[", b"\x1bP", b"\x1b[0;", b"\x1b ", b"\x1b[1m"):
        readable(piece * (65536 // len(piece)))
    readable(b"\x1b[" + b"1" * 65534)


# ---- splitting -------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(0, 600), max_size=10))
def test_lines_do_not_depend_on_how_the_bytes_arrive(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for line in lines) + b"unfinished"
    splitter = LineSplitter()
    found: list[bytes] = []
    borders = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in itertools.pairwise(borders):
        found += splitter.feed(stream[start:end])
    assert b"\n".join([*found, *splitter.rest()]) == stream
    assert splitter.rest() == []


def test_a_line_without_end_is_cut_and_counted() -> None:
    splitter = LineSplitter(limit=10)
    for _ in range(100):
        assert splitter.feed(b"0123456789") == []
    assert splitter.feed(b"\nnext\n") == ["0123456789 … (990 bytes more)".encode(), b"next"]


def test_a_progress_bar_without_newlines_costs_nothing_and_ends_in_its_last_state() -> None:
    splitter = LineSplitter(limit=40)
    for percent in range(101):
        assert splitter.feed(f"\r{percent:3}% {'#' * 20}".encode()) == []
    (line,) = splitter.feed(b"\n")
    assert readable(line)[0] == "100% " + "#" * 20


def test_carriage_returns_at_the_border_of_two_reads() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\r") == []
    assert [readable(line)[0] for line in splitter.feed(b"\r\ntwo\r\n")] == ["one", "two"]
