"""What callers notice: a load that never tries again, through reloads and through a kill -9."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from benchmarks.bench import Bench
from benchmarks.load import FRESH, Load, Request, Span, failures, http_load, quantile, within
from benchmarks.mcp_load import mcp_load
from benchmarks.measure import PAUSE
from benchmarks.report import Cell, Table, milliseconds, seconds, whole
from benchmarks.site import TOO_LONG, Missed, Site, wait_answer

AFTERWARDS = 0.5
"""Seconds after the new code's first answer that still count as the reload: the old one drains."""

LATENCIES = {f"{what}, {phase}": milliseconds for phase in ("steady", "reload") for what in ("p50", "p99", "max")}

EXPLAINED = (
    "A request that failed was refused, reset, closed without an answer, not answered within 10 s, or answered with"
    " another status than 200. Latencies in milliseconds, from the moment at which a request was due: of those due"
    f" between a save and {AFTERWARDS:g} s after the new code's first answer (reload), and of the others (steady);"
    " failed ones left out."
)


def load_table(bench: Bench) -> Table:
    return through_reloads(
        bench,
        "FastAPI",
        Table(
            "100 requests a second through reloads",
            f"One FastAPI agent, {bench.reloads} saves; 100 requests a second whatever happens, on fresh and kept"
            f" connections in turn, by a client that never tries again. {EXPLAINED}",
            {"failed requests": whole, **LATENCIES},
        ),
        lambda site: http_load(site.programs[0].port),
    )


def mcp_table(bench: Bench) -> Table:
    python = bench.interpreters.of("MCP")
    return through_reloads(
        bench,
        "MCP",
        Table(
            "An MCP server through reloads",
            f"One server of the MCP SDK 2.x (streamable HTTP, stateless), {bench.reloads} saves; 50 tool calls a second"
            " by that SDK's own client, on one kept connection pool and, every tenth, with a client made for the call."
            f" {EXPLAINED}",
            {"failed requests": whole, **LATENCIES},
        ),
        lambda site: mcp_load(python, site.programs[0].port, rate=50),
    )


def through_reloads(bench: Bench, kind: str, table: Table, command: Callable[[Site], Sequence[str]]) -> Table:
    for peer in bench.reloading(kind):
        with bench.row(table, peer), bench.site(peer, kind) as site:
            site.wait_all()
            time.sleep(2 * PAUSE)
            with Load(command(site)) as load:
                spans, missed = reloads_under(load, site, bench.reloads)
                time.sleep(PAUSE)
                tell(table, peer.name, load.stop(), spans, missed)
    return table


def reloads_under(load: Load, site: Site, count: int, pause: float = PAUSE) -> tuple[list[Span], int]:
    """From each save to a while after the load's first answer from the new code; how many were missed."""
    spans, missed = [], 0
    for number in range(count):
        time.sleep(pause)
        start = time.monotonic()
        site.save(f"load{number}")
        try:
            wait_said(load, f"load{number}")
        except Missed:
            missed += 1
        spans.append((start, time.monotonic() + AFTERWARDS))
    return spans, missed


def wait_said(load: Load, word: str) -> None:
    """Until one of the load's requests has got this word. Raises Missed."""
    deadline, seen = time.monotonic() + TOO_LONG, 0
    while time.monotonic() < deadline:
        requests = load.so_far()
        if any(word in request.said.split() for request in requests[seen:]):
            return
        seen = len(requests)
        time.sleep(0.01)
    raise Missed


def tell(table: Table, peer: str, requests: Sequence[Request], spans: Sequence[Span], missed: int) -> None:
    failed = failures(requests)
    table.put(peer, "failed requests", Cell((float(failed.total()),), missed))
    reload, steady = within(requests, spans)
    for phase, some in (("steady", steady), ("reload", reload)):
        for what, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            if answered := [request for request in some if not request.failure]:
                table.put(peer, f"{what}, {phase}", Cell((quantile(answered, share),)))
    counts = ", ".join(f"{count} {how}" for how, count in failed.most_common()) or "none"
    table.remark(peer, f"{len(requests)} requests, {len(reload)} of them in {len(spans)} reloads; failed: {counts}")


def kill_load_table(bench: Bench) -> Table:
    table = Table(
        "kill -9 under load",
        f"One FastAPI agent, up for 5 s, 100 requests a second on fresh connections; {bench.tries} fresh starts,"
        " one kill each. Failed: refused, or open at the kill. Seconds from the kill until another process answers.",
        {"refused": whole, "other failures": whole, "kill → answers": seconds},
    )
    for peer in bench.reviving():
        refused, others, back = [], [], []
        for _ in range(bench.tries):
            with bench.row(table, peer), bench.site(peer, "FastAPI", watch=False) as site:
                pid = site.wait_all()[0]
                time.sleep(5)
                with Load(http_load(site.programs[0].port, kinds=(FRESH,))) as load:
                    time.sleep(PAUSE)
                    start = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
                    wait_answer(site.programs[0].port, not_pid=pid)
                    back.append(time.monotonic() - start)
                    time.sleep(PAUSE)
                    failed = failures(load.stop())
            refused.append(float(failed[f"{FRESH} refused"]))
            others.append(float(failed.total() - failed[f"{FRESH} refused"]))
        for column, samples in (("refused", refused), ("other failures", others), ("kill → answers", back)):
            table.put(peer.name, column, Cell(tuple(samples)))
    return table
