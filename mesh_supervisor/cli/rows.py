"""`ps`: snapshots as rows for people. The columns are stable; scripts read `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh_supervisor.cli.table import aligned, indented, widths
from mesh_supervisor.cli.terminal import CYAN, DIM, GREEN, RED, YELLOW, paint, painted, width
from mesh_supervisor.cli.words import duration, one_line, percent, size
from mesh_supervisor.control.messages import AgentView, Snapshot, WarmView
from mesh_supervisor.wording import counted

HEADER = ("NAME", "STATE", "PID", "PORT", "GEN", "UPTIME", "RESTARTS", "CPU", "MEM", "REGISTERED", "LAST")
STATE = 1
NUMBERS = (2, 3, 4, 6, 7, 8)

COLOURS = {
    "ready": GREEN,
    "done": GREEN,
    "waiting": CYAN,
    "starting": CYAN,
    "reloading": CYAN,
    "draining": CYAN,
    "held": CYAN,
    "backoff": YELLOW,
    "crashloop": RED,
    "failed": RED,
    "stopped": DIM,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One agent: its cells, and what is said in lines of its own below them."""

    cells: tuple[str, ...]
    below: tuple[str, ...] = ()


def processes(views: Sequence[AgentView], *, wide: bool = False) -> list[str]:
    """The table, with a header also when there is no agent; ``wide``: all that is known, in lines below each row.

    A state's detail stands behind the state where the terminal has room for it, else in full below its row.
    """
    rows = [Row(_cells(view), _all_known(view) if wide else ()) for view in views]
    columns = width()
    if columns is not None and not _fits(rows, columns):
        rows = [_with_detail_below(row, view) for row, view in zip(rows, views, strict=True)]
    return _printed(rows, columns)


def _cells(view: AgentView) -> tuple[str, ...]:
    return (
        view.name,
        f"{view.state} ({one_line(view.detail)})" if view.detail else view.state,
        _or_dash(view.pid),
        _or_dash(view.port),
        _or_dash(view.generation or None),
        duration(view.uptime),
        str(view.restarts),
        percent(view.cpu),
        size(view.memory),
        view.registered,
        "" if view.last in view.detail else one_line(view.last),  # said once is enough, and leaves it room
    )


def _all_known(view: AgentView) -> tuple[str, ...]:
    """What `-o wide` says below a row; what the detail says already is not repeated."""
    said = [f"runs {view.command} in {view.directory}", _how(view)]
    said += [f"python {view.interpreter}" if view.interpreter else ""]
    said += [
        counted(view.inputs, "input") + ("" if view.watched else ", not watched") if view.kind != "registry" else ""
    ]
    said += [f"failure: {view.failure}" if view.failure and view.failure not in view.detail else ""]
    said += [f"reload rejected: {view.rejection}" if view.rejection and view.rejection not in view.detail else ""]
    said += [f"retries in {view.retry_in:.1f} s" if view.retry_in is not None and "next try" not in view.detail else ""]
    said += [limit.sentence() for limit in view.limits]
    said += [f"warning: {warning}" for warning in view.warnings]
    return tuple(one_line(text) for text in said if text)


def _how(view: AgentView) -> str:
    """``order start-first · start warm fork · runtime yes``"""
    known = (("order", view.order), ("start", view.start), ("runtime", view.runtime))
    return " · ".join(f"{word} {said}" for word, said in known if said)


def warm(views: Sequence[WarmView]) -> list[str]:
    """``warm: a template for planner, retriever (warm, pid 4300, 61.2M)``"""
    return [
        one_line(
            f"warm: a {view.kind}{' for ' + ', '.join(view.agents) if view.agents else ''} "
            f"({view.state}, pid {view.pid}, {size(view.memory)})"
        )
        for view in views
    ]


def _fits(rows: Sequence[Row], columns: int) -> bool:
    """Whether all but LAST fits side by side, and something of LAST."""
    wide = widths([HEADER, *(row.cells for row in rows)])
    return sum(wide[:-1]) + 2 * (len(wide) - 1) + min(wide[-1], 16) <= columns


def _with_detail_below(row: Row, view: AgentView) -> Row:
    if not view.detail:
        return row
    return Row((row.cells[0], view.state, *row.cells[2:]), (one_line(view.detail), *row.below))


def _printed(rows: Sequence[Row], columns: int | None) -> list[str]:
    lines = aligned(
        [HEADER, *(row.cells for row in rows)],
        width=columns,
        right=NUMBERS,
        paint={STATE: _state, 9: _registered},
    )
    printed = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        printed += [line, *indented(row.below, columns)]
    return printed


def _state(text: str) -> str:
    word = text.split(" ", 1)[0]
    code = YELLOW if "rejected" in text else COLOURS.get(word, "")
    return painted(text, code) if code else text


def _registered(text: str) -> str:
    return paint(RED)(text) if text == "no" else text


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def remarks(snapshot: Snapshot) -> list[str]:
    """What is wrong with the mesh as a whole, for stderr."""
    said = []
    if snapshot.config_error:
        mistakes, kept = snapshot.config_error.splitlines(), "the last valid configuration is kept:"
        said += [f"{kept} {mistakes[0]}"] if len(mistakes) == 1 else [kept, *mistakes]
    if snapshot.registry_url and not snapshot.registry_up:
        said.append(f"the registry does not answer at {snapshot.registry_url}")
    return [painted_remark(text) for text in (*said, *snapshot.warnings)]


def painted_remark(text: str) -> str:
    import sys

    return painted(one_line(text), YELLOW, sys.stderr)


def summary(snapshot: Snapshot) -> str:
    """``demo runs: 3 agents, dev, watching (pid 123)``"""
    agents = sum(1 for view in snapshot.agents if view.kind != "registry")
    watching = "watching" if snapshot.watching else "not watching"
    return f"{snapshot.name} runs: {counted(agents, 'agent')}, {snapshot.mode}, {watching} (pid {snapshot.pid})"
