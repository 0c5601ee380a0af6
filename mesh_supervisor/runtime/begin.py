"""From the first line of the runtime to the program: hear what the supervisor says, put each part in its place.

Nothing in here may harm the program: what cannot be done is said to the supervisor (``cannot``), and the program runs.
"""

from __future__ import annotations

import os
import sys

from . import forks, wire
from .hints import Any, Callable
from .link import Link, Message
from .program import Program

_SOCKET = 0o140000
_KIND_OF_FILE = 0o170000


def ready(namespace: dict[str, Any]) -> Callable[[], None]:
    """Reads the command line: FD KIND NAME [ARG…]; returns what runs the program. ``namespace``: of ``__main__``."""
    if len(sys.argv) < 4:
        raise SystemExit("meshsup: this is started by the supervisor, with a channel to it and a program to run")
    try:
        return _ready(namespace, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _ready(namespace: dict[str, Any], fd: str, kind: str, name: str, args: list[str]) -> Callable[[], None]:
    link: Link | None
    if kind == "warm":
        start, descriptors, link = _part("warm").serve(_link(fd))
        program = _told(start)
    else:
        start, descriptors, link = _heard(fd)
        program = Program(kind, name, args, start.get("words") or _own_words(kind, name, args))
    program.claim(namespace)
    if link is not None:
        begin(link, start, descriptors)
    return program.run


def _link(fd: str) -> Link:
    """Raises OSError, ValueError: there is none."""
    number = int(fd)
    if number < 3 or os.fstat(number).st_mode & _KIND_OF_FILE != _SOCKET:
        raise ValueError(f"descriptor {number} is no channel")
    return Link(number)


def _heard(fd: str) -> tuple[Message, list[int], Link | None]:
    """What a cold instance is told. Without a supervisor that talks sense it runs plainly."""
    try:
        link = _link(fd)
    except (OSError, ValueError):
        return {}, [], None
    try:
        heard = link.hear()
    except (OSError, wire.Garbled):
        heard = None
    if heard is not None and _makes_sense(heard[0]):
        return *heard, link
    for each in heard[1] if heard is not None else ():
        os.close(each)
    link.close()
    return {}, [], None


def _makes_sense(start: Message) -> bool:
    words, held = start.get("words"), start.get("held")
    if start["is"] != "start" or not isinstance(words, list) or not isinstance(held, list):
        return False
    return bool(words) and all(isinstance(word, str) for word in words) and all(isinstance(one, dict) for one in held)


def _told(start: Message) -> Program:
    told = start["program"]
    return Program(told["kind"], told["name"], told["args"], start["words"])


def _own_words(kind: str, name: str, args: list[str]) -> list[str]:
    """sys.orig_argv without us."""
    before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv)]
    return [*before, *(["-m"] if kind == "module" else []), name, *args]


def begin(link: Link, start: Message, descriptors: list[int]) -> None:
    """Puts each part in its place; then the supervisor is told that the program begins."""
    forks.install(link)
    trace, held, gate = start.get("trace"), start["held"], bool(start.get("gate"))
    if trace:
        _put(link, "trace", lambda part: part.install(link, trace))
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
