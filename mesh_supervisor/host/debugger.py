"""What has to be known before a program is run under debugpy: is it there, which port is free, what runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..debugging import FIRST_PORT, HOST, installing, with_debugger
from ..errors import MeshError
from .children import Program
from .interpreter import ask
from .ports import free_port, holder_of

_NEXT = 100
"""Ports after the first that are tried before any free one does."""

_ASK = "import importlib.util as u; print(*[n for n in ('debugpy', 'pip') if u.find_spec(n)], 'asked')"


def refuse_without_debugpy(python: Path, program: Program) -> None:
    """Raises MeshError with the command that installs it for this interpreter."""
    found = ask(python, _ASK, program.environ, directory=program.directory).split()
    if "debugpy" not in found:
        has_uv = shutil.which("uv", path=program.environ.get("PATH")) is not None
        cure = installing(str(python), has_pip="pip" in found, has_uv=has_uv)
        raise MeshError(f"debugpy is not installed for {python}; `{cure}` installs it")


def debug_port(wanted: int | None) -> int:
    """``wanted``, if it is free (MeshError otherwise); None: 5678 or the next free one."""
    if wanted is None:
        return free_port(range(FIRST_PORT, FIRST_PORT + _NEXT))
    holder = holder_of(wanted, HOST)
    if holder is not None:
        raise MeshError(f"port {wanted} is already in use by {holder}; leave it out, and a free one is chosen")
    return wanted


def under_debugger(program: Program, python: Path, port: int, *, wait: bool, words: Sequence[str] = ()) -> Program:
    """``program`` under debugpy; ``words``: it as words for a Python, where that is known already. Raises MeshError for
    one that is not Python."""
    words = with_debugger(words or _as_python(program, python), port, wait=wait) or ()
    if not words:
        raise MeshError(f"{' '.join(program.argv)}: runs no program that could be debugged")
    return Program(tuple(words), program.environ, program.directory)


def _as_python(program: Program, python: Path) -> tuple[str, ...]:
    """The words, beginning with a Python: a console script is a file for it."""
    head = program.argv[0]
    if Path(head).name.startswith(("python", "pypy")):
        return program.argv
    found = _found(head, program.directory, program.environ)
    if found is None or not _is_python_script(found):
        raise MeshError(f"{head}: is no Python program, so debugpy cannot run it")
    return (str(python), str(found), *program.argv[1:])


def _found(head: str, directory: Path, environ: Mapping[str, str]) -> Path | None:
    if "/" in head:
        return directory / head
    found = shutil.which(head, path=environ.get("PATH", os.defpath))
    return None if found is None else directory / found


def _is_python_script(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            first = opened.readline(4096)
    except OSError:
        return False
    return file.suffix == ".py" or (first.startswith(b"#!") and b"python" in first)
