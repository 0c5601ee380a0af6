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
from mesh_supervisor.host.surroundings import state_dir_seen

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


STRANGER, NEIGHBOUR = 54321, 54322


def given(path: Path, user: int) -> Path:
    """Of a link, not what it leads to."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    os.chown(path, user, user, follow_symlinks=False)
    return path


@pytest.mark.parametrize("around", [0o755, 0o2775, 0o777])
def test_a_folder_of_somebody_else_is_refused_wherever_it_lies(tmp_path: Path, around: int) -> None:
    """As it would be below a MESHSUP_STATE_HOME of his, or in a project that several write to."""
    home, victim = tmp_path / "home", tmp_path / "victim"
    home.mkdir()
    victim.mkdir()
    home.chmod(around)
    given(home, STRANGER)
    state = home / "demo-12345678"
    state.mkdir()
    state.chmod(0o777)
    (state / ".gitignore").symlink_to(victim / "made")
    given(state, STRANGER)
    with pytest.raises(
        ConfigError, match=rf"{state} is not yours, it belongs to uid {STRANGER}; remove it, name "
    ) as e:
        StateDir.open(state)
    assert f"`chown -R {os.geteuid()} {state}`" in str(e.value)
    assert [*victim.iterdir()] == []
    assert [path.name for path in state.iterdir()] == [".gitignore"]


def test_it_may_belong_to_whoever_owns_the_mesh_or_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker exec -u 0`, and root who runs a user's checkout."""
    state = tmp_path / ".mesh"
    StateDir.open(state, tmp_path)
    given(state, STRANGER)
    with pytest.raises(ConfigError, match="is not yours"):
        StateDir.open(state, tmp_path)
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    StateDir.open(state, tmp_path)
    monkeypatch.delenv("SUDO_UID")
    given(tmp_path, STRANGER)
    StateDir.open(state, tmp_path)
    given(tmp_path, 0)


@pytest.mark.parametrize("mode", [0o775, 0o2770, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Where somebody has been: everybody might have, and of a group somebody has left something."""
    state = tmp_path / "state"
    state.mkdir()
    left = state / "left"
    left.touch()
    given(left, STRANGER)
    state.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"others may write to {state} \(mode {mode:04o}\); `chmod go-w {state}`, or"
    ):
        StateDir.open(state)
    assert [*state.iterdir()] == [left]
    if mode & 0o002:
        left.unlink()
        with pytest.raises(ConfigError, match="others may write to"):
            StateDir.open(state)


def test_what_was_opened_to_a_group_between_two_starts_is_closed_again(tmp_path: Path) -> None:
    """Kubernetes does that to a volume at every mount (fsGroup), and umask 002 to a folder that was made by hand."""
    state = tmp_path / "home/demo"
    owner = StateDir.open(state).owner
    (state / "logs").mkdir(exist_ok=True)
    for path in (tmp_path / "home", *tmp_path.glob("home/**/*")):
        path.chmod(0o2770 if path.is_dir() else 0o660)
    assert state_dir_seen(state, tmp_path).mode == 0o2750, "the doctor sees it as a start would leave it"
    assert state.stat().st_mode & 0o022, "and closes nothing himself"
    assert StateDir.open(state).owner == owner
    assert not any(folder.stat().st_mode & 0o022 for folder in (state, state / "logs"))


def test_in_a_folder_of_root_that_its_group_may_write_to_others_are_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenShift: any uid, and group 0."""
    state = given(tmp_path, 0) / "state"
    state.mkdir()
    state.chmod(0o775)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    StateDir.open(state)
    assert state.stat().st_mode & 0o020
    assert not state_dir_seen(state, tmp_path).mode & 0o077
    given(state, NEIGHBOUR)
    os.chown(state, 0, NEIGHBOUR)
    with pytest.raises(ConfigError, match="others may write to"):
        StateDir.open(state)
    assert state_dir_seen(state, tmp_path).mode & 0o020


@pytest.mark.parametrize("mode", [0o755, 0o2700, 0o1777])
def test_one_that_others_may_read_or_only_add_to_is_not(tmp_path: Path, mode: int) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    StateDir.open(tmp_path / "state")


def test_what_we_make_is_ours_alone_under_any_umask_and_in_a_setgid_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(0o002)
    try:
        state = tmp_path / "deep/.mesh"
        StateDir.open(state)
        (state / "agents").mkdir()  # as a part of the mesh might
    finally:
        os.umask(before)
    assert (state / "agents").stat().st_mode & 0o020
    StateDir.open(state)
    assert not any(folder.stat().st_mode & 0o022 for folder in (state, state / "agents"))


def test_a_strangers_link_is_his_and_ours_is_ours(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "elsewhere")
    state = tmp_path / ".mesh"
    state.symlink_to("elsewhere")
    assert StateDir.open(state).owner == StateDir.open(tmp_path / "elsewhere").owner
    given(state, STRANGER)
    with pytest.raises(ConfigError, match="is not yours"):
        StateDir.open(state)


@pytest.mark.parametrize("name", ["logs", "warm", "agents", "run"])
def test_a_strangers_folder_or_link_inside_is_refused(tmp_path: Path, name: str) -> None:
    """From when the folder was open to him."""
    inside = tmp_path / name
    given(tmp_path, 0)
    inside.mkdir()
    given(inside, STRANGER)
    with pytest.raises(ConfigError, match=rf"{inside} is not yours"):
        StateDir.open(tmp_path)
    inside.rmdir()
    (tmp_path / "target").mkdir()
    inside.symlink_to("target")
    StateDir.open(tmp_path)
    given(inside, STRANGER)
    with pytest.raises(ConfigError, match=rf"{inside} is not yours"):
        StateDir.open(tmp_path)


def test_where_owners_and_modes_are_not_kept_they_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a virtual machine: everything is somebody's, and open to all, also what was made a moment ago."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    given(state, STRANGER)
    fstat = os.fstat

    def as_all_is_there(descriptor: int) -> os.stat_result:
        found = list(map(int, fstat(descriptor)))
        found[0], found[4] = found[0] | 0o666, STRANGER
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", as_all_is_there)
    StateDir.open(state)
    assert sorted(path.name for path in state.iterdir()) == [".gitignore", "owner"]


def test_what_is_mounted_was_put_there_by_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's volume: open to all, and whosever it is."""
    tmp_path.chmod(0o777)
    given(tmp_path, STRANGER)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    StateDir.open(tmp_path)
    (tmp_path / "logs").mkdir()
    given(tmp_path / "logs", NEIGHBOUR)
    with pytest.raises(ConfigError, match="logs is not yours"):
        StateDir.open(tmp_path)


@pytest.mark.parametrize("name", [".gitignore", "lock"])
def test_no_link_is_followed_to_a_file_that_would_be_made(tmp_path: Path, name: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / name).symlink_to(tmp_path / "made")
    opened = StateDir.open(state)
    if name == "lock":
        with pytest.raises(ConfigError, match=r"\(lock: "):
            opened.lock()
    assert not (tmp_path / "made").exists()


def test_an_ignore_file_is_left_as_it_is(tmp_path: Path) -> None:
    StateDir.open(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*\n"
    (tmp_path / ".gitignore").write_text("*\n!keep\n")
    StateDir.open(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "*\n!keep\n"


def test_a_lock_that_went_with_its_folder_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ends, and takes the folder with it, between our opening the file and our locking it."""
    state = StateDir.open(tmp_path / "state")

    def too_late(descriptor: int, operation: int) -> None:
        (tmp_path / "state" / "lock").unlink()

    monkeypatch.setattr("mesh_supervisor.host.statedir.fcntl.flock", too_late)
    with pytest.raises(AlreadyRunning, match="try again"):
        state.lock()


@pytest.mark.parametrize("how", ["mounted", "sticky", "its mesh's owner's"])
def test_what_a_start_lets_be_the_doctor_does_not_call_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An `emptyDir` is root's and 0777; root in a user's checkout."""
    root, state = tmp_path / "mesh", tmp_path / "state"
    for folder in (root, state):
        folder.mkdir()
    if how == "mounted":
        state.chmod(0o777)
        given(state, STRANGER)
        monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(state))
    elif how == "sticky":
        state.chmod(0o1777)
    else:
        state.chmod(0o700)
        given(root, STRANGER)
        given(state, STRANGER)
    StateDir.open(state, root)
    seen = state_dir_seen(state, root)
    assert seen.ours
    assert not seen.mode & 0o077


def test_a_folder_of_somebody_else_is_told_as_that_where_we_may_not_write_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    given(state, STRANGER)
    really = os.open

    def refused(path: Path, *how: int) -> int:
        if Path(path).parent == state:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *how)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match=f"is not yours, it belongs to uid {STRANGER}"):
        StateDir.open(state)
