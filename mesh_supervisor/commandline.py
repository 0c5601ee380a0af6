"""PURE. A command line → which Python code it starts.

``python x.py``, ``python -m pkg``, ``uv run …`` and other wrappers, console scripts, and launchers that are told what
to load (``uvicorn app.main:app``, ``fastapi dev main.py``, ``fastmcp run server.py``). What the disk and the
environment know is asked through ``Surroundings``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from posixpath import basename, dirname, isabs, join, normpath, splitext
from typing import Literal, Protocol

from mesh_supervisor.imports import Entry
from mesh_supervisor.syntax import read_source

Place = Literal["project", "elsewhere"]


class Surroundings(Protocol):
    """What a command line is read against; all paths absolute."""

    def is_file(self, path: str) -> bool: ...

    def real_path(self, path: str) -> str:
        """Where a link leads; the path itself if it is none."""

    def is_python_script(self, path: str) -> bool:
        """A file with Python in its first line (``#!``)."""

    def console_script(self, name: str) -> str | None:
        """``module:attr`` of an installed (or declared) command."""

    def which(self, name: str) -> str | None:
        """The program that PATH gives for this name; None: not there (yet)."""

    def place_of(self, module: str, front: tuple[str, ...]) -> Place | None:
        """Whose module this is, with these folders first on the path; None: nobody's (yet)."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a command line comes to.

    ``entry`` None: no Python code of the project was found in it. Then ``python`` tells a Python program that is
    loaded in a way not known here, or not installed yet (True), from any other program (False). ``tool`` is the
    launcher's top-level module (``uvicorn``). ``directory``: where it runs (``uv --directory``).
    """

    entry: Entry | None
    python: bool = True
    tool: str | None = None
    directory: str = "/"
    ignores_pythonpath: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """Words that are left to read, and where they are run."""

    words: tuple[str, ...]
    directory: str

    @property
    def head(self) -> str:
        return basename(self.words[0]) if self.words else ""

    def rest(self, count: int = 1) -> _Line:
        return replace(self, words=self.words[count:])

    def place(self, word: str) -> str:
        return normpath(join(self.directory, word))


PYTHON = re.compile(r"^(python|pypy|pythonw)(\d(\.\d+)?)?t?$")
_TARGET = re.compile(r"^([^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d][\w.]*(\(\))?$")
_MODULE = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")

WRAPPERS: dict[str, int] = {
    # program → how many plain words of its own stand before the wrapped program
    "nice": 0, "nohup": 0, "exec": 0, "time": 0, "setsid": 0, "stdbuf": 0, "timeout": 1, "tini": 0, "dumb-init": 0,
    "ionice": 0, "taskset": 1, "sudo": 0, "command": 0, "opentelemetry-instrument": 0, "ddtrace-run": 0,
    "newrelic-admin": 1, "poetry": 1, "pdm": 1, "rye": 1, "hatch": 1, "pipenv": 1, "pixi": 1, "conda": 1,
    "micromamba": 1, "dotenv": 1, "doppler": 1, "infisical": 1, "op": 1, "mise": 1, "direnv": 2, "logfire": 1,
}  # fmt: skip
_RUN_ONLY = frozenset(
    {"poetry", "pdm", "rye", "hatch", "pipenv", "pixi", "conda", "micromamba", "dotenv", "doppler", "op", "logfire"}
)
"""Wrappers whose first word must be ``run`` to wrap anything."""
_WITH_VALUE = frozenset({"-n", "-p", "-u", "-k", "-s", "-i", "-o", "-e", "-f", "-c", "--name", "--prefix", "--file"})

UV_WITH_VALUE = frozenset({
    "--with", "--with-editable", "--with-requirements", "--extra", "--no-extra", "--group", "--no-group",
    "--only-group", "--env-file", "--python", "-p", "--package", "--project", "--directory", "--index",
    "--default-index", "--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--index-strategy",
    "--keyring-provider", "--resolution", "--prerelease", "--config-setting", "-C", "--exclude-newer",
    "--link-mode", "--cache-dir", "--color", "--config-file", "--refresh-package", "--reinstall-package",
    "--upgrade-package", "-P", "--python-platform", "--no-build-package", "--no-binary-package",
    "--allow-insecure-host", "-w",
})  # fmt: skip

_PLAIN_MODULE = {"gunicorn", "dramatiq", "arq", "hypercorn", "daphne", "uvicorn", "granian", "waitress-serve", "taskiq"}
"""Launchers whose plain words may be module names without ``:attr``."""
_APP_OPTIONS = {"-A", "--app", "--app-dir", "--factory-app", "--entrypoint"}
_FOLDER_OPTIONS = {"--app-dir", "--chdir", "--pythonpath", "--working-dir"}
_FASTAPI_DEFAULTS = ("main.py", "app.py", "api.py", "app/main.py", "app/app.py", "app/api.py")


def read_command(argv: tuple[str, ...], directory: str, around: Surroundings) -> Started:
    """What this command line, run in ``directory``, starts."""
    line = _unwrapped(_Line(argv, directory))
    if not line.words:
        return Started(None, python=False, directory=line.directory)
    if PYTHON.match(line.head):
        return _python(line.rest(), around)
    installed = _console(line, around)
    if installed is not None:
        return installed
    script = line.place(line.words[0])
    if _is_python_file(line.words[0], script, around):
        return _script(script, line, around)
    program = around.which(line.words[0])
    python = program is None or around.is_python_script(program)
    return Started(None, python=python, directory=line.directory)


def _is_python_file(word: str, path: str, around: Surroundings) -> bool:
    if not around.is_file(path):
        return False
    return path.endswith(".py") or ("/" in word and around.is_python_script(path))


# ---- wrappers ------------------------------------------------------------------------------------------------------


def _unwrapped(line: _Line) -> _Line:
    """``uv run --frozen nice python x.py`` → ``python x.py``."""
    while line.words:
        if line.head in {"uv", "uvx"}:
            inner = _uv(line)
        elif line.head == "env":
            inner = _env(line.rest())
        elif line.head in WRAPPERS:
            inner = _wrapped(line)
        else:
            return line
        if inner is None:
            return line
        line = inner
    return line


def _uv(line: _Line) -> _Line | None:
    """``uv [options] run [options] X …``. ``-m X`` and ``-s X`` are said as python would be told."""
    words, directory = list(line.words[1:]), line.directory
    seen_run = line.head == "uvx"
    while words:
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            if seen_run:
                words.insert(0, word)
                break
            if word != "run":
                return None
            seen_run = True
            continue
        name, equals, value = word.partition("=")
        if name in {"-m", "--module"} and seen_run:
            return _Line(("python", "-m", *([value] if equals else []), *words), directory)
        if name in {"-s", "--script", "--gui-script"} and seen_run:
            return _Line(("python", *words), directory)
        if name in UV_WITH_VALUE and not equals and words:
            value = words.pop(0)
        if name == "--directory":
            directory = normpath(join(directory, value))
    return _Line(tuple(words), directory) if words else None


def _env(line: _Line) -> _Line:
    """``env [-i] [-u X] A=B X …``."""
    words = list(line.words)
    while words and (words[0].startswith("-") or "=" in words[0]):
        word = words.pop(0)
        if word in {"-u", "--unset", "-C", "--chdir"} and words:
            words.pop(0)
    return replace(line, words=tuple(words))


def _wrapped(line: _Line) -> _Line | None:
    own = WRAPPERS[line.head]
    words = list(line.words[1:])
    if line.head in _RUN_ONLY and "run" not in words:
        return None
    while words and (own or words[0].startswith("-")):
        word = words.pop(0)
        if word == "--":
            break
        if not word.startswith("-"):
            own -= 1
        elif word in _WITH_VALUE and words:
            words.pop(0)
    return replace(line, words=tuple(words))


# ---- python itself -------------------------------------------------------------------------------------------------


def _python(line: _Line, around: Surroundings) -> Started:
    """The words after ``python``."""
    words = list(line.words)
    isolated = safe = False
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--check-hash-based-pycs" or word in {"-W", "-X"}:
            words = words[1:]
            continue
        if word.startswith("--"):
            continue
        flags = re.match(r"-([a-ln-zA-VY-Z]*?)([mcWX])(.*)$", word)
        letters = flags[1] if flags else word[1:]
        isolated |= "I" in letters or "E" in letters
        safe |= "I" in letters or "P" in letters
        if flags and flags[2] in "mc":
            value = flags[3] or (words.pop(0) if words else "")
            rest = replace(line, words=tuple(words))
            started = _python_m(value, rest, safe, around) if flags[2] == "m" else _python_c(value, rest, safe)
            return replace(started, ignores_pythonpath=isolated)
    if not words or words[0] == "-":
        return Started(None, directory=line.directory)
    # What `ps` shows of an installed command: python …/bin/NAME.
    installed = _console(replace(line, words=tuple(words)), around) if "/bin/" in words[0] else None
    started = installed or _script(line.place(words[0]), line, around, safe=safe)
    return replace(started, ignores_pythonpath=isolated)


def _python_m(module: str, line: _Line, safe: bool, around: Surroundings) -> Started:
    front = () if safe else (line.directory,)
    if around.place_of(module, front) == "elsewhere":
        return _launched(module.partition(".")[0], line, around, front)
    return Started(Entry(module=module, front=front), directory=line.directory)


def _python_c(code: str, line: _Line, safe: bool) -> Started:
    source = read_source(code.encode(), join(line.directory, "<string>"))
    return Started(Entry(code=source, front=() if safe else (line.directory,)), directory=line.directory)


def _script(path: str, line: _Line, around: Surroundings, *, safe: bool = False) -> Started:
    """Python puts the folder of the real file first. A folder (or an archive) is run by its ``__main__.py``."""
    if around.is_file(join(path, "__main__.py")):
        path, front = join(path, "__main__.py"), path
    else:
        front = dirname(around.real_path(path))
    return Started(Entry(script=path, front=() if safe else (front,)), directory=line.directory)


# ---- console scripts and launchers ---------------------------------------------------------------------------------


def _console(line: _Line, around: Surroundings) -> Started | None:
    """A command that an installed distribution brings along; None: not known."""
    target = around.console_script(line.head)
    if target is None:
        return None
    module = target.partition(":")[0].strip()
    if around.place_of(module, ()) == "elsewhere":
        return _launched(module.partition(".")[0], line.rest(), around, ())
    return Started(Entry(imported=(module,)), directory=line.directory)


def _launched(tool: str, line: _Line, around: Surroundings, front: tuple[str, ...]) -> Started:
    """A program of somebody else's that is told what to load. ``front``: what its start puts first on the path."""
    loaded = _Loaded(tool, line, around)
    script, modules = loaded.script, tuple(dict.fromkeys(loaded.modules))
    if script is None and not modules:
        return Started(None, tool=tool, directory=line.directory)
    own = (dirname(script),) if script is not None else ()
    entry = Entry(script=script, imported=modules, front=(*own, *loaded.folders, *front))
    return Started(entry, tool=tool, directory=line.directory)


class _Loaded:
    """What the words after a launcher name: modules (``app.main:app``), a script (``server.py:mcp``), folders that it
    puts on the path (``--app-dir src``, and the working directory, as all of them do)."""

    def __init__(self, tool: str, line: _Line, around: Surroundings) -> None:
        self._tool, self._line, self._around = tool, line, around
        self.script: str | None = None
        self.modules: list[str] = []
        self.folders: list[str] = list(self._folder_options())
        self.folders.append(line.directory)
        self._read()
        if tool in {"fastapi", "fastapi_cli"} and not self.modules:
            self._read_fastapi_default()

    def _folder_options(self) -> Iterator[str]:
        words = self._line.words
        for index, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name in _FOLDER_OPTIONS:
                value = value if equals else (words[index + 1] if index + 1 < len(words) else "")
                yield self._line.place(value)

    def _read(self) -> None:
        previous = ""
        for word in self._line.words:
            name, equals, value = word.partition("=")
            if name in _APP_OPTIONS and equals:
                self._take(value, named=True)
            elif not word.startswith("-"):
                self._take(word, named=previous in _APP_OPTIONS or previous == "-m")
            previous = word

    def _take(self, word: str, *, named: bool) -> None:
        file = self._line.place(re.sub(r"\.py[:@].*$", ".py", word))
        target = _TARGET.match(word)
        if file.endswith(".py") and self._around.is_file(file):
            self._take_file(file)
        elif target:
            # Also one that does not exist (yet): its files are what is missing.
            self.modules.append(target[1])
        elif self._may_be_module(word, named) and self._around.place_of(word, tuple(self.folders)) == "project":
            self.modules.append(word)

    def _may_be_module(self, word: str, named: bool) -> bool:
        return _MODULE.match(word) is not None and (named or "." in word or self._tool in _PLAIN_MODULE)

    def _take_file(self, file: str) -> None:
        if self._tool in {"fastapi", "fastapi_cli"}:
            root, name = self._package_of(file)
            self.folders.insert(0, root)
            self.modules.append(name)
        elif self.script is None:
            self.script = file

    def _package_of(self, file: str) -> tuple[str, str]:
        """The fastapi command imports a file as the module that it is: (folder on the path, full name)."""
        names = [] if basename(file) == "__init__.py" else [splitext(basename(file))[0]]
        folder = dirname(file)
        while self._around.is_file(join(folder, "__init__.py")):
            names.insert(0, basename(folder))
            folder = dirname(folder)
        return folder, ".".join(names)

    def _read_fastapi_default(self) -> None:
        for name in _FASTAPI_DEFAULTS:
            file = self._line.place(name)
            if self._around.is_file(file):
                self._take_file(file)
                return


def python_named(argv: tuple[str, ...], directory: str) -> str | None:
    """The interpreter that a command line names by a path (``["../.venv/bin/python", "x.py"]``)."""
    if argv and "/" in argv[0] and PYTHON.match(basename(argv[0])):
        return argv[0] if isabs(argv[0]) else normpath(join(directory, argv[0]))
    return None
