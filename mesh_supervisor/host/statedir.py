"""What outlives a run: the folder ``state_dir`` with the lock, the owner's id, generations and switches.

Small files, each written whole beside its place and moved there, so that a crash or a full disk leaves the old one.
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

OWNER_LENGTH = 8


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

        Raises ConfigError when the folder cannot be made or written to.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (path / ".gitignore").exists():
                (path / ".gitignore").write_text("*\n")
            owner = _owner(path / "owner")
        except OSError as error:
            raise ConfigError(
                f"mesh.state_dir: cannot use {path} ({error.strerror}); make it writable or name another folder"
            ) from error
        return cls(path, owner, _read_numbers(path / "generations.json"))

    def lock(self) -> None:
        """Held until the process ends, however it ends. Raises AlreadyRunning."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(
                f"a supervisor (pid {holder}) already runs this mesh; `meshsup down` ends it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

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
        _write(self.path / "generations.json", json.dumps(self._generations).encode())

    # ---- switches ----------------------------------------------------------------------------------------------------

    def unwatched(self) -> frozenset[str]:
        """The agents whose watching a person switched off. A file that cannot be read counts as empty."""
        try:
            kept = tomllib.loads((self.path / "watch.toml").read_text())
        except (FileNotFoundError, tomllib.TOMLDecodeError):
            return frozenset()
        disabled = kept.get("disabled", [])
        return frozenset(name for name in disabled if isinstance(name, str))

    def keep_unwatched(self, agents: Collection[str]) -> None:
        """Raises OSError."""
        _write(self.path / "watch.toml", tomli_w.dumps({"disabled": sorted(agents)}).encode())


def _owner(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if len(kept) == OWNER_LENGTH and kept.isalnum():
            return kept
    owner = secrets.token_hex(OWNER_LENGTH // 2)
    _write(path, owner.encode())
    return owner


def _read_numbers(path: Path) -> dict[str, int]:
    try:
        kept = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(kept, Mapping):
        return {}
    return {str(name): number for name, number in kept.items() if isinstance(number, int)}


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)
