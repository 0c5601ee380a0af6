"""Which files a program imports, on trees in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh_supervisor.imports import Entry
from mesh_supervisor.syntax import read_source
from tests.pure.memory_tree import missing, names, project


def test_a_chain_of_modules_and_what_nobody_imports() -> None:
    found = project(
        {
            "/p/main.py": "import one",
            "/p/one.py": "from two import x",
            "/p/two.py": "x = 1",
            "/p/three.py": "",
            "/p/main_test.py": "import main",
        }
    )
    assert names(found) == {"main.py", "one.py", "two.py"}
    assert found.files[Path("/p/two.py")].via == Path("/p/one.py")
    assert found.files[Path("/p/main.py")].via is None


def test_every_parent_package_is_loaded() -> None:
    found = project(
        {
            "/p/main.py": "import a.b.c",
            "/p/a/__init__.py": "from . import hidden",
            "/p/a/hidden.py": "",
            "/p/a/b/__init__.py": "",
            "/p/a/b/c.py": "from ..other import x",
            "/p/a/other.py": "x = 1",
            "/p/a/b/unused.py": "",
        }
    )
    assert names(found) == {
        "main.py", "a/__init__.py", "a/hidden.py", "a/b/__init__.py", "a/b/c.py", "a/other.py"
    }  # fmt: skip


def test_from_a_package_a_name_is_an_attribute_if_it_has_one_else_a_submodule() -> None:
    found = project(
        {
            "/p/main.py": "from a import attribute, submodule, maybe",
            "/p/a/__init__.py": "attribute = 1\nif attribute:\n    maybe = 2\n",
            "/p/a/attribute.py": "",
            "/p/a/submodule.py": "",
            "/p/a/maybe.py": "",
        }
    )
    assert names(found) == {"main.py", "a/__init__.py", "a/submodule.py", "a/maybe.py"}


def test_a_circle_that_asks_before_the_name_is_bound_loads_the_submodule() -> None:
    files = {
        "/p/main.py": "import a",
        "/p/a/__init__.py": "import back\nx = 1",
        "/p/a/x.py": "",
        "/p/back.py": "from a import x",
    }
    assert names(project(files)) == {"main.py", "a/__init__.py", "back.py", "a/x.py"}


def test_a_star_loads_the_submodules_of_a_literal_all() -> None:
    files = {
        "/p/main.py": "from a import *",
        "/p/a/__init__.py": "__all__ = ['one', 'value']\nvalue = 1",
        "/p/a/one.py": "",
        "/p/a/two.py": "",
    }
    assert names(project(files)) == {"main.py", "a/__init__.py", "a/one.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "def later():\n    import tool",
        "async def later():\n    async with x:\n        from tool import y",
        "class A:\n    def b(self):\n        try:\n            import tool\n        except ImportError: pass",
        "if condition:\n    import tool\nelse:\n    pass",
        "try:\n    import other\nexcept ImportError:\n    import tool",
        "try:\n    pass\nfinally:\n    import tool",
        "with x:\n    import tool",
        "for x in y:\n    import tool",
        "while x:\n    pass\nelse:\n    import tool",
        "match x:\n    case 1:\n        import tool",
        "import importlib\nimportlib.import_module('tool')",
        "from importlib import import_module\nx = [import_module('tool')]",
        "__import__('tool')",
        "import runpy\nrunpy.run_module('tool')",
        "import uvicorn\nuvicorn.run('tool:app', port=1)",
        "import json, tool as t",
        "import tool; x = 1",
        "if not TYPE_CHECKING:\n    import tool",
        "if __name__ == '__main__':\n    import tool",
        "def f(:\n    broken\nimport tool",  # does not parse: found by line
        "from (\nfrom tool import (\n    a,\n    b,\n)",
    ],
)
def test_wherever_the_import_stands_it_is_followed(statement: str) -> None:
    assert names(project({"/p/main.py": statement, "/p/tool.py": ""})) == {"main.py", "tool.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tool",
        "import typing as t\nif t.TYPE_CHECKING:\n    from tool import x",
        "'''import tool'''",
        "# import tool",
        "x = 'import tool'",
        "x = 'tool:app'",  # no server in sight that would load it
        "from __future__ import annotations",
    ],
)
def test_what_never_runs_is_not_followed(statement: str) -> None:
    assert names(project({"/p/main.py": statement, "/p/tool.py": ""})) == {"main.py"}


def test_what_stands_under_the_main_guard_of_an_imported_module_never_runs() -> None:
    files = {"/p/main.py": "import one", "/p/one.py": "if __name__ == '__main__':\n    import demo", "/p/demo.py": ""}
    assert names(project(files)) == {"main.py", "one.py"}


def test_relative_imports_work_with_m_and_not_in_a_script() -> None:
    files = {
        "/p/pkg/__init__.py": "import base",
        "/p/pkg/app.py": "from . import near\nfrom .far import x\nfrom .. import nothing",
        "/p/pkg/near.py": "",
        "/p/pkg/far.py": "x = 1",
        "/p/base.py": "",
    }
    as_module = project(files, entry=Entry(module="pkg.app", front=("/p",)))
    assert names(as_module) == {"pkg/__init__.py", "pkg/app.py", "pkg/near.py", "pkg/far.py", "base.py"}
    as_script = project(files, entry=Entry(script="/p/pkg/app.py", front=("/p/pkg",)))
    assert names(as_script) == {"pkg/app.py"}


def test_a_package_is_run_by_its_main() -> None:
    files = {"/p/pkg/__init__.py": "", "/p/pkg/__main__.py": "from .cli import main", "/p/pkg/cli.py": "main = 1"}
    found = project(files, entry=Entry(module="pkg", front=("/p",)))
    assert names(found) == {"pkg/__init__.py", "pkg/__main__.py", "pkg/cli.py"}


def test_a_script_finds_what_lies_beside_it_and_not_what_lies_in_the_root() -> None:
    files = {
        "/p/agents/planner.py": "import common\nimport helpers",
        "/p/agents/helpers.py": "",
        "/p/common.py": "",
    }
    found = project(files, entry=Entry(script="/p/agents/planner.py", front=("/p/agents",)))
    assert names(found) == {"agents/planner.py", "agents/helpers.py"}
    assert {"agents/common.py", "agents/common/__init__.py"} <= missing(found)
    assert found.third_party == {"common"}


def test_the_project_shadows_installed_packages_and_the_standard_library_but_not_builtins() -> None:
    files = {
        "/p/main.py": "import json, requests, time, pathlib",
        "/p/json.py": "",
        "/p/requests.py": "",
        "/p/time.py": "",
        "/site/requests/__init__.py": "import main",
    }
    assert names(project(files)) == {"main.py", "json.py", "requests.py"}


def test_installed_packages_are_named_and_not_entered() -> None:
    files = {
        "/p/main.py": "import fastapi.routing, os\nfrom mesh import agent\nimport nowhere",
        "/site/fastapi/__init__.py": "import main2",
        "/site/mesh.py": "",
        "/p/main2.py": "",
    }
    found = project(files)
    assert names(found) == {"main.py"}
    assert found.third_party == {"fastapi", "mesh", "nowhere"}


def test_site_packages_below_a_root_are_foreign() -> None:
    found = project({"/p/main.py": "import tool", "/site/tool.py": ""}, roots=("/",))
    assert {str(file) for file in found.files} == {"/p/main.py"}


def test_a_compiled_extension_comes_before_a_source() -> None:
    files = {"/p/main.py": "import fast", "/p/fast.py": "", "/p/fast.cpython-311-x86_64-linux-gnu.so": ""}
    assert names(project(files)) == {"main.py"}


def test_a_package_comes_before_a_module_and_a_module_before_a_namespace() -> None:
    files = {"/p/main.py": "import a, b", "/p/a.py": "", "/p/a/__init__.py": "", "/p/b.py": "", "/p/b/inner.py": ""}
    assert names(project(files)) == {"main.py", "a/__init__.py", "b.py"}


def test_a_folder_without_init_gives_way_to_a_package_later_on_the_path() -> None:
    files = {"/p/main.py": "import mesh", "/p/mesh/notes.py": "", "/site/mesh/__init__.py": ""}
    assert names(project(files)) == {"main.py"}


# ---- namespace packages, src layouts, editable installs ------------------------------------------------------------


def test_a_namespace_package_of_two_portions() -> None:
    files = {
        "/p/main.py": "import acme.one.x\nfrom acme import two",
        "/p/acme/one/x.py": "",
        "/p/libs/acme/two.py": "",
        "/site/acme/three/__init__.py": "",
    }
    found = project(files, path=("/p/libs", "/lib", "/site"))
    assert names(found) == {"main.py", "acme/one/x.py", "libs/acme/two.py"}
    assert "acme/__init__.py" in missing(found)


def test_extend_path_joins_regular_packages() -> None:
    init = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"
    files = {
        "/p/main.py": "import acme.one, acme.two",
        "/p/acme/__init__.py": init,
        "/p/acme/one.py": "",
        "/p/libs/acme/__init__.py": init,
        "/p/libs/acme/two.py": "",
    }
    found = project(files, path=("/p/libs", "/site"))
    assert names(found) == {"main.py", "acme/__init__.py", "acme/one.py", "libs/acme/two.py"}


def test_a_src_layout_on_the_path() -> None:
    files = {"/p/main.py": "from planner import app", "/p/src/planner/__init__.py": "", "/p/src/planner/app.py": ""}
    found = project(files, path=("/lib", "/site", "/p/src"))
    assert names(found) == {"main.py", "src/planner/__init__.py", "src/planner/app.py"}


def test_the_finder_of_an_editable_install_outside_the_project() -> None:
    files = {
        "/p/main.py": "import shared.deep\nimport single\nimport spaced.part",
        "/libs/shared/src/shared/__init__.py": "",
        "/libs/shared/src/shared/deep.py": "from .other import x",
        "/libs/shared/src/shared/other.py": "x = 1",
        "/libs/single.py": "",
        "/libs/spaced/part.py": "",
    }
    found = project(
        files,
        mappings={"shared": "/libs/shared/src/shared", "single": "/libs/single.py"},
        namespaces={"spaced": ("/libs/spaced",)},
        roots=("/p", "/libs"),
    )
    assert names(found) == {
        "main.py", "/libs/shared/src/shared/__init__.py", "/libs/shared/src/shared/deep.py",
        "/libs/shared/src/shared/other.py", "/libs/single.py", "/libs/spaced/part.py",
    }  # fmt: skip


def test_a_mapped_name_that_lies_in_a_namespace() -> None:
    files = {"/p/main.py": "import acme.lib.x", "/libs/acme/lib/__init__.py": "", "/libs/acme/lib/x.py": ""}
    found = project(
        files,
        mappings={"acme.lib": "/libs/acme/lib"},
        namespaces={"acme": ("/libs/acme",)},
        roots=("/p", "/libs"),
    )
    assert names(found) == {"main.py", "/libs/acme/lib/__init__.py", "/libs/acme/lib/x.py"}


def test_what_lies_outside_the_roots_is_no_input_and_said() -> None:
    files = {"/p/main.py": "import far", "/elsewhere/far.py": ""}
    found = project(files, path=("/elsewhere", "/lib", "/site"))
    assert names(found) == {"main.py"}
    assert found.outside == {Path("/elsewhere")}


# ---- sys.path in the program's own words ----------------------------------------------------------------------------

PATH_WORDS = [
    "sys.path.insert(0, '/p/libs')",
    "sys.path.append('libs')",
    "sys.path.append('./libs/')",
    "sys.path.insert(0, str(Path(__file__).parent / 'libs'))",
    "sys.path.insert(0, str(Path(__file__).resolve().parents[0].joinpath('libs')))",
    "sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'libs'))",
    "sys.path.insert(1, os.path.dirname(__file__) + '/libs')",
    "sys.path.extend([f'{os.path.dirname(__file__)}/libs'])",
    "sys.path[:0] = ['libs']",
    "sys.path = [os.path.realpath('libs')] + sys.path",
    "sys.path += ['libs']",
    "sys.path.insert(0, os.path.join(os.getcwd(), 'libs'))",
    "ROOT = Path(__file__).parent\nLIBS = ROOT / 'libs'\nif str(LIBS) not in sys.path:\n"
    "    sys.path.insert(0, str(LIBS))",
    "import site\nsite.addsitedir(os.path.join(os.path.dirname(__file__), os.pardir, 'p', 'libs'))",
    "def find():\n    sys.path.insert(0, str(Path.cwd() / 'libs'))\nfind()",
]


@pytest.mark.parametrize("words", PATH_WORDS)
def test_folders_that_the_program_puts_on_its_path(words: str) -> None:
    files = {
        "/p/main.py": f"import os, sys\nfrom pathlib import Path\n{words}\nimport shared\n",
        "/p/libs/shared.py": "import more",
        "/p/libs/more.py": "",
    }
    found = project(files)
    assert names(found) == {"main.py", "libs/shared.py", "libs/more.py"}
    assert not found.notes


def test_an_unknown_folder_on_the_path_is_a_note() -> None:
    found = project({"/p/main.py": "import os, sys\nsys.path.insert(0, os.environ['LIBS'])\nimport shared"})
    assert any("line 2" in note for note in found.notes)
    assert not found.gone


def test_a_module_that_moves_the_path_for_others() -> None:
    files = {
        "/p/agents/main.py": "import _path\nfrom common import llm",
        "/p/agents/_path.py": "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent.parent))",
        "/p/common/__init__.py": "",
        "/p/common/llm.py": "",
    }
    found = project(files, entry=Entry(script="/p/agents/main.py", front=("/p/agents",)))
    assert names(found) == {"agents/main.py", "agents/_path.py", "common/__init__.py", "common/llm.py"}


# ---- names made at run time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "import importlib\ndef load(name):\n    return importlib.import_module(f'tools.{name}')",
        "import importlib\nload = lambda name: importlib.import_module('tools.' + name)",
        "import importlib\nload = lambda name: importlib.import_module('tools.%s' % name)",
        "import pkgutil, tools\nfor m in pkgutil.iter_modules(tools.__path__): __import__(m.name)",
    ],
)
def test_plugins_of_a_package_are_all_its_modules_and_new_ones(words: str) -> None:
    files = {"/p/main.py": words, "/p/tools/__init__.py": "", "/p/tools/a.py": "", "/p/tools/b/__init__.py": ""}
    found = project(files)
    assert names(found) == {"main.py", "tools/__init__.py", "tools/a.py", "tools/b/__init__.py"}
    assert found.folders == {Path("/p/tools"): Path("/p/main.py")}


def test_a_package_that_loads_its_own_parts() -> None:
    files = {
        "/p/main.py": "import tools",
        "/p/tools/__init__.py": "import importlib as i\ndef __getattr__(n): return i.import_module(f'.{n}', __name__)",
        "/p/tools/a.py": "",
    }
    assert names(project(files)) == {"main.py", "tools/__init__.py", "tools/a.py"}


def test_a_table_of_module_names() -> None:
    files = {
        "/p/main.py": "import importlib\nPARTS = {'a': 'tools.a', 'b': 'os.path'}\nimportlib.import_module(PARTS[x])",
        "/p/tools/__init__.py": "",
        "/p/tools/a.py": "",
        "/p/tools/b.py": "",
    }
    assert names(project(files)) == {"main.py", "tools/__init__.py", "tools/a.py"}


def test_files_that_are_run_by_path() -> None:
    words = "from pathlib import Path\nimport runpy\nrunpy.run_path(str(Path(__file__).with_name('x')))\n"
    words += "runpy.run_path(Path(__file__).parent / 'job.py')"
    assert names(project({"/p/main.py": words, "/p/job.py": "import tool", "/p/tool.py": ""})) == {
        "main.py", "job.py", "tool.py"
    }  # fmt: skip


def test_code_on_the_command_line() -> None:
    code = read_source(b"import tool; tool.main()", "<string>")
    assert names(project({"/p/tool.py": ""}, entry=Entry(code=code, front=("/p",)))) == {"tool.py"}


# ---- files that do not exist ---------------------------------------------------------------------------------------


def test_candidates_of_a_failed_import() -> None:
    found = project(
        {
            "/p/main.py": "try:\n    import optional.deep\nexcept ImportError: pass\nfrom a import b",
            "/p/a/__init__.py": "",
        }
    )
    assert {"optional.py", "optional/__init__.py", "optional/deep.py", "optional/deep/__init__.py"} <= missing(found)
    assert {"a/b.py", "a/b/__init__.py"} <= missing(found)
    assert found.missing[Path("/p/a/b.py")] == Path("/p/main.py")


def test_candidates_that_would_come_first() -> None:
    files = {"/p/main.py": "import tool, requests", "/p/libs/tool.py": "", "/site/requests/__init__.py": ""}
    found = project(files, path=("/p/libs", "/lib", "/site"))
    assert {"tool.py", "tool/__init__.py", "libs/tool/__init__.py", "requests.py"} <= missing(found)
    assert "libs/tool.py" not in missing(found)


def test_a_name_that_the_package_has_needs_no_file() -> None:
    found = project({"/p/main.py": "from a import b", "/p/a/__init__.py": "b = 1"})
    assert "a/b.py" not in missing(found)


def test_a_program_that_is_not_there_yet() -> None:
    assert "pkg/app.py" in missing(project({"/p/pkg/__init__.py": ""}, entry=Entry(module="pkg.app", front=("/p",))))


def test_imports_in_a_circle_end() -> None:
    files = {"/p/main.py": "import a", "/p/a.py": "import b", "/p/b.py": "import a, main"}
    assert names(project(files)) == {"main.py", "a.py", "b.py"}
