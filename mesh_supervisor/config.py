"""mesh.toml → frozen values (spec.py), or all its mistakes at once.

The way of a value: TOML → merged with ``[defaults]`` → ``${…}`` replaced → its type checked (models.py) → compared
with the disk and with the other agents → spec. A key that is wrong is reported and left out, so that it hides nothing.
"""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pathspec import GitIgnoreSpec
from pydantic import ValidationError

from mesh_supervisor import models
from mesh_supervisor.difference import Difference, differences, hide
from mesh_supervisor.env_file import UnusableEnvFile, read_env_file
from mesh_supervisor.errors import ConfigError, suggestion
from mesh_supervisor.interpolation import CannotInterpolate, expand
from mesh_supervisor.locate import absolute, state_dir_of
from mesh_supervisor.mistakes import Mistake, described, from_pydantic, printed, unknown_key
from mesh_supervisor.mistakes import Path as KeyPath
from mesh_supervisor.programs import NotUsable, folder, interpreter, module, script, search_path_of
from mesh_supervisor.spec import (
    AgentSpec,
    Backoff,
    Capability,
    Command,
    CommandLine,
    Condition,
    CrashLoop,
    Dependency,
    ExecProbe,
    HttpProbe,
    Kind,
    LiveCheck,
    LogProbe,
    LogSpec,
    MeshSpec,
    Mode,
    NotifyProbe,
    Probe,
    ReadyCheck,
    Register,
    RegistrySpec,
    Restart,
    StopRule,
    TcpProbe,
    WatchSpec,
)
from mesh_supervisor.toml_lines import key_lines

__all__ = ["Difference", "choose_mode", "differences", "hide", "json_schema", "load", "reference"]

RESERVED_NAMES = ("meshsup", "registry")
LONGEST_NAME = 63
FIRST_REGISTRY_PORT = 8000
TABLES = ("mesh", "registry", "watch", "logs", "defaults", "agents")
NOT_IN_DEFAULTS = ("command", "module", "port", "capabilities")
PROBE_KEYS = ("http", "tcp", "exec", "log", "notify")

KeptPort = Callable[[str, Collection[int]], int]
"""(agent with ``port = 0``, ports it must not get) -> the port chosen for it; 0 when none is chosen yet."""

TableT = TypeVar("TableT", bound=models.Table)


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
) -> MeshSpec:
    """The mesh that ``file`` describes. ``mode`` as `choose_mode` chose it; None: what the file says, else dev.
    ``watch`` and ``debounce`` are the command line's and win. ``pid_one``: meshsup is, so it is alone in a container.

    Raises ConfigError with a sentence for each mistake that there is.
    """
    text = _text_of(file)
    reading = _Reading(file, file.parent, _tables_of(text, file.name), environ, kept_port, pid_one)
    chosen = (mode, mode_reason) if mode is not None else None
    spec = reading.mesh(chosen, watch, debounce)
    if reading.mistakes:
        raise ConfigError(printed(file.name, reading.mistakes, key_lines(text)))
    return spec


def choose_mode(
    flag: Mode | None,
    environ: Mapping[str, str],
    file_mode: str | None,
    *,
    pid_one: bool,
    parent_is_pid_one: bool,
    stdout_is_tty: bool,
) -> tuple[Mode, str]:
    """The mode and, in words, why. ``file_mode``: `locate.mode_in`. Raises ConfigError for a MESHSUP_MODE that is none.

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
        return Mode(file_mode), "mesh.mode"
    if pid_one:
        return Mode.PROD, "meshsup is PID 1"
    if parent_is_pid_one and not stdout_is_tty:
        return Mode.PROD, "its parent is PID 1 and stdout is no terminal"
    return Mode.DEV, "the default"


def json_schema() -> dict[str, Any]:
    """JSON Schema of mesh.toml, for editors (``#:schema``)."""
    from mesh_supervisor import reference as pages  # only `meshsup schema` and the documentation need it

    return pages.json_schema()


def reference() -> str:
    """docs/configuration.md."""
    from mesh_supervisor import reference as pages

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


def _syntax_sentence(told: str) -> str:
    """tomllib: ``Cannot declare ('agents', 'a') twice (at line 3, column 9)`` → ``agents.a is declared twice (line 3)``."""
    found = re.fullmatch(r"(?P<what>.*) \(at (?P<where>line \d+, column \d+|end of document)\)", told, re.DOTALL)
    what, where = (found["what"], found["where"]) if found else (told, "somewhere")
    twice = re.fullmatch(r"Cannot declare \((?P<key>.*?),?\) twice", what)
    if twice:
        what = ".".join(re.findall(r"'([^']*)'", twice["key"])) + " is declared twice; keep one"
    elif what == "Cannot overwrite a value":
        what = "this key is written twice; keep one"
    elif what == "Invalid value":
        what = "not a value: a string needs quotes, truth values are true and false"
    elif what == "Unescaped '\\' in a string":
        what = "a backslash in a string is written twice, or put the string in 'single quotes'"
    return f"not TOML: {what[:1].lower()}{what[1:]} ({where})"


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Address:
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
class _Reading:
    """One reading of one file: what was found so far, and what is wrong."""

    file: Path
    root: Path
    raw: dict[str, Any]
    environ: Mapping[str, str]
    kept_port: KeptPort
    pid_one: bool
    mistakes: list[Mistake] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    variables: Mapping[str, str] = MappingProxyType({})
    merged: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, _Address] = field(default_factory=dict)

    def wrong(self, path: KeyPath, text: str) -> None:
        self.mistakes.append(Mistake(self._origin(path), hide(text, self.secrets)))

    def mesh(self, chosen: tuple[Mode, str] | None, watch: bool | None, debounce: float | None) -> MeshSpec:
        self._check_tables()
        mesh_file, mesh_file_env = self._mesh_env_file()
        self.variables = {**self.environ, **mesh_file_env}
        self.merged = {name: self._with_defaults(name, table) for name, table in self._agent_tables().items()}
        self.addresses = self._addresses()
        mesh, _ = self.read(models.Mesh, self._table("mesh"), ("mesh",), self._variable)
        mode, reason = chosen or ((Mode(mesh.mode), "mesh.mode") if mesh.mode else (Mode.DEV, "the default"))
        shared = _Shared(mode, {**mesh_file_env, **mesh.env}, (mesh_file,) if mesh_file else ())
        agents = {name: _AgentReading(self, shared, name).spec() for name in self.merged}
        _check_together(self, agents)
        registry = self._registry()
        return MeshSpec(
            name=self._name(mesh.name),
            file=self.file,
            root=self.root,
            state_dir=self._state_dir(),
            mode=mode,
            mode_reason=reason,
            advertise=self._advertise(mesh.advertise, registry),
            parallel_starts=mesh.parallel_starts or _cores(),
            stop_timeout=_given(mesh.stop_timeout, 8.0 if self.pid_one else 30.0),
            registry=registry,
            watch=self._watch(mode, watch, debounce),
            logs=self._logs(mode),
            agents=MappingProxyType(agents),
            warnings=() if agents else (f"{self.file.name} has no agents; write [agents.NAME] with a command",),
            secrets=frozenset(self.secrets).union(*(agent.secrets for agent in agents.values())),
        )

    def read(
        self, model: type[TableT], table: Mapping[str, Any], path: KeyPath, lookup: Callable[[str], str | None]
    ) -> tuple[TableT, frozenset[str]]:
        """The table with its ``${…}`` replaced and checked; and the keys that are wrong, which have their defaults."""
        expanded = {key: self._expanded(value, (*path, key), lookup) for key, value in table.items()}
        sound = {key: value for key, value in expanded.items() if value is not _UNREADABLE}
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
        for key in self._table("defaults"):
            if key in NOT_IN_DEFAULTS:
                self.wrong(("defaults", key), "belongs to one agent; write it in [agents.NAME]")
            elif key not in models.keys_of(models.Defaults):
                self.wrong(("defaults", key), unknown_key(("defaults", key), models.keys_of(models.Defaults)))

    def _unknown_table(self, key: str, value: object) -> str:
        if isinstance(value, dict) and ("command" in value or "module" in value):
            return f"is no key here; an agent's table is [agents.{key}]"
        return unknown_key((key,), TABLES)

    def _table(self, name: str) -> dict[str, Any]:
        table = self.raw.get(name, {})
        return table if isinstance(table, dict) else {}

    def _agent_tables(self) -> dict[str, dict[str, Any]]:
        return {name: table for name, table in self._table("agents").items() if self._is_agent(name, table)}

    def _is_agent(self, name: str, table: object) -> bool:
        path = ("agents", name)
        if not isinstance(table, dict):
            self.wrong(path, f"must be a table, [agents.{name}], not {described(table)}")
            return False
        if name in RESERVED_NAMES:
            self.wrong(path, f"'{name}' is a reserved name; call the agent something else")
        elif not re.fullmatch(models.NAME, name):
            self.wrong(path, f"an agent's name is made of a-z, 0-9, - and _, as in '{_proper_name(name)}'")
        elif len(name) > LONGEST_NAME:
            self.wrong(path, f"an agent's name has at most {LONGEST_NAME} characters")
        return True

    def _with_defaults(self, name: str, table: dict[str, Any]) -> dict[str, Any]:
        known = models.keys_of(models.Defaults)
        defaults = {key: value for key, value in self._table("defaults").items() if key in known}
        return _merged(_without_itself(defaults, name), table)

    def _origin(self, path: KeyPath) -> KeyPath:
        """A mistake in what came from [defaults] is one mistake there, not one in each agent."""
        inside = path[2:]
        if path[:1] != ("agents",) or not inside or _has(self._table("agents").get(path[1]), inside):
            return path
        return ("defaults", *inside) if _has(self._table("defaults"), inside) else path

    # ---- interpolation ---------------------------------------------------------------------------------------------

    def _expanded(self, value: Any, path: KeyPath, lookup: Callable[[str], str | None]) -> Any:
        """``value`` with all strings in it expanded; _UNREADABLE when one of them cannot be."""
        if isinstance(value, dict):
            whole = {key: self._expanded(item, (*path, key), lookup) for key, item in value.items()}
            return _UNREADABLE if _UNREADABLE in whole.values() else whole
        if isinstance(value, list):
            items = [self._expanded(item, (*path, index), lookup) for index, item in enumerate(value)]
            return _UNREADABLE if _UNREADABLE in items else items
        return self._expanded_text(value, path, lookup) if isinstance(value, str) else value

    def _expanded_text(self, text: str, path: KeyPath, lookup: Callable[[str], str | None]) -> Any:
        try:
            expanded = expand(text, lookup)
        except CannotInterpolate as error:
            self.wrong(path, str(error))
            return _UNREADABLE
        if "\0" in expanded:
            self.wrong(path, "has a NUL character, which no program can be given")
            return _UNREADABLE
        return expanded

    def _variable(self, name: str) -> str | None:
        """A name in a table of no agent."""
        if name == "port":
            raise CannotInterpolate("${port} is known only in [agents.NAME] and [defaults]")
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
        url = self.addresses[agent].url
        if url is None:
            raise CannotInterpolate(f"${{agents.{agent}.url}}: {agent} has no port; give it one")
        return url

    def _addresses(self) -> dict[str, _Address]:
        """Ports and hosts before all else, since the rest may speak of them. Mistakes are told when they are read."""
        written = {name: self._port(table.get("port")) for name, table in self.merged.items()}
        fixed = {port for port in written.values() if port}
        fixed |= {port for port in (self._port(self._table("registry").get("port")),) if port}
        found: dict[str, _Address] = {}
        for name, port in written.items():
            if port == 0 and re.fullmatch(models.NAME, name):
                port = self.kept_port(name, fixed)
            found[name] = _Address(self._host(self.merged[name].get("host")), port)
        return found

    def _port(self, written: object) -> int | None:
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

    # ---- the tables of the mesh ------------------------------------------------------------------------------------

    def _mesh_env_file(self) -> tuple[Path | None, dict[str, str]]:
        """The named file, else .env beside mesh.toml, which is an input also while it does not exist yet."""
        named = self._table("mesh").get("env_file")
        if isinstance(named, str) and named:
            try:
                return self.env_file(expand(named, self.environ.get), ("mesh", "env_file"))
            except CannotInterpolate:
                return None, {}  # told when the table is read
        default = self.root / ".env"
        # A folder of this name is somebody's virtual environment.
        return self.env_file(".env", ("mesh", "env_file")) if default.is_file() else (default, {})

    def _name(self, given: str | None) -> str:
        if given is None:
            return _proper_name(self.root.name)
        if not re.fullmatch(models.NAME, given):
            self.wrong(("mesh", "name"), f"is made of a-z, 0-9, - and _, as in '{_proper_name(given)}'")
        return given

    def _state_dir(self) -> Path:
        try:
            state_dir = state_dir_of(self.root, self._table("mesh").get("state_dir"), self.environ)
        except CannotInterpolate as error:
            self.wrong(("mesh", "state_dir"), str(error))
            return self.root
        if state_dir.exists() and not state_dir.is_dir():
            self.wrong(("mesh", "state_dir"), f"{state_dir} is a file, not a folder")
        return state_dir

    def _advertise(self, given: str | None, registry: RegistrySpec) -> str:
        default = socket.gethostname() if registry.kind == "external" else "127.0.0.1"
        return self.environ.get("MESHSUP_ADVERTISE", "") or given or default

    def _registry(self) -> RegistrySpec:
        table, broken = self.read(models.Registry, self._table("registry"), ("registry",), self._variable)
        for text in _registry_mistakes(table, broken):
            self.wrong(("registry", text[0]), text[1])
        taken = {address.port for address in self.addresses.values()}
        free = next(port for port in count(FIRST_REGISTRY_PORT) if port not in taken)
        if table.kind == "external":
            return RegistrySpec("external", _port_of(table.url or ""), True, (), (table.url or "").rstrip("/"))
        command = tuple(table.command or ())
        # A program of its own is told its port by us, or by its own words: it cannot move on to the next free one.
        return RegistrySpec(table.kind, table.port or free, bool(table.port or command), command)

    def _watch(self, mode: Mode, enabled: bool | None, debounce: float | None) -> WatchSpec:
        table, _ = self.read(models.Watch, self._table("watch"), ("watch",), self._variable)
        self.check_patterns(table.ignore, ("watch", "ignore"))
        roots = []
        for index, text in enumerate(table.roots):
            try:
                roots.append(folder(self.root, text))
            except NotUsable as error:
                self.wrong(("watch", "roots", index), str(error))
        return WatchSpec(
            enabled=_given(enabled, _given(table.enabled, mode is Mode.DEV)),
            debounce=_given(debounce, _given(table.debounce, 0.05 if mode is Mode.DEV else 1.0)),
            ignore=tuple(table.ignore),
            roots=tuple(roots),
        )

    def _logs(self, mode: Mode) -> LogSpec:
        table, _ = self.read(models.Logs, self._table("logs"), ("logs",), self._variable)
        return LogSpec(_given(table.files, mode is Mode.DEV), table.max_size, table.keep)

    def check_patterns(self, patterns: list[str], path: KeyPath) -> None:
        for index, pattern in enumerate(patterns):
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                self.wrong((*path, index), f'is no gitignore pattern: "{pattern}"')


# ---- agents ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the mesh gives to every agent. ``env_files``: also one that does not exist yet."""

    mode: Mode
    environment: Mapping[str, str]
    env_files: tuple[Path, ...]


@dataclass(slots=True)
class _AgentReading:
    """One agent's table."""

    reading: _Reading
    shared: _Shared
    name: str
    broken: frozenset[str] = frozenset()
    secrets: set[str] = field(default_factory=set)

    def spec(self) -> AgentSpec:
        written = self.reading.merged[self.name]
        table, self.broken = self.reading.read(models.Agent, written, ("agents", self.name), self._variable)
        address = self.reading.addresses[self.name]
        directory = self._directory(table)
        environment, env_files = self._environment(table)
        patterns = table.watch if isinstance(table.watch, list) else []
        self.reading.check_patterns(patterns, self._path("watch"))
        return AgentSpec(
            name=self.name,
            command=self._command(table, directory),
            directory=directory,
            args=tuple(table.args),
            python=self._python(table),
            port=address.port if table.port is not None else None,
            host=address.host,
            environment=MappingProxyType(environment),
            env_files=env_files,
            capabilities=self._capabilities(table),
            register=self._register(table),
            depends_on=self._dependencies(table),
            ready=self._ready(table),
            start_timeout=table.start_timeout,
            live=self._live(table),
            watch=tuple(patterns) if table.watch is not False else False,
            restart=Restart(table.restart),
            backoff=self._backoff(table),
            crashloop=CrashLoop(table.crashloop.crashes, table.crashloop.window),
            essential=table.essential,
            stop=self._stop(table),
            kind=Kind(table.type),
            profiles=tuple(table.profiles),
            secrets=frozenset(self.secrets.union(environment.values())),
        )

    def wrong(self, key: str, text: str, *inner: str | int) -> None:
        self.reading.wrong((*self._path(key), *inner), text)

    def _path(self, key: str) -> tuple[str, ...]:
        return ("agents", self.name, key)

    def _variable(self, name: str) -> str | None:
        if name == "port":
            port = self.reading.addresses[self.name].port
            if port is None:
                raise CannotInterpolate("${port} needs the agent's port; give it one")
            return str(port)
        value = self.reading.variables.get(name)
        if value and not name.startswith("agents."):
            self.secrets.add(value)
        return self.reading._variable(name)

    # ---- program ---------------------------------------------------------------------------------------------------

    def _directory(self, table: models.Agent) -> Path:
        try:
            return folder(self.reading.root, table.directory)
        except NotUsable as error:
            self.wrong("directory", str(error))
            return self.reading.root

    def _command(self, table: models.Agent, directory: Path) -> Command:
        written = self.reading.merged[self.name]
        if "command" in written and "module" in written:
            self.wrong("module", "stands beside command; an agent is one of them")
        elif "command" not in written and "module" not in written:
            self.reading.wrong(
                ("agents", self.name), 'has no command; write command = "a/script.py" or module = "a.module"'
            )
        try:
            if table.module is not None:
                return module(table.module)
            if isinstance(table.command, str):
                return script(self.reading.root, directory, table.command)
        except NotUsable as error:
            self.wrong("module" if table.module is not None else "command", str(error))
        return CommandLine(self._argv(table.command))

    def _argv(self, command: list[str] | str | None) -> tuple[str, ...]:
        argv = tuple(command) if isinstance(command, list) else ()
        if argv and not argv[0].strip():
            self.wrong("command", "its first word is empty", 0)
        return argv

    def _python(self, table: models.Agent) -> Path | None:
        if table.python is None:
            return None
        try:
            return interpreter(self.reading.root, table.python, search_path_of(self.reading.environ))
        except NotUsable as error:
            self.wrong("python", str(error))
            return None

    def _environment(self, table: models.Agent) -> tuple[dict[str, str], tuple[Path, ...]]:
        for key in table.env:
            if not key or "=" in key or "\0" in key:
                self.wrong("env", "no variable can have this name", key)
        if table.env_file is None:
            return {**self.shared.environment, **table.env}, self.shared.env_files
        file, found = self.reading.env_file(table.env_file, self._path("env_file"))
        return {**self.shared.environment, **found, **table.env}, (*self.shared.env_files, file)

    # ---- registration and order ------------------------------------------------------------------------------------

    def _register(self, table: models.Agent) -> Register:
        if table.announced == "supervisor" and self._has_no_port(table):
            self.wrong("register", "needs a port: others are told where it is; give it one")
        return Register(table.announced)

    def _has_no_port(self, table: models.Agent) -> bool:
        return table.port is None and "port" not in self.broken

    def _capabilities(self, table: models.Agent) -> tuple[Capability, ...]:
        found: dict[str, Capability] = {}
        for index, written in enumerate(table.capabilities):
            one = models.AgentCapability(name=written) if isinstance(written, str) else written
            if one.name is None:
                self.wrong("capabilities", "has no name", index)
            elif one.name in found:
                self.wrong("capabilities", f"'{one.name}' stands here twice", index)
            else:
                found[one.name] = Capability(one.name, one.version, tuple(one.tags), one.description)
        return tuple(found.values())

    def _dependencies(self, table: models.Agent) -> tuple[Dependency, ...]:
        written = table.depends_on
        tables = written if isinstance(written, dict) else dict.fromkeys(written, models.DependencyTable())
        return tuple(self._dependency(name, wanted) for name, wanted in tables.items() if self._is_known(name))

    def _is_known(self, name: str) -> bool:
        if name == "registry":
            self.wrong("depends_on", "the registry is always first; leave it out", name)
        elif name not in self.reading.merged:
            others = tuple(other for other in self.reading.merged if other != self.name)
            self.wrong("depends_on", f"no agent is called '{name}'{suggestion(name, others)}")
        return name in self.reading.merged

    def _dependency(self, name: str, wanted: models.DependencyTable) -> Dependency:
        other = self.reading.merged[name]
        is_task = other.get("type") == "task"
        condition = Condition(wanted.condition or ("completed" if is_task else "ready"))
        if condition is Condition.COMPLETED and not is_task and other.get("restart", "always") == "always":
            self.wrong("depends_on", f"{name} is a service that always runs, it never completes; make it a task", name)
        return Dependency(name, condition, wanted.restart)

    # ---- policies --------------------------------------------------------------------------------------------------

    def _ready(self, table: models.Agent) -> ReadyCheck:
        return ReadyCheck(self._probe("ready", table.ready, table), table.ready.interval, table.ready.timeout)

    def _live(self, table: models.Agent) -> LiveCheck | None:
        if table.live is None:
            return None
        probe = self._probe("live", table.live, table)
        if probe is None:
            self.wrong("live", 'says not how; write one of http, tcp, exec, notify, as in live = { http = "/livez" }')
            return None
        return LiveCheck(probe, table.live.interval, table.live.timeout, table.live.failures)

    def _probe(self, key: str, probes: models.Ready | models.Live, table: models.Agent) -> Probe | None:
        given = [kind for kind in PROBE_KEYS if getattr(probes, kind, None) is not None]
        if len(given) > 1:
            self.wrong(key, f"has {' and '.join(given)}; it can have one of them")
        on_own_port = probes.tcp is True or (probes.http or "").startswith("/")
        if on_own_port and self._has_no_port(table):
            self.wrong(key, "needs the agent's port; give it one, or name the whole address", given[0])
        return next(_probes(probes), None)

    def _backoff(self, table: models.Agent) -> Backoff:
        written = table.backoff
        if written.max < written.initial:
            self.wrong("backoff", f"must be at least initial ({written.initial:g})", "max")
        return Backoff(written.initial, written.factor, written.max, written.reset_after)

    def _stop(self, table: models.Agent) -> StopRule:
        default = 5.0 if self.shared.mode is Mode.DEV else 10.0
        return StopRule(models.SIGNALS[table.stop.signal], _given(table.stop.timeout, default))


def _probes(probes: models.Ready | models.Live) -> Iterator[Probe]:
    if probes.http is not None:
        yield HttpProbe(probes.http)
    if probes.tcp is not None:
        yield TcpProbe(None if probes.tcp is True else probes.tcp)
    if probes.exec is not None:
        yield ExecProbe(tuple(probes.exec))
    if isinstance(probes, models.Ready) and probes.log is not None:
        yield LogProbe(probes.log)
    if probes.notify is not None:
        yield NotifyProbe()


# ---- agents beside each other ------------------------------------------------------------------------------------


def _check_together(reading: _Reading, agents: Mapping[str, AgentSpec]) -> None:
    _check_ports(reading, agents)
    _check_cycles(reading, agents)


def _check_ports(reading: _Reading, agents: Mapping[str, AgentSpec]) -> None:
    registry = reading._port(reading._table("registry").get("port"))
    owners = {registry: "registry.port"} if registry else {}
    for name, agent in agents.items():
        if not agent.port:
            continue
        if agent.port in owners:
            text = f"{agent.port} is already {owners[agent.port]}; give one of them another port"
            reading.wrong(("agents", name, "port"), text)
        owners.setdefault(agent.port, f"agents.{name}.port")


def _check_cycles(reading: _Reading, agents: Mapping[str, AgentSpec]) -> None:
    """Each cycle once, at its first agent in the file."""
    after = {name: tuple(wanted.agent for wanted in agent.depends_on) for name, agent in agents.items()}
    done: set[str] = set()
    for name in after:
        for cycle in _cycles(name, after, (), done):
            reading.wrong(("agents", cycle[0], "depends_on"), _cycle_sentence(cycle))


def _cycles(
    name: str, after: Mapping[str, tuple[str, ...]], trail: tuple[str, ...], done: set[str]
) -> Iterator[tuple[str, ...]]:
    if name in trail:
        yield trail[trail.index(name) :]
    elif name not in done:
        for other in after[name]:
            yield from _cycles(other, after, (*trail, name), done)
        done.add(name)


def _cycle_sentence(cycle: tuple[str, ...]) -> str:
    if len(cycle) == 1:
        return f"{cycle[0]} waits for itself; remove it here"
    return f"waits for itself: {' → '.join((*cycle, cycle[0]))}; remove one of these"


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


# ---- small things ------------------------------------------------------------------------------------------------

_UNREADABLE = object()

ValueT = TypeVar("ValueT")


def _given(value: ValueT | None, default: ValueT) -> ValueT:
    """Unlike ``or``: 0 and false are given."""
    return default if value is None else value


def _cores() -> int:
    import os

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


def _proper_name(text: str) -> str:
    """``My Agents!`` → ``my-agents``"""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:LONGEST_NAME] or "mesh"


def _has(table: Any, path: KeyPath) -> bool:
    for part in path:
        if (isinstance(table, dict) and part in table) or (isinstance(table, list) and isinstance(part, int) and part < len(table)):
            table = table[part]
        else:
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


if __name__ == "__main__":
    print(reference(), end="")
