"""The inputs of agents on real trees: layouts, environments, command lines, globs, and what an edit means."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Collection
from pathlib import Path

import pytest

from mesh_supervisor.host.filesystems import git_locks
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.inputs import InputFinder, count, stale_bytecode
from mesh_supervisor.host.projects import LARGEST, Declared, declared_scripts, outermost, project_roots
from mesh_supervisor.impact import Inputs, chain_text, reason_for
from mesh_supervisor.spec import AgentSpec, CommandLine, Module, Script
from tests.host.editable import by_finder, by_path, by_uv, record, write


class Mesh:
    """A folder with agents, and what is found out about them."""

    def __init__(self, root: Path, **shell: str) -> None:
        self.root = root
        self.ignore = Ignore([root], ["**/*_generated.py"], state_dir=root / ".mesh")
        self.finder = InputFinder(root, self.ignore, {"PATH": os.environ["PATH"], **shell})

    def agent(self, command: str | list[str], **keys: object) -> AgentSpec:
        """A script's path, ``-m NAME``, or a list of words."""
        if isinstance(command, list):
            what: object = CommandLine(tuple(command))
        else:
            what = Module(command[3:]) if command.startswith("-m ") else Script(self.root / command)
        fields = {"command": what, "directory": self.root, **keys}
        return AgentSpec("planner", **fields)  # type: ignore[arg-type]

    def inputs(self, command: str | list[str] | AgentSpec, **keys: object) -> Inputs:
        spec = command if isinstance(command, AgentSpec) else self.agent(command, **keys)
        return asyncio.run(self.finder.inputs_of(spec))

    def files(self, command: str | list[str], **keys: object) -> set[str]:
        return {os.path.relpath(file, self.root) for file in self.inputs(command, **keys).files}

    def broken(self, before: AgentSpec, changed: Collection[str], tolerated: Inputs | None = None) -> str | None:
        async def ask() -> str | None:
            inputs = await self.finder.inputs_of(before)
            paths = [self.root / name for name in changed]
            return await self.finder.broken(before, inputs, paths, tolerated.gone if tolerated else ())

        return asyncio.run(ask())


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    """An empty project; git's folder marks its root."""
    root = tmp_path / "project"
    root.mkdir()
    (root / ".git").mkdir()
    return Mesh(root)


@pytest.fixture
def environment(mesh: Mesh) -> Path:
    """The project's own .venv, without pip."""
    venv.create(mesh.root / ".venv", symlinks=True, with_pip=False)
    return mesh.root / ".venv"


def site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


# ---- layouts -------------------------------------------------------------------------------------------------------


def test_scripts_in_a_folder_and_a_module(mesh: Mesh) -> None:
    write(
        mesh.root,
        {
            "agents/planner.py": "from helpers import x\nfrom common import y",
            "agents/helpers.py": "x = 1",
            "common/__init__.py": "from .llm import y",
            "common/llm.py": "y = 1",
            "common/unused.py": "",
        },
    )
    assert mesh.files("agents/planner.py") == {"agents/planner.py", "agents/helpers.py"}
    assert mesh.files("-m agents.planner") == {"agents/planner.py", "common/__init__.py", "common/llm.py"}
    python_path = mesh.files("agents/planner.py", environment={"PYTHONPATH": "."})
    assert python_path == {"agents/planner.py", "agents/helpers.py", "common/__init__.py", "common/llm.py"}


def test_python_path_of_the_shell(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "import shared", "libs/shared.py": ""})
    assert Mesh(tmp_path, PYTHONPATH=str(tmp_path / "libs")).files("main.py") == {"main.py", "libs/shared.py"}


def test_python_path_outside_the_project_is_the_projects_if_mesh_toml_says_so(mesh: Mesh, tmp_path: Path) -> None:
    write(mesh.root, {"main.py": "import shared"})
    write(tmp_path, {"libs/shared.py": ""})
    assert mesh.files("main.py", environment={"PYTHONPATH": "../libs"}) == {"main.py", "../libs/shared.py"}
    from_shell = Mesh(mesh.root, PYTHONPATH=str(tmp_path / "libs")).inputs("main.py")
    assert len(from_shell.files) == 1 and any("watch.roots" in note for note in from_shell.notes)


def test_a_safe_path_leaves_out_the_scripts_folder(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import tool", "tool.py": ""})
    assert mesh.files("main.py", environment={"PYTHONSAFEPATH": "1"}) == {"main.py"}


def test_a_script_behind_a_link(mesh: Mesh) -> None:
    write(mesh.root, {"real/main.py": "import beside", "real/beside.py": "", "bin/beside.py": ""})
    (mesh.root / "bin/main.py").symlink_to("../real/main.py")
    assert mesh.files("bin/main.py") == {"bin/main.py", "real/main.py", "real/beside.py"}


def test_a_library_behind_a_link(mesh: Mesh, tmp_path: Path) -> None:
    """The editor saves the real file, and that is the path which the watcher names."""
    write(mesh.root, {"main.py": "import shared.deep"})
    write(tmp_path, {"elsewhere/shared/__init__.py": "", "elsewhere/shared/deep.py": ""})
    (mesh.root / "shared").symlink_to(tmp_path / "elsewhere/shared")
    found = mesh.inputs("main.py")
    assert tmp_path / "elsewhere/shared/deep.py" in found.files
    reason = reason_for(tmp_path / "elsewhere/shared/deep.py", found)
    assert reason is not None and chain_text(reason, mesh.root).endswith("shared/deep.py ← main.py (import)")


def test_installed_packages_are_no_inputs_though_their_folder_lies_in_the_project(
    mesh: Mesh, environment: Path
) -> None:
    write(site_packages(environment), {"tool/__init__.py": "import inner", "inner.py": ""})
    write(mesh.root, {"main.py": "import tool, json\nfrom mesh import agent"})
    found = mesh.inputs("main.py")
    assert set(found.files) == {mesh.root / "main.py"}
    assert found.third_party == {"tool", "mesh"}


# ---- editable installs ---------------------------------------------------------------------------------------------

PYPROJECT = """
[project]
name = "shared"
version = "1"
[project.scripts]
shared-agent = "shared.app:main"
[build-system]
requires = ["uv_build>=0.8,<1"]
build-backend = "uv_build"
"""
SCRIPTS = {"shared-agent": "shared.app:main"}
LIBRARY = {"__init__.py": "", "deep.py": "from .other import x", "other.py": "x = 1", "app.py": "from . import deep"}


def expect_library(mesh: Mesh, code: Path) -> None:
    write(mesh.root, {"main.py": "import shared.deep"})
    expected = {code / name for name in ("__init__.py", "deep.py", "other.py")}
    assert set(mesh.inputs("main.py").files) == {mesh.root / "main.py", *expected}
    assert set(mesh.inputs("-m shared.app").files) == {*expected, code / "app.py"}
    assert set(mesh.inputs(["shared-agent", "--fast"]).files) == {*expected, code / "app.py"}
    assert set(mesh.inputs(["uv", "run", "shared-agent"]).files) == {*expected, code / "app.py"}
    roots = asyncio.run(mesh.finder.roots([mesh.agent("main.py")]))
    assert all(any(file.is_relative_to(root) for root in roots) for file in expected)


def test_a_src_layout_outside_the_mesh(mesh: Mesh, environment: Path, tmp_path: Path) -> None:
    library = tmp_path / "libs/shared"
    write(library / "src/shared", LIBRARY)
    by_path(site_packages(environment), "shared", library / "src")
    record(site_packages(environment), "shared", library, SCRIPTS)
    expect_library(mesh, library / "src/shared")


def test_renamed_folders_outside_the_mesh(mesh: Mesh, environment: Path, tmp_path: Path) -> None:
    library = tmp_path / "libs/shared"
    write(library / "code", LIBRARY)
    by_finder(site_packages(environment), "shared", {"shared": str(library / "code")})
    record(site_packages(environment), "shared", library, SCRIPTS)
    expect_library(mesh, library / "code")


def test_a_part_of_a_namespace_outside_the_mesh(mesh: Mesh, environment: Path, tmp_path: Path) -> None:
    parts = tmp_path / "libs/acme/src/acme"
    write(parts, {"one/__init__.py": "from . import deep", "one/deep.py": ""})
    write(site_packages(environment), {"acme/installed/__init__.py": ""})
    by_finder(site_packages(environment), "acme_one", {"acme.one": str(parts / "one")}, {"acme": []})
    write(mesh.root, {"main.py": "import acme.one, acme.installed, acme.two", "acme/two.py": ""})
    assert set(mesh.inputs("main.py").files) == {
        mesh.root / "main.py", mesh.root / "acme/two.py", parts / "one/__init__.py", parts / "one/deep.py"
    }  # fmt: skip


def test_uv_outside_the_mesh(mesh: Mesh, environment: Path, tmp_path: Path) -> None:
    library = tmp_path / "libs/shared"
    write(library / "src/shared", LIBRARY)
    write(library, {"pyproject.toml": PYPROJECT})
    by_uv(environment, library)
    expect_library(mesh, library / "src/shared")


def test_an_install_while_we_run_is_seen(mesh: Mesh, environment: Path, tmp_path: Path) -> None:
    write(mesh.root, {"main.py": "import shared"})
    assert mesh.files("main.py") == {"main.py"}
    write(tmp_path, {"late/shared.py": ""})
    (site_packages(environment) / "late.pth").write_text(f"{tmp_path / 'late'}\n")
    assert mesh.files("main.py") == {"main.py", "../late/shared.py"}


# ---- command lines -----------------------------------------------------------------------------------------------


def test_a_project_that_is_not_installed_yet(mesh: Mesh) -> None:
    """`uv run planner` on a fresh checkout: pyproject.toml tells."""
    write(
        mesh.root,
        {
            "pyproject.toml": '[project]\nname = "x"\n[project.scripts]\nplanner = "planner.cli:main"\n',
            "src/planner/__init__.py": "",
            "src/planner/cli.py": "from .core import x",
            "src/planner/core.py": "x = 1",
        },
    )
    expected = {"src/planner/__init__.py", "src/planner/cli.py", "src/planner/core.py"}
    assert mesh.files(["uv", "run", "planner"]) == expected
    assert mesh.files(["planner"]) == expected


def test_the_members_of_a_uv_workspace(mesh: Mesh) -> None:
    write(
        mesh.root,
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n',
            "packages/one/pyproject.toml": '[project]\nname = "one"\n[project.scripts]\none = "one:main"\n',
            "packages/one/src/one/__init__.py": "import two",
            "packages/two/pyproject.toml": '[project]\nname = "two"\n',
            "packages/two/src/two.py": "",
        },
    )
    expected = {"packages/one/src/one/__init__.py", "packages/two/src/two.py"}
    assert mesh.files(["uv", "run", "one"]) == expected


@pytest.mark.parametrize("pattern", ["../../../proc/**", "locked/*", "", "/"])
def test_what_no_workspace_has_as_a_member_hurts_nobody(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    def glob(folder: Path, text: str) -> list[Path]:
        raise PermissionError(13, "Permission denied", "locked")

    monkeypatch.setattr(Path, "glob", glob)
    project = f'[project]\nname = "x"\nscripts = {{ x = "x:main" }}\n[tool.uv.workspace]\nmembers = ["{pattern}"]\n'
    write(mesh.root, {"pyproject.toml": project, "x.py": ""})
    assert mesh.files(["uv", "run", "x"]) == {"x.py"}


def test_a_strangers_project_above_declares_nothing_here(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    write(tmp_path, {"pyproject.toml": '[project.scripts]\nx = "x:main"\n', "work/x.py": ""})
    assert declared_scripts(tmp_path / "work").scripts == {"x": "x:main"}
    os.chown(tmp_path / "pyproject.toml", 54321, 54321)
    assert declared_scripts(tmp_path / "work").scripts == {}
    assert declared_scripts(tmp_path).scripts == {"x": "x:main"}
    with (tmp_path / "pyproject.toml").open("a") as file:
        file.truncate(2 * LARGEST)
    assert declared_scripts(tmp_path).scripts == {}


def test_uvicorn_and_what_it_loads(mesh: Mesh) -> None:
    write(mesh.root, {"app/__init__.py": "", "app/main.py": "from .deps import x", "app/deps.py": "x = 1"})
    found = mesh.inputs(["uvicorn", "app.main:app", "--port", "8101"])
    assert {file.name for file in found.files} == {"__init__.py", "main.py", "deps.py"}
    assert "uvicorn" in found.third_party


def test_programs_that_are_not_python_and_what_is_ignored_in_their_folder(mesh: Mesh) -> None:
    write(
        mesh.root,
        {
            "node/agent.js": "",
            "node/lib/x.js": "",
            "node/node_modules/big/index.js": "",
            "node/.gitignore": "out/\n",
            "node/out/built.js": "",
            "node/server.log": "",
            "other.js": "",
        },
    )
    for words in (["node", "agent.js"], ["sh", "-c", "exec node agent.js"], ["./agent.js"]):
        found = mesh.inputs(words, directory=mesh.root / "node")
        if words[0] == "./agent.js":
            continue  # not executable: not there
        assert found.directories == (mesh.root / "node",)
        assert found.matched == {mesh.root / "node" / name for name in ("agent.js", "lib/x.js", ".gitignore")}
        assert found.notes and found.known


def test_a_program_that_is_not_there_yet_is_asked_about_again(mesh: Mesh) -> None:
    for words in (["not-installed-yet"], ["uv", "run", "not-installed-yet"]):
        found = mesh.inputs(words)
        assert not found.known and found.warning and not found.directories


def test_a_script_that_is_deleted_comes_back(mesh: Mesh) -> None:
    found = mesh.inputs("gone.py")
    assert mesh.root / "gone.py" in found.missing and not found.files


def test_from_a_process_that_runs(mesh: Mesh) -> None:
    """What was started is seen in /proc: the words that a wrapper came to, in the folder where it stands."""
    write(mesh.root, {"deep/agent.py": "import tool\nprint('up', flush=True)\ninput()\n", "deep/tool.py": ""})
    wrapper = ["sh", "-c", f"cd deep && {sys.executable} agent.py; true"]
    with subprocess.Popen(wrapper, cwd=mesh.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            spec = mesh.agent(["not-installed-yet"], watch=("*.md",))
            assert not mesh.inputs(spec).known
            found = asyncio.run(mesh.finder.inputs_of_running(spec, process.pid))
        finally:
            process.communicate(b"\n")
    assert found is not None
    assert set(found.files) == {mesh.root / "deep/agent.py", mesh.root / "deep/tool.py"}
    assert [glob.text for glob in found.globs] == ["*.md"]
    assert asyncio.run(mesh.finder.inputs_of_running(spec, process.pid)) is None
    assert mesh.inputs(spec) == found  # remembered, while its command stays the same
    assert not mesh.inputs(["something", "else"]).known


# ---- globs, env files, what the user ignores -----------------------------------------------------------------------


def test_what_globs_hold_now(mesh: Mesh) -> None:
    write(
        mesh.root,
        {
            "main.py": "",
            ".gitignore": "build/\n*.json\n",
            "prompts/a.md": "",
            "prompts/deep/b.md": "",
            "prompts/c.txt": "",
            "node_modules/x/y.md": "",
            "build/notes.md": "",
            "build/other.md": "",
            "config/a.json": "",
        },
    )
    patterns = ("prompts/**/*.md", "build/notes.md", "config/*.json", "**/y.md", "!prompts/deep/b.md")
    found = mesh.inputs("main.py", watch=patterns)
    assert {os.path.relpath(file, mesh.root) for file in found.matched} == {
        "prompts/a.md", "build/notes.md", "config/a.json"
    }  # fmt: skip
    assert mesh.inputs("main.py", watch=False).watched is False


def test_env_files_and_what_the_user_ignores(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import model_generated", "model_generated.py": "import tool", "tool.py": ""})
    found = mesh.inputs("main.py", env_files=(mesh.root / ".env",))
    assert found.env_files == {mesh.root / ".env"}
    # Followed, since the program runs it; no input, since the user says so.
    assert mesh.root / "model_generated.py" in found.files
    assert found.paths == {mesh.root / "main.py", mesh.root / "tool.py", mesh.root / ".env"}


def test_an_env_file_that_may_come_counts_when_it_is_there(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": ""})
    env = mesh.root / ".env"
    assert env in mesh.inputs("main.py", env_files=(env,)).paths
    assert count(mesh.inputs("main.py", env_files=(env,))) == 1
    env.write_text("A=1")
    assert count(mesh.inputs("main.py", env_files=(env,))) == 2


def test_plugins_that_appear(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import importlib\nimportlib.import_module(f'tools.{x}')", "tools/a.py": ""})
    found = mesh.inputs("main.py")
    assert mesh.root / "tools/a.py" in found.files
    reason = reason_for(mesh.root / "tools/new.py", found)
    assert reason is not None and chain_text(reason, mesh.root) == "tools/new.py ← main.py (import, new file)"


# ---- edits -----------------------------------------------------------------------------------------------------------


def test_every_edit_is_seen_also_two_of_equal_length_at_once(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import aaa", "aaa.py": "", "bbb.py": "", "ccc.py": ""})
    for name in ("aaa", "bbb", "ccc", "bbb"):
        write(mesh.root, {"main.py": f"import {name}"})
        assert mesh.files("main.py") == {"main.py", f"{name}.py"}


def test_new_files_and_deleted_ones_are_seen(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import tool"})
    assert mesh.files("main.py") == {"main.py"}
    write(mesh.root, {"tool.py": ""})
    assert mesh.files("main.py") == {"main.py", "tool.py"}
    write(mesh.root, {"tool/__init__.py": ""})
    assert mesh.files("main.py") == {"main.py", "tool/__init__.py"}
    (mesh.root / "tool/__init__.py").unlink()
    assert mesh.files("main.py") == {"main.py", "tool.py"}


def test_old_files_are_not_read_again(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    write(mesh.root, {"main.py": "import tool", "tool.py": ""})
    for path in (mesh.root / "main.py", mesh.root / "tool.py", mesh.root):
        os.utime(path, (time.time() - 60, time.time() - 60))
    first = mesh.inputs("main.py", watch=("*.md",))
    monkeypatch.setattr("mesh_supervisor.host.sources.read_source", None)
    monkeypatch.setattr("mesh_supervisor.host.sources.closure", None)
    assert mesh.inputs("main.py", watch=("*.md",)) == first


def test_a_file_in_the_middle_of_an_edit_keeps_its_imports(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import tool", "tool.py": ""})
    mesh.inputs("main.py")
    write(mesh.root, {"main.py": "import tool\nimport (\n"})
    assert mesh.files("main.py") == {"main.py", "tool.py"}
    write(mesh.root, {"main.py": "imp(\n"})
    assert mesh.files("main.py") == {"main.py", "tool.py"}


def test_syntax_errors_and_gone_names_are_said_with_their_place(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import json\nfrom rules import greeting", "rules.py": "def greeting(): pass"})
    spec = mesh.agent("main.py")
    assert mesh.broken(spec, ["main.py", "rules.py"]) is None
    write(mesh.root, {"rules.py": "def salutation(): pass"})
    said = mesh.broken(spec, ["rules.py"])
    assert said == "ImportError: cannot import name 'greeting' from 'rules' … main.py:2"
    write(mesh.root, {"rules.py": "\ndef greeting(:"})
    assert mesh.broken(spec, ["rules.py"]) == "SyntaxError: invalid syntax … rules.py:2"
    (mesh.root / "rules.py").unlink()
    assert mesh.broken(spec, ["rules.py"]) == "ModuleNotFoundError: No module named 'rules' … main.py:2"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("agents/main.py", "FileNotFoundError: no such file … agents/main.py"),
        ("-m agents.main", "ModuleNotFoundError: No module named 'agents.main' … agents/main.py"),
        (["python", "-m", "agents.main"], "ModuleNotFoundError: No module named 'agents.main' … agents/main.py"),
        (["uvicorn", "agents.main:app"], "ModuleNotFoundError: No module named 'agents.main' … agents/main.py"),
    ],
)
def test_a_program_that_is_deleted_cannot_start(mesh: Mesh, command: str | list[str], said: str) -> None:
    files = {"agents/__init__.py": "", "agents/main.py": "app = 1\n", "agents/other.py": ""}
    write(mesh.root, files)
    spec = mesh.agent(command)
    assert not mesh.inputs(spec).gone
    (mesh.root / "agents/main.py").unlink()
    assert mesh.broken(spec, ["agents/main.py"]) == said
    assert mesh.broken(spec, ["agents/other.py"]) is None


def test_a_module_that_became_a_package_can_start(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "app = 1\n"})
    spec, server = mesh.agent("-m main"), mesh.agent(["uvicorn", "main:app"])
    assert mesh.inputs(spec).files and mesh.inputs(server).files
    (mesh.root / "main.py").unlink()
    write(mesh.root, {"main/__init__.py": "app = 1\n", "main/__main__.py": ""})
    for agent in (spec, server):
        assert mesh.broken(agent, ["main.py", "main/__init__.py", "main/__main__.py"]) is None


def test_what_an_installed_script_loads_is_gone_when_it_is_deleted(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "from rules import greeting\napp = 1\n", "rules.py": "greeting = 1\n"})
    spec = mesh.agent(["uvicorn", "main:app"])
    (mesh.root / "rules.py").unlink()
    assert mesh.broken(spec, ["rules.py"]) == "ModuleNotFoundError: No module named 'rules' … main.py:1"


def test_a_verdict_that_what_serves_lives_with_is_no_verdict(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "from rules import greeting\nX = 1", "rules.py": ""})
    serving = mesh.inputs("main.py")
    assert serving.gone
    spec = mesh.agent("main.py")
    write(mesh.root, {"main.py": "from rules import greeting\nX = 2"})
    assert mesh.broken(spec, ["main.py"]) is not None
    assert mesh.broken(spec, ["main.py"], serving) is None
    write(mesh.root, {"other.py": ""})
    assert mesh.broken(spec, ["other.py"]) is None  # a change that has nothing to do with it


def test_what_uv_may_install_before_it_runs_is_not_gone(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import new_dependency"})
    assert mesh.broken(mesh.agent(["uv", "run", "main.py"]), ["main.py"]) is None
    assert mesh.broken(mesh.agent(["python", "main.py"]), ["main.py"]) is not None


def test_bytecode_of_changed_modules_is_removed(mesh: Mesh) -> None:
    write(mesh.root, {"tool.py": "", "tools.py": "", "x[1].py": ""})
    kept = mesh.root / "__pycache__/tools.cpython-311.pyc"
    stale = [mesh.root / f"__pycache__/tool.cpython-{version}.pyc" for version in ("311", "312.opt-1")]
    odd = mesh.root / "__pycache__/x[1].cpython-311.pyc"
    write(mesh.root, {str(path.relative_to(mesh.root)): "" for path in (kept, odd, *stale)})
    assert set(stale_bytecode(mesh.root / "tool.py")) == set(stale)
    mesh.finder.forget_bytecode([mesh.root / "tool.py", mesh.root / "x[1].py", mesh.root / "gone.py"])
    assert kept.exists() and not odd.exists() and not any(path.exists() for path in stale)


# ---- trouble -------------------------------------------------------------------------------------------------------


def test_an_interpreter_that_does_not_run_is_a_warning_and_the_imports_are_known_all_the_same(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import tool", "tool.py": "", ".venv/bin/python": "#!/bin/sh\nexit 1\n"})
    (mesh.root / ".venv/bin/python").chmod(0o755)
    found = mesh.inputs("main.py")
    assert {file.name for file in found.files} == {"main.py", "tool.py"}
    assert found.warning and "does not start" in found.warning
    assert not found.gone


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_inputs_that_tell_nothing(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import tool", "tool.py": "import other", "other.py": ""})
    (mesh.root / "tool.py").chmod(0)
    assert mesh.files("main.py") == {"main.py", "tool.py"}


def test_links_that_lead_in_a_circle(mesh: Mesh) -> None:
    write(mesh.root, {"main.py": "import loop.loop.loop", "prompts/a.md": ""})
    (mesh.root / "loop").symlink_to(".")
    with contextlib.suppress(FileExistsError):
        (mesh.root / "prompts/again").symlink_to("..")
    found = mesh.inputs("main.py", watch=("prompts/**",))
    assert found.matched == {mesh.root / "prompts/a.md", mesh.root / "prompts/again"}


# ---- roots -----------------------------------------------------------------------------------------------------------


def test_roots_are_the_repository_or_workspace_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"work/pyproject.toml": "[tool.uv.workspace]\nmembers = []\n", "work/mesh/x": "", "libs/y": ""})
    mesh_folder = tmp_path / "work/mesh"
    assert project_roots(mesh_folder) == (tmp_path / "work",)
    assert project_roots(mesh_folder, [tmp_path / "libs"]) == (tmp_path / "libs", tmp_path / "work")
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    assert project_roots(mesh_folder) == (tmp_path,)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_roots(mesh_folder) == (tmp_path / "work",)  # a home under version control is no project


def test_what_a_stranger_lays_above_makes_no_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    write(tmp_path, {"pyproject.toml": "[tool.uv.workspace]\nmembers = []\n", "mesh/x": ""})
    (tmp_path / ".git").mkdir()
    for name, left in ((".git", tmp_path), ("pyproject.toml", tmp_path / "mesh")):
        os.chown(tmp_path / name, 54321, 54321)
        assert project_roots(tmp_path / "mesh") == (left,)
    os.chown(tmp_path / "mesh", 54321, 54321)
    assert project_roots(tmp_path / "mesh") == (tmp_path,)


def test_a_pipe_above_keeps_nobody_waiting(tmp_path: Path) -> None:
    for name in ("pyproject.toml", ".git"):
        os.mkfifo(tmp_path / name)
    assert declared_scripts(tmp_path / "deep") == Declared({}, ())
    assert git_locks([tmp_path / "deep"]) == (tmp_path / ".git/index.lock",)


def test_outermost() -> None:
    a, b = Path("/a"), Path("/a/b")
    assert outermost([b, a, b, Path("/ab")]) == (a, Path("/ab"))
