"""`meshsup health`, for who asks every few seconds: one line, one exit code, and as little work as a process can do.

Whatever the answer is, it is exactly one line on stdout: an engine keeps what a check says, and shows it to people.
Neither click nor http.client is imported here; cli/entry.py comes here without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mesh_supervisor.control.brief import Brief
from mesh_supervisor.control.glance import Glance
from mesh_supervisor.control.near import answering
from mesh_supervisor.errors import ConfigError, MeshError, NotRunning, UnknownAgent, UsageError, WaitTimedOut
from mesh_supervisor.health import Verdict, judge
from mesh_supervisor.locate import control_socket, locate
from mesh_supervisor.wording import json_text, one_line

TIMEOUT = 3.0
"""Seconds. A supervisor answers in milliseconds; docker gives a check 30 s, and people who set it give it 5."""

UNHEALTHY = 1
NO_VERDICT: dict[type[Exception], tuple[str, int]] = {
    NotRunning: ("not running", NotRunning.exit_code),
    WaitTimedOut: ("no answer", UNHEALTHY),
    UnknownAgent: ("unknown agent", UnknownAgent.exit_code),
    ConfigError: ("no mesh", ConfigError.exit_code),
    UsageError: ("unclear", UsageError.exit_code),
}
"""How an error is told, and its exit code: 124 is for people who wait, a check that is late is a no."""


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked on the command line. ``timeout`` in seconds, for everything."""

    file: Path | None = None
    directory: Path | None = None
    agents: tuple[str, ...] = ()
    live: bool = False
    timeout: float = TIMEOUT
    as_json: bool = False


def understood(words: Sequence[str]) -> Question | None:
    """The question that a command line is; None: it is something else, or needs somebody who knows more (click)."""
    before: dict[str, Path] = {}
    rest = list(words)
    while len(rest) > 1 and rest[0] in ("-f", "--file", "-C", "--directory"):
        before["file" if rest[0] in ("-f", "--file") else "directory"] = Path(rest[1])
        rest = rest[2:]
    if not rest or rest.pop(0) != "health":
        return None
    agents: list[str] = []
    behind: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        if word in ("--ready", "--live"):
            behind["live"] = word == "--live"
        elif word == "--json":
            behind["as_json"] = True
        elif word == "--timeout" and rest and rest[0].isascii() and rest[0].isdigit() and len(rest[0]) < 7:
            behind["timeout"] = float(rest.pop(0))
        elif word.startswith("-") or not word:
            return None
        else:
            agents.append(word)
    return Question(before.get("file"), before.get("directory"), tuple(agents), **behind)


def answer(question: Question, start: Path | None, environ: Mapping[str, str]) -> tuple[str, int]:
    """(what is printed, the exit code); ``start``: where to look for mesh.toml, None: from the working directory."""
    brief: Brief | None = None
    try:
        brief = _brief(question, start or Path.cwd(), environ)
        verdict = judge(brief, question.agents, live=question.live)
        code = 0 if verdict.healthy else UNHEALTHY
    except (MeshError, OSError) as error:  # OSError: the working directory is gone, or no descriptors are left
        word, code = NO_VERDICT.get(type(error), ("no answer", UNHEALTHY))
        verdict = Verdict(False, word, one_line(" ".join(f"{word}: {error}".split())))
    return (_json(question, brief, verdict) if question.as_json else verdict.line), code


def _brief(question: Question, start: Path, environ: Mapping[str, str]) -> Brief:
    """Raises ConfigError, NotRunning, WaitTimedOut, MeshError."""
    found = locate(start, file=question.file, directory=question.directory, environ=environ)
    place = answering(found, question.agents)
    address = control_socket(place.state_dir)
    try:
        with Glance(address, question.timeout) as glance:
            if not glance.elsewhere():
                return glance.brief()
    except NotRunning:
        raise NotRunning(f"nobody answers for {place.file}; `meshsup up` starts it") from None
    # Containers may share a state_dir. A check is of its own one, whatever another's says.
    raise NotRunning(f"nobody here answers for {place.file}; what listens at {address} runs in another container")


def _json(question: Question, brief: Brief | None, verdict: Verdict) -> str:
    """One line here too; its shape is in docs/json.md."""
    shape = {
        "healthy": verdict.healthy,
        "asked": "live" if question.live else "ready",
        "word": verdict.word,
        "line": verdict.line,
        "mesh": None if brief is None else brief.name,
        "agents": [asdict(agent) for agent in verdict.agents],
    }
    return json_text(shape)
