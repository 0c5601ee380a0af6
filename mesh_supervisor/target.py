"""PURE. A command line → what of Python it runs, for the runtime to run it in the same way.

Python itself, console scripts (their first line names the Python), and ``uv run`` of either (uvrun.py). Everything
else runs plainly, with the reason. What the disk and the environment know is asked through ``Ground``.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from posixpath import basename, dirname, join
from typing import Literal, NoReturn, Protocol

from mesh_supervisor.commandline import PYTHON, WRAPPERS
from mesh_supervisor.uvrun import Project, Unresolved, resolve

OLDEST = (3, 10)

IN_A_LIST = "write the program itself as the command, as a list that begins with python or with a console script"
OTHER_LANGUAGE = 'listen = "fd" keeps its socket through a restart, if it knows LISTEN_FDS'
NEWER_PYTHON = "make its environment with Python 3.10 or newer, or name one by `python` in mesh.toml"


@dataclass(frozen=True, slots=True)
class Target:
    """``words``: what sys.orig_argv would be. ``python``: an absolute path."""

    python: str
    flags: tuple[str, ...]
    kind: Literal["script", "module"]
    name: str
    args: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plain:
    """Why a program runs without the runtime, and what would help ("" nothing)."""

    reason: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Python:
    """What an interpreter says of itself. ``name``: "cpython"."""

    version: tuple[int, int]
    name: str = "cpython"


class Ground(Project, Protocol):
    """What a command line is read against. All paths are absolute."""

    def which(self, name: str) -> str | None:
        """The executable that this first word of a command line means; None: there is none."""

    def real_path(self, path: str) -> str: ...

    def about(self, python: str) -> Python | None:
        """None: it does not answer."""


def target_of(argv: tuple[str, ...], directory: str, ground: Ground) -> Target | Plain:
    """What this command line, run in ``directory``, runs."""
    try:
        if argv and basename(argv[0]) == "uv":
            argv = resolve(argv, directory, ground)
        return _target(argv, ground)
    except Unresolved as why:
        return Plain(why.reason, why.cure)


_TOOLS_THAT_WATCH = frozenset({"debugpy", "pdb", "ipdb", "pudb", "coverage"})


def watched_by(target: Target) -> str | None:
    """The debugger or the like that the program is run by: it is started cold, and never beside another generation."""
    name = target.name if target.kind == "module" else basename(target.name)
    top = name.partition(".")[0]
    return top if top in _TOOLS_THAT_WATCH else None


def _target(argv: tuple[str, ...], ground: Ground) -> Target:
    head = basename(argv[0]) if argv else ""
    if head == "env" or (head in WRAPPERS and head not in _REPLACED):
        raise Unresolved(f"{head} stands between", _CURES_OF_WRAPPERS.get(head, IN_A_LIST))
    if head in _SHELLS:
        raise Unresolved(f"it is started by a shell ({head})", IN_A_LIST)
    path = ground.which(argv[0]) if argv else None
    if path is None:
        raise Unresolved(f"{argv[0] if argv else 'its command'} is not found")
    if PYTHON.match(head):
        return _python(path, argv, ground)
    # The kernel hands on the path that it was given.
    words = (argv[0] if "/" in argv[0] else path, *argv[1:])
    return _python(*_by_first_line(path, words, ground), ground)


_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox"})
_REPLACED = frozenset({"opentelemetry-instrument", "ddtrace-run", "newrelic-admin"})
"""Console scripts that put another program in their own place, and the runtime is gone with them."""

_CURES_OF_WRAPPERS = {"env": "put the variables into `env` of mesh.toml, and the program itself into `command`"}


# ---- the first line of a script ----------------------------------------------------------------------------------


_TRAMPOLINE = re.compile(r"""^'''exec' (?P<python>"[^"$]+"|[^\s"$]+|"\$\(.*?\)"/'[^']+') "\$0" "\$@"$""", re.MULTILINE)
"""pip and uv write it where the path of the Python is long or has spaces: for sh it is a command, for Python a text."""


def _by_first_line(path: str, script: tuple[str, ...], ground: Ground) -> tuple[str, tuple[str, ...]]:
    """(the Python, the words with which it is started) as the kernel does it. ``script``: its own words."""
    start = ground.start_of(path)
    if not start.startswith("#!"):
        raise Unresolved(f"{basename(path)} is no Python program", OTHER_LANGUAGE)
    line = start[2:].partition("\n")[0].strip()
    interpreter, _, argument = line.partition(" ")
    found = _TRAMPOLINE.search(start[:2000]) if basename(interpreter) in _SHELLS else None
    words: tuple[str, ...] = ()
    if found is not None:
        interpreter = _jumped_to(found["python"], path, ground)
    elif basename(interpreter) == "env":
        words = tuple(shlex.split(argument.strip().removeprefix("-S")))
        interpreter, words = words[0] if words else "", words[1:]
    elif argument.strip():
        words = (argument.strip(),)
    python = ground.which(interpreter) if PYTHON.match(basename(interpreter)) else None
    if python is None:
        _refuse_script(basename(path), basename(interpreter))
    return python, (interpreter, *words, *script)


def _jumped_to(python: str, path: str, ground: Ground) -> str:
    if python.startswith('"$('):
        return join(dirname(ground.real_path(path)), python.partition("/'")[2].removesuffix("'"))
    return python.strip('"')


def _refuse_script(name: str, interpreter: str) -> NoReturn:
    if PYTHON.match(interpreter):
        raise Unresolved(f"the Python that the first line of {name} names is not there", "install it again")
    if interpreter in _SHELLS:
        raise Unresolved(f"{name} is a shell script", IN_A_LIST)
    raise Unresolved(f"{name} is run by {interpreter or 'nothing'}, not by Python", OTHER_LANGUAGE)


# ---- python itself -----------------------------------------------------------------------------------------------


def _python(path: str, words: tuple[str, ...], ground: Ground) -> Target:
    """``words``: from Python's own name on."""
    flags, kind, name, args = _parted(words[1:])
    if kind == "script" and basename(name) in _REPLACED:
        raise Unresolved(
            f"{basename(name)} puts the program in its own place", "set it up in the program's own code instead"
        )
    if ground.variable("PYTHONINSPECT"):
        raise Unresolved("PYTHONINSPECT asks for a prompt", "remove PYTHONINSPECT from its environment")
    _check(ground.about(path), path)
    return Target(path, flags, kind, name, args, words)


def _check(python: Python | None, path: str) -> None:
    if python is None:
        raise Unresolved(f"{path} does not answer like a Python", NEWER_PYTHON)
    version = ".".join(map(str, python.version))
    if python.name != "cpython":
        raise Unresolved(f"the runtime knows CPython only, not {python.name} {version}", NEWER_PYTHON)
    if python.version < OLDEST:
        raise Unresolved(f"its Python {version} is too old for the runtime; 3.10 or newer", NEWER_PYTHON)


def _parted(words: tuple[str, ...]) -> tuple[tuple[str, ...], Literal["script", "module"], str, tuple[str, ...]]:
    """(flags, kind, name, arguments) of the words after ``python``."""
    flags: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        option, value = _last_option(word)
        if option == "m":
            flags += [word[: word.index("m")]] if word.index("m") > 1 else []
            name = value or (rest.pop(0) if rest else "")
            return tuple(flags), "module", name or _nothing("it has no program"), tuple(rest)
        flags.append(word)
        if option and not value and rest:
            flags.append(rest.pop(0))
    if not rest or rest[0] == "-":
        raise Unresolved("Python reads its program from stdin, and that is empty", "name the program in `command`")
    return tuple(flags), "script", rest[0], tuple(rest[1:])


def _last_option(word: str) -> tuple[str, str]:
    """(the letter in it that takes a value, what of the value is in the same word); ("", "") for plain letters."""
    if word.startswith("--"):
        if word.partition("=")[0] != "--check-hash-based-pycs":
            _nothing(f"python {word} runs no program")
        return "-", word.partition("=")[2]
    for index, letter in enumerate(word[1:], 2):
        if letter in _REFUSED:
            raise Unresolved(*_REFUSED[letter])
        if letter in "mWX":
            return letter, word[index:]
    return "", ""


def _nothing(reason: str) -> NoReturn:
    raise Unresolved(reason, "name the program in `command`")


_NO_PROGRAM = ("that runs no program, it tells about Python", "name the program in `command`")
_REFUSED = {
    "c": ("its code stands in the command line (python -c)", "put the code into a file"),
    "i": ("python -i asks for a prompt", "leave out -i; `meshsup run` gives it a terminal"),
    "x": ("python -x skips the first line of the program", "leave out -x"),
    **dict.fromkeys("hV?", _NO_PROGRAM),
}
