"""Agents of the MCP Mesh SDK: a clock, and a greeter that asks it for the time on each call."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.request import ProxyHandler, Request, build_opener

from benchmarks.bench import Bench
from benchmarks.load import Load, http_load
from benchmarks.peers import Peer
from benchmarks.programs import Program
from benchmarks.report import Cell, Table, seconds, whole
from benchmarks.site import TOO_LONG, Missed, Site, free_port
from benchmarks.underload import EXPLAINED, LATENCIES, reloads_under, tell

SLOW = 60.0
"""Seconds that such agents may take until they know each other."""

CLOCK = """
import mesh
from fastmcp import FastMCP

WORD = {word!r}
app = FastMCP("clock")


@app.tool()
@mesh.tool(capability="time_now", version="1.0.0", tags=["system"])
def time_now() -> str:
    return f"it is {{WORD}} now"


@mesh.agent(name="clock", version="1.0.0", http_port={port})
class Clock:
    pass
"""

GREETER = """
import mesh
from fastmcp import FastMCP

app = FastMCP("greeter")


@app.tool()
@mesh.tool(capability="greeting", version="1.0.0", dependencies=[{{"capability": "time_now", "version": ">=1.0.0"}}])
async def greet(time_now: mesh.McpMeshTool | None = None) -> str:
    return f"Hello, {{await time_now()}} ." if time_now else "Hello, nobody tells the time"


@mesh.agent(name="greeter", version="1.0.0", http_port={port})
class Greeter:
    pass
"""

GREET = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "greet", "arguments": {}}}

_neighbours = build_opener(ProxyHandler({}))


class SdkSite(Site):
    """Saves are saves of the clock; ``registry``: the port of the tool's registry."""

    def __init__(self, peer: Peer, registry: int) -> None:
        self.registry = registry
        super().__init__(peer, "clock", 2, watch=True)

    def _programs(self, count: int, python: str) -> tuple[Program, ...]:
        clock, greeter = (
            Program(name, self.folder / f"{name}.py", free_port(), python) for name in ("clock", "greeter")
        )
        greeter.save(GREETER.format(port=greeter.port))
        return clock, greeter

    def save(self, word: str) -> None:
        clock = self.programs[0]
        clock.save(CLOCK.format(word=word, port=clock.port))

    def registered(self) -> set[str]:
        """The ids of healthy clocks."""
        with _neighbours.open(f"http://127.0.0.1:{self.registry}/agents", timeout=5) as response:
            rows = json.load(response)["agents"]
        return {row["id"] for row in rows if row["name"] == "clock" and row["status"] == "healthy"}

    def greeting(self) -> str:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        url = f"http://127.0.0.1:{self.programs[1].port}/mcp"
        with _neighbours.open(Request(url, json.dumps(GREET).encode(), headers), timeout=10) as response:
            return str(response.read().decode())


def until(fact: Callable[[], bool], patience: float = TOO_LONG) -> None:
    """Asked every 5 ms; an error is a no. Raises Missed."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if fact():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.005)
    raise Missed


def sdk_table(bench: Bench, registries: Mapping[str, int]) -> Table:
    """``registries``: the port of each tool's registry."""
    table = Table(
        "MCP Mesh agents",
        "Two agents of the real SDK; the greeter calls the clock. Seconds from the start of the tool until a greeting"
        " tells the time; from a save of the clock until a new instance of it stands in the registry as healthy; from a"
        f" save until a greeting has the new code's word. {bench.tries} saves for each.",
        {"start → greeting": seconds, "save → registered": seconds, "save → called by its dependent": seconds},
    )
    for peer in bench.sdk:
        with bench.row(table, peer), SdkSite(peer, registries[peer.name]) as site:
            until(lambda: "it is first now" in site.greeting(), SLOW)  # called at once
            columns: dict[str, list[float]] = {"start → greeting": [time.monotonic() - site.started]}
            missed: dict[str, int] = {}
            for column, value in samples(site, bench.tries):
                if value is None:
                    missed[column] = missed.get(column, 0) + 1
                else:
                    columns.setdefault(column, []).append(value)
            for column in table.columns:
                table.put(peer.name, column, Cell(tuple(columns.get(column, ())), missed.get(column, 0)))
    return table


def samples(site: SdkSite, tries: int) -> Iterator[tuple[str, float | None]]:
    for number in range(tries):
        time.sleep(5)
        before = site.registered()
        yield "save → registered", since_save(site, f"a{number}", lambda: bool(site.registered() - before))  # noqa: B023
        time.sleep(5)
        word = f"b{number}"
        yield "save → called by its dependent", since_save(site, word, lambda: word in site.greeting())  # noqa: B023


def since_save(site: SdkSite, word: str, fact: Callable[[], bool]) -> float | None:
    start = time.monotonic()
    site.save(word)
    try:
        until(fact)
    except Missed:
        return None
    return time.monotonic() - start


def sdk_load_table(bench: Bench, registries: Mapping[str, int]) -> Table:
    table = Table(
        "MCP Mesh agents through reloads",
        f"The same two agents, {bench.reloads} saves of the clock; 50 calls of the greeter a second (100 are"
        " nearly all that one can do), each of which calls the clock; an answer without the time is a failure too."
        f" {EXPLAINED}",
        {"failed requests": whole, **LATENCIES},
    )
    for peer in bench.sdk:
        with bench.row(table, peer), SdkSite(peer, registries[peer.name]) as site:
            until(lambda: "it is first now" in site.greeting(), SLOW)  # called at once
            time.sleep(5)
            command = http_load(site.programs[1].port, "/mcp", rate=50, body=json.dumps(GREET), expect="Hello, it is")
            with Load(command) as load:
                spans, missed = reloads_under(load, site, bench.reloads, pause=3)
                time.sleep(3)
                tell(table, peer.name, load.stop(), spans, missed)
    return table
