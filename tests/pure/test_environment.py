"""What an agent finds in its environment, and who wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.environment import PRIVATE, agent_id, build, state_dir_of, when_warm
from mesh_supervisor.spec import AgentSpec, CommandLine, MeshSpec, Mode, RegistrySpec, Script

ROOT = Path("/mesh")
MESH = MeshSpec("demo", ROOT / "mesh.toml", ROOT, ROOT / ".mesh", advertise="box")
SPEC = AgentSpec("planner", Script(ROOT / "planner.py"), ROOT, port=8101)
PROD = replace(MESH, mode=Mode.PROD)
SHARED = replace(MESH, registry=RegistrySpec("external", url="http://reg:8000"))


def told(
    spec: AgentSpec = SPEC, mesh: MeshSpec = MESH, shell: Mapping[str, str] | None = None, **more: Any
) -> dict[str, str]:
    given = {"registry_url": "http://127.0.0.1:8000", **more}
    return build(spec, mesh, shell=shell or {}, generation=7, owner="abcd1234", **given)


# ---- precedence ------------------------------------------------------------------------------------------------------

OURS = {
    "PORT": "8101",
    "HOST": "127.0.0.1",
    "MESHSUP_PORT": "8101",
    "MESHSUP_HOST": "127.0.0.1",
    "MESHSUP_AGENT": "planner",
    "MESHSUP_GENERATION": "7",
    "MESHSUP_REGISTRY_URL": "http://127.0.0.1:8000",
    "MCP_MESH_REGISTRY_URL": "http://127.0.0.1:8000",
    "MESHSUP_STATE_DIR": "/mesh/.mesh/agents/planner",
    "PYTHONUNBUFFERED": "1",
    "MCP_MESH_AGENT_ID": "planner-0007",
    "MCP_MESH_HTTP_HOST": "box",
    "MCP_MESH_HTTP_PORT": "8101",
    "MCP_MESH_HEALTH_INTERVAL": "1",
    "UVICORN_PORT": "8101",
    "UVICORN_HOST": "127.0.0.1",
    "VIRTUAL_ENV": "/mesh/.venv",
}
"""Of an agent with a port, the SDK, uvicorn and a virtual environment."""


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shell", [{}, "shell"])
@pytest.mark.parametrize("toml", [{}, "mesh.toml"])
def test_mesh_toml_beats_us_and_we_beat_the_shell(name: str, shell: str, toml: str) -> None:
    spec = replace(SPEC, environment={name: toml} if toml else {})
    found = told(
        spec,
        shell={name: shell} if shell else {},
        frameworks=["mesh", "uvicorn"],
        bin_dir=ROOT / ".venv/bin",
        virtual_env=ROOT / ".venv",
    )
    assert found[name] == (toml or OURS[name])


def test_the_rest_of_the_shell_is_inherited_and_mesh_toml_beats_it() -> None:
    spec = replace(SPEC, environment={"MODEL": "small"})
    found = told(spec, shell={"MODEL": "large", "HOME": "/home/ada"})
    assert found["MODEL"] == "small"
    assert found["HOME"] == "/home/ada"


@pytest.mark.parametrize("name", PRIVATE)
def test_what_is_meant_for_the_supervisor_is_not_passed_on(name: str) -> None:
    assert name not in told(shell={name: "1"})


# ---- address ---------------------------------------------------------------------------------------------------------


def test_without_a_port_no_address_is_told() -> None:
    found = told(replace(SPEC, port=None), frameworks=["uvicorn"])
    assert not {"PORT", "HOST", "MESHSUP_PORT", "MESHSUP_HOST", "UVICORN_PORT", "MCP_MESH_HTTP_PORT"} & found.keys()


@pytest.mark.parametrize(
    ("framework", "names"),
    [
        ("uvicorn", ("UVICORN_HOST", "UVICORN_PORT")),
        ("fastmcp", ("FASTMCP_HOST", "FASTMCP_PORT")),
        ("mcp", ("FASTMCP_HOST", "FASTMCP_PORT")),
        ("flask", ("FLASK_RUN_HOST", "FLASK_RUN_PORT")),
        ("streamlit", ("STREAMLIT_SERVER_ADDRESS", "STREAMLIT_SERVER_PORT")),
        ("gradio", ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT")),
    ],
)
def test_frameworks_by_import_and_by_word(framework: str, names: tuple[str, str]) -> None:
    spec = replace(SPEC, host="0.0.0.0")
    by_import = told(spec, frameworks=[framework])
    assert [by_import[name] for name in names] == ["0.0.0.0", "8101"]
    by_word = told(replace(spec, command=CommandLine(("uv", "run", f"/opt/bin/{framework}", "app:app"))))
    assert [by_word[name] for name in names] == ["0.0.0.0", "8101"]
    assert not set(names) & told(spec, frameworks=["httpx"]).keys()


# ---- the MCP Mesh SDK ------------------------------------------------------------------------------------------------


def test_without_the_sdk_its_names_are_not_told() -> None:
    found = told(replace(SPEC, command=CommandLine(("node", "serve.js", "mesh"))))
    assert {name for name in found if name.startswith("MCP_MESH")} == {"MCP_MESH_REGISTRY_URL"}


def test_the_sdk_is_quick_to_tell_only_in_dev_mode() -> None:
    assert "MCP_MESH_HEALTH_INTERVAL" not in told(mesh=PROD, frameworks=["mesh"])


def test_an_sdk_agent_without_a_port_is_told_its_host_but_no_port() -> None:
    found = told(replace(SPEC, port=None), frameworks=["mesh"])
    assert found["HOST"] == "127.0.0.1"
    assert "MCP_MESH_HTTP_PORT" not in found


def test_ids_tell_owners_apart_where_a_registry_is_shared() -> None:
    assert told(mesh=SHARED, frameworks=["mesh"])["MCP_MESH_AGENT_ID"] == "planner-abcd1234-0007"
    assert agent_id("a", 12345, "abcd1234", shared=False) == "a-12345"


def test_where_nobody_knows_of_a_registry_the_agent_may() -> None:
    shell = {"MCP_MESH_REGISTRY_URL": "http://registry:8000"}
    assert told(shell=shell, registry_url="")["MCP_MESH_REGISTRY_URL"] == "http://registry:8000"
    assert "MESHSUP_REGISTRY_URL" not in told(registry_url="")


# ---- the virtual environment -----------------------------------------------------------------------------------------


def test_its_programs_stand_first() -> None:
    found = told(shell={"PATH": "/usr/bin:/bin"}, bin_dir=ROOT / ".venv/bin", virtual_env=ROOT / ".venv")
    assert found["PATH"] == "/mesh/.venv/bin:/usr/bin:/bin"
    assert told(shell={"PATH": ""}, bin_dir=ROOT / "bin")["PATH"] == "/mesh/bin"  # no empty part: that is "here"
    assert told(bin_dir=ROOT / "bin")["PATH"] == "/mesh/bin"


def test_a_path_of_mesh_toml_is_left_alone() -> None:
    spec = replace(SPEC, environment={"PATH": "/opt/bin"})
    assert told(spec, shell={"PATH": "/bin"}, bin_dir=ROOT / "bin")["PATH"] == "/opt/bin"


def test_pythonhome_of_the_shell_would_break_it_one_of_mesh_toml_is_meant() -> None:
    home = {"PYTHONHOME": "/usr"}
    assert "PYTHONHOME" not in told(shell=home, virtual_env=ROOT / ".venv")
    assert told(shell=home)["PYTHONHOME"] == "/usr"
    assert told(replace(SPEC, environment=home), virtual_env=ROOT / ".venv")["PYTHONHOME"] == "/usr"


def test_the_folder_that_outlives_reloads() -> None:
    assert state_dir_of(MESH, "planner") == Path("/mesh/.mesh/agents/planner")


def test_the_sdk_waits_less_only_where_its_imports_are_done() -> None:
    assert "MCP_MESH_DEBOUNCE_DELAY" not in told(frameworks=["mesh"])
    assert when_warm(SPEC, ["mesh"]) == {"MCP_MESH_DEBOUNCE_DELAY": "0.3"}
    assert when_warm(SPEC, ["fastapi"]) == {}
    assert when_warm(replace(SPEC, environment={"MCP_MESH_DEBOUNCE_DELAY": "2"}), ["mesh"]) == {}
