"""Which Python, what it can import, what it can compile: real environments, made without a network."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.host import interpreter
from mesh_supervisor.host.interpreter import (
    Environment,
    InterpreterError,
    Interpreters,
    argv_of,
    find_interpreter,
    inspect,
    loads,
)
from mesh_supervisor.spec import AgentSpec, CommandLine, Module, Script
from tests.host.editable import by_finder, by_path, record

PYTHON = Path(sys.executable)


def agent(folder: Path, **keys: object) -> AgentSpec:
    return AgentSpec("planner", **{"command": Module("planner"), "directory": folder, **keys})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment (symlinked, without pip: 30 ms)."""
    folder = tmp_path_factory.mktemp("env") / ".venv"
    venv.create(folder, symlinks=True, with_pip=False)
    return folder


@pytest.fixture
def site_packages(environment: Path) -> Iterator[Path]:
    """Of that environment; empty again afterwards."""
    folder = next(environment.glob("lib/python*/site-packages"))
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def asked(environment: Path) -> Environment:
    return inspect(environment / "bin/python", os.environ)


# ---- which one -----------------------------------------------------------------------------------------------------


def test_the_nearest_venv_upward_then_virtual_env_then_our_own(tmp_path: Path, environment: Path) -> None:
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    assert find_interpreter(agent(deep), {}).python == PYTHON
    found = find_interpreter(agent(deep), {"VIRTUAL_ENV": str(environment)})
    assert (found.python, found.virtual_env) == (environment / "bin/python", environment)
    (tmp_path / ".venv").symlink_to(environment)
    found = find_interpreter(agent(deep), {"VIRTUAL_ENV": "/nowhere"})
    assert (found.python, found.bin) == (tmp_path / ".venv/bin/python", tmp_path / ".venv/bin")
    assert ".venv" in found.why


def test_a_venv_without_a_python_is_none(tmp_path: Path) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to("/nowhere/python")
    assert find_interpreter(agent(tmp_path), {}).python == PYTHON


STRANGER = 54321


def given(path: Path, user: int) -> None:
    """Of a link, not what it leads to."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    os.chown(path, user, user, follow_symlinks=False)


def own_environment(folder: Path) -> Path:
    """The least that counts as one."""
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(PYTHON)
    return folder / ".venv"


@pytest.mark.parametrize("of_stranger", [".venv", ".venv/bin/python"])
def test_a_strangers_venv_is_passed_over_and_that_is_said(tmp_path: Path, of_stranger: str) -> None:
    above, project = tmp_path, tmp_path / "project"
    own_environment(above)
    project.mkdir()
    given(above / of_stranger, STRANGER)
    not_taken = f"; not {above}/.venv, which belongs to uid {STRANGER} (`python` takes it)"
    found = find_interpreter(agent(project), {})
    assert (found.python, found.virtual_env) == (PYTHON, None)
    assert found.why == f"no .venv of yours, so the one that runs meshsup{not_taken}"
    active = own_environment(tmp_path / "active")
    found = find_interpreter(agent(project), {"VIRTUAL_ENV": str(active)})
    assert (found.virtual_env, found.why) == (active, f"$VIRTUAL_ENV ({active}){not_taken}")
    # In its own folder it is that of who may change the agent too (a container, a team), unless that is like /tmp.
    assert find_interpreter(agent(above), {}).virtual_env == above / ".venv"
    above.chmod(0o1777)
    assert find_interpreter(agent(above), {}).virtual_env is None


def test_the_venv_of_who_owns_the_agent_or_the_mesh_or_called_sudo_counts(tmp_path: Path) -> None:
    project, mesh = tmp_path / "project", tmp_path / "mesh"
    environment = own_environment(tmp_path)
    for folder in (project, mesh):
        folder.mkdir()
    for path in (environment, environment / "bin/python"):
        given(path, STRANGER)

    def taken(environ: dict[str, str] | None = None) -> bool:
        return find_interpreter(agent(project), environ or {}, mesh).virtual_env == environment

    assert not taken()
    assert taken({"SUDO_UID": str(STRANGER)})
    given(mesh, STRANGER)
    assert taken()
    given(mesh, 0)
    given(project, STRANGER)
    assert taken()


def test_a_venv_above_that_of_a_stranger_is_still_found(tmp_path: Path) -> None:
    environment, between = own_environment(tmp_path), tmp_path / "between"
    given(own_environment(between), STRANGER)
    (between / "project").mkdir()
    found = find_interpreter(agent(between / "project"), {})
    assert found.virtual_env == environment
    assert (
        found.why
        == f"nearest .venv ({environment}); not {between}/.venv, which belongs to uid {STRANGER} (`python` takes it)"
    )


def test_what_mesh_toml_says_wins_and_brings_its_environment(tmp_path: Path, environment: Path) -> None:
    (tmp_path / ".venv").symlink_to(environment)
    found = find_interpreter(agent(tmp_path, python=Path("/usr/bin/python3")), {})
    assert (found.python, found.bin, found.virtual_env) == (Path("/usr/bin/python3"), None, None)
    found = find_interpreter(agent(tmp_path, python=environment / "bin/python"), {})
    assert found.virtual_env == environment


def test_a_command_line_that_names_one_by_path(tmp_path: Path, environment: Path) -> None:
    (tmp_path / "other").symlink_to(environment)
    command = CommandLine(("other/bin/python", "x.py"))
    assert find_interpreter(agent(tmp_path, command=command), {}).python == tmp_path / "other/bin/python"


def test_the_words_that_start_an_agent(tmp_path: Path) -> None:
    found = find_interpreter(agent(tmp_path), {})
    python = str(PYTHON)
    script = agent(tmp_path, command=Script(tmp_path / "x.py"), args=("--fast",))
    assert argv_of(script, found) == (python, str(tmp_path / "x.py"), "--fast")
    assert argv_of(agent(tmp_path), found) == (python, "-m", "planner")
    assert argv_of(agent(tmp_path, command=CommandLine(("uv", "run", "x")), args=("y",)), found) == (
        "uv",
        "run",
        "x",
        "y",
    )


# ---- what it can import ----------------------------------------------------------------------------------------------


def test_an_empty_environment(environment: Path) -> None:
    found = asked(environment)
    assert found.version == sys.version_info[:2]
    assert str(next(environment.glob("lib/python*/site-packages"))) in {*found.path} & {*found.foreign}
    assert all(entry in found.foreign or entry.endswith(".zip") for entry in found.path)
    assert "json" in found.stdlib and "sys" in found.builtin and not found.strange
    assert found.editable == () and found.mappings == {}


def test_a_pth_file_as_hatch_uv_and_poetry_write_it(tmp_path: Path, site_packages: Path, environment: Path) -> None:
    library = tmp_path / "library/src"
    library.mkdir(parents=True)
    by_path(site_packages, "shared", library)
    record(site_packages, "shared", library.parent, scripts={"shared-tool": "shared.cli:main"})
    found = asked(environment)
    assert str(library) in found.path
    assert {library, library.parent} == set(found.editable)
    assert found.scripts == {"shared-tool": "shared.cli:main"}


def test_the_finder_that_setuptools_writes(tmp_path: Path, site_packages: Path, environment: Path) -> None:
    """For packages that a folder on the path cannot give: renamed folders, and one in a namespace."""
    mapping = {"shared": str(tmp_path / "code"), "acme.part": str(tmp_path / "parts/one")}
    by_finder(site_packages, "shared", mapping, {"acme": [str(tmp_path / "acme")]})
    found = asked(environment)
    assert found.mappings == mapping
    assert found.namespaces == {"acme": (str(tmp_path / "acme"),)}
    assert not found.strange
    assert not any("__editable__" in entry for entry in found.path)


def test_the_finder_of_the_editables_library(tmp_path: Path, site_packages: Path, environment: Path) -> None:
    (site_packages / "redirector.py").write_text(
        "class RedirectingFinder:\n"
        f"    _redirections = {{'shared': {str(tmp_path / 'shared/__init__.py')!r}}}\n"
        "    @classmethod\n    def find_spec(cls, name, path=None, target=None): return None\n"
    )
    (site_packages / "_shared.pth").write_text(
        "import redirector, sys; sys.meta_path.append(redirector.RedirectingFinder)"
    )
    assert asked(environment).mappings == {"shared": str(tmp_path / "shared/__init__.py")}


def test_finders_that_nobody_knows_are_said(site_packages: Path, environment: Path) -> None:
    (site_packages / "odd.py").write_text(
        "class Odd:\n    def find_spec(self, name, path=None, target=None): return None\n"
        "import sys\nsys.meta_path.append(Odd())\n"
    )
    (site_packages / "odd.pth").write_text("import odd")
    assert asked(environment).strange == ("odd.Odd",)


def test_what_it_says_on_its_own_does_no_harm(site_packages: Path, environment: Path) -> None:
    (site_packages / "noisy.pth").write_text("import sys; print('hello'); print('{', file=sys.stderr)")
    assert asked(environment).version == sys.version_info[:2]


def test_modules_in_the_working_directory_cannot_stand_in(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert str(tmp_path) not in asked(environment).path


def test_it_is_asked_again_only_when_something_was_installed(
    site_packages: Path, environment: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        known = Interpreters(os.environ)
        python = environment / "bin/python"
        first, again = await asyncio.gather(known.inspect(python), known.inspect(python))
        assert again is first
        record(site_packages, "late", tmp_path, scripts={"late": "late:main"})
        later = await known.inspect(python)
        assert later.scripts == {"late": "late:main"}
        (site_packages / "late.pth").write_text(f"{tmp_path}\n")
        assert str(tmp_path) in (await known.inspect(python)).path

    asyncio.run(scenario())


def test_one_that_is_just_being_asked_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes between the start of the interpreter and the moment in which it is known to have been started."""
    monkeypatch.setattr(interpreter, "_hung_up", threading.Event())
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)

    class Popen(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **keys: Any) -> None:
            super().__init__(*arguments, **keys)
            interpreter.hang_up()

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(InterpreterError, match="it says nothing"):
        interpreter.inspect(silent, os.environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho no python here\n", "does not answer like a Python"),
        ("#!/bin/sh\necho it is broken >&2; exit 1\n", "it is broken"),
        ("#!/nowhere/sh\n", "cannot run"),
    ],
)
def test_what_is_no_python_is_an_error_in_words(tmp_path: Path, text: str, said: str) -> None:
    fake = tmp_path / "python"
    fake.write_text(text)
    fake.chmod(0o755)
    with pytest.raises(InterpreterError, match=said):
        inspect(fake, os.environ)


# ---- does it load? ---------------------------------------------------------------------------------------------------


def broken(environment: Environment, *files: Path) -> list[tuple[str, int, str]]:
    found = asyncio.run(loads(environment, files, os.environ))
    return [(one.file.name, one.line, one.message) for one in found]


@pytest.fixture(params=["in this process", "in its own"])
def compiler(request: pytest.FixtureRequest, environment: Path) -> Environment:
    """Another version is asked in a process of its own."""
    own = asked(environment)
    if request.param == "in this process":
        return own
    return replace(own, version=(3, 99))


def test_files_that_do_not_compile(compiler: Environment, tmp_path: Path) -> None:
    texts = {
        "good.py": b"import nowhere\nx = '\\d'\nraise SystemExit\n",
        "paren.py": b"\n\nx = (1,\n",
        "indent.py": b"def f():\nreturn 1\n",
        "null.py": b"x = 1\x00",
        "coding.py": b"# -*- coding: nonsense -*-\n",
        "late.py": b"def f():\n    return\n\nbreak\n",
        "notes.md": b"(",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    found = broken(compiler, *(tmp_path / name for name in (*texts, "missing.py")))
    assert [(name, line) for name, line, _ in found[:2]] == [("paren.py", 3), ("indent.py", 2)]
    assert {name for name, _, _ in found} == {"paren.py", "indent.py", "null.py", "coding.py", "late.py"}
    messages = {name: message for name, _, message in found}
    assert messages["paren.py"] == "SyntaxError: '(' was never closed"
    assert messages["indent.py"].startswith("IndentationError: ")
    assert messages["late.py"] == "SyntaxError: 'break' outside loop"


def test_the_runtime_is_compiled_for_the_interpreter_that_will_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "link.py").write_text("pass\n")
    monkeypatch.setattr("mesh_supervisor.host.interpreter.RUNTIME", runtime)
    inspect(Path(sys.executable), os.environ)
    assert Path(importlib.util.cache_from_source(str(runtime / "link.py"))).exists()
