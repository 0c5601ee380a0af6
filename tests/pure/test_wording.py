"""What people may see."""

from __future__ import annotations

from mesh_supervisor.wording import hide, one_line


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


def test_one_line() -> None:
    assert one_line("a\nb\x1b[31m\u202eé\x9b\t") == "a\\nb\\x1b[31m\\u202eé\\x9b\\t"
