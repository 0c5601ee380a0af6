"""A command line comes to a program that the runtime can run, or runs plainly and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from posixpath import basename, join, normpath
from textwrap import dedent

import pytest

from mesh_supervisor.target import Plain, Python, Target, target_of, watched_by

OWN = "/p/.venv/bin/python"
PYPROJECT = """
    [project]
    name = "my.agent"
    dependencies = ["httpx[http2] >= 0.27, < 1", "tomli; python_version < '3.11'", "Ruamel.Yaml"]
    [project.optional-dependencies]
    fast = ["httptools"]
    [dependency-groups]
    dev = ["pytest>=8"]
    [build-system]
    requires = ["setuptools"]
"""
LOCK = """
    version = 1
    requires-python = ">=3.11"

    [[package]]
    name = "httpx"
    version = "0.28.1"
    source = { registry = "https://example.invalid/simple" }
    dependencies = [
        { name = "h2", extra = "x" },
    ]

    [[package]]
    name = "ruamel-yaml"
    version = "0.18.1"
    source = { registry = "https://example.invalid/simple" }

    [[package]]
    name = "my-agent"
    version = "0.1.0"
    source = { editable = "." }

    [package.metadata]
    requires-dist = [
        { name = "httpx", extras = ["http2"], specifier = ">=0.27,<1" },
        { name = "ruamel-yaml" },
        { name = "tomli", marker = "python_full_version < '3.11'" },
    ]

    [package.metadata.requires-dev]
    dev = [{ name = "pytest", specifier = ">=8" }]
"""
TRAMPOLINE = """#!/bin/sh
'''exec' "/p/with space/bin/python" "$0" "$@"
' '''
import sys
"""
RELOCATABLE = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python3' "$0" "$@"
' '''
"""
FILES = {
    "/p/x.py": "print(1)\n",
    "/p/alone.py": "#!/usr/bin/env -S uv run --script\n# /// script\n# dependencies = []\n# ///\n",
    "/p/folder/__main__.py": "",
    "/p/run": "#!/usr/bin/env python3\n",
    "/p/run-S": "#!/usr/bin/env -S python3 -u -X dev\n",
    "/p/start.sh": "#!/bin/bash\nexec python x.py\n",
    "/p/.venv/bin/uvicorn": f"#!{OWN}\nimport sys\n",
    "/p/.venv/bin/isolated": f"#! {OWN} -IE\n",
    "/p/.venv/bin/gone": "#!/gone/bin/python\n",
    "/p/.venv/bin/opentelemetry-instrument": f"#!{OWN}\n",
    "/p/.venv/bin/long": TRAMPOLINE,
    "/p/.venv/bin/relocated": RELOCATABLE,
    "/p/.venv/bin/ruby-tool": "#!/usr/bin/ruby\n",
    "/p/.venv/bin/binary": "\x7fELF",
    "/p/.venv/bin/python": "",
    "/p/.venv/bin/python3": "",
    "/p/with space/bin/python": "",
    "/usr/bin/python3.9": "",
    "/usr/bin/pypy3": "",
    "/usr/bin/python3.12": "",
    "/usr/bin/mute/python": "",
    "/usr/bin/uv": "\x7fELF",
    "/usr/bin/env": "\x7fELF",
    "/usr/bin/node": "\x7fELF",
}
PROJECT = {"/p/pyproject.toml": dedent(PYPROJECT), "/p/uv.lock": dedent(LOCK)}
INSTALLED = {"httpx": "0.28.1", "ruamel-yaml": "0.18.1", "my-agent": "0.0.9", "left-over": "1"}


@dataclass(frozen=True)
class Ground:
    files: Mapping[str, str] = field(default_factory=lambda: {**FILES, **PROJECT})
    environ: Mapping[str, str] = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=lambda: INSTALLED)
    python: str = OWN

    def which(self, name: str) -> str | None:
        places = [normpath(join("/p", name))] if "/" in name else [join("/p/.venv/bin", name), join("/usr/bin", name)]
        return next((place for place in places if place in self.files), None)

    def real_path(self, path: str) -> str:
        return path

    def is_file(self, path: str) -> bool:
        return path in self.files

    def start_of(self, path: str) -> str:
        return self.files.get(path, "")

    def text(self, path: str) -> str | None:
        return self.files.get(path)

    def variable(self, name: str) -> str | None:
        return self.environ.get(name)

    def about(self, python: str) -> Python | None:
        if "mute" in python:
            return None
        return {"python3.9": Python((3, 9)), "pypy3": Python((3, 11), "pypy")}.get(basename(python), Python((3, 11)))

    def installed(self) -> Mapping[str, str]:
        return self.distributions


def found(line: str | tuple[str, ...], ground: Ground | None = None) -> Target | Plain:
    words = tuple(line.split()) if isinstance(line, str) else line
    return target_of(words, "/p", ground or Ground())


def summary(target: Target | Plain) -> str:
    """``python [flags] | kind name | arguments``"""
    assert isinstance(target, Target), target
    python = target.python.replace(OWN, "own")
    return f"{' '.join((python, *target.flags))} | {target.kind} {target.name} | {' '.join(target.args)}".strip()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python x.py", "own | script x.py |"),
        ("python ./sub/../x.py --fast -m", "own | script ./sub/../x.py | --fast -m"),
        ("python -u -B x.py", "own -u -B | script x.py |"),
        ("python -X dev -W error -Xutf8 x.py", "own -X dev -W error -Xutf8 | script x.py |"),
        ("python --check-hash-based-pycs always x.py", "own --check-hash-based-pycs always | script x.py |"),
        ("python --check-hash-based-pycs=never x.py", "own --check-hash-based-pycs=never | script x.py |"),
        ("python -I -- x.py", "own -I | script x.py |"),
        ("python -m app --port 1", "own | module app | --port 1"),
        ("python -mapp one", "own | module app | one"),
        ("python -uBm app one", "own -uB | module app | one"),
        ("python -OOWignore -mapp", "own -OOWignore | module app |"),
        ("python3.12 x.py", "/usr/bin/python3.12 | script x.py |"),
        ("/usr/bin/python3.12 x.py", "/usr/bin/python3.12 | script x.py |"),
        ("python -m debugpy --listen 1 x.py", "own | module debugpy | --listen 1 x.py"),
        ("uvicorn app:app --port 1", "own | script /p/.venv/bin/uvicorn | app:app --port 1"),
        (".venv/bin/uvicorn app:app", "own | script .venv/bin/uvicorn | app:app"),
        ("isolated one", "own -IE | script /p/.venv/bin/isolated | one"),
        ("./run one", "own3 | script ./run | one"),
        ("./run-S one", "own3 -u -X dev | script ./run-S | one"),
        ("long one", "/p/with space/bin/python | script /p/.venv/bin/long | one"),
        ("relocated one", "own3 | script /p/.venv/bin/relocated | one"),
        ("uv run x.py one", "own | script x.py | one"),
        ("uv run folder", "own | script folder |"),
        ("uv run uvicorn app:app", "own | script /p/.venv/bin/uvicorn | app:app"),
        ("uv run python -u x.py", "own -u | script x.py |"),
        ("uv run python3.12 x.py", "/usr/bin/python3.12 | script x.py |"),
        ("uv run -m app one", "own | module app | one"),
        ("uv run --module=app one", "own | module app | one"),
        ("uv run --frozen -q --color never -- x.py --with", "own | script x.py | --with"),
        ("uv --quiet run --project . x.py", "own | script x.py |"),
        ("/usr/bin/uv run x.py", "own | script x.py |"),
    ],
)
def test_runs_in_the_runtime(line: str, expected: str) -> None:
    assert summary(found(line)) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python -u x.py a", ("python", "-u", "x.py", "a")),
        ("uvicorn app:app", (OWN, "/p/.venv/bin/uvicorn", "app:app")),
        ("./run-S a", ("python3", "-u", "-X", "dev", "./run-S", "a")),
        ("uv run -m app", (OWN, "-m", "app")),
    ],
)
def test_words_are_those_that_python_would_see(line: str, words: tuple[str, ...]) -> None:
    target = found(line)
    assert isinstance(target, Target)
    assert target.words == words


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("node x.js", "node is no Python program"),
        ("ruby-tool", "ruby-tool is run by ruby, not by Python"),
        ("./start.sh", "start.sh is a shell script"),
        ("sh -c python", "it is started by a shell (sh)"),
        ("/bin/bash x.sh", "it is started by a shell (bash)"),
        ("nothing-like-it", "nothing-like-it is not found"),
        ("gone", "the Python that the first line of gone names is not there"),
        ("env A=b python x.py", "env stands between"),
        ("/usr/bin/env python x.py", "env stands between"),
        ("nice -n 5 python x.py", "nice stands between"),
        ("poetry run x", "poetry stands between"),
        ("opentelemetry-instrument python x.py", "opentelemetry-instrument puts the program in its own place"),
        ("python -c pass", "its code stands in the command line (python -c)"),
        ("python -uc pass", "its code stands in the command line (python -c)"),
        ("python -i x.py", "python -i asks for a prompt"),
        ("python -ui x.py", "python -i asks for a prompt"),
        ("python -x x.py", "python -x skips the first line of the program"),
        ("python", "Python reads its program from stdin, and that is empty"),
        ("python -u -", "Python reads its program from stdin, and that is empty"),
        ("python -W", "Python reads its program from stdin, and that is empty"),
        ("python -m", "it has no program"),
        ("python -V", "that runs no program, it tells about Python"),
        ("python --version", "python --version runs no program"),
        ("python3.9 x.py", "its Python 3.9 is too old for the runtime; 3.10 or newer"),
        ("pypy3 x.py", "the runtime knows CPython only, not pypy 3.11"),
        ("/usr/bin/mute/python x.py", "/usr/bin/mute/python does not answer like a Python"),
        ("./alone.py", "alone.py is run by uv, not by Python"),
        ("uv run alone.py", "alone.py names its own dependencies (# /// script): uv makes an environment for it"),
        ("uv run --with rich x.py", "uv run --with is for uv to decide"),
        ("uv run --isolated x.py", "uv run --isolated is for uv to decide"),
        ("uv run -s x.py", "uv run -s is for uv to decide"),
        ("uv run --directory sub x.py", "uv run --directory is for uv to decide"),
        ("uv run --python 3.13 x.py", "uv run --python is for uv to decide"),
        ("uv tool run x", "uv tool runs it in an environment of its own"),
        ("uv run -", "uv reads its program from stdin, and that is empty"),
        ("uv run", "uv reads its program from stdin, and that is empty"),
        ("uv run https://example.invalid/x.py", "uv fetches its program from elsewhere"),
        ("uv run env A=b python x.py", "env stands between"),
        ("uv run --extra fast x.py", "uv would install before it runs: httptools is not installed"),
        ("uv run --group dev x.py", "uv would install before it runs: pytest is not installed"),
    ],
)
def test_runs_plainly_and_says_why(line: str, reason: str) -> None:
    plain = found(line)
    assert isinstance(plain, Plain), plain
    assert plain.reason == reason
    assert plain.cure or reason.endswith("is not found")
    assert len(plain.cure) < 120


def test_no_words_at_all() -> None:
    assert found(()) == Plain("its command is not found")


def test_a_prompt_that_the_environment_asks_for() -> None:
    plain = found("python x.py", Ground(environ={"PYTHONINSPECT": "1"}))
    assert isinstance(plain, Plain)
    assert plain.reason == "PYTHONINSPECT asks for a prompt"


# ---- uv run: what would be installed -----------------------------------------------------------------------------


def why(**changes: object) -> str | None:
    """Of ``uv run x.py``. None: it runs in the runtime."""
    files = {**FILES, **PROJECT}
    for name, change in changes.items():
        place = {"pyproject": "/p/pyproject.toml", "lock": "/p/uv.lock"}.get(name)
        if place is not None and change is None:
            del files[place]
        elif isinstance(change, tuple) and place is not None:
            old, new = change
            assert old in files[place]
            files[place] = files[place].replace(old, new)
    installed = changes.get("installed", INSTALLED)
    environ = changes.get("environ", {})
    line = str(changes.get("line", "uv run x.py"))
    ground = Ground(files, environ, installed, str(changes.get("python", OWN)))  # type: ignore[arg-type]
    result = found(line, ground)
    return result.reason.removeprefix("uv would install before it runs: ") if isinstance(result, Plain) else None


def test_in_sync() -> None:
    assert why() is None


def test_nothing_is_known_of_what_is_in_the_lock_only() -> None:
    assert why(lock=('name = "httpx"\nversion', 'name = "other"\nversion')) is None


def test_an_installed_version_that_is_not_the_locked_one() -> None:
    assert why(installed={**INSTALLED, "httpx": "0.27.0"}) == "httpx 0.27.0 is installed, uv.lock has 0.28.1"


@pytest.mark.parametrize("gone", ["httpx", "ruamel-yaml", "my-agent"])
def test_what_is_asked_for_and_not_there(gone: str) -> None:
    left = {name: version for name, version in INSTALLED.items() if name != gone}
    assert why(installed=left) == f"{gone} is not installed"


def test_a_project_that_is_no_package_need_not_be_installed() -> None:
    left = {name: version for name, version in INSTALLED.items() if name != "my-agent"}
    assert why(installed=left, pyproject=("[build-system]", "[tool.other]")) is None


def test_pyproject_was_changed() -> None:
    sentence = "uv.lock does not have what pyproject.toml says of"
    assert why(pyproject=("< 1", "< 2")) == f"{sentence} httpx"
    assert why(pyproject=('"Ruamel.Yaml"', '"Ruamel.Yaml", "rich"')) == f"{sentence} rich"
    assert why(pyproject=("< 1", "<1, !=0.27.1")) == f"{sentence} httpx"


def test_how_it_is_written_does_not_matter() -> None:
    assert why(pyproject=("httpx[http2] >= 0.27, < 1", "HTTPX [http2] (<1,>=0.27)")) is None


def test_no_lock_file_yet() -> None:
    assert why(lock=None) == "there is no uv.lock yet, so uv installs before it runs"


def test_no_project_at_all() -> None:
    assert why(lock=None, pyproject=None) is None


def test_no_sync_takes_it_as_it_is() -> None:
    assert why(line="uv run --no-sync x.py", installed={}) is None
    assert why(environ={"UV_NO_SYNC": "1"}, installed={}) is None


def test_an_environment_elsewhere() -> None:
    reason = why(environ={"UV_PROJECT_ENVIRONMENT": "/other"})
    assert reason == f"uv would run it in /other, and the agent has {OWN}"


def test_a_broken_pyproject() -> None:
    assert why(pyproject=("[project]", "[project")) == "pyproject.toml cannot be read"


@pytest.mark.parametrize(
    ("line", "tool"),
    [
        ("python -m pdb x.py", "pdb"),
        ("python -m debugpy --listen 1 x.py", "debugpy"),
        ("python -m coverage run x.py", "coverage"),
        ("python -m app", None),
        ("python x.py", None),
        ("uvicorn a:b", None),
    ],
)
def test_what_watches_it(line: str, tool: str | None) -> None:
    target = found(line)
    assert isinstance(target, Target)
    assert watched_by(target) == tool
