"""One run of benchmarks: who takes part, how often, and with which interpreters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.peers import Peer
from benchmarks.programs import KINDS
from benchmarks.report import Table
from benchmarks.site import Missed, Site
from benchmarks.venvs import Interpreters


@dataclass(frozen=True, slots=True)
class Bench:
    """``tries``: samples of one cell; ``reloads``: under one load; ``sdk``: tools for agents of the MCP Mesh SDK."""

    peers: Sequence[Peer]
    sdk: Sequence[Peer]
    interpreters: Interpreters
    tries: int
    reloads: int
    soak: int

    def site(self, peer: Peer, kind: str, count: int = 1, *, watch: bool = True) -> Site:
        return Site(peer, kind, count, watch=watch, python=self.interpreters.of(kind))

    @contextlib.contextmanager
    def row(self, table: Table, peer: Peer) -> Iterator[None]:
        """What a tool that does not come up in time misses is said, and the others go on."""
        try:
            yield
        except Missed:
            table.remark(peer.name, "it, or what it runs, was not up in time")

    def reloading(self, kind: str) -> Iterator[Peer]:
        """Those that reload such an agent."""
        return (peer for peer in self.peers if peer.reloads and (KINDS[kind].asgi or not peer.asgi))

    def reviving(self) -> Iterator[Peer]:
        return (peer for peer in self.peers if peer.revives)
