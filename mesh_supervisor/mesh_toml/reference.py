"""What mesh.toml can say, for editors (JSON Schema) and for people (docs/configuration.md), made from the models."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from mesh_supervisor.ignore import BUILT_IN
from mesh_supervisor.mesh_toml import models
from mesh_supervisor.mesh_toml.models import LATER_AGENT_KEYS, STOP_SIGNALS, MeshFile, Table, field_of, keys_of

SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Of the file as it is written: a ``${…}`` may stand where a number or a truth value does."""
    schema: dict[str, Any] = _for_editors(MeshFile.model_json_schema())
    return {"$schema": SCHEMA, **schema, "title": "mesh.toml"}


def _for_editors(node: Any) -> Any:
    if isinstance(node, list):
        return [_for_editors(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _for_editors(value) for key, value in node.items() if not key.startswith("x-")}
    # Defaults that depend on the mode are null in the models; an editor would offer "null", which TOML has not.
    if kept.get("default", 0) is None:
        del kept["default"]
    kept.pop("title", None) if isinstance(kept.get("title"), str) else None
    options = kept.get("anyOf")
    if isinstance(options, list):
        kept |= _without_null(options)
    if kept.get("type") in ("integer", "number", "boolean") and "const" not in kept:
        return _or_interpolated(kept)
    return kept


def _without_null(options: list[Any]) -> dict[str, Any]:
    return {"anyOf": [option for option in options if option != {"type": "null"}]}


def _or_interpolated(value: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {key: value.pop(key) for key in ("description", "default") if key in value}
    return {**about, "anyOf": [value, {"type": "string", "pattern": r"\$\{"}]}


# ---- for people --------------------------------------------------------------------------------------------------

_INTRODUCTION = """\
# mesh.toml

<!-- Made by `python -m mesh_supervisor.config > docs/configuration.md`; the keys are in mesh_toml/models.py. -->

`meshsup` looks for `mesh.toml` in the working directory and upward. `-f FILE`, `-C DIR` and `MESHSUP_FILE` win, in this
order (`-f` is relative to `-C`). `meshsup check` validates it and tells all mistakes at once; `meshsup schema` prints
its JSON Schema, which an editor finds through a first line `#:schema mesh.schema.json`.

- **Paths** are relative to mesh.toml. The words of a command written as a list are the program's own, relative to
  `directory`.
- **Times** are numbers of seconds: `30`, `0.5`.
- **Strings** interpolate `${VAR}`, `${VAR:-default}` (also when `VAR` is empty), `${port}` (the agent's own, in
  `[registry]` the registry's) and `${agents.NAME.url}`. An unset variable without a default is an error. Variables come
  from `[mesh] env_file` and the shell. `$${` is a literal `${`. Where a number or a truth value is expected, a string
  with `${VAR}` may stand for it.
- **Environment** of an agent, from the strongest: its `env`, its `env_file`, `[mesh] env`, `[mesh] env_file`, what
  meshsup sets (`PORT`, `HOST`, …), the shell. Values of environment and interpolations are printed as `•••`, unless
  `--show-secrets`.
- **Modes**: `dev`, and `prod` in a container (meshsup is PID 1, or what a small init below `docker run --init` was told
  to start), or where its parent is PID 1 and stdout is no terminal. `--prod` wins over `MESHSUP_MODE`, that over
  `[mesh] mode`. A mode changes defaults and nothing else; the tables below have both.
- **Names** of agents are `[a-z0-9][a-z0-9_-]*`; `registry` and `meshsup` are reserved.
"""

_EXAMPLE = """\
## Example

```toml
[mesh]
env_file = ".env"

[defaults]
env = { LOG_LEVEL = "info" }

[agents.retriever]
command = "agents/retriever.py"
port = 8101
capabilities = ["retrieve"]

[agents.planner]
command = ["uvicorn", "planner:app", "--port", "${port}"]
directory = "agents"
port = 8102
env = { RETRIEVER = "${agents.retriever.url}" }
depends_on = ["retriever"]
watch = ["prompts/**/*.md"]
ready = { http = "/health" }
```
"""

_IGNORED = """\
## Built-in ignore list

These gitignore patterns, and `.gitignore`, limit what `watch` globs and the watching of whole folders find; a file that
a program imports is its input all the same. `[watch] ignore` and `.meshwatch` win over imports too.
"""

_TABLES: tuple[tuple[str, str, type[Table]], ...] = (
    ("[mesh]", "", models.Mesh),
    ("[registry]", "", models.Registry),
    ("[watch]", "", models.Watch),
    ("[logs]", "", models.Logs),
    (
        "[agents.NAME]",
        "`[defaults]` holds any of these keys but `command`, `module`, `port` and `capabilities`, for all agents: "
        "tables merge by key, lists replace.",
        models.Agent,
    ),
    ("ready", "One of `http`, `tcp`, `exec`, `log`, `notify`, or none.", models.Ready),
    ("live", "One of `http`, `tcp`, `exec`, `notify`.", models.Live),
    ("depends_on", 'As a table: `depends_on = { retriever = { condition = "ready" } }`.', models.DependencyTable),
    ("capabilities", 'As tables: `capabilities = [{ name = "plan", version = "2.0.0" }]`.', models.AgentCapability),
    ("backoff", "The wait before a restart; it varies by 20 %.", models.BackoffTable),
    ("crashloop", "In a crash loop an agent is tried again at the longest wait.", models.CrashLoopTable),
    ("stop", "`signal` is one of " + ", ".join(f"`{name}`" for name in STOP_SIGNALS) + ".", models.Stop),
)


def reference() -> str:
    """docs/configuration.md, ending with a newline."""
    parts = [_INTRODUCTION, _EXAMPLE]
    parts += [_section(title, about, model) for title, about, model in _TABLES]
    return "\n".join([*parts, _ignored(), _later()])


def _section(title: str, about: str, model: type[Table]) -> str:
    head = f"## `{title}`\n\n" + (f"{about}\n\n" if about else "")
    rows = [_row(key, field_of(model, key)) for key in keys_of(model)]
    return head + "\n".join(["| key | value | default | prod | meaning |", "|---|---|---|---|---|", *rows]) + "\n"


def _row(key: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    told = extra if isinstance(extra, dict) else {}
    default = str(told.get("x-shown") or _as_toml(info.get_default(call_default_factory=False)))
    cells = (f"`{key}`", told.get("x-type", ""), default, told.get("x-prod") or "", info.description or "")
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _as_toml(value: object) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _ignored() -> str:
    patterns = "\n".join(BUILT_IN)
    return f"{_IGNORED}\n```gitignore\n{patterns}\n```\n"


def _later() -> str:
    keys = ", ".join(f"`{key}`" for key in LATER_AGENT_KEYS)
    return f"## Not available in this version\n\nRefused are, of agents, {keys}, and a `store` in PostgreSQL.\n"
