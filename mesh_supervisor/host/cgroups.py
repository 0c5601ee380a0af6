"""The memory control groups around this process, version 1 and 2: their limits, and what the kernel killed in them.

Found through the tables of /proc, so that a container, a systemd unit and a plain shell are all the same. What cannot
be seen (no /proc, groups above a namespace) is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import procfs
from .filesystems import unescaped

_NO_LIMIT = 1 << 60
"""Version 1 says "none" as a number near 2**63."""


@dataclass(frozen=True, slots=True)
class Group:
    """One control group. ``name``: for people."""

    folder: Path
    name: str
    unified: bool

    def limit(self) -> int | None:
        """Bytes; None: it has none."""
        text = _word(self.folder / ("memory.max" if self.unified else "memory.limit_in_bytes"))
        return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None

    def used(self) -> int | None:
        """Bytes, with the page cache."""
        text = _word(self.folder / ("memory.current" if self.unified else "memory.usage_in_bytes"))
        return int(text) if text.isdecimal() else None

    def page_cache(self) -> int:
        """Bytes that are given back when they are asked for."""
        return _row(self.folder / "memory.stat", "file" if self.unified else "total_cache") or 0

    def kills(self) -> int | None:
        """How many processes of it the kernel has killed for lack of memory; None: nobody counts here."""
        return _row(self.folder / ("memory.events" if self.unified else "memory.oom_control"), "oom_kill")


def around_us() -> tuple[Group, ...]:
    """Our own first, then those above it as far as they can be seen."""
    return found_in(procfs.text("/proc/self/cgroup"), procfs.text("/proc/self/mountinfo"))


def found_in(groups: str, mounts: str) -> tuple[Group, ...]:
    """``groups``, ``mounts``: /proc/self/cgroup and /proc/self/mountinfo."""
    own = {controllers: path for _, controllers, path in _rows_of(groups)}
    # Where both versions are mounted, memory is counted in only one of them: in version 1, if that has it.
    first = next((path for controllers, path in own.items() if "memory" in controllers.split(",")), None)
    path, unified = (own.get(""), True) if first is None else (first, False)
    if path is None:
        return ()
    for root, point in _mounted(mounts, unified):
        inside = _below(path, root)
        if inside is not None:
            return tuple(_up(point, inside, unified))
    return ()


def machine_kills() -> int | None:
    """The same count for all of the machine."""
    return _row(Path("/proc/vmstat"), "oom_kill")


def tightest(groups: tuple[Group, ...]) -> tuple[Group, int] | None:
    """The one with the lowest limit, and that limit; None: there is no limit but the machine."""
    limits = [(limit, group) for group in groups if (limit := group.limit()) is not None]
    limit, group = min(limits, key=lambda one: one[0], default=(0, None))
    return None if group is None else (group, limit)


def _rows_of(groups: str) -> Iterator[tuple[str, str, str]]:
    """``HIERARCHY:CONTROLLERS:PATH``; of version 2 the first is 0 and the second empty."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            yield number, controllers, path


def _mounted(mounts: str, unified: bool) -> Iterator[tuple[str, Path]]:
    """(which part of the hierarchy, where), the last mounted first."""
    for line in reversed(mounts.splitlines()):
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        wanted = kinds[0] == "cgroup2" if unified else kinds[0] == "cgroup" and "memory" in kinds[2].split(",")
        if wanted:
            yield unescaped(fields[3]), Path(unescaped(fields[4]))


def _below(path: str, root: str) -> PurePosixPath | None:
    """``path`` as it is called below a mount of ``root``; None: it does not lie there."""
    whole, top = PurePosixPath(path), PurePosixPath(root)
    if ".." in whole.parts or ".." in top.parts or not whole.is_relative_to(top):
        return None  # outside of our namespace
    return whole.relative_to(top)


def _up(point: Path, inside: PurePosixPath, unified: bool) -> Iterator[Group]:
    for part in (inside, *inside.parents):
        top = part == PurePosixPath()
        # What is mounted as the root of everything, and has a limit, is the container.
        yield Group(point / part, "the container" if top else f"the control group /{part}", unified)


def _row(file: Path, name: str) -> int | None:
    """The number behind ``name`` in a table of two columns."""
    for line in procfs.text(str(file)).splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[0] == name and fields[1].isdecimal():
            return int(fields[1])
    return None


def _word(file: Path) -> str:
    return procfs.text(str(file)).strip()
