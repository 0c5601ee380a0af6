"""What a tool does when nobody calls. Each measurement runs all peers that can do it in turn, and gives one table."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import psutil

from benchmarks.bench import Bench
from benchmarks.peers import Peer
from benchmarks.report import Cell, Table, percent, seconds, whole
from benchmarks.site import Missed, Site, wait_answer

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


def saved(site: Site, number: int, pause: float = PAUSE) -> float:
    """Seconds from a save until the new code answers. One that is missed is followed by another try's save."""
    time.sleep(pause)
    start = time.monotonic()
    site.save(f"word{number}")
    wait_answer(site.programs[0].port, word=f"word{number}")
    return time.monotonic() - start


def reload_table(bench: Bench) -> Table:
    table = Table(
        "Save → new code answers",
        "One agent; seconds from the save until a new connection gets the new code's answer;"
        f" {bench.tries} saves each.",
        {"stdlib agent": seconds, "FastAPI agent": seconds},
    )
    for kind in ("stdlib", "FastAPI"):
        for peer in bench.reloading(kind):
            with bench.row(table, peer), bench.site(peer, kind) as site:
                site.wait_all()
                table.put(peer.name, f"{kind} agent", sampled(bench.tries, partial(saved, site)))
    return table


HEAVY = {"numpy": "numpy, pandas, pyarrow", "langgraph": "langgraph, langchain-openai, openai"}


def heavy_table(bench: Bench) -> Table:
    table = Table(
        "Save → new code answers, agents with heavy imports",
        "As above; FastAPI agents that also import these libraries when they start. 10 s pass before the first save and"
        f" 5 s between two of {bench.tries}.",
        dict.fromkeys(HEAVY.values(), seconds),
    )
    for kind, libraries in HEAVY.items():
        for peer in bench.reloading(kind):
            with bench.row(table, peer), bench.site(peer, kind) as site:
                site.wait_all()
                time.sleep(10)
                table.put(peer.name, libraries, sampled(bench.tries, partial(saved, site, pause=5)))
    return table


def killed(site: Site) -> float:
    """Seconds from kill -9 of the agent until another process answers."""
    port = site.programs[0].port
    pid = wait_answer(port)
    start = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_answer(port, not_pid=pid)
    return time.monotonic() - start


def kill_table(bench: Bench) -> Table:
    table = Table(
        "kill -9 → answers",
        f"One FastAPI agent, up for 5 s; {bench.tries} fresh starts each. The second kill follows 2 s after the first"
        " one was mended: meshsup restarts at once the first time only and then backs off, by design.",
        {"first kill": seconds, "second kill": seconds},
    )
    for peer in bench.reviving():
        first, second = [], []
        for _ in range(bench.tries):
            with bench.row(table, peer), bench.site(peer, "FastAPI", watch=False) as site:
                site.wait_all()
                time.sleep(5)
                first.append(killed(site))
                time.sleep(2)
                second.append(killed(site))
        table.put(peer.name, "first kill", Cell(tuple(first)))
        table.put(peer.name, "second kill", Cell(tuple(second)))
    return table


def many_table(bench: Bench, count: int, kind: str) -> Table:
    table = Table(
        f"{count} {kind} agents",
        "The second start in one folder: each tool has had them up before, and stopped them. Seconds from the start of"
        " the tool until all answer, and from SIGTERM until nothing is left. Memory in MB: PSS of everything, resident"
        " memory of the tool's own processes (meshsup's registry and warm processes too) and of its main one alone."
        " Idle CPU: percent of one core over 10 s of the tool's own processes. Status: seconds of its status command"
        " with all agents running.",
        {
            "all answer": seconds,
            "memory of everything": whole,
            "memory of the tool": whole,
            "of its main process": whole,
            "idle CPU": percent,
            "status command": seconds,
            "stop": seconds,
        },
    )
    for peer in bench.peers:
        if not peer.many:
            continue
        columns: dict[str, list[float]] = {column: [] for column in table.columns}
        for _ in range(max(1, bench.tries // 3)):
            with bench.row(table, peer):
                for column, value in one_of_many(bench, peer, count, kind):
                    columns[column].append(value)
        for column, samples in columns.items():
            table.put(peer.name, column, Cell(tuple(samples)))
    return table


def one_of_many(bench: Bench, peer: Peer, count: int, kind: str) -> Iterator[tuple[str, float]]:
    with bench.site(peer, kind, count, watch=peer.reloads) as site:
        site.wait_all()
        time.sleep(5)  # what starting left to do, such as learning for the next time
        site.stop()
        site.start()
        agents = site.wait_all()
        yield "all answer", time.monotonic() - site.started
        time.sleep(5)
        own = site.own_processes(agents)
        yield "memory of everything", sum(pss(process) for process in site.processes()) / 1e6
        yield "memory of the tool", sum(process.memory_info().rss for process in own) / 1e6
        yield "of its main process", psutil.Process(site.process.pid).memory_info().rss / 1e6
        yield "idle CPU", idle_percent(own)
        if status := peer.status(site.folder):
            yield "status command", min_of(5, lambda: timed(status, site))
        yield "stop", site.stop()


def crowd_table(bench: Bench, count: int) -> Table:
    """Only whether it holds: who did not stay is in the column of those that changed."""
    table = Table(
        f"{count} stdlib agents",
        "Seconds until all answer; how many of them are other processes a minute later; seconds from SIGTERM until"
        " nothing is left, and with which exit code.",
        {"all answer": seconds, "changed in a minute": whole, "stop": seconds, "exit code": whole},
    )
    for peer in bench.peers:
        if peer.name == "meshsup":
            with bench.row(table, peer), bench.site(peer, "stdlib", count) as site:
                agents = site.wait_all(patience=240)
                table.put(peer.name, "all answer", Cell((time.monotonic() - site.started,)))
                time.sleep(60)
                changed = sum(a != b for a, b in zip(agents, site.wait_all(), strict=True))
                table.put(peer.name, "changed in a minute", Cell((float(changed),)))
                table.put(peer.name, "stop", Cell((site.stop(),)))
                table.put(peer.name, "exit code", Cell((float(site.process.returncode),)))
    return table


def pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Of those that are still there."""
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def idle_percent(processes: Sequence[psutil.Process], span: float = 10.0) -> float:
    before, start = cpu_seconds(processes), time.monotonic()
    time.sleep(span)
    return max(0.0, 100 * (cpu_seconds(processes) - before) / (time.monotonic() - start))


def timed(command: Sequence[str], site: Site) -> float:
    start = time.monotonic()
    subprocess.run(
        command, cwd=site.folder, env=site.environ, check=False, capture_output=True, stdin=subprocess.DEVNULL
    )
    return time.monotonic() - start


def min_of(times: int, sample: Callable[[], float]) -> float:
    """The fastest of a few: what the command costs, not what else the machine did."""
    return min(sample() for _ in range(times))


def tree_table(bench: Bench, folders: int) -> Table:
    table = Table(
        f"A tree of {folders:,} directories".replace(",", " "),
        f"One stdlib agent beside {folders} directories with a file each. Seconds until it answers first, seconds from"
        f" a save until the new code answers ({bench.tries} saves), resident memory of the tool in MB, idle CPU in"
        " percent of one core over 10 s.",
        {"first answer": seconds, "save → answers": seconds, "memory of the tool": whole, "idle CPU": percent},
    )
    for peer in bench.reloading("stdlib"):
        site = bench.site(peer, "stdlib")
        for number in range(folders):
            folder = site.folder / f"data/{number // 100}/{number % 100}"
            folder.mkdir(parents=True)
            (folder / "notes.txt").write_text("x\n")
        with bench.row(table, peer), site:
            agents = site.wait_all()
            table.put(peer.name, "first answer", Cell((time.monotonic() - site.started,)))
            time.sleep(10)  # some go on looking at the tree for a while
            table.put(peer.name, "save → answers", sampled(bench.tries, partial(saved, site)))
            own = site.own_processes([*agents, wait_answer(site.programs[0].port)])
            table.put(peer.name, "memory of the tool", Cell((sum(p.memory_info().rss for p in own) / 1e6,)))
            table.put(peer.name, "idle CPU", Cell((idle_percent(own),)))
    return table
