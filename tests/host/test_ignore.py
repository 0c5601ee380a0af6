"""The rules as people write them down: .gitignore files, .meshwatch, watch.ignore."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh_supervisor.host.ignore import Ignore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "repo" / "mesh"
    place.mkdir(parents=True)
    return place


def rules(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def test_gitignore_limits_discovery_only(root: Path) -> None:
    rules(root / ".gitignore", "generated/", "*.local")
    ignore = Ignore([root])
    assert ignore.discovery_ignored(root / "generated/deep/api.py")
    assert ignore.discovery_ignored(root / "x.local")
    assert ignore.prunes(root / "generated")
    assert not ignore.prunes(root / "src")
    assert not ignore.user_ignored(root / "generated/deep/api.py")
    assert not ignore.discovery_ignored(root / "src/app.py")


def test_nested_gitignore_files_win_over_those_above(root: Path) -> None:
    rules(root / ".gitignore", "*.md", "/data")
    rules(root / "docs/.gitignore", "!*.md", "drafts/")
    ignore = Ignore([root])
    assert ignore.discovery_ignored(root / "x.md")
    assert not ignore.discovery_ignored(root / "docs/x.md")
    assert ignore.discovery_ignored(root / "docs/drafts/x.md")
    assert ignore.discovery_ignored(root / "data/x.py")
    assert not ignore.discovery_ignored(root / "src/data/x.py")


def test_what_lies_in_an_ignored_folder_cannot_be_taken_back(root: Path) -> None:
    rules(root / ".gitignore", "out/", "!out/keep.md")
    rules(root / "out/.gitignore", "!*")
    assert Ignore([root]).discovery_ignored(root / "out/keep.md")


def test_the_repository_around_a_root_has_a_say(root: Path, tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir()
    rules(tmp_path / "repo/.gitignore", "*.gen", "/mesh/made")
    rules(tmp_path / ".gitignore", "*.py")
    ignore = Ignore([root])
    assert ignore.discovery_ignored(root / "deep/x.gen")
    assert ignore.prunes(root / "made")
    # Beyond the repository nobody has.
    assert not ignore.discovery_ignored(root / "app.py")


def test_without_a_repository_nothing_above_a_root_counts(root: Path, tmp_path: Path) -> None:
    rules(tmp_path / "repo/.gitignore", "*.py")
    assert not Ignore([root]).discovery_ignored(root / "app.py")


def test_a_root_that_its_repository_ignores_is_watched_all_the_same(root: Path, tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir()
    rules(tmp_path / "repo/.gitignore", "*")
    rules(root / ".gitignore", "*.local")
    ignore = Ignore([root])
    assert not ignore.discovery_ignored(root / "src/app.py")
    assert ignore.discovery_ignored(root / "src/x.local")


def test_a_repository_inside_does_not_obey_the_one_around_it(root: Path) -> None:
    (root / ".git").mkdir()
    (root / "vendored/.git").mkdir(parents=True)
    rules(root / ".gitignore", "*.gen")
    ignore = Ignore([root])
    assert ignore.discovery_ignored(root / "x.gen")
    assert not ignore.discovery_ignored(root / "vendored/deep/x.gen")


def test_the_users_word_beats_gitignore_and_the_built_in_list(root: Path) -> None:
    rules(root / ".gitignore", "generated/")
    rules(root / ".meshwatch", "!generated/", "!*.log", "secret/")
    ignore = Ignore([root], ["**/*_test.py", "/notes"])
    assert not ignore.discovery_ignored(root / "generated/api.py")
    assert not ignore.discovery_ignored(root / "deep/app.log")
    assert ignore.user_ignored(root / "secret/deep/x.py")
    assert ignore.user_ignored(root / "deep/a_test.py")
    assert ignore.discovery_ignored(root / "deep/a_test.py")
    assert ignore.user_ignored(root / "notes/x.md")
    assert not ignore.user_ignored(root / "deep/notes/x.md")
    assert ignore.prunes(root / "secret")


def test_meshwatch_beats_the_configuration(root: Path) -> None:
    rules(root / ".meshwatch", "!one_test.py")
    ignore = Ignore([root], ["*_test.py"])
    assert not ignore.user_ignored(root / "one_test.py")
    assert ignore.user_ignored(root / "two_test.py")


def test_patterns_hold_in_every_root_and_for_single_files_outside(root: Path, tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    rules(libs / ".meshwatch", "/old")
    ignore = Ignore([root, libs], ["*_test.py", "/private"])
    assert ignore.user_ignored(libs / "deep/a_test.py")
    assert ignore.user_ignored(libs / "private/x.py")
    assert ignore.user_ignored(libs / "old/x.py")
    assert not ignore.user_ignored(root / "old/x.py")
    assert ignore.user_ignored(tmp_path / "alone/a_test.py")
    assert not ignore.user_ignored(tmp_path / "alone/a.py")


def test_an_opened_folder_is_entered_whatever_gitignore_says(root: Path) -> None:
    rules(root / ".gitignore", "/build")
    rules(root / "build/prompts/.gitignore", "*.bak")
    ignore = Ignore([root], ["build/prompts/drafts", "never"])
    ignore.cover([root], [root / "build/prompts", root / "never/here", root / "plain"])
    assert ignore.prunes(root / "build")
    assert not ignore.prunes(root / "build/prompts/deep")
    assert not ignore.discovery_ignored(root / "build/prompts/deep/p.md")
    assert ignore.discovery_ignored(root / "build/prompts/deep/p.bak")
    assert ignore.discovery_ignored(root / "build/prompts/drafts/p.md")
    assert ignore.prunes(root / "never/here/deep")
    assert not ignore.prunes(root / "plain/deep")


def test_an_opened_folder_that_nobody_ignores_keeps_the_rules_above_it(root: Path) -> None:
    rules(root / ".gitignore", "*.bak")
    ignore = Ignore([root])
    ignore.cover([root], [root / "prompts"])
    assert ignore.discovery_ignored(root / "prompts/deep/p.bak")


def test_the_state_dir_is_ignored_whatever_anybody_says(root: Path) -> None:
    rules(root / ".meshwatch", "!state/", "!*")
    ignore = Ignore([root], state_dir=root / "state")
    assert ignore.user_ignored(root / "state/logs/a.txt")
    assert ignore.discovery_ignored(root / "state/logs/a.txt")
    assert ignore.prunes(root / "state")
    assert not ignore.prunes(root / "statement")


def test_rules_are_read_again_when_asked(root: Path) -> None:
    ignore = Ignore([root])
    assert not ignore.discovery_ignored(root / "lib/x.py")
    rules(root / ".gitignore", "lib/")
    assert not ignore.discovery_ignored(root / "lib/y.py")
    ignore.refresh()
    assert ignore.discovery_ignored(root / "lib/x.py")


def test_bad_lines_are_passed_over_with_a_word_and_a_bad_configuration_is_an_error(root: Path) -> None:
    rules(root / ".gitignore", "!", "*.bak")
    ignore = Ignore([root])
    assert ignore.discovery_ignored(root / "x.bak")
    assert ignore.warnings == (f"{root}/.gitignore: '!' is no gitignore pattern; passed over",)
    with pytest.raises(ValueError, match="Invalid"):
        Ignore([root], ["!"])


def test_an_unreadable_rule_file_says_nothing(root: Path) -> None:
    (root / ".gitignore").mkdir()
    (root / ".meshwatch").write_bytes(b"\xff\xfe\n*.bak\n")
    assert Ignore([root]).user_ignored(root / "x.bak")


def test_where_we_may_not_look_there_is_no_repository(root: Path) -> None:
    """A name that is too long is refused like a folder that may not be entered, but to root as well."""
    ignore = Ignore([root])
    assert not ignore.discovery_ignored(root / ("x" * 300) / "y.md")
    assert not ignore.discovery_ignored(Path("/", "x" * 300, "y.md"))


def test_the_root_folder_is_a_root_like_any_other() -> None:
    ignore = Ignore([Path("/")], ["*.draft"])
    ignore.cover([Path("/")], [Path("/")])
    assert not ignore.prunes(Path("/"))
    assert not ignore.discovery_ignored(Path("/x.md"))
    assert ignore.user_ignored(Path("/x.draft"))
