"""Imports modules ahead of need, and says what that has done to the process."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable

from . import streams
from .admission import NEVER_FORKED, Condition, try_fork
from .become import Imported
from .installed import Installed
from .lookups import Lookups
from .origin import PROJECT, SHARED, THIRD, Origins, loaded, site_folders

_LONGEST_REASON = 200
_OWN_PARTS = ("drain", "learn", "serve", "sockets", "trace")
"""What their names begin with. Those with longer names belong to asyncio and its servers."""


class Preload:
    """Of one process, from before its first import. ``strangers``: project modules that came with an import, never to
    be in a warm process: they would be old after the next save.
    """

    def __init__(self) -> None:
        self.before = Condition()
        self.installed = Installed(site_folders())
        self._origins = Origins()
        self._given, self._environ = given_environ(), dict(os.environb)
        self._known = set(sys.modules)
        self.needed: list[str] = []
        """Those that were not there yet when their turn came, in order."""
        self.failed: dict[str, str] = {}
        self.strangers: list[str] = []
        self.lookups = Lookups()
        self.leave_out: list[str] = []
        """Names of ``needed`` because of which the process must not fork, as far as one can say."""

    def bring(self, name: str) -> None:
        if name in sys.modules:
            return
        try:
            __import__(name)
        except BaseException as error:  # noqa: BLE001 - SystemExit, KeyboardInterrupt: this one is left out
            self.failed[name] = said(error)
        else:
            self.needed.append(name)
        self._look_at_what_came(name)

    def _look_at_what_came(self, name: str) -> None:
        bad = False
        for new in reversed([*sys.modules]):
            if new in self._known:
                break
            self._known.add(new)
            if self._origins.of(new, sys.modules.get(new)) in (PROJECT, SHARED):
                self.strangers.append(new)
                bad = True
            bad = bad or new in NEVER_FORKED
        if bad:
            self.leave_out.append(name)

    def bring_all(self, names: Iterable[str]) -> None:
        self.lookups.begin()
        for name in names:
            self.bring(name)
        self.lookups.end()

    def settle(self) -> Imported:
        """After the last import: nothing is left to be said or collected by each copy."""
        bring_own_parts()
        streams.flush()
        flush_c()
        gc.collect()
        gc.freeze()
        return Imported(self._given, self._environ)

    def loaded_tops(self) -> set[str]:
        """The third-party top-level modules that are there."""
        return {name for name, module in loaded() if "." not in name and self._origins.of(name, module) == THIRD}

    def why_not_fork(self, received: Iterable[int] = ()) -> str:
        """Tries it. "" if nothing stands against it."""
        banned = [name for name in NEVER_FORKED if name in sys.modules]
        if banned:
            return f"{banned[0]} is loaded, which does not survive a fork"
        return self.why_not_now(received, tried=False) or try_fork() or self.why_not_now(received)

    def why_not_now(self, received: Iterable[int] = (), *, tried: bool = True) -> str:
        """What would be wrong with a fork at this moment. ``received``: descriptors for the instance; ``tried``: there
        was a fork for threads to end at.
        """
        now = Condition()
        for fd in received:
            now.descriptors.pop(fd, None)
        if not tried:
            now.threads = 1
        return now.why_not_fork(self.before)


def bring_own_parts() -> None:
    """Of the runtime: each instance would have to load them. Nothing in them is called yet."""
    starts = _OWN_PARTS if "asyncio" in sys.modules else tuple(f"{name}." for name in _OWN_PARTS)
    for file in sorted(os.listdir(os.path.dirname(__file__))):
        if file.startswith(starts) and file.endswith(".py"):
            try:
                __import__(f"{__package__}.{file[:-3]}")
            except Exception as error:  # noqa: BLE001 - the instance will say what it cannot do without it
                os.write(2, f"meshsup: {file}: {said(error)}\n".encode(errors="replace"))


def given_environ() -> dict[bytes, bytes]:
    """As it was at the exec."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return {name: value for name, found, value in (entry.partition(b"=") for entry in entries) if found}


def flush_c() -> None:
    """What C libraries have printed."""
    import ctypes

    ctypes.CDLL(None).fflush(None)


def said(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - its own __str__
        text = type(error).__name__
    return text[:_LONGEST_REASON]
