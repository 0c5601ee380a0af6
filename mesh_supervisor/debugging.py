"""PURE. The command line of a Python program → the one that runs it under debugpy.

``python -u x.py --fast`` becomes ``python -u -X frozen_modules=off -m debugpy --listen HOST:PORT x.py --fast``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh_supervisor.target import Target

HOST = "127.0.0.1"
"""Whoever reaches the port can run code: never another address."""

FIRST_PORT = 5678
"""What debugpy's clients propose."""

FROZEN_OFF = ("-X", "frozen_modules=off")
"""Breakpoints in frozen modules are missed otherwise, and debugpy warns about it at length."""

_WITH_VALUE = frozenset({"-X", "-W", "--check-hash-based-pycs"})


def with_debugger(words: Sequence[str], port: int, *, wait: bool) -> tuple[str, ...] | None:
    """``words`` begin with a Python. None: they run no program (``python -``, or an interactive one)."""
    flags = _flags(words[1:])
    what = words[1 + flags :]
    if not what or what[0] == "-":
        return None
    options = ["--listen", f"{HOST}:{port}", *(["--wait-for-client"] if wait else [])]
    return (*words[: 1 + flags], *FROZEN_OFF, "-m", "debugpy", *options, *_target(what))


def python_words(target: Target) -> tuple[str, ...]:
    """What a command line comes to (``uv run planner``), as words for a Python."""
    what = ("-m", target.name) if target.kind == "module" else (target.name,)
    return (target.python, *target.flags, *what, *target.args)


def _flags(words: Sequence[str]) -> int:
    """How many of them are Python's own, before the program."""
    count = 0
    while count < len(words) and words[count].startswith("-") and not words[count].startswith(("-m", "-c")):
        if words[count] == "-":
            break
        count += 2 if words[count] in _WITH_VALUE else 1
    return min(count, len(words))


def _target(what: Sequence[str]) -> Sequence[str]:
    """``-mapp`` is a word of Python's, not of debugpy's."""
    head = what[0]
    return (head[:2], head[2:], *what[1:]) if head.startswith(("-m", "-c")) and len(head) > 2 else what


def installing(python: str, *, has_pip: bool, has_uv: bool) -> str:
    """The command that installs debugpy for this interpreter."""
    if has_uv and not has_pip:
        return f"uv pip install --python {python} debugpy"
    return f"{python} -m pip install debugpy"


def attaching(port: int, *, wait: bool) -> str:
    """One line for whoever wants to attach."""
    then = ", and it starts" if wait else ""
    return f'debugpy listens on {HOST}:{port}; attach there{then} (VS Code: "request": "attach", "port": {port})'
