"""Command lines of real files and environments."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mesh_supervisor.host.interpreter import Interpreters, find_interpreter
from mesh_supervisor.host.targets import Targets
from mesh_supervisor.spec import AgentSpec, Command, CommandLine, Module, Script
from mesh_supervisor.target import Plain, Target

UV = Path(sys.executable).with_name("uv")


def found(
    command: Command | str, folder: Path, environ: Mapping[str, str] | None = None, *, runtime: bool = True
) -> Target | Plain:
    environ = {**os.environ, "VIRTUAL_ENV": str(Path(sys.prefix)), **(environ or {})}
    if isinstance(command, str):
        command = CommandLine(tuple(command.split()))
    spec = AgentSpec(name="a", command=command, directory=folder, args=("--fast",), runtime=runtime)
    return asyncio.run(Targets(environ, Interpreters(environ)).of(spec, find_interpreter(spec, environ)))


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def test_scripts_and_modules(tmp_path: Path) -> None:
    python = str(Path(sys.prefix, "bin", "python"))
    path = str(tmp_path / "x.py")
    assert found(Script(Path(path)), tmp_path) == Target(
        python, (), "script", path, ("--fast",), (python, path, "--fast")
    )
    assert found(Module("app"), tmp_path) == Target(
        python, (), "module", "app", ("--fast",), (python, "-m", "app", "--fast")
    )


def test_python_is_that_of_the_environment(tmp_path: Path) -> None:
    target = found("python -u x.py", tmp_path)
    assert isinstance(target, Target)
    assert (target.python, target.words[0]) == (str(Path(sys.prefix, "bin", "python")), "python")


def test_a_console_script_of_the_environment(tmp_path: Path) -> None:
    target = found("uvicorn app:app", tmp_path)
    assert isinstance(target, Target)
    assert (target.kind, target.name) == ("script", str(Path(sys.prefix, "bin", "uvicorn")))
    run = subprocess.run([target.python, target.name, "--version"], capture_output=True, text=True, check=True)
    assert "uvicorn" in run.stdout


def test_an_executable_file_of_its_own(tmp_path: Path) -> None:
    tool = executable(tmp_path / "tool", f"#!{sys.executable} -u\nimport sys\nprint(sys.orig_argv)\n")
    target = found("./tool", tmp_path)
    assert isinstance(target, Target)
    assert (target.python, target.flags, target.name) == (sys.executable, ("-u",), "./tool")
    run = subprocess.run(["./tool"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout.strip() == str(list(target.words[:-1]))
    tool.chmod(0o644)
    assert found("./tool", tmp_path) == Plain("./tool is not found")


def test_runtime_is_switched_off(tmp_path: Path) -> None:
    plain = found("python x.py", tmp_path, runtime=False)
    assert isinstance(plain, Plain)
    assert plain.reason == "runtime = false"


def test_a_python_that_is_none(tmp_path: Path) -> None:
    python = executable(tmp_path / "bin" / "python", "#!/bin/sh\necho hello\n")
    plain = found(f"{python} x.py", tmp_path)
    assert isinstance(plain, Plain)
    assert plain.reason == f"{python} does not answer like a Python"


def test_another_program(tmp_path: Path) -> None:
    plain = found("ls", tmp_path)
    assert isinstance(plain, Plain)
    assert plain.reason == "ls is no Python program"


@pytest.mark.skipif(not UV.exists(), reason="uv is not installed beside this Python")
def test_uv_run_of_a_project_in_sync_is_what_uv_would_run(tmp_path: Path) -> None:
    """Without dependencies nothing is fetched."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.10"\n')
    (tmp_path / "x.py").write_text("import sys\nprint(sys.orig_argv)\n")
    environ = {"PATH": f"{UV.parent}{os.pathsep}{os.environ['PATH']}", "UV_PYTHON_DOWNLOADS": "never"}
    sync = [str(UV), "sync", "--offline", "--python", sys.executable]
    outside = {name: value for name, value in {**os.environ, **environ}.items() if name != "VIRTUAL_ENV"}
    subprocess.run(sync, cwd=tmp_path, env=outside, check=True, capture_output=True)

    target = found("uv run --offline x.py", tmp_path, environ)

    assert isinstance(target, Target), target
    words = ["uv", "run", "--offline", "x.py", "--fast"]
    run = subprocess.run(words, cwd=tmp_path, env=outside, check=True, capture_output=True, text=True)
    seen = run.stdout.strip()
    assert [Path(word).name.rstrip("3") for word in target.words] == [
        Path(word.strip("'")).name.rstrip("3") for word in seen.strip("[]").split(", ")
    ]
    assert Path(target.python).parent == tmp_path / ".venv" / "bin"
    (tmp_path / "uv.lock").unlink()
    plain = found("uv run --offline x.py", tmp_path, environ)
    assert isinstance(plain, Plain)
    assert "no uv.lock" in plain.reason
