"""Who is at the other end of a Unix socket, as the kernel says it. Light: `health` starts with it."""

from __future__ import annotations

import os
import select
import socket
import struct
from contextlib import suppress
from typing import NamedTuple

SO_PASSRIGHTS = 83
"""asm-generic/socket.h, since Linux 6.16. Off, whoever sends a descriptor gets EPERM: also a `systemd-notify`."""

_SO_PEERPIDFD = 77
"""The same, since Linux 6.5."""

_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` (unix(7)): pid, uid, gid."""


class Peer(NamedTuple):
    """``pid`` 0: it cannot be seen from this PID namespace; a process of another container."""

    pid: int
    uid: int


def peer_of(line: socket.socket) -> Peer | None:
    """Who connected, or whom we connected to. None: no Unix socket, or a system that does not tell (not Linux)."""
    if line.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = _CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


def is_of_another_namespace(pid: int) -> bool:
    """Whether a process that we see has other pids than ours: the machine sees those of its containers. One that is
    gone counts as such: it may have left its socket to anybody. Without a /proc of ours nobody can tell: False."""
    from mesh_supervisor.host import procfs  # `health` has no use for it

    return procfs.ours and procfs.depth(pid) != procfs.depth(os.getpid())


def has_ended(line: socket.socket) -> bool:
    """Whether whoever called listen() there has ended, so that its pid may be another's by now. False where the system
    does not tell (before Linux 6.5)."""
    try:
        pidfd = line.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def refuse_descriptors(line: socket.socket) -> None:
    """Whoever sends one gets EPERM from now on (Linux 6.16). Without room for it the kernel would close it in the
    thread that reads, which may take as long as its maker wants."""
    with suppress(OSError):
        if line.family == socket.AF_UNIX:
            line.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def refuse_stranger(line: socket.socket) -> None:
    """Raises PermissionError when another user listens there; what he says is not to be believed. Root may ask in
    everybody's container. Where nobody can tell, the permissions of the file have to do."""
    peer = peer_of(line)
    if peer is not None and os.geteuid() not in (0, peer.uid):
        raise PermissionError("somebody else listens there")
