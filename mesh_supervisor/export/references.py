"""PURE. mesh.toml as it is written, before anything is put in for its ``${…}``: which variables it takes from
elsewhere, and its words in Compose's own way of saying the same.

A value that came from the shell or an env file never goes into an exported file: its name does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh_supervisor.export.yaml import Reference
from mesh_supervisor.mesh_toml.interpolation import replaced, variables_in

FOR_ALL = ("mesh", "registry", "watch", "logs", "defaults")
"""Tables that are read for every agent."""


@dataclass(frozen=True, slots=True)
class Written:
    """The raw tables of a mesh.toml that is valid."""

    tables: Mapping[str, Any]

    def table(self, name: str) -> Mapping[str, Any]:
        table = self.tables.get(name, {})
        return table if isinstance(table, dict) else {}

    def of(self, agent: str, key: str) -> Any:
        """An agent's value, or the one of [defaults]; None: neither has one. Tables are not merged."""
        own = self.table("agents").get(agent, {})
        return own[key] if isinstance(own, dict) and key in own else self.table("defaults").get(key)

    def inside(self, agent: str, key: str, name: str) -> Any:
        """What stands under ``name`` in an agent's table ``key``, or in that of [defaults], as these two are merged."""
        for table in (self.agents.get(agent), self.table("defaults")):
            found = table.get(key) if isinstance(table, dict) else None
            if isinstance(found, dict) and name in found:
                return found[name]
        return None

    @property
    def agents(self) -> Mapping[str, Any]:
        return self.table("agents")

    @property
    def names_env_file(self) -> bool:
        """Whether [mesh] env_file is written: it must exist then, unlike the .env that is taken without being named."""
        return bool(self.table("mesh").get("env_file"))

    def variables(self, agent: str | None = None) -> dict[str, bool]:
        """Name → whether it must be set, of those that mesh.toml needs to be read: by all agents (None), or by one.

        Ports count for everybody: an agent may ask for the URL of any other."""
        found: dict[str, bool] = {}
        own = self.agents if agent is None else self.agents.get(agent, {})
        for text in _texts([*(self.table(name) for name in FOR_ALL), *self._ports, own]):
            for name, needed in variables_in(text).items():
                found[name] = found.get(name, False) or needed
        return dict(sorted(found.items()))

    def variables_of_ports(self) -> frozenset[str]:
        """Of agents' and the registry's."""
        texts = _texts([*self._ports, self.table("registry").get("port")])
        return frozenset(name for text in texts for name in variables_in(text))

    @property
    def _ports(self) -> list[Any]:
        return [self.of(name, "port") for name in self.agents]


def has_variable(value: object) -> bool:
    """Whether anything in it comes from elsewhere than mesh.toml."""
    return any(variables_in(text) for text in _texts(value))


def for_compose(text: str, known: Mapping[str, str]) -> Reference:
    """The same for Compose to replace (a Reference). ``known``: what ``port`` and ``agents.NAME.url`` come to; a
    Reference among them stays one."""
    return Reference(replaced(text, literal="$${", plain=_plain, known=known.__getitem__))


def by_compose(written: object, otherwise: object) -> Reference:
    """A value that mesh.toml writes, for Compose to find where a variable says it; else what it comes to."""
    return for_compose(str(written), {}) if has_variable(written) else Reference(otherwise)


def _plain(part: str) -> str:
    return part if isinstance(part, Reference) else part.replace("$", "$$")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
