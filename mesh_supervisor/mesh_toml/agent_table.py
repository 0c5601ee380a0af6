"""One agent's table → its spec: what the models cannot check, because it needs the disk or the other agents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from mesh_supervisor.errors import suggestion
from mesh_supervisor.mesh_toml import models
from mesh_supervisor.mesh_toml.interpolation import CannotInterpolate
from mesh_supervisor.mesh_toml.programs import NotUsable, folder, interpreter, module, script, search_path_of
from mesh_supervisor.mesh_toml.reading import PROBE_KEYS, Reading, given
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
    Mode,
    NotifyProbe,
    Probe,
    ReadyCheck,
    Register,
    Restart,
    StopRule,
    TcpProbe,
)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the mesh gives to every agent. ``env_files``: also one that does not exist yet."""

    mode: Mode
    environment: Mapping[str, str]
    env_files: tuple[Path, ...]


@dataclass(slots=True)
class AgentTable:
    """One agent's table."""

    reading: Reading
    shared: Shared
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
            trace=table.trace,
            order=table.order,
            drain=table.drain,
            runtime=table.runtime,
            warm=self._warm(table),
            listen=self._listen(table),
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
        return self.reading.variable(name)

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
            other = "the number of another port" if probes.tcp else "a whole URL"
            self.wrong(key, f"needs the agent's port; give it one, or write {other}", given[0])
        return next(_probes(probes), None)

    def _warm(self, table: models.Agent) -> Literal["auto", "fork", "spare", False]:
        if table.warm in ("fork", "spare") and not table.runtime:
            self.wrong("warm", "needs the runtime; take out runtime = false")
        return table.warm

    def _listen(self, table: models.Agent) -> Literal["fd"] | None:
        if table.listen is not None and self._has_no_port(table):
            self.wrong("listen", "needs the agent's port: that is what is listened on; give it one")
        return table.listen

    def _backoff(self, table: models.Agent) -> Backoff:
        written = table.backoff
        if written.max < written.initial:
            self.wrong("backoff", f"must be at least initial ({written.initial:g})", "max")
        return Backoff(written.initial, written.factor, written.max, written.reset_after)

    def _stop(self, table: models.Agent) -> StopRule:
        default = 5.0 if self.shared.mode is Mode.DEV else 10.0
        return StopRule(models.SIGNALS[table.stop.signal], given(table.stop.timeout, default))


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
