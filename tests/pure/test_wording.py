"""What people may see."""

from __future__ import annotations

import json

from mesh_supervisor.wording import hide, json_text, one_line


def test_secrets_are_hidden_wherever_they_stand() -> None:
    secrets = {"hunter22", "hunter22-long", "x+y(z"}
    assert hide("--token=hunter22 postgres://u:hunter22@db hunter22-long x+y(z", secrets) == (
        "--token=••• postgres://u:•••@db ••• •••"
    )


def test_only_whole_words_are_hidden() -> None:
    assert hide("information info", {"info"}) == "information •••"


def test_what_is_too_short_or_too_common_is_no_secret() -> None:
    assert hide("--workers 1 --flag true", {"1", "true", ""}) == "--workers 1 --flag true"


def test_hidden_once_not_twice() -> None:
    assert hide("abcdef", {"abcdef", "••••"}) == "•••"


def test_json_holds_nothing_that_a_terminal_obeys_and_means_the_same() -> None:
    risky = [
        *map(chr, range(32)),
        *map(chr, range(0x7F, 0xA0)),
        *"\u061c\u200e\u200f\u2028\u2029\u202e\u2066\u2069\ud800",
    ]
    value = {"é→你🙂": ["".join(risky)]}
    for text in (json_text(value), json_text(value, compact=True), json_text(value, indent=2)):
        assert not set(text) & set(risky) - {"\n"}
        assert "é→你🙂" in text
        assert json.loads(text) == value
    assert json_text({"a": [1]}, compact=True) == '{"a":[1]}'


def test_one_line() -> None:
    assert one_line("a\nb\x1b[31m\u202eé\x9b\t") == "a\\nb\\x1b[31m\\u202eé\\x9b\\t"
