"""Imports that cannot work: found where it is sure, and never a good edit blocked."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh_supervisor.imports import Gone
from tests.pure.memory_tree import project

Files = dict[str, str]


def gone(files: Files, *, certain: bool = True) -> list[Gone]:
    return list(project(files, certain=certain).gone)


def sentences(files: Files) -> list[str]:
    return [found.message for found in gone(files) if found.sure]


def test_a_name_that_a_module_no_longer_has() -> None:
    (found,) = gone({"/p/main.py": "import os\nfrom rules import greeting", "/p/rules.py": "def salutation(): pass"})
    assert (found.file, found.line) == (Path("/p/main.py"), 2)
    assert (found.kind, found.message) == ("ImportError", "cannot import name 'greeting' from 'rules'")
    assert found.module == Path("/p/rules.py") and found.sure


def test_a_submodule_that_is_gone() -> None:
    package = {"/p/a/__init__.py": "", "/p/a/c.py": ""}
    assert sentences({"/p/main.py": "import a.b", **package}) == ["No module named 'a.b'"]
    assert sentences({"/p/main.py": "from a.b import x", **package}) == ["No module named 'a.b'"]
    assert sentences({"/p/main.py": "from a import b", **package}) == ["cannot import name 'b' from 'a'"]


def test_a_part_of_a_namespace_that_is_gone() -> None:
    assert sentences({"/p/main.py": "from tools.search import x", "/p/tools/other.py": ""}) == [
        "No module named 'tools.search'"
    ]


def test_a_part_that_its_own_package_imports_is_gone() -> None:
    files = {
        "/p/main.py": "import a",
        "/p/a/__init__.py": "from . import part\nfrom .other import x",
        "/p/a/other.py": "x = 1",
    }
    assert sentences(files) == ["cannot import name 'part' from 'a'"]


def test_deep_in_the_chain() -> None:
    files = {
        "/p/main.py": "import one",
        "/p/one.py": "import two",
        "/p/two.py": "from three import y",
        "/p/three.py": "x = 1",
    }
    assert [(found.file.name, found.message) for found in gone(files)] == [
        ("two.py", "cannot import name 'y' from 'three'")
    ]


def test_a_top_level_module_that_nobody_has() -> None:
    (found,) = gone({"/p/main.py": "import nowhere"})
    assert found.message == "No module named 'nowhere'" and found.sure
    assert Path("/p/nowhere.py") in found.candidates


def test_it_may_be_taught_to_python_by_a_call_before_it() -> None:
    """findspark.init() puts pyspark on the path: not sure, so it counts only if it was the project's own before."""
    for before in ("findspark.init()", "with setup():\n    pass", "for x in y:\n    x()"):
        (found,) = gone({"/p/main.py": f"import findspark\n{before}\nimport pyspark", "/site/findspark.py": ""})
        assert not found.sure and Path("/p/pyspark.py") in found.candidates


def test_calls_that_teach_python_nothing() -> None:
    before = '"""Doc."""\nimport json\nlogging.basicConfig()\nload_dotenv()\nX = 1\ndef f(): pass\n'
    assert sentences({"/p/main.py": before + "import nowhere"}) == ["No module named 'nowhere'"]


LENIENT = [
    "try:\n    from rules import gone\nexcept ImportError:\n    gone = None",
    "try:\n    import rules.gone\nfinally:\n    pass",
    "if x:\n    from rules import gone",
    "def later():\n    from rules import gone",
    "class A:\n    from rules import gone",
    "with suppress(ImportError):\n    from rules import gone",
    "while x:\n    from rules import gone",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rules import gone",
    "def later():\n    import lazy",
    "import importlib\nimportlib.import_module('rules.gone')",
    "from rules import *",
]


@pytest.mark.parametrize("statement", LENIENT)
def test_only_what_runs_at_every_start_is_judged(statement: str) -> None:
    files = {"/p/main.py": statement, "/p/rules.py": "here = 1", "/p/lazy.py": "from rules import gone"}
    assert sentences(files) == []


DYNAMIC = [
    "def __getattr__(name): return 1",
    "from other import *",
    "globals()['gone'] = 1",
    "globals().update(x)",
    "vars()['gone'] = 1",
    "exec('gone = 1')",
    "import sys\nsetattr(sys.modules[__name__], 'gone', 1)",
    "import sys\nsys.modules[__name__] = object()",
    "def f():\n    global gone\n    gone = 1\nf()",
    "for gone in range(2): pass",
    "with x as (a, gone): pass",
    "try: pass\nexcept E as gone: pass",
    "if x:\n    gone = 1",
    "try:\n    import gone\nexcept ImportError: pass",
    "from third import party as gone",
    "import gone.deeper",
    "a, (b, *gone) = x",
    "gone: int = 1",
    "gone: int",
    "gone += 1",
    "print(gone := 1)",
    "class gone: pass",
    "async def gone(): pass",
    "match x:\n    case {'a': gone}: pass",
    "match x:\n    case [*gone]: pass",
    "type gone = int",  # newer than the Python that reads it, perhaps
    "x = (",  # does not parse: a SyntaxError says it better
    "del gone",
]


INSTALLED = {"/p/other.py": "", "/site/third.py": "", "/site/gone/__init__.py": ""}


@pytest.mark.parametrize("text", DYNAMIC)
def test_a_module_that_may_have_the_name_gets_no_verdict(text: str) -> None:
    if text == "del gone":
        text = "gone = 1\ndel gone"
    assert gone({"/p/main.py": "from rules import gone", "/p/rules.py": text, **INSTALLED}) == []


def test_names_that_every_module_has() -> None:
    assert gone({"/p/main.py": "from rules import __name__, __doc__, __file__", "/p/rules.py": ""}) == []


def test_a_name_that_somebody_else_sets() -> None:
    files = {"/p/main.py": "import rules\nrules.gone = 1\nfrom rules import gone", "/p/rules.py": ""}
    assert gone(files) == []


@pytest.mark.parametrize(
    "name", ["rules.cpython-311-x86_64-linux-gnu.so", "rules.pyx", "rules.cpython-312-darwin.so", "rules.pyc"]
)
def test_compiled_modules_get_no_verdict(name: str) -> None:
    assert gone({"/p/main.py": "from rules import gone\nimport rules.deep", f"/p/{name}": ""}) == []


def test_installed_modules_get_no_verdict() -> None:
    assert gone({"/p/main.py": "import six.moves.urllib\nfrom six import gone", "/site/six.py": ""}) == []


def test_a_namespace_shared_with_installed_packages_may_get_more_parts() -> None:
    files = {"/p/main.py": "setup()\nimport acme.gone", "/p/acme/here.py": "", "/site/acme/other/__init__.py": ""}
    assert sentences(files) == []


@pytest.mark.parametrize("words", ["sys.modules['nowhere'] = x", "sys.meta_path.append(x)", "sys.path.append(x())"])
def test_a_program_that_changes_how_python_finds_modules(words: str) -> None:
    assert gone({"/p/main.py": "import one\nimport nowhere", "/p/one.py": f"import sys\n{words}"}) == []


def test_an_environment_with_finders_of_its_own() -> None:
    assert gone({"/p/main.py": "import nowhere"}, certain=False) == []


def test_a_package_that_extends_its_path() -> None:
    files = {"/p/main.py": "from a import gone", "/p/a/__init__.py": "__path__.append('/x')"}
    assert gone(files) == []
