"""What outlives a run: the folder ``state_dir`` with the lock, the owner's id, generations and switches.

Small files (keptfile.py). What is damaged counts as empty; what cannot be read at all is said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

import tomli_w

from mesh_supervisor.errors import AlreadyRunning, ConfigError
from mesh_supervisor.host.keptfile import read_kept, write_kept, write_once

OWNER_LENGTH = 8
HIGHEST_GENERATION = 2**31
"""A number above it is no generation: nobody lives to see it, and databases and other languages could not hold it."""


class StateDir:
    """``open`` it, then ``lock`` it before anything is written. Paths that others need are attributes."""

    def __init__(self, path: Path, owner: str, generations: dict[str, int]) -> None:
        self.path = path
        self.owner = owner
        self._generations = generations
        self._lock: int | None = None

    @classmethod
    def open(cls, path: Path) -> StateDir:
        """Makes what is missing: the folder (0700), its .gitignore, the owner's id.

        Raises ConfigError when the folder cannot be made or written to, or something else than a file is in the way.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (path / ".gitignore").exists():
                (path / ".gitignore").write_text("*\n")
            return cls(path, _owner(path / "owner"), _read_generations(path / "generations.json"))
        except OSError as error:
            raise _unusable(path, error) from error

    def lock(self) -> None:
        """Held until the process ends, however it ends. Raises AlreadyRunning, ConfigError."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _pid_in(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(
                f"a supervisor (pid {holder}) already runs this mesh; `meshsup down` ends it"
            ) from None
        except OSError as error:  # a file system without locks
            os.close(descriptor)
            raise _unusable(self.path, error) from error
        self._lock = descriptor
        # For people only: a full disk, or a pipe in its place, must not stop a supervisor that holds the lock.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ---- generations -------------------------------------------------------------------------------------------------

    def last_generation(self, agent: str) -> int:
        return self._generations.get(agent, 0)

    def keep_generation(self, agent: str, generation: int) -> None:
        """Written before the instance is spawned: an id that was issued is never issued again. Raises OSError."""
        self._generations[agent] = generation
        write_kept(self.path / "generations.json", json.dumps(self._generations).encode())

    # ---- switches ----------------------------------------------------------------------------------------------------

    def unwatched(self) -> frozenset[str]:
        """The agents whose watching a person switched off. A file that cannot be read counts as empty."""
        try:
            kept = tomllib.loads(read_kept(self.path / "watch.toml").decode())
        except (OSError, ValueError, RecursionError):  # ValueError: no UTF-8, no TOML
            return frozenset()
        disabled = kept.get("disabled")
        return (
            frozenset(name for name in disabled if isinstance(name, str)) if isinstance(disabled, list) else frozenset()
        )

    def keep_unwatched(self, agents: Collection[str]) -> None:
        """Raises OSError."""
        write_kept(self.path / "watch.toml", tomli_w.dumps({"disabled": sorted(agents)}).encode())


def _pid_in(lock: int) -> str:
    try:
        text = os.pread(lock, 20, 0).strip()
    except OSError:
        return "unknown"
    return text.decode() if text.isdigit() else "unknown"


def _unusable(path: Path, error: OSError) -> ConfigError:
    name = Path(error.filename).name if isinstance(error.filename, str) else ""
    where = f"{name}: {error.strerror}" if name not in ("", path.name) else error.strerror
    return ConfigError(f"mesh.state_dir: cannot use {path} ({where}); make it writable or name another folder")


def _owner(path: Path) -> str:
    """Of two commands that start at the same moment in a new folder, both get the one that was written first."""
    for _ in range(2):
        try:
            kept = read_kept(path).decode("ascii", "replace").strip()
        except FileNotFoundError:
            kept = secrets.token_hex(OWNER_LENGTH // 2)
            if write_once(path, kept.encode()):
                return kept
            continue
        if len(kept) == OWNER_LENGTH and kept.isascii() and kept.isalnum():
            return kept
    owner = secrets.token_hex(OWNER_LENGTH // 2)
    write_kept(path, owner.encode())
    return owner


def _read_generations(path: Path) -> dict[str, int]:
    """Damaged: {}. Raises OSError when there is something that cannot be read: its numbers must not be used again."""
    try:
        kept = json.loads(read_kept(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(kept, Mapping):
        return {}
    return {name: number for name, number in kept.items() if type(number) is int and 0 < number < HIGHEST_GENERATION}
