"""PURE. What of an agent Compose cannot express, and what its image needs, in words: a sentence each, without its end.

Paths and values are those that mesh.toml writes: what they come to on this machine says nothing in a container, and
may be nobody's business.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh_supervisor.export import profiles
from mesh_supervisor.export.references import has_variable
from mesh_supervisor.export.surroundings import Surroundings
from mesh_supervisor.spec import AgentSpec, Backoff, CommandLine, CrashLoop, MeshSpec, Script, is_loopback

UNWRITTEN_STOP = 10.0
"""``stop.timeout`` in prod mode where mesh.toml has none."""
UNWRITTEN_DRAIN = 60.0

NEEDED = "lies outside mesh.toml's folder: the image needs it too"


def not_in_compose(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Iterator[str]:
    if spec.essential:
        yield "`essential`: Compose goes on without it; `docker compose up --abort-on-container-failure` comes near"
    if spec.order == "start-first":
        yield '`order = "start-first"`: Compose stops the old container first'
    if spec.drain != UNWRITTEN_DRAIN:
        yield "`drain`: when a container is stopped, `stop.timeout` counts"
    if (spec.backoff, spec.crashloop) != (Backoff(), CrashLoop()):
        yield "`backoff` and `crashloop`: Docker has its own"
    if spec.warm in ("fork", "spare"):
        yield "`warm`: a container starts cold"
    for one in spec.depends_on:
        if one.restart:
            yield f"it restarts with {one.agent} when Compose restarts that, not when {one.agent} crashes"
    if spec.stop.timeout > max(mesh.stop_timeout, UNWRITTEN_STOP):
        told = has_variable(seen.written.table("mesh").get("stop_timeout"))
        long = "" if told else f", {mesh.stop_timeout:g} s in a container,"
        yield f"`stop_timeout` of [mesh]{long} cuts its `stop.timeout` short"
    if changes := profiles.renamed(spec, seen.written):
        yield f"its profiles have other names in Compose: {', '.join(changes)}"


def needed_in_image(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Iterator[str]:
    if spec.port == 0:
        yield "`port = 0` is chosen in the container, so it cannot be published; give it a number"
    if spec.host not in ("0.0.0.0", "::"):
        yield "`host` in mesh.toml holds for the container too, where others reach it only at 0.0.0.0; leave it out"
    if not spec.directory.is_relative_to(mesh.root):
        yield f"`directory` ({seen.written.of(spec.name, 'directory')}) {NEEDED}"
    python = str(seen.written.of(spec.name, "python") or "")
    if "/" in python:
        yield f"`python` ({python}) must be in the image, at {seen.in_image(python)}"
    yield from _of_program(mesh, spec, seen)
    yield from (f"env_file {text} is not mounted: variables say where it is" for text in _movable_env_files(spec, seen))
    if mesh.registry.kind == "external" and is_loopback(mesh.registry.host):
        yield "registry.url is this machine's loopback, where no container finds it; host.docker.internal may help"


def _of_program(mesh: MeshSpec, spec: AgentSpec, seen: Surroundings) -> Iterator[str]:
    written = seen.written.of(spec.name, "command")
    match spec.command:
        case Script(path) if not path.is_relative_to(mesh.root):
            yield f"`command` ({written}) {NEEDED}"
        case CommandLine((first, *_)) if first.startswith("/"):
            yield f"`command` begins with {written[0]}: the image needs it there"


def env_file_texts(spec: AgentSpec, seen: Surroundings) -> list[str]:
    """The mesh's and the agent's, where they are named."""
    names = (seen.written.table("mesh").get("env_file"), seen.written.of(spec.name, "env_file"))
    return [str(text) for text in names if text]


def is_movable(text: str) -> bool:
    """A path that is another one elsewhere."""
    return has_variable(text) or text.startswith("~")


def _movable_env_files(spec: AgentSpec, seen: Surroundings) -> list[str]:
    return [text for text in env_file_texts(spec, seen) if is_movable(text)]
