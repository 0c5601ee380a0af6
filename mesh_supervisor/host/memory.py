"""Whether this machine, or this container, has memory to spare; and who was killed because it had not."""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from signal import SIGKILL

from ..lifecycle import Exit
from . import cgroups, procfs

SHARE = 0.15
"""Below this share of what there is, nothing is started that nobody asked for."""

KILLED = 128 + SIGKILL
"""The exit code of a shell whose program was killed."""

OUR_SIZE = 256 * 2**20
"""Bytes; more than a supervisor ever has."""

MOST_OFFERED = 1000
"""The highest oom_score_adj."""

TOGETHER = 5.0
"""Seconds in which those that the kernel killed at once are reaped."""

SOON = 1.0
"""Seconds in which most of them are: until then a start says nothing of the others."""


def is_short() -> bool:
    return any(free < SHARE * whole for free, whole in (_machine(), *map(_group, cgroups.around_us())) if whole)


def _machine() -> tuple[int, int]:
    """(free, all) in KiB; (0, 0): unknown."""
    found = {}
    for line in procfs.text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name in {"MemTotal", "MemAvailable"}:
            found[name] = int(rest.split()[0])
    return found.get("MemAvailable", 0), found.get("MemTotal", 0) if len(found) == 2 else 0


def _group(group: cgroups.Group) -> tuple[int, int]:
    """The same in bytes; without a limit unknown."""
    limit, used = group.limit(), group.used()
    # The page cache counts as used, and is given back when it is asked for.
    return (0, 0) if limit is None or used is None else (limit - used + group.page_cache(), limit)


# ---- out of memory ---------------------------------------------------------------------------------------------------


def offer(pid: int, *, first: bool = False) -> None:
    """When memory runs out, the kernel is to take this process, and what it starts, before it takes us; ``first``:
    before the agents too, nobody would miss it. Of one kind it takes the largest, as always.

    While one victim ends, it often takes the next largest; in a container that may be the supervisor, and with it all.
    """
    if not procfs.ours:
        return
    with contextlib.suppress(OSError):  # it has ended, or a sandbox in which that is not allowed
        score = Path("/proc/self/oom_score_adj")
        wanted = int(score.read_text()) + _step() * (2 if first else 1)
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(wanted, MOST_OFFERED)))


@cache
def _step() -> int:
    """In thousandths of the memory that there is: as much as weighs more than we do."""
    found = cgroups.tightest(cgroups.around_us())
    whole = found[1] if found is not None else _machine()[1] * 1024
    return min(MOST_OFFERED // 2, math.ceil(1000 * OUR_SIZE / whole)) if whole else 0


class OutOfMemory:
    """Tells the kernel, out of memory, from others who send SIGKILL: it counts its victims, before they end.

    A count says how many, not who. So a death by SIGKILL that nobody here sent is that of a victim if there is one that
    is not accounted for; ``look`` takes note of those that were nobody's first process (a worker), so that a later
    death is not put down to them, and ``say`` is told.
    """

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self._groups = cgroups.around_us()
        self._say = say
        self._seen = self._count()
        self._open = 0  # victims that nobody has accounted for
        self._since = 0.0

    def look(self) -> None:
        """Before something is started: what the kernel killed is over, but for those that it has killed just now: the
        first one to be reaped is started again at once."""
        if self._victims() and time.monotonic() > self._since + SOON:
            self._forget()

    def _forget(self) -> None:
        self._open = 0
        self._say(f"the kernel has killed a process: {self._reason(None)}")

    def explained(self, how: Exit, *, ours: bool, peak: int | None) -> Exit:
        """How a first process ended, with the reason if it was this. ``ours``: we sent it SIGKILL. ``peak``: the most
        memory that it had, in bytes."""
        victims = self._victims()
        if ours or not victims or how.clean:
            return how
        self._open -= 1
        if how.signal == SIGKILL or how.code == KILLED:
            return replace(how, why=self._reason(peak))
        if how.code is None:
            self._open += 1  # SIGSEGV and the like: another story
            return how
        # It ends by itself because a process of its own was killed.
        words = f"a process here was killed: {self._reason(None)}"
        return replace(how, last_words=f"{how.last_words}; {words}" if how.last_words else words)

    def _victims(self) -> int:
        """How many there are that are not accounted for; older ones were nobody's first process."""
        now, count = time.monotonic(), self._count()
        if self._open and now > self._since + TOGETHER:
            self._forget()
        if count > self._seen:
            self._open += count - self._seen
            self._seen, self._since = count, now
        return self._open

    def _count(self) -> int:
        """In our own control group, whoever's limit it was; else on the whole machine."""
        own = self._groups[0].kills() if self._groups else None
        return (own if own is not None else cgroups.machine_kills()) or 0

    def _reason(self, peak: int | None) -> str:
        """``out of memory (limit of the container 512 MiB; it used 480 MiB)``"""
        found = cgroups.tightest(self._groups)
        where = f"limit of {found[0].name} {_mib(found[1])}" if found is not None else "of the whole machine"
        # A spawned process begins with the peak of who spawned it: below ours it says nothing.
        used = f"; it used {_mib(peak)}" if peak is not None and peak > _own_peak() else ""
        return f"out of memory ({where}{used})"


def _own_peak() -> int:
    """Bytes that this program has had at most. getrusage would say more: it goes on from the peak of who started it."""
    if words := procfs.status("self", b"VmHWM"):
        return int(words[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
