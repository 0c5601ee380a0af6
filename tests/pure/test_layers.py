"""Who may import whom. A module imports only from its own line or the lines above it, and nothing in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mesh_supervisor

LINES = (
    "runtime",
    "mesh_supervisor errors wording spec",
    "mesh_toml.interpolation locate own_state",
    "ignore",
    "mesh_toml difference",
    "config",
    "lifecycle",
    "source pathwords syntax finder imports commandline uvrun target warmth",
    "traced",
    "impact",
    "events options debugging limits single",
    "diagnosis",
    "host",
    "registry.versions registry.records registry.matching registry.book registry.store registry.client",
    "registry",
    "environment ordering",
    "export",
    "agent",
    "tracing",
    "selection enrolment",
    "launcher",
    "member",
    "news registry_process",
    "supervisor",
    "control.messages control.brief",
    "control.once control.glance control.near health",
    "holding",
    "snapshot explain applying commands",
    "control",
    "signals service",
    "running",
    "cli",
    "__main__",
)
"""From what knows nothing to what knows everything. A package stands for all its modules that have no place of their
own. A new module needs a place here: the highest line that it can do with."""

APART = frozenset({"host.exec_helper", "host.guardian_process", "host.sweep", "host.procfs"})
"""Run, or are imported, by tiny processes of their own: the standard library and each other, no more."""

PURE = "PURE"
NO_INPUT_OUTPUT = """
asyncio fcntl glob http io logging os random select shutil socket sqlite3 ssl subprocess tempfile threading time
click httpx2 psutil pydantic starlette uvicorn watchdog
"""
FILE_METHODS = """
exists is_file is_dir is_symlink read_text read_bytes write_text write_bytes open stat lstat iterdir glob rglob mkdir
unlink rmdir touch resolve home cwd rename readlink samefile expanduser
"""
WITH_PYDANTIC = frozenset({"config", "mesh_toml"})
HEAVY = frozenset({"asyncio", "httpx2", "pathspec", "psutil", "pydantic", "rich", "starlette", "uvicorn", "watchdog"})
"""What `ps` must not wait for."""

SHAPES = frozenset({"errors", "mesh_toml.models", "cli.discover"})
"""Not pure themselves (pydantic; looking for scripts), but what pure modules take from them are names and shapes."""

PACKAGE = "mesh_supervisor"
ROOT = Path(mesh_supervisor.__file__).parent


@cache
def trees() -> dict[str, ast.Module]:
    """Module, without the package's name → its syntax. The package itself goes by its name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or PACKAGE] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(module: str) -> Iterator[str]:
    """The full names that a module imports, in functions and for type checkers too; relative ones made absolute."""
    is_package = module == PACKAGE or (ROOT / module.replace(".", "/")).is_dir()
    here = [PACKAGE, *([] if module == PACKAGE else module.split("."))]
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{whole}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """The module of ours that a full name is, or is in."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    while len(parts) > 1 and ".".join(parts[1:]) not in trees():
        parts.pop()
    return ".".join(parts[1:]) or PACKAGE


@cache
def edges(module: str) -> frozenset[str]:
    return frozenset(target for name in imported(module) if (target := own(name)) is not None) - {module}


def place(module: str) -> int | None:
    """Its line, or that of the nearest package around it."""
    while True:
        for number, line in enumerate(LINES):
            if module in line.split():
                return number
        if "." not in module:
            return None
        module = module.rpartition(".")[0]


def modules() -> list[str]:
    return [name for name in trees() if place(name) is not None]


def pure_modules() -> list[str]:
    return [name for name, tree in trees().items() if (ast.get_docstring(tree) or "").startswith(PURE)]


def test_every_module_has_its_place() -> None:
    assert [name for name in trees() if place(name) is None] == []


def test_every_place_is_taken() -> None:
    assert {name for line in LINES for name in line.split()} <= trees().keys()


@pytest.mark.parametrize("module", modules())
def test_imports_come_from_the_lines_above(module: str) -> None:
    mine = place(module)
    assert mine is not None
    below = {target for target in edges(module) if (place(target) or 0) > mine}
    assert not below, f"{module} imports from below: {', '.join(sorted(below))}"


def test_nothing_imports_in_a_circle() -> None:
    try:
        TopologicalSorter({module: edges(module) for module in trees()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", sorted(APART))
def test_what_runs_in_tiny_processes_takes_only_what_is_as_small(module: str) -> None:
    assert edges(module) <= APART | {"host", PACKAGE}
    # psutil answers where there is no /proc, and only when it is asked.
    assert outside(module) - {"psutil"} <= sys.stdlib_module_names


def outside(module: str) -> set[str]:
    """The top-level names that are not ours."""
    return {name.partition(".")[0] for name in imported(module)} - {PACKAGE}


@pytest.mark.parametrize("module", pure_modules())
def test_pure_means_no_input_and_no_output(module: str) -> None:
    assert not outside(module).intersection(NO_INPUT_OUTPUT.split())
    # Paths are values; asking the disk about them is not pure. `open` and methods of that name are the ways to do so.
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}), ast.unparse(
                node
            )
    if any(name.startswith("pathlib") for name in imported(module)):
        asked = {node.attr for node in ast.walk(trees()[module]) if isinstance(node, ast.Attribute)}
        assert not asked.intersection(FILE_METHODS.split())


@pytest.mark.parametrize("module", pure_modules())
def test_pure_modules_import_no_others(module: str) -> None:
    impure = {target for target in edges(module) if target not in pure_modules() and trees()[target].body}
    assert impure <= SHAPES | {PACKAGE}


def test_pydantic_stays_where_mesh_toml_is_read() -> None:
    users = {module for module in trees() if "pydantic" in outside(module)}
    assert {module.partition(".")[0] for module in users} <= WITH_PYDANTIC


def test_the_operating_system_is_met_in_host() -> None:
    """Processes, watches and signals to processes: nowhere else, but in the guest, which prepares its own process."""
    users = {module for module in trees() if outside(module) & {"watchdog", "psutil", "fcntl", "ctypes"}}
    assert {module.partition(".")[0] for module in users} == {"host", "runtime"}


@pytest.mark.parametrize("arguments", [["ps"], ["ps", "--json"], ["down"], ["--version"]])
def test_a_question_to_a_running_mesh_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").touch()
    code = (
        "import sys\nfrom mesh_supervisor.cli.main import main\n"
        f"sys.argv[1:] = {['-C', str(tmp_path), *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit:\n    print('|', *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.rpartition("|")[2].split()
    assert "mesh_supervisor.cli.main" in loaded
    assert not HEAVY & set(loaded)
    assert not {name for name in loaded if (module := own(name)) and module.partition(".")[0] in WITH_PYDANTIC} - {
        "mesh_supervisor.mesh_toml",
        "mesh_supervisor.mesh_toml.interpolation",
    }
