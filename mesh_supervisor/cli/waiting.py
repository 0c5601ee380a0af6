"""`up --wait`: progress on stderr until all agents are ready, or one cannot be."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mesh_supervisor.cli.rows import COLOURS
from mesh_supervisor.cli.terminal import colours, complain, painted, talk
from mesh_supervisor.cli.words import one_line
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import AgentView
from mesh_supervisor.errors import NotRunning, WaitTimedOut

if TYPE_CHECKING:
    from rich.table import Table

LOOK_EVERY = 0.15
GOOD = ("ready", "done", "held")
BAD = ("failed", "crashloop")
TROUBLED = ("backoff", *BAD)


class Progress(Protocol):
    def show(self, views: list[AgentView]) -> None: ...


def wait_until_ready(client: Client, timeout: float | None) -> int:
    """0 when all that is wanted is ready; 1, with the reasons, when something cannot be, or is with old code only.

    Raises WaitTimedOut."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with _progress() as progress:
        while True:
            views = _wanted(client)
            progress.show(views)
            if broken := [view for view in views if view.state in BAD]:
                break
            waiting = [view for view in views if not _ready(view)]
            if not waiting:
                return _tell_rejected(views)
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimedOut(f"not ready after {timeout:g} s: {', '.join(map(_said, waiting))}; the mesh goes on")
            time.sleep(LOOK_EVERY)
    for view in broken:
        complain(f"{view.name} cannot get ready: {one_line(view.failure or view.detail or view.state)}")
    talk("the rest of the mesh goes on; see `meshsup ps`")
    return 1


def _tell_rejected(views: list[AgentView]) -> int:
    """What is on disk, mesh.toml or a program, is not what runs."""
    rejected = [view for view in views if view.rejection]
    for view in rejected:
        complain(f"{view.name} runs on as it was: {one_line(view.rejection or '')}")
    return 1 if rejected else 0


def _wanted(client: Client) -> list[AgentView]:
    try:
        return [view for view in client.snapshot().agents if view.wanted]
    except NotRunning as error:
        log = client.place.state_dir / "logs" / "meshsup.out"
        raise NotRunning(f"the mesh ended while it was waited for; {log} says why") from error


def _ready(view: AgentView) -> bool:
    return view.state in GOOD


def _said(view: AgentView) -> str:
    return f"{view.name} ({view.state}{': ' + one_line(view.detail) if view.detail else ''})"


# ---- progress ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A table that changes in place on a terminal, a line per change elsewhere."""
    if not (sys.stderr.isatty() and colours(sys.stderr)):
        yield _Lines()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=12) as live:
        yield _Table(live)


class _Lines:
    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def show(self, views: list[AgentView]) -> None:
        for view in views:
            if self.seen.get(view.name) != view.state:
                why = f" ({one_line(view.failure)})" if view.failure and view.state in TROUBLED else ""
                talk(f"{view.name}: {view.state}{why}")
                self.seen[view.name] = view.state


class _Table:
    def __init__(self, live: object) -> None:
        self.live = live

    def show(self, views: list[AgentView]) -> None:
        self.live.update(_table(views))  # type: ignore[attr-defined]


def _table(views: list[AgentView]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for view in views:
        mark = "✔" if _ready(view) else "✘" if view.state in BAD else "…"
        state = Text.from_ansi(painted(view.state, COLOURS.get(view.state, "0"), sys.stderr))
        table.add_row(mark, Text(view.name), state, Text(one_line(view.detail)))
    return table
