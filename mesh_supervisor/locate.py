"""Where is mesh.toml, and where does its mesh keep its state.

Every command starts here, also ``ps`` and ``down`` while the file is being edited: only the standard library, and a
file that is broken, or gone while its supervisor still runs, does not stop them.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
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

    Absolute, its folder without symbolic links. Raises ConfigError that names where it looked and the way out.
    """
    folder = start if directory is None else _existing_folder(start / directory)
    if file is not None:
        return _existing_file(folder / file, "-f ")
    named = environ.get("MESHSUP_FILE", "")
    if named and directory is None:
        return _existing_file(start / named, "MESHSUP_FILE=")
    return _search_upward(folder)


def read_leniently(file: Path) -> dict[str, Any]:
    """The tables of ``file``; {} when it is missing or is no TOML. For questions that must not fail."""
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
    return Path(os.path.abspath(root / Path(text).expanduser()))  # noqa: PTH100 (resolve() would follow links)


def control_socket(state_dir: Path) -> Path:
    """Where the supervisor of this state_dir listens: inside it, or under a short path when it lies too deep.

    Raises ConfigError when the folder for short paths belongs to somebody else.
    """
    inside = state_dir / "control.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET:
        return inside
    name = _digest(state_dir)[:16] + ".sock"
    # The command may run with another XDG_RUNTIME_DIR than the supervisor (ssh, cron): what exists wins.
    for folder in _short_folders():
        # Ours first: in somebody else's nobody may look.
        if _is_private(folder) and (folder / name).exists():
            return folder / name
    return _private(_short_folders()[0]) / name


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _short_folders() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    everybodys = Path(f"/tmp/meshsup-{os.getuid()}")
    if runtime.startswith("/") and len(runtime) < 64 and os.access(runtime, os.W_OK):
        return [Path(runtime) / "meshsup", everybodys]
    return [everybodys]


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
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


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


def _search_upward(folder: Path) -> Path:
    folder = folder.resolve()
    for candidate in (folder, *folder.parents):
        # lexists: a dangling link or an unreadable file is to be named, not passed over.
        if os.path.lexists(candidate / FILE_NAME):
            return _canonical(candidate / FILE_NAME)
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
    tables = read_leniently(file)
    mesh = tables.get("mesh")
    if tables or not file.is_file():
        return mesh.get("state_dir") if isinstance(mesh, dict) else None
    return _state_dir_line(file)


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
        if state_dir.is_dir() and control_socket(state_dir).exists():
            return Place(candidate / (file.name if file is not None else FILE_NAME), candidate, state_dir)
    return None
