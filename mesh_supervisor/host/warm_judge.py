"""Finds out which packages a template may not have, in a process of its own, at the lowest priority (W2).

Only asked when a template with all of them refused: most never are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from mesh_supervisor import warmth
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.spawn import SpawnError
from mesh_supervisor.host.warm_process import NotWarm, WarmProcess
from mesh_supervisor.warmth import Recipe, Verdict


class Judge:
    """``spawn`` starts a warm process without modules; ``done(recipe, why, verdicts)`` is called for each `ask`, in
    their order. ``why`` is what was asked with."""

    def __init__(
        self, spawn: Callable[[Program], WarmProcess], done: Callable[[Recipe, str, Mapping[str, Verdict]], None]
    ) -> None:
        self._spawn, self._done = spawn, done
        self._waiting: asyncio.Queue[tuple[Recipe, Mapping[str, str], str]] = asyncio.Queue()
        self._process: WarmProcess | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def ask(self, recipe: Recipe, environ: Mapping[str, str], why: str) -> None:
        self._waiting.put_nowait((recipe, environ, why))

    async def run(self) -> None:
        """Until it is cancelled; then its process is gone."""
        while True:
            recipe, environ, why = await self._waiting.get()
            program = Program((recipe.base.python, *recipe.base.flags), environ, Path("/"))
            self._done(recipe, why, await self._verdicts(recipe, program))

    async def _verdicts(self, recipe: Recipe, program: Program) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}

        def heard(name: str, verdict: Verdict) -> None:
            package = warmth.top(name)
            found[package] = warmth.worst([verdict, found.get(package, verdict)])

        names = warmth.to_judge(name for name in recipe.modules if warmth.top(name) in recipe.base.packages)
        while names:
            try:
                await self._judge(program, names, heard)
                break
            except NotWarm as problem:
                # The guest tries each in a throw-away child: what ends even the judge itself is in nothing.
                first, *rest = [name for name in names if warmth.top(name) not in found] or [""]
                if first:
                    heard(first, Verdict("skip", str(problem)))
                names = tuple(rest)
            except (SpawnError, OSError):
                break
        return found

    async def _judge(self, program: Program, names: tuple[str, ...], heard: Callable[[str, Verdict], None]) -> None:
        process = self._process = self._spawn(program)
        try:
            await process.judge(names, heard)
        finally:
            self._process = None
            await process.close()
