"""Who is at the other end, as the kernel says it."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from mesh_supervisor.host.peer import peer_of, refuse_stranger

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
