"""Who is at the other end, as the kernel says it."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mesh_supervisor.host import procfs
from mesh_supervisor.host.peer import (
    SO_PASSRIGHTS,
    has_ended,
    is_of_another_namespace,
    peer_of,
    refuse_descriptors,
    refuse_stranger,
)

SOMEBODY = 54321


class Line(socket.socket):
    """One whose other end is SOMEBODY, in a PID namespace that is not ours."""

    def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
        return struct.pack("3i", 0, SOMEBODY, SOMEBODY)


def test_the_kernel_tells() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == (os.getpid(), os.geteuid())


def test_of_tcp_nobody_can_tell() -> None:
    with socket.socket() as line:
        assert peer_of(line) is None
        refuse_stranger(line)


@pytest.mark.parametrize("uid", [0, SOMEBODY])
def test_root_and_the_user_himself_may_ask(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with Line(socket.AF_UNIX) as line:
        assert peer_of(line) == (0, SOMEBODY)
        refuse_stranger(line)


def test_what_a_stranger_says_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY + 1)
    with Line(socket.AF_UNIX) as line, pytest.raises(PermissionError):
        refuse_stranger(line)


# ---- containers, as the machine sees them ----------------------------------------------------------------------------

WAITS = "print('here', flush=True); input()"


def test_who_has_the_same_pids_and_who_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert not is_of_another_namespace(os.getpid())
    assert not is_of_another_namespace(os.getppid())
    assert is_of_another_namespace(ended.pid), "its socket may be anybody's by now"


def test_a_container_has_pids_of_its_own() -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("namespaces of pids are not allowed here")
    command = [*unshare, sys.executable, "-c", WAITS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outside:
        assert outside.stdout is not None and outside.stdin is not None
        assert outside.stdout.readline() == "here\n"
        inside = (procfs.children(outside.pid) or [0])[0]
        assert not is_of_another_namespace(outside.pid)
        assert is_of_another_namespace(inside)
        outside.stdin.write("\n")


def test_without_a_proc_of_ours_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "ours", False)
    assert not is_of_another_namespace(2**22 + 1)


LISTENS_AND_LEAVES = """
import os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.bind(sys.argv[1])
line.listen()
if os.fork():
    os._exit(0)
print("left", flush=True)
sys.stdin.read()
"""


def test_who_has_left_his_socket_to_another_has_ended(tmp_path: Path) -> None:
    """His pid may be anybody's by now, and the kernel still tells it."""
    path = str(tmp_path / "socket")
    words = [sys.executable, "-c", LISTENS_AND_LEAVES, path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"left\n"
        process.wait()
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(path)
            try:
                os.close(line.getsockopt(socket.SOL_SOCKET, 77))
            except OSError:
                pytest.skip("SO_PEERPIDFD is of Linux 6.5")
            assert has_ended(line)
        with socket.create_server(("127.0.0.1", 0)) as other:
            assert not has_ended(other)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert not has_ended(ours)
        process.stdin.close()


def test_no_descriptor_is_taken_any_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as tcp:
        refuse_descriptors(tcp)
        refuse_descriptors(ours)
        try:
            refused = not ours.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            pytest.skip("SO_PASSRIGHTS is of Linux 6.16")
        assert refused
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"x"], [0])
