"""Why a program ended, read from its last lines. The samples are what the interpreters really print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from mesh_supervisor.host.lastwords import AFTERWORDS, Failure, read_failure


def failure(text: str) -> Failure:
    return read_failure(dedent(text).strip("\n").split("\n"))


def failure_of(program: str, folder: Path) -> Failure:
    """What is read from the output of ``program``, run as main.py by this interpreter."""
    (folder / "main.py").write_text(dedent(program))
    run = subprocess.run(
        [sys.executable, "-B", "main.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    found = read_failure(run.stdout.splitlines())
    return Failure(
        found.words.replace(f"{folder}/", ""), found.file and Path(found.file).name, found.line, found.loading
    )


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise ValueError('x')", Failure("ValueError: x", "main.py", 1)),
        ("raise ValueError('first\\nsecond')", Failure("ValueError: first", "main.py", 1)),
        ("raise KeyboardInterrupt", Failure("KeyboardInterrupt", "main.py", 1)),
        ("raise SystemExit('set API_KEY')", Failure("set API_KEY")),
        ("raise SystemExit(3)", Failure()),
        ("print(nothing)", Failure("NameError: name 'nothing' is not defined", "main.py", 1, loading=True)),
        ("import nothing", Failure("ModuleNotFoundError: No module named 'nothing'", "main.py", 1, loading=True)),
        ("def f(:", Failure("SyntaxError: invalid syntax (main.py:1)", "main.py", 1, loading=True)),
        (
            "def f():\nx = 1",
            Failure(
                "IndentationError: expected an indented block after function definition on line 1 (main.py:2)",
                "main.py",
                2,
                loading=True,
            ),
        ),
        (
            "try: {}['k']\nexcept KeyError as e: raise RuntimeError('outer') from e",
            Failure("RuntimeError: outer", "main.py", 2),
        ),
        ("try: {}['k']\nexcept KeyError: raise OSError('outer')", Failure("OSError: outer", "main.py", 2)),
        (
            "import threading\ndef f(): raise ValueError('in a thread')\n"
            "t = threading.Thread(target=f); t.start(); t.join(); print('goes on')",
            Failure("ValueError: in a thread", "main.py", 2),
        ),
        (
            "e = ValueError('x'); e.add_note('a note'); e.add_note('  another'); raise e",
            Failure("ValueError: x", "main.py", 1),
        ),
        (
            "def a(): b()\ndef b(): a()\na()",
            Failure("RecursionError: maximum recursion depth exceeded", "main.py", 1),
        ),
        (
            "class X:\n def __del__(self): raise ValueError('ignored')\nx = X()\nraise KeyError('real')",
            Failure("KeyError: 'real'", "main.py", 4),
        ),
        (
            "class X:\n def __del__(self): raise ValueError('ignored')\nx = X(); del x; print('bad config')",
            Failure("bad config"),
        ),
        ("import json\njson.loads('{')", None),
        (
            "import logging\nlogging.basicConfig()\ntry: 1/0\nexcept ZeroDivisionError: logging.exception('ouch')\n"
            "print('Application startup failed. Exiting.')",
            Failure("ZeroDivisionError: division by zero", "main.py", 3),
        ),
        (
            "def leaf(e):\n try: raise e\n except Exception as x: return x\n"
            "raise ExceptionGroup('many', [leaf(ValueError('a\\nb')), ExceptionGroup('in', [leaf(KeyError('k'))])])",
            Failure("ExceptionGroup: many (2 sub-exceptions): ValueError: a; KeyError: 'k'", "main.py", 4),
        ),
        (
            "try: raise ExceptionGroup('m', [ValueError('a')])\nexcept ExceptionGroup as e: raise OSError('o') from e",
            Failure("OSError: o", "main.py", 2),
        ),
        (
            "import asyncio\nasync def bad(): raise ValueError('in a task')\nasync def main():\n"
            " async with asyncio.TaskGroup() as tasks: tasks.create_task(bad())\nasyncio.run(main())",
            Failure(
                "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception): ValueError: in a task", "main.py", 4
            ),
        ),
        (
            "import os, faulthandler\nfaulthandler.enable(); os.abort()",
            Failure("Fatal Python error: Aborted", "main.py", 2),
        ),
    ],
)
def test_this_interpreter(program: str, expected: Failure | None, tmp_path: Path) -> None:
    found = failure_of(program, tmp_path)
    if expected is None:  # raised deep in a library: the place is the user's own line all the same
        assert found.words.startswith("json.decoder.JSONDecodeError: Expecting property name")
        assert (found.file, found.line) == ("main.py", 2)
    else:
        assert found == expected


def test_an_imported_module_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ndef f(:\n")
    found = failure_of("import broken", tmp_path)
    assert found == Failure("SyntaxError: invalid syntax (broken.py:2)", "broken.py", 2, loading=True)


@pytest.mark.parametrize(
    "words",
    [
        "python: can't open file '/x.py': [Errno 2] No such file or directory",
        "/usr/bin/python3: No module named planner",
        'ERROR:    Error loading ASGI app. Could not import module "app".',
    ],
)
def test_a_program_that_cannot_even_be_found_is_a_failure_to_load(words: str) -> None:
    assert read_failure(["INFO: hello", words, ""]) == Failure(words, loading=True)


def test_python_3_10_names_the_module_of_an_exception() -> None:
    found = failure(
        """
        Traceback (most recent call last):
          File "/p/main.py", line 2, in <module>
            raise MyError
        __main__.MyError
        """
    )
    assert found == Failure("__main__.MyError", "/p/main.py", 2)


def test_python_3_12_forgets_the_margin_in_groups() -> None:
    found = read_failure(
        [
            "  + Exception Group Traceback (most recent call last):",
            '  |   File "/p/group.py", line 11, in <module>',
            "  |     raise ExceptionGroup(...)",
            "  | ExceptionGroup: many (2 sub-exceptions)",
            "  +-+---------------- 1 ----------------",
            "    | ValueError: a",
            "second line of it",
            "    +---------------- 2 ----------------",
            "    | Traceback (most recent call last):",
            '    |   File "/p/group.py", line 8, in chain',
            "    |     try: 1/0",
            "    | ZeroDivisionError: division by zero",
            "    | ",
            "    | The above exception was the direct cause of the following exception:",
            "    | ",
            "    | Traceback (most recent call last):",
            '    |   File "/p/group.py", line 9, in chain',
            "    | TypeError: after zero",
            "    +------------------------------------",
        ]
    )
    assert found.words == "ExceptionGroup: many (2 sub-exceptions): ValueError: a; TypeError: after zero"


def test_python_3_13_shows_expressions_of_many_lines() -> None:
    found = failure(
        """
        Exception in thread Thread-1 (work):
        Traceback (most recent call last):
          File "/p/main.py", line 2, in <module>
            f(
            ~^
              1,
              ^^
            ...<3 lines>...
              6,
              ^^
            )
            ^
          File "/p/main.py", line 1, in f
            def f(*a): raise ValueError("multi")
                       ^^^^^^^^^^^^^^^^^^^^^^^^^
        ValueError: multi
        """
    )
    assert found == Failure("ValueError: multi", "/p/main.py", 1)


def test_python_3_14_ignores_with_other_words() -> None:
    found = failure(
        """
        wrong password
        Exception ignored while calling deallocator <function X.__del__ at 0x7f>:
        Traceback (most recent call last):
          File "/p/main.py", line 2, in __del__
            raise ValueError("ignored")
        ValueError: ignored
        """
    )
    assert found.file is None


def test_a_header_that_is_too_far_away_or_behind_a_prefix_is_not_needed() -> None:
    frames = ['  File "/p/main.py", line 1, in a', "    def a(): b()"] * 200
    assert read_failure([*frames, "RecursionError: too deep"]).words == "RecursionError: too deep"
    prefixed = ["ERROR:    Traceback (most recent call last):", *frames[:2], "OSError: port taken", "", "ERROR: bye"]
    assert read_failure(prefixed).words == "OSError: port taken"


def test_a_traceback_of_long_ago_is_not_the_reason() -> None:
    old = ["Traceback (most recent call last):", '  File "/p/a.py", line 1, in f', "ValueError: long ago"]
    assert read_failure([*old, *["GET / 200"] * AFTERWORDS]).words == "ValueError: long ago"
    assert read_failure([*old, *["GET / 200"] * (AFTERWORDS + 1)]).words == "GET / 200"


def test_nothing_was_said() -> None:
    assert read_failure([]) == read_failure(["", "  "]) == Failure()


def test_endless_last_words_are_cut() -> None:
    assert len(read_failure(["x" * 10_000]).words) == 300


# ---- Node ------------------------------------------------------------------------------------------------------------


def test_node_error() -> None:
    found = failure(
        """
        /p/agent.js:3
        throw new Error("boom")
        ^

        Error: boom
            at Object.<anonymous> (/p/agent.js:3:7)
            at Module._compile (node:internal/modules/cjs/loader:1554:14)
            at node:internal/main/run_main_module:36:49

        Node.js v20.20.2
        """
    )
    assert found == Failure("Error: boom", "/p/agent.js", 3)


def test_node_syntax_error_and_missing_module() -> None:
    syntax = failure(
        """
        /p/agent.js:7
        foo bar
            ^^^

        SyntaxError: Unexpected identifier 'bar'
            at wrapSafe (node:internal/modules/cjs/loader:1464:18)
            at Module._compile (node:internal/modules/cjs/loader:1495:20)

        Node.js v20.20.2
        """
    )
    assert syntax == Failure("SyntaxError: Unexpected identifier 'bar' (/p/agent.js:7)", "/p/agent.js", 7, loading=True)
    missing = failure(
        """
        Error: Cannot find module './nope'
        Require stack:
        - /p/agent.js
            at Module._resolveFilename (node:internal/modules/cjs/loader:1212:15)
            at Object.<anonymous> (/p/agent.js:1:1) {
          code: 'MODULE_NOT_FOUND',
          requireStack: [ '/p/agent.js' ]
        }

        Node.js v20.20.2
        """
    )
    assert missing.words == "Error: Cannot find module './nope'"
    assert missing.loading


def test_node_throws_a_string() -> None:
    found = failure(
        """
        no luck
        (Use `node --trace-uncaught ...` to show where the exception was thrown)

        Node.js v20.20.2
        """
    )
    assert found.words == "no luck"


def test_a_frame_of_blanks_and_slashes_is_read_once() -> None:
    """Tried from every blank, this would take hours."""
    assert read_failure(["Error: x", "    at" + " /" * 500_000]) == Failure("Error: x")


def test_a_place_in_a_folder_with_blanks() -> None:
    found = read_failure(["Error: x", "    at main (file:///my files/a b.js:12:3)"])
    assert (found.file, found.line) == ("/my files/a b.js", 12)
