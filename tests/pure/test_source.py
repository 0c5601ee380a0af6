"""One file's imports and names; never an exception, whatever the file holds."""

from __future__ import annotations

import ast
from posixpath import join, normpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.pathwords import PathWords
from mesh_supervisor.source import Source, merge_broken
from mesh_supervisor.syntax import read_source

FILE = "/p/agents/planner.py"


def read(text: str | bytes) -> Source:
    return read_source(text.encode() if isinstance(text, str) else text, FILE)


def imports(source: Source) -> list[str]:
    return [str(found) for found in source.imports]


def test_lines_and_levels() -> None:
    found = read("import a.b as c\n\nfrom ..d import (e,\n  f as g)\nfrom . import h\n")
    assert imports(found) == ["import a.b", "from ..d import e, f", "from . import h"]
    assert [one.line for one in found.imports] == [1, 3, 5]


def test_firm_means_run_at_every_load() -> None:
    text = "import a\nif x:\n    import b\nif __name__ == '__main__':\n    import c\n"
    text += "try:\n    import d\nexcept E:\n    import e\n"
    assert [one.firm for one in read(text).imports] == [True, False, True, False, False]
    assert [one.main_only for one in read(text).imports] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfimport a",  # a byte order mark
        b"# -*- coding: latin-1 -*-\nx = '\xe9'\nimport a",
        b"import a\r\nimport sys\r\n",
        b"import a\n\x00",  # does not compile; found by line
        b"\xff\xfeimport a\nimport a",
        b"type X = int\nimport a",  # Python 3.12
        b"import a\nx = t'{y}'\nexcept A, B:",  # nonsense or the future
        b"x = '\\d'\nimport a",  # an invalid escape: a warning in some versions
        b"def f():\r  import a\r",
    ],
)
def test_whatever_its_encoding_or_version(content: bytes) -> None:
    assert "import a" in imports(read(content))


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(content: bytes) -> None:
    read(content)


@given(st.text(alphabet="()[]{}:,.=\n \t'\"\\#*importfmasxyz_0", max_size=80))
def test_no_text_is_too_strange(text: str) -> None:
    read(text)


def test_deep_nesting() -> None:
    assert read("(" * 5000 + ")" * 5000).broken
    assert imports(read("import a\nx = " + "-" * 20_000 + "1")) == ["import a"]
    assert "import a" in imports(read("import a\nx = " + "+".join(["1"] * 3000)))


def test_while_an_edit_is_broken_the_last_good_imports_count_too() -> None:
    good, broken = read("import a\nX = 1"), read("import b\ndef f(:")
    both = merge_broken(broken, good)
    assert imports(both) == ["import a", "import b"]
    assert both.broken and both.dynamic and "X" in both.bound


def test_a_definition_far_down_that_imports() -> None:
    """Bodies without the word are passed over; this must not lose one that has it."""
    text = "class A:\n    def one(self):\n        pass\n\n    def two(self):\n        def three():\n"
    text += "            import deep\n"
    assert imports(read(text + "def four(): import last\n")) == ["import deep", "import last"]


def test_names_bound_firmly_and_perhaps() -> None:
    found = read("a = 1\nif x:\n    b = 1\nimport c.d\nfrom e import f as g\ndel a\ndef h(): i = 1\n")
    assert found.firmly_bound == {"c": 1, "g": 2, "h": 2}
    assert {"a", "b", "c", "g", "h"} <= found.bound
    assert "i" not in found.bound


WORDS = {
    "__file__": FILE,
    "'x'": "x",
    "Path(__file__).parent": "/p/agents",
    "pathlib.Path(__file__).resolve().parent.parent": "/p",
    "Path(__file__).parents[1] / 'libs'": "/p/libs",
    "Path(__file__) / '..' / '..' / 'libs'": "/p/libs",
    "os.path.dirname(os.path.dirname(os.path.abspath(__file__)))": "/p",
    "os.path.join(os.path.dirname(__file__), '..', 'libs')": "/p/libs",
    "os.path.dirname(__file__) + '/../libs'": "/p/libs",
    "f'{os.path.dirname(__file__)}/x'": "/p/agents/x",
    "str(Path(__file__).parent.joinpath('a', 'b'))": "/p/agents/a/b",
    "os.path.join(os.path.dirname(__file__), os.pardir)": "/p",
    "Path.cwd().parent": "..",
    "Path('.').resolve().parent.parent": "../..",
    "Path('libs')": "libs",
    "Path('a/b').parent": "a",
    "Path(__file__, '..')": "/p/agents",
    "Path(__file__).with_name('x.py')": "/p/agents/x.py",
    "Path(__file__).parents[9]": "/",
}


@pytest.mark.parametrize(("words", "path"), WORDS.items())
def test_paths_in_words(words: str, path: str) -> None:
    assert PathWords(FILE).path(ast.parse(words, mode="eval").body) == path


@pytest.mark.parametrize(
    "words",
    ["os.environ['X']", "x", "Path(x) / 'a'", "f(1)", "Path(__file__).parents[n]", "sys.argv[1]", "1", "Path()"],
)
def test_paths_that_only_a_run_knows(words: str) -> None:
    assert PathWords(FILE).path(ast.parse(words, mode="eval").body) is None


@given(st.lists(st.sampled_from(["..", ".", "a", "b"]), max_size=6), st.integers(0, 4))
def test_going_up_is_what_the_system_does(parts: list[str], ups: int) -> None:
    words = f"Path({join('/r', *parts)!r})" + "".join(f" / {part!r}" for part in parts) + " / '..'" * ups
    expected = normpath(join("/r", *parts, *parts, *[".."] * ups))
    assert PathWords(FILE).path(ast.parse(words, mode="eval").body) == expected
