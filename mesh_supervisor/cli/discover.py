"""What could be an agent in a folder: for `init`. Reads sources and pyproject.toml files, runs nothing.

A program that serves, or says that it goes on for ever, becomes an agent. What only has a ``__main__`` block may be a
tool that does something once, so it is written down as a comment; so is a server that speaks over stdin and stdout.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mesh_supervisor.cli.programtext import SERVERS, Clues, clues_of, imported_modules, imports_relatively

SKIPPED = re.compile(
    r"node_modules|v?env|site-packages|__pycache__|build|dist|docs?|tests?|migrations|alembic|\..*|.*\.egg-info"
)
SKIPPED_FILES = re.compile(r"test_.*|.*_test|conftest|setup|noxfile|tasks|fabfile|manage|wsgi|asgi|__init__")
GENERIC = re.compile(r"main|app|server|agent|run|start|service|api|cli|__main__|src")
MANY = re.compile(r"agents|apps|bots|packages|programs|services|workers")
"""Folders of many programs: their name is nobody's."""
RESERVED = frozenset(("registry", "meshsup"))
LARGEST_SOURCE = 1024 * 1024
FIRST_PORT = 8101
ONCE = "may be a tool that does something once"


@dataclass(frozen=True, slots=True)
class Found:
    """One program. Exactly one of ``script``, ``module``, ``words`` says how it is run; paths are relative to the root.

    ``directory`` "" is the root itself. ``doubt``: why it is only a comment in the mesh.toml; "" for an agent.
    ``port``: 0 stands for one that is yet to be given.
    """

    name: str
    why: str
    script: str = ""
    module: str = ""
    words: tuple[str, ...] = ()
    directory: str = ""
    port: int | None = None
    doubt: str = ""


def discover(root: Path) -> list[Found]:
    """Agents first found first, named apart, with ports that differ."""
    found = [*_entry_points(root), *_sources(root)]
    return _with_ports(_with_names(found))


# ---- [project.scripts] -------------------------------------------------------------------------------------------


def _entry_points(root: Path) -> Iterator[Found]:
    workspace = _workspace(root)
    for folder in [root, *workspace]:
        project = _tables(folder / "pyproject.toml").get("project")
        scripts = project.get("scripts") if isinstance(project, dict) else None
        uses_uv = bool(workspace) or (folder / "uv.lock").exists() or (root / "uv.lock").exists()
        for name, target in scripts.items() if isinstance(scripts, dict) else ():
            yield _entry_point(root, folder, name, str(target), uses_uv)


def _entry_point(root: Path, folder: Path, name: str, target: str, uses_uv: bool) -> Found:
    clues = _clues_of_module(folder, target.partition(":")[0])
    return Found(
        name=name,
        why=f"entry point {target}" + (f", {clues.why}" if clues.why else ""),
        words=("uv", "run", name) if uses_uv else (name,),
        directory="" if folder == root else folder.relative_to(root).as_posix(),
        port=clues.port,
        doubt=clues.doubt or ("" if clues.serves else ONCE),
    )


def _workspace(root: Path) -> list[Path]:
    """The member folders of a uv workspace whose root this is."""
    workspace = _table(_table(_table(_tables(root / "pyproject.toml"), "tool"), "uv"), "workspace")
    members, excluded = (workspace.get(key, []) for key in ("members", "exclude"))
    if not isinstance(members, list) or not isinstance(excluded, list):
        return []
    left_out = {folder for pattern in excluded for folder in root.glob(str(pattern))}
    folders = {folder for pattern in members for folder in root.glob(str(pattern))} - left_out
    return sorted(folder for folder in folders if (folder / "pyproject.toml").is_file())


def _table(tables: dict[str, object], key: str) -> dict[str, object]:
    table = tables.get(key)
    return table if isinstance(table, dict) else {}


def _tables(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return {}


def _clues_of_module(folder: Path, module: str) -> Clues:
    parts = Path(*module.split("."))
    for base in (folder / "src", folder):
        for file in ((base / parts).with_suffix(".py"), base / parts / "__init__.py"):
            if (tree := _parsed(file)) is not None:
                return clues_of(tree)
    return Clues()


# ---- sources -----------------------------------------------------------------------------------------------------


def _sources(root: Path) -> Iterator[Found]:
    taken = {str(file) for file in _entry_files(root)}
    for file in _python_files(root):
        tree = None if str(file) in taken else _parsed(file)
        found = None if tree is None else _program(root, file, tree)
        if found is not None:
            yield found


def _with_own_modules(root: Path, file: Path, tree: ast.Module) -> Clues:
    """The clues of ``file``; whether it serves, and where, may be said by a module of the project that it imports."""
    clues = clues_of(tree)
    if clues.serves or not clues.runs_itself:
        return clues
    for imported in _own_modules(root, file, tree):
        other = _parsed(imported)
        theirs = Clues() if other is None else clues_of(other)
        if theirs.serves:
            return replace(clues, serves=True, port=theirs.port, why=f"{theirs.why} ({imported.relative_to(root)})")
    return clues


def _own_modules(root: Path, file: Path, tree: ast.Module) -> Iterator[Path]:
    """The files beside ``file``, or below the root, that it imports directly."""
    for module in imported_modules(tree):
        for base in (file.parent, root, root / "src"):
            candidate = (base / Path(*module.split("."))).with_suffix(".py")
            if candidate != file and candidate.is_file():
                yield candidate
                break


def _entry_files(root: Path) -> Iterator[Path]:
    """Files behind entry points: they are run by those, not once more as scripts."""
    for folder in [root, *_workspace(root)]:
        scripts = _table(_table(_tables(folder / "pyproject.toml"), "project"), "scripts")
        for target in scripts.values():
            parts = Path(*str(target).partition(":")[0].split("."))
            for base in (folder / "src", folder):
                yield (base / parts).with_suffix(".py")
                yield base / parts / "__main__.py"


def _program(root: Path, file: Path, tree: ast.Module) -> Found | None:
    """How a file would be run, if it is a program at all."""
    clues = _with_own_modules(root, file, tree)
    path = file.relative_to(root)
    name = _name_of(root, path)
    doubt = clues.doubt or ("" if clues.serves else ONCE)
    if file.name == "__main__.py" and file.parent != root:
        folder = _import_root(root, file.parent.parent)
        module = ".".join(file.parent.relative_to(folder).parts)
        why = clues.why or "a package that can be run"
        return Found(name, why, module=module, directory=_below(root, folder), port=clues.port, doubt=doubt)
    if clues.runs_itself:
        why, folder = clues.why or "has a __main__ block", _folder_it_is_run_from(root, file, tree)
        if folder == file.parent:
            return Found(name, why, script=path.as_posix(), port=clues.port, doubt=doubt)
        module = ".".join(file.relative_to(folder).with_suffix("").parts)
        return Found(name, why, module=module, directory=_below(root, folder), port=clues.port, doubt=doubt)
    if clues.asgi_app:
        folder = _folder_it_is_run_from(root, file, tree)
        folder = _import_root(root, file.parent) if folder == file.parent else folder
        module = ".".join(file.relative_to(folder).with_suffix("").parts)
        words = ("uvicorn", f"{module}:{clues.asgi_app}")
        return Found(name, clues.why, words=words, directory=_below(root, folder), port=0)
    return None


def _folder_it_is_run_from(root: Path, file: Path, tree: ast.Module) -> Path:
    """Its own, where Python looks when it runs a script; one further up when what it imports is found only from there
    (`python -m agents.planner`)."""
    if imports_relatively(tree):
        return _import_root(root, file.parent)
    above = [folder for folder in file.parents if folder.is_relative_to(root)]
    needed = {module.partition(".")[0] for module in imported_modules(tree)} - sys.stdlib_module_names - SERVERS.keys()
    for folder in above:
        if any(_holds(folder, module) for module in needed):
            return folder if _is_dotted(file.relative_to(folder)) else file.parent
    return file.parent


def _holds(folder: Path, module: str) -> bool:
    inside = folder / module
    return inside.with_suffix(".py").is_file() or (inside.is_dir() and any(inside.glob("*.py")))


def _is_dotted(path: Path) -> bool:
    return all(part.isidentifier() for part in path.with_suffix("").parts)


def _import_root(root: Path, folder: Path) -> Path:
    """The folder from which modules in ``folder`` are imported: the first one upward that is no package."""
    while folder != root and (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _below(root: Path, folder: Path) -> str:
    return "" if folder == root else folder.relative_to(root).as_posix()


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not _skipped(Path(folder) / name))
        for name in sorted(files):
            file = Path(folder) / name
            if file.suffix == ".py" and not SKIPPED_FILES.fullmatch(file.stem):
                yield file


def _skipped(folder: Path) -> bool:
    # A folder with a mesh.toml is a mesh of its own; one with a pyvenv.cfg is an environment, whatever its name.
    own = (folder / "mesh.toml").exists() or (folder / "pyvenv.cfg").exists()
    return own or SKIPPED.fullmatch(folder.name) is not None


def _parsed(file: Path) -> ast.Module | None:
    """None for what is no Python source of a sensible size."""
    try:
        if file.stat().st_size > LARGEST_SOURCE:
            return None
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# ---- names and ports ---------------------------------------------------------------------------------------------


def _name_of(root: Path, path: Path) -> str:
    """The stem; the folder's name where that says more (planner/main.py)."""
    parts = [root.name, *path.with_suffix("").parts]
    while len(parts) > 1 and GENERIC.fullmatch(parts[-1]) and not MANY.fullmatch(parts[-2]):
        parts.pop()
    return parts[-1]


def slug(text: str) -> str:
    """``text`` as the name of an agent: [a-z0-9][a-z0-9_-]*, and not reserved."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_") or "agent"
    return f"{name}-agent" if name in RESERVED else name


def _with_names(found: list[Found]) -> list[Found]:
    named: dict[str, Found] = {}
    for one in found:
        name = wanted = slug(one.name)
        number = 2
        while name in named:
            name, number = f"{wanted}-{number}", number + 1
        named[name] = replace(one, name=name)
    return list(named.values())


def _with_ports(found: list[Found]) -> list[Found]:
    taken = {one.port for one in found if one.port}
    given = (port for port in range(FIRST_PORT, 65536) if port not in taken)
    return [replace(one, port=next(given)) if one.port == 0 and not one.doubt else one for one in found]
