"""Are the program, the interpreter and the folder there that an agent names? What to write instead when they are not.

Looks at the disk and changes nothing. Raises `NotUsable`, whose text continues a sentence about the key.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from mesh_supervisor.locate import absolute
from mesh_supervisor.spec import Module, Script

_RUNNERS = {
    ".sh": "sh",
    ".bash": "bash",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
    ".ts": "npx tsx",
    ".rb": "ruby",
}
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class NotUsable(Exception):
    """Something that is named is not there, or not what it has to be."""


def script(root: Path, directory: Path, text: str) -> Script:
    """The Python file that ``command = "…"`` names."""
    path = absolute(root, text)
    if path.is_file():
        if _is_python(path):
            return Script(path)
        raise NotUsable(f"{text} is no Python script; write {_as_list(path, directory)}")
    if path.is_dir():
        main = " (its __main__.py?)" if (path / "__main__.py").is_file() else ""
        raise NotUsable(f"{text} is a folder; name the script in it{main}")
    raise NotUsable(_missing(root, text))


def module(text: str) -> Module:
    if _MODULE.fullmatch(text):
        return Module(text)
    if text.endswith(".py") or "/" in text:
        raise NotUsable(f'must be a module such as "planner.app", not a file; write command = "{text}"')
    if ":" in text:
        raise NotUsable(f'must be a module alone; for a server that loads it write command = ["uvicorn", "{text}"]')
    raise NotUsable(f'must be a module such as "planner.app", not "{text}"')


def folder(root: Path, text: str) -> Path:
    path = absolute(root, text)
    if path.is_dir():
        return path
    if path.exists():
        raise NotUsable(f"{text} is a file, not a folder")
    raise NotUsable(f"no such folder: {text}{_near(root, text)}")


def interpreter(root: Path, text: str, search_path: str | None) -> Path:
    """A path from mesh.toml's folder, or a bare name that is found in PATH (``python3.12``)."""
    path = absolute(root, text)
    if path.is_dir():
        inside = path / "bin" / "python"
        raise NotUsable(f"{text} is a folder" + (f'; write "{text.rstrip("/")}/bin/python"' if inside.exists() else ""))
    if not path.exists():
        return _found_in_path(root, text, search_path)
    if not os.access(path, os.X_OK):
        raise NotUsable(f"{text} is not executable")
    return path


def _found_in_path(root: Path, text: str, search_path: str | None) -> Path:
    found = shutil.which(text, path=search_path) if "/" not in text else None
    if found is not None:
        return Path(found).absolute()
    if os.path.lexists(absolute(root, text)):
        raise NotUsable(f"{text} is a link to an interpreter that is gone; make the environment again")
    where = " here or in PATH" if "/" not in text else ""
    raise NotUsable(f"no such interpreter{where}: {text}; make the environment, or leave python out")


def _is_python(path: Path) -> bool:
    if path.suffix in (".py", ".pyw", ".pyz"):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except OSError:
        return True  # it will say so itself when it is started
    first = start.split(b"\n", 1)[0]
    if first.startswith(b"#!"):
        return b"python" in first
    return b"\0" not in start and path.suffix not in _RUNNERS


def _as_list(path: Path, directory: Path) -> str:
    """The words of a list are relative to the agent's folder."""
    word = os.path.relpath(path, directory)
    runner = _RUNNERS.get(path.suffix, "").split()
    return _list([*runner, word] if runner else [word if "/" in word else f"./{word}"])


def _missing(root: Path, text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    if len(words) > 1:
        return f"no such file: {text}; {_for_words(root, words)}"
    near = _near(root, text)
    if near or "/" in text or text.endswith(".py"):
        return f"no such file: {text}{near}"
    return f"no such file: {text}; a program that is no script of yours is a list: {_list(words)}"


def _for_words(root: Path, words: list[str]) -> str:
    """What somebody meant who wrote a whole command line as a string."""
    rest = words[1:] if re.fullmatch(r"python[\d.]*", words[0]) else words
    if len(rest) > 1 and rest is not words and rest[0] == "-m":
        return f'write module = "{rest[1]}"' + _args(rest[2:])
    if absolute(root, rest[0]).is_file() and _is_python(absolute(root, rest[0])):
        return f'write command = "{rest[0]}"' + _args(rest[1:])
    return f"a command line is a list: {_list(words)}"


def _args(words: list[str]) -> str:
    return f" and args = {_array(words)}" if words else ""


def _list(words: list[str]) -> str:
    return f"command = {_array(words)}"


def _array(words: list[str]) -> str:
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in words)
    return "[" + ", ".join(f'"{word}"' for word in quoted) + "]"


def _near(root: Path, text: str) -> str:
    """``; did you mean "agents/planner.py"?`` when a name in the same folder is like the one that is missing."""
    path = absolute(root, text)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    if not near:
        return ""
    return f'; did you mean "{(Path(text).parent / near[0]).as_posix()}"?'


def search_path_of(environ: Mapping[str, str]) -> str:
    return environ.get("PATH", os.defpath)
