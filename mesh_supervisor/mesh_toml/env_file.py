"""A .env file → its variables, read as python-dotenv reads it, but without ``os.environ`` and without guessing.

``${VAR}`` in it is a variable of an earlier line, else of the shell, else nothing, as python-dotenv has it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import parse_variables


class UnusableEnvFile(Exception):
    """``str(error)`` says what is wrong with which file."""


def read_env_file(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """A key without ``=`` sets nothing. Raises UnusableEnvFile; a line that says nothing is not passed over."""
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(_text(path))):
        _check(binding, path)
        if binding.key is not None and binding.value is not None:
            scope = {**environ, **found}
            found[binding.key] = "".join(atom.resolve(scope) for atom in parse_variables(binding.value))
    return found


def _text(path: Path) -> str:
    try:
        # A named pipe would block for ever.
        if path.exists() and not path.is_file():
            raise UnusableEnvFile(f"{path} is no file")
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise UnusableEnvFile(f"no such file: {path}") from None
    except OSError as error:
        raise UnusableEnvFile(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnusableEnvFile(f"{path} is not UTF-8 (byte {error.start})") from error


def _check(binding: Binding, path: Path) -> None:
    line = f"line {binding.original.line} of {path}"
    if binding.error:
        raise UnusableEnvFile(f"{line} is not NAME=value (a value with spaces or quotes goes into quotes)")
    if binding.value is not None and "\0" in binding.value:
        raise UnusableEnvFile(f"{line} has a NUL character, which no variable can hold")
