"""``python -m mesh_supervisor.registry``: the registry as a process of its own.

Says one line on stderr when it listens, stops on SIGTERM and SIGINT with exit code 0, and exits 1 with one sentence
when it cannot listen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from mesh_supervisor.host.serve import allow_many_connections, listen
from mesh_supervisor.registry.server import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mesh_supervisor.registry", description="An MCP Mesh registry.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: %(default)s)")
    store = "SQLite file that keeps records over restarts (default: none)"
    parser.add_argument("--store", type=_followed, metavar="FILE", help=store)
    # The same in a state_dir, where nobody has reason to lay a link.
    parser.add_argument("--own-store", dest="store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited, instead of host and port")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name clients may use for us"
    )
    return parser.parse_args(argv)


def _followed(text: str) -> Path:
    """Who names a file may have linked it elsewhere."""
    path = Path(text)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 after a signal, 1 when it cannot listen."""
    options = parse(argv)
    try:
        sock = socket.socket(fileno=options.fd) if options.fd is not None else listen(options.host, options.port)
    except (OSError, OverflowError) as error:
        place = f"descriptor {options.fd}" if options.fd is not None else f"{options.host}:{options.port}"
        print(f"registry: cannot listen on {place}: {error}; free it or change registry.port", file=sys.stderr)
        return 1
    allow_many_connections()
    # The thread that writes to the store must not hold up a heartbeat for the usual 5 ms.
    sys.setswitchinterval(0.0005)
    asyncio.run(serve_until_signalled(sock, options.store, [options.host, *options.allow_host]))
    return 0


async def serve_until_signalled(sock: socket.socket, store: Path | None, allowed: Sequence[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = sock.getsockname()[:2]
    print(f"registry: listening on http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    await run(sock, store, allowed, stop)


if __name__ == "__main__":
    sys.exit(main())
