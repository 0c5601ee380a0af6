"""Pythons to try the runtime with: the one that runs the tests, those on PATH, and $MESHSUP_TEST_PYTHONS (paths with
a colon between them)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

import pytest

OLDEST, NEWEST = 10, 14


@cache
def pythons() -> dict[str, str]:
    """``3.12`` → its path."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    named = [path for path in os.environ.get("MESHSUP_TEST_PYTHONS", "").split(os.pathsep) if path]
    on_path = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST + 1) if f"3.{minor}" != own]
    found = {own: sys.executable}
    for path in (*named, *on_path):
        version = _version(path) if path is not None else None
        if path is not None and version is not None:
            found.setdefault(version, path)
    return found


def _version(path: str) -> str | None:
    """None: it does not run (a shim)."""
    ask = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    run = subprocess.run(ask, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None


@pytest.fixture(params=sorted(pythons()))
def python(request: pytest.FixtureRequest) -> str:
    """Each Python that can be tried, one after the other."""
    return pythons()[request.param]
