"""PURE. Numbers as people read them, and text that cannot garble a terminal."""

from __future__ import annotations

from mesh_supervisor.host.lines import sanitize


def duration(seconds: float | None) -> str:
    """``4s``, ``3m12s``, ``2h05m``, ``3d04h``; ``-`` for None."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(count: int | None) -> str:
    """``812K``, ``45.2M``, ``1.2G``; ``-`` for None."""
    if count is None:
        return "-"
    value = count / 1024
    for unit in ("K", "M", "G"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit == "K" or value >= 100 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def percent(value: float | None) -> str:
    """``0.3%``; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value:.1f}%" if value < 99.95 else f"{value:.0f}%"


def one_line(text: str) -> str:
    """``text`` without whatever moves the cursor, changes colours or the direction of writing."""
    return sanitize(" ".join(text.split()))
