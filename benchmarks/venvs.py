"""Virtual environments for agents whose packages the project's own one lacks: made once by uv, kept in the cache."""

from __future__ import annotations

import json
import shutil
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
        """Raises CalledProcessError (``stderr`` says why) or OSError if its packages cannot be installed."""
        packages = KINDS[kind].packages if kind in KINDS else ()
        if not packages:
            return PYTHON
        home = self._home / kind
        python = home / "bin/python"
        if not python.exists():
            try:
                _run(UV, "venv", "-q", "--python", PYTHON, home)
                _run(UV, "pip", "install", "-q", "--python", python, *packages)
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)  # half of it would be taken for the whole next time
                raise
        if kind not in self.versions:
            said = subprocess.run([python, "-c", LOOK, *packages], check=True, capture_output=True, text=True).stdout
            self.versions[kind] = json.loads(said)
        return str(python)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
