"""What the terminal can do, and the two streams: stdout carries data, stderr carries talk."""

from __future__ import annotations

import os
import shutil
import sys
from typing import IO, Any

from mesh_supervisor.cli.table import Paint
from mesh_supervisor.wording import json_text, one_line

GREEN, YELLOW, RED, DIM, BOLD, CYAN = "32", "33", "31", "2", "1", "36"


def colours(stream: IO[str]) -> bool:
    """Whether to write colours there: a terminal that has some, and nobody asked for none (NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, code: str, stream: IO[str] | None = None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours(stream or sys.stdout) else text


def paint(code: str) -> Paint:
    """For stdout."""
    return lambda text: painted(text, code)


def width() -> int | None:
    """Columns of the terminal that stdout is; None when it is none: nothing is ever cut in a pipe."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None


def show(*lines: str) -> None:
    """Data, to stdout."""
    for line in lines:
        print(line)


def show_json(body: Any) -> None:
    """One JSON value, to stdout; indented, keys in their documented order."""
    print(json_text(body, indent=2))


def talk(*lines: str) -> None:
    """Talk, to stderr. What is buffered for stdout comes first, so that the two stay in order on a terminal."""
    sys.stdout.flush()
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """An error, to stderr, behind our name."""
    talk(f"{painted('meshsup', RED, sys.stderr)}: {still(text)}")


def still(text: str) -> str:
    """Nothing in it moves the cursor, and lines stay lines: it may quote a file, or what somebody else answered."""
    return "\n".join(map(one_line, text.split("\n")))
