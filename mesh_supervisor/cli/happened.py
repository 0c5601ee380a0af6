"""`history` and `events`: from the file in state_dir, and live from the supervisor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mesh_supervisor.cli.logs import prefix_colour
from mesh_supervisor.cli.moments import local_time, parse_since
from mesh_supervisor.cli.table import aligned, indented, widths
from mesh_supervisor.cli.terminal import CYAN, DIM, GREEN, RED, YELLOW, painted, show, show_json, still, talk, width
from mesh_supervisor.cli.words import one_line
from mesh_supervisor.control.client import Client
from mesh_supervisor.errors import NotRunning, UnknownAgent, UsageError, suggestion
from mesh_supervisor.events import Event, EventKind, Reload, iso_time, read_events
from mesh_supervisor.events import history as reloads_among
from mesh_supervisor.locate import Place, read_leniently
from mesh_supervisor.wording import json_text

OUTCOMES = {"completed": GREEN, "rejected": YELLOW, "failed": RED, "held": CYAN}


def print_history(place: Place, agents: Sequence[str], *, lines: int | None, since: str | None, as_json: bool) -> None:
    """The reloads in state_dir/events.jsonl, oldest first; 20 unless ``lines`` or ``since`` say otherwise."""
    after = parse_since(since)
    ends = reloads_among(read_events(place.state_dir, agents=_meant(place, agents), since=after))
    limit = lines if lines is not None else None if since else 20
    ends = ends if limit is None else ends[len(ends) - min(limit, len(ends)) :]
    if as_json:
        show_json([_reload_json(event, reload) for event, reload in ends])
    elif ends:
        show(*_reload_lines(ends))
    else:
        talk("no reload yet")


def _meant(place: Place, words: Collection[str]) -> list[str]:
    """The names that names and globs mean, also of agents that are no more. Raises UnknownAgent."""
    if not words:
        return []
    agents = read_leniently(place.file).get("agents")
    known = {event.agent for event in read_events(place.state_dir) if event.agent is not None} | {"registry"}
    known |= agents.keys() if isinstance(agents, dict) else set()
    for word in words:
        if not any(fnmatchcase(name, word) for name in known):
            raise UnknownAgent(word, known)
    return sorted(name for name in known if any(fnmatchcase(name, word) for word in words))


def _reload_json(event: Event, reload: Reload) -> dict[str, Any]:
    return {"at": iso_time(event.at), "agent": event.agent, **reload.to_details()}


def _reload_lines(ends: Sequence[tuple[Event, Reload]]) -> list[str]:
    """A row per reload, its phases below it; the reason in the row where the terminal has room for it, else below."""
    header = ("AT", "AGENT", "OUTCOME", "TOOK", "GEN", "WHY")
    rows = [_reload_cells(event, reload) for event, reload in ends]
    columns = width()
    lines = aligned([header, *rows], right=(3, 4), paint={2: _outcome})
    below = columns is not None and sum(widths([header, *rows])) + 2 * (len(header) - 1) > columns
    if below:
        lines = aligned([header[:-1], *(row[:-1] for row in rows)], right=(3, 4), paint={2: _outcome})
    printed = [lines[0]]
    for (_, reload), row, line in zip(ends, rows, lines[1:], strict=True):
        more = [row[-1]] if below else []
        more += [_phases(reload)] if reload.phases_ms else []
        printed += [line, *indented(more, columns)]
    return printed


def _reload_cells(event: Event, reload: Reload) -> tuple[str, ...]:
    at, agent, took = local_time(event.at), event.agent or "-", _took(reload.total_ms)
    return (at, agent, reload.outcome, took, str(reload.generation), _why(reload))


def _outcome(text: str) -> str:
    return painted(text, OUTCOMES.get(text, "0"))


def _why(reload: Reload) -> str:
    reason = reload.reason or reload.trigger
    return one_line(f"{reload.error} ({reason})" if reload.error and reload.error != reason else reason)


def _phases(reload: Reload) -> str:
    return " · ".join(f"{phase} {_took(spent)}" for phase, spent in reload.phases_ms.items())


def _took(milliseconds: float) -> str:
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f}s"


# ---- events ------------------------------------------------------------------------------------------------------


KINDS = tuple(EventKind)


@dataclass(frozen=True, slots=True)
class Wanted:
    """``agents``: names or globs; none: all, and what is of no agent."""

    agents: frozenset[str]
    kinds: frozenset[str]
    since: float | None
    limit: int | None

    @classmethod
    def of(cls, agents: Sequence[str], kinds: Sequence[str], *, lines: int | None, since: str | None) -> Wanted:
        limit = lines if lines is not None else None if since else 10
        for kind in kinds:
            if kind not in KINDS:
                raise UsageError(f"--kind {kind}: no such kind{suggestion(kind, KINDS)}; docs/events.md has them all")
        return cls(frozenset(agents), frozenset(kinds), parse_since(since), limit)

    def takes(self, event: Event) -> bool:
        named = any(fnmatchcase(event.agent or "", word) for word in self.agents)
        return (named or not self.agents) and (not self.kinds or event.kind in self.kinds)


def print_events(client: Client, wanted: Wanted, *, follow: bool, as_json: bool) -> None:
    """What happened, then (``follow``, and something runs) what happens; nothing twice, nothing lost in between.

    Raises UnknownAgent."""
    agents = _meant(client.place, wanted.agents)
    try:
        coming = client.events() if follow else iter(())
    except NotRunning:
        coming = iter(())
    past = read_events(client.place.state_dir, wanted.kinds, agents=agents, since=wanted.since, limit=wanted.limit)
    for event in past:
        _print_event(event, as_json)
    # The file is read after the stream was opened: what came in between is in both.
    seen = {(iso_time(event.at), event.kind, event.text) for event in past}
    for body in coming:
        event = Event.from_json(body)
        if wanted.takes(event) and (body["at"], event.kind, event.text) not in seen:
            _print_event(event, as_json)


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        line = json_text(event.to_json())
    else:
        agent = still(event.agent or "meshsup")
        who = painted(f"{agent:<12}", prefix_colour(agent))
        line = f"{painted(local_time(event.at), DIM)}  {who}  {still(event.kind):<16}  {one_line(event.text)}"
    print(line, flush=True)
