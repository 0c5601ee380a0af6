"""The measurements. Each runs all peers that can do it, one after the other, and gives one table."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import psutil

from benchmarks.peers import Peer
from benchmarks.report import Cell, Table, percent, seconds, whole
from benchmarks.site import Missed, Site, running, wait_answer

PAUSE = 1.5
"""Seconds between two samples, so that what a tool still does about the last one does not count for the next."""


def sampled(tries: int, sample: Callable[[int], float]) -> Cell:
    samples, missed = [], 0
    for number in range(tries):
        try:
            samples.append(sample(number))
        except Missed:
            missed += 1
    return Cell(tuple(samples), missed)


def saved(site: Site, number: int) -> float:
    """Seconds from a save until the new code answers. One that is missed is followed by another try's save."""
    time.sleep(PAUSE)
    start = time.monotonic()
    site.save(f"word{number}")
    wait_answer(site.programs[0].port, word=f"word{number}")
    return time.monotonic() - start


def reload_table(peers: Sequence[Peer], tries: int) -> Table:
    table = Table(
        "Save → new code answers",
        f"One agent; seconds from the save until a new connection gets the new code's answer; {tries} saves each.",
        {"stdlib agent": seconds, "FastAPI agent": seconds},
    )
    for peer in peers:
        if peer.reloads:
            for kind in ("stdlib", "FastAPI"):
                with running(peer, kind) as site:
                    site.wait_all()
                    table.put(peer.name, f"{kind} agent", sampled(tries, partial(saved, site)))
    return table


def killed(site: Site) -> float:
    """Seconds from kill -9 of the agent until another process answers."""
    port = site.programs[0].port
    pid = wait_answer(port)
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_answer(port, not_pid=pid)
    return time.monotonic() - start


def kill_table(peers: Sequence[Peer], tries: int) -> Table:
    table = Table(
        "kill -9 → answers",
        f"One FastAPI agent, up for a while; {tries} fresh starts each. The second kill follows 2 s after the first one"
        " was mended: meshsup restarts at once the first time only and then backs off, by design.",
        {"first kill": seconds, "second kill": seconds},
    )
    for peer in peers:
        if not peer.revives:
            continue
        first, second = [], []
        for _ in range(tries):
            with running(peer, "FastAPI", watch=False) as site:
                site.wait_all()
                time.sleep(2 * PAUSE)
                first.append(killed(site))
                time.sleep(2)
                second.append(killed(site))
        table.put(peer.name, "first kill", Cell(tuple(first)))
        table.put(peer.name, "second kill", Cell(tuple(second)))
    return table


def many_table(peers: Sequence[Peer], count: int, kind: str, tries: int) -> Table:
    table = Table(
        f"{count} {kind} agents",
        "Seconds from the start of the tool until all answer, and from SIGTERM until nothing is left. Memory in MB: PSS"
        " of everything, and resident memory of the tool's own processes (meshsup's registry is one). Idle CPU:"
        " percent of one core over 10 s of the tool's own processes. Status: seconds of its status command with all"
        " agents running.",
        {
            "all answer": seconds,
            "memory of everything": whole,
            "memory of the tool": whole,
            "idle CPU": percent,
            "status command": seconds,
            "stop": seconds,
        },
    )
    for peer in peers:
        if not peer.many:
            continue
        columns: dict[str, list[float]] = {column: [] for column in table.columns}
        for _ in range(tries):
            for column, value in one_of_many(peer, count, kind):
                columns[column].append(value)
        for column, samples in columns.items():
            table.put(peer.name, column, Cell(tuple(samples)))
    return table


def one_of_many(peer: Peer, count: int, kind: str) -> Iterator[tuple[str, float]]:
    with running(peer, kind, count, watch=peer.reloads) as site:
        agents = site.wait_all()
        yield "all answer", time.monotonic() - site.started
        time.sleep(5)  # what starting left to do
        own = site.own_processes(agents)
        yield "memory of everything", sum(pss(process) for process in site.processes()) / 1e6
        yield "memory of the tool", sum(process.memory_info().rss for process in own) / 1e6
        yield "idle CPU", idle_percent(own)
        if status := peer.status(site.folder):
            yield "status command", min_of(5, lambda: timed(status, site))
        yield "stop", site.stop()


def pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def idle_percent(processes: Sequence[psutil.Process], span: float = 10.0) -> float:
    before, start = cpu_seconds(processes), time.monotonic()
    time.sleep(span)
    return 100 * (cpu_seconds(processes) - before) / (time.monotonic() - start)


def timed(command: Sequence[str], site: Site) -> float:
    start = time.monotonic()
    subprocess.run(
        command, cwd=site.folder, env=site.environ, check=False, capture_output=True, stdin=subprocess.DEVNULL
    )
    return time.monotonic() - start


def min_of(times: int, sample: Callable[[], float]) -> float:
    """The fastest of a few: what the command costs, not what else the machine did."""
    return min(sample() for _ in range(times))


def tree_table(peers: Sequence[Peer], folders: int, tries: int) -> Table:
    table = Table(
        f"A tree of {folders:,} directories".replace(",", " "),
        f"One stdlib agent beside {folders} directories with a file each. Seconds until it answers first, seconds from"
        f" a save until the new code answers ({tries} saves), resident memory of the tool in MB, idle CPU in percent of"
        " one core over 10 s.",
        {"first answer": seconds, "save → answers": seconds, "memory of the tool": whole, "idle CPU": percent},
    )
    for peer in peers:
        if not peer.reloads:
            continue
        site = Site(peer, "stdlib", 1, watch=True)
        for number in range(folders):
            folder = site.folder / f"data/{number // 100}/{number % 100}"
            folder.mkdir(parents=True)
            (folder / "notes.txt").write_text("x\n")
        with site:
            agents = site.wait_all()
            table.put(peer.name, "first answer", Cell((time.monotonic() - site.started,)))
            time.sleep(10)  # some go on looking at the tree for a while
            table.put(peer.name, "save → answers", sampled(tries, partial(saved, site)))
            own = site.own_processes([*agents, wait_answer(site.programs[0].port)])
            table.put(peer.name, "memory of the tool", Cell((sum(p.memory_info().rss for p in own) / 1e6,)))
            table.put(peer.name, "idle CPU", Cell((idle_percent(own),)))
    return table
