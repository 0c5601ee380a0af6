"""PURE. What is wrong in mesh.toml, in sentences: where, what, and the way out.

pydantic tells types of errors; people are told what to write instead, also in the words of the tool they come from.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import ErrorDetails

from mesh_supervisor.mesh_toml.interpolation import Interpolated
from mesh_supervisor.mesh_toml.models import LATER_AGENT_KEYS, SHAPE_TAG
from mesh_supervisor.mesh_toml.toml_lines import Lines, line_of
from mesh_supervisor.wording import one_line

KeyPath = tuple[str | int, ...]

LONGEST_SHOWN = 40

_OTHER_WORDS: Mapping[str, Mapping[str, str]] = {
    "": {
        "agent": "agents",
        "default": "defaults",
        "log": "logs",
        "logging": "logs",
        "process": "agents",
        "processes": "agents",
        "program": "agents",
        "project": "mesh",
        "service": "agents",
        "services": "agents",
        "watcher": "agents",
    },
    "mesh": {
        "envfile": "env_file",
        "environment": "env",
        "host": "advertise",
        "parallelism": "parallel_starts",
        "state": "state_dir",
        "title": "name",
    },
    "registry": {"cmd": "command", "exec": "command", "type": "kind"},
    "watch": {"delay": "debounce", "exclude": "ignore", "paths": "roots", "dirs": "roots", "enable": "enabled"},
    "logs": {"backups": "keep", "count": "keep", "file": "files", "maxbytes": "max_size", "size": "max_size"},
    "agents": {
        "after": "depends_on",
        "arguments": "args",
        "autorestart": "restart",
        "cmd": "command",
        "cwd": "directory",
        "depends": "depends_on",
        "dir": "directory",
        "dotenv": "env_file",
        "entrypoint": "command",
        "environment": "env",
        "environment_file": "env_file",
        "exec": "command",
        "graceful_timeout": "stop",
        "health": "ready",
        "health_check": "ready",
        "interpreter": "python",
        "kill_signal": "stop",
        "kind": "type",
        "liveness_probe": "live",
        "main": "command",
        "oneshot": "type",
        "path": "command",
        "ports": "port",
        "profile": "profiles",
        "program": "command",
        "readiness_probe": "ready",
        "requires": "depends_on",
        "run": "command",
        "script": "command",
        "stop_grace_period": "stop",
        "stop_signal": "stop",
        "stopsignal": "stop",
        "stopwaitsecs": "stop",
        "tools": "capabilities",
        "venv": "python",
        "watch_files": "watch",
        "working_dir": "directory",
        "working_directory": "directory",
        "workdir": "directory",
    },
    "ready": {"path": "http", "url": "http", "port": "tcp", "cmd": "exec", "command": "exec", "regex": "log"},
    "live": {"path": "http", "url": "http", "port": "tcp", "cmd": "exec", "command": "exec", "retries": "failures"},
    "stop": {"grace": "timeout", "grace_period": "timeout", "wait": "timeout"},
}
"""Table -> the word of another tool -> ours."""

_EXPLAINED = {
    "healthcheck": "; write ready = { … } for when it may get traffic, live = { … } for when it is hung",
    "workers": "; one agent is one process: let its server have workers, or write another agent",
    "replicas": "; one agent is one process: write another agent",
    "build": "; meshsup builds nothing",
    "image": "; meshsup runs programs, not images",
}


_TABLE_EXAMPLES = {
    "backoff": "initial = 0.5, max = 30",
    "crashloop": "crashes = 5, window = 60",
    "env": 'NAME = "value"',
    "live": 'http = "/livez"',
    "ready": 'http = "/health"',
    "stop": 'signal = "SIGTERM", timeout = 10',
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """``text`` is the rest of a sentence whose subject is the key at ``path`` (() for the whole file)."""

    path: KeyPath
    text: str


def from_pydantic(error: ErrorDetails, table: KeyPath, known: Sequence[str]) -> Mistake:
    """``table``: where the validated table is; ``known``: the keys of the table that an unknown key was found in."""
    path = (*table, *(part for part in error["loc"] if not str(part).startswith(SHAPE_TAG)))
    if error["type"] == "extra_forbidden":
        return Mistake(path, unknown_key(path, known))
    return Mistake(path, _sentence(error))


def unknown_key(path: KeyPath, known: Sequence[str]) -> str:
    word = str(path[-1])
    if word in LATER_AGENT_KEYS and _table(path) in ("agents", "defaults"):
        return "is not available in this version; remove it"
    return "unknown key" + (_EXPLAINED.get(word.lower()) or _meant(word, known, _table(path)))


def printed(file_name: str, mistakes: Iterable[Mistake], lines: Lines) -> list[str]:
    """One sentence each, in the order of the file, none twice."""
    placed = {mistake: line_of(lines, mistake.path) for mistake in mistakes}
    ordered = sorted(placed, key=lambda mistake: placed[mistake] or 0)
    return [_line(file_name, mistake, placed[mistake]) for mistake in ordered]


def dotted(path: KeyPath) -> str:
    """``agents.planner.capabilities[1].name``"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_key(part)}" if text else _key(part)
    return text


def _key(part: str) -> str:
    return part if re.fullmatch(r"[\w-]+", part, re.ASCII) else f'"{part}"'


def described(value: object) -> str:
    """``value`` as mesh.toml would write it, short; what came out of the environment is not shown."""
    match value:
        case Interpolated():
            return "what ${…} came to"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"' if len(value) <= LONGEST_SHOWN else f'"{value[:LONGEST_SHOWN]}…"'
        case list():
            return "a list"
        case dict():
            return "a table"
        case datetime.date() | datetime.time():
            return "a date or time"
    return str(value)


def _line(file_name: str, mistake: Mistake, line: int | None) -> str:
    subject = f"{dotted(mistake.path)}: " if mistake.path else ""
    return one_line(f"{file_name}: {subject}{mistake.text}" + (f" (line {line})" if line else ""))


def _table(path: KeyPath) -> str:
    """The name under which the words of the table around ``path`` are listed."""
    tables = [part for part in path[:-1] if isinstance(part, str)]
    if len(tables) <= 2 and tables[:1] in (["agents"], ["defaults"]):
        return "agents" if len(tables) == 2 or tables == ["defaults"] else "names"
    return tables[-1] if tables else ""


def _meant(word: str, known: Sequence[str], table: str) -> str:
    ours = _OTHER_WORDS.get(table, {}).get(word.lower().replace("-", "_"))
    if ours in known:
        return f"; did you mean '{ours}'?"
    near = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there are: {', '.join(known)}" if known else ""


def _sentence(error: ErrorDetails) -> str:
    context, given = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "string_type":
            return f"must be a string, not {described(given)}" + (_quoted(given) or _keyed(error["loc"], given))
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {described(given)}" + _unquoted(given)
        case "float_type":
            return f"must be a number, not {described(given)}" + _unquoted(given)
        case "bool_type":
            return f"must be true or false, not {described(given)}"
        case "list_type":
            return f"must be a list, not {described(given)}" + _listed(given)
        case "dict_type" | "model_type":
            return f"must be a table, not {described(given)}" + _table_example(error["loc"])
        case "literal_error":
            return _one_of(context["expected"], given)
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "finite_number":
            return "must be a finite number"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {described(given)}"
        case "greater_than":
            return f"must be more than {context['gt']}, not {described(given)}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {described(given)}"
    return error["msg"]


def _table_example(location: KeyPath) -> str:
    example = _TABLE_EXAMPLES.get(str(location[-1]))
    return f"; write {location[-1]} = {{ {example} }}" if example else ""


def _quoted(given: object) -> str:
    return f'; write "{given}", with quotes' if isinstance(given, int | float) and not isinstance(given, bool) else ""


def _keyed(location: KeyPath, given: object) -> str:
    """``depends_on = [{ agent = "x", restart = true }]``: with more than names it is one table, by their names."""
    if not isinstance(given, dict) or "depends_on" not in location:
        return ""
    return "; names alone are a list, else write depends_on = { NAME = { restart = true } }"


def _unquoted(given: object) -> str:
    plain = isinstance(given, str) and not isinstance(given, Interpolated) and given.isdigit()
    return f"; write {given}, without quotes" if plain else ""


def _listed(given: object) -> str:
    return f"; write [{described(given)}]" if isinstance(given, str) and not isinstance(given, Interpolated) else ""


def _one_of(expected: str, given: object) -> str:
    """pydantic writes the choices as ``'a', 'b' or 'c'``, and truth values as Python does."""
    text = expected.replace("True", "true").replace("False", "false").replace("'", '"')
    choices = [choice.strip('"') for choice in text.replace(" or ", ", ").split(", ")]
    near = difflib.get_close_matches(str(given), choices, n=1) if isinstance(given, str) else []
    near = near or [choice for choice in choices if choice == f"SIG{str(given).upper()}"]
    hint = f'; did you mean "{near[0]}"?' if near and not isinstance(given, Interpolated) else ""
    return f"must be {text}, not {described(given)}{hint}"
