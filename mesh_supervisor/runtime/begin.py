"""From the first line of the runtime to the program: hear what the supervisor says, put each part in its place.

Nothing in here may harm the program: what cannot be done is said to the supervisor (``cannot``), and the program runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from . import program, wire
from .link import Link, Message


def ready(namespace: dict[str, Any]) -> Callable[[], None]:
    """Reads the command line; returns what runs the program. ``namespace``: of ``__main__``."""
    fd, kind, *words = sys.argv[1:]
    if kind == "warm":
        start, descriptors, link = _part("warm").serve(_link(fd))
        told = start["program"]
        what = program.Program(told["kind"], told["name"], tuple(told["args"]))
    else:
        what = program.Program(kind, words[0], tuple(words[1:]))
        link, start, descriptors = _heard(fd)
    what.words = start.get("words") or _own_words(what)
    what.claim(namespace)
    if link is not None:
        begin(link, start, descriptors)
    return what.run


def _link(fd: str) -> Link:
    """Raises OSError, ValueError."""
    return Link(int(fd))


def _heard(fd: str) -> tuple[Link | None, Message, list[int]]:
    """The start of a cold instance. (None, {}, []): there is no supervisor that talks sense, so it runs plainly."""
    try:
        link = _link(fd)
    except (OSError, ValueError):
        return None, {}, []
    try:
        heard = link.hear()
    except (OSError, wire.Garbled):
        heard = None
    if heard is None or heard[0]["is"] != "start":
        for each in heard[1] if heard else ():
            os.close(each)
        link.close()
        return None, {}, []
    return link, *heard


def _own_words(what: program.Program) -> list[str]:
    """sys.orig_argv without us."""
    ours = len(sys.argv)
    flags = sys.orig_argv[: len(sys.orig_argv) - ours]
    return [*flags, *(["-m"] if what.kind == "module" else []), what.name, *what.args]


def begin(link: Link, start: Message, descriptors: list[int]) -> None:
    """Puts each part in its place; then the supervisor is told that the program begins."""
    os.register_at_fork(after_in_child=link.close)  # the program's children have nothing to say to the supervisor
    if start.get("trace"):
        _put(link, "trace", lambda part: part.install(link, start["trace"]))
    held, gate = start.get("held") or [], bool(start.get("gate"))
    _put(link, "sockets", lambda part: part.install(link, held, descriptors, gate))
    _put(link, "drain", lambda part: part.install(link))
    if start.get("learn"):
        _put(link, "learn", lambda part: part.install(link))
    link.tell("hello", python=".".join(map(str, sys.version_info[:3])), pid=os.getpid())


def _put(link: Link, name: str, install: Callable[[Any], None]) -> None:
    try:
        install(_part(name))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part of ours, the program runs
        link.tell("cannot", what=name, why=f"{type(error).__name__}: {error}")


def _part(name: str) -> Any:
    """A neighbour of this module, imported when it is needed."""
    full = f"{__package__}.{name}"
    __import__(full)
    return sys.modules[full]
