"""One look at a running mesh, in as little time as a process can take: for `health`, which a container's engine runs
every few seconds, and `ls`, which asks many.

The time given is for all of it.
"""

from __future__ import annotations

import json
import os
import socket

from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.once import Deadline, Endless, HungUp, get
from mesh_supervisor.errors import MeshError, NotRunning, WaitTimedOut
from mesh_supervisor.host.peer import Peer, peer_of, refuse_stranger

MOST = 8 * 2**20
"""Bytes of an answer. A thousand agents that all have much to say take 3 MiB."""


class Glance:
    """``with Glance(path, timeout) as glance``: connected. ``brief`` then asks. ``timeout``: seconds for both.

    Raises NotRunning: nobody listens; WaitTimedOut; MeshError: not allowed, or no supervisor of this version."""

    def __init__(self, path: os.PathLike[str], timeout: float) -> None:
        self.path, self.timeout = path, timeout
        self._deadline = Deadline(timeout)
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Glance:
        try:
            self._line.settimeout(self._deadline.left())
            self._line.connect(os.fspath(self.path))
            refuse_stranger(self._line)
        except OSError as error:
            self._line.close()
            raise self._explained(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def peer(self) -> Peer | None:
        """Who listens; None: the system does not tell."""
        return peer_of(self._line)

    def elsewhere(self) -> bool:
        """Whether it is a process that cannot be seen from here: of another container."""
        peer = self.peer()
        return peer is not None and not peer.pid

    def brief(self) -> Brief:
        try:
            status, body = get(self._line, "/brief", "mesh", deadline=self._deadline, most=MOST)
            if status != 200:
                raise ValueError(f"status {status}")
            return Brief.from_json(json.loads(body))
        except OSError as error:
            raise self._explained(error) from error
        except Endless as error:
            raise MeshError(
                f"{self.path}: answers with more than {MOST >> 20} MiB, which no supervisor of meshsup does"
            ) from error
        except (ValueError, RecursionError) as error:
            raise MeshError(f"{self.path}: what answers there is no supervisor of this version of meshsup") from error

    def _explained(self, error: OSError) -> MeshError:
        # BlockingIOError: the kernel holds no more connections for it; nobody has accepted one for long.
        if isinstance(error, TimeoutError | BlockingIOError):
            return WaitTimedOut(f"the supervisor does not answer within {self.timeout:g} s")
        if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            return NotRunning(f"{self.path}: nobody listens there")
        if isinstance(error, PermissionError):
            return MeshError(f"{self.path}: this mesh belongs to another user")
        if isinstance(error, HungUp):
            return MeshError("the supervisor hung up before it had answered")
        return MeshError(f"the supervisor hung up before it had answered ({error.strerror or error})")
