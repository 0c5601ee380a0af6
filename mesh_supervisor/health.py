"""PURE. Is this mesh healthy? From what its supervisor says in brief to one line, and a yes or no for those who probe.

Two questions, because two things follow from a no:

* *ready*: do all agents that are wanted serve? A no means: send no traffic yet, do not start what depends on it.
* *live*: is it worth keeping? A no means: kill the container. So an agent that is down is no reason, while somebody
  keeps trying to start it: only an essential one, or one that was named, that was given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.wording import counted, one_line

AT_ITS_START = frozenset({"waiting", "starting"})
MOST_NAMED = 3
"""So many agents are named in the line with their reason; of the others it says how many there are."""
LONGEST_REASON = 200
"""Characters; docker keeps 4096 bytes of what a check says."""

SAYS = {
    "waiting": "is waiting",
    "starting": "is starting",
    "ready": "is ready",
    "reloading": "is reloading",
    "draining": "is stopping",
    "backoff": "has crashed",
    "crashloop": "is in a crash loop",
    "failed": "has failed",
    "stopped": "is stopped",
    "done": "is done",
    "held": "is held",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` is the first of ``line``: ready, starting, not ready, live, not live, stopping. ``agents``: those that
    were looked at."""

    healthy: bool
    word: str
    line: str
    agents: tuple[AgentBrief, ...] = ()


def judge(brief: Brief, words: Sequence[str], *, live: bool) -> Verdict:
    """``words``: names and globs; none: all agents, and the registry. Raises UnknownAgent.

    An agent that nobody wants (a profile that was not asked for, stopped by hand) counts only where it is named."""
    verdict = _judge_live(brief, words) if live else _judge_ready(brief, words)
    return replace(verdict, line=one_line(" ".join(f"{verdict.word}: {verdict.line}".split())))


def _judge_ready(brief: Brief, words: Sequence[str]) -> Verdict:
    if brief.stopping:
        return Verdict(False, "stopping", brief.gave_up or "the mesh was told to stop")
    if not brief.begun:
        return Verdict(False, "starting", "the supervisor has just been started")
    agents = _meant(brief, words)
    counting = [agent for agent in agents if _counts(agent, words)]
    if words and not counting:
        # Who asks for some must not be told that all is well with none.
        return Verdict(False, "not ready", f"none of {', '.join(words)} is wanted", tuple(agents))
    unready = [agent for agent in counting if not agent.ready]
    coming = all(agent.state in AT_ITS_START for agent in unready)
    word = "ready" if not unready else "starting" if coming else "not ready"
    return Verdict(not unready, word, _sentence(agents, words, unready), tuple(agents))


def _judge_live(brief: Brief, words: Sequence[str]) -> Verdict:
    if brief.gave_up is not None:
        return Verdict(False, "not live", f"{brief.gave_up}; the mesh stops")
    if brief.stopping:
        return Verdict(True, "live", "the mesh was told to stop")
    if not brief.begun:
        return Verdict(True, "live", "the supervisor has just been started")
    agents = _meant(brief, words)
    lost = [a for a in agents if a.given_up and _counts(a, words) and (words or a.essential)]
    if lost:
        return Verdict(False, "not live", _those(lost), tuple(agents))
    unready = [agent for agent in agents if _counts(agent, words) and not agent.ready]
    return Verdict(True, "live", _sentence(agents, words, unready), tuple(agents))


def _meant(brief: Brief, words: Sequence[str]) -> list[AgentBrief]:
    """A glob means agents; the registry must be called by its name."""
    for word in words:
        if not any(_means(word, agent) for agent in brief.agents):
            raise UnknownAgent(word, (agent.name for agent in brief.agents))
    return [agent for agent in brief.agents if not words or any(_means(word, agent) for word in words)]


def _means(word: str, agent: AgentBrief) -> bool:
    return agent.name == word or (agent.kind != "registry" and fnmatchcase(agent.name, word))


def _counts(agent: AgentBrief, words: Sequence[str]) -> bool:
    return agent.wanted or agent.name in words


# ---- in words ----------------------------------------------------------------------------------------------------


def _sentence(agents: Sequence[AgentBrief], words: Sequence[str], unready: Sequence[AgentBrief]) -> str:
    """``3 of 5 agents are ready; planner is starting (connection refused); not wanted: extra``"""
    parts = [_share(agents, words)]
    parts += [_those(unready)] if unready else []
    unwanted = [agent.name for agent in agents if not _counts(agent, words)]
    parts += [f"not wanted: {', '.join(unwanted)}"] if unwanted else []
    return "; ".join(parts)


def _share(agents: Sequence[AgentBrief], words: Sequence[str]) -> str:
    """The registry is no agent, unless it was asked for: it is spoken of when something is wrong with it."""
    counting = [agent for agent in agents if _counts(agent, words) and (agent.kind != "registry" or words)]
    ready = sum(agent.ready for agent in counting)
    if not counting:
        return "no agent is wanted"
    return f"{ready} of {counted(len(counting), 'agent')} {'is' if len(counting) == 1 else 'are'} ready"


def share(brief: Brief) -> tuple[int, int]:
    """(ready, wanted) of its agents."""
    wanted = [agent for agent in brief.agents if agent.wanted and agent.kind != "registry"]
    return sum(agent.ready for agent in wanted), len(wanted)


def _those(agents: Sequence[AgentBrief]) -> str:
    said = [_reason(agent) for agent in agents[:MOST_NAMED]]
    said += [f"and {len(agents) - MOST_NAMED} more"] if len(agents) > MOST_NAMED else []
    return "; ".join(said)


def _reason(agent: AgentBrief) -> str:
    name = "the registry" if agent.kind == "registry" else agent.name
    said = f"{name} {SAYS.get(agent.state, agent.state)}"
    if not agent.detail:
        return said
    detail = agent.detail if len(agent.detail) <= LONGEST_REASON else agent.detail[: LONGEST_REASON - 1] + "…"
    return f"{said} ({detail})"
