"""Whether anything grows: reloads in a row, and saves faster than anybody types."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from benchmarks.bench import Bench
from benchmarks.measure import pss
from benchmarks.report import Cell, Table, megabytes, seconds, whole
from benchmarks.site import Missed, Site, wait_answer

STORM, EVERY = 10.0, 0.02
"""Seconds of saving, and between two saves."""


def soak_table(bench: Bench) -> Table:
    """Only meshsup: the rows are moments, not tools."""
    table = Table(
        f"Soak: {bench.soak:,} reloads in a row".replace(",", " "),
        "meshsup with one FastAPI agent; each save waits for the new code's answer. What the supervisor's process has"
        " after so many reloads: descriptors, threads, zombies, folders and files under watch, memory in MB; and how"
        " many processes the mesh has. Each figure is taken after 5 s of rest.",
        {
            "descriptors": whole,
            "threads": whole,
            "zombies": whole,
            "watches": whole,
            "RSS": megabytes,
            "PSS": megabytes,
            "processes": whole,
        },
        compared=False,
    )
    for peer in bench.peers:
        if peer.name == "meshsup":
            with bench.row(table, peer), bench.site(peer, "FastAPI") as site:
                site.wait_all()
                state_at(table, "before", site)
                for number in range(1, bench.soak + 1):
                    site.save(f"soak{number}")
                    wait_answer(site.programs[0].port, word=f"soak{number}")
                    if number in (bench.soak // 100, bench.soak // 10, bench.soak // 2, bench.soak):
                        state_at(table, f"after {number}", site)
    return table


def state_at(table: Table, row: str, site: Site) -> None:
    time.sleep(5)
    supervisor = psutil.Process(site.process.pid)
    figures = {
        "descriptors": supervisor.num_fds(),
        "threads": supervisor.num_threads(),
        "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in supervisor.children()),
        "watches": watches(supervisor.pid),
        "RSS": supervisor.memory_info().rss / 1e6,
        "PSS": pss(supervisor) / 1e6,
        "processes": len(site.processes()),
    }
    for column, value in figures.items():
        table.put(row, column, Cell((float(value),)))


def watches(pid: int) -> int:
    """inotify watches of a process."""
    found = 0
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            found += entry.read_text().count("inotify wd:")
    return found


def storm_table(bench: Bench) -> Table:
    table = Table(
        "A save every 20 ms for 10 s",
        "One FastAPI agent. Seconds from the last save until its code answers; how many processes the tool and its"
        " agent were at most meanwhile, sampled at each save, and are 5 s after it.",
        {"last save → answers": seconds, "processes at most": whole, "processes afterwards": whole},
    )
    for peer in bench.reloading("FastAPI"):
        with bench.row(table, peer), bench.site(peer, "FastAPI") as site:
            site.wait_all()
            time.sleep(5)
            most, last = storm(site)
            answered: tuple[float, ...] = ()
            start = time.monotonic()
            with contextlib.suppress(Missed):
                wait_answer(site.programs[0].port, word=last)
                answered = (time.monotonic() - start,)
            table.put(peer.name, "last save → answers", Cell(answered, 1 - len(answered)))
            table.put(peer.name, "processes at most", Cell((float(most),)))
            time.sleep(5)
            table.put(peer.name, "processes afterwards", Cell((float(len(site.processes())),)))
    return table


def storm(site: Site) -> tuple[int, str]:
    """The most processes that were seen, and the last word."""
    most, word, number = 0, "", 0
    end = due = time.monotonic()
    end += STORM
    while due < end:
        word, number, due = f"storm{number}", number + 1, due + EVERY
        site.save(word)
        most = max(most, sum(1 for _ in psutil.Process(site.process.pid).children(recursive=True)) + 1)
        time.sleep(max(0.0, due - time.monotonic()))
    return most, word
