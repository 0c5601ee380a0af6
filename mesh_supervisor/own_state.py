"""Where in a state_dir `run` keeps the state of an agent that it supervises by itself.

A folder per agent and machine: the name of a container is its id, unless somebody named it, so containers that share a
state_dir are kept apart, be they replicas of one agent. Only the standard library, as for locate.py.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

RUNS = "run"


def own_state_dir(state_dir: Path, agent: str) -> Path:
    """``.mesh/run/planner@3f2a9c1d7b60``"""
    return state_dir / RUNS / f"{agent}{_of_this_machine()}"


def own_state_dirs(state_dir: Path) -> dict[str, Path]:
    """agent -> its folder, of those that are, or were, supervised by themselves on this machine."""
    try:
        found = sorted(folder.name for folder in (state_dir / RUNS).iterdir())
    except OSError:
        return {}
    ours = _of_this_machine()
    return {name.removesuffix(ours): state_dir / RUNS / name for name in found if name.endswith(ours)}


def _of_this_machine() -> str:
    """No agent has an @ in its name."""
    return "@" + re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)
