"""``python -m benchmarks``: all tables, into docs/benchmarks.md; ``--only reload`` prints one.

``--only reload --write`` puts that one into the page in place of its predecessor, with the day of its run.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import crowd_table, heavy_table, kill_table, many_table, reload_table, tree_table
from benchmarks.peers import Meshctl, Meshsup, Peer, all_peers
from benchmarks.report import Table, document, replaced
from benchmarks.sdk import sdk_load_table, sdk_table
from benchmarks.site import free_port
from benchmarks.soak import soak_table, storm_table
from benchmarks.underload import kill_load_table, load_table, mcp_table
from benchmarks.venvs import Interpreters

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"


def tables(registries: Mapping[str, int]) -> Mapping[str, Callable[[Bench], Table]]:
    return {
        "reload": reload_table,
        "load": load_table,
        "kill": kill_table,
        "kill-load": kill_load_table,
        "heavy": heavy_table,
        "mcp": mcp_table,
        "sdk": lambda bench: sdk_table(bench, registries),
        "sdk-load": lambda bench: sdk_load_table(bench, registries),
        "fastapi": lambda bench: many_table(bench, 50, "FastAPI"),
        "stdlib": lambda bench: many_table(bench, 50, "stdlib"),
        "crowd": lambda bench: crowd_table(bench, 300),
        "tree": lambda bench: tree_table(bench, 10_000),
        "storm": storm_table,
        "soak": soak_table,
    }


def main() -> None:
    registries = {name: free_port() for name in ("meshsup", "meshctl")}
    known = tables(registries)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=known, help="these tables, printed and not written")
    parser.add_argument("--write", action="store_true", help="with --only: into the page, in place of the old ones")
    parser.add_argument("--peers", nargs="*", help="these tools only, printed and not written")
    parser.add_argument("--note", default="", help="what a reader must know of this run")
    parser.add_argument("--tries", type=int, default=9)
    parser.add_argument("--reloads", type=int, default=20, help="saves under one load")
    parser.add_argument("--soak", type=int, default=1000, help="reloads in a row")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/meshsup-benchmarks")
    options = parser.parse_args()
    chosen = options.only or list(known)
    peers = all_peers(options.cache, registries["meshsup"])
    sdk: list[Peer] = [Meshsup(registries["meshsup"]), Meshctl(options.cache, registries["meshctl"])]
    if options.peers is not None:
        peers, sdk = ([peer for peer in some if peer.name in options.peers] for some in (peers, sdk))
    versions = installed([*peers, *sdk])
    peers, sdk = ([peer for peer in some if peer.name in versions] for some in (peers, sdk))
    bench = Bench(peers, sdk, Interpreters(options.cache), options.tries, options.reloads, options.soak)
    done = run(bench, {name: known[name] for name in chosen})
    page = document(done, versions, bench.interpreters.versions, options.note)
    print(page)
    if options.only is None and options.peers is None:
        PAGE.write_text(page)
    elif options.write:
        PAGE.write_text(replaced(PAGE.read_text(), done))


def run(bench: Bench, chosen: Mapping[str, Callable[[Bench], Table]]) -> list[Table]:
    """A table whose packages cannot be installed is said and left out."""
    done = []
    for name, measure in chosen.items():
        try:
            done.append(measure(bench))
        except subprocess.CalledProcessError as error:
            print(f"{name} is left out: {error} {error.stderr or ''}", flush=True)
    return done


def installed(peers: Sequence[Peer]) -> dict[str, str]:
    """The versions of those that could be installed; the others are said and left out."""
    versions: dict[str, str] = {}
    for peer in peers:
        try:
            versions.setdefault(peer.name, peer.install())
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{peer.name} is left out: {error}", flush=True)
    return versions


if __name__ == "__main__":
    main()
