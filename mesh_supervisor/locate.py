"""Where is mesh.toml, and where does its mesh keep its state.

Every command starts here, also ``ps`` and ``down`` while the file is being edited: only the standard library, and a
file that is broken, or gone while its supervisor still runs, does not stop them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh_supervisor.errors import ConfigError
from mesh_supervisor.mesh_toml.interpolation import CannotInterpolate, expand

FILE_NAME = "mesh.toml"
STATE_DIR = ".mesh"
STATE_HOME = "MESHSUP_STATE_HOME"
"""A folder for the state of every mesh, each below a name of its own: mesh.toml stays, its folder may be read-only."""

LONGEST_SOCKET = 100
"""Bytes; the kernel takes 107, and a temporary name beside the socket must fit too."""


@dataclass(frozen=True, slots=True)
class Place:
    """``file`` may be gone (its supervisor still runs); ``root``, its folder, is where relative paths start."""

    file: Path
    root: Path
    state_dir: Path


def locate(start: Path, *, file: Path | None, directory: Path | None, environ: Mapping[str, str]) -> Place:
    """The mesh that a command is about. Raises ConfigError like `find_file`, unless its supervisor still listens."""
    try:
        found = find_file(start, file=file, directory=directory, environ=environ)
    except ConfigError:
        orphan = _still_running(start, file, directory, environ)
        if orphan is None:
            raise
        return orphan
    return Place(found, found.parent, _state_dir_in(found, environ))


def find_file(start: Path, *, file: Path | None, directory: Path | None, environ: Mapping[str, str]) -> Path:
    """``-f FILE`` (relative to ``-C DIR``) > ``-C DIR`` and upward > ``$MESHSUP_FILE`` > ``start`` and upward.

    Absolute, its folder without symbolic links. Raises ConfigError that names where it looked and the way out, also
    for a file above of somebody who has no say here: what it names is run, and everybody may lay one into /tmp.
    """
    folder = start if directory is None else _existing_folder(start / directory)
    if file is not None:
        return _existing_file(folder / file, "-f ")
    named = environ.get("MESHSUP_FILE", "")
    if named and directory is None:
        return _existing_file(start / named, "MESHSUP_FILE=")
    return _search_upward(folder, environ)


def believed(environ: Mapping[str, str], *places: Path) -> frozenset[int]:
    """The users whose files count although nobody has named them: this one, root, who called `sudo`, and the owners of
    ``places``."""
    us, caller = os.geteuid(), environ.get("SUDO_UID", "")
    sudo = [int(caller)] if us == 0 and caller.isdecimal() else []
    owners = (owner_of(place, follow=True) for place in places)
    return frozenset({us, 0, *sudo, *(owner for owner in owners if owner is not None)})


def owner_of(path: Path, *, follow: bool = False) -> int | None:
    """The uid; of a link its own, unless it is to be followed. None: there is nothing, or nobody may look."""
    try:
        return path.stat(follow_symlinks=follow).st_uid
    except (OSError, ValueError):
        return None


def user_named(user: int) -> str:
    """``ada (uid 1000)``; ``uid 12345`` of whom no passwd file knows."""
    import pwd  # only for a message

    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"


def read_leniently(file: Path) -> dict[str, Any]:
    """The tables of ``file``; {} when it is missing or is no TOML. For questions that must not fail."""
    import tomllib  # as long to import as a tenth of what `health` does, which mostly needs none

    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # ValueError: no UTF-8, no TOML
        return {}


def mode_in(file: Path) -> str | None:
    """``[mesh] mode`` as it is written, unchecked; None when there is none."""
    mesh = read_leniently(file).get("mesh")
    mode = mesh.get("mode") if isinstance(mesh, dict) else None
    return mode if isinstance(mode, str) else None


def state_dir_of(root: Path, written: object, environ: Mapping[str, str]) -> Path:
    """``[mesh] state_dir`` as an absolute path, or its place below $MESHSUP_STATE_HOME; only the shell's variables
    count, since every command needs it.

    Raises CannotInterpolate for a variable that is not set.
    """
    text = written if isinstance(written, str) and written else STATE_DIR
    state_dir = absolute(root, expand(text, environ.get))
    home = environ.get(STATE_HOME, "")
    # The digest keeps apart what mesh.toml keeps apart: two meshes, also two files in one folder.
    return absolute(root, home) / f"{root.name or 'mesh'}-{_digest(state_dir)[:8]}" if home else state_dir


def absolute(root: Path, text: str) -> Path:
    """``text`` below ``root``, without ``..``; symbolic links stay (a venv's python is one, and must stay one)."""
    # Not Path.expanduser(), which raises for a user that has no home.
    return Path(os.path.abspath(root / os.path.expanduser(text)))  # noqa: PTH100, PTH111 (resolve() would follow links)


def control_socket(state_dir: Path) -> Path:
    """Where the supervisor of this state_dir listens: inside it; or under a short path, when it lies too deep, or there
    is a socket there and none inside (its file system has no sockets).

    Raises ConfigError when the folder for short paths belongs to somebody else.
    """
    inside = socket_inside(state_dir)
    if inside is not None and os.path.lexists(inside):
        return inside
    # The command may run with another XDG_RUNTIME_DIR than the supervisor (ssh, cron): what exists wins.
    for folder in [*_short_folders(), *_owners_folders(state_dir)]:
        # Ours first: in somebody else's nobody may look.
        if _is_private(folder) and (folder / _short_name(state_dir)).exists():
            return folder / _short_name(state_dir)
    return inside or socket_elsewhere(state_dir)


def socket_inside(state_dir: Path) -> Path | None:
    """None: the path would be too long for a socket."""
    inside = state_dir / "control.sock"
    return inside if len(os.fsencode(inside)) <= LONGEST_SOCKET else None


def socket_elsewhere(state_dir: Path) -> Path:
    """The short path for a state_dir that can have no socket. Raises ConfigError when no folder can be had for it."""
    problem: ConfigError | None = None
    for folder in _short_folders():
        try:
            return _private(folder) / _short_name(state_dir)
        except ConfigError as error:
            problem = problem or error
    assert problem is not None  # there is always a folder to try
    raise problem


BEING_MADE = ".new"
"""Behind the name of a control socket while it is made. The kernel goes on knowing it by that name."""
_UNDER_A_SHORT_PATH = re.compile(r"/meshsup(?:-\d+)?/[0-9a-f]{16}\.sock$")


def control_socket_bound_at(path: Path) -> Path | None:
    """The control socket that was bound under this name, by whatever mesh; None: it is something else."""
    path = path.with_name(path.name.removesuffix(BEING_MADE) or path.name)
    if path.name == "control.sock":
        return path if (path.parent / "owner").is_file() else None  # as every state_dir has it
    return path if _UNDER_A_SHORT_PATH.search(str(path)) else None


def short_paths() -> list[Path]:
    """The control sockets that lie outside of their state_dir, with those that were left behind."""
    return [path for folder in _short_folders() if _is_private(folder) for path in sorted(folder.glob("*.sock"))]


def _short_name(state_dir: Path) -> str:
    return _digest(state_dir)[:16] + ".sock"


def _digest(path: Path) -> str:
    import hashlib  # OpenSSL comes with it, and hardly anybody needs it

    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _short_folders() -> list[Path]:
    """The best first. /dev/shm: writable in every container, also in one with a read-only root and no /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    short = runtime.startswith("/") and len(runtime) < 64 and os.access(runtime, os.W_OK)
    return [*([Path(runtime) / "meshsup"] if short else []), *_named_after(os.getuid())]


def _named_after(user: int) -> list[Path]:
    return [Path(f"/tmp/meshsup-{user}"), Path(f"/dev/shm/meshsup-{user}")]


def _owners_folders(state_dir: Path) -> list[Path]:
    """For root, who looks after somebody else's mesh: `docker exec -u 0`."""
    try:
        owner = state_dir.stat().st_uid
    except OSError:
        return []
    return _named_after(owner) if os.getuid() == 0 != owner else []


def _private(folder: Path) -> Path:
    """``folder``, made if it is missing. /tmp is everybody's, so what is found there is looked at before it is used."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; the control socket goes there") from error
    if not _is_private(folder):
        raise ConfigError(f"{folder}: is not yours alone (mode 0700); remove it, the control socket goes there")
    return folder


def _is_private(folder: Path) -> bool:
    """Of this user; to root also somebody else's counts, if it is his alone and named after him."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    ours = found.st_uid == os.getuid() or (os.getuid() == 0 and folder.name == f"meshsup-{found.st_uid}")
    return stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & 0o077


def _existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"-C {folder}: no such folder")
    return folder


def _existing_file(path: Path, option: str) -> Path:
    if path.is_dir():
        raise ConfigError(f"{option}{path}: is a folder; name the file in it, or use -C")
    if not os.path.lexists(path):
        raise ConfigError(f"{option}{path}: no such file; `meshsup init` writes one")
    return _canonical(path)


def _search_upward(folder: Path, environ: Mapping[str, str]) -> Path:
    folder = folder.resolve()
    for candidate in (folder, *folder.parents):
        file = candidate / FILE_NAME
        # Not followed: a dangling link or an unreadable file is to be named, not passed over.
        owner = owner_of(file)
        if owner is None:
            continue
        if candidate != folder and owner not in believed(environ, folder):
            raise ConfigError(
                f"{file}: belongs to {user_named(owner)} and was only found on the way up, so it is not taken; "
                f"`-f {file}` takes it all the same, and so does MESHSUP_FILE"
            )
        return _canonical(file)
    raise ConfigError(
        f"no {FILE_NAME} in {folder} or a folder above it; `meshsup init` writes one, -f FILE or -C DIR names another"
    )


def _canonical(path: Path) -> Path:
    return path.parent.resolve() / path.name


def _state_dir_in(file: Path, environ: Mapping[str, str]) -> Path:
    try:
        return state_dir_of(file.parent, _written_state_dir(file), environ)
    except CannotInterpolate as error:
        raise ConfigError(f"{file.name}: mesh.state_dir: {error}") from error


def _written_state_dir(file: Path) -> object:
    if not _may_name_it(file):
        return None
    tables = read_leniently(file)
    mesh = tables.get("mesh")
    if tables or not file.is_file():
        return mesh.get("state_dir") if isinstance(mesh, dict) else None
    return _state_dir_line(file)


def _may_name_it(file: Path) -> bool:
    """Whether it is worth reading as TOML. (A key can be written with escapes.)"""
    try:
        text = file.read_bytes()
    except OSError:
        return False
    return b"state_dir" in text or b"\\" in text


def _state_dir_line(file: Path) -> str | None:
    """``state_dir = "…"`` below ``[mesh]`` in a file that is no TOML just now (somebody is typing)."""
    try:
        text = file.read_text("utf-8-sig", errors="replace")
    except OSError:
        return None
    found = re.search(r"^\s*\[mesh\]((?:\n(?!\s*\[)|[^\n])*)", text, re.MULTILINE)
    line = re.search(r"^\s*state_dir\s*=\s*([\"'])(.*?)\1", found[1], re.MULTILINE) if found else None
    return line[2] if line else None


def _still_running(start: Path, file: Path | None, directory: Path | None, environ: Mapping[str, str]) -> Place | None:
    """The mesh whose mesh.toml was deleted while it runs, by its control socket in the default state_dir."""
    folder = start if directory is None else start / directory
    folder = (folder if file is None else (folder / file).parent).resolve()
    for candidate in (folder,) if file is not None else (folder, *folder.parents):
        state_dir = state_dir_of(candidate, None, environ)
        if candidate != folder:
            if owner_of(candidate / FILE_NAME) is not None:
                return None  # it is there, and was not taken
            if owner_of(state_dir) not in believed(environ, folder):
                continue  # whoever listens there could say what `run` becomes
        if state_dir.is_dir() and control_socket(state_dir).exists():
            return Place(candidate / (file.name if file is not None else FILE_NAME), candidate, state_dir)
    return None
