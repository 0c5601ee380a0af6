"""Which mesh.toml a command is about, and where its state is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh_supervisor.errors import ConfigError
from mesh_supervisor.locate import (
    BEING_MADE,
    LONGEST_SOCKET,
    Place,
    control_socket,
    control_socket_bound_at,
    find_file,
    locate,
    mode_in,
    short_paths,
)
from tests.pure.meshfile import MeshFile


def found(start: Path, *, file: str | None = None, directory: str | None = None, **environ: str) -> Path:
    return find_file(
        start,
        file=None if file is None else Path(file),
        directory=None if directory is None else Path(directory),
        environ=environ,
    )


def place(start: Path, *, file: str | None = None, **environ: str) -> Place:
    return locate(start, file=None if file is None else Path(file), directory=None, environ=environ)


# ---- the file ------------------------------------------------------------------------------------------------------


def test_searched_upward(mesh: MeshFile) -> None:
    mesh.write("").touch("a/b/x.py")
    assert found(mesh.root / "a/b") == mesh.path


def test_the_nearest_wins(mesh: MeshFile) -> None:
    mesh.write("").touch("a/mesh.toml", "a/b/x.py")
    assert found(mesh.root / "a/b") == mesh.root / "a/mesh.toml"


def test_what_wins(mesh: MeshFile) -> None:
    mesh.write("").touch("a/mesh.toml", "a/inner/x", "b/mesh.toml", "c/other.toml", "a/other.toml")
    named = str(mesh.root / "b/mesh.toml")
    assert found(mesh.root, MESHSUP_FILE=named) == mesh.root / "b/mesh.toml"
    assert found(mesh.root, MESHSUP_FILE="b/mesh.toml") == mesh.root / "b/mesh.toml"
    assert found(mesh.root, directory="a", MESHSUP_FILE=named) == mesh.root / "a/mesh.toml"
    assert found(mesh.root, directory="a/inner") == mesh.root / "a/mesh.toml"
    assert found(mesh.root, file="c/other.toml", MESHSUP_FILE=named) == mesh.root / "c/other.toml"
    assert found(mesh.root, file="other.toml", directory="a") == mesh.root / "a/other.toml"
    assert found(mesh.root, MESHSUP_FILE="") == mesh.path


def test_links_in_the_way_are_resolved_the_file_itself_is_not(mesh: MeshFile) -> None:
    mesh.touch("real/shared.toml")
    (mesh.root / "way").symlink_to("real")
    (mesh.root / "real/mesh.toml").symlink_to("shared.toml")
    assert found(mesh.root / "way") == mesh.root / "real/mesh.toml"


def refusal(start: Path, *, file: str | None = None, directory: str | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        found(start, file=file, directory=directory, **environ)
    return str(caught.value)


def test_nowhere(mesh: MeshFile) -> None:
    told = refusal(mesh.root)
    assert told.startswith(f"no mesh.toml in {mesh.root} or a folder above it; `meshsup init` writes one")


def test_what_was_named_is_not_there(mesh: MeshFile) -> None:
    mesh.write("")
    assert refusal(mesh.root, file="x.toml") == f"-f {mesh.root}/x.toml: no such file; `meshsup init` writes one"
    assert refusal(mesh.root, MESHSUP_FILE="x.toml").startswith(f"MESHSUP_FILE={mesh.root}/x.toml: no such file")
    assert refusal(mesh.root, directory="x") == f"-C {mesh.root}/x: no such folder"
    assert refusal(mesh.root, file=".").endswith(": is a folder; name the file in it, or use -C")


def test_a_dangling_link_is_found_not_passed_over(mesh: MeshFile) -> None:
    mesh.touch("a/x")
    mesh.write("")
    (mesh.root / "a/mesh.toml").symlink_to("gone")
    assert found(mesh.root / "a") == mesh.root / "a/mesh.toml"


# ---- of somebody else ----------------------------------------------------------------------------------------------

STRANGER, SUDOER = 54321, 54322


@pytest.fixture
def strange(mesh: MeshFile) -> MeshFile:
    """A mesh.toml that a stranger has laid above ``a/b``."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    mesh.write("").touch("a/b/x.py")
    os.chown(mesh.path, STRANGER, STRANGER)
    return mesh


def test_a_strangers_file_above_is_not_taken_unless_it_is_named(strange: MeshFile) -> None:
    below, named = strange.root / "a/b", str(strange.path)
    said = f"{named}: belongs to uid {STRANGER} and was only found on the way up, so it is not taken; `-f {named}` "
    assert refusal(below).startswith(said)
    assert refusal(strange.root, directory="a/b") == refusal(below)
    with pytest.raises(ConfigError, match="is not taken"):
        place(below)
    assert found(below, file=named) == strange.path
    assert found(below, MESHSUP_FILE=named) == strange.path
    assert found(below, directory=str(strange.root)) == strange.path
    assert found(strange.root) == strange.path


def test_a_strangers_link_above_is_his_whatever_it_leads_to(strange: MeshFile) -> None:
    strange.path.rename(strange.root / "ours.toml")
    os.chown(strange.root / "ours.toml", 0, 0)
    strange.path.symlink_to("ours.toml")
    os.chown(strange.path, STRANGER, STRANGER, follow_symlinks=False)
    assert "is not taken" in refusal(strange.root / "a/b")
    os.chown(strange.path, 0, 0, follow_symlinks=False)
    os.chown(strange.root / "ours.toml", STRANGER, STRANGER)
    assert found(strange.root / "a/b") == strange.path


def test_who_called_sudo_and_who_owns_the_folder_is_no_stranger(
    strange: MeshFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = strange.root / "a/b"
    assert found(below, SUDO_UID=str(STRANGER)) == strange.path
    assert "is not taken" in refusal(below, SUDO_UID=str(SUDOER))
    assert "is not taken" in refusal(below, SUDO_UID="root")
    monkeypatch.setattr(os, "geteuid", lambda: SUDOER)  # sudo to somebody else: only root's word counts for others
    assert "is not taken" in refusal(below, SUDO_UID=str(STRANGER))
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert found(below) == strange.path
    monkeypatch.setattr(os, "geteuid", lambda: SUDOER)
    os.chown(below, STRANGER, STRANGER)
    assert found(below) == strange.path
    os.chown(strange.path, 0, 0)
    assert found(below) == strange.path


def test_a_strangers_supervisor_above_is_not_asked(strange: MeshFile) -> None:
    """Neither beside his mesh.toml, nor where there is none any more."""
    below, state_dir = strange.root / "a/b", strange.root / ".mesh"
    strange.touch(".mesh/owner")
    listening = control_socket(state_dir)
    listening.touch()
    try:
        for owner in (0, STRANGER):
            os.chown(state_dir, owner, owner)
            with pytest.raises(ConfigError, match="is not taken") as caught:
                place(below)
            assert type(caught.value) is ConfigError  # `health` tells errors by their class
        strange.path.unlink()
        with pytest.raises(ConfigError, match=r"no mesh.toml in"):
            place(below)
        assert place(below, SUDO_UID=str(STRANGER)).state_dir == state_dir
        assert place(strange.root).state_dir == state_dir
        # A link to what is ours is his too.
        state_dir.rename(strange.root / "ours")
        os.chown(strange.root / "ours", 0, 0)
        state_dir.symlink_to("ours")
        os.chown(state_dir, STRANGER, STRANGER, follow_symlinks=False)
        with pytest.raises(ConfigError, match=r"no mesh.toml in"):
            place(below)
    finally:
        listening.unlink(missing_ok=True)


# ---- its state_dir -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "state_dir"),
    [
        ("", ".mesh"),
        ("[mesh]\nstate_dir = 'var'", "var"),
        ("[mesh]\nstate_dir = '../var'", "../var"),
        ('[mesh]\n"state\\u005fdir" = "var"', "var"),
        ("[mesh]\nstate_dir = '${STATE}/x'", "from-shell/x"),
        ("[mesh]\nstate_dir = 3", ".mesh"),
        ("mesh = 3", ".mesh"),
        ("[mesh]\nname = 'x'\nstate_dir = 'var' # here\n[agents.", "var"),
        ("[mesh]\nname = \n[agents.a]\nstate_dir = 'other'", ".mesh"),
        ("not TOML", ".mesh"),
    ],
)
def test_state_dir_also_of_a_broken_file(mesh: MeshFile, text: str, state_dir: str) -> None:
    mesh.write(text)
    expected = Path(os.path.normpath(mesh.root / state_dir))
    assert place(mesh.root, STATE="from-shell") == Place(mesh.path, mesh.root, expected)


def test_state_dir_with_an_unset_variable(mesh: MeshFile) -> None:
    mesh.write("[mesh]\nstate_dir = '${STATE}'")
    with pytest.raises(ConfigError, match=r"mesh.toml: mesh.state_dir: \${STATE} is not set"):
        place(mesh.root)


def test_it_is_the_one_that_the_configuration_has(mesh: MeshFile) -> None:
    spec = mesh.read("[mesh]\nstate_dir = '${STATE}/../mesh'", {"STATE": "var"})
    assert spec.state_dir == place(mesh.root, STATE="var").state_dir


# ---- below $MESHSUP_STATE_HOME -------------------------------------------------------------------------------------


def state_dir(mesh: MeshFile, text: str, home: str) -> Path:
    mesh.write(text)
    found = place(mesh.root, MESHSUP_STATE_HOME=home).state_dir
    assert mesh.read(text, {"MESHSUP_STATE_HOME": home}).state_dir == found
    return found


def test_a_home_for_all_states_wins_over_mesh_toml(mesh: MeshFile, tmp_path: Path) -> None:
    below = state_dir(mesh, "[mesh]\nstate_dir = 'var'", str(tmp_path))
    assert below.parent == tmp_path
    assert below.name.startswith(f"{mesh.root.name}-")
    assert state_dir(mesh, "[mesh]\nstate_dir = './var/'", str(tmp_path)) == below


def test_what_mesh_toml_keeps_apart_stays_apart_in_one_home(mesh: MeshFile, tmp_path: Path) -> None:
    mesh.touch("inner/mesh.toml")
    outer = state_dir(mesh, "", str(tmp_path))
    inner = place(mesh.root / "inner", MESHSUP_STATE_HOME=str(tmp_path)).state_dir
    assert len({outer, inner, state_dir(mesh, "[mesh]\nstate_dir = 'var'", str(tmp_path))}) == 3


def test_a_relative_home_is_below_the_mesh_and_an_empty_one_is_none(mesh: MeshFile) -> None:
    assert state_dir(mesh, "", "states").parent == mesh.root / "states"
    assert state_dir(mesh, "", "") == mesh.root / ".mesh"


def test_a_deleted_file_is_located_in_the_home_too(mesh: MeshFile, tmp_path: Path) -> None:
    below = state_dir(mesh, "", str(tmp_path))
    below.mkdir(parents=True)
    mesh.path.unlink()
    listening = control_socket(below)
    listening.touch()
    try:
        assert place(mesh.root, MESHSUP_STATE_HOME=str(tmp_path)) == Place(mesh.path, mesh.root, below)
    finally:
        listening.unlink()


def test_a_deleted_file_is_located_while_its_supervisor_listens(mesh: MeshFile) -> None:
    mesh.touch(".mesh/owner", "a/x")
    listening = control_socket(mesh.root / ".mesh")  # elsewhere, where temporary folders have long names
    listening.touch()
    try:
        expected = Place(mesh.path, mesh.root, mesh.root / ".mesh")
        assert place(mesh.root / "a") == expected
        assert place(mesh.root, file="mesh.toml") == expected
    finally:
        listening.unlink()


def test_a_deleted_file_without_a_supervisor_is_missing(mesh: MeshFile) -> None:
    mesh.touch(".mesh/owner")
    with pytest.raises(ConfigError):
        place(mesh.root)


def test_mode_in_a_file(mesh: MeshFile) -> None:
    assert mode_in(mesh.write("[mesh]\nmode = 'prod'").path) == "prod"
    assert mode_in(mesh.write("[mesh]\nmode = 3").path) is None
    assert mode_in(mesh.write("[mesh").path) is None
    assert mode_in(mesh.root / "gone") is None


# ---- the control socket --------------------------------------------------------------------------------------------


def deep(root: Path) -> Path:
    return root / ("d" * 120)


def test_the_socket_is_in_state_dir_where_its_path_is_short_enough() -> None:
    assert control_socket(Path("/x/.mesh")) == Path("/x/.mesh/control.sock")


def test_a_deep_state_dir_gets_a_short_path_of_its_own(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = mesh.root
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [runtime / "meshsup"])
    one, other = control_socket(deep(mesh.root)), control_socket(deep(mesh.root) / "x")
    assert one.parent == runtime / "meshsup"
    assert (runtime / "meshsup").stat().st_mode & 0o777 == 0o700
    assert one != other
    assert one == control_socket(deep(mesh.root))
    assert len(os.fsencode(one.name)) < LONGEST_SOCKET / 3


def test_a_supervisor_with_another_runtime_dir_is_found(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = mesh.root / "first", mesh.root / "second"
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [second])
    listening = control_socket(deep(mesh.root))
    listening.touch()
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [first, second])
    assert control_socket(deep(mesh.root)) == listening


def test_a_folder_that_others_can_enter_is_refused(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = mesh.root / "shared"
    shared.mkdir()
    shared.chmod(0o755)  # whatever the umask is
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [shared])
    with pytest.raises(ConfigError, match="is not yours alone"):
        control_socket(deep(mesh.root))


def test_a_link_in_its_place_is_refused(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    (mesh.root / "theirs").mkdir(mode=0o700)
    (mesh.root / "link").symlink_to("theirs")
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [mesh.root / "link"])
    with pytest.raises(ConfigError, match="is not yours alone"):
        control_socket(deep(mesh.root))


def test_locating_is_cheap() -> None:
    """`ps` pays for it: no pydantic, no models."""
    code = "import sys, mesh_supervisor.locate; print({'pydantic', 'click', 'asyncio'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert printed == "set()\n"


def test_a_short_folder_where_we_may_not_look_is_passed_over(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's in /tmp; a name that is too long is refused like it, but to root as well."""
    deep, good = mesh.root / ("d" * 120), mesh.root / "s"
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [good])
    control_socket(deep).touch()
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [mesh.root / ("x" * 300), good])
    assert control_socket(deep).parent == good


# ---- from the kernel's table back to meshes ----------------------------------------------------------------------


def test_a_control_socket_is_known_by_its_place(mesh: MeshFile) -> None:
    state_dir = mesh.root / ".mesh"
    state_dir.mkdir()
    bound = state_dir / "control.sock.new"  # what the kernel goes on calling it
    assert control_socket_bound_at(bound) is None  # somebody else's control.sock: no state_dir
    (state_dir / "owner").write_text("0123abcd")
    control = state_dir / "control.sock"
    assert control_socket_bound_at(bound) == control_socket_bound_at(control) == control
    assert control_socket_bound_at(state_dir / "agent.sock") is None


def test_one_under_a_short_path_is_known_whatever_the_runtime_folder_is(
    mesh: MeshFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.locate._short_folders", lambda: [mesh.root / "meshsup"])
    assert control_socket_bound_at(Path("/run/user/7/meshsup/0123456789abcdef.sock.new")) == Path(
        "/run/user/7/meshsup/0123456789abcdef.sock"
    )
    short = control_socket(deep(mesh.root))
    assert control_socket_bound_at(short.with_name(short.name + BEING_MADE)) == short
    assert short_paths() == []
    short.touch()
    assert short_paths() == [short]
    for other in (
        "/run/user/7/other/0123456789abcdef.sock",
        "/tmp/meshsup-1/x.sock",
        "/tmp/meshsup-1/0123456789abcdef",
        "/x/.new",
    ):
        assert control_socket_bound_at(Path(other)) is None
