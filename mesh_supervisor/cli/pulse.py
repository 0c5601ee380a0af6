"""`meshsup registry health`: whether a registry answers, for who asks every few seconds; cheap however much is in it.

Like probe.py, which asks a supervisor: exactly one line on stdout whatever the answer is, and neither click nor
http.client; cli/entry.py comes here without them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mesh_supervisor.cli import remote
from mesh_supervisor.cli.probe import TIMEOUT
from mesh_supervisor.errors import UsageError
from mesh_supervisor.wording import counted, one_line

UNHEALTHY = 1
LARGEST = 64 * 1024
"""Bytes of an answer; a registry needs some 200."""


def understood(words: Sequence[str]) -> tuple[str, float] | None:
    """(URL, timeout) of a command line; None: it is something else, or needs somebody who knows more (click)."""
    if list(words[:3]) != ["registry", "health", "--url"] or len(words) < 4 or words[3].startswith("-"):
        return None
    match words[4:]:
        case []:
            return words[3], TIMEOUT
        case ["--timeout", seconds] if seconds.isascii() and seconds.isdigit() and len(seconds) < 7:
            return words[3], float(seconds)
    return None


def answer(url: str, timeout: float) -> tuple[str, int]:
    """(what is printed, the exit code); ``timeout``: seconds for everything."""
    try:
        place = remote.place_of(url)
        who = f"the registry at {remote.named(place)}"
        try:
            line, code = _judged(who, *remote.ask(place, "/health", timeout=timeout, most=LARGEST))
        except TimeoutError:
            line, code = f"no answer: {who} does not answer within {timeout:g} s", UNHEALTHY
        except (OSError, ValueError) as error:
            line, code = f"no answer: {who} does not answer: {remote.why(error)}", UNHEALTHY
    except UsageError as error:
        line, code = f"unclear: {error}", error.exit_code
    return one_line(line), code


def _judged(who: str, status: int, body: bytes) -> tuple[str, int]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if status != 200:
        why = said.get("error") if isinstance(said, dict) else None
        return f"unhealthy: {who} answers GET /health with {status}{f': {why}' if why else ''}"[:500], UNHEALTHY
    if not isinstance(said, dict):
        return f"no registry: {who} answers GET /health without a JSON object", UNHEALTHY
    if (word := said.get("status")) is None:
        return f"no registry: {who} answers GET /health without a status", UNHEALTHY
    line = f"{'healthy' if word == 'healthy' else f'unhealthy ({word})'}: {who}{_details(said)}"
    return line[:500], 0 if word == "healthy" else UNHEALTHY


def _details(said: dict[str, Any]) -> str:
    """What only our own registry tells: `` (5 agents)``. Without its disk it serves all the same."""
    agents, store = said.get("agents"), said.get("store", "ok")
    told = [counted(agents, "agent")] if isinstance(agents, int) else []
    told += [f"cannot keep records on disk: {store}"] if store != "ok" else []
    return f" ({'; '.join(told)})" if told else ""
