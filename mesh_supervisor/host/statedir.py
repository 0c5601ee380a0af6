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
from mesh_supervisor.locate import STATE_HOME, believed, user_named
from mesh_supervisor.own_state import RUNS, own_state_dir
from mesh_supervisor.spec import MeshSpec

OWNER_LENGTH = 8
HIGHEST_GENERATION = 2**31
"""A number above it is no generation: nobody lives to see it, and databases and other languages could not hold it."""
FOLDERS = ("agents", "logs", RUNS, "traced", "warm", "watch-probe")
"""In state_dir, written to by whoever has a part in the mesh."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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
    def open(cls, path: Path, root: Path | None = None) -> StateDir:
        """Makes what is missing: the folder (0700), its .gitignore, the owner's id. ``root``: mesh.toml's folder.

        Raises ConfigError when the folder cannot be made or written to, is another user's or open to others, or
        something else than a file is in the way.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path, believed(os.environ, *(() if root is None else (root,))))
            _write_ignore(path / ".gitignore")
            return cls(path, _owner(path / "owner"), _read_generations(path / "generations.json"))
        except OSError as error:
            raise _unusable(path, error) from error

    @classmethod
    def of(cls, mesh: MeshSpec) -> StateDir:
        """Where this mesh keeps its state; an agent by itself in a folder of its own, since its mesh, the other agents
        and its replicas may use the same state_dir, each in a container of its own. Raises ConfigError."""
        state = cls.open(mesh.state_dir, mesh.root)
        if mesh.alone is not None:
            state = cls.open(own_state_dir(mesh.state_dir, mesh.alone), mesh.root)
            state._fleeting = True
        return state

    def lock(self) -> None:
        """Held until the process ends, however it ends. Raises AlreadyRunning, ConfigError."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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


def _refuse_foreign(path: Path, ours: frozenset[int]) -> None:
    """Who owns the folder, or may write in it, decides by links and folders of his where we write; and one may wait for
    us under our name, below a shared MESHSUP_STATE_HOME or in a project. Raises ConfigError, OSError."""
    link, found = path.lstat(), path.stat()
    if stat.S_ISLNK(link.st_mode) and path.parent.stat().st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"mesh.state_dir: {path} is not yours, and lies where everybody may write; remove it or name another folder"
        )
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in ours:
        raise _foreign(path, link.st_uid)
    mode, left = stat.S_IMODE(found.st_mode), mode_left(path, found, ours)
    if left != mode:
        path.chmod(left)
    is_open = left == mode and is_open_to_others(found)
    # What is mounted there was put there by root, whosever it is: a container's volume.
    if (found.st_uid not in ours or is_open) and not os.path.ismount(path) and not _is_as_we_would_make_it(path, found):
        if found.st_uid not in ours:
            raise _foreign(path, found.st_uid)
        raise ConfigError(
            f"mesh.state_dir: others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"`chmod go-w {path}`, or name another folder (mesh.state_dir, {STATE_HOME})"
        )
    _refuse_foreign_inside(path, ours, found.st_uid)


def mode_left(path: Path, found: os.stat_result, ours: frozenset[int]) -> int:
    """What a start leaves of its mode. Kubernetes makes what it mounts writable for a group at every start (fsGroup),
    and umask 002 what we have not made: that is closed. Raises OSError."""
    mode = stat.S_IMODE(found.st_mode)
    return mode & ~OTHERS_WRITE if is_open_to_others(found) and _has_only_ours(path, found, ours) else mode


def is_open_to_others(found: os.stat_result) -> bool:
    """Whether others than its owner decide what is in it."""
    if found.st_mode & stat.S_ISVTX:  # as /tmp is: nobody can remove or replace what is ours
        return False
    if os.geteuid() != 0 == found.st_uid == found.st_gid and not found.st_mode & stat.S_IWOTH:
        return False  # root's own group: in OpenShift the only one that every user is in
    return bool(found.st_mode & OTHERS_WRITE)


def _has_only_ours(path: Path, found: os.stat_result, ours: frozenset[int]) -> bool:
    """Open to a group, which has left nothing in it. Raises OSError."""
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        return False
    with os.scandir(path) as entries:
        return all(entry.stat(follow_symlinks=False).st_uid in ours for entry in entries)


def _refuse_foreign_inside(path: Path, ours: frozenset[int], owner: int) -> None:
    """``owner`` of ``path`` may have folders in it, but no links: they would lead us to what is not his."""
    for folder in (path / name for name in FOLDERS):
        with contextlib.suppress(OSError):  # not there; what is in its way is said by whoever needs it
            found = folder.lstat()
            believed_here = ours if stat.S_ISLNK(found.st_mode) else ours | {owner}
            for one in (found, folder.stat()):
                if one.st_uid not in believed_here and not os.path.ismount(folder):
                    raise _foreign(folder, one.st_uid)
            if stat.S_ISDIR(found.st_mode) and found.st_mode & OTHERS_WRITE and found.st_uid == os.geteuid():
                folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_WRITE)  # made by us, under a umask of 002


def _is_as_we_would_make_it(path: Path, found: os.stat_result) -> bool:
    """Whether what we make there has the same owner and is as open: on file systems that do not keep that (FAT, folders
    of virtual machines, a network's where root is nobody) it says nothing. Raises OSError."""
    probe = path / f".owner.{secrets.token_hex(8)}.new"  # not the pid: in containers that is always 1
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except PermissionError:
        return False  # so whose it is says why
    try:
        made = os.fstat(descriptor)  # of what was opened: the name may lead elsewhere by now
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)
    return made.st_uid == found.st_uid and not found.st_mode & ~made.st_mode & OTHERS_WRITE


def _foreign(path: Path, owner: int) -> ConfigError:
    return ConfigError(
        f"mesh.state_dir: {path} is not yours, it belongs to {user_named(owner)}; remove it, name another folder, or, "
        f"if you trust what is in it, `chown -R {os.geteuid()} {path}`"
    )


def _write_ignore(path: Path) -> None:
    """Nothing that lies there is touched, nor followed."""
    if os.path.lexists(path):
        return
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write("*\n")


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
