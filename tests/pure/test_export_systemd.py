"""A mesh as a systemd unit: what stands in it, how it is quoted, and what never gets into it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.export.systemd import CannotSay, Machine, Unit, path_word, rest_of_line, setting, unit, word
from mesh_supervisor.spec import Mode
from tests.pure.meshfile import SERVERS, SHELL, MeshFile

MACHINE = Machine(("/opt/mesh/bin/meshsup",), Path("/bin/kill"), "ada", 1000)


def made_unit(mesh: MeshFile, text: str = "", **found: Any) -> Unit:
    return unit(mesh.read(text, mode=Mode.PROD), replace(MACHINE, **found))


def settings(made: Unit) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in made.text.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_a_unit_for_the_mesh(servers: MeshFile) -> None:
    made = made_unit(servers, SERVERS)
    found = settings(made)
    assert made.name == "mesh-demo.service"
    assert found["Type"] == ["notify"]
    assert found["ExecStart"] == [f"/opt/mesh/bin/meshsup -f {servers.path} up --prod"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["WorkingDirectory"] == [str(servers.root)]
    assert found["User"] == ["ada"]
    assert found["ReadWritePaths"][-1] == f"-{servers.root}/.mesh"
    assert found["TimeoutStopSec"] == ["45"]  # stop_timeout is 30
    assert found["KillMode"] == ["mixed"]
    assert found["EnvironmentFile"] == ["-/etc/meshsup/mesh-demo.env"]
    assert "MemoryDenyWriteExecute" not in found
    assert [line for line in made.text.splitlines() if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]


def made_first(made: Unit) -> str:
    """By what, and as whom, state_dir is made."""
    (line,) = settings(made)["ExecStartPre"]
    return line.partition(" -d ")[0]


def test_state_dir_is_made_by_the_user_with_its_groups(mesh: MeshFile) -> None:
    made = made_unit(mesh)
    assert made_first(made) == "+/usr/bin/setpriv --reuid=ada --regid=1000 --init-groups /usr/bin/install"
    assert made_first(made_unit(mesh, user="root", group=0)) == "+/usr/bin/install"
    assert not any("passwd" in warning for warning in made.warnings)


def test_a_user_without_a_passwd_entry_has_no_groups_and_is_said(mesh: MeshFile) -> None:
    made = made_unit(mesh, user="12345", group=None)
    assert made_first(made) == "+/usr/bin/setpriv --reuid=12345 --regid=65534 --clear-groups /usr/bin/install"
    assert any("user 12345, who has no passwd entry" in warning for warning in made.warnings)


def test_where_there_is_no_kill_the_shells_is_taken(mesh: MeshFile) -> None:
    assert settings(made_unit(mesh, kill=None))["ExecReload"] == ['/bin/sh -c "kill -HUP $$MAINPID"']


def test_the_mesh_of_root_names_no_user_and_says_so(mesh: MeshFile) -> None:
    made = made_unit(mesh, user="root")
    assert "User" not in settings(made) and "#User=" in made.text
    assert any("belongs to root" in warning for warning in made.warnings)
    assert "RemoveIPC" not in settings(made)


def test_variables_are_named_and_never_written_down(mesh: MeshFile) -> None:
    text = '[agents.a]\ncommand = ["true"]\nenv = { KEY = "${A_KEY}" }'
    spec = mesh.read(text, {**SHELL, "A_KEY": "secret-a"}, mode=Mode.PROD)
    made = unit(spec, replace(MACHINE, variables={"A_KEY": True, "LEVEL": False}))
    assert "secret-a" not in made.text + "".join(made.warnings)
    assert "A_KEY, LEVEL" in made.text
    assert any("mesh.toml needs A_KEY from the environment" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("root", "home"), [("/srv/mesh", "yes"), ("/home/ada/mesh", "read-only"), ("/root/mesh", "read-only")]
)
def test_homes_are_seen_only_if_something_is_in_there(mesh: MeshFile, root: str, home: str) -> None:
    spec = replace(mesh.read("", mode=Mode.PROD), root=Path(root), file=Path(root, "mesh.toml"))
    made = unit(replace(spec, state_dir=Path(root, ".mesh")), MACHINE)
    assert settings(made)["ProtectHome"] == [home]
    assert settings(made)["PrivateTmp"] == ["yes"]


def test_a_home_is_seen_where_what_is_needed_is_in_there(mesh: MeshFile) -> None:
    spec = replace(mesh.read("", mode=Mode.PROD), root=Path("/srv"), file=Path("/srv/m.toml"), state_dir=Path("/srv/s"))
    python = Path("/home/ada/.local/share/uv/python/bin/python3.12")
    assert settings(unit(spec, replace(MACHINE, places=(Path("/srv/.venv/bin/python"),))))["ProtectHome"] == ["yes"]
    assert settings(unit(spec, replace(MACHINE, places=(python,))))["ProtectHome"] == ["read-only"]


def test_what_agents_write_and_no_unit_can_name_is_left_out(mesh: MeshFile) -> None:
    odd = (Path("/srv/a\nb"), Path("/srv/both\"'"), Path("/srv/end\\"))
    made = made_unit(mesh, written=(Path("/srv/data"), *odd))
    assert settings(made)["ReadWritePaths"][-1] == "-/srv/data"
    (said,) = [warning for warning in made.warnings if "no way to write" in warning]
    assert said.startswith("agents were seen to write into /srv/a\\nb, /srv/both\"', /srv/end\\: read-only")


def test_a_socket_in_tmp_must_be_found_there(mesh: MeshFile) -> None:
    spec = replace(mesh.read("", mode=Mode.PROD), root=Path("/srv"), file=Path("/srv/m.toml"), state_dir=Path("/srv/s"))
    found = settings(unit(spec, replace(MACHINE, short_socket=True)))
    assert found["PrivateTmp"] == ["no"] and "/tmp /var/tmp" in found["ReadWritePaths"]
    in_tmp = settings(unit(replace(spec, root=Path("/tmp/mesh")), MACHINE))
    assert in_tmp["PrivateTmp"] == ["no"]


def test_where_agents_write_and_what_they_need(mesh: MeshFile) -> None:
    made = made_unit(
        mesh,
        '[agents.a]\ncommand = ["uv", "run", "a"]\nport = 443',
        written=(Path("/srv/data"),),
        path=(Path("/opt/bin"),),
        virtual_env=Path("/srv/venv"),
        state_home="/var/lib/states",
    )
    found = settings(made)
    assert "-/srv/data" in found["ReadWritePaths"]
    assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE"]
    assert '"PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"' in found["Environment"]
    assert '"VIRTUAL_ENV=/srv/venv"' in found["Environment"]
    assert '"MESHSUP_STATE_HOME=/var/lib/states"' in found["Environment"]
    assert any("uv would install" in warning for warning in made.warnings)


# ---- how it is quoted ----------------------------------------------------------------------------------------------


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/"), min_size=1)


def as_systemd_reads(text: str, *, escapes: bool = True) -> list[str]:
    """Words of a line: quotes taken away, escapes where they count; %% and $$ are left."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    lexer.escape, lexer.escapedquotes = ("\\", '"') if escapes else ("", "")
    return list(lexer)


@given(NAMES)
def test_words_come_back_from_a_command_line(name: str) -> None:
    try:
        text = word(f"/{name}")
    except CannotSay:
        assert not name.isprintable()
        return
    (read,) = as_systemd_reads(text)
    assert read.replace("%%", "%").replace("$$", "$") == f"/{name}"


@given(NAMES)
def test_paths_come_back_from_a_list(name: str) -> None:
    try:
        text = path_word(Path(f"/{name}"))
    except CannotSay:
        assert not name.isprintable() or {'"', "'"} <= set(name) or name.endswith("\\")
        return
    (read,) = as_systemd_reads(text, escapes=False)
    assert read.replace("%%", "%") == str(Path(f"/{name}"))


@given(NAMES)
def test_a_path_that_takes_the_rest_of_a_line(name: str) -> None:
    path = Path(f"/{name}")
    try:
        text = rest_of_line(path)
    except CannotSay:
        assert not name.isprintable() or name != name.strip() or name.endswith("\\")
        return
    assert text.replace("%%", "%") == str(path)


@given(NAMES)
def test_settings_come_back(value: str) -> None:
    try:
        text = setting("NAME", value)
    except CannotSay:
        assert not value.isprintable()
        return
    (read,) = as_systemd_reads(text)
    assert read.replace("%%", "%") == f"NAME={value}"


def test_a_path_that_no_unit_can_name(mesh: MeshFile) -> None:
    spec = mesh.read("", mode=Mode.PROD)
    with pytest.raises(CannotSay, match="no way to write this path"):
        unit(replace(spec, root=Path("/srv/a\nb")), MACHINE)
