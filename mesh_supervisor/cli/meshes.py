"""`ls`: which meshes of this user run, asked of the kernel and of each of them. No file has a list that could be wrong.

A supervisor listens on a Unix socket, and the kernel has a table of those who listen. What looks like a control socket
there is connected to: the kernel says who is at the other end, and the supervisor what it runs.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh_supervisor.cli.rows import COLOURS
from mesh_supervisor.cli.table import aligned
from mesh_supervisor.cli.terminal import GREEN, RED, YELLOW, painted
from mesh_supervisor.cli.words import duration, one_line
from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.glance import Glance
from mesh_supervisor.errors import MeshError, NotRunning
from mesh_supervisor.health import share
from mesh_supervisor.host.unixsockets import listening
from mesh_supervisor.locate import control_socket, control_socket_bound_at, locate, short_paths

PATIENCE = 2.0
"""Seconds for one mesh to answer; all are asked at once."""

HEADER = ("NAME", "PID", "AGENTS", "MODE", "UPTIME", "REGISTRY", "FILE")
NUMBERS = (1, 4)


@dataclass(frozen=True, slots=True)
class Found:
    """A supervisor that listens at ``socket``; ``pid`` as seen from here. ``brief`` None: ``trouble`` says why."""

    socket: Path
    pid: int
    brief: Brief | None
    trouble: str = ""


def running() -> tuple[list[Found], bool]:
    """The meshes by name and file, and whether the kernel could not be asked, so that there may be others."""
    bound = listening()
    paths = _without_a_table() if bound is None else {path for each in bound if (path := _control_socket(each))}
    found = _each([path for path in paths if _is_ours(path)])
    return sorted(found, key=_place), bound is None


def _control_socket(bound: Path) -> Path | None:
    """Anybody can bind anything, under names that are none, in folders that we may not enter."""
    try:
        return control_socket_bound_at(bound)
    except (OSError, ValueError):
        return None


def _place(one: Found) -> tuple[str, str]:
    return (_name(one.brief), one.brief.file) if one.brief is not None else ("", str(one.socket))


def _without_a_table() -> set[Path]:
    """No /proc: those under short paths, and the mesh that a command here would mean."""
    paths = set(short_paths())
    try:
        place = locate(Path.cwd(), file=None, directory=None, environ=os.environ)
        paths.add(control_socket(place.state_dir))
    except MeshError:
        pass
    return paths


def _is_ours(path: Path) -> bool:
    """Asking what others run is neither ours to do nor, mostly, allowed. (Root may, and does not either.)"""
    try:
        found = path.lstat()
    except OSError:  # gone, or of another mount namespace
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()


def _each(paths: Sequence[Path]) -> list[Found]:
    found: list[Found] = []
    threads = [threading.Thread(target=_ask, args=(path, found), daemon=True) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _ask(path: Path, found: list[Found]) -> None:
    pid = 0
    try:
        with Glance(path, PATIENCE) as glance:
            peer = glance.peer()
            if peer is not None and peer.uid != os.geteuid():
                return
            pid = 0 if peer is None else peer.pid
            found.append(Found(path, pid, glance.brief()))
    except NotRunning:
        return  # left behind, or it has just ended
    except MeshError as error:
        found.append(Found(path, pid, None, str(error)))


# ---- in words ----------------------------------------------------------------------------------------------------


def table(found: Iterable[Found]) -> list[str]:
    """Never cut, also on a narrow terminal: a path without its end is of no use."""
    return aligned([HEADER, *map(_row, found)], right=NUMBERS, paint={2: _painted})


def names(found: Iterable[Found]) -> list[str]:
    return [_name(one.brief) for one in found if one.brief is not None]


def _name(brief: Brief) -> str:
    """``demo``; ``demo/planner`` for one agent that is supervised by itself."""
    return one_line(brief.name if brief.alone is None else f"{brief.name}/{brief.alone}")


def _row(one: Found) -> tuple[str, ...]:
    if one.brief is None:
        return ("-", str(one.pid or "-"), "no answer", "-", "-", "-", one_line(str(one.socket)))
    brief = one.brief
    return (
        _name(brief),
        str(one.pid or brief.pid),
        _agents(brief),
        brief.mode,
        duration(brief.uptime),
        one_line(brief.registry_url) or "-",
        one_line(brief.file),
    )


def _state(brief: Brief) -> str:
    if brief.stopping:
        return "stopping"
    return "running" if brief.begun else "starting"


def _agents(brief: Brief) -> str:
    ready, wanted = share(brief)
    return f"{ready}/{wanted} ready" if _state(brief) == "running" else _state(brief)


def _painted(text: str) -> str:
    if text == "no answer":
        return painted(text, RED)
    ready, _, wanted = text.removesuffix(" ready").partition("/")
    return painted(text, COLOURS["starting"] if not wanted else GREEN if ready == wanted else YELLOW)


def remarks(found: Sequence[Found], *, blind: bool) -> list[str]:
    """For stderr."""
    said = [] if found else ["no mesh of this user runs here; `meshsup up` starts one"]
    said += [f"pid {one.pid or 'unknown'}: {one.trouble}" for one in found if one.brief is None]
    if blind:
        said.append("no /proc/net/unix here: only this folder's mesh and those in deep folders are found")
    return said


def json_of(one: Found) -> dict[str, Any]:
    """docs/json.md. What is not known of one that does not answer is null."""
    brief = one.brief
    ready, wanted = (None, None) if brief is None else share(brief)
    return {
        "name": brief and brief.name,
        "alone": brief and brief.alone,
        "file": brief and brief.file,
        "state_dir": brief and brief.state_dir,
        "socket": str(one.socket),
        "pid": one.pid or (brief and brief.pid),
        "version": brief and brief.version,
        "mode": brief and brief.mode,
        "state": "no answer" if brief is None else _state(brief),
        "ready": ready,
        "wanted": wanted,
        "started_at": brief and brief.started_at,
        "uptime": brief and round(brief.uptime, 3),
        "registry_url": brief and brief.registry_url,
        "trouble": one.trouble or None,
    }
