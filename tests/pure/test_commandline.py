"""What a command line starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from mesh_supervisor.commandline import Place, read_command

FILES = frozenset(
    {
        "/p/agent.py",
        "/p/app/__init__.py",
        "/p/app/main.py",
        "/p/main.py",
        "/p/sub/x.py",
        "/p/run",
        "/p/folder/__main__.py",
    }
)
MODULES = frozenset({"app", "app.main", "app.tasks", "planner", "planner.cli", "worker"})
INSTALLED = frozenset(
    {"uvicorn", "gunicorn", "celery", "fastapi", "fastapi_cli", "fastmcp", "debugpy", "streamlit", "http"}
    | {"coverage", "pdb"}
)
SCRIPTS = {
    "planner": "planner.cli:main",
    **{name: f"{name}.cli:main" for name in INSTALLED},
    "fastapi": "fastapi_cli.cli:main",
}


@dataclass(frozen=True)
class Around:
    scripts: Mapping[str, str] = field(default_factory=lambda: SCRIPTS)

    def is_file(self, path: str) -> bool:
        return path in FILES

    def real_path(self, path: str) -> str:
        return "/real/agent.py" if path == "/p/link.py" else path

    def is_python_script(self, path: str) -> bool:
        return path in {"/p/run", "/usr/bin/pytool"}

    def console_script(self, name: str) -> str | None:
        return self.scripts.get(name)

    def which(self, name: str) -> str | None:
        return f"/usr/bin/{name}" if name in {"node", "sh", "pytool", "make"} else None

    def place_of(self, module: str, front: tuple[str, ...]) -> Place | None:
        if module in MODULES or (module == "main" and "/p" in front):
            return "project"
        return (
            "elsewhere"
            if module.partition(".")[0] in {n.partition(".")[0] for n in (*INSTALLED, "fastapi_cli")}
            else None
        )


def summary(line: str, directory: str = "/p") -> str:
    """``script /p/agent.py``, ``module app``, ``imports app.main`` and the folders in front."""
    started = read_command(tuple(line.split()), directory, Around())
    entry = started.entry
    if entry is None:
        return f"nothing{' of ' + started.tool if started.tool else ''}" if started.python else "no python"
    what = f"script {entry.script}" if entry.script else f"module {entry.module}" if entry.module else "imports"
    return " ".join([what, *entry.imported, "|", *entry.front])


@pytest.mark.parametrize(
    "line",
    [
        "python agent.py", "python3 agent.py --fast", "python3.12 -u agent.py", "/usr/bin/python3 ./agent.py",
        "python -X dev -W error agent.py", "python -Xdev -OO agent.py", "./agent.py", "agent.py",
        "uv run agent.py", "uv run python agent.py", "uv run --frozen --with rich python -u agent.py",
        "uv run -s agent.py", "uv run --env-file .env -- python agent.py", "uv --directory /p run agent.py",
        "env A=1 B=2 python agent.py", "env -u X python agent.py", "nice -n 5 python agent.py",
        "timeout 60 python agent.py", "poetry run python agent.py", "hatch run python agent.py",
        "conda run -n env python agent.py", "opentelemetry-instrument python agent.py",
        "ddtrace-run python agent.py", "newrelic-admin run-program python agent.py",
        "tini -- python agent.py", "dotenv -f .env run -- python agent.py",
        "python -m debugpy --listen 5678 agent.py", "python -m pdb agent.py", "python -m coverage run agent.py",
        "coverage run agent.py", "fastmcp run agent.py:mcp", "fastmcp run agent.py", "python -m fastmcp run agent.py",
    ],
)  # fmt: skip
def test_the_script_in_it(line: str) -> None:
    assert summary(line).split(" | ")[0] == "script /p/agent.py"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python agent.py", "script /p/agent.py | /p"),
        ("python -I agent.py", "script /p/agent.py |"),
        ("python -P agent.py", "script /p/agent.py |"),
        ("python sub/x.py", "script /p/sub/x.py | /p/sub"),
        ("python folder", "script /p/folder/__main__.py | /p/folder"),
        ("python link.py", "script /p/link.py | /real"),
        ("python gone.py", "script /p/gone.py | /p"),
        ("./run", "script /p/run | /p"),
        ("python -m app", "module app | /p"),
        ("python -mapp", "module app | /p"),
        ("python -um app.main --x", "module app.main | /p"),
        ("uv run -m app", "module app | /p"),
        ("uv run --module app", "module app | /p"),
        ("uv run --package x python -m app", "module app | /p"),
        ("python -m not_there_yet", "module not_there_yet | /p"),
        ("planner --fast", "imports planner.cli |"),
        ("uv run planner", "imports planner.cli |"),
        ("uv run --project x planner", "imports planner.cli |"),
        ("/somewhere/bin/planner", "imports planner.cli |"),
        ("python /p/.venv/bin/planner", "imports planner.cli |"),
        ("python -c import_app", "imports | /p"),
    ],
)
def test_what_is_first_on_its_path(line: str, expected: str) -> None:
    assert summary(line) == expected


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("uvicorn app.main:app --port 80", "app.main"),
        ("uvicorn --factory app.main:make", "app.main"),
        ("uvicorn app.main:make() --reload", "app.main"),
        ("python -m uvicorn app.main:app", "app.main"),
        ("uv run uvicorn app.main:app", "app.main"),
        ("uvicorn gone.later:app", "gone.later"),
        ("gunicorn app.main -w 2", "app.main"),
        ("gunicorn -k uvicorn.workers.UvicornWorker app.main:app", "app.main"),
        ("celery -A app.tasks worker", "app.tasks"),
        ("celery --app=app.tasks worker", "app.tasks"),
        ("fastapi dev app/main.py", "app.main"),
        ("fastapi run", "main"),
        ("fastapi run --entrypoint app.main:app", "app.main"),
    ],
)
def test_what_a_launcher_is_told_to_load(line: str, modules: str) -> None:
    what, _, front = summary(line).partition(" | ")
    assert what == f"imports {modules}"
    assert "/p" in front.split()


def test_the_folder_a_launcher_puts_first() -> None:
    assert summary("uvicorn --app-dir sub x:app").split(" | ")[1].split()[0] == "/p/sub"
    assert summary("uvicorn --app-dir=sub x:app").split(" | ")[1].split()[0] == "/p/sub"


def test_words_that_happen_to_be_modules_are_not_loaded() -> None:
    assert summary("celery -A app.tasks worker") == "imports app.tasks | /p"  # not worker.py
    assert summary("streamlit run agent.py planner").startswith("script /p/agent.py |")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("node agent.js", "no python"),
        ("sh -c python", "no python"),
        ("uv run node agent.js", "no python"),
        ("make run", "no python"),
        ("pytool x", "nothing"),  # Python by its first line, installed who knows where
        ("not-installed-yet x", "nothing"),
        ("uv run not-installed-yet", "nothing"),
        ("uv sync", "nothing"),
        ("python -m http.server", "nothing of http"),
        ("debugpy --listen 5678", "nothing of debugpy"),
        ("python", "nothing"),
        ("uv run", "nothing"),
    ],
)
def test_no_code_of_the_project_in_it(line: str, expected: str) -> None:
    assert summary(line) == expected


def test_where_uv_is_sent() -> None:
    started = read_command(("uv", "run", "--directory", "sub", "x.py"), "/p", Around())
    assert started.entry is not None and started.entry.script == "/p/sub/x.py"
    assert started.directory == "/p/sub"


def test_isolated_python_ignores_pythonpath() -> None:
    for flags, ignores in (("-I", True), ("-E", True), ("-P", False), ("-uE", True), ("-X", False)):
        words = ("python", flags, *(["dev"] if flags == "-X" else []), "agent.py")
        assert read_command(words, "/p", Around()).ignores_pythonpath is ignores


def test_empty_words() -> None:
    assert read_command((), "/p", Around()).entry is None
    assert read_command(("env",), "/p", Around()).entry is None
    assert read_command(("python", "-m"), "/p", Around()) is not None
