"""Tables: medians with their spread, what is best in bold, and in words where meshsup is behind."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

OURS = "meshsup"


@dataclass(frozen=True, slots=True)
class Cell:
    """Several samples of one thing, in seconds, megabytes or percent; ``missed``: how often it never happened."""

    samples: tuple[float, ...]
    missed: int = 0

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    def text(self, show: Callable[[float], str]) -> str:
        if self.median is None:
            return f"never ({self.missed} tries)" if self.missed else "–"
        said = show(self.median)
        if len(self.samples) > 1:
            said += f" ({show(min(self.samples))}–{show(max(self.samples))})"
        return said + (f", {self.missed} missed" if self.missed else "")


NOTHING = Cell(())


def seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def milliseconds(value: float) -> str:
    """Of a value in seconds."""
    return f"{value * 1000:.1f}" if value < 0.01 else f"{value * 1000:.0f}"


def whole(value: float) -> str:
    return f"{value:.0f}"


def megabytes(value: float) -> str:
    return f"{value:.1f}"


def percent(value: float) -> str:
    return f"{value:.2f}"


@dataclass(slots=True)
class Table:
    """``columns``: {heading: how to show a number}. Less is better in all of them. ``compared``: its rows are tools.
    ``remarks``: what else is to be said of a row."""

    title: str
    text: str
    columns: Mapping[str, Callable[[float], str]]
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)
    compared: bool = True
    remarks: dict[str, str] = field(default_factory=dict)

    def put(self, peer: str, column: str, cell: Cell) -> None:
        self.rows.setdefault(peer, {})[column] = cell
        print(f"{self.title}: {peer}: {column}: {cell.text(self.columns[column])}", flush=True)

    def remark(self, peer: str, text: str) -> None:
        self.remarks[peer] = text
        print(f"{self.title}: {peer}: {text}", flush=True)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.text, ""]
        lines += ["| | " + " | ".join(self.columns) + " |", "|---" * (len(self.columns) + 1) + "|"]
        for peer, row in self.rows.items():
            cells = [self._shown(peer, column, row.get(column, NOTHING)) for column in self.columns]
            lines.append(f"| {peer} | " + " | ".join(cells) + " |")
        lines += ["", *(f"- {peer}: {text}" for peer, text in self.remarks.items())]
        said = [self.behind(), self.against()] if self.compared else []
        return "\n".join([*lines, *([""] if self.remarks else []), *(text for text in said if text), ""])

    def _shown(self, peer: str, column: str, cell: Cell) -> str:
        text = cell.text(self.columns[column])
        return f"**{text}**" if self.compared and self._best(column) == peer else text

    def _best(self, column: str) -> str | None:
        medians = {peer: median for peer, row in self.rows.items() if (median := _median(row, column)) is not None}
        return min(medians, key=medians.__getitem__) if medians else None

    def behind(self) -> str:
        """A sentence that says in which columns somebody is better than meshsup, and by how much."""
        said = []
        for column, show in self.columns.items():
            best, mine = self._best(column), _median(self.rows.get(OURS, {}), column)
            if best is None or best == OURS:
                continue
            theirs = _median(self.rows[best], column)
            if mine is None or theirs is None:
                said.append(f"{column}: {OURS} has no result")
            else:
                said.append(f"{column}: {show(mine)}, {best} {show(theirs)}")
        return f"Where {OURS} is behind: " + ("; ".join(said) if said else "nowhere in this table") + "."

    def against(self) -> str:
        """What meshsup's medians are of the best ones of the others; "" where there is nothing to compare."""
        said = []
        for column, show in self.columns.items():
            others = {peer: median for peer in self.rows if peer != OURS and (median := self._median(peer, column))}
            mine = self._median(OURS, column)
            if mine is not None and others:
                best = min(others, key=others.__getitem__)
                said.append(f"{column}: {mine / others[best]:.2f} × {best} ({show(others[best])})")
        return f"{OURS} against the best of the others: " + "; ".join(said) + "." if said else ""

    def _median(self, peer: str, column: str) -> float | None:
        return _median(self.rows.get(peer, {}), column)


def _median(row: Mapping[str, Cell], column: str) -> float | None:
    return row.get(column, NOTHING).median


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}"


def replaced(page: str, tables: Sequence[Table]) -> str:
    """The page with these tables in place of those of the same title, each with the day of its run; new ones at the
    end."""
    head, *sections = re.split(r"(?m)^(?=## )", page)
    kept = {section.partition("\n")[0]: section.rstrip("\n") + "\n\n" for section in sections}
    for table in tables:
        text = table.markdown().replace(table.text, f"{table.text} Run by itself on {datetime.now(UTC):%Y-%m-%d}.", 1)
        kept[f"## {table.title}"] = text.rstrip("\n") + "\n\n"
    return (head + "".join(kept.values())).rstrip("\n") + "\n"


def document(
    tables: Sequence[Table], versions: Mapping[str, str], libraries: Mapping[str, Mapping[str, str]], note: str = ""
) -> str:
    """The whole page. ``libraries``: of the agents with interpreters of their own; ``note``: what a reader must know
    of this run, such as other work on the machine."""
    imported = [", ".join(f"{name} {version}" for name, version in found.items()) for found in libraries.values()]
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `python -m benchmarks`: every tool in the same run on the same machine, in its default",
            "configuration, with the same agents. Medians (smallest–largest); the best of a column is bold; less is",
            "better everywhere. Absolute figures move with the machine, the ratios less.",
            "",
            f"- {datetime.now(UTC):%Y-%m-%d}, {machine()}, Python {platform.python_version()}",
            f"- {tools}",
            *(f"- agents with {text}" for text in imported),
            *([f"- {note}"] if note else []),
            "",
            *(table.markdown() for table in tables),
        ]
    )
