"""Who is at the other end of a Unix socket, as the kernel says it. Light: `health` starts with it."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

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


def refuse_stranger(line: socket.socket) -> None:
    """Raises PermissionError when another user listens there; what he says is not to be believed. Root may ask in
    everybody's container. Where nobody can tell, the permissions of the file have to do."""
    peer = peer_of(line)
    if peer is not None and os.geteuid() not in (0, peer.uid):
        raise PermissionError("somebody else listens there")
