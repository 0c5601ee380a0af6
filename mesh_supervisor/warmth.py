"""PURE. Which agents start warm, from what, and why the others do not.

What is imported ahead is what an agent's *earlier instance* had imported when it was ready, never more: two agents
share a template only if they had loaded the same packages, or one of them more than the other. A module that an agent
does not use can change how it behaves (patches, signal handlers, plugins that find each other in ``sys.modules``), and
sharing pages is worth less than that. Of the submodules of those packages the template has what all of its agents had.

What imports look at in the environment belongs to the template's key (W3): an agent that differs in one of these values
is never forked from it. Everything else may differ, and is set in the child.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from signal import SIGABRT, SIGBUS, SIGILL, SIGSEGV
from typing import Literal

Choice = Literal["auto", "fork", "spare", False]
"""``warm`` of mesh.toml."""

# fmt: off
PREFIXES = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "GRPC_", "ARROW_", "POLARS_", "CUDA_", "NVIDIA_",
    "FASTMCP_", "LOGFIRE_", "OTEL_", "HF_", "SSL_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "OPENSSL_", "LITELLM_",
    "OPENAI_API_", "AZURE_OPENAI_", "SENTRY_", "PYTHON", "LC_", "LANG", "HOME", "TMPDIR", "XDG_", "MALLOC_", "LD_",
)
# fmt: on
"""Of names that C code and settings classes read, where no lookup can be seen."""

OF_THE_INSTANCE = ("MESHSUP_", "NOTIFY_SOCKET", "WATCHDOG_USEC", "MCP_MESH_AGENT_ID", "LISTEN_")
"""Prefixes of names that change from one instance to the next: never in a warm process's own environment."""

OF_THE_AGENT = ("FASTMCP_HOST", "FASTMCP_PORT")
"""What we tell each agent, and fastmcp looks at when it is imported: nobody would share a template. So warm processes
have neither, and an instance is given its own after the import (runtime/become.py)."""

SPARES = 2
"""Spares in all, for the agents edited last: each costs what its agent costs."""

TEMPLATES = 6
"""Templates at a time. One shares its pages with what it forks, but until then it is one more process."""

FIRST_GUESS = 5.0
"""Seconds that a cold start is taken to need while nobody has seen one."""

CRASHES = frozenset({SIGABRT, SIGSEGV, SIGBUS, SIGILL})
"""By which a process dies that must not have been forked."""


Kind = tuple[str, tuple[str, ...], frozenset[str]]
"""(interpreter, its flags, the packages that were loaded)"""


LONGEST_NAME = 80
"""Characters of a module's name; 1500 have to fit into a packet."""


MOST_MODULES = 20_000
MOST_NAMES = 1_000
MOST_FOLDERS = 100
LONGEST_PATH = 4096
"""Of one agent are learnt: modules, names of the environment, .env files and site-packages folders; characters."""


class Way(StrEnum):
    FORK = "fork"
    SPARE = "spare"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What an instance had loaded when it was ready, and what those imports looked up. Kept between runs.

    ``modules``: third-party ones, in the order of their import; ``standard``: the library's; ``names``: of the
    environment; ``dotenv``: .env files that such modules have loaded; ``places``: the site-packages folders;
    ``imports``: the packages that the agent's own code imports, by its source; ``cold``: seconds from spawn to ready of
    a cold start.
    """

    python: str
    flags: tuple[str, ...]
    modules: tuple[str, ...]
    standard: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    dotenv: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    cold: float = FIRST_GUESS

    @property
    def packages(self) -> frozenset[str]:
        return _packages(self.modules)

    @property
    def kind(self) -> Kind:
        """Agents of one kind may share."""
        return self.python, self.flags, self.packages


@dataclass(frozen=True, slots=True)
class Wanted:
    """One agent that is about to start, or has started, and what it will find."""

    agent: str
    choice: Choice
    python: str
    flags: tuple[str, ...]
    environ: Mapping[str, str]
    directory: str
    imports: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one package. ``way``: "fork": may be in every warm process; "spare": in those that fork nothing; "skip": in
    none. ``why``: in words, "" for "fork"."""

    way: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What has been found out about one environment. ``verdicts``: of packages that were tried alone. ``marked``: agent
    and template (`mark_of`), or the template's key alone → why that is forked no more. ``dotenv``: .env file → a digest
    of what is in it now."""

    verdicts: Mapping[str, Verdict]
    marked: Mapping[str, str]
    dotenv: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Base:
    """Of what two agents must have the same to share a warm process: all of it, and what imports see besides."""

    python: str
    flags: tuple[str, ...]
    packages: frozenset[str]
    names: frozenset[str]
    dotenv: frozenset[str]

    def key(self, wanted: Wanted, dotenv: Mapping[str, str]) -> str:
        """A digest: it is kept on disk, and values may be secret."""
        files = [(path, dotenv.get(path, "")) for path in sorted(self.dotenv)]
        folder = wanted.directory if _depends_on_folder(wanted.environ) else ""
        parts = (self.python, self.flags, sorted(self.packages), values(wanted.environ, self.names), files, folder)
        return sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a warm process is made of. Two agents with the same ``key`` may share one."""

    key: str
    base: Base
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """How the next instance should start. ``template`` is None when nothing can be forked, ``spare`` when none is
    needed; ``reason`` says why it is not a plain fork, ``cure`` what would help ("" nothing)."""

    template: Recipe | None = None
    spare: Recipe | None = None
    reason: str = ""
    cure: str = ""


def top(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(maxsize=1024)
def _packages(modules: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(top, modules))


# ---- what agents have in common --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pool:
    """Of agents of one kind: the modules that all of them had, and what any of their imports looked at."""

    modules: tuple[str, ...]
    standard: tuple[str, ...]
    names: frozenset[str]
    dotenv: frozenset[str]


def pools(learnt: Iterable[Learnt]) -> dict[Kind, Pool]:
    found: dict[Kind, Pool] = {}
    for one in learnt:
        pool = found.get(one.kind)
        if pool is None:
            found[one.kind] = Pool(one.modules, one.standard, one.names, one.dotenv)
        else:
            found[one.kind] = _joined(pool, one)
    return found


def _joined(pool: Pool, one: Learnt) -> Pool:
    modules, standard = frozenset(one.modules), frozenset(one.standard)
    return Pool(
        tuple(name for name in pool.modules if name in modules),
        tuple(name for name in pool.standard if name in standard),
        pool.names | one.names,
        pool.dotenv | one.dotenv,
    )


# ---- one agent -------------------------------------------------------------------------------------------------------


def decide(
    wanted: Wanted, mine: Learnt | None, shared: Mapping[Kind, Pool], known: Known, spares: int = SPARES
) -> Decision:
    """``shared``: `pools` of all agents of the mesh, this one among them. ``spares``: how many there may be in all."""
    obstacle = _obstacle(wanted, mine)
    if mine is None or obstacle is not None:
        return obstacle or Decision()
    verdicts = {name: verdict for name in sorted(mine.packages) if (verdict := known.verdicts.get(name))}
    refused = {name: verdict.why for name, verdict in verdicts.items() if verdict.way != "fork"}
    skipped = frozenset(name for name, verdict in verdicts.items() if verdict.way == "skip")
    pool = shared[mine.kind]
    forked = recipe(wanted, mine, pool, known, frozenset(refused))
    # A spare is for this agent alone: it has all that this one had.
    whole = recipe(wanted, mine, replace(pool, modules=mine.modules, standard=mine.standard), known, skipped)
    choice = "fork" if wanted.choice == "auto" and not spares else wanted.choice
    found = _chosen(choice, whole, forked, refused, _marked(wanted.agent, forked.key, known))
    return found if choice == wanted.choice else replace(found, cure="")  # nobody edits here, so there are no spares


def _obstacle(wanted: Wanted, mine: Learnt | None) -> Decision | None:
    if wanted.choice is False:
        return Decision(reason="warm = false in mesh.toml")
    if mine is None or (mine.python, mine.flags) != (wanted.python, wanted.flags):
        return Decision(reason="what it imports is learnt at its first start")
    if not mine.modules and not mine.standard:
        return Decision(reason="it imports nothing that could be imported ahead")
    dropped = sorted(mine.imports - wanted.imports)
    if dropped:
        return Decision(reason=f"it does not import {dropped[0]} any more: what it imports is learnt anew")
    return None


def mark_of(agent: str, key: str) -> str:
    """A crash may be the agent's own fault: it says nothing about the others that share the template."""
    return f"{agent} {key}"


def _marked(agent: str, key: str, known: Known) -> str:
    return known.marked.get(key) or known.marked.get(mark_of(agent, key), "")


def _chosen(choice: Choice, whole: Recipe, forked: Recipe, refused: Mapping[str, str], marked: str) -> Decision:
    if choice == "spare":
        return Decision(spare=whole, reason='warm = "spare" in mesh.toml')
    if marked:
        template, reason = None, marked
    else:
        template = forked if forked.modules else None
        reason = "; ".join(f"{name} cannot be forked: {why}" for name, why in list(refused.items())[:1])
    if not reason:
        return Decision(template=template)
    if choice == "fork":
        return Decision(template=template, reason=reason, cure='warm = "auto" would start a spare ahead')
    return Decision(template=template, spare=whole, reason=reason, cure=_cure(refused))


def _cure(refused: Mapping[str, str]) -> str:
    if not refused:
        return ""
    return f"a spare is kept for the {SPARES} agents edited last; without {next(iter(refused))} it could be forked"


def recipe(wanted: Wanted, mine: Learnt, pool: Pool, known: Known, without: frozenset[str]) -> Recipe:
    base = Base(mine.python, mine.flags, mine.packages - without, pool.names, pool.dotenv)
    modules = (*pool.standard, *_without(pool.modules, without))
    return Recipe(base.key(wanted, known.dotenv), base, modules)


@lru_cache(maxsize=256)
def _without(modules: tuple[str, ...], packages: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in modules if top(name) not in packages)


def values(environ: Mapping[str, str], names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """What imports see of an environment."""
    return tuple(sorted((name, environ[name]) for name in environ if name not in OF_THE_AGENT and _seen(name, names)))


def _seen(name: str, names: Collection[str]) -> bool:
    return name in names or name.startswith(PREFIXES)


def _depends_on_folder(environ: Mapping[str, str]) -> bool:
    path = environ.get("PYTHONPATH")
    return bool(path) and not all(entry.startswith("/") for entry in str(path).split(":"))


def serves(made: Recipe, needed: Recipe) -> bool:
    """Whether a warm process made so is as good as a new one. (Its agents may have learnt more since.)"""
    return made.key == needed.key and set(needed.modules) <= set(made.modules)


def fits(made: Recipe, needed: Recipe, wanted: Wanted, known: Known) -> bool:
    """Whether this agent may be forked from it at all: it has nothing that the agent has not, and saw the same."""
    mine = needed.base
    if (made.base.python, made.base.flags) != (mine.python, mine.flags) or not made.base.packages <= mine.packages:
        return False
    return made.key == made.base.key(wanted, known.dotenv)


def best(made: Mapping[str, Recipe], needed: Recipe, wanted: Wanted, known: Known) -> str | None:
    """Of the templates that there are, the one that saves the most; None: none fits."""
    fitting = [key for key, recipe in made.items() if fits(recipe, needed, wanted, known)]
    return max(fitting, key=lambda key: (key == needed.key, len(made[key].modules)), default=None)


# ---- several ---------------------------------------------------------------------------------------------------------


def common_environ(environs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What all of them have, less what belongs to one instance: a template knows only what all its agents know."""
    first, *others = environs
    return {
        name: value
        for name, value in first.items()
        if name not in OF_THE_AGENT
        and not name.startswith(OF_THE_INSTANCE)
        and all(other.get(name) == value for other in others)
    }


def templates(decisions: Mapping[str, Decision], recency: Iterable[str]) -> dict[str, Recipe]:
    """Key → what it is made of, of the templates worth having: those of the agents edited last, then the largest."""
    agents: dict[str, list[str]] = {}
    recipes: dict[str, Recipe] = {}
    for agent, decision in decisions.items():
        if decision.template is not None:
            agents.setdefault(decision.template.key, []).append(agent)
            recipes.setdefault(decision.template.key, decision.template)
    order = {agent: place for place, agent in enumerate(recency)}
    last = len(order)
    ranked = sorted(agents, key=lambda key: (min(order.get(one, last) for one in agents[key]), -len(agents[key]), key))
    return {key: recipes[key] for key in ranked[:TEMPLATES]}


def spared(decisions: Mapping[str, Decision], recency: Iterable[str], most: int = SPARES) -> list[str]:
    """The agents that get a spare: those edited last, then the others in their order."""
    order = [*dict.fromkeys((*recency, *decisions))]
    return [agent for agent in order if agent in decisions and decisions[agent].spare is not None][:most]


def patience(learnt: Learnt | None, warming: int, cores: int) -> float:
    """Seconds that a start waits for a warm process that is not warm yet: what a cold start would take beside them."""
    cold = learnt.cold if learnt is not None else FIRST_GUESS
    return cold * max(1.0, warming / max(1, cores))


# ---- what was learnt -------------------------------------------------------------------------------------------------

Packet = Mapping[str, object]


def learn(packets: Iterable[Packet], wanted: Wanted, before: Learnt | None, cold: float | None) -> Learnt:
    """From the inventory of a ready instance (runtime/learn.py). ``cold``: seconds that it took; None: it was warm, so
    that it has what its template had, whether it uses it or not, and what the runtime needed there. Then only packages
    that are new are learnt."""
    parts = list(packets)
    was_cold = cold is not None or before is None
    if before is None or was_cold:
        before = Learnt(wanted.python, wanted.flags, (), cold=cold if cold is not None else FIRST_GUESS)
    return Learnt(
        wanted.python,
        wanted.flags,
        _modules(parts, "modules", before.modules),
        _modules(parts, "standard", ()) if was_cold else before.standard,
        _grown(before.names, _texts(parts, "names"), MOST_NAMES),
        _grown(before.dotenv, _texts(parts, "dotenv"), MOST_FOLDERS),
        _grown(before.places, _texts(parts, "places"), MOST_FOLDERS),
        wanted.imports,
        before.cold,
    )


def _modules(parts: Iterable[Packet], name: str, before: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*before, *(text for text in _texts(parts, name) if is_module(text)))))[:MOST_MODULES]


def _grown(before: frozenset[str], told: Iterable[str], most: int) -> frozenset[str]:
    """What an agent's process says is not to be trusted: no more than ``most``, and nothing of what is known lost."""
    new = sorted(text for text in set(told) - before if len(text) <= LONGEST_PATH)
    return before.union(new[: max(0, most - len(before))])


def _texts(parts: Iterable[Packet], name: str) -> list[str]:
    found = []
    for part in parts:
        told = part.get(name)
        if isinstance(told, list):
            found += [text for text in told if isinstance(text, str)]
    return found


def is_module(name: object) -> bool:
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        return False
    return name.isascii() and all(part.isidentifier() for part in name.split("."))


def learn_names(
    made: Recipe, learnt: Mapping[str, Learnt], names: Collection[str], dotenv: Collection[str]
) -> dict[str, Learnt]:
    """The agents of its kind that have to learn what the imports of a warm process looked at."""
    base = made.base
    if base.names.issuperset(names) and base.dotenv.issuperset(dotenv):
        return {}
    seen = {
        agent: replace(
            one,
            names=_grown(one.names, names, MOST_NAMES),
            dotenv=_grown(one.dotenv, dotenv, MOST_FOLDERS),
        )
        for agent, one in learnt.items()
        if (one.python, one.flags) == (base.python, base.flags) and base.packages <= one.packages
    }
    return {agent: one for agent, one in seen.items() if one != learnt[agent]}


def blamed(leave_out: Iterable[str], why: str, *, spare: bool) -> dict[str, Verdict]:
    """Package → verdict, from the names that a template says must not be in it. ``spare``: in one they may be."""
    return {top(name): Verdict("spare" if spare else "skip", why) for name in leave_out if is_module(name)}


def to_judge(modules: Iterable[str]) -> tuple[str, ...]:
    """Names of which each is to be imported alone: the packages; of a namespace, what is in it."""
    names = dict.fromkeys(modules)
    return tuple(name for name in names if not _has_parent(name, names))


def _has_parent(name: str, names: Collection[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in names for count in range(1, len(parts)))


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a package, from those of its parts."""
    return max(verdicts, key=lambda verdict: {"fork": 0, "spare": 1}.get(verdict.way, 2))
