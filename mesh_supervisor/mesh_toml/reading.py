"""One reading of one mesh.toml: its raw tables, what ``${…}`` stands for, and the mistakes found so far.

The machinery that config.py (the mesh's tables) and agent_table.py (one agent's) share. It knows how a table is merged,
expanded and checked, not what the tables mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pathspec import GitIgnoreSpec
from pydantic import ValidationError

from mesh_supervisor.errors import suggestion
from mesh_supervisor.locate import absolute
from mesh_supervisor.mesh_toml import models
from mesh_supervisor.mesh_toml.env_file import UnusableEnvFile, read_env_file
from mesh_supervisor.mesh_toml.interpolation import CannotInterpolate, expand
from mesh_supervisor.mesh_toml.mistakes import KeyPath, Mistake, described, from_pydantic, unknown_key
from mesh_supervisor.wording import hide

RESERVED_NAMES = ("meshsup", "registry")
LONGEST_NAME = 63
TABLES = ("mesh", "registry", "watch", "logs", "defaults", "agents")
NOT_IN_DEFAULTS = ("command", "module", "port", "capabilities")
PROBE_KEYS = ("http", "tcp", "exec", "log", "notify")

UNREADABLE = object()
"""Stands for a value whose ``${…}`` cannot be replaced."""

KeptPort = Callable[[str, Collection[int]], int]
"""(agent with ``port = 0``, ports it must not get) -> the port chosen for it; 0 when none is chosen yet."""

TableT = TypeVar("TableT", bound=models.Table)
ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int | None

    @property
    def url(self) -> str | None:
        """For others on this machine: who listens everywhere is reached on the loopback."""
        if self.port is None:
            return None
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{local}]:{self.port}" if ":" in local else f"http://{local}:{self.port}"


@dataclass(slots=True)
class Reading:
    """One reading of one file: what was found so far, and what is wrong. ``alone``: the one agent that it is read for;
    ``others_elsewhere``: the others are on machines that have their names, as services of Compose and Kubernetes do."""

    file: Path
    root: Path
    raw: dict[str, Any]
    environ: Mapping[str, str]
    kept_port: KeptPort
    pid_one: bool
    alone: str | None = None
    others_elsewhere: bool = False
    mistakes: list[Mistake] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    variables: Mapping[str, str] = field(default_factory=dict)
    mesh_env_file: Path | None = None
    mesh_env_file_variables: Mapping[str, str] = field(default_factory=dict)
    merged: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)

    def wrong(self, path: KeyPath, text: str) -> None:
        self.mistakes.append(Mistake(self._origin(path), hide(text, self.secrets)))

    def open(self) -> None:
        """Finds the agents, their addresses and the variables: everything else speaks of them."""
        self._check_tables()
        self.mesh_env_file, self.mesh_env_file_variables = self._mesh_env_file()
        self.variables = {**self.environ, **self.mesh_env_file_variables}
        self.merged = {name: self._with_defaults(name, table) for name, table in self._agent_tables().items()}
        self.addresses = self._addresses()

    def read(
        self, model: type[TableT], table: Mapping[str, Any], path: KeyPath, lookup: Callable[[str], str | None]
    ) -> tuple[TableT, frozenset[str]]:
        """The table with its ``${…}`` replaced and checked; and the keys that are wrong, which have their defaults."""
        expanded = {key: self._expanded(value, (*path, key), lookup) for key, value in table.items()}
        sound = {key: value for key, value in expanded.items() if value is not UNREADABLE}
        broken = {key for key in table if key not in sound}
        try:
            return model.model_validate(sound), frozenset(broken)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                mistake = from_pydantic(detail, path, models.keys_at(model, detail["loc"]))
                self.wrong(mistake.path, mistake.text)
                broken.add(str(detail["loc"][0]))
        return model.model_validate({key: sound[key] for key in sound.keys() - broken}), frozenset(broken)

    def env_file(self, text: str, path: KeyPath) -> tuple[Path, dict[str, str]]:
        file = absolute(self.root, text)
        try:
            return file, read_env_file(file, self.environ)
        except UnusableEnvFile as error:
            self.wrong(path, str(error).replace(f"{self.root}/", ""))
            return file, {}

    # ---- tables and defaults ---------------------------------------------------------------------------------------

    def _check_tables(self) -> None:
        for key, value in self.raw.items():
            if key not in TABLES:
                self.wrong((key,), self._unknown_table(key, value))
            elif not isinstance(value, dict):
                self.wrong((key,), f"must be a table, [{key}], not {described(value)}")
        for key in self.table("defaults"):
            if key in NOT_IN_DEFAULTS:
                self.wrong(("defaults", key), "belongs to one agent; write it in [agents.NAME]")
            elif key not in models.keys_of(models.Defaults):
                self.wrong(("defaults", key), unknown_key(("defaults", key), models.keys_of(models.Defaults)))

    def _unknown_table(self, key: str, value: object) -> str:
        if isinstance(value, dict) and ("command" in value or "module" in value):
            return f"unknown key; an agent's table is [agents.{key}]"
        return unknown_key((key,), TABLES)

    def table(self, name: str) -> dict[str, Any]:
        table = self.raw.get(name, {})
        return table if isinstance(table, dict) else {}

    def _agent_tables(self) -> dict[str, dict[str, Any]]:
        return {name: table for name, table in self.table("agents").items() if self._is_agent(name, table)}

    def _is_agent(self, name: str, table: object) -> bool:
        path = ("agents", name)
        if not isinstance(table, dict):
            self.wrong(path, _not_an_agent(name, table))
            return False
        if name in RESERVED_NAMES:
            self.wrong(path, f"'{name}' is a reserved name; call the agent something else")
        elif not re.fullmatch(models.NAME, name):
            self.wrong(
                path,
                f"an agent's name is made of a-z, 0-9, - and _, and begins with a letter or digit{_as_in(name)}",
            )
        elif len(name) > LONGEST_NAME:
            self.wrong(path, f"an agent's name has at most {LONGEST_NAME} characters")
        return True

    def _with_defaults(self, name: str, table: dict[str, Any]) -> dict[str, Any]:
        known = models.keys_of(models.Defaults)
        defaults = {key: value for key, value in self.table("defaults").items() if key in known}
        return _merged(_without_itself(defaults, name), table)

    def _origin(self, path: KeyPath) -> KeyPath:
        """A mistake in what came from [defaults] is one mistake there, not one in each agent."""
        inside = path[2:]
        if path[:1] != ("agents",) or not inside or _has(self.table("agents").get(str(path[1])), inside):
            return path
        return ("defaults", *inside) if _has(self.table("defaults"), inside) else path

    # ---- interpolation ---------------------------------------------------------------------------------------------

    def _expanded(self, value: Any, path: KeyPath, lookup: Callable[[str], str | None]) -> Any:
        """``value`` with all strings in it expanded; UNREADABLE when one of them cannot be."""
        if isinstance(value, dict):
            whole = {key: self._expanded(item, (*path, key), lookup) for key, item in value.items()}
            return UNREADABLE if UNREADABLE in whole.values() else whole
        if isinstance(value, list):
            items = [self._expanded(item, (*path, index), lookup) for index, item in enumerate(value)]
            return UNREADABLE if UNREADABLE in items else items
        return self._expanded_text(value, path, lookup) if isinstance(value, str) else value

    def _expanded_text(self, text: str, path: KeyPath, lookup: Callable[[str], str | None]) -> Any:
        try:
            expanded = expand(text, lookup)
        except CannotInterpolate as error:
            self.wrong(path, str(error))
            return UNREADABLE
        if "\0" in expanded:
            self.wrong(path, "has a NUL character, which no program can be given")
            return UNREADABLE
        return expanded

    def variable(self, name: str) -> str | None:
        """A name in a table of no agent."""
        if name == "port":
            raise CannotInterpolate("${port} is known only in [agents.NAME], [defaults] and [registry]")
        if name.startswith("agents."):
            return self.url_of(name.removeprefix("agents.").removesuffix(".url"))
        value = self.variables.get(name)
        if value:
            self.secrets.add(value)
        return value

    def url_of(self, agent: str) -> str:
        if agent not in self.addresses:
            raise CannotInterpolate(
                f"${{agents.{agent}.url}}: no agent is called '{agent}'{suggestion(agent, tuple(self.merged))}"
            )
        address = self.addresses[agent]
        if self.others_elsewhere and agent != self.alone:
            address = Address(agent, address.port)
        if address.url is None:
            raise CannotInterpolate(f"${{agents.{agent}.url}}: {agent} has no port; give it one")
        return address.url

    def _addresses(self) -> dict[str, Address]:
        """Ports and hosts before all else, since the rest may speak of them. Mistakes are told when they are read."""
        written = {name: self.port_in(table.get("port")) for name, table in self.merged.items()}
        fixed = {port for port in written.values() if port}
        fixed |= {port for port in (self.port_in(self.table("registry").get("port")),) if port}
        found: dict[str, Address] = {}
        for name, port in written.items():
            if port == 0 and re.fullmatch(models.NAME, name):
                port = self.kept_port(name, fixed)
            found[name] = Address(self._host(self.merged[name].get("host")), port)
        return found

    def port_in(self, written: object) -> int | None:
        text = self._leniently(written) if isinstance(written, str) and "${" in written else written
        number = int(text) if isinstance(text, str) and text.isdigit() and text is not written else text
        is_port = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 65535
        return number if is_port else None  # type: ignore[return-value]

    def _host(self, written: object) -> str:
        default = "0.0.0.0" if self.pid_one else "127.0.0.1"
        return (self._leniently(written) or default) if isinstance(written, str) else default

    def _leniently(self, text: str) -> str | None:
        try:
            return expand(text, self.variables.get)
        except CannotInterpolate:
            return None

    # ---- small questions -------------------------------------------------------------------------------------------

    def _mesh_env_file(self) -> tuple[Path | None, dict[str, str]]:
        """The named file, else .env beside mesh.toml, which is an input also while it does not exist yet."""
        named = self.table("mesh").get("env_file")
        if isinstance(named, str) and named:
            if "\0" in named:
                return None, {}  # told when the table is read
            try:
                return self.env_file(expand(named, self.environ.get), ("mesh", "env_file"))
            except CannotInterpolate:
                return None, {}  # told when the table is read
        default = self.root / ".env"
        # A folder of this name is somebody's virtual environment.
        return self.env_file(".env", ("mesh", "env_file")) if default.is_file() else (default, {})

    def check_patterns(self, patterns: list[str], path: KeyPath) -> None:
        for index, pattern in enumerate(patterns):
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                self.wrong((*path, index), f'is no gitignore pattern: "{pattern}"')


def given(value: ValueT | None, default: ValueT) -> ValueT:
    """Unlike ``or``: 0 and false are given."""
    return default if value is None else value


def _not_an_agent(name: str, value: object) -> str:
    if name in models.keys_of(models.Agent):
        return f"belongs to one agent; write it in [agents.NAME], where {name} is not the name"
    return f"must be a table, [agents.{name}], not {described(value)}"


def _as_in(name: str) -> str:
    proper = proper_name(name)
    return f", as in '{proper}'" if proper not in RESERVED_NAMES else ""


def proper_name(text: str) -> str:
    """``My Agents!`` → ``my-agents``"""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:LONGEST_NAME] or "mesh"


def _has(table: Any, path: KeyPath) -> bool:
    for part in path:
        try:
            table = table[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _merged(defaults: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Tables by key, all else replaced. An agent that says how it is probed does not get a second probe."""
    merged = {**defaults, **table}
    for key, value in table.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            if key in ("ready", "live") and not value.keys().isdisjoint(PROBE_KEYS):
                default = {name: item for name, item in default.items() if name not in PROBE_KEYS}
            merged[key] = _merged(default, value)
    return merged


def _without_itself(defaults: dict[str, Any], name: str) -> dict[str, Any]:
    """``depends_on`` for all agents is for all but the one that it names."""
    wanted = defaults.get("depends_on")
    if isinstance(wanted, list):
        return {**defaults, "depends_on": [other for other in wanted if other != name]}
    if isinstance(wanted, dict):
        return {**defaults, "depends_on": {other: table for other, table in wanted.items() if other != name}}
    return defaults
