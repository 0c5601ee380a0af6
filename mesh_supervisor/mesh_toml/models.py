"""The shape of mesh.toml as pydantic models: types, limits, and what the reference says about each key.

Only config.py and reference.py read them; everybody else gets the frozen values of spec.py. Nothing here looks at the
disk or at other tables. Every key has a default, so that one mistake does not hide the others: config.py drops what
is wrong and validates the rest.
"""

from __future__ import annotations

import re
from signal import Signals
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mesh_supervisor.mesh_toml.interpolation import Interpolated
from mesh_supervisor.spec import Backoff, CrashLoop

NAME = r"[a-z0-9][a-z0-9_-]*"
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGABRT", "SIGWINCH", "SIGKILL")

SHAPE_TAG = "="
"""First character of the tags that tell the members of a union apart; they are no part of a key's path."""

LATER_AGENT_KEYS = ("hooks", "restart_above")

_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "KIB": 2**10, "MB": 10**6, "MIB": 2**20, "GB": 10**9, "GIB": 2**30}


def said(sentence: str) -> PydanticCustomError:
    """A mistake in our own words: the rest of a sentence whose subject is the key."""
    return PydanticCustomError("said", "{sentence}", {"sentence": sentence})


# ---- values ------------------------------------------------------------------------------------------------------


def _number(value: object) -> object:
    """An environment variable is text, so ``"${PORT}"`` may stand for a number; a plain "8101" may not."""
    if not isinstance(value, Interpolated):
        return value
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return value


def _seconds(value: object) -> object:
    value = _number(value)
    if isinstance(value, str) and not isinstance(value, Interpolated):
        raise said(f'must be a number of seconds, such as 30, without quotes; not "{value}"')
    return value


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, Interpolated) else value


def _size(value: object) -> object:
    value = _number(value)
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", value.strip())
    unit = _SIZE_UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise said('must be a number of bytes or a size such as "10MiB"')
    return int(found[1]) * unit


def _variable(value: object) -> object:
    if isinstance(value, bool):
        raise said(f'must be a string: write "{str(value).lower()}", with quotes')
    if isinstance(value, float):
        raise said(f'must be a string: write "{value}", with quotes')
    return str(value) if isinstance(value, int) else value


def _names(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if not name or "=" in name or "\0" in name:
            raise said(f'no variable can be called "{name}"')
    return variables


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError) as error:
        raise said(f"is no regular expression: {error}") from error
    except RecursionError:
        raise said("is no regular expression: it is nested too deeply") from None
    return value


def _http_target(value: str) -> str:
    if not value.startswith(("/", "http://", "https://")):
        raise said('must be a path on the agent, such as "/health", or a whole URL')
    return value


def _host(value: str) -> str:
    if "/" in value or re.search(r"\s", value) or re.fullmatch(r"[^:]*:\d+", value):
        raise said('must be a host name or an address alone, such as "127.0.0.1"')
    return value


def _shape(value: object) -> str | None:
    """Which member of a union is meant, by the TOML type alone, so that messages speak of one member only."""
    if isinstance(value, Interpolated):
        return SHAPE_TAG + ("number" if value.isdigit() else "text")
    # bool first: it is an int too.
    kinds = ((bool, "flag"), (int, "number"), (str, "text"), (list, "list"), (dict, "table"))
    return next((SHAPE_TAG + name for kind, name in kinds if isinstance(value, kind)), None)


def _either(sentence: str) -> Any:
    return Discriminator(_shape, custom_error_type="said", custom_error_message=sentence)


TextTag, ListTag, TableTag = Tag("=text"), Tag("=list"), Tag("=table")
FlagTag, NumberTag = Tag("=flag"), Tag("=number")

Text = Annotated[str, StringConstraints(min_length=1)]
Host = Annotated[Text, BeforeValidator(lambda value: _host(value) if isinstance(value, str) else value)]
Words = Annotated[list[str], Field(min_length=1)]
Flag = Annotated[bool, BeforeValidator(_flag)]
# Bounds far above all sense: what is beyond them could not be counted in microseconds, multiplied, or renamed in turn.
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=1e9, allow_inf_nan=False)]
SomeSeconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=1e9, allow_inf_nan=False)]
Factor = Annotated[float, BeforeValidator(_number), Field(ge=1, le=1000, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=0, le=1000)]
AtLeastOne = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Port = Annotated[int, BeforeValidator(_number), Field(ge=0, le=65535)]
FixedPort = Annotated[int, BeforeValidator(_number), Field(ge=1, le=65535)]
Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=1024),
    WithJsonSchema({"type": ["integer", "string"], "pattern": r"^\d+\s*([kKmMgG]?[iI]?[bB])?$|\$\{"}),
]
Variable = Annotated[str, BeforeValidator(_variable), WithJsonSchema({"type": ["string", "integer"]})]
Environment = Annotated[dict[str, Variable], AfterValidator(_names)]


def key(
    type_: str, meaning: str, default: Any = None, *, shown: str = "", prod: str = "", alias: str | None = None
) -> Any:
    """A key with its line of the reference. ``shown``: the default in words, where the value does not say it; ``prod``:
    the default of prod mode, where it is another one."""
    extra: dict[str, Any] = {"x-type": type_, "x-shown": shown, "x-prod": prod}
    return Field(default=default, description=meaning, json_schema_extra=extra, alias=alias)


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# ---- tables ------------------------------------------------------------------------------------------------------


class Mesh(Table):
    name: Text | None = key("name", "The mesh's name.", shown="the folder's name")
    mode: Literal["dev", "prod"] | None = key(
        "`dev` or `prod`",
        "Changes defaults only. `--prod` and `MESHSUP_MODE` win over it.",
        shown="`dev`; `prod` in a container",
    )
    state_dir: Text | None = key(
        "path",
        "Control socket, logs, events, the registry's store, what outlives a run. `${…}`: the shell's variables only. "
        "Each mesh has a folder of its own below `MESHSUP_STATE_HOME`, where that is set.",
        shown="`.mesh`",
    )
    env: Environment = key("table of strings", "Environment of every agent.", {})
    env_file: Text | None = key(
        "path", "A .env file, for every agent and for `${VAR}`. A named file must exist.", shown="`.env` if it exists"
    )
    advertise: Host | None = key(
        "host",
        "The host that others are told. `MESHSUP_ADVERTISE` wins over it.",
        shown="`127.0.0.1`; this machine's name with an external registry; the address that it sees in `meshsup run`",
    )
    parallel_starts: AtLeastOne | None = key("number", "How many agents start at once.", shown="the number of cores")
    stop_timeout: Seconds | None = key(
        "seconds", "How long stopping the whole mesh may take.", shown="30; 8 in a container"
    )


class Registry(Table):
    kind: Literal["embedded", "command", "external"] = key(
        "`embedded`, `command` or `external`",
        "Ours; a program that speaks the same API; or one that runs elsewhere.",
        "embedded",
    )
    port: FixedPort | None = key(
        "port", "Where it listens. A given port is taken or it is an error.", shown="8000 or the next free one"
    )
    store: Text | None = key("`sqlite`", "Where its records are kept: a file in state_dir.", shown="`sqlite`")
    command: Words | None = key("list of strings", '`kind = "command"`: the program, with its arguments.')
    url: Text | None = key("URL", '`kind = "external"`: where it is. Nothing is started.')


class Watch(Table):
    enabled: Flag | None = key(
        "true or false",
        "Whether a save reloads. `--watch` and `--no-watch` win over it.",
        shown="`true`",
        prod="`false`",
    )
    debounce: Seconds | None = key(
        "seconds",
        "Quiet time before a batch of saves is acted on (at most 1 s after the first, unless this is longer). "
        "`--debounce` wins over it.",
        shown="0.05",
        prod="1",
    )
    ignore: list[Text] = key("list of gitignore patterns", "Files that are never inputs, beside `.meshwatch`.", [])
    roots: list[Text] = key("list of paths", "More folders whose files may be inputs.", [])


class Logs(Table):
    files: Flag | None = key(
        "true or false", "Whether logs are written to state_dir/logs.", shown="`true`", prod="`false`"
    )
    max_size: Size = key(
        'bytes, or a size like `"10MiB"`', "A log file is rotated at this size.", 10 * 2**20, shown="`10MiB`"
    )
    keep: Count = key("number", "How many rotated files are kept of each.", 3)


class AgentCapability(Table):
    name: Text | None = key("string", "What others look for. Required.")
    version: Text = key("string", "Its version.", "1.0.0")
    tags: list[Text] = key("list of strings", "Its tags.", [])
    description: str = key("string", "One line for people.", "")


class DependencyTable(Table):
    condition: Literal["started", "ready", "completed"] | None = key(
        "`started`, `ready` or `completed`", "What is waited for.", shown="`ready`; of a task `completed`"
    )
    restart: Flag = key("true or false", "Start this agent again whenever that one was.", False)


class Probes(Table):
    http: (
        Annotated[str, BeforeValidator(lambda value: _http_target(value) if isinstance(value, str) else value)] | None
    ) = key("path or URL", "GET answers with 200 to 399.")
    tcp: (
        Annotated[
            Annotated[Literal[True], FlagTag] | Annotated[FixedPort, NumberTag],
            _either("must be true (the agent's own port) or a port number"),
        ]
        | None
    ) = key("`true` or a port", "A connection is accepted; `true`: on the agent's own port.")
    exec: Words | None = key("list of strings", "A command line, in the agent's folder and environment, exits with 0.")
    notify: Literal[True] | None = key("`true`", "sd_notify: `READY=1`; as liveness `WATCHDOG=1` within `interval`.")
    timeout: SomeSeconds = key("seconds", "Of one probe.", 1.0)


class Ready(Probes):
    log: Annotated[str, BeforeValidator(lambda value: _pattern(value) if isinstance(value, str) else value)] | None = (
        key("regular expression", "A line of output in which it is found.")
    )
    interval: SomeSeconds = key("seconds", "Between two probes.", 1.0)


class Live(Probes):
    interval: SomeSeconds = key("seconds", "Between two probes.", 10.0)
    failures: AtLeastOne = key("number", "So many in a row, and the agent is restarted.", 3)


class BackoffTable(Table):
    initial: SomeSeconds = key("seconds", "Wait before the second restart (the first is at once).", Backoff().initial)
    factor: Factor = key("number", "Each wait is so many times the one before.", Backoff().factor)
    max: SomeSeconds = key("seconds", "The longest wait.", Backoff().max)
    reset_after: Seconds = key("seconds", "Ready for so long, and all crashes are forgotten.", Backoff().reset_after)


class CrashLoopTable(Table):
    crashes: AtLeastOne = key("number", "So many crashes …", CrashLoop().crashes)
    window: SomeSeconds = key("seconds", "… in this time are a crash loop.", CrashLoop().window)


class Stop(Table):
    signal: Literal[STOP_SIGNALS] = key("signal", "What asks it to end.", "SIGTERM")  # type: ignore[valid-type]
    timeout: Seconds | None = key("seconds", "Then it is killed.", shown="5", prod="10")


class Defaults(Table):
    """Any key of an agent but those that make sense for one agent only."""

    args: list[str] = key("list of strings", "Appended to the command.", [])
    python: Text | None = key(
        "path, or a name in PATH",
        "The interpreter.",
        shown="the nearest .venv upward from `directory`, else `$VIRTUAL_ENV`, else meshsup's own",
    )
    directory: Text = key("path", "Its working directory.", ".")
    host: Host | None = key("host", "Told to the program like the port.", shown="`127.0.0.1`; `0.0.0.0` in a container")
    env: Environment = key("table of strings", "Its environment: wins over `env_file`, and over `[mesh] env`.", {})
    env_file: Text | None = key("path", "A .env file for it. Must exist.")
    # pydantic's own class has a `register`.
    announced: Literal["auto", "self", "supervisor", "never"] = key(
        "`auto`, `self`, `supervisor` or `never`",
        "Who registers it. `auto`: itself if it imports the MCP Mesh SDK, else the supervisor if it has a port.",
        "auto",
        alias="register",
    )
    depends_on: Annotated[
        Annotated[list[Text], ListTag] | Annotated[dict[str, DependencyTable], TableTag],
        _either("must be a list of agents' names, or a table with a table for each"),
    ] = key("list of names, or table", "Agents that come first.", [])
    ready: Ready = key(
        "table", "When it counts as ready.", Ready(), shown="with a port, it accepts; without, alive for 1 s"
    )
    start_timeout: SomeSeconds = key("seconds", "Not ready after so long, and the start has failed.", 600.0)
    live: Live | None = key("table", "How a hung agent is noticed.", shown="none")
    watch: Annotated[
        Annotated[list[Text], ListTag] | Annotated[Literal[False], FlagTag],
        _either("must be a list of patterns, or false (then no save reloads it)"),
    ] = key("list of patterns, or `false`", "More files that reload it. `false`: never reloaded by a save.", [])
    trace: Annotated[
        Annotated[Literal["auto", "imports"], TextTag] | Annotated[Literal[False], FlagTag],
        _either('must be "auto", "imports" or false'),
    ] = key(
        "`auto`, `imports` or `false`",
        "What it is seen to read while it runs counts as its input: modules and data files, modules only, or nothing.",
        "auto",
    )
    order: Literal["auto", "start-first", "stop-first"] = key(
        "`auto`, `start-first` or `stop-first`",
        "Whether a reload starts the new process beside the old one. `auto`: where its sockets can be handed over. "
        "`stop-first` is for pollers, schedulers, queue consumers, locked files, GPU memory.",
        "auto",
    )
    drain: Seconds = key(
        "seconds", "How long the old process may finish streams while the new one serves already.", 60.0
    )
    runtime: Flag = key("true or false", "`false`: started plainly, without our code in its process.", True)
    warm: Annotated[
        Annotated[Literal["auto", "fork", "spare"], TextTag] | Annotated[Literal[False], FlagTag],
        _either('must be "auto", "fork", "spare" or false'),
    ] = key(
        "`auto`, `fork`, `spare` or `false`",
        "Whether it starts from a process that has its third-party imports behind it: forked from one that many share, "
        "or a spare of its own.",
        "auto",
    )
    restart: Literal["always", "on-failure", "never"] = key(
        "`always`, `on-failure` or `never`",
        "When it ends by itself. A task that succeeded is never run again.",
        "always",
    )
    backoff: BackoffTable = key("table", "How long the waits between restarts are.", BackoffTable(), shown="see below")
    crashloop: CrashLoopTable = key("table", "What a crash loop is.", CrashLoopTable(), shown="see below")
    essential: Flag = key(
        "true or false", "When it has ended for good (prod: or is in a crash loop), the whole mesh stops.", False
    )
    stop: Stop = key("table", "How it is stopped.", Stop(), shown="see below")
    type: Literal["service", "task"] = key("`service` or `task`", "Kept running, or run once.", "service")
    profiles: list[Text] = key(
        "list of strings", "It is started only with one of them (`--profile`), or by its name.", []
    )


class Agent(Defaults):
    command: (
        Annotated[
            Annotated[Text, TextTag] | Annotated[Words, ListTag],
            _either('must be a script, "agents/x.py", or a command line as a list, ["uv", "run", "x"]'),
        ]
        | None
    ) = key("path of a script, or list of strings", "What is run. A list's words are relative to `directory`.")
    module: Text | None = key("module", "Instead of `command`: what `python -m` would run.")
    port: Port | None = key("port", "Its port; 0: chosen once, and kept while state_dir lives.", shown="none known")
    listen: Literal["fd"] | None = key(
        "`fd`",
        "It gets its listening socket as systemd hands them over: `LISTEN_FDS`, from descriptor 3.",
        shown="none",
    )
    capabilities: list[
        Annotated[
            Annotated[Text, TextTag] | Annotated[AgentCapability, TableTag],
            _either("must be a name, or a table with name, version, tags"),
        ]
    ] = key("list of names or tables", "What is announced for an agent that does not register itself.", [])


class MeshFile(Table):
    """The whole file: what the JSON Schema is made from."""

    mesh: Mesh = key("table", "The mesh as a whole.", Mesh())
    registry: Registry = key("table", "Where agents announce what they can do.", Registry())
    watch: Watch = key("table", "Reloading on a save.", Watch())
    logs: Logs = key("table", "Log files.", Logs())
    defaults: Defaults = key("table", "For every agent; tables merge by key, lists replace.", Defaults())
    agents: dict[Annotated[str, StringConstraints(pattern=f"^{NAME}$")], Agent] = key("tables", "The agents.", {})


SIGNALS = {name: Signals[name] for name in STOP_SIGNALS}


def keys_of(model: type[Table]) -> tuple[str, ...]:
    """The keys of a table as mesh.toml writes them, in the order in which people are told of them: an agent's command
    first, but the common probes before what only one of their tables has."""
    own = [name for name in model.model_fields if name in model.__annotations__]
    inherited = [name for name in model.model_fields if name not in own]
    names = [*own, *inherited] if model is Agent else [*inherited, *own]
    return tuple(model.model_fields[name].alias or name for name in names)


def field_of(model: type[Table], key: str) -> FieldInfo:
    return next(info for name, info in model.model_fields.items() if key == (info.alias or name))


def keys_at(model: type[Table], place: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of the table that the last part of ``place`` (a pydantic location within ``model``) stands in."""
    table: type[Table] | None = model
    for part in place[:-1]:
        fields = {info.alias or name: info for name, info in table.model_fields.items()} if table else {}
        if part in fields:
            table = _table_in(fields[str(part)].annotation)
    return keys_of(table) if table else ()


def _table_in(annotation: object) -> type[Table] | None:
    """The one table in a type such as ``dict[str, DependencyTable] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next(filter(None, (_table_in(inner) for inner in get_args(annotation))), None)
