"""Tool calls by the MCP SDK's own client, at a steady rate; what became of each, as load.py tells it.

A process of its own, in an interpreter that has ``mcp`` 2.x. fresh: a client made for one call; keep-alive: one client
for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import itertools
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.load import FRESH, KEPT, PATIENCE, Request, fire, print_line

KINDS = (FRESH, *itertools.repeat(KEPT, 9))


def mcp_load(python: str, port: int, *, tool: str = "word", rate: float = 50) -> list[str]:
    """The command of such a client."""
    return [python, "-m", "benchmarks.mcp_load", str(port), "--tool", tool, "--rate", str(rate)]


async def run(port: int, tool: str, rate: float) -> None:
    client_class: Any = importlib.import_module("mcp.client").Client  # not in the interpreter that measures

    url = f"http://127.0.0.1:{port}/mcp"

    async def call(client: Any) -> str:
        result = await client.call_tool(tool, {})
        text = str(result.content[0].text)
        if result.is_error:
            raise RuntimeError(text)
        return text

    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(client_class(url))

        async def ask(kind: str, at: float) -> None:
            failure = said = ""
            try:
                async with asyncio.timeout(PATIENCE):
                    if kind == KEPT:
                        said = await call(kept)
                    else:
                        async with client_class(url) as client:
                            said = await call(client)
            except TimeoutError:
                failure = "timeout"
            except Exception as error:  # noqa: BLE001  # whatever a caller would get is what is counted
                failure, said = name_of(error), str(error)
            print_line(Request(kind, at, time.monotonic() - at, failure, said[:200]))

        await fire(ask, rate, KINDS, pool=0)


def name_of(error: BaseException) -> str:
    """The SDK wraps what happened into groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mcp_load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--tool", default="word")
    parser.add_argument("--rate", type=float, default=50)
    options = parser.parse_args(words)
    gc.disable()
    asyncio.run(run(options.port, options.tool, options.rate))


if __name__ == "__main__":
    main()
