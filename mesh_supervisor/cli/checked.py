"""`check`: what a valid mesh.toml means, in a few lines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from mesh_supervisor.cli.offline import finder_of
from mesh_supervisor.cli.table import aligned
from mesh_supervisor.cli.terminal import YELLOW, painted, show, talk, width
from mesh_supervisor.cli.words import one_line
from mesh_supervisor.config import choose_mode, load
from mesh_supervisor.host.inputs import count
from mesh_supervisor.host.interpreter import Broken, Interpreter
from mesh_supervisor.host.kept_ports import read_kept_port
from mesh_supervisor.impact import Inputs
from mesh_supervisor.imports import Gone
from mesh_supervisor.locate import Place, mode_in
from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec, Module, RegistrySpec, Script
from mesh_supervisor.wording import counted


def describe(place: Place) -> None:
    """Print what the mesh is. Raises ConfigError with all mistakes."""
    mode, reason = choose_mode(None, os.environ, mode_in(place.file))
    mesh = load(place.file, os.environ, mode=mode, mode_reason=reason, kept_port=read_kept_port(place.state_dir))
    looked = asyncio.run(_look(mesh))
    show(*_summary(mesh))
    if mesh.agents:
        header = ("AGENT", "PORT", "INPUTS", "PYTHON", "RUNS")
        show("", *aligned([header, *(_row(mesh, *each) for each in looked)], width=width(), right=(1, 2)))
    warnings = [f"{spec.name}: {inputs.warning}" for spec, _, inputs in looked if inputs.warning]
    missing = [f"{spec.name}: {text}" for spec, _, inputs in looked for text in _missing(mesh.root, spec, inputs)]
    talk(*(painted(one_line(text), YELLOW) for text in (*mesh.warnings, *warnings, *missing)))


def _missing(root: Path, spec: AgentSpec, inputs: Inputs) -> Iterator[str]:
    """Imports that are nowhere, each once, with the way out if the module lies where only ``-m`` would find it."""
    for gone in {gone.message: gone for gone in reversed(inputs.gone) if gone.sure}.values():
        yield Broken(gone.file, gone.line, f"{gone.kind}: {gone.message}").text(root) + _way_out(root, spec, gone)


def _way_out(root: Path, spec: AgentSpec, gone: Gone) -> str:
    top = gone.message.split("'")[1].partition(".")[0]
    if not isinstance(spec.command, Script) or not ((root / top).is_dir() or (root / f"{top}.py").is_file()):
        return ""
    words = spec.command.path.relative_to(root).with_suffix("").parts if spec.command.path.is_relative_to(root) else ()
    if len(words) < 2 or spec.directory != root or not all(word.isidentifier() for word in words):
        return ""
    return f'; a script finds what is beside it, `module = "{".".join(words)}"` what is in mesh.toml\'s folder'


async def _look(mesh: MeshSpec) -> list[tuple[AgentSpec, Interpreter, Inputs]]:
    finder = finder_of(mesh)
    return [(spec, await finder.interpreter_of(spec), await finder.inputs_of(spec)) for spec in mesh.agents.values()]


def _summary(mesh: MeshSpec) -> list[str]:
    watch = "watching" if mesh.watch.enabled else "not watching"
    return [
        f"{mesh.file} is valid",
        f"mesh {mesh.name}: {counted(len(mesh.agents), 'agent')}, {mesh.mode} ({mesh.mode_reason}), {watch}",
        f"registry: {_registry(mesh.registry)}",
    ]


def _registry(spec: RegistrySpec) -> str:
    if spec.kind == "external":
        return f"external, {spec.url}"
    port = f"port {spec.port}" if spec.strict else f"port {spec.port} or the next free one"
    return f"{spec.kind}, {port}" + (f": {' '.join(spec.command)}" if spec.command else "")


def _row(mesh: MeshSpec, spec: AgentSpec, interpreter: Interpreter, inputs: Inputs) -> tuple[str, ...]:
    return (spec.name, _port(spec), _inputs(inputs), _short(interpreter.python, mesh.root), one_line(_runs(mesh, spec)))


def _port(spec: AgentSpec) -> str:
    return "-" if spec.port is None else "at start" if spec.port == 0 else str(spec.port)


def _inputs(inputs: Inputs) -> str:
    return str(count(inputs)) if inputs.known else "?"


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _runs(mesh: MeshSpec, spec: AgentSpec) -> str:
    match spec.command:
        case CommandLine(argv):
            words = " ".join(argv)
        case Module(name):
            words = f"-m {name}"
        case script:
            words = _short(script.path, mesh.root)
    where = "" if spec.directory == mesh.root else f" (in {_short(spec.directory, mesh.root)})"
    return " ".join((words, *spec.args)) + where + (" (task)" if spec.kind == "task" else "")
