"""The warm processes that there are: templates by their key, spares by their agent. Which there should be is said by
warm.py."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh_supervisor.host.children import Program
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.memory import OutOfMemory
from mesh_supervisor.host.priority import Priority
from mesh_supervisor.host.warm_process import WarmProcess
from mesh_supervisor.warmth import Recipe

LABEL = "warm"
"""The name of the lines that warm processes write, and the second part of their marks."""


@dataclass(frozen=True, slots=True)
class Made:
    recipe: Recipe
    process: WarmProcess

    @property
    def state(self) -> str:
        return self.process.state


class Shelf:
    """``changed`` is called when one of them is warm, refuses or has ended. Raises SpawnError and OSError where a
    process is made."""

    def __init__(
        self,
        owner: str,
        line: Callable[[Line], None],
        changed: Callable[[], None],
        memory: OutOfMemory | None,
        guest: Path,
    ) -> None:
        self._owner, self._line, self._changed, self._memory, self._guest = owner, line, changed, memory, guest
        self.templates: dict[str, Made] = {}
        self.coming: dict[str, Made] = {}  # in the place of a template that is used until they are warm
        self.spares: dict[str, Made] = {}
        self._numbers = itertools.count(1)
        self._ends: set[asyncio.Task[None]] = set()
        self.mistake: BaseException | None = None

    def spawn(self, program: Program, modules: tuple[str, ...], priority: Priority, *, forks: bool) -> WarmProcess:
        return WarmProcess(
            LABEL,
            f"{self._owner}/{LABEL}/{next(self._numbers)}",
            program,
            modules,
            forks=forks,
            line=self._line,
            changed=self._changed,
            memory=self._memory,
            priority=priority,
            guest=self._guest,
        )

    def make_template(self, recipe: Recipe, program: Program, priority: Priority) -> None:
        made = Made(recipe, self.spawn(program, recipe.modules, priority, forks=True))
        (self.coming if recipe.key in self.templates else self.templates)[recipe.key] = made

    def make_spare(self, agent: str, recipe: Recipe, program: Program) -> None:
        self.drop_spare(agent)
        self.spares[agent] = Made(recipe, self.spawn(program, recipe.modules, Priority.LATER, forks=False))

    def everything(self) -> list[Made]:
        return [*self.templates.values(), *self.coming.values(), *self.spares.values()]

    def usable(self) -> dict[str, Recipe]:
        """Templates that fork now, or soon."""
        return {key: made.recipe for key, made in self.templates.items() if made.state in {"warming", "warm"}}

    def warming(self) -> int:
        return sum(made.state == "warming" for made in self.everything())

    def take_over(self) -> None:
        """What is warm by now replaces what it was made for."""
        for key in [key for key, made in self.coming.items() if made.state == "warm"]:
            if key in self.templates:
                self.drop(self.templates[key])
            self.templates[key] = self.coming.pop(key)

    def failed_templates(self) -> list[Made]:
        """Those that must not fork or have ended; they are dropped."""
        found = []
        for kept in (self.templates, self.coming):
            for key in [key for key, made in kept.items() if made.state in {"refused", "over"}]:
                found.append(kept.pop(key))
                self.drop(found[-1])
        return found

    def failed_spares(self) -> list[tuple[str, Made]]:
        found = [(agent, made) for agent, made in self.spares.items() if made.state == "over"]
        for agent, _ in found:
            self.drop_spare(agent)
        return found

    def keep_only(self, templates: Collection[str], spared: Collection[str]) -> None:
        for kept in (self.templates, self.coming):
            for key in [key for key in kept if key not in templates]:
                self.drop(kept.pop(key))
        for agent in [agent for agent in self.spares if agent not in spared]:
            self.drop_spare(agent)

    def drop_spare(self, agent: str) -> None:
        if agent in self.spares:
            self.drop(self.spares.pop(agent))

    def drop(self, made: Made) -> None:
        """Ends it, in the background."""
        self._spin(made.process.close())

    def clear(self) -> None:
        for made in self.everything():
            self.drop(made)
        for kept in (self.templates, self.coming, self.spares):
            kept.clear()

    async def close(self) -> None:
        self.clear()
        await asyncio.gather(*self._ends, return_exceptions=True)

    def _spin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ends.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ends.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.mistake = task.exception()
            self._changed()
