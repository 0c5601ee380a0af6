"""mesh.toml → frozen values (spec.py), or all its mistakes at once.

The way of a value: TOML → merged with ``[defaults]`` → ``${…}`` replaced → its type checked (models.py) → compared
with the disk and with the other agents → spec. A key that is wrong is reported and left out, so that it hides nothing.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from mesh_supervisor.difference import Difference, differences
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.locate import state_dir_of
from mesh_supervisor.mesh_toml import models
from mesh_supervisor.mesh_toml.agent_table import AgentTable, Shared
from mesh_supervisor.mesh_toml.interpolation import CannotInterpolate
from mesh_supervisor.mesh_toml.mistakes import Mistake, printed
from mesh_supervisor.mesh_toml.programs import NotUsable, folder
from mesh_supervisor.mesh_toml.reading import KeptPort, Reading, given, proper_name
from mesh_supervisor.mesh_toml.toml_lines import key_lines
from mesh_supervisor.spec import AgentSpec, LogSpec, MeshSpec, Mode, RegistrySpec, WatchSpec, is_loopback
from mesh_supervisor.wording import hide

__all__ = ["Difference", "choose_mode", "differences", "hide", "json_schema", "load", "reference"]

FIRST_REGISTRY_PORT = 8000
REGISTRY_URL = "MESHSUP_REGISTRY_URL"


def no_port_yet(agent: str, avoid: Collection[int]) -> int:
    return 0


def load(
    file: Path,
    environ: Mapping[str, str],
    *,
    mode: Mode | None = None,
    mode_reason: str = "",
    kept_port: KeptPort = no_port_yet,
    watch: bool | None = None,
    debounce: float | None = None,
    pid_one: bool = False,
    alone: str | None = None,
    address_towards: Callable[[str], str | None] = lambda url: None,
) -> MeshSpec:
    """The mesh that ``file`` describes. ``mode`` as `choose_mode` chose it; None: what the file says, else dev.
    ``watch`` and ``debounce`` are the command line's and win. ``pid_one``: see host/container.py.
    ``alone``: the one agent that is wanted of it (to be handed to single.alone). The other agents may be wrong then,
    since their files and secrets are somewhere else; $MESHSUP_REGISTRY_URL names the registry; ``address_towards``
    says under which address this machine is seen from a URL, unless another one is given to be told to others.

    Raises ConfigError with a sentence for each mistake that there is.
    """
    text = _text_of(file)
    reading = Reading(file, file.parent, _tables_of(text, file.name), environ, kept_port, pid_one, alone)
    chosen = (mode, mode_reason) if mode is not None else None
    spec = _mesh(reading, chosen, watch, debounce, address_towards)
    mistakes = [mistake for mistake in reading.mistakes if not _of_another(mistake, alone)]
    if mistakes:
        raise ConfigError(printed(file.name, mistakes, key_lines(text)))
    return spec


def _of_another(mistake: Mistake, alone: str | None) -> bool:
    return alone is not None and mistake.path[:1] == ("agents",) and mistake.path[1:2] != (alone,)


def _registry_in(environ: Mapping[str, str]) -> RegistrySpec | None:
    """The one that the engine names which starts one agent per container. Raises ConfigError for what is no URL."""
    url = environ.get(REGISTRY_URL, "").rstrip("/")
    if url and not _port_of(url):
        raise ConfigError(f"{REGISTRY_URL}: is no URL; write one such as http://registry:8000")
    return RegistrySpec("external", _port_of(url), True, (), url) if url else None


def choose_mode(
    flag: Mode | None,
    environ: Mapping[str, str],
    file_mode: str | None,
    unattended: str = "",
) -> tuple[Mode, str]:
    """The mode and, in words, why. ``file_mode``: `locate.mode_in`; ``unattended``: host/container.py. Raises
    ConfigError for a MESHSUP_MODE that is none.

    Asked before ``-d`` detaches: afterwards nobody's parent is what it was.
    """
    if flag is not None:
        return flag, f"--{flag}"
    named = environ.get("MESHSUP_MODE", "")
    if named and named not in tuple(Mode):
        raise ConfigError(f'MESHSUP_MODE: must be "dev" or "prod", not "{named}"')
    if named:
        return Mode(named), "MESHSUP_MODE"
    if file_mode in tuple(Mode):
        return Mode(file_mode), "mode in mesh.toml"
    return (Mode.PROD, unattended) if unattended else (Mode.DEV, "the default")


def json_schema() -> dict[str, Any]:
    """JSON Schema of mesh.toml, for editors (``#:schema``)."""
    from mesh_supervisor.mesh_toml import reference as pages  # only `meshsup schema` and the documentation need it

    return pages.json_schema()


def reference() -> str:
    """docs/configuration.md."""
    from mesh_supervisor.mesh_toml import reference as pages

    return pages.reference()


# ---- the file ----------------------------------------------------------------------------------------------------


def _text_of(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise ConfigError(f"{file}: is no file")  # reading a named pipe would never end
    try:
        # utf-8-sig: some editors put a byte order mark before the text.
        return file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; `meshsup init` writes one") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file.name}: is not UTF-8; save it as UTF-8 (line {line})") from error


def _tables_of(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {_syntax_sentence(str(error))}") from error
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply") from None


_PLAINER = {
    "Cannot overwrite a value": "this key is written twice; keep one",
    "Expected '=' after a key in a key/value pair": "a key is followed by '=' and its value",
    'Expected "\'"': "a string has no closing quote",
    "Illegal character '\\n'": "a string has no closing quote on its line",
    "Invalid initial character for a key part": "a key was expected; an inline table { … } stands on one line",
    "Invalid value": "this is no value; a string needs quotes, truth values are true and false",
    "Unescaped '\\' in a string": "a backslash in a string is doubled, or the string stands in 'single quotes'",
    "Unterminated string": "a string has no closing quote",
}
"""What tomllib says -> what it means to somebody who writes a configuration."""


def _syntax_sentence(told: str) -> str:
    """``Cannot declare ('agents', 'a') twice (at line 3, column 9)`` → ``not TOML: agents.a is declared twice …``"""
    found = re.fullmatch(r"(?P<what>.*) \(at (?P<where>line \d+, column \d+|end of document)\)", told, re.DOTALL)
    what, where = (found["what"], found["where"]) if found else (told, "somewhere")
    twice = re.fullmatch(r"Cannot declare \((?P<key>.*?),?\) twice", what)
    if twice:
        what = ".".join(re.findall(r"'([^']*)'", twice["key"])) + " is declared twice; keep one"
    what = _PLAINER.get(what, what)
    return f"not TOML: {what[:1].lower()}{what[1:]} ({where})"


# ---- the mesh -----------------------------------------------------------------------------------------------------


def _mesh(
    reading: Reading,
    chosen: tuple[Mode, str] | None,
    watch: bool | None,
    debounce: float | None,
    address_towards: Callable[[str], str | None],
) -> MeshSpec:
    reading.open()
    registry = _registry(reading)
    in_a_container = reading.alone is not None and (reading.pid_one or bool(reading.environ.get(REGISTRY_URL)))
    reading.others_elsewhere = in_a_container and not is_loopback(registry.host)
    mesh, _ = reading.read(models.Mesh, reading.table("mesh"), ("mesh",), reading.variable)
    mode, reason = chosen or ((Mode(mesh.mode), "mode in mesh.toml") if mesh.mode else (Mode.DEV, "the default"))
    env_files = (reading.mesh_env_file,) if reading.mesh_env_file else ()
    shared = Shared(mode, {**reading.mesh_env_file_variables, **mesh.env}, env_files)
    agents = {name: AgentTable(reading, shared, name).spec() for name in reading.merged}
    _check_ports(reading, agents)
    _check_cycles(reading, agents)
    advertise, doubt = _advertise(reading, mesh.advertise, registry, address_towards)
    nobody = () if agents else (f"{reading.file.name} has no agents; write [agents.NAME] with a command",)
    return MeshSpec(
        name=_name(reading, mesh.name),
        file=reading.file,
        root=reading.root,
        state_dir=_state_dir(reading),
        mode=mode,
        mode_reason=reason,
        advertise=advertise,
        parallel_starts=mesh.parallel_starts or _cores(),
        stop_timeout=given(mesh.stop_timeout, 8.0 if reading.pid_one else 30.0),
        registry=registry,
        watch=_watch(reading, mode, watch, debounce),
        logs=_logs(reading, mode),
        agents=MappingProxyType(agents),
        warnings=(*nobody, *doubt),
        secrets=frozenset(reading.secrets).union(*(agent.secrets for agent in agents.values())),
    )


def _name(reading: Reading, written: str | None) -> str:
    if written is None:
        return proper_name(reading.root.name)
    if not re.fullmatch(models.NAME, written):
        reading.wrong(("mesh", "name"), f"must be made of a-z, 0-9, - and _, as in '{proper_name(written)}'")
    return written


def _state_dir(reading: Reading) -> Path:
    try:
        state_dir = state_dir_of(reading.root, reading.table("mesh").get("state_dir"), reading.environ)
    except CannotInterpolate as error:
        reading.wrong(("mesh", "state_dir"), str(error))
        return reading.root
    if state_dir.exists() and not state_dir.is_dir():
        reading.wrong(("mesh", "state_dir"), f"{state_dir} is a file, not a folder")
    return state_dir


def _advertise(
    reading: Reading, written: str | None, registry: RegistrySpec, address_towards: Callable[[str], str | None]
) -> tuple[str, tuple[str, ...]]:
    """(what others are told, what is doubtful about it)"""
    told = reading.environ.get("MESHSUP_ADVERTISE", "") or written
    if told or registry.url is None:
        return told or "127.0.0.1", ()
    name = socket.gethostname()
    if reading.alone is None:
        return name, ()
    if seen := address_towards(registry.url):
        return seen, ()
    return name, (
        f"{registry.host}, where the registry is, has no address here (yet): until it has, others are told to find us "
        f"at {name}, this machine's name; MESHSUP_ADVERTISE says another",
    )


def _registry(reading: Reading) -> RegistrySpec:
    named = _registry_in(reading.environ) if reading.alone is not None else None
    if named is not None:
        return named
    written = reading.table("registry")
    port = reading.port_in(written.get("port")) or _free_for_registry(reading)
    table, broken = reading.read(
        models.Registry, written, ("registry",), lambda name: str(port) if name == "port" else reading.variable(name)
    )
    for key, text in _registry_mistakes(table, broken):
        reading.wrong(("registry", key), text)
    if table.kind == "external":
        url = (table.url or "").rstrip("/")
        return RegistrySpec("external", _port_of(url), True, (), url)
    if reading.alone is not None:
        return RegistrySpec("none", port)
    command = tuple(table.command or ())
    # A program of somebody else's has its port from its own words: it cannot move on to the next free one.
    return RegistrySpec(table.kind, port, bool(table.port or command), command)


def _free_for_registry(reading: Reading) -> int:
    taken = {address.port for address in reading.addresses.values()}
    return next(port for port in count(FIRST_REGISTRY_PORT) if port not in taken)


def _watch(reading: Reading, mode: Mode, enabled: bool | None, debounce: float | None) -> WatchSpec:
    table, _ = reading.read(models.Watch, reading.table("watch"), ("watch",), reading.variable)
    reading.check_patterns(table.ignore, ("watch", "ignore"))
    roots = []
    for index, text in enumerate(table.roots):
        try:
            roots.append(folder(reading.root, text))
        except NotUsable as error:
            reading.wrong(("watch", "roots", index), str(error))
    return WatchSpec(
        enabled=given(enabled, given(table.enabled, mode is Mode.DEV)),
        debounce=given(debounce, given(table.debounce, 0.05 if mode is Mode.DEV else 1.0)),
        ignore=tuple(table.ignore),
        roots=tuple(roots),
    )


def _logs(reading: Reading, mode: Mode) -> LogSpec:
    table, _ = reading.read(models.Logs, reading.table("logs"), ("logs",), reading.variable)
    return LogSpec(given(table.files, mode is Mode.DEV), table.max_size, table.keep)


# ---- agents beside each other --------------------------------------------------------------------------------------


def _check_ports(reading: Reading, agents: Mapping[str, AgentSpec]) -> None:
    registry = reading.port_in(reading.table("registry").get("port"))
    owners = {registry: "registry.port"} if registry else {}
    for name, agent in agents.items():
        if not agent.port:
            continue
        if agent.port in owners:
            text = f"{agent.port} is already {owners[agent.port]}; give one of them another port"
            reading.wrong(("agents", name, "port"), text)
        owners.setdefault(agent.port, f"agents.{name}.port")


def _check_cycles(reading: Reading, agents: Mapping[str, AgentSpec]) -> None:
    """Each cycle once, at its first agent in the file."""
    first = {name: {wanted.agent for wanted in agent.depends_on} for name, agent in agents.items()}
    while cycle := _cycle(first):
        at = min(range(len(cycle)), key=lambda index: list(first).index(cycle[index]))
        cycle = (*cycle[at:], *cycle[:at])
        reading.wrong(("agents", cycle[0], "depends_on"), _cycle_sentence(cycle))
        first[cycle[-1]].remove(cycle[0])


def _cycle(first: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Agents that wait for each other, each for the one behind it; () when there are none."""
    try:
        TopologicalSorter(first).prepare()
    except CycleError as error:
        return tuple(reversed(error.args[1][1:]))
    return ()


def _cycle_sentence(cycle: tuple[str, ...]) -> str:
    if len(cycle) == 1:
        return f"{cycle[0]} waits for itself; remove it here"
    return f"these wait for each other: {' → '.join((*cycle, cycle[0]))}; remove one of them here"


def _registry_mistakes(table: models.Registry, broken: Collection[str]) -> Iterator[tuple[str, str]]:
    if table.store is not None and table.store != "sqlite":
        kind = "is not available in this version" if table.store.startswith("postgres") else "is not known"
        yield "store", f'this store {kind}; write "sqlite", or leave it out'
    if table.kind == "command" and table.command is None and "command" not in broken:
        yield "kind", 'is "command"; write command = ["…"] with it'
    if table.kind == "external" and table.url is None and "url" not in broken:
        yield "kind", 'is "external"; write url = "http://…" with it'
    if table.kind != "command" and table.command is not None and "kind" not in broken:
        yield "command", f'goes with kind = "command"; kind is "{table.kind}"'
    if table.kind != "external" and table.url is not None and "kind" not in broken:
        yield "url", f'goes with kind = "external"; kind is "{table.kind}"'
    if table.kind == "external" and table.port is not None:
        yield "port", "stands in url when the registry is external"
    if table.url is not None and not _port_of(table.url):
        yield "url", 'must be a URL such as "http://registry.internal:8000"'


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _port_of(url: str) -> int:
    """The port in ``url``, else its scheme's; 0 when it is no http URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return 0
    return port or (443 if parts.scheme == "https" else 80)


if __name__ == "__main__":
    print(reference(), end="")
