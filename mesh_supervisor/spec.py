"""PURE. What a mesh.toml says, as frozen values: made by config.py, read by everybody else.

Apart from config.py so that only the commands that read mesh.toml pay for pydantic. Times are in seconds, sizes in
bytes, all paths absolute. Defaults that depend on the mode are already decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from signal import Signals
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

EMPTY: Mapping[str, str] = MappingProxyType({})


class Mode(StrEnum):
    DEV = "dev"
    PROD = "prod"


# ---- what to run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Script:
    """A Python file, run by the agent's interpreter."""

    path: Path


@dataclass(frozen=True, slots=True)
class Module:
    """What ``python -m NAME`` would run."""

    name: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The program's own words; they are relative to ``AgentSpec.directory``, never rewritten by us."""

    argv: tuple[str, ...]


Command = Script | Module | CommandLine


# ---- probes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """GET; 200-399 is a yes. ``target`` is a path ("/health", on the agent's host and port) or a whole URL."""

    target: str


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """A connect. ``port`` None: the agent's own."""

    port: int | None


@dataclass(frozen=True, slots=True)
class ExecProbe:
    """A command line in the agent's directory and environment; exit code 0 is a yes."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogProbe:
    """A line of output that ``re.search`` finds this in."""

    pattern: str


@dataclass(frozen=True, slots=True)
class NotifyProbe:
    """sd_notify: READY=1 on $NOTIFY_SOCKET, from any process of the instance."""


Probe = HttpProbe | TcpProbe | ExecProbe | LogProbe | NotifyProbe


@dataclass(frozen=True, slots=True)
class ReadyCheck:
    """``probe`` None: the default (with a port, a listener of the instance's own tree; without, alive for 1 s)."""

    probe: Probe | None = None
    interval: float = 1.0
    timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """Not live after ``failures`` in a row. With NotifyProbe ``interval`` is WATCHDOG_USEC."""

    probe: Probe
    interval: float = 10.0
    timeout: float = 1.0
    failures: int = 3


# ---- policies ----------------------------------------------------------------------------------------------------


class Restart(StrEnum):
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Backoff:
    initial: float = 0.5
    factor: float = 2.0
    max: float = 30.0
    reset_after: float = 30.0


@dataclass(frozen=True, slots=True)
class CrashLoop:
    crashes: int = 5
    window: float = 60.0


@dataclass(frozen=True, slots=True)
class StopRule:
    signal: Signals = Signals.SIGTERM
    timeout: float = 10.0


class Condition(StrEnum):
    STARTED = "started"
    READY = "ready"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Dependency:
    """``restart``: start this agent again whenever ``agent`` was."""

    agent: str
    condition: Condition = Condition.READY
    restart: bool = False


class Kind(StrEnum):
    SERVICE = "service"
    TASK = "task"


class Register(StrEnum):
    """Who announces the agent. ``AUTO`` is decided when its imports are known."""

    AUTO = "auto"
    SELF = "self"
    SUPERVISOR = "supervisor"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Capability:
    name: str
    version: str = "1.0.0"
    tags: tuple[str, ...] = ()
    description: str = ""


# ---- the whole ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent. ``environment`` holds only what mesh.toml and its env files say (agent env over agent env_file over
    mesh env over mesh env_file), interpolated; the shell's and ours are added when it is spawned (environment.py).
    ``env_files`` are the files that were read for it: inputs of the agent. ``secrets``: the values never to be shown.
    """

    name: str
    command: Command
    directory: Path
    args: tuple[str, ...] = ()
    python: Path | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=lambda: EMPTY, repr=False)
    env_files: tuple[Path, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    register: Register = Register.AUTO
    depends_on: tuple[Dependency, ...] = ()
    ready: ReadyCheck = ReadyCheck()
    start_timeout: float = 600.0
    live: LiveCheck | None = None
    watch: tuple[str, ...] | Literal[False] = ()
    trace: Literal["auto", "imports", False] = "auto"
    order: Literal["auto", "start-first", "stop-first"] = "auto"
    drain: float = 60.0
    runtime: bool = True
    warm: Literal["auto", "fork", "spare", False] = "auto"
    listen: Literal["fd"] | None = None
    restart: Restart = Restart.ALWAYS
    backoff: Backoff = Backoff()
    crashloop: CrashLoop = CrashLoop()
    essential: bool = False
    stop: StopRule = StopRule()
    kind: Kind = Kind.SERVICE
    profiles: tuple[str, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RegistrySpec:
    """``port`` is the one to listen on (embedded) or in ``url``; ``strict``: it was given, do not look for another.

    ``command`` for kind "command"; ``url`` for "external" (None otherwise: http://127.0.0.1:port). "none": of an agent
    by itself (MeshSpec.alone) that nobody told where the registry is."""

    kind: Literal["embedded", "command", "external", "none"] = "embedded"
    port: int = 8000
    strict: bool = False
    command: tuple[str, ...] = ()
    url: str | None = None

    @property
    def host(self) -> str:
        """Where it is, seen from here; "" for what is no URL."""
        if self.url is None:
            return "127.0.0.1"
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""


def is_loopback(host: str) -> bool:
    """Whether it means this machine, whoever says it."""
    return host in ("localhost", "::1") or host.startswith("127.")


@dataclass(frozen=True, slots=True)
class WatchSpec:
    enabled: bool = True
    debounce: float = 0.05
    ignore: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class LogSpec:
    files: bool = True
    max_size: int = 10 * 1024 * 1024
    keep: int = 3


@dataclass(frozen=True, slots=True)
class MeshSpec:
    """All that one mesh.toml describes. ``mode_reason`` says in words why the mode is what it is. ``alone``: the only
    agent, which is supervised by itself (single.py)."""

    name: str
    file: Path
    root: Path
    state_dir: Path
    mode: Mode = Mode.DEV
    mode_reason: str = "the default"
    advertise: str = "127.0.0.1"
    parallel_starts: int = 2
    stop_timeout: float = 30.0
    registry: RegistrySpec = RegistrySpec()
    watch: WatchSpec = WatchSpec()
    logs: LogSpec = LogSpec()
    agents: Mapping[str, AgentSpec] = field(default_factory=lambda: MappingProxyType[str, AgentSpec]({}))
    alone: str | None = None
    warnings: tuple[str, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def keeps_warm(self) -> bool:
        """Whether a warm process is worth its memory: an agent by itself that nothing reloads is started once."""
        return self.alone is None or self.watch.enabled
