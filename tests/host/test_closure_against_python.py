"""The closure beside what Python really loads: the same files, on many projects made by chance."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mesh_supervisor.finder import Search
from mesh_supervisor.host.interpreter import inspect
from mesh_supervisor.host.sources import Disk, Look
from mesh_supervisor.imports import Entry, closure

MODULES = ("a", "b", "p", "p.a", "p.b", "p.q", "p.q.a", "n.a", "n.b", "n.m.a")
"""p and p.q are packages, n and n.m namespaces."""

ENVIRONMENT = inspect(Path(sys.executable), {})

LOADED = """
import json, sys
folder, as_module, name = sys.argv[1:]
sys.dont_write_bytecode = True
sys.argv[:] = [name]
import runpy
try:
    if as_module == "m":
        sys.path.insert(0, folder)
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, folder)
        runpy.run_path(folder + "/" + name, run_name="__main__")
except (ImportError, AttributeError):
    failed = True
else:
    import builtins
    failed = hasattr(builtins, "failed")
files = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
print(json.dumps([failed, sorted(f for f in files if f and f.startswith(folder))]))
"""


def statements() -> st.SearchStrategy[str]:
    module = st.sampled_from(MODULES)
    parts = st.sampled_from(("a", "b", "q", "m", "value"))
    return st.one_of(
        module.map(lambda name: f"import {name}"),
        st.tuples(module, parts).map(lambda pair: f"from {pair[0]} import {pair[1]}"),
        st.tuples(st.integers(1, 2), parts).map(lambda pair: f"from {'.' * pair[0]} import {pair[1]}"),
        st.tuples(st.integers(1, 2), parts, parts).map(lambda t: f"from {'.' * t[0]}{t[1]} import {t[2]}"),
        st.sampled_from(("value = 1", "a = 1", "import json", "from p import *", "__all__ = ['a', 'b']")),
    )


def guarded(statement: str) -> str:
    """A failed import must not end the program: what comes after it is looked at too."""
    if not statement.startswith(("import", "from")) or "*" in statement:
        return statement
    return f"try:\n    {statement}\nexcept ImportError:\n    import builtins\n    builtins.failed = True"


bodies = st.lists(statements().map(guarded), max_size=3).map("\n".join)
projects = st.dictionaries(st.sampled_from(MODULES), bodies, max_size=8)


def write(folder: Path, project: dict[str, str]) -> None:
    for name, body in project.items():
        path = folder / name.replace(".", "/")
        file = path / "__init__.py" if name in {"p", "p.q"} else path.with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(body)


@dataclass(frozen=True)
class Loaded:
    """``failed``: an import did."""

    files: set[str]
    failed: bool


def loaded(folder: Path, kind: str, name: str) -> Loaded:
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADED, str(folder), kind, name], capture_output=True, text=True, check=True
    )
    failed, files = json.loads(done.stdout)
    return Loaded({str(Path(file).relative_to(folder)) for file in files} - {"main.py"}, failed)


def found(folder: Path, entry: Entry) -> set[str]:
    search = Search(
        ENVIRONMENT.path, (str(folder),), ENVIRONMENT.foreign, builtin=ENVIRONMENT.builtin, stdlib=ENVIRONMENT.stdlib
    )
    return {str(file.relative_to(folder)) for file in closure(entry, search, Look(Disk())).files}


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(projects, bodies)
@example({"p": "from . import a", "p.a": ""}, "import p")
@example({"p": "a = 1", "p.a": ""}, "from p import a")
@example(
    {"p": "try:\n    from .a import value\nexcept ImportError:\n    pass", "p.a": "from . import b", "p.b": ""},
    "import p",
)
@example({"n.a": "from .m import a", "n.m.a": ""}, "from n import a")
@example({"p": "__all__ = ['a', 'b']", "p.a": "", "p.b": "", "p.q": "from p import *"}, "from p import *")
def test_a_script_loads_what_we_say(project: dict[str, str], main: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        write(folder, project)
        (folder / "main.py").write_text(main)
        ours = found(folder, Entry(script=str(folder / "main.py"), front=(str(folder),))) - {"main.py"}
        theirs = loaded(folder, "script", "main.py")
        assert theirs.files <= ours
        # What stands behind an import that failed is not loaded now, and is an input all the same.
        assert theirs.files == ours or theirs.failed or in_doubt(project)


def in_doubt(project: dict[str, str]) -> bool:
    """A package binds a name after an import: who asks for it on the way round in a circle gets the submodule, and
    we do not tell who that is."""
    return any("= 1" in body and "import" in body for name, body in project.items() if name in {"p", "p.q"})


@settings(derandomize=True, max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(projects, bodies)
@example({"p": "", "p.a": ""}, "from . import a\nfrom .q import b")
@example(
    {
        "p": guarded("from p import q"),
        "p.q": guarded("import b") + "\na = 1",
        "p.q.a": "",
        "b": guarded("from p.q import a"),
    },
    "",
)
def test_a_module_loads_what_we_say(project: dict[str, str], main: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        write(folder, {"p": "", **project})
        (folder / "p/app.py").write_text(main)
        ours = found(folder, Entry(module="p.app", front=(str(folder),)))
        theirs = loaded(folder, "m", "p.app")
        # runpy takes the file of what runs as __main__ out of sys.modules again.
        assert theirs.files <= ours
        assert theirs.files == ours - {"p/app.py"} or theirs.failed or in_doubt(project)
