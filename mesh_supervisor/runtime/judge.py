"""Which modules may be preloaded, and into what: found out in throw-away copies of a clean process, at the lowest
priority.

``judge`` {"modules": [names]} is answered by one ``judged`` for each name, in that order, so that nothing is lost when
it is cut short: {"verdicts": {name: {"verdict": str, "why": str, "loads": [names]}}, "more": bool}; the last one has
``more`` false, also when there is nothing to judge. ``loads``: the third-party top-level modules that came with it.

``verdict``: "fork": into templates and spares; "spare": into spares only (threads, descriptors, handlers, …, or one of
those that are never forked, or loads one); "skip": into neither (cannot be imported, ends or hangs the process, brings
in project code). ``why`` is a sentence for people, "" for "fork".
"""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING

from . import wire
from .admission import wait
from .become import die_with
from .hints import Any
from .link import Link

if TYPE_CHECKING:
    from .preload import Preload

FORK, SPARE, SKIP = "fork", "spare", "skip"

_IMPORT_AT_MOST = 60.0
"""Seconds; at the lowest priority, so much longer than anybody would wait for."""

_NICEST = 19
_MOST_LOADED = 300

Verdict = dict[str, Any]


def judge(link: Link, preload: Preload, modules: list[str]) -> None:
    """A module that may be forked is then imported here too: what comes next is tried the quicker. Nothing that is not
    clean ever gets in here, so that each is judged in a clean process.
    """
    give_way()
    _be_quiet()
    for left, name in zip(range(len(modules) - 1, -1, -1), modules, strict=True):
        verdict = judge_one(preload, name)
        if verdict["verdict"] == FORK:
            verdict = _admit(preload, name, verdict)
        link.tell("judged", verdicts={name: verdict}, more=left > 0)
    if not modules:
        link.tell("judged", verdicts={}, more=False)


def give_way() -> None:
    """For the rest of this process's life: an agent that wants the processor gets it."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICEST)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        return  # a sandbox without it


def judge_one(preload: Preload, name: str) -> Verdict:
    """In a copy of this process."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with(parent)
        verdict = _tried(preload, name, [ours.fileno(), theirs.fileno()])
        wire.send(theirs, wire.pack("verdict", verdict))
        os._exit(0)
    code = wait(pid, _IMPORT_AT_MOST)
    try:
        heard = wire.receive(ours, wait=False)
    except (OSError, wire.Garbled):
        heard = None
    finally:
        ours.close()
        theirs.close()
    if code == 0 and heard is not None:
        del heard[0]["is"]
        return heard[0]
    return _verdict(SKIP, "its import hangs" if code is None else "its import ends the process")


def _be_quiet() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _tried(preload: Preload, name: str, ours: list[int]) -> Verdict:
    before = set(preload.loaded_tops())
    preload.bring(name)
    loads = sorted(preload.loaded_tops() - before - {name.partition(".")[0]})[:_MOST_LOADED]
    if name in preload.failed:
        return _verdict(SKIP, f"it cannot be imported: {preload.failed[name]}", loads)
    if preload.strangers:
        return _verdict(SKIP, f"it brings in project code: {preload.strangers[0]}", loads)
    why = preload.why_not_fork(ours)
    return _verdict(SPARE if why else FORK, why, loads)


def _verdict(verdict: str, why: str, loads: list[str] | None = None) -> Verdict:
    return {"verdict": verdict, "why": why, "loads": loads or []}


def _admit(preload: Preload, name: str, verdict: Verdict) -> Verdict:
    """It can turn out otherwise than in the copy; then nothing can be judged here any more."""
    preload.bring(name)
    why = preload.why_not_fork() or preload.failed.get(name, "")
    if not why and not preload.strangers:
        return verdict
    return _verdict(SPARE, why or "its import does not always do the same")
