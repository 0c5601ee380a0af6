"""What is known for warm starts and outlives a run: state_dir/warm/, one file for each agent and each interpreter.

``agent-NAME.json``: what an agent had loaded when it was ready. ``python-HASH.json``: what was found out about
packages, under the names and versions of *all* that is installed: one more package can change what holds for another.
No value of any environment is in there. Damaged files count as absent: everything can be learnt again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from mesh_supervisor.host.keptfile import LARGEST, read_kept, write_kept
from mesh_supervisor.warmth import FIRST_GUESS, Learnt, Verdict, is_module

_SUFFIXES = (".dist-info", ".egg-info", ".egg-link")


@dataclass(slots=True)
class Findings:
    """About the packages of one interpreter. ``installed``: a digest of what there is."""

    installed: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    marked: dict[str, str] = field(default_factory=dict)


class WarmStore:
    """Reads on demand, writes at once. A full disk costs what was learnt, no more: it is not said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._findings: dict[tuple[str, frozenset[str]], Findings] = {}

    def learnt(self, agents: Iterable[str]) -> dict[str, Learnt]:
        found = {agent: _learnt(self._read(f"agent-{agent}")) for agent in agents}
        return {agent: learnt for agent, learnt in found.items() if learnt is not None}

    def keep(self, agent: str, learnt: Learnt) -> None:
        self._write(f"agent-{agent}", {name: _plain(value) for name, value in asdict(learnt).items()})

    def findings(self, python: str, places: frozenset[str]) -> Findings:
        """As they were last looked up; `look_again` after something was installed."""
        if (python, places) not in self._findings:
            self._findings[python, places] = self._look(python, places)
        return self._findings[python, places]

    def look_again(self) -> None:
        """What is installed may have changed."""
        kept = [where for where, found in self._findings.items() if found.installed == installed(*where)]
        self._findings = {where: self._findings[where] for where in kept}

    def keep_findings(self, python: str, places: frozenset[str]) -> None:
        found = self.findings(python, places)
        verdicts = {name: [verdict.way, verdict.why] for name, verdict in found.verdicts.items()}
        self._write(_name(python), {"installed": found.installed, "verdicts": verdicts, "marked": found.marked})

    def _look(self, python: str, places: frozenset[str]) -> Findings:
        now = installed(python, places)
        kept = self._read(_name(python))
        if kept.get("installed") != now:
            return Findings(now)
        return Findings(now, _verdicts(kept.get("verdicts")), _texts(kept.get("marked")))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            kept = json.loads(read_kept(self._folder / f"{name}.json"))
        except (OSError, ValueError, RecursionError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content).encode()
        if len(text) <= LARGEST:
            with contextlib.suppress(OSError):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_kept(self._folder / f"{name}.json", text)


def installed(python: str, places: frozenset[str]) -> str:
    """A digest of the names and versions of all distributions."""
    names = [name for place in sorted(places) for name in sorted(_listing(place)) if name.endswith(_SUFFIXES)]
    return sha256("\0".join([os.path.realpath(python), *names]).encode(errors="surrogateescape")).hexdigest()


def digest(path: str) -> str:
    """Of a small file's content; "" when there is none."""
    try:
        return sha256(read_kept(Path(path))).hexdigest()
    except (OSError, ValueError):
        return ""


def _listing(place: str) -> list[str]:
    try:
        return os.listdir(place)  # noqa: PTH208
    except (OSError, ValueError):
        return []


def _name(python: str) -> str:
    return f"python-{sha256(python.encode(errors='surrogateescape')).hexdigest()[:16]}"


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value


def _learnt(kept: Mapping[str, Any]) -> Learnt | None:
    python, cold = kept.get("python"), kept.get("cold")
    if not isinstance(python, str):
        return None
    return Learnt(
        python,
        tuple(_list(kept, "flags")),
        tuple(filter(is_module, _list(kept, "modules"))),
        tuple(filter(is_module, _list(kept, "standard"))),
        names=frozenset(_list(kept, "names")),
        dotenv=frozenset(_list(kept, "dotenv")),
        places=frozenset(_list(kept, "places")),
        imports=frozenset(_list(kept, "imports")),
        cold=float(cold) if isinstance(cold, int | float) and 0 < cold < 3600 else FIRST_GUESS,
    )


def _list(kept: Mapping[str, Any], name: str) -> list[str]:
    found = kept.get(name)
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _texts(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        return {}
    return {name: why for name, why in found.items() if isinstance(why, str)}


def _verdicts(found: object) -> dict[str, Verdict]:
    if not isinstance(found, dict):
        return {}
    return {
        name: Verdict(*told)
        for name, told in found.items()
        if isinstance(told, list) and len(told) == 2 and all(isinstance(part, str) for part in told)
    }
