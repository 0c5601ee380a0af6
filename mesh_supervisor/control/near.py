"""Which supervisor a command is about: that of the whole mesh, or that of one agent by itself (`run`).

Containers may share a state_dir, and a socket in it is reached from all of them. So who listens must be visible from
here: of a process in another container the kernel tells no pid. Only the standard library; `health` starts with it.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from mesh_supervisor.errors import UnknownAgent, UsageError
from mesh_supervisor.host.peer import peer_of
from mesh_supervisor.locate import Place, control_socket
from mesh_supervisor.own_state import own_state_dirs

PATIENCE = 1.0
"""Seconds for the kernel to take a connection; a supervisor that hangs still has its socket."""


def answering(place: Place, words: Collection[str] = ()) -> Place:
    """``place``, or with the state_dir of the agent that is supervised by itself here. ``words``: names and globs.

    Raises UnknownAgent, or UsageError for no words, when there are several such agents and it cannot be told which.
    """
    own = own_state_dirs(place.state_dir)
    if not own or _listens_here(control_socket(place.state_dir)):
        return place
    here = {agent: folder for agent, folder in own.items() if _listens_here(control_socket(folder), busy=True)}
    meant = [agent for agent in here if any(fnmatchcase(agent, word) for word in words)]
    chosen = here if len(here) < 2 else meant
    if here and len(chosen) != 1:
        raise _undecided(words, meant, here)
    return next((replace(place, state_dir=here[agent]) for agent in chosen), place)


def of_agent(place: Place, agent: str) -> Place:
    """``place``, or with the state_dir of exactly this agent, if that is what supervises it here."""
    own = own_state_dirs(place.state_dir).get(agent)
    if own is None or _listens_here(control_socket(place.state_dir)):
        return place
    return replace(place, state_dir=own) if _listens_here(control_socket(own), busy=True) else place


def _undecided(words: Collection[str], meant: Collection[str], here: Iterable[str]) -> UnknownAgent | UsageError:
    if words and not meant:
        return UnknownAgent(next(iter(words)), here)
    return UsageError(f"{' and '.join(here)} are supervised here, each by itself; name one of them")


def _listens_here(address: Path, *, busy: bool = False) -> bool:
    """``busy``: what to say of one whose queue is full, since of that one nobody tells who it is. What lies in a folder
    with this machine's name is ours; the mesh's own socket may be that of any container, and is asked if nothing else
    is there."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE)
        try:
            line.connect(str(address))
        except (BlockingIOError, TimeoutError):
            return busy
        except OSError:
            return False
        peer = peer_of(line)
    return peer is None or bool(peer.pid)
