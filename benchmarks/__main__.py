"""``python -m benchmarks``: all tables, into docs/benchmarks.md; ``--only reload`` prints one."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.measure import kill_table, many_table, reload_table, tree_table
from benchmarks.peers import Peer, all_peers
from benchmarks.report import Table, document
from benchmarks.site import free_port

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"

TABLES: Mapping[str, Callable[[Sequence[Peer], int], Table]] = {
    "reload": lambda peers, tries: reload_table(peers, tries),
    "kill": lambda peers, tries: kill_table(peers, tries),
    "fastapi": lambda peers, tries: many_table(peers, 50, "FastAPI", max(1, tries // 3)),
    "stdlib": lambda peers, tries: many_table(peers, 50, "stdlib", max(1, tries // 3)),
    "tree": lambda peers, tries: tree_table(peers, 10_000, tries),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=TABLES, help="these tables, printed and not written")
    parser.add_argument("--peers", nargs="*", help="these tools only, printed and not written")
    parser.add_argument("--note", default="", help="what a reader must know of this run")
    parser.add_argument("--tries", type=int, default=9)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/meshsup-benchmarks")
    options = parser.parse_args()
    peers = [
        peer for peer in all_peers(options.cache, free_port()) if options.peers is None or peer.name in options.peers
    ]
    peers, versions = installed(peers)
    tables = [TABLES[name](peers, options.tries) for name in options.only or TABLES]
    page = document(tables, versions, options.note)
    print(page)
    if options.only is None and options.peers is None:
        PAGE.write_text(page)


def installed(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those that could be installed, and their versions; the others are said and left out."""
    versions: dict[str, str] = {}
    for peer in peers:
        try:
            versions[peer.name] = peer.install()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{peer.name} is left out: {error}")
    return [peer for peer in peers if peer.name in versions], versions


if __name__ == "__main__":
    main()
