"""state_dir as it may be found: damaged, replaced, shared by two commands at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh_supervisor.errors import AlreadyRunning, ConfigError
from mesh_supervisor.host.keptfile import LARGEST, read_kept, write_kept, write_once
from mesh_supervisor.host.statedir import OWNER_LENGTH, StateDir

Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "no-text": lambda path: path.write_bytes(b"\xff\xfe\x00["),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "empty": lambda path: path.write_bytes(b""),
    "a-list": lambda path: path.write_bytes(b"[1, 2]"),
}
REPLACED: dict[str, Damage] = {
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,  # whoever opens it as a file waits for ever
    "zero": lambda path: path.symlink_to("/dev/zero"),  # whoever reads it to its end takes all memory
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", ["owner", "generations.json", "watch.toml"])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, name: str, damage: Damage) -> None:
    damage(tmp_path / name)
    state = StateDir.open(tmp_path)
    assert len(state.owner) == OWNER_LENGTH
    assert (state.last_generation("a"), state.unwatched()) == (0, frozenset())
    state.keep_generation("a", 3)
    state.keep_unwatched({"a"})
    again = StateDir.open(tmp_path)
    assert (again.owner, again.last_generation("a"), again.unwatched()) == (state.owner, 3, frozenset({"a"}))


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
@pytest.mark.parametrize("name", ["owner", "generations.json"])
def test_what_is_no_file_is_said_not_waited_for(tmp_path: Path, name: str, replace: Damage) -> None:
    replace(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"mesh\.state_dir: cannot use .* \({name}: "):
        StateDir.open(tmp_path)


@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_switches_that_cannot_be_read_are_none(tmp_path: Path, replace: Damage) -> None:
    replace(tmp_path / "watch.toml")
    assert StateDir.open(tmp_path).unwatched() == frozenset()


def test_switches_of_the_wrong_type_are_none(tmp_path: Path) -> None:
    (tmp_path / "watch.toml").write_text("disabled = 5\n")
    assert StateDir.open(tmp_path).unwatched() == frozenset()


def test_numbers_that_are_no_generations_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "generations.json").write_text('{"a": true, "b": -5, "c": 1e3, "d": 99999999999999999999, "e": 7}')
    state = StateDir.open(tmp_path)
    assert [state.last_generation(name) for name in "abcde"] == [0, 0, 0, 0, 7]


@pytest.mark.parametrize("name", ["folder", "loop"])
def test_a_lock_that_cannot_be_opened_is_said(tmp_path: Path, name: str) -> None:
    state = StateDir.open(tmp_path)
    REPLACED[name](tmp_path / "lock")
    with pytest.raises(ConfigError, match=r"\(lock: "):
        state.lock()


def test_a_lock_in_which_nothing_can_be_written_holds(tmp_path: Path) -> None:
    first, second = StateDir.open(tmp_path), StateDir.open(tmp_path)
    os.mkfifo(tmp_path / "lock")
    first.lock()
    try:
        with pytest.raises(AlreadyRunning):
            second.lock()
    finally:
        first.unlock()


def test_of_two_that_begin_at_once_the_first_names_the_owner(tmp_path: Path) -> None:
    assert write_once(tmp_path / "owner", b"aaaaaaaa")
    assert not write_once(tmp_path / "owner", b"bbbbbbbb")
    assert StateDir.open(tmp_path).owner == "aaaaaaaa"


def test_a_kept_file_is_private_and_whole(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    # A link that somebody laid where the new file is made must not be followed.
    target = tmp_path / "target"
    (tmp_path / f".kept.{os.getpid()}.new").symlink_to(target)
    write_kept(kept, b"1")
    assert (read_kept(kept), stat.S_IMODE(kept.stat().st_mode)) == (b"1", 0o600)
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_cannot_be_one_of_ours_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(OSError, match="too large"):
        read_kept(tmp_path / "kept")


def test_a_write_that_fails_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(OSError):
        write_kept(tmp_path / "kept", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_that_another_user_has_put_where_ours_would_be_is_not_used(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    home = tmp_path / "state"
    home.mkdir()
    home.chmod(0o1777)
    planted = home / "mesh"
    planted.mkdir(mode=0o777)
    os.chown(planted, 12345, 12345)
    with pytest.raises(ConfigError, match="is not yours"):
        StateDir.open(planted)
    link = home / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is not yours"):
        StateDir.open(link)
    assert StateDir.open(home / "own").path == home / "own"


def test_a_lock_that_went_with_its_folder_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ends, and takes the folder with it, between our opening the file and our locking it."""
    state = StateDir.open(tmp_path / "state")

    def too_late(descriptor: int, operation: int) -> None:
        (tmp_path / "state" / "lock").unlink()

    monkeypatch.setattr("mesh_supervisor.host.statedir.fcntl.flock", too_late)
    with pytest.raises(AlreadyRunning, match="try again"):
        state.lock()
