"""PURE. Which provider a dependency gets: MCP Mesh's rules, and the newest generation.

In this order: capability by name, tags, version; of what is left, only the newest generation of each supervised agent
(so that a reload with a lower version, or with other tags, still takes over from the instance that it replaces); then
the highest tag score, the highest version, the lowest agent id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from mesh_supervisor.registry.records import Dependency, Record, Tool, fingerprint
from mesh_supervisor.registry.versions import order, satisfies

REQUIRED, PREFERRED = 5, 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tool of a record. ``entry`` is the JSON text that its consumers get, made once: kwargs pass through as text,
    so whatever their nesting, answering with them cannot fail. ``mark`` is the same as long as that text is."""

    record: Record
    tool: Tool
    tags: frozenset[str]
    entry: str
    mark: str

    @classmethod
    def of(cls, record: Record, tool: Tool) -> Candidate:
        entry = _available_entry(record, tool)
        return cls(record, tool, frozenset(tool.tags), entry, fingerprint(entry))

    @property
    def agent(self) -> tuple[str, str]:
        """Whose generations compete; one that no supervisor vouches for competes with nobody."""
        return (self.record.owner, self.record.agent) if self.record.owner else ("", self.record.id)


def _available_entry(record: Record, tool: Tool) -> str:
    entry = {
        "agent_id": record.id,
        "capability": tool.capability,
        "endpoint": record.endpoint,
        "function_name": tool.function_name,
        "status": "available",
    }
    text = json.dumps(entry)
    return f'{text[:-1]}, "kwargs": {tool.kwargs}}}' if tool.kwargs else text


def unresolved_entry(capability: str) -> str:
    """What stands at the position of a dependency that nobody can fill; a position is never left out."""
    return json.dumps(
        {"agent_id": "", "capability": capability, "endpoint": "", "function_name": "", "status": "unresolved"}
    )


def tag_score(offered: Iterable[str], plain: Iterable[str], groups: Iterable[Iterable[str]] = ()) -> int | None:
    """How well tags fit, or None when they do not: plain must be there (+5), ``+x`` may (+10), ``-x`` must not.

    Of a group at least one must be there; it counts once, with its best.
    """
    there = frozenset(offered)
    scores = [_plain_score(tag, there) for tag in plain if tag]
    scores += [_group_score([tag for tag in group if tag], there) for group in groups if group]
    return None if None in scores else sum(score or 0 for score in scores)


def _plain_score(tag: str, there: frozenset[str]) -> int | None:
    if tag[0] == "-":
        return None if tag[1:] in there else 0
    if tag[0] == "+":
        return PREFERRED if tag[1:] in there else 0
    return REQUIRED if tag in there else None


def _group_score(group: Iterable[str], there: frozenset[str]) -> int | None:
    """An excluded tag in a group fails it, and counts as no match of it."""
    best: int | None = None
    for tag in group:
        score = _plain_score(tag, there)
        if tag[0] == "-" and score is None:
            return None
        if score and (best is None or score > best):
            best = score
    return best


Grade = tuple[int, tuple[object, ...]]
"""Score and version of a candidate; more is better."""


def grade(candidate: Candidate, wanted: Dependency) -> Grade | None:
    """None for one that does not fit."""
    tool = candidate.tool
    if tool.capability != wanted.capability or not satisfies(tool.version, wanted.version):
        return None
    score = tag_score(candidate.tags, wanted.tags, wanted.groups) if wanted.tags or wanted.groups else 0
    return None if score is None else (score, order(tool.version))


def better(one: Candidate, other: Candidate | None, wanted: Dependency) -> bool:
    """Whether ``one`` is to be chosen instead of ``other``, who fits and is another agent."""
    mine = grade(one, wanted)
    if mine is None or other is None:
        return mine is not None
    theirs = grade(other, wanted)
    return theirs is None or _before(mine, one, theirs, other)


def _before(mine: Grade, one: Candidate, theirs: Grade, other: Candidate) -> bool:
    return mine > theirs if mine != theirs else one.record.id < other.record.id


def choose(wanted: Dependency, candidates: Iterable[Candidate]) -> Candidate | None:
    """The provider for ``wanted``, None when nobody fits."""
    fitting = [(found, one) for one in candidates if (found := grade(one, wanted)) is not None]
    latest: dict[tuple[str, str], int] = {}
    for _, one in fitting:
        latest[one.agent] = max(latest.get(one.agent, 0), one.record.generation)
    best: tuple[Grade, Candidate] | None = None
    for found, one in fitting:
        if one.record.generation == latest[one.agent] and (best is None or _before(found, one, *best)):
            best = found, one
    return best[1] if best else None
