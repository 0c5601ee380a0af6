"""``python -m mesh_supervisor.cli.detached FILE OPTIONS``: the supervisor that `up -d` starts. Not for people."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mesh_supervisor import running
from mesh_supervisor.errors import MeshError
from mesh_supervisor.locate import locate
from mesh_supervisor.options import UpOptions


def main(file: str, options: str) -> int:
    place = locate(Path.cwd(), file=Path(file), directory=None, environ=os.environ)
    try:
        return asyncio.run(running.run(place, UpOptions.from_json(options)))
    except MeshError as error:
        # The first words that are seen: `up -d` shows them, behind its own name.
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
