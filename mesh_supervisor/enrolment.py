"""Who is registered: announces agents that do not do so themselves, and withdraws whatever has ended.

One loop carries it all out, one request after the other, so that a late withdrawal of one generation can never meet
the announcement of the next. What cannot be done because the registry is away is done when it is back; nobody waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from mesh_supervisor.environment import MESH_SDK, agent_id
from mesh_supervisor.errors import Refused, RegistryError
from mesh_supervisor.host.instance import Place
from mesh_supervisor.registry.client import Announcement
from mesh_supervisor.registry.records import Issued
from mesh_supervisor.spec import AgentSpec, Capability, MeshSpec, Register

LEASE = 30.0
"""Seconds that our records live without being renewed: a supervisor that was killed leaves no ghosts for longer."""

RENEW_EVERY = 10.0
FIRST_RETRY, LAST_RETRY = 0.1, 5.0
SDK_LOOK_EVERY = 5.0
"""Seconds between two looks at what agents have registered themselves; a look is one GET on loopback."""


class Registry(Protocol):
    """What is asked of the registry. Every call raises RegistryError when it does not answer, or not sensibly."""

    async def register(self, announcement: Announcement) -> None:
        """Raises Refused when it is this agent that is not wanted."""
        ...

    async def withdraw(self, agent: str) -> None: ...

    async def agents(self) -> list[Mapping[str, Any]]: ...

    async def lease(self, owner: str, ttl: float, ids: Collection[str]) -> tuple[list[str], list[str]]:
        """(those that the registry knows, those to announce again)"""
        ...

    async def issue(self, owner: str, ids: Iterable[Issued]) -> bool: ...

    async def forget_ghosts(self, owner: str, keep: Collection[str]) -> list[str]: ...


def registrar_of(spec: AgentSpec, frameworks: frozenset[str]) -> Register:
    """Who announces this agent: itself if it is built with the MCP Mesh SDK, we if it has a port, else nobody."""
    if spec.register is not Register.AUTO:
        return spec.register
    if MESH_SDK in frameworks:
        return Register.SELF
    return Register.SUPERVISOR if spec.port is not None else Register.NEVER


def announcement_of(spec: AgentSpec, mesh: MeshSpec, generation: int, owner: str) -> Announcement:
    """Of an agent that does not register itself. Without capabilities of its own it can be found by its name."""
    assert spec.port is not None  # without one there is nothing to announce: see registrar_of
    return Announcement(
        id=agent_id(spec.name, generation, owner, shared=mesh.registry.kind == "external"),
        name=spec.name,
        owner=owner,
        generation=generation,
        host=mesh.advertise,
        port=spec.port,
        capabilities=spec.capabilities or (Capability(spec.name),),
    )


class Enrolment:
    """``wanted`` should be registered by us, ``leaving`` should not be there any more. ``run`` makes it so."""

    def __init__(self, registry: Registry, owner: str, report: Callable[[str, str], None]) -> None:
        self._registry, self._owner, self._report = registry, owner, report
        self._wanted: dict[str, Announcement] = {}
        self._confirmed: set[str] = set()
        self._refused: dict[str, str] = {}  # why, by id; said once, and tried again with every renewal
        self._leaving: set[str] = set()
        self._issued: dict[str, Issued] = {}  # ids of agents that register themselves, by id
        self._told: set[str] = set()  # those of _issued that the registry was told of
        self._seen: set[str] = set()  # those of _issued that it calls healthy
        self._ghosts_gone = False
        self._woken = asyncio.Event()
        self._there = asyncio.Event()
        self.trouble: str | None = None

    # ---- what should be ----------------------------------------------------------------------------------------------

    def announce(self, announcement: Announcement) -> None:
        self._leaving.discard(announcement.id)
        self._wanted[announcement.id] = announcement
        self._confirmed.discard(announcement.id)
        self._woken.set()

    def withdraw(self, id: str) -> None:
        """Also of an id that was never announced: an agent that registered itself may have been killed."""
        self._wanted.pop(id, None)
        self._confirmed.discard(id)
        self._refused.pop(id, None)
        self._issued.pop(id, None)
        self._seen.discard(id)
        self._told.discard(id)
        self._leaving.add(id)
        self._woken.set()

    def issue(self, id: str, name: str, generation: int) -> None:
        """This id is given to an agent that will register itself."""
        self._issued[id] = Issued(id, self._owner, name, generation)
        self._woken.set()

    def registry_went(self) -> None:
        """Nothing is asked of it until it is back; what is registered there is no longer known."""
        self._there.clear()
        self._confirmed.clear()
        self._seen.clear()

    def registry_came_back(self) -> None:
        """It may have forgotten everything: all is announced again at once."""
        self._there.set()
        self._confirmed.clear()
        self._told.clear()
        self._seen.clear()
        self._ghosts_gone = False
        self._woken.set()

    def is_registered(self, id: str) -> bool:
        return id in self._confirmed or id in self._seen

    async def place_of(self, id: str) -> Place | None:
        """Where an agent that registers itself is registered as healthy; None: it is not. Raises RegistryError."""
        for row in await self._registry.agents():
            if row.get("id") == id and row.get("status") == "healthy":
                self._seen.add(id)
                return _place(row.get("endpoint"))
        self._seen.discard(id)
        return None

    # ---- making it so ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_RETRY
        while True:
            await self._there.wait()
            self._woken.clear()
            try:
                await self._catch_up()
                self._better()
                pause, wait = FIRST_RETRY, SDK_LOOK_EVERY if self._issued else RENEW_EVERY
            except RegistryError as error:
                self._worse(str(error))
                pause, wait = min(pause * 2, LAST_RETRY), pause
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def farewell(self, patience: float) -> None:
        """At the end of the mesh: withdraws what is left, for at most ``patience`` seconds."""
        for id in [*self._wanted, *self._issued]:
            self.withdraw(id)
        try:
            async with asyncio.timeout(patience):
                await self._withdraw_leaving()
        except (TimeoutError, RegistryError):
            return  # its lease will end it

    async def _catch_up(self) -> None:
        if not self._ghosts_gone:
            await self._registry.forget_ghosts(self._owner, [*self._wanted, *self._issued])
            self._ghosts_gone = True
        await self._withdraw_leaving()
        await self._tell_issued()
        await self._renew()  # first: whatever becomes of newcomers, those that are known stay so
        await self._announce_wanted()
        if self._issued:
            await self._look_at_issued()

    async def _withdraw_leaving(self) -> None:
        for id in list(self._leaving):
            await self._registry.withdraw(id)
            self._leaving.discard(id)

    async def _tell_issued(self) -> None:
        new = [issued for id, issued in self._issued.items() if id not in self._told]
        if new:
            await self._registry.issue(self._owner, new)
            self._told.update(issued.id for issued in new)

    async def _announce_wanted(self) -> None:
        for id, announcement in list(self._wanted.items()):
            if id in self._confirmed:
                continue
            try:
                await self._registry.register(announcement)
            except Refused as error:  # the others are none the worse for it
                self._refuse(id, str(error))
                continue
            if self._wanted.get(id) is announcement:  # not withdrawn, nor changed, while that was under way
                self._confirmed.add(id)
                self._refused.pop(id, None)
                self._report(announcement.name, f"registered as {id}")

    async def _renew(self) -> None:
        if not self._confirmed:
            return
        _, unknown = await self._registry.lease(self._owner, LEASE, sorted(self._confirmed))
        self._confirmed.difference_update(unknown)

    async def _look_at_issued(self) -> None:
        healthy = [row.get("id") for row in await self._registry.agents() if row.get("status") == "healthy"]
        self._seen = self._issued.keys() & {id for id in healthy if isinstance(id, str)}

    def _refuse(self, id: str, text: str) -> None:
        if id in self._wanted and self._refused.get(id) != text:
            self._refused[id] = text
            self._report("registry", text)

    def _worse(self, text: str) -> None:
        if self.trouble is None:
            self._report("registry", text)
        self.trouble = text

    def _better(self) -> None:
        if self.trouble is not None:
            self._report("registry", "the registry answers again")
        self.trouble = None


def _place(endpoint: object) -> Place | None:
    """``http://127.0.0.1:8101`` → its host and port; None for what is no address: anybody can register anything."""
    try:
        parts = urlsplit(endpoint if isinstance(endpoint, str) else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return Place(host, port) if host and port else None
