"""The `meshsup` command, also as ``python -m mesh_supervisor``: as PID 1 it listens to signals before it imports."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    if os.getpid() == 1:
        from mesh_supervisor.host import early

        early.catch()
    try:
        from mesh_supervisor.cli.entry import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
