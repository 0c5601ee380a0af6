"""What the watcher has to know of the file systems it watches: where events get lost, and where git holds its lock."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Written to from another machine (or from the host of a virtual one) without our kernel being told.
LOSSY_TYPES = frozenset(
    {
        "9p",
        "afs",
        "ceph",
        "cifs",
        "drvfs",
        "fakeowner",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.grpcfuse",
        "fuse.osxfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "fuse.vmhgfs-fuse",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "prl_fs",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
    }
)


@dataclass(frozen=True, slots=True)
class Mounts:
    """``types``: mount point -> type of file system, as this process sees them."""

    types: dict[str, str]

    def lossy(self, path: str) -> str | None:
        """The type of the file system that ``path`` (without symlinks) lies on, if events get lost there."""
        while path not in self.types and path != "/":
            path = path.rpartition("/")[0] or "/"
        kind = self.types.get(path, "")
        return kind if kind in LOSSY_TYPES else None


def mounts(table: Path = Path("/proc/self/mountinfo")) -> Mounts:
    """What is mounted; nothing is known where the system has no such table."""
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Mounts({})
    types: dict[str, str] = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 4 and right:
            types[unescaped(fields[4])] = right.split()[0]
    return Mounts(types)


def unescaped(text: str) -> str:
    """A path as the tables of mounts write it."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Where a listing does not tell kinds (NFS, FUSE) each is looked up, which can fail for more reasons than that it
    is gone; what cannot be looked at is not entered."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def git_locks(roots: Iterable[Path]) -> tuple[Path, ...]:
    """Where git keeps the index locks of the repositories around these roots; worktrees and submodules too."""
    found: dict[Path, None] = {}
    for root in roots:
        top = next((place for place in (root, *root.parents) if _there(place / ".git")), None)
        if top is not None:
            found[_git_dir(top / ".git") / "index.lock"] = None
    return tuple(found)


def _git_dir(dot_git: Path) -> Path:
    """A worktree's .git is a file that names the real one: ``gitdir: PATH``."""
    try:
        if not dot_git.is_file():  # a folder; and of a pipe the end never comes
            return dot_git
        words = dot_git.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return dot_git
    return dot_git.parent / words.removeprefix("gitdir:").strip()


def is_locked(locks: Sequence[Path]) -> bool:
    return any(map(_there, locks))


def _there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (Path.exists() raises where we may not look)


class Probe:
    """Finds out whether events arrive at all: writes a file in a folder of ours, and waits for news of it.

    ``silent()`` is called in the loop's thread when none has come after ``patience`` seconds; ``seen`` is to be called
    when it has. The folder is removed either way. Raises OSError when it cannot be made."""

    def __init__(self, folder: Path, silent: Callable[[], None], *, patience: float = 2.0) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._silent = silent
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(patience, self._give_up)

    def write(self) -> None:
        """To be called once the folder is watched. Raises OSError."""
        (self.folder / "written").write_bytes(b"?")

    def stop(self) -> None:
        """Events arrive, or nobody wants to know any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            shutil.rmtree(self.folder, ignore_errors=True)

    def _give_up(self) -> None:
        self.stop()
        self._silent()
