"""Two supervisors and one state_dir: what the second one is told, in the same container and in another one."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh_supervisor.errors import AlreadyRunning, ConfigError
from mesh_supervisor.host import holder
from mesh_supervisor.host.filesystems import Mounts
from mesh_supervisor.host.holder import Holder, ourselves, refusal_elsewhere
from mesh_supervisor.host.keptfile import write_once
from mesh_supervisor.host.statedir import StateDir

HOLDS = """
import sys
from pathlib import Path
from mesh_supervisor.host.statedir import StateDir
StateDir.open(Path(sys.argv[1])).lock()
print("holds", flush=True)
sys.stdin.read()
"""
ELSEWHERE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")


@contextmanager
def held_by(path: Path, *before: str) -> Iterator[int]:
    """Another process has the lock; its pid as we see it."""
    with subprocess.Popen(
        [*before, sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process.pid
        process.stdin.close()


def why_refused(path: Path) -> str:
    with pytest.raises(AlreadyRunning) as caught:
        StateDir.open(path).lock()
    return str(caught.value)


def test_in_the_same_place_the_pid_is_named(tmp_path: Path) -> None:
    with held_by(tmp_path) as pid:
        assert why_refused(tmp_path) == f"a supervisor (pid {pid}) already runs this mesh; `meshsup down` ends it"
    StateDir.open(tmp_path).lock()


def test_in_another_container_its_host_name_is(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*ELSEWHERE, "true"], check=False).returncode != 0:
        pytest.skip("namespaces of pids and host names are not allowed here")
    named = 'echo other-container > /proc/sys/kernel/hostname && exec "$@"'
    with held_by(tmp_path, *ELSEWHERE, "sh", "-c", named, "sh"):
        said = why_refused(tmp_path)
    assert said == (
        "a supervisor in another container or on another machine (host name other-container) already runs this mesh, "
        f"with the same state_dir {tmp_path}; end that one, or give each its own: MESHSUP_STATE_HOME, or mesh.state_dir"
    )


SCREEN = "\x1b]0;owned\x07\x1b[2J"
"""Renames a terminal and clears it."""


@pytest.mark.parametrize(
    "content",
    [
        f"12 {SCREEN} another-boot/1",
        f"12 other{SCREEN} another-boot/1",
        f"{SCREEN} other another-boot/1",
        f"12 other {SCREEN}",
        "12 \u202eother another-boot/1",
        "12 " + "x" * 300 + " another-boot/1",
        "\u0661\u0662 other another-boot/1",
    ],
)
def test_what_another_container_writes_into_the_lock_moves_no_cursor(tmp_path: Path, content: str) -> None:
    with held_by(tmp_path):
        (tmp_path / "lock").write_text(content)
        for said in (why_refused(tmp_path), refusal_elsewhere(tmp_path)):
            assert "already runs this mesh" in said
            assert said.isascii() and said.isprintable()
            assert "xxx" not in said


def test_a_machine_without_a_decent_name_is_known_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop of m\u00fcller")
    state = StateDir.open(tmp_path)
    state.lock()
    with (tmp_path / "lock").open() as lock:
        assert holder.holder_in(lock.fileno()) == ourselves()
    assert ourselves().host == "laptop-of-m-ller"
    state.unlock()


@pytest.mark.parametrize("content", ["", "12", "12\n", "nonsense", "\x00\xff", "99999 " + "x" * 1000])
def test_whatever_the_lock_says_it_holds(tmp_path: Path, content: str) -> None:
    with held_by(tmp_path):
        (tmp_path / "lock").write_text(content)
        assert "already runs this mesh" in why_refused(tmp_path)


def test_the_lock_says_who_has_it_and_nothing_after_an_orderly_end(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path)
    state.lock()
    words = (tmp_path / "lock").read_text().split()
    assert words[:2] == [str(os.getpid()), socket.gethostname()]
    state.unlock()
    assert (tmp_path / "lock").read_text() == ""


def test_who_answers_from_elsewhere_has_a_lock_or_not(tmp_path: Path) -> None:
    assert "in another container or on another machine already runs" in refusal_elsewhere(tmp_path)
    (tmp_path / "lock").write_text(str(Holder("1", "there", "boot/7")))
    assert "(host name there)" in refusal_elsewhere(tmp_path)


# ---- where it is -----------------------------------------------------------------------------------------------------


HERE = ourselves()


@pytest.mark.parametrize(
    ("one", "elsewhere"),
    [
        (HERE, False),
        (Holder(), False),
        (Holder("12"), False),  # of an earlier version
        (Holder("12", "renamed", HERE.namespace), False),  # a host name is no proof where there is a better one
        (Holder("12", HERE.host, HERE.namespace + "1"), True),  # a container with the name of its host
        (Holder("12", HERE.host), False),
        (Holder("12", "other"), True),
    ],
)
def test_elsewhere(one: Holder, elsewhere: bool) -> None:
    assert HERE.namespace, "this machine has a /proc"
    assert one.elsewhere is elsewhere


def test_a_machine_that_has_not_let_go_is_doubted_where_locks_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holder, "mounts", lambda: Mounts({"/": "ext4", str(tmp_path): "nfs4"}))
    (tmp_path / "lock").write_text(str(Holder("12", "laptop", "another-boot/4026531836")))
    state = StateDir.open(tmp_path)
    state.lock()
    assert "was last used on laptop" in state.doubt
    assert "nfs4 may not show locks to other machines" in state.doubt
    state.unlock()
    state.lock()
    assert state.doubt == ""
    state.unlock()


@pytest.mark.parametrize(
    "before",
    [
        Holder(),
        Holder("12", "container", HERE.namespace.partition("/")[0] + "/1"),  # the same kernel: its lock is seen
        Holder("12", HERE.host, "before-a-power-cut/1"),
    ],
)
def test_who_is_not_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Holder) -> None:
    monkeypatch.setattr(holder, "mounts", lambda: Mounts({"/": "ext4", str(tmp_path): "nfs4"}))
    assert holder.doubt(tmp_path, before) == ""


def test_where_locks_are_seen_by_all_nobody_is_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "mounts", lambda: Mounts({"/": "ext4"}))
    assert holder.doubt(tmp_path, Holder("12", "laptop", "another-boot/1")) == ""


# ---- file systems that cannot do everything --------------------------------------------------------------------------


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match=r"lies on a file system without locks \(No locks available\); name another"):
        StateDir.open(tmp_path).lock()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_the_first_one_writes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert write_once(tmp_path / "owner", b"aaaaaaaa")
    assert not write_once(tmp_path / "owner", b"bbbbbbbb")
    assert (tmp_path / "owner").read_bytes() == b"aaaaaaaa"
    assert [file.name for file in tmp_path.iterdir()] == ["owner"]
    assert StateDir.open(tmp_path).owner == "aaaaaaaa"
