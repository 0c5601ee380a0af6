"""Tool calls by the MCP SDK's own client, at a steady rate; what became of each, as load.py tells it.

A process of its own, in an interpreter that has ``mcp`` 2.x. fresh: a client made for one call; keep-alive: one client
for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.load import FRESH, KEPT, PATIENCE, Request, at_most, fire, print_line

KINDS = (FRESH, *[KEPT] * 9)


def mcp_load(python: str, port: int, *, tool: str = "word", rate: float = 50, most: int | None = None) -> list[str]:
    """The command of such a client."""
    return [python, "-m", "benchmarks.mcp_load", str(port), "--tool", tool, "--rate", str(rate), *at_most(most)]


class Kept:
    """One client for many calls. A call that failed breaks it; then those that follow use a new one."""

    def __init__(self, open_client: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._open = open_client
        self._client: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._broken = asyncio.Event()

    async def stay(self) -> None:
        """Until cancelled. The client lives in this task, so that nobody else ends with it."""
        while True:
            self._broken.clear()
            with contextlib.suppress(Exception):  # told by the calls that it broke
                async with self._open() as client:
                    self._client.set_result(client)
                    await self._broken.wait()
            if self._client.done():
                self._client = asyncio.get_running_loop().create_future()
            await asyncio.sleep(0.01)

    async def call(self, call: Callable[[Any], Awaitable[str]]) -> str:
        client = await asyncio.shield(self._client)
        try:
            return await call(client)
        except BaseException:
            if self._client.done() and self._client.result() is client:
                self._broken.set()
            raise


async def run(port: int, tool: str, rate: float, most: int | None) -> None:
    client_class: Any = importlib.import_module("mcp.client").Client  # not in the interpreter that measures

    def open_client() -> AbstractAsyncContextManager[Any]:
        client: AbstractAsyncContextManager[Any] = client_class(f"http://127.0.0.1:{port}/mcp")
        return client

    async def call(client: Any) -> str:
        result = await client.call_tool(tool, {})
        text = str(result.content[0].text)
        if result.is_error:
            raise RuntimeError(text)
        return text

    kept = Kept(open_client)

    async def ask(kind: str, at: float) -> None:
        failure = said = ""
        try:
            async with asyncio.timeout(PATIENCE):
                if kind == KEPT:
                    said = await kept.call(call)
                else:
                    async with open_client() as client:
                        said = await call(client)
        except TimeoutError:
            failure = "timeout"
        except Exception as error:  # noqa: BLE001  # whatever a caller would get is what is counted
            failure, said = name_of(error), str(error)
        print_line(Request(kind, at, time.monotonic() - at, failure, said[:200]))

    staying = asyncio.create_task(kept.stay())
    await fire(ask, rate, KINDS, most=most, pool=0)
    staying.cancel()


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
    parser.add_argument("--most", type=int)
    options = parser.parse_args(words)
    gc.disable()
    asyncio.run(run(options.port, options.tool, options.rate, options.most))


if __name__ == "__main__":
    main()
