"""PURE. A mesh → a Compose file: the registry and one service per agent, each supervised by `meshsup run AGENT`.

What mesh.toml says about an agent is read there, in the container too, and not repeated: the file says what is the
engine's to do. No value of a variable or an env file is written into it, only their names: Compose asks for what it
needs of them, and so does the container. (But a choice among a few words, such as `restart`, and names of agents, for
which Compose has no variables; and the names of files that an agent was seen to read.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import ceil
from pathlib import Path
from posixpath import relpath

from mesh_supervisor.export.notes import env_file_texts, is_movable, needed_in_image, not_in_compose
from mesh_supervisor.export.profiles import names_in_compose, profiles_of
from mesh_supervisor.export.references import by_compose, for_compose, has_variable
from mesh_supervisor.export.surroundings import Surroundings, known_names, port_of, registry_port
from mesh_supervisor.export.watching import Watched, is_told_by_variables, watched
from mesh_supervisor.export.yaml import (
    MERGE,
    Alias,
    Blank,
    Entry,
    Items,
    Reference,
    Remark,
    Row,
    Rows,
    Scalar,
    Words,
    written,
)
from mesh_supervisor.impact import Inputs
from mesh_supervisor.spec import AgentSpec, Condition, Dependency, Kind, MeshSpec, Restart
from mesh_supervisor.wording import counted, hide

REGISTRY = "registry"
OF_THE_FILE = frozenset(("MESHSUP_MODE", "MESHSUP_STATE_HOME", "MESHSUP_REGISTRY_URL", "MESHSUP_ADVERTISE"))
"""Variables that the file itself sets in its services."""
STATE_HOME = "/var/lib/mesh"
"""Where state_dir is in a container: on a volume, apart from the image's code."""

PATIENCE = 5.0
"""Seconds between two looks at an agent's health that has no `live`; each look is a process of some 60 ms."""
LOOK = "5s"
SLACK = 2
"""Seconds between our own limit for a stop (stop_timeout) and the engine's."""

HEAD = """\
One service per agent. What mesh.toml says about an agent is read there, in the container too.

  {start}
  docker compose up --build --watch    start, and take edits over: the services that they affect start again

Needs Docker Compose 2.24 or newer, and an image with `meshsup` in its PATH, mesh.toml and the agents in {app}, \
what they import, and a folder {state} that its user may write to. MESHSUP_IMAGE names another image, \
MESHSUP_BIND another address than 127.0.0.1 for the published ports. With Docker Engine 25 or newer, \
`start_interval: 1s` in the healthchecks lets dependents start sooner.

Not in Compose:
- A reload stops the old process before the new one starts, and callers are refused meanwhile: `order` and `drain` \
do not count.
- Docker restarts in its own time (after 0.1 s, doubled up to a minute): `backoff` and `crashloop` do not count.
- Every start is cold: `warm` does not count."""

ALWAYS = "Compose has no start-first reloads, no warm starts and its own waits between restarts (see the file's head)"


@dataclass(frozen=True, slots=True)
class Exported:
    """``warnings``: a sentence each, without its end."""

    text: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """``notes``: what of it Compose cannot express, and what the image needs for it."""

    name: str
    rows: Rows
    notes: tuple[str, ...] = ()


def compose(mesh: MeshSpec, seen: Surroundings) -> Exported:
    """``mesh`` as it is in a container (config.load with ``pid_one``)."""
    services = [*_registry(mesh, seen), *(_agent(mesh, spec, seen) for spec in mesh.agents.values())]
    of_all = (*_image_notes(seen), *_otherwise(seen), *_unread(mesh, seen, services))
    warnings = [ALWAYS, *of_all, *(f"{service.name}: {note}" for service in services for note in service.notes)]
    return Exported(written(_file(mesh, seen, services, of_all)), tuple(warnings))


def services_of(mesh: MeshSpec) -> str:
    """``a registry and 4 agents``"""
    registry = "" if mesh.registry.kind == "external" else "a registry and "
    return registry + counted(len(mesh.agents), "agent")


def _file(mesh: MeshSpec, seen: Surroundings, services: Sequence[Service], of_all: Sequence[str]) -> Iterator[Row]:
    yield Remark("\n" + HEAD.format(app=seen.app, state=STATE_HOME, start=_start(mesh)))
    yield Blank()
    yield Entry("name", _name(mesh, seen))
    yield Blank()
    yield Entry("x-agent", (*_remarks(of_all), *_common(mesh, seen)), anchor="agent")
    yield Blank()
    yield Entry("x-environment", _common_environment(mesh, seen), anchor="environment")
    yield Blank()
    yield Entry("services", _apart((*_remarks(one.notes), Entry(one.name, one.rows)) for one in services))
    if services:
        yield Blank()
        yield Remark("What outlives a container: the registry's records, and what agents keep in MESHSUP_STATE_DIR.")
        yield Entry("volumes", tuple(Entry(_volume(service.name), None) for service in services))
    if secrets := _secret_names(mesh, seen):
        files = tuple(Entry(name, (Entry("file", seen.place(file)),)) for file, name in secrets.items())
        yield from (Blank(), Remark("Mounted where mesh.toml names them; nothing of them is in here."))
        yield Entry("secrets", files)


def _start(mesh: MeshSpec) -> str:
    # For --wait a task that has ended is one that failed to stay, whatever its exit code.
    tasks = any(spec.kind is Kind.TASK for spec in mesh.agents.values())
    return f"docker compose up --build {'-d         start' if tasks else '--wait     start, until all are healthy'}"


def _remarks(notes: Iterable[str]) -> tuple[Remark, ...]:
    return tuple(Remark(f"{note[:1].upper()}{note[1:]}.") for note in notes)


def _apart(blocks: Iterable[Rows]) -> Rows:
    """With an empty line between two."""
    return tuple(row for block in blocks for row in (Blank(), *block))[1:]


# ---- what the services share -----------------------------------------------------------------------------------------


def _name(mesh: MeshSpec, seen: Surroundings) -> str:
    text = seen.written.table("mesh").get("name")
    return by_compose(text, mesh.name) if has_variable(text) else mesh.name


def _common(mesh: MeshSpec, seen: Surroundings) -> Rows:
    name = _name(mesh, seen)
    # Of two separators in a row, or one at the end, no image may be called.
    image = name if isinstance(name, Reference) else re.sub(r"[_-]+", "-", name).strip("-")
    return (
        Entry("image", Reference(f"${{MESHSUP_IMAGE:-{image}:latest}}")),
        *_build(mesh, seen),
        Entry("entrypoint", Words(("meshsup",))),
        Entry("working_dir", seen.app),
        Entry("cap_drop", Words(("ALL",))),
        Entry("security_opt", Words(("no-new-privileges:true",))),
        Remark("MESHSUP_READ_ONLY=true in production; `docker compose watch` writes edits into the containers."),
        Entry("read_only", Reference("${MESHSUP_READ_ONLY:-false}")),
        Entry("tmpfs", Words(("/tmp",))),
        Remark(
            "Empty: the image's user. What `docker compose watch` takes over gets an owner whom the engine looks up on "
            "its own machine; where that does not know the image's user (`getent …`), MESHSUP_USER=root."
        ),
        Entry("user", Reference("${MESHSUP_USER:-}")),
        Remark("An agent that reaches its limit is killed, and started again: mem_limit: 512m"),
    )


def _build(mesh: MeshSpec, seen: Surroundings) -> Rows:
    if seen.dockerfile is None:
        return ()
    file = relpath(seen.dockerfile, mesh.root)
    named = () if file == "Dockerfile" else (Entry("dockerfile", file),)
    return (Entry("build", (Entry("context", seen.place(mesh.root)), *named)),)


def _image_notes(seen: Surroundings) -> Iterator[str]:
    if seen.dockerfile is None:
        yield (
            "no Dockerfile was found beside mesh.toml, so there is no `build`: name one with --dockerfile, or have the "
            "image made elsewhere"
        )
    elif not seen.dockerignore:
        yield "there is no .dockerignore beside mesh.toml: `COPY . .` would take .env, .venv and .mesh into the image"


def _otherwise(seen: Surroundings) -> Iterator[str]:
    """Values are nobody's business, lines are enough to find them."""
    if seen.otherwise:
        lines = f"line{'s' if len(seen.otherwise) > 1 else ''} {', '.join(map(str, seen.otherwise))}"
        yield (
            f"{lines} of .env: Compose puts something else in for a `$` there than meshsup does; in 'single quotes' it "
            "leaves each as it is, and meshsup all but ${NAME}"
        )


_ASKED = re.compile(r"\$\$|\$\{(\w+)")


def _unread(mesh: MeshSpec, seen: Surroundings, services: Sequence[Service]) -> Iterator[str]:
    """Compose looks for what it puts in where it runs, and in the .env beside its file."""
    if not seen.written.names_env_file and seen.base == mesh.root:
        return
    asked = set(_ASKED.findall(written(_file(mesh, seen, services, ()))))
    if names := sorted(asked & seen.from_env_file):
        text = str(seen.written.table("mesh").get("env_file") or ".env")
        place = "FILE" if is_movable(text) else seen.place(mesh.root / text)
        yield f"{', '.join(names)} of {text}: Compose needs it too, as `docker compose --env-file {place}`"


def _common_environment(mesh: MeshSpec, seen: Surroundings) -> Rows:
    return (
        Entry("MESHSUP_MODE", "prod"),
        Entry("MESHSUP_STATE_HOME", STATE_HOME),
        Entry("MESHSUP_REGISTRY_URL", _registry_url(mesh, seen)),
    )


def _volume(service: str) -> str:
    return f"{service}-state"


def _volumes(service: str) -> Entry:
    return Entry("volumes", Words((f"{_volume(service)}:{STATE_HOME}",)))


def _published(port: Reference) -> Entry:
    return Entry("ports", Words((Reference(f"${{MESHSUP_BIND:-127.0.0.1}}:{port}:{port}"),)))


def _seconds(value: float) -> str:
    """``1.5s``"""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"


def _duration(text: object, otherwise: float, more: str = "") -> str:
    """Where ``text`` of mesh.toml says it with a variable, for Compose to put in; ``more`` is added to that."""
    return Reference(f"{by_compose(text, '')}s{more}") if has_variable(text) else _seconds(otherwise)


def _checked(test: Sequence[str], interval: str, failures: Scalar, start: str) -> Rows:
    return (
        Entry("test", Words(("CMD", *test))),
        Entry("interval", interval),
        Entry("timeout", LOOK),
        Entry("retries", failures),
        Entry("start_period", start),
    )


# ---- the registry ----------------------------------------------------------------------------------------------------


def _registry_url(mesh: MeshSpec, seen: Surroundings) -> Scalar:
    """Under which agents reach it. One with a password in it stays in mesh.toml."""
    if mesh.registry.kind != "external":
        return Reference(f"http://{REGISTRY}:{registry_port(mesh, seen.written)}")
    url = str(seen.written.table("registry").get("url", ""))
    if "@" in url:
        return Reference("${MESHSUP_REGISTRY_URL:-}")
    return for_compose(url, known_names(mesh, seen.written, Reference(mesh.registry.port)))


def _registry(mesh: MeshSpec, seen: Surroundings) -> list[Service]:
    if mesh.registry.kind == "external":
        return []
    port = registry_port(mesh, seen.written)
    ask = ("meshsup", "registry", "health", "--url", Reference(f"http://127.0.0.1:{port}"))
    rows = (
        Entry(MERGE, Alias("agent")),
        *_registry_program(mesh, seen),
        _volumes(REGISTRY),
        _published(port),
        Entry("restart", "unless-stopped"),
        Entry("stop_grace_period", "10s"),
        Entry("healthcheck", _checked(ask, _seconds(PATIENCE), 3, _seconds(30))),
    )
    own = mesh.registry.kind == "command"
    return [Service(REGISTRY, rows, ("the image needs the `command` of [registry]",) if own else ())]


def _registry_program(mesh: MeshSpec, seen: Surroundings) -> Rows:
    port = registry_port(mesh, seen.written)
    if mesh.registry.kind == "command":
        known = known_names(mesh, seen.written, port)
        words = [for_compose(str(word), known) for word in seen.written.table("registry").get("command", ())]
        address = (Entry("HOST", "0.0.0.0"), Entry("PORT", port))
        return (Entry("entrypoint", Words(words)), Entry("environment", address))
    serve = ("registry", "serve", "--host", "0.0.0.0", "--port", port, "--store", f"{STATE_HOME}/registry.db")
    return (Entry("command", Words((*serve, "--allow-host", REGISTRY))),)


# ---- an agent --------------------------------------------------------------------------------------------------------


def _agent(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Service:
    taken_over = _watched(mesh, spec, seen)
    rows = (
        Entry(MERGE, Alias("agent")),
        Entry("command", Words(("run", spec.name))),
        Entry("environment", tuple(_environment(spec, seen))),
        *_env_files(mesh, spec, seen),
        _volumes(spec.name),
        *((_published(port_of(spec, seen.written)),) if spec.port else ()),
        *_profiles(mesh, spec, seen),
        *_dependencies(mesh, spec),
        Entry("restart", _restart(spec)),
        Entry("stop_grace_period", _stop(mesh, seen)),
        Entry("healthcheck", _health(mesh, spec, seen)),
        *_develop(mesh, spec, seen, taken_over),
    )
    notes = (*not_in_compose(mesh, spec, seen), *needed_in_image(mesh, spec, seen), *taken_over.left_out)
    return Service(spec.name, rows, notes)


def _environment(spec: AgentSpec, seen: Surroundings) -> Iterator[Entry]:
    """Names without a value are taken from where `docker compose` runs, and unset where they are so there."""
    yield Entry(MERGE, Alias("environment"))
    yield Entry("MESHSUP_ADVERTISE", spec.name)
    published = seen.written.variables_of_ports()
    for name in seen.written.variables(spec.name):
        if name in OF_THE_FILE:
            continue
        if name not in seen.from_env_file:
            yield Entry(name, None)
        elif name in published and not seen.written.names_env_file:
            # The shell of `docker compose` goes before .env, in `ports` too.
            yield Entry(name, Reference(f"${{{name}:-}}"))


def _env_files(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Iterator[Entry]:
    """The .env that nobody has named is read by Compose. Others must exist, where mesh.toml says."""
    if not seen.written.names_env_file:
        path = Entry("path", seen.place(mesh.root / ".env"))
        yield Entry("env_file", Items(((path, Entry("required", False)),)))
    names = _secret_names(mesh, seen)
    mounted = [
        (Entry("source", names[file]), Entry("target", seen.in_image(text)))
        for file, text in _named_env_files(spec, seen)
    ]
    if mounted:
        yield Entry("secrets", Items(mounted))


def _named_env_files(spec: AgentSpec, seen: Surroundings) -> Iterator[tuple[Path, str]]:
    """(file, as mesh.toml names it)"""
    # The first is the mesh's, also where it is only the .env that would be taken.
    files = spec.env_files if seen.written.names_env_file else spec.env_files[1:]
    pairs = zip(files, env_file_texts(spec, seen), strict=False)
    return ((file, text) for file, text in pairs if not is_movable(text))


def _secret_names(mesh: MeshSpec, seen: Surroundings) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for spec in mesh.agents.values():
        for file, text in _named_env_files(spec, seen):
            name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "env"
            if file not in found:
                names = chain([name], (f"{name}-{number}" for number in count(2)))
                found[file] = next(name for name in names if name not in found.values())
    return found


_RESTARTS = {Restart.ALWAYS: "unless-stopped", Restart.ON_FAILURE: "on-failure", Restart.NEVER: "no"}


def _restart(spec: AgentSpec) -> str:
    """A task that succeeded is never run again."""
    return "on-failure" if spec.kind is Kind.TASK and spec.restart is not Restart.NEVER else _RESTARTS[spec.restart]


def _stop(mesh: MeshSpec, seen: Surroundings) -> str:
    # Compose adds up the parts of a duration.
    text = seen.written.table("mesh").get("stop_timeout")
    return _duration(text, ceil(mesh.stop_timeout) + SLACK, f"{SLACK * 1000}ms")


def _health(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Rows:
    if spec.kind is Kind.TASK and not _wanted_ready(mesh, spec.name):
        return (Entry("disable", True),)
    start = _duration(seen.written.of(spec.name, "start_timeout"), spec.start_timeout)
    ask = ("meshsup", "health", spec.name)
    if spec.live is None:
        return _checked(ask, _seconds(PATIENCE), 3, start)
    interval, failures = (seen.written.inside(spec.name, "live", key) for key in ("interval", "failures"))
    tried = by_compose(failures, "") if has_variable(failures) else spec.live.failures
    return _checked(ask, _duration(interval, max(1.0, spec.live.interval)), tried, start)


def _wanted_ready(mesh: MeshSpec, name: str) -> bool:
    wanted = (dependency for spec in mesh.agents.values() for dependency in spec.depends_on)
    return any(one.agent == name and one.condition is Condition.READY for one in wanted)


_CONDITIONS = {
    Condition.STARTED: "service_started",
    Condition.READY: "service_healthy",
    Condition.COMPLETED: "service_completed_successfully",
}


def _dependencies(mesh: MeshSpec, spec: AgentSpec) -> Iterator[Entry]:
    rows = [_dependency(dependency) for dependency in spec.depends_on]
    if mesh.registry.kind != "external":
        rows.insert(0, _dependency(Dependency(REGISTRY)))
    if rows:
        yield Entry("depends_on", tuple(rows))


def _dependency(wanted: Dependency) -> Entry:
    restart = (Entry("restart", True),) if wanted.restart else ()
    return Entry(wanted.agent, (Entry("condition", _CONDITIONS[wanted.condition]), *restart))


def _profiles(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Iterator[Row]:
    if not spec.profiles:
        return
    if needed := profiles_of(mesh)[spec.name]:
        names = names_in_compose(mesh, seen.written)
        yield Entry("profiles", Words(sorted({names[profile] for profile in needed})))
    else:
        yield Remark("Always started, whatever its profiles: a service that is always started depends on it.")


# ---- edits -----------------------------------------------------------------------------------------------------------


def _watched(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Watched:
    inputs = seen.inputs.get(spec.name)
    if inputs is None or not inputs.watched:
        return Watched(())
    notes = (hide(inputs.warning, mesh.secrets),) if inputs.warning else ()
    told = has_variable(seen.written.table("watch").get("roots"))
    if is_told_by_variables(spec, seen.written, inputs):
        inputs = Inputs(globs=inputs.globs, matched=inputs.matched, ignored=inputs.ignored)
        notes = (*notes, "variables say which program it is: of its edits only those that `watch` names are taken over")
    found = watched(inputs, seen.written.of(spec.name, "watch") or (), mesh.root, names_outside=not told)
    return Watched(found.rules, (*found.left_out, *notes))


def _develop(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings, taken_over: Watched) -> Iterator[Row]:
    inputs = seen.inputs.get(spec.name)
    if inputs is None or not inputs.watched:
        yield Remark("Edits are not taken over, as mesh.toml has it.")
        return
    rules = [_synchronised(seen, mesh.file, mesh.file.name)]
    rules += [_synchronised(seen, one.path, relpath(one.path, mesh.root), one.ignored) for one in taken_over.rules]
    locks = list(seen.locks.get(spec.name, ()))
    if is_told_by_variables(spec, seen.written, inputs):
        # Those of mesh.toml's own folder are there whatever the variables say.
        locks = [file for file in locks if file.parent == mesh.root]
    made_of = () if seen.dockerfile is None else (seen.dockerfile, *locks)
    rules += [(Entry("action", "rebuild"), Entry("path", seen.place(file))) for file in made_of]
    yield Entry("develop", (Entry("watch", Items(rules)),))


def _synchronised(seen: Surroundings, path: Path, below: str, ignored: Sequence[str] = ()) -> Rows:
    return (
        Entry("action", "sync+restart"),
        Entry("path", seen.place(path)),
        Entry("target", seen.in_image(below)),
        *((Entry("ignore", Words(ignored)),) if ignored else ()),
    )
