"""Asks a running supervisor over its control socket: http.client, nothing heavier, so that ``ps`` stays quick.

Every failure is an error of errors.py: NotRunning when nobody answers, WaitTimedOut after ``timeout``, MeshError with
the supervisor's own reason otherwise.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mesh_supervisor.control.messages import Answer, Snapshot
from mesh_supervisor.errors import AlreadyRunning, MeshError, NotRunning, WaitTimedOut
from mesh_supervisor.host.peer import Peer, has_ended, is_of_another_namespace, peer_of, refuse_stranger
from mesh_supervisor.locate import Place, control_socket

LOOK = 10.0
"""Seconds that a look may take; a supervisor answers in milliseconds."""


class Client:
    """Talks to the supervisor of one mesh; every call is a connection of its own.

    ``obeyed``: what it says will be executed here, so only a supervisor of this very user and container is listened to.
    """

    def __init__(self, place: Place, *, obeyed: bool = False) -> None:
        self.place = place
        self._refuse = self._refuse_to_obey if obeyed else refuse_stranger

    @property
    def path(self) -> Path:
        """Its control socket. Looked for each time: one that starts meanwhile may have to choose another place."""
        return control_socket(self.place.state_dir)

    def running(self) -> bool:
        """Whether somebody answers. Raises MeshError when that cannot be told (no permission, no answer in time)."""
        try:
            self._ask("GET", "/health", timeout=LOOK)
        except NotRunning:
            return False
        return True

    def elsewhere(self) -> bool:
        """Whether what answers is a process that cannot be seen from here: of another container. Raises NotRunning."""
        with self.supervisor() as process:
            return process.elsewhere

    def snapshot(self) -> Snapshot:
        return Snapshot.from_json(self._ask("GET", "/snapshot", timeout=LOOK))

    def command(self, verb: str, *, timeout: float | None = None, **arguments: Any) -> Answer:
        """Ask for ``verb`` and wait for its outcome, at most ``timeout`` seconds (None: as long as it takes)."""
        return Answer.from_json(self._ask("POST", f"/commands/{verb}", timeout=timeout, body=arguments))

    def events(self) -> Iterator[dict[str, Any]]:
        """What happens from now on, until the mesh is down."""
        return self._stream("/events")

    def logs(self, agents: Iterable[str] = (), *, lines: int = 100, follow: bool = True) -> Iterator[dict[str, Any]]:
        """{"at", "agent", "generation", "text"} of these agents (none named: all)."""
        query = [("agent", name) for name in agents] + [("lines", str(lines)), ("follow", "1" if follow else "0")]
        return self._stream("/logs?" + urlencode(query))

    @contextlib.contextmanager
    def supervisor(self) -> Generator[Process, None, None]:
        """The process that answers here, held so that its end can be waited for. Raises NotRunning."""
        connection = self._connection(LOOK)
        with self._explained(LOOK):
            connection.connect()
        try:
            process = Process(peer_of(connection.sock))
        finally:
            connection.close()
        try:
            yield process
        finally:
            process.close()

    # ---- the wire ----

    def _connection(self, timeout: float | None) -> _UnixConnection:
        return _UnixConnection(self.path, timeout, self._refuse)

    def _refuse_to_obey(self, line: socket.socket) -> None:
        """Whoever can write in state_dir can listen there: another container that shares it, with our uid or asked by
        root. Raises AlreadyRunning, MeshError. Where nobody can tell, the permissions of the file have to do."""
        peer = peer_of(line)
        if peer is None:
            return
        us = os.geteuid()
        if peer.pid and peer.uid != us:
            raise MeshError(
                f"{self.path}: this mesh belongs to user {peer.uid}, and what it says would be run as "
                f"{'root' if us == 0 else f'user {us}'}; become that user: `docker exec -u {peer.uid} …` or "
                f"`sudo -u '#{peer.uid}' …`"
            )
        # In this order: if it still lives afterwards, what was looked at was it.
        if not peer.pid or is_of_another_namespace(peer.pid) or has_ended(line):
            raise AlreadyRunning(
                f"{self.path}: what answers for this mesh runs in another container; ask there, or give each its own "
                "state_dir: MESHSUP_STATE_HOME"
            )

    def _ask(self, method: str, path: str, *, timeout: float | None, body: Mapping[str, Any] | None = None) -> Any:
        with self._explained(timeout), contextlib.closing(self._connection(timeout)) as connection:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            return _answer(connection.getresponse())

    def _stream(self, path: str) -> Iterator[dict[str, Any]]:
        """Objects, one per line. Connects at once, so that what happens after the call is not missed."""
        connection = self._connection(LOOK)
        with contextlib.ExitStack() as unless_it_works:
            unless_it_works.callback(connection.close)
            with self._explained(LOOK):
                response = self._opened(connection, path)
            unless_it_works.pop_all()
        return self._objects(connection, response)

    def _opened(self, connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            _answer(response)
        if connection.sock is None:  # it says that it closes at once, which no supervisor does
            raise ValueError
        connection.sock.settimeout(None)
        return response

    def _objects(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> Iterator[dict[str, Any]]:
        with self._explained(None), contextlib.closing(connection):
            for line in response:
                yield json.loads(line)

    @contextlib.contextmanager
    def _explained(self, timeout: float | None) -> Generator[None, None, None]:
        """Turn what a socket raises into a sentence for people."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise NotRunning(f"{self.place.file}: this mesh is not running; start it with `meshsup up`") from error
        except TimeoutError as error:
            raise WaitTimedOut(f"no answer from the supervisor within {timeout:g} s; it goes on") from error
        except BlockingIOError as error:  # at once: its queue is full, so nobody has accepted one for long
            raise WaitTimedOut("the supervisor takes no more connections; it hangs, or is very busy") from error
        except PermissionError as error:
            raise MeshError(f"{self.path}: this mesh belongs to another user") from error
        except (OSError, http.client.HTTPException) as error:
            raise MeshError(
                f"the supervisor hung up before it had answered ({error or type(error).__name__})"
            ) from error
        except ValueError as error:
            raise MeshError(f"{self.path}: what answers there is no supervisor of meshsup") from error


class Process:
    """A process that can be waited for. ``pid`` is None when nobody can tell; ``elsewhere``: it is of another PID
    namespace."""

    def __init__(self, peer: Peer | None) -> None:
        self.pid = peer.pid or None if peer is not None else None
        self.elsewhere = peer is not None and not peer.pid
        self._fd = _pidfd(self.pid)

    def wait(self, timeout: float | None) -> bool:
        """Wait for its end, at most ``timeout`` seconds; False when it still lives. True at once if nobody can say."""
        if self._fd is None:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _pidfd(pid: int | None) -> int | None:
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # gone already, or not visible from here


class _UnixConnection(http.client.HTTPConnection):
    """HTTP as usual, over a Unix socket."""

    def __init__(self, path: Path, timeout: float | None, refuse: Callable[[socket.socket], None]) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path, self.refuse = path, refuse

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))
        self.refuse(self.sock)


def _answer(response: http.client.HTTPResponse) -> Any:
    """The body of a 200 as JSON. Raises MeshError with the reason of anything else."""
    text = response.read()
    if response.status == 200:
        return json.loads(text)
    reason, exit_code = _reason(text)
    error = MeshError(reason or f"the supervisor refused: {response.status} {response.reason}")
    error.exit_code = exit_code
    raise error


def _reason(text: bytes) -> tuple[str, int]:
    """``error`` and ``exit_code`` of a JSON body, else the body itself and 1."""
    try:
        body = json.loads(text)
        return str(body["error"]), int(body.get("exit_code", 1))
    except (ValueError, KeyError, TypeError):
        return "the supervisor refused: " + text.decode("utf-8", "replace").strip()[:500], 1
