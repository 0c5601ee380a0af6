"""PURE. What an agent cannot have of the runtime, why, and what would help: for `ps -o wide` and `doctor`.

Whoever finds a limit says what and why in his own words (``limitation``); what cures it is known here, in one place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WORDS = {
    "runtime": "runs plainly",
    "sockets": "stop-first",
    "order": "stop-first",
    "gate": "stop-first",
    "warm": "starts cold",
    "spare": "not forked, kept ready instead",
    "drain": "drained by signal only",
    "trace": "inputs by import only",
}
"""The part that is missing -> what that comes to, for people."""


@dataclass(frozen=True, slots=True)
class Limitation:
    """``what``: a key of WORDS, or a word of its own. ``cure``: "" where nothing helps, or nothing is wrong."""

    what: str
    why: str
    cure: str = ""

    @property
    def effect(self) -> str:
        """``stop-first``"""
        return WORDS.get(self.what, self.what)

    def sentence(self) -> str:
        """``stop-first: granian binds out of sight (…)``"""
        text = f"{self.effect}: {self.why}"
        return f"{text} ({self.cure})" if self.cure else text


def limitation(what: str, why: str, cure: str = "") -> Limitation:
    """With the cure that is known for it, unless ``cure`` says a better one."""
    return Limitation(what, why, cure or cure_for(what, why))


def cure_for(what: str, why: str) -> str:
    """ "" for what nobody here knows a cure of."""
    for parts, pattern, cure in CURES:
        if (not parts or what in parts) and re.search(pattern, why, re.IGNORECASE):
            return cure
    return ""


def beside_predecessor(why: str) -> str:
    """Of a newcomer that found its address taken, for mesh.toml wants it beside its predecessor. ``why``: it cannot."""
    return (
        f'its predecessor listens there until this one is ready (order = "start-first"), and its socket cannot be '
        f"handed over ({why}); take `order` out of mesh.toml, and reload it"
    )


BOUND_BY_US = (
    'it is bound already, and handed to it as descriptor 3 (listen = "fd"): let it serve that one, as LISTEN_FDS '
    "says, or take `listen` out of mesh.toml"
)
"""Of a program that binds the address which it is given."""

_SOCKETS = frozenset({"sockets", "order", "gate"})
_WARM = frozenset({"warm", "spare"})
_ANY = frozenset[str]()

CURES = (
    # What mesh.toml itself asks for: no more is needed than to say where.
    (_ANY, r"runtime = false", "take `runtime = false` out of mesh.toml"),
    (_ANY, r"warm = false", "take `warm = false` out of mesh.toml"),
    (_ANY, r"trace = (false|\"imports\")", 'trace = "auto", or name the files in `watch`'),
    (_ANY, r"order = \"?stop-first", 'order = "auto", if two of it may live side by side'),
    # Interpreters.
    (_ANY, r"pypy", "run it with CPython 3.10 or newer"),
    (_ANY, r"python [23]\.\d\b|older than 3\.10|too old", "run it with Python 3.10 or newer"),
    (
        _ANY,
        r"debugpy|\bpdb\b|coverage|debugger",
        "take it out of the command; `meshsup run --debug` is for debugging",
    ),
    (_ANY, r"uv run.*(environment|sync|not there)|no environment yet", "`uv sync`, then `meshsup restart`"),
    # Sockets.
    (_SOCKETS, r"reuse_?port", "let it bind without SO_REUSEPORT"),
    (_SOCKETS, r"unix socket", "let it listen on TCP"),
    (_SOCKETS, r"multiprocessing|child process", "bind in its first process, and hand the socket to its children"),
    (_SOCKETS, r"granian|grpc|out of sight|not (captured|adopted)", "serve it with uvicorn, hypercorn or aiohttp"),
    (_SOCKETS, r"psutil|tests? (the|its) port", "take the port test out: whoever binds finds out"),
    # Warm starts.
    (_WARM, r"differs? in", 'the same values for all agents of this interpreter, or warm = "spare"'),
    (_WARM, r"sigabrt|sigsegv|after (the|a) fork", 'warm = "spare": never forked, yet warm'),
    (_WARM, r"thread", 'warm = "spare": safe with threads; or import it inside the functions that use it'),
)
"""(the parts it is about, what the reason must hold, the cure); the first that fits counts."""
