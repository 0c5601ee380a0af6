"""PURE. What changes from one mesh.toml to the next, and what each change needs.

As little as possible happens: a policy is simply the new one from now on, a capability is announced anew, and only what
a running process was started with costs a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from mesh_supervisor.spec import (
    AgentSpec,
    CommandLine,
    Dependency,
    ExecProbe,
    HttpProbe,
    LiveCheck,
    LogProbe,
    MeshSpec,
    Module,
    NotifyProbe,
    ReadyCheck,
    RegistrySpec,
    Script,
    TcpProbe,
)
from mesh_supervisor.wording import HIDDEN, hide, one_line


class Effect(StrEnum):
    """What a change needs, as people are told."""

    RESTART = "restarts"
    REREGISTER = "registers again"
    RETUNE = "applies at once"
    MESH = "applies at once to the mesh"
    NEEDS_DOWN = "needs `meshsup down` and `meshsup up`"


@dataclass(frozen=True, slots=True)
class Change:
    """``key`` as mesh.toml writes it, within its agent if there is one; ``old``, ``new`` as text with all secrets."""

    agent: str | None
    key: str
    old: str
    new: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Difference:
    """``added`` and ``removed`` are agents; ``secrets`` the values that `lines` does not print."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    secrets: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changes)

    @property
    def restarted(self) -> dict[str, tuple[str, ...]]:
        """Agent -> the keys because of which its process must be another one."""
        return self._agents(Effect.RESTART)

    @property
    def reregistered(self) -> dict[str, tuple[str, ...]]:
        """Agents that are announced anew, and keep their process."""
        restarted = self.restarted
        return {name: keys for name, keys in self._agents(Effect.REREGISTER).items() if name not in restarted}

    @property
    def retuned(self) -> dict[str, tuple[str, ...]]:
        """Agent -> policies that are simply the new ones from now on (also of agents that restart anyway)."""
        return self._agents(Effect.RETUNE)

    @property
    def mesh_changes(self) -> tuple[str, ...]:
        """Keys outside the agents that can be applied: ``watch.debounce``, ``logs.keep`` …"""
        return self._keys(Effect.MESH)

    @property
    def needs_down(self) -> tuple[str, ...]:
        """Keys that a running supervisor cannot follow; all the rest is applied."""
        return self._keys(Effect.NEEDS_DOWN)

    def lines(self, *, show_secrets: bool = False) -> list[str]:
        """For people: one line per agent that comes or goes, one per key that changes."""
        shown = [f"+ agents.{name}" for name in self.added] + [f"- agents.{name}" for name in self.removed]
        return shown + [self._line(change, show_secrets) for change in self.changes]

    def _line(self, change: Change, show_secrets: bool) -> str:
        place = f"agents.{change.agent}.{change.key}" if change.agent else change.key
        hidden = frozenset() if show_secrets else self.secrets
        old, new = (self._value(change.key, text, hidden, show_secrets) for text in (change.old, change.new))
        return one_line(f"~ {place}: {old} → {new} ({change.effect})")

    def _value(self, key: str, text: str, secrets: frozenset[str], show_secrets: bool) -> str:
        if key.startswith("env.") and text != NOTHING and not show_secrets:
            return HIDDEN
        return hide(text, secrets)

    def _agents(self, effect: Effect) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for change in self.changes:
            if change.effect is effect and change.agent is not None:
                found[change.agent] = (*found.get(change.agent, ()), change.key)
        return found

    def _keys(self, effect: Effect) -> tuple[str, ...]:
        return tuple(change.key for change in self.changes if change.effect is effect)


NOTHING = "nothing"
"""What stands for a key that is not there."""


def differences(old: MeshSpec, new: MeshSpec) -> Difference:
    """From the running configuration to the one that was read. Equal specs give a false Difference."""
    kept = [name for name in new.agents if name in old.agents]
    changes = [*_mesh_changes(old, new)]
    for name in kept:
        changes += _agent_changes(old.agents[name], new.agents[name])
        changes += _advertised(name, old, new)
    return Difference(
        added=tuple(name for name in new.agents if name not in old.agents),
        removed=tuple(name for name in old.agents if name not in new.agents),
        changes=tuple(changes),
        secrets=old.secrets | new.secrets,
    )


# ---- agents ------------------------------------------------------------------------------------------------------

_RESTARTING = frozenset(
    {"command", "directory", "args", "python", "port", "host", "register", "kind", "runtime", "trace", "listen"}
)
_NEVER_COMPARED = frozenset({"name", "environment", "secrets"})
_WRITTEN = {"kind": "type", "env_files": "env_file"}
"""Field of AgentSpec -> the key in mesh.toml, where they differ."""


def _agent_changes(old: AgentSpec, new: AgentSpec) -> Iterator[Change]:
    for field in fields(AgentSpec):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name in _NEVER_COMPARED or before == after:
            continue
        effect = _effect(field.name, before, after)
        yield Change(old.name, _WRITTEN.get(field.name, field.name), _text(before), _text(after), effect)
    for key in sorted({*old.environment, *new.environment}):
        before, after = old.environment.get(key), new.environment.get(key)
        if before != after:
            yield Change(old.name, f"env.{key}", _text(before), _text(after), Effect.RESTART)


def _effect(field: str, before: object, after: object) -> Effect:
    if field == "capabilities":
        return Effect.REREGISTER
    # Where to notify, and how often, is told to a process when it starts.
    if field in _RESTARTING or _is_told(before) or _is_told(after):
        return Effect.RESTART
    return Effect.RETUNE


def _is_told(check: object) -> bool:
    return isinstance(check, ReadyCheck | LiveCheck) and isinstance(check.probe, NotifyProbe)


def _advertised(name: str, old: MeshSpec, new: MeshSpec) -> Iterator[Change]:
    """The host that others are told is in the environment of agents that register themselves."""
    if old.advertise != new.advertise:
        yield Change(name, "mesh.advertise", old.advertise, new.advertise, Effect.RESTART)


# ---- the mesh ----------------------------------------------------------------------------------------------------


def _mesh_changes(old: MeshSpec, new: MeshSpec) -> Iterator[Change]:
    yield from _compared(old, new, "mesh", ("name", "state_dir", "mode"), Effect.NEEDS_DOWN)
    yield from _compared(old, new, "mesh", ("parallel_starts", "stop_timeout"), Effect.MESH)
    yield from _registry_changes(old.registry, new.registry)
    yield from _compared(old.registry, new.registry, "registry", ("command",), Effect.NEEDS_DOWN)
    yield from _compared(old.watch, new.watch, "watch", ("enabled", "debounce", "ignore", "roots"), Effect.MESH)
    yield from _compared(old.logs, new.logs, "logs", ("files", "max_size", "keep"), Effect.NEEDS_DOWN)


def _registry_changes(old: RegistrySpec, new: RegistrySpec) -> Iterator[Change]:
    """Every agent was told its address. A port that was not given is the supervisor's choice and no difference."""
    yield from _compared(old, new, "registry", ("kind", "url"), Effect.NEEDS_DOWN)
    before, after = (spec.port if spec.strict else None for spec in (old, new))
    if before != after and old.kind == new.kind != "external":
        yield Change(None, "registry.port", _text(before), _text(after), Effect.NEEDS_DOWN)


def _compared(old: object, new: object, table: str, keys: Iterable[str], effect: Effect) -> Iterator[Change]:
    for key in keys:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield Change(None, f"{table}.{key}", _text(before), _text(after), effect)


# ---- values as text ----------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """Near to how mesh.toml would write it."""
    match value:
        case None | ():
            return NOTHING
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case Path() | str() | int():
            return str(value)
        case tuple():
            return ", ".join(_text(item) for item in value)
        case Script(path):
            return str(path)
        case Module(name):
            return f"module {name}"
        case CommandLine(argv):
            return " ".join(argv)
        case Dependency(agent, condition):
            return f"{agent} ({condition})"
    return _table_text(value)


def _table_text(value: object) -> str:
    items = [(field.name, getattr(value, field.name)) for field in fields(value)]  # type: ignore[arg-type]
    written = [_item(name, item) for name, item in items if item is not None and item != ()]
    return "{ " + ", ".join(written) + " }"


def _item(name: str, value: object) -> str:
    match value:
        case HttpProbe(given) | LogProbe(given):
            return f"{type(value).__name__.removesuffix('Probe').lower()} = {given}"
        case TcpProbe(port):
            return f"tcp = {_text(port or True)}"
        case ExecProbe(argv):
            return f"exec = {' '.join(argv)}"
        case NotifyProbe():
            return "notify = true"
    return f"{name} = {_text(value)}"
