"""PURE. What an agent finds in its environment, and who wins.

From the weakest to the strongest: the shell that started ``meshsup``, what we tell every agent (its address under
the names that its framework reads, the registry, its folder), and what mesh.toml says (``AgentSpec.environment``).
A value that happens to be exported in the shell never beats ours: PORT=3000 in somebody's profile is an accident.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec, Mode

MARK = "MESHSUP_INSTANCE"
"""OWNER/agent/generation: whose process this is. Inherited by everything that an instance starts."""

PRIVATE = (MARK, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Meant for `meshsup` itself (systemd, an outer mesh), never for its agents."""

FRAMEWORK_NAMES: Mapping[str, tuple[str, str]] = {
    "uvicorn": ("UVICORN_HOST", "UVICORN_PORT"),
    "fastmcp": ("FASTMCP_HOST", "FASTMCP_PORT"),
    "mcp": ("FASTMCP_HOST", "FASTMCP_PORT"),
    "flask": ("FLASK_RUN_HOST", "FLASK_RUN_PORT"),
    "streamlit": ("STREAMLIT_SERVER_ADDRESS", "STREAMLIT_SERVER_PORT"),
    "gradio": ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"),
}
"""Top-level import, or word of the command line -> the names under which that framework reads host and port."""

OF_THE_TERMINAL = re.compile(
    r"TERM|TERM_.*|COLORTERM|LINES|COLUMNS|(NO|FORCE)_COLOR|CLICOLOR.*|TTY|SSH_TTY|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY"
    r"|EDITOR|VISUAL|PAGER|INPUTRC|PYTHONBREAKPOINT|PYTHON_COLORS|PYTHON_BASIC_REPL|(DEBUGPY|PYDEVD|VSCODE)_.*"
)
"""Names that tell of the terminal somebody sits at, and of his debugger: no matter where the mesh was started."""

MESH_SDK = "mesh"
"""The top-level import of the MCP Mesh SDK (distribution mcp-mesh)."""


SDK_DEBOUNCE = "0.3"
"""Seconds after its last decorator in which the SDK waits for more (its own default is 1.0). Enough where the imports
are done; in a cold start on a busy machine its server is not there by then, and the agent never gets healthy."""


def agent_id(name: str, generation: int, owner: str, *, shared: bool) -> str:
    """``planner-0007``; with the owner in it where several supervisors share one registry, also those of replicas."""
    return f"{name}-{owner}-{generation:04d}" if shared else f"{name}-{generation:04d}"


def words_of(spec: AgentSpec) -> frozenset[str]:
    """The base names of a command line's words: ["uvicorn", "app:app"] does not import uvicorn, it is uvicorn."""
    argv = spec.command.argv if isinstance(spec.command, CommandLine) else ()
    return frozenset(word.rsplit("/", 1)[-1] for word in argv)


def build(
    spec: AgentSpec,
    mesh: MeshSpec,
    *,
    shell: Mapping[str, str],
    generation: int,
    owner: str,
    registry_url: str,
    frameworks: Collection[str] = (),
    bin_dir: Path | None = None,
    virtual_env: Path | None = None,
) -> dict[str, str]:
    """The whole environment of one instance. ``frameworks``: the top-level names of what it imports."""
    names = frozenset(frameworks) | words_of(spec)
    environment = {key: value for key, value in shell.items() if key not in PRIVATE}
    environment.update(_ours(spec, mesh, generation, registry_url))
    environment.update(_address(spec, names))
    if MESH_SDK in frameworks:  # not a word of the command line: many things are called mesh
        environment.update(_mesh_sdk(spec, mesh, generation, owner))
    environment.update(spec.environment)
    if virtual_env is not None and "VIRTUAL_ENV" not in spec.environment:
        environment["VIRTUAL_ENV"] = str(virtual_env)
        if "PYTHONHOME" not in spec.environment:
            environment.pop("PYTHONHOME", None)
    if bin_dir is not None and "PATH" not in spec.environment:
        environment["PATH"] = f"{bin_dir}:{environment['PATH']}" if environment.get("PATH") else str(bin_dir)
    return environment


def in_terminal(environ: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """``environ``, as the mesh would start it, in the terminal that ``shell`` is the environment of."""
    seen = {key: value for key, value in shell.items() if OF_THE_TERMINAL.fullmatch(key)}
    return {**environ, **seen}


def when_warm(spec: AgentSpec, frameworks: Collection[str]) -> dict[str, str]:
    """What an instance is told besides that starts from a warm process."""
    if MESH_SDK not in frameworks or "MCP_MESH_DEBOUNCE_DELAY" in spec.environment:
        return {}
    return {"MCP_MESH_DEBOUNCE_DELAY": SDK_DEBOUNCE}


def state_dir_of(mesh: MeshSpec, agent: str) -> Path:
    """The agent's own folder, which outlives reloads."""
    return mesh.state_dir / "agents" / agent


def _ours(spec: AgentSpec, mesh: MeshSpec, generation: int, registry_url: str) -> dict[str, str]:
    told = {
        "PYTHONUNBUFFERED": "1",
        "MESHSUP_AGENT": spec.name,
        "MESHSUP_GENERATION": str(generation),
        "MESHSUP_STATE_DIR": str(state_dir_of(mesh, spec.name)),
    }
    if not registry_url:  # the agent may know of one: what it was given for that stays
        return told
    return {**told, "MESHSUP_REGISTRY_URL": registry_url, "MCP_MESH_REGISTRY_URL": registry_url}


def _address(spec: AgentSpec, names: frozenset[str]) -> dict[str, str]:
    if spec.port is None:
        return {}
    host, port = spec.host, str(spec.port)
    told = {"HOST": host, "PORT": port, "MESHSUP_HOST": host, "MESHSUP_PORT": port}
    for framework, (host_name, port_name) in FRAMEWORK_NAMES.items():
        if framework in names:
            told |= {host_name: host, port_name: port}
    return told


def _mesh_sdk(spec: AgentSpec, mesh: MeshSpec, generation: int, owner: str) -> dict[str, str]:
    """The SDK binds HOST and advertises MCP_MESH_HTTP_HOST; unset, it would announce an external address."""
    told = {
        "HOST": spec.host,
        "MCP_MESH_HTTP_HOST": mesh.advertise,
        "MCP_MESH_AGENT_ID": agent_id(spec.name, generation, owner, shared=mesh.registry.kind == "external"),
    }
    if spec.port is not None:
        told["MCP_MESH_HTTP_PORT"] = str(spec.port)
    if mesh.mode is Mode.DEV:
        told["MCP_MESH_HEALTH_INTERVAL"] = "1"  # dependents learn of a change in 1 s instead of 5
    return told
