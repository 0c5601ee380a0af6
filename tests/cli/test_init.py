"""`init`: which programs become agents, which only comments; never over a file that is there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command

SERVER = "from http.server import HTTPServer\nif __name__ == '__main__':\n    import os\n    os.environ['PORT']\n"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder of its own, so that nothing above it holds a mesh.toml."""
    folder = tmp_path / "My Project"
    folder.mkdir()
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def agents(meshsup: Command, folder: Path) -> dict[str, Any]:
    done = meshsup("init", cwd=folder)
    assert done.code == 0, done.err
    found: dict[str, Any] = tomllib.loads((folder / "mesh.toml").read_text()).get("agents", {})
    return found


MAIN = "if __name__ == '__main__':\n    "
APP = "from fastapi import FastAPI\napp = FastAPI()\n"
SDK = "import mesh\n@mesh.agent(name='greeter', http_port=9101)\nclass Greeter: ...\n"
MCP_HTTP = f"from fastmcp import FastMCP\nm = FastMCP('x')\n{MAIN}m.run(transport='http')\n"
WEATHER = {"command": "weather/main.py", "port": 9000}
IN_FOLDER = {"command": ["uvicorn", "api:app"], "directory": "pkg/sub", "port": 8101}


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("clock.py", SERVER, {"clock": {"command": "clock.py", "port": 8101}}),
        ("weather/main.py", "import uvicorn\nuvicorn.run('x:app', port=9000)\n", {"weather": WEATHER}),
        ("greeter.py", SDK, {"greeter": {"command": "greeter.py", "port": 9101}}),
        ("web.py", APP, {"web": {"command": ["uvicorn", "web:app"], "port": 8101}}),
        ("pkg/sub/api.py", APP, {"sub": IN_FOLDER}),
        ("Poll It!.py", "while True:\n    pass\n", {"poll-it": {"command": "Poll It!.py"}}),
        ("mcp_http.py", MCP_HTTP, {"mcp_http": {"command": "mcp_http.py", "port": 8101}}),
        ("registry.py", SERVER, {"registry-agent": {"command": "registry.py", "port": 8101}}),
        ("planner/__main__.py", SERVER, {"planner": {"module": "planner", "port": 8101}}),
        ("tool.py", f"{MAIN}print('once')\n", {}),
        ("library.py", "import fastapi\ndef helper(): ...\n", {}),
        ("tests/fake_server.py", SERVER, {}),
        ("test_clock.py", SERVER, {}),
        (".venv/lib/x.py", SERVER, {}),
        ("broken.py", "import uvicorn\nif __name__ == '__main__'\n", {}),
        ("binary.py", "\0\0", {}),
    ],
)
def test_one_program(meshsup: Command, empty: Path, name: str, source: str, expected: dict[str, Any]) -> None:
    write(empty, {name: source})
    assert agents(meshsup, empty) == expected


def test_doubt_is_a_comment(meshsup: Command, empty: Path) -> None:
    stdio = "from mcp.server.fastmcp import FastMCP\nm = FastMCP('x')\nif __name__ == '__main__':\n    m.run()\n"
    write(empty, {"tool.py": "if __name__ == '__main__':\n    ...\n", "notes.py": stdio})
    assert agents(meshsup, empty) == {}
    text = (empty / "mesh.toml").read_text()
    assert "# [agents.tool]" in text
    assert "may be a tool that does something once" in text
    assert "speaks over stdin and stdout" in text
    assert tomllib.loads(text)["mesh"]["name"] == "my-project"


def test_what_a_library_of_the_project_serves_counts(meshsup: Command, empty: Path) -> None:
    write(empty, {"common.py": SERVER.partition("if")[0] + "PORT = 'PORT'\n"})
    write(empty, {"planner.py": "from common import serve\nif __name__ == '__main__':\n    serve()\n"})
    assert agents(meshsup, empty) == {"planner": {"command": "planner.py", "port": 8101}}


IMPORTING = f"from common.llm import ask\n{SERVER}"


def test_what_is_imported_from_further_up_makes_a_module_of_it(meshsup: Command, empty: Path) -> None:
    """As a script it could not find it: Python looks where the script is."""
    write(
        empty,
        {
            "common/llm.py": "",
            "agents/planner.py": IMPORTING,
            "agents/mail/send.py": f"from . import text\n{SERVER}",
            "agents/web/api.py": f"from common.llm import ask\n{APP}",
            "agents/mail/__init__.py": "",
            "agents/mail/text.py": "",
            "deep/own/run_it.py": IMPORTING,
            "deep/own/common/llm.py": "",
            "no-module/x.py": IMPORTING,
        },
    )
    found = agents(meshsup, empty)
    assert {name: table.get("module") or table["command"] for name, table in found.items()} == {
        "planner": "agents.planner",
        "send": "mail.send",
        "web": ["uvicorn", "agents.web.api:app"],
        "run_it": "deep/own/run_it.py",
        "x": "no-module/x.py",
    }
    assert [table.get("directory") for name, table in found.items() if name != "send"] == [None] * 4
    assert found["send"]["directory"] == "agents"


def test_a_folder_of_many_names_none_of_them(meshsup: Command, empty: Path) -> None:
    write(empty, {"agents/api.py": SERVER, "agents/main.py": SERVER, "planner/app.py": SERVER})
    assert set(agents(meshsup, empty)) == {"api", "main", "planner"}


def test_a_uv_workspace(meshsup: Command, empty: Path) -> None:
    write(
        empty,
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/old"]\n',
            "packages/planner/pyproject.toml": '[project.scripts]\nplanner = "planner.app:main"\n',
            "packages/planner/src/planner/app.py": SERVER,
            "packages/planner/src/planner/__init__.py": "",
            "packages/old/pyproject.toml": '[project.scripts]\nold = "old:main"\n',
            "packages/library/pyproject.toml": '[project]\nname = "library"\n',
        },
    )
    assert agents(meshsup, empty) == {
        "planner": {"command": ["uv", "run", "planner"], "directory": "packages/planner", "port": 8101}
    }


def test_names_and_ports_differ(meshsup: Command, empty: Path) -> None:
    write(empty, {"a/clock.py": SERVER, "b/clock.py": SERVER, "c.py": "import uvicorn\nuvicorn.run(port=8101)\n"})
    found = agents(meshsup, empty)
    assert set(found) == {"clock", "clock-2", "c"}
    assert sorted(agent["port"] for agent in found.values()) == [8101, 8102, 8103]


def test_what_is_written_is_valid(meshsup: Command, empty: Path) -> None:
    write(empty, {"clock.py": SERVER, 'quo"te\\.py': SERVER})
    agents(meshsup, empty)
    assert meshsup("check", cwd=empty).code == 0


def test_nothing_found_is_still_a_start(meshsup: Command, empty: Path) -> None:
    done = meshsup("init", cwd=empty)
    assert done.code == 0
    assert "nothing looked like an agent" in done.err
    assert "# [agents.planner]" in (empty / "mesh.toml").read_text()


def test_never_over_a_file_without_force(meshsup: Command, root: Path) -> None:
    before = (root / "mesh.toml").read_text()
    done = meshsup("init")
    assert done.code == 2
    assert "exists; --force replaces it" in done.err
    assert (root / "mesh.toml").read_text() == before
    assert meshsup("init", "--print").out.startswith("# Written by")
    assert (root / "mesh.toml").read_text() == before
    assert meshsup("init", "--force").code == 0
    assert (root / "mesh.toml").read_text() != before


def test_it_is_written_where_it_was_wanted(meshsup: Command, empty: Path) -> None:
    assert meshsup("-C", str(empty), "-f", "other.toml", "init").code == 0
    assert (empty / "other.toml").exists()
    assert meshsup("-C", str(empty / "gone"), "init").code == 2
