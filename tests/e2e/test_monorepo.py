"""A monorepo in the shape people have, one running mesh for all of these tests.

    repository/
      libs/shared/           a library with a pyproject of its own, installed editable, outside mesh.toml's folder
      services/              a uv workspace, with mesh.toml and the .venv
        alpha/ beta/ gamma/  packages with a pyproject each: a console script, a module, and `uv run`
        shell/ node/         programs that are not Python

uv builds and installs these packages by itself (its own build backend, no dependencies), so no index is asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh, fresh_mesh, overwrite, server, wait_for

UV = Path(sys.executable).with_name("uv")
NODE = shutil.which("node")
BUILD = '[build-system]\nrequires = ["uv_build>=0.8,<1"]\nbuild-backend = "uv_build"\n'

pytestmark = pytest.mark.skipif(not UV.exists(), reason="needs uv (extra `test`)")


def package(mesh: Mesh, name: str) -> None:
    mesh.write(
        f"services/{name}/pyproject.toml",
        f"""
        [project]
        name = "{name}"
        version = "1"
        requires-python = ">=3.11"
        dependencies = ["shared"]
        [project.scripts]
        {name} = "{name}.app:main"
        [tool.uv.sources]
        shared = {{ path = "../../libs/shared", editable = true }}
        """,
    )
    with (mesh.root / f"services/{name}/pyproject.toml").open("a") as file:
        file.write(BUILD)
    mesh.write(f"services/{name}/src/{name}/__init__.py", "")
    mesh.write(f"services/{name}/src/{name}/answers.py", f'ANSWER = "{name} one"\n')
    served = server(name, "").replace(f"ANSWER = {name!r}", "from shared import polite\nfrom .answers import ANSWER")
    served = served.replace("ANSWER.encode()", "polite(ANSWER).encode()")
    served = served.replace("ThreadingHTTPServer((", "def main():\n    ThreadingHTTPServer((")
    mesh.write(f"services/{name}/src/{name}/app.py", served + "\nif __name__ == '__main__':\n    main()\n")


def workspace(mesh: Mesh) -> None:
    mesh.write(
        "services/pyproject.toml",
        """
        [project]
        name = "services"
        version = "1"
        requires-python = ">=3.11"
        dependencies = ["alpha", "beta", "gamma"]
        [tool.uv]
        package = false
        [tool.uv.workspace]
        members = ["alpha", "beta", "gamma"]
        [tool.uv.sources]
        alpha = { workspace = true }
        beta = { workspace = true }
        gamma = { workspace = true }
        shared = { path = "../libs/shared", editable = true }
        """,
    )
    mesh.write("libs/shared/pyproject.toml", f'[project]\nname = "shared"\nversion = "1"\n{BUILD}')
    mesh.write("libs/shared/src/shared/__init__.py", "from .manners import polite\n")
    mesh.write("libs/shared/src/shared/manners.py", 'def polite(text):\n    return text + ", please"\n')
    for name in ("alpha", "beta", "gamma"):
        package(mesh, name)
    mesh.write("services/shell/work.sh", "echo shell one\nwhile true; do sleep 1; done\n")
    mesh.write(
        "services/node/agent.js",
        """
        const answer = "node one";
        require("http").createServer((_, response) => response.end(answer)).listen(process.env.PORT, process.env.HOST);
        """,
    )


def mesh_toml(mesh: Mesh) -> str:
    text = f"""
        [registry]
        port = {mesh.registry_port}
        [agents.alpha]
        command = ["alpha"]
        port = {mesh.port("alpha")}
        [agents.beta]
        module = "beta.app"
        port = {mesh.port("beta")}
        [agents.gamma]
        command = ["uv", "run", "gamma"]
        port = {mesh.port("gamma")}
        [agents.shell]
        command = ["sh", "work.sh"]
        directory = "shell"
        ready = {{ log = "shell" }}
    """
    if NODE:
        text += f"""
        [agents.node]
        command = ["node", "agent.js"]
        directory = "node"
        port = {mesh.port("node")}
        """
    return text


@pytest.fixture(scope="module")
def monorepo() -> Iterator[Mesh]:
    """``root`` is the repository; the commands are run in its folder ``services``."""
    with fresh_mesh() as mesh:
        mesh.environ |= {
            "PATH": f"{UV.parent}{os.pathsep}{mesh.environ['PATH']}",
            "UV_OFFLINE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_CACHE_DIR": str(mesh.root / "cache"),
        }
        workspace(mesh)
        services = mesh.root / "services"
        subprocess.run([UV, "sync", "-q", "--python", sys.executable], cwd=services, env=mesh.environ, check=True)
        mesh.write("services/mesh.toml", mesh_toml(mesh))
        mesh.state_dir = services / ".mesh"
        mesh.ok("-C", "services", "up", "--wait", "--timeout", "60")
        try:
            yield mesh
        finally:
            mesh.run("-C", "services", "down")


def test_all_are_up_in_the_environment_of_the_workspace(monorepo: Mesh) -> None:
    views = monorepo.wait_ready()
    for name in ("alpha", "beta", "gamma"):
        assert monorepo.answer(name) == f"{name} one, please"
    assert str(monorepo.root / "services/.venv") in str(views["alpha"].interpreter)
    if NODE:
        assert monorepo.answer("node") == "node one"


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_an_edit_in_a_package_restarts_its_agent_only(monorepo: Mesh, name: str) -> None:
    with monorepo.only_restarts(name):
        monorepo.write(f"services/{name}/src/{name}/answers.py", f'ANSWER = "{name} two"\n')
    assert monorepo.answer(name) == f"{name} two, please"


def test_an_edit_of_the_shared_library_outside_restarts_its_three_importers(monorepo: Mesh) -> None:
    with monorepo.only_restarts("alpha", "beta", "gamma"):
        monorepo.edit("libs/shared/src/shared/manners.py", ", please", ", if you please")
    assert all(monorepo.answer(name).endswith("if you please") for name in ("alpha", "beta", "gamma"))


def test_a_new_module_in_the_library_that_nobody_imports_restarts_nobody_until_it_is_imported(monorepo: Mesh) -> None:
    with monorepo.only_restarts("beta"):
        monorepo.write("libs/shared/src/shared/rude.py", 'WORD = "now!"\n')
        monorepo.write("services/beta/src/beta/answers.py", 'from shared.rude import WORD\nANSWER = "beta " + WORD\n')
    with monorepo.only_restarts("beta"):
        monorepo.edit("libs/shared/src/shared/rude.py", "now!", "at once!")


def test_programs_that_are_not_python_restart_with_their_folder(monorepo: Mesh) -> None:
    with monorepo.only_restarts("shell"):
        monorepo.edit("services/shell/work.sh", "shell one", "shell two")
    wait_for(lambda: "shell two" in monorepo.run("-C", "services", "logs", "shell").out)
    if NODE:
        with monorepo.only_restarts("node"):
            monorepo.edit("services/node/agent.js", "node one", "node two")
        assert monorepo.answer("node") == "node two"


def test_a_broken_library_takes_nobody_down(monorepo: Mesh) -> None:
    before = monorepo.wait_ready()
    manners = monorepo.root / "libs/shared/src/shared/manners.py"
    good = manners.read_text()
    overwrite(manners, "def polite(:\n")
    wait_for(lambda: all(monorepo.agent(name).rejection for name in ("alpha", "beta", "gamma")))
    assert monorepo.pids() == {name: view.pid for name, view in before.items()}
    overwrite(manners, good)
    wait_for(lambda: not any(view.rejection for view in monorepo.agents().values()))
    assert monorepo.pids() == {name: view.pid for name, view in before.items()}


def test_why_reaches_across_the_packages(monorepo: Mesh) -> None:
    said = monorepo.ok("-C", "services", "why", str(monorepo.root / "libs/shared/src/shared/manners.py"))
    assert all(name in said for name in ("alpha", "beta", "gamma"))
    assert "shell" not in said and "node" not in said


def test_a_wrapped_agent_ends_with_its_wrapper(monorepo: Mesh) -> None:
    """`uv run` forwards the signal; whatever remains is swept."""
    monorepo.ok("-C", "services", "stop", "gamma")
    assert not [line for line in monorepo.processes().values() if "gamma" in line]
    monorepo.ok("-C", "services", "start", "gamma")
    monorepo.wait_ready()
