"""`logs`: from the supervisor while one runs, from its files otherwise and for what lies further back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mesh_supervisor.cli.moments import parse_since
from mesh_supervisor.cli.terminal import painted
from mesh_supervisor.control.client import Client
from mesh_supervisor.errors import NotRunning, UnknownAgent, UsageError
from mesh_supervisor.events import iso_time, unix_time
from mesh_supervisor.locate import Place, read_leniently
from mesh_supervisor.wording import json_text

if TYPE_CHECKING:
    from mesh_supervisor.host.lines import Line

DEFAULT = 100
KEPT = 1000
"""Lines per agent that a supervisor keeps in memory."""

PREFIXES = ("36", "32", "33", "35", "34", "96", "92", "93", "95", "94")

Row = dict[str, Any]
"""A line as on the wire: {"at", "agent", "generation", "text"}, perhaps "styled"."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines. ``limit`` None: all of them."""

    agents: tuple[str, ...]
    limit: int | None
    since: float | None
    grep: re.Pattern[str] | None
    previous: bool

    @classmethod
    def of(
        cls, agents: Sequence[str], *, lines: int | None, since: str | None, grep: str | None, previous: bool
    ) -> Wanted:
        """Raises UsageError for a --since or --grep that cannot be read."""
        narrowed = since is not None or grep is not None or previous
        limit = lines if lines is not None else None if narrowed else DEFAULT
        return cls(tuple(agents), limit, parse_since(since), _pattern(grep), previous)

    def takes(self, row: Row) -> bool:
        if self.since is not None and unix_time(row["at"]) < self.since:
            return False
        return self.grep is None or self.grep.search(row["text"]) is not None

    @property
    def beyond_memory(self) -> bool:
        """Whether the files know more than a supervisor's memory."""
        return self.previous or self.grep is not None or self.since is not None or (self.limit or 0) > KEPT


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--grep {grep}: no regular expression: {error}") from None


def print_logs(client: Client, wanted: Wanted, *, follow: bool, as_json: bool) -> None:
    """Raises UnknownAgent; NotRunning when there is something to follow and nobody who writes it."""
    try:
        known = [view.name for view in client.snapshot().agents]
        running = True
    except NotRunning:
        if follow:
            raise
        known, running = _known_on_disk(client.place), False
    names = _meant(wanted.agents, known)
    if follow:
        _print(_followed(client, names, wanted), known, as_json)
    else:
        _print(_past(client, names, wanted, running), known, as_json)


def _known_on_disk(place: Place) -> list[str]:
    agents = read_leniently(place.file).get("agents")
    logged = (file.stem for file in (place.state_dir / "logs").glob("*.log"))
    return sorted({*(agents if isinstance(agents, dict) else ()), *logged})


def _meant(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names that names and globs mean; `meshsup`, the supervisor itself, is always known. Raises UnknownAgent."""
    possible = dict.fromkeys((*known, "meshsup"))
    for word in words:
        if not any(fnmatchcase(name, word) for name in possible):
            raise UnknownAgent(word, possible)
    return [name for name in possible if any(fnmatchcase(name, word) for word in words)]


def _followed(client: Client, names: Sequence[str], wanted: Wanted) -> Iterator[Row]:
    lines = KEPT if wanted.limit is None else wanted.limit
    return (row for row in client.logs(names, lines=lines) if wanted.takes(row))


def _past(client: Client, names: Sequence[str], wanted: Wanted, running: bool) -> list[Row]:
    """Memory is as current as can be; the files reach further back. A mesh without log files has only memory."""
    if running and not wanted.beyond_memory:
        return _last(list(client.logs(names, lines=wanted.limit or KEPT, follow=False)), wanted.limit)
    rows = _from_files(client.place, names, wanted)
    if rows or not running or wanted.previous:
        return rows
    kept = client.logs(names, lines=KEPT, follow=False)
    return _last([row for row in kept if wanted.takes(row)], wanted.limit)


def _from_files(place: Place, names: Sequence[str], wanted: Wanted) -> list[Row]:
    from mesh_supervisor.host.logs import read_log

    lines = read_log(
        place.state_dir / "logs",
        names or [name for name in _known_on_disk(place) if name != "meshsup"],
        lines=wanted.limit,
        since=wanted.since,
        grep=wanted.grep,
        previous=wanted.previous,
    )
    return [_row(line) for line in lines]


def _row(line: Line) -> Row:
    return {"at": iso_time(line.at), "agent": line.agent, "generation": line.generation, "text": line.text}


def _last(rows: list[Row], limit: int | None) -> list[Row]:
    return rows if limit is None else rows[len(rows) - min(limit, len(rows)) :]


# ---- printing ----------------------------------------------------------------------------------------------------


def _print(rows: Iterable[Row], known: Sequence[str], as_json: bool) -> None:
    widest = max((len(name) for name in known), default=0)
    for row in rows:
        print(_as_json(row) if as_json else _as_text(row, widest), flush=True)


def _as_json(row: Row) -> str:
    return json_text({key: row[key] for key in ("at", "agent", "generation", "text")})


def _as_text(row: Row, widest: int) -> str:
    """``planner  | text``, the prefix in the agent's own colour; the text's own colours only on a terminal."""
    prefix = f"{row['agent']:<{widest}} |"
    coloured = painted(prefix, prefix_colour(row["agent"]))
    if coloured != prefix and "styled" in row:
        return f"{coloured} {row['styled']}\x1b[0m"
    return f"{coloured} {row['text']}"


def prefix_colour(agent: str) -> str:
    """The same for an agent wherever its name stands in front of a line."""
    return PREFIXES[sum(agent.encode()) % len(PREFIXES)]


def follow(client: Client, agents: Sequence[str]) -> None:
    """Print what comes, until Ctrl-C or the end of the mesh: for an `up` that joins a running mesh."""
    known = [view.name for view in client.snapshot().agents]
    names = _meant(agents, known)
    _print(client.logs(names, lines=0), known, as_json=False)
