"""Looks at what surrounds a mesh, for `meshsup doctor`: limits, interpreters, ports, disks. Nothing is changed.

What it means is decided in diagnosis.py. Whatever cannot be seen counts as in order.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..diagnosis import SYNC, Inotify, InterpreterSeen, PortSeen, StateDirSeen
from ..locate import believed, control_socket
from ..spec import AgentSpec, CommandLine
from . import procfs
from .filesystems import mounts
from .interpreter import PATIENCE, Interpreter
from .ports import holder_of
from .statedir import OTHERS_WRITE, is_open_to_others, mode_left

MOST_FOLDERS = 200_000
"""Folders that are counted; beyond that no limit is high enough anyway."""

_VERSION = "import sys; print(*sys.version_info[:2], sys.implementation.name)"


# ---- interpreters ----------------------------------------------------------------------------------------------------


def interpreter_seen(python: Path, agents: Sequence[AgentSpec], environ: Mapping[str, str]) -> InterpreterSeen:
    """Asks it for its version. Blocks for some 20 ms."""
    seen = InterpreterSeen(python, tuple(spec.name for spec in agents), runtime=any(spec.runtime for spec in agents))
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _VERSION],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except OSError as error:
        return replace(seen, error=f"cannot be run: {error.strerror}")
    except subprocess.TimeoutExpired:
        return replace(seen, error=f"does not answer within {PATIENCE:g} s")
    words = done.stdout.split()
    if len(words) != 3 or not (words[0] + words[1]).isdigit():
        return replace(seen, error=f"does not start: {done.stderr.strip().rpartition(chr(10))[2] or 'it says nothing'}")
    return replace(seen, version=(int(words[0]), int(words[1])), implementation=words[2])


def lock_file_without_environment(spec: AgentSpec, interpreter: Interpreter, root: Path) -> Path | None:
    """The nearest lock file, at most up to ``root``, of an agent for which no environment was found. (`uv run` makes
    its own.)"""
    if interpreter.virtual_env is not None or spec.python is not None or _first_word(spec) in _UV:
        return None
    for folder in (spec.directory, *spec.directory.parents):
        found = next((folder / name for name in SYNC if (folder / name).is_file()), None)
        if found is not None or folder == root or not folder.is_relative_to(root):
            return found
    return None


def needs_uv(spec: AgentSpec, environ: Mapping[str, str]) -> bool:
    """Its command line starts with uv, and there is none."""
    path = spec.environment.get("PATH", environ.get("PATH"))
    return _first_word(spec) in _UV and shutil.which(_first_word(spec), path=path) is None


_UV = ("uv", "uvx")


def _first_word(spec: AgentSpec) -> str:
    return spec.command.argv[0] if isinstance(spec.command, CommandLine) else ""


# ---- ports -----------------------------------------------------------------------------------------------------------


def ports_in_use(wanted: Iterable[tuple[str, int, str]]) -> tuple[PortSeen, ...]:
    """``wanted``: (agent, port, host) of those that do not run."""
    looked = ((agent, port, holder_of(port, host)) for agent, port, host in wanted if port)
    return tuple(PortSeen(agent, port, holder) for agent, port, holder in looked if holder is not None)


# ---- watching --------------------------------------------------------------------------------------------------------


def inotify_seen(needed: int) -> Inotify:
    """The limits of this user, and what his processes use, as far as they may be looked at."""
    watches, instances = _watches_used()
    folder = "/proc/sys/fs/inotify"
    return Inotify(
        watches=_number(f"{folder}/max_user_watches"),
        watches_used=watches,
        instances=_number(f"{folder}/max_user_instances"),
        instances_used=instances,
        needed=needed,
    )


def _number(path: str) -> int | None:
    text = procfs.read(path).strip()
    return int(text) if text.isdigit() else None


def _watches_used() -> tuple[int, int]:
    """(watches, instances) of all processes of this user."""
    watches = instances = 0
    for pid in filter(str.isdecimal, _names("/proc")):
        for fd in _names(f"/proc/{pid}/fd") if _is_mine(f"/proc/{pid}") else ():
            if _link(f"/proc/{pid}/fd/{fd}") == "anon_inode:inotify":
                instances += 1
                watches += procfs.read(f"/proc/{pid}/fdinfo/{fd}").count(b"inotify wd:")
    return watches, instances


def _is_mine(place: str) -> bool:
    try:
        return Path(place).stat().st_uid == os.getuid()
    except OSError:
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""


def folders_below(roots: Iterable[Path], prunes: Callable[[Path | str], bool]) -> int:
    """How many would be watched."""
    count = 0
    for root in roots:
        for folder, below, _ in os.walk(root):
            below[:] = [name for name in below if not prunes(f"{folder}/{name}")]
            count += 1
            if count >= MOST_FOLDERS:
                return count
    return count


def lossy_roots(roots: Iterable[Path]) -> tuple[tuple[Path, str], ...]:
    """(root, type of its file system) of those where events get lost."""
    table = mounts()
    looked = ((root, table.lossy(os.path.realpath(root))) for root in roots)
    return tuple((root, kind) for root, kind in looked if kind is not None)


# ---- the machine -----------------------------------------------------------------------------------------------------


def state_dir_seen(path: Path, root: Path) -> StateDirSeen:
    """As a start would leave it (statedir.py): what is mounted was put there by root, and what is sticky is like /tmp.
    ``root``: mesh.toml's folder."""
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    found = place.stat()
    ours = believed(os.environ, root)
    socket = control_socket(path)
    mounted = os.path.ismount(place)
    return StateDirSeen(
        path,
        there=place == path,
        mode=0o700 if mounted or place != path else _mode_seen(path, found, ours),
        writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
        ours=mounted or found.st_uid in ours,
        free=shutil.disk_usage(place).free,
        socket=socket if socket.parent != path else None,
    )


def _mode_seen(path: Path, found: os.stat_result, ours: frozenset[int]) -> int:
    mode = stat.S_IMODE(found.st_mode)
    if mode & OTHERS_WRITE and not is_open_to_others(found):
        return 0o700
    with suppress(OSError):  # it cannot be looked into
        return mode_left(path, found, ours)
    return mode


def missing() -> str:
    """What a mesh has to do without here, because there is no /proc of its own; "" when nothing is missing."""
    if procfs.ours:
        return ""
    return (
        "no /proc that shows the processes of this mesh (`mount -t proc proc /proc` makes one): `ps` has no CPU and no "
        "memory, agents are reloaded stop-first, and of what one leaves behind only its process group is killed"
    )


def open_files() -> tuple[int, int]:
    """(soft, hard) limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = 2**31
    return (endless if soft == resource.RLIM_INFINITY else soft, endless if hard == resource.RLIM_INFINITY else hard)


def in_container() -> bool:
    """Docker, Podman, Kubernetes: limits of the kernel are the host's to set."""
    marked = any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    return marked or bool(re.search(rb"docker|kubepods|containerd|libpod", procfs.read("/proc/1/cgroup")))


def in_wsl() -> bool:
    return b"microsoft" in procfs.read("/proc/sys/kernel/osrelease").lower()
