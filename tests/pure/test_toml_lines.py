"""Which line a key stands on."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.mesh_toml.toml_lines import key_lines, line_of

TEXT = '''\
# a comment with [brackets] and a = b
[mesh]   # another
name = "x # no comment"
env = { A = "}", B = "]" }

[agents.planner]
command = [
  "uv",  # one ]
  "run", "a]b",
]
args = """
port = 1
[agents.liar]
"""
ready.http = "/x"
"quoted key" = 1
'literal.key' = \'\'\'
it's "''\'\'\'
[[tools]]
name = "a"
  [agents . "a b".env]
  LAST = 1'''


def test_lines() -> None:
    tomllib.loads(TEXT)
    assert key_lines(TEXT) == {
        ("mesh",): 2,
        ("mesh", "name"): 3,
        ("mesh", "env"): 4,
        ("agents",): 6,
        ("agents", "planner"): 6,
        ("agents", "planner", "command"): 7,
        ("agents", "planner", "args"): 11,
        ("agents", "planner", "ready"): 15,
        ("agents", "planner", "ready", "http"): 15,
        ("agents", "planner", "quoted key"): 16,
        ("agents", "planner", "literal.key"): 17,
        ("tools",): 19,
        ("tools", "name"): 20,
        ("agents", "a b"): 21,
        ("agents", "a b", "env"): 21,
        ("agents", "a b", "env", "LAST"): 22,
    }


def test_windows_line_ends() -> None:
    assert key_lines('[a]\r\nb = 1\r\nc = "x"\r\n') == {("a",): 1, ("a", "b"): 2, ("a", "c"): 3}


def test_what_has_no_line_has_that_of_what_is_around_it() -> None:
    lines = key_lines(TEXT)
    assert line_of(lines, ("mesh", "env", "A")) == 4
    assert line_of(lines, ("agents", "planner", "command", 1)) == 7
    assert line_of(lines, ("watch", "debounce")) is None
    assert line_of(lines, ()) is None


KEYS = st.text("ab-_1", min_size=1, max_size=3)
VALUES = st.one_of(
    st.integers(0, 9).map(str),
    st.text("a#[]{}=\"'\n ", max_size=6).map(lambda text: '"""\n' + text.replace('"', '\\"') + '"""'),
    st.text("a#[]{}= ", max_size=6).map(lambda text: f"[\n'{text}', # ]\n]"),
)


@given(st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES)))
def test_every_key_of_any_text_is_found_on_its_line(top: dict[str, str], tables: dict[str, dict[str, str]]) -> None:
    tables = {f"table-{name}": table for name, table in tables.items()}
    written: list[str] = []
    expected: dict[tuple[str, ...], int] = {}

    def write(path: tuple[str, ...], text: str) -> None:
        expected[path] = sum(part.count("\n") for part in written) + 1
        written.append(text + "\n")

    for key, value in top.items():
        write((key,), f"{key} = {value}")
    for name, table in tables.items():
        write((name,), f"[{name}] # said")
        for key, value in table.items():
            write((name, key), f"{key} = {value}")
    text = "".join(written)
    parsed: dict[str, Any] = tomllib.loads(text)
    assert key_lines(text) == expected
    assert set(parsed) == {path[0] for path in expected}
