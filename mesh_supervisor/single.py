"""PURE. One agent of a mesh, supervised by itself: what `meshsup run AGENT` makes of mesh.toml, and how it ends.

For engines (Compose, Kubernetes, systemd) that start one such command per agent. What they do is left to them: the
order of starts, restarts, keeping what was written to stdout.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.lifecycle import Exit
from mesh_supervisor.spec import AgentSpec, Kind, LogSpec, MeshSpec, Register, Restart, is_loopback

REGISTRY_CURE = 'set MESHSUP_REGISTRY_URL, or [registry] kind = "external" with url'


def alone(mesh: MeshSpec, name: str) -> MeshSpec:
    """``mesh`` with this one agent, as it was read for it (config.load). Raises UnknownAgent."""
    if name not in mesh.agents:
        raise UnknownAgent(name, mesh.agents)
    written = mesh.agents[name]
    unregistered = mesh.registry.kind == "none"
    spec = replace(
        written,
        depends_on=(),
        profiles=(),
        restart=Restart.NEVER,
        essential=False,  # whatever ends it ends us: see Supervisor
        register=Register.NEVER if unregistered else written.register,
    )
    missing = unregistered and _would_be_registered(written)
    warnings = (f"{name} is not registered: nothing says where the registry is; {REGISTRY_CURE}",) if missing else ()
    return replace(
        mesh,
        alone=name,
        agents=MappingProxyType({name: spec}),
        logs=LogSpec(files=False),
        warnings=(*mesh.warnings, *warnings, *_unreachable(mesh, spec)),
    )


def _would_be_registered(spec: AgentSpec) -> bool:
    return spec.register is not Register.NEVER and spec.kind is Kind.SERVICE and spec.port is not None


def _unreachable(mesh: MeshSpec, spec: AgentSpec) -> tuple[str, ...]:
    """A registry elsewhere would tell everybody an address that only this machine can use."""
    elsewhere = mesh.registry.kind == "external" and not is_loopback(mesh.registry.host)
    if not elsewhere or not _would_be_registered(spec):
        return ()
    said = []
    if is_loopback(mesh.advertise):
        said.append(
            f"others are told to find {spec.name} at {mesh.advertise}, on their own machine; set MESHSUP_ADVERTISE"
        )
    if is_loopback(spec.host):
        said.append(f'{spec.name} listens on {spec.host}, where others cannot reach it; write host = "0.0.0.0"')
    return tuple(said)


def exit_code_of(ended: Exit) -> int:
    """What our own is when the agent has ended by itself: its own, 128 + n as a shell says it for one that a signal
    ended, and 1 for one that was of no use (never ready, not live, no process)."""
    if ended.signal is not None:
        return 128 + ended.signal
    return 1 if ended.code is None else ended.code
