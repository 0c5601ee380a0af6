"""What outlives a run: the folder ``state_dir`` with the lock, the owner's id, generations and switches.

Small files (keptfile.py). What is damaged counts as empty; what cannot be read at all is said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

import tomli_w

from mesh_supervisor.errors import AlreadyRunning, ConfigError
from mesh_supervisor.host.holder import doubt, holder_in, ourselves, refusal
from mesh_supervisor.host.keptfile import read_kept, write_kept, write_once
from mesh_supervisor.locate import STATE_HOME
from mesh_supervisor.own_state import own_state_dir
from mesh_supervisor.spec import MeshSpec

OWNER_LENGTH = 8
HIGHEST_GENERATION = 2**31
"""A number above it is no generation: nobody lives to see it, and databases and other languages could not hold it."""


class StateDir:
    """``open`` it, then ``lock`` it before anything is written. Paths that others need are attributes. ``doubt``: what
    people should know about the lock; "" when all is well."""

    def __init__(self, path: Path, owner: str, generations: dict[str, int]) -> None:
        self.path = path
        self.owner = owner
        self._generations = generations
        self.doubt = ""
        self._lock: int | None = None
        self._fleeting = False

    @classmethod
    def open(cls, path: Path) -> StateDir:
        """Makes what is missing: the folder (0700), its .gitignore, the owner's id.

        Raises ConfigError when the folder cannot be made or written to, or something else than a file is in the way.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_planted(path)
            if not (path / ".gitignore").exists():
                (path / ".gitignore").write_text("*\n")
            return cls(path, _owner(path / "owner"), _read_generations(path / "generations.json"))
        except OSError as error:
            raise _unusable(path, error) from error

    @classmethod
    def of(cls, mesh: MeshSpec) -> StateDir:
        """Where this mesh keeps its state; an agent by itself in a folder of its own, since its mesh, the other agents
        and its replicas may use the same state_dir, each in a container of its own. Raises ConfigError."""
        state = cls.open(mesh.state_dir)
        if mesh.alone is not None:
            state = cls.open(own_state_dir(mesh.state_dir, mesh.alone))
            state._fleeting = True
        return state

    def lock(self) -> None:
        """Held until the process ends, however it ends. Raises AlreadyRunning, ConfigError."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_in(descriptor)
            os.close(descriptor)
            raise AlreadyRunning(refusal(self.path, holder)) from None
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(
                f"mesh.state_dir: {self.path} lies on a file system without locks ({error.strerror}); "
                f"name another folder, or set {STATE_HOME}"
            ) from error
        if not self._is_lock(descriptor):  # its holder has ended, and taken the folder with it
            os.close(descriptor)
            raise AlreadyRunning(f"{self.path}: an earlier run was just ending here; try again")
        self._lock = descriptor
        self.doubt = doubt(self.path, holder_in(descriptor))
        # For people only: a full disk, or a pipe in its place, must not stop a supervisor that holds the lock.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(ourselves()).encode(), 0)

    def _is_lock(self, descriptor: int) -> bool:
        try:
            found = (self.path / "lock").stat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))

    def end(self) -> None:
        """After an orderly end, while it is still locked: what is of one container only goes with it."""
        if self._fleeting:
            shutil.rmtree(self.path, ignore_errors=True)

    def unlock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._lock, 0)  # let go of in order
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


def _refuse_planted(path: Path) -> None:
    """Where everybody may make folders, as below a shared MESHSUP_STATE_HOME, one that waits for us under our name may
    be somebody else's. Raises ConfigError, OSError."""
    if not path.parent.stat().st_mode & stat.S_IWOTH:
        return
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(
            f"mesh.state_dir: {path} is not yours, and lies where everybody may write; remove it or name another folder"
        )


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
