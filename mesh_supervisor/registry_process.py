"""The registry as a process of the mesh: where it listens, and how it is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mesh_supervisor.errors import PortTaken
from mesh_supervisor.host.ports import free_port, holder_of
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.launcher import RegistryPreparation
from mesh_supervisor.member import REGISTRY
from mesh_supervisor.spec import AgentSpec, Backoff, CommandLine, HttpProbe, LiveCheck, MeshSpec, ReadyCheck, StopRule

REGISTRY_PORTS = range(8000, 8100)
"""Where a free one is looked for when mesh.toml names none."""


def registry_url(mesh: MeshSpec) -> str:
    """Under which agents reach it; "" where nobody knows. Raises PortTaken when a port that was given belongs to
    somebody else."""
    if mesh.registry.kind == "none":
        return ""
    if mesh.registry.kind == "external":
        assert mesh.registry.url is not None  # config.py asks for it
        return mesh.registry.url.rstrip("/")
    return f"http://{mesh.advertise}:{_port(mesh)}"


def registry_process(
    mesh: MeshSpec, state: StateDir, url: str, shell: Mapping[str, str]
) -> tuple[AgentSpec, RegistryPreparation]:
    """The spec of a member like any other, always restarted, ready when healthy; and its fixed command line."""
    port = int(url.rpartition(":")[2])
    argv, environ = _program(mesh, state, port, shell)
    spec = AgentSpec(
        REGISTRY,
        CommandLine(argv),
        mesh.root if mesh.registry.kind == "command" else state.path,
        port=port,
        host=_host(mesh),
        ready=ReadyCheck(HttpProbe("/health"), interval=0.25),
        start_timeout=30,
        live=LiveCheck(HttpProbe("/health"), interval=10, timeout=3, failures=3),  # one that hangs takes no heartbeat
        watch=False,
        backoff=Backoff(initial=0.2, max=5),
        stop=StopRule(timeout=3),
    )
    return spec, RegistryPreparation(argv, environ)


def _host(mesh: MeshSpec) -> str:
    """It listens on loopback unless others are told to come from elsewhere."""
    return "127.0.0.1" if mesh.advertise in ("127.0.0.1", "localhost") else "0.0.0.0"


def _port(mesh: MeshSpec) -> int:
    spec = mesh.registry
    if spec.strict or spec.kind == "command":
        holder = holder_of(spec.port, _host(mesh))
        if holder is not None:
            raise PortTaken(REGISTRY, spec.port, holder)
        return spec.port
    promised = {agent.port for agent in mesh.agents.values() if agent.port}
    return free_port([port for port in REGISTRY_PORTS if port not in promised], taken=promised)


def _program(
    mesh: MeshSpec, state: StateDir, port: int, shell: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    if mesh.registry.kind == "command":
        return mesh.registry.command, {**shell, "HOST": _host(mesh), "PORT": str(port)}
    # -P: the folder that it runs in must not be where its modules are looked for.
    argv = (sys.executable, "-P", "-m", "mesh_supervisor.registry", "--host", _host(mesh), "--port", str(port))
    return (*argv, "--own-store", str(state.path / "registry.db"), "--allow-host", mesh.advertise), dict(shell)
