"""`ls`: the meshes that run, asked of the kernel. Others may run on this machine: only those of the test count."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.cli import meshes
from mesh_supervisor.control.glance import Glance
from mesh_supervisor.host.peer import Peer
from mesh_supervisor.locate import Place, control_socket
from tests.cli.conftest import Command
from tests.control.fake import PLANNER, FakeMesh, brief, running
from tests.registry.running import eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ls-", dir="/tmp") as folder:  # short: a Unix socket has 107 bytes
        yield Path(folder).resolve()


@pytest.fixture
def started(folder: Path) -> Iterator[Any]:
    """``started("shop")``: a mesh of that name runs, in a folder of that name."""
    with ExitStack() as stack:

        def start(folder_name: str, /, **changed: Any) -> FakeMesh:
            place = place_of(folder / folder_name)
            fake = FakeMesh(place)
            fake.in_brief = brief(place, **{"name": folder_name, **changed})
            return stack.enter_context(running(fake))

        yield start


def place_of(root: Path) -> Place:
    """As `up` leaves it: every state_dir has its owner's id."""
    state_dir = root / ".mesh"
    state_dir.mkdir(parents=True)
    (state_dir / "owner").write_text("0123abcd")
    return Place(root / "mesh.toml", root, state_dir)


def rows(meshsup: Command, folder: Path, **env: str) -> dict[str, dict[str, Any]]:
    """``ls --json`` of those below ``folder``, by the folder of the mesh."""
    done = meshsup("ls", "--json", env=env)
    assert done.code == 0
    found = [row for row in json.loads(done.out) if Path(row["socket"]).is_relative_to(folder)]
    return {Path(row["socket"]).parents[1].name: row for row in found}


def test_those_that_run_and_no_others(meshsup: Command, started: Any, folder: Path) -> None:
    started("shop")
    started("lab", mode="prod", agents=(PLANNER, replace(PLANNER, name="clock", ready=False)))
    place_of(folder / "idle")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(control_socket(place_of(folder / "dead").state_dir)))
    found = rows(meshsup, folder)
    assert found.keys() == {"shop", "lab"}
    lab = found["lab"]
    assert (lab["name"], lab["mode"], lab["state"], lab["ready"], lab["wanted"]) == ("lab", "prod", "running", 1, 2)
    assert (lab["file"], lab["pid"], lab["trouble"]) == (str(folder / "lab" / "mesh.toml"), os.getpid(), None)


def test_a_table_for_people(meshsup: Command, started: Any, folder: Path) -> None:
    started("shop", uptime=192.4)
    header, *lines = meshsup("ls").out.splitlines()
    assert header.split() == ["NAME", "PID", "AGENTS", "MODE", "UPTIME", "REGISTRY", "FILE"]
    (line,) = [line for line in lines if str(folder) in line]
    said = [
        "shop",
        str(os.getpid()),
        "1/1 ready",
        "dev",
        "3m12s",
        "http://127.0.0.1:8000",
        str(folder / "shop/mesh.toml"),
    ]
    assert re.split(r"  +", line) == said


def test_names_only(meshsup: Command, started: Any) -> None:
    started("shop-5e1f")
    assert "shop-5e1f" in meshsup("ls", "-q").out.splitlines()


def test_it_needs_no_mesh_toml(meshsup: Command, started: Any, folder: Path) -> None:
    started("shop")
    done = meshsup("ls", cwd=folder)
    assert done.code == 0
    assert str(folder) in done.out


def test_starting_and_stopping_are_told(meshsup: Command, started: Any, folder: Path) -> None:
    started("early", begun=False, agents=())
    started("late", stopping=True)
    lines = [line for line in meshsup("ls").out.splitlines() if str(folder) in line]
    assert [line.split()[2] for line in lines] == ["starting", "stopping"]
    assert {name: row["state"] for name, row in rows(meshsup, folder).items()} == {
        "early": "starting",
        "late": "stopping",
    }


def test_one_that_does_not_answer_is_listed_as_such(
    monkeypatch: pytest.MonkeyPatch, meshsup: Command, started: Any, folder: Path
) -> None:
    monkeypatch.setattr(meshes, "PATIENCE", 1.0)
    shop = control_socket(started("shop").place.state_dir)
    with socket.socket(socket.AF_UNIX) as silent:
        path = control_socket(place_of(folder / "hung").state_dir)
        silent.bind(str(path))
        silent.listen()
        # One look in which the other has answered: on a busy machine it may be late as well.
        found = eventually(lambda: _with_an_answer_of(shop), "the other one answers")
        assert found[path].brief is None
        assert found[path].pid == os.getpid()
        assert meshes.json_of(found[path]) == {
            **dict.fromkeys(meshes.json_of(found[path])),
            "socket": str(path),
            "pid": os.getpid(),
            "state": "no answer",
            "trouble": "the supervisor does not answer within 1 s",
        }
        row = meshes.table([found[path]])[1]
        assert re.split(r"  +", row) == ["-", str(os.getpid()), "no answer", "-", "-", "-", str(path)]
        assert f"pid {os.getpid()}: the supervisor does not answer" in meshes.remarks([found[path]], blind=False)[0]


def _with_an_answer_of(socket: Path) -> dict[Path, meshes.Found]:
    """All that one look finds; nothing if this one has not answered in it."""
    found = {one.socket: one for one in meshes.running()[0]}
    return found if found[socket].brief is not None else {}


def test_a_control_sock_of_some_other_program_is_left_alone(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "control.sock"))
        other.listen()
        other.setblocking(False)
        meshes.running()
        with pytest.raises(BlockingIOError):
            other.accept()


def test_what_others_run_is_not_asked(monkeypatch: pytest.MonkeyPatch, started: Any, folder: Path) -> None:
    """By the owner of the file, and where that says nothing (it was moved there) by who listens."""
    place = started("shop").place
    path = control_socket(place.state_dir)
    monkeypatch.setattr(Glance, "peer", lambda self: Peer(1, os.geteuid() + 1))
    assert path not in {one.socket for one in meshes.running()[0]}
    monkeypatch.undo()
    assert path in {one.socket for one in meshes.running()[0]}
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert path not in {one.socket for one in meshes.running()[0]}


def test_one_under_a_short_path_is_found(monkeypatch: pytest.MonkeyPatch, meshsup: Command, folder: Path) -> None:
    (folder / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / "run"))
    place = place_of(folder / ("d" * 120) / "shop")
    with running(FakeMesh(place)):
        path = control_socket(place.state_dir)
        assert path.parent == folder / "run" / "meshsup"
        done = meshsup("ls", "--json")  # without that XDG_RUNTIME_DIR
        assert str(path) in {row["socket"] for row in json.loads(done.out)}


def test_without_the_kernel_s_table_the_mesh_of_this_folder_is_found_and_the_rest_is_said(
    monkeypatch: pytest.MonkeyPatch, started: Any, folder: Path
) -> None:
    place = started("shop").place
    place.file.touch()
    monkeypatch.setattr(meshes, "listening", lambda: None)
    monkeypatch.delenv("MESHSUP_FILE", raising=False)
    monkeypatch.chdir(place.root)
    found, blind = meshes.running()
    assert blind
    assert control_socket(place.state_dir) in {one.socket for one in found}
    assert "no /proc/net/unix" in meshes.remarks(found, blind=blind)[-1]
    monkeypatch.chdir(folder)  # no mesh.toml here is no error
    meshes.running()


def test_none_is_no_failure() -> None:
    assert meshes.remarks([], blind=False) == ["no mesh of this user runs here; `meshsup up` starts one"]


def test_nothing_in_a_name_moves_the_cursor(meshsup: Command, started: Any, folder: Path) -> None:
    started("shop", name="\x1b[2Jevil\n")
    assert "\x1b" not in meshsup("ls").out
    assert "\x1b" not in meshsup("ls", "-q").out


def test_what_strangers_bind_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def stranger(path: Path) -> Path | None:
        raise PermissionError("not ours to enter")

    monkeypatch.setattr(meshes, "listening", lambda: [Path("/home/other/.mesh/control.sock"), Path("/.")])
    assert meshes.running() == ([], False)
    monkeypatch.setattr(meshes, "control_socket_bound_at", stranger)
    assert meshes.running() == ([], False)
