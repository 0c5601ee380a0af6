"""Virtual environments for agents whose packages the project's own one lacks: made once by uv, kept in the cache."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers import PYTHON
from benchmarks.programs import KINDS

UV = Path(PYTHON).with_name("uv")

LOOK = (
    "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
)


class Interpreters:
    """The interpreter of each kind of agent, and what it has."""

    def __init__(self, cache: Path) -> None:
        self._home = cache / "venvs"
        self.versions: dict[str, Mapping[str, str]] = {}

    def of(self, kind: str) -> str:
        """Raises CalledProcessError or OSError if its packages cannot be installed."""
        packages = KINDS[kind].packages if kind in KINDS else ()
        if not packages:
            return PYTHON
        python = self._home / kind / "bin/python"
        if not python.exists():
            subprocess.run([UV, "venv", "-q", "--python", PYTHON, self._home / kind], check=True)
            subprocess.run([UV, "pip", "install", "-q", "--python", python, *packages], check=True)
        if kind not in self.versions:
            said = subprocess.run([python, "-c", LOOK, *packages], check=True, capture_output=True, text=True).stdout
            self.versions[kind] = json.loads(said)
        return str(python)
