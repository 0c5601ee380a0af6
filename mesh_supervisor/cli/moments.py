"""Moments as people write and read them: `--since 5m`, local time of day."""

from __future__ import annotations

import re
import time
from datetime import datetime

from mesh_supervisor.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def parse_since(text: str | None, now: float | None = None) -> float | None:
    """``90s``, ``1h30m`` ago, or an ISO 8601 time (local, unless it has a zone) → unix time. Raises UsageError."""
    if text is None:
        return None
    if _SPAN.fullmatch(text):
        span = sum(float(number) * UNITS[unit] for number, unit in _PART.findall(text))
        return (time.time() if now is None else now) - span
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text}: neither a span (90s, 5m, 2h, 1d) nor a time (2026-11-21T01:43)") from None


def local_time(at: float) -> str:
    """``2026-11-21 01:43:36``"""
    return datetime.fromtimestamp(at).isoformat(sep=" ", timespec="seconds")
