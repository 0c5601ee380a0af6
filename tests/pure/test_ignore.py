"""Layers of gitignore patterns, and the built-in list."""

from __future__ import annotations

import pytest

from mesh_supervisor.ignore import BUILT_IN, built_in, first_verdict, layer, lenient_layer


@pytest.mark.parametrize(
    "name", ["node_modules", ".venv", ".git", "__pycache__", "site-packages", ".mesh", "demo.egg-info"]
)
def test_folders_that_are_never_worth_finding(name: str) -> None:
    assert built_in(name, directory=True)


@pytest.mark.parametrize(
    "name", [".app.py.swp", "app.py~", "4913", ".#app.py", "app.pyc", "agent.log", "app.py.tmp", "x.db-wal"]
)
def test_files_that_are_never_worth_finding(name: str) -> None:
    assert built_in(name, directory=False)


@pytest.mark.parametrize("name", ["app.py", "prompt.md", ".env", "mesh.toml", "build", "venv", "catalog", "data.db"])
def test_files_that_are(name: str) -> None:
    assert not built_in(name, directory=False)


def test_the_built_in_list_speaks_of_names_only() -> None:
    """That is what allows its answers to be remembered by name."""
    assert not [pattern for pattern in BUILT_IN if "/" in pattern.rstrip("/") or pattern.startswith(("!", "#"))]
    assert len(set(BUILT_IN)) == len(BUILT_IN)


def test_patterns_mean_what_they_mean_to_git() -> None:
    rules = layer("/r", ["*.bak", "/top", "out/", "a/**/z", "!keep.bak", "# comment", ""])
    assert rules.verdict("/r/deep/x.bak", directory=False) is True
    assert rules.verdict("/r/deep/keep.bak", directory=False) is False
    assert rules.verdict("/r/top", directory=False) is True
    assert rules.verdict("/r/deep/top", directory=False) is None
    assert rules.verdict("/r/deep/out", directory=True) is True
    assert rules.verdict("/r/deep/out", directory=False) is None
    assert rules.verdict("/r/a/b/c/z", directory=False) is True
    assert rules.verdict("/elsewhere/x.bak", directory=False) is None
    assert rules.verdict("/r", directory=True) is None
    assert rules.verdict("/rest/x.bak", directory=False) is None


def test_the_first_layer_that_speaks_decides() -> None:
    near, far = layer("/r/sub", ["!x.md"]), layer("/r", ["*.md", "*.txt"])
    assert first_verdict([near, far], "/r/sub/x.md", directory=False) is False
    assert first_verdict([near, far], "/r/sub/x.txt", directory=False) is True
    assert first_verdict([near, far], "/r/x.md", directory=False) is True
    assert first_verdict([near, far], "/r/x.py", directory=False) is None


def test_a_bad_line_costs_that_line_only() -> None:
    with pytest.raises(ValueError, match="Invalid"):
        layer("/r", ["!"])
    rules, bad = lenient_layer("/r", ["*.bak", "!", "*.old"])
    assert bad == ("!",)
    assert rules.verdict("/r/x.old", directory=False) is True
    assert lenient_layer("/r", ["*.bak"])[1] == ()
