"""The ports of agents with ``port = 0``: chosen once, kept in state_dir, so that an address outlives a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from mesh_supervisor.errors import ConfigError
from mesh_supervisor.host.keptfile import read_kept, write_kept
from mesh_supervisor.host.ports import free_port

FILE_NAME = "ports.json"

FindFree = Callable[[Collection[int]], int]


def _any_free_port(taken: Collection[int]) -> int:
    return free_port(taken=taken)


class KeptPorts:
    """``kept_port`` is what `config.load` asks. ``find_free`` gives a free port, but none of those that it is told:
    theirs are agents of the mesh, which may not run just now."""

    def __init__(self, state_dir: Path, find_free: FindFree = _any_free_port) -> None:
        self._file = state_dir / FILE_NAME
        self._find_free = find_free
        self._ports = _read(self._file)

    def kept_port(self, agent: str, avoid: Collection[int] = ()) -> int:
        """The port of ``agent``; the first time a free one that no other agent has. Raises ConfigError when it cannot
        be kept: an address that changes with every start is not what ``port = 0`` promises."""
        port = self._ports.get(agent)
        if port is None or port in avoid:
            port = self._find_free({*avoid, *self._ports.values()})
            self._ports[agent] = port
            self._write()
        return port

    def _write(self) -> None:
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_kept(self._file, (json.dumps(self._ports, indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"{self._file}: cannot keep chosen ports there ({error.strerror})") from error


def read_kept_port(state_dir: Path) -> Callable[[str, Collection[int]], int]:
    """For commands that only look (`check`): what was chosen, 0 where nothing was yet. Writes nothing."""
    ports = _read(state_dir / FILE_NAME)
    return lambda agent, avoid: ports.get(agent, 0)


def _read(file: Path) -> dict[str, int]:
    """A file that is missing or damaged is an empty one: ports are chosen anew."""
    try:
        kept = json.loads(read_kept(file))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {name: port for name, port in kept.items() if type(port) is int and 0 < port < 65536}
