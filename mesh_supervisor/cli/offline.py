"""What can be known of a mesh without its supervisor: its configuration, how an agent would start, its inputs."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mesh_supervisor import environment
from mesh_supervisor.config import load
from mesh_supervisor.control.messages import Answer
from mesh_supervisor.debugging import python_words
from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.explain import explain, watch_lines, watch_row
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.inputs import InputFinder
from mesh_supervisor.host.kept_ports import KeptPorts
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.impact import Inputs
from mesh_supervisor.locate import Place
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import AgentSpec, MeshSpec
from mesh_supervisor.target import Target

NO_GENERATION = 0
"""What is started here is none of the mesh's instances."""


def agent_of(place: Place, name: str) -> tuple[MeshSpec, AgentSpec]:
    """With the ports that the mesh would use. Raises ConfigError, UnknownAgent."""
    StateDir.open(place.state_dir, place.root)
    mesh = load(place.file, os.environ, kept_port=KeptPorts(place.state_dir).kept_port)
    if name not in mesh.agents:
        raise UnknownAgent(name, mesh.agents)
    return mesh, mesh.agents[name]


def finder_of(mesh: MeshSpec) -> InputFinder:
    return InputFinder(mesh.root, ignore_of(mesh), dict(os.environ), mesh.watch.roots)


def ignore_of(mesh: MeshSpec) -> Ignore:
    return Ignore([mesh.root, *mesh.watch.roots], mesh.watch.ignore, state_dir=mesh.state_dir)


async def why(place: Place, paths: Sequence[str]) -> Answer:
    """What `why` would say if the mesh ran. Raises ConfigError."""
    mesh = load(place.file, os.environ)
    ignore = ignore_of(mesh)
    return await explain(paths, _selection(mesh, ignore), mesh, ignore, lambda name: "")


async def watch_status(place: Place, words: Sequence[str]) -> Answer:
    """What `watch status` would say of the agents if the mesh ran. Raises ConfigError, UnknownAgent."""
    mesh = load(place.file, os.environ)
    selection = _selection(mesh, ignore_of(mesh))
    await selection.know_all()
    off = StateDir.open(place.state_dir, place.root).unwatched() if place.state_dir.is_dir() else frozenset[str]()
    how = "off, as mesh.toml has it" if not mesh.watch.enabled else "nothing runs; as soon as it does"
    lines, rows = [f"watching: {how}"], {}
    for name in _meant(words, mesh.agents):
        inputs = selection.agents[name].inputs
        rows[name] = watch_row(inputs, enabled=name not in off)
        gate = f" - switched off; `meshsup watch enable {name}`, once it runs" if name in off else ""
        lines += watch_lines(name, inputs, mesh.root, gate)
    body = {"how": "off", "why": how, "roots": [], "directories": 0, "files": 0, "agents": rows}
    return Answer(ok=True, lines=tuple(lines), body=body)


async def inputs_of_all(mesh: MeshSpec, finder: InputFinder | None = None) -> dict[str, Inputs]:
    """By agent: as they are on disk now, and as earlier runs have shown them. ``finder``: one that knows interpreters
    already; asking them takes longer than all the rest."""
    selection = _selection(mesh, ignore_of(mesh), finder)
    await selection.know_all()
    return {name: selection.agents[name].inputs for name in mesh.agents}


def _meant(words: Sequence[str], names: Collection[str]) -> list[str]:
    for word in words:
        if not any(fnmatchcase(name, word) for name in names):
            raise UnknownAgent(word, names)
    return [name for name in names if not words or any(fnmatchcase(name, word) for word in words)]


def _selection(mesh: MeshSpec, ignore: Ignore, finder: InputFinder | None = None) -> Selection:
    """Of a mesh that does not run: it knows what would be inputs, and posts nothing."""
    selection = Selection(
        mesh.root,
        finder or InputFinder(mesh.root, ignore, dict(os.environ), mesh.watch.roots),
        ignore,
        post=_nobody,
        configured=_nothing,
        inputs_changed=lambda: None,
        traces=Traces(mesh.state_dir),
    )
    for spec in mesh.agents.values():
        selection.track(spec, enabled=True)
    return selection


def _nobody(agent: str, happened: object) -> None:
    """Questions post no events."""


async def _nothing() -> None:
    """Nothing is applied."""


async def program_of(
    mesh: MeshSpec, spec: AgentSpec, registry_url: str | None
) -> tuple[Program, Path, tuple[str, ...]]:
    """The command line, environment and folder of an agent, as the mesh would start it, without our mark; its
    interpreter; and the same as words for that, where they are known."""
    finder = finder_of(mesh)
    found = await finder.interpreter_of(spec)
    inputs = await finder.inputs_of(spec)
    environ = environment.build(
        spec,
        mesh,
        shell=os.environ,
        generation=NO_GENERATION,
        owner=StateDir.open(mesh.state_dir, mesh.root).owner,
        registry_url=registry_url or _registry_url(mesh),
        frameworks=inputs.third_party,
        bin_dir=found.bin,
        virtual_env=found.virtual_env,
    )
    # The ids of the mesh are issued by its supervisor; without one, the SDK makes its own.
    if "MCP_MESH_AGENT_ID" not in spec.environment:
        environ.pop("MCP_MESH_AGENT_ID", None)
    Path(environ["MESHSUP_STATE_DIR"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    target = await finder.target_of(spec, found)
    words = python_words(target) if isinstance(target, Target) else ()
    return Program(finder.argv_of(spec, found), environ, spec.directory), found.python, words


def _registry_url(mesh: MeshSpec) -> str:
    """Where the registry of this mesh would be."""
    return (mesh.registry.url or f"http://127.0.0.1:{mesh.registry.port}").rstrip("/")
