"""Whether this machine, or this container, has memory to spare."""

from __future__ import annotations

from pathlib import Path

SHARE = 0.15
"""Below this share of what there is, nothing is started that nobody asked for."""

_CGROUP = Path("/sys/fs/cgroup")


def is_short() -> bool:
    return any(free < SHARE * whole for free, whole in (_machine(), _container()) if whole)


def _machine() -> tuple[int, int]:
    """(free, all) in KiB; (0, 0): unknown."""
    found = {}
    for line in _text(Path("/proc/meminfo")).splitlines():
        name, _, rest = line.partition(":")
        if name in {"MemTotal", "MemAvailable"}:
            found[name] = int(rest.split()[0])
    return found.get("MemAvailable", 0), found.get("MemTotal", 0) if len(found) == 2 else 0


def _container() -> tuple[int, int]:
    """The same in bytes, by the control group that this process sees as the root of all."""
    limit, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    if not limit.isdecimal() or not used.isdecimal():
        return 0, 0
    # The page cache counts as used, and is given back when it is asked for.
    cache = sum(
        int(line.split()[1]) for line in _text(_CGROUP / "memory.stat").splitlines() if line.startswith("file ")
    )
    return int(limit) - int(used) + cache, int(limit)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
