"""Who is registered, against a registry that is a list, on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.enrolment import LEASE, RENEW_EVERY, Enrolment, announcement_of, registrar_of
from mesh_supervisor.errors import Refused, RegistryError
from mesh_supervisor.host.instance import Place
from mesh_supervisor.registry.client import Announcement
from mesh_supervisor.registry.records import Issued
from mesh_supervisor.spec import AgentSpec, Capability, CommandLine, MeshSpec, Register, RegistrySpec, Script
from tests.agent.virtual import now, run, settle


class FakeRegistry:
    """``asked``: every request, in order. ``away``: nothing answers. ``slow``: seconds that each request takes.
    ``refused``: agents that it does not want. ``hold``: requests wait until it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.records: dict[str, int] = {}
        self.rows: list[Mapping[str, Any]] = []
        self.refused: set[str] = set()
        self.away = False
        self.slow = 0.0
        self.leases: list[tuple[float, list[str]]] = []

    async def _answer(self, *asked: Any) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.away:
            raise RegistryError("the registry does not answer")
        self.asked.append(asked)

    async def register(self, announcement: Announcement) -> None:
        await self._answer("register", announcement.id)
        if announcement.name in self.refused:
            raise Refused(f"{announcement.name}: not wanted")
        self.records[announcement.id] = announcement.port

    async def withdraw(self, agent: str) -> None:
        await self._answer("withdraw", agent)
        self.records.pop(agent, None)

    async def agents(self) -> list[Mapping[str, Any]]:
        await self._answer("agents")
        return self.rows

    async def lease(self, owner: str, ttl: float, ids: Collection[str]) -> tuple[list[str], list[str]]:
        await self._answer("lease", *ids)
        assert ttl == LEASE
        self.leases.append((now(), list(ids)))
        return [id for id in ids if id in self.records], [id for id in ids if id not in self.records]

    async def issue(self, owner: str, ids: Iterable[Issued]) -> bool:
        await self._answer("issue", *(issued.id for issued in ids))
        return True

    async def forget_ghosts(self, owner: str, keep: Collection[str]) -> list[str]:
        await self._answer("forget", *sorted(keep))
        for id in self.records.keys() - set(keep):
            del self.records[id]
        return []

    def requests(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [asked for asked in self.asked if asked[0] in kinds]


class Office:
    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.said: list[tuple[str, str]] = []
        self.enrolment = Enrolment(self.registry, "owner123", lambda about, text: self.said.append((about, text)))

    def announce(self, *ids: str, port: int = 8101) -> None:
        for id in ids:
            name, _, generation = id.rpartition("-")
            self.enrolment.announce(Announcement(id, name, "owner123", int(generation), "127.0.0.1", port))


@contextlib.asynccontextmanager
async def open_office(*, back: bool = True) -> AsyncIterator[Office]:
    office = Office()
    task = asyncio.create_task(office.enrolment.run())
    if back:
        office.enrolment.registry_came_back()
        await settle()
    try:
        yield office
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# ---- in order --------------------------------------------------------------------------------------------------------


def test_nothing_is_asked_of_a_registry_that_is_not_there_yet() -> None:
    async def test() -> None:
        async with open_office(back=False) as office:
            office.announce("a-0001")
            office.enrolment.withdraw("b-0001")
            await asyncio.sleep(100)
            assert office.registry.asked == []
            office.enrolment.registry_came_back()
            await settle()
            assert office.registry.asked == [
                ("forget", "a-0001"),
                ("withdraw", "b-0001"),
                ("register", "a-0001"),
            ]

    run(test)


def test_a_restart_withdraws_the_old_generation_before_the_new_one_is_announced() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001")
            await settle()
            office.announce("a-0002")
            office.enrolment.withdraw("a-0001")
            await settle()
            assert office.registry.requests("register", "withdraw")[1:] == [
                ("withdraw", "a-0001"),
                ("register", "a-0002"),
            ]
            assert office.enrolment.is_registered("a-0002")
            assert not office.enrolment.is_registered("a-0001")
            assert office.said == [("a", "registered as a-0001"), ("a", "registered as a-0002")]

    run(test)


def test_one_that_goes_while_it_is_announced_is_gone_at_the_end() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.registry.slow = 1
            office.announce("a-0001")
            await asyncio.sleep(0.5)
            office.enrolment.withdraw("a-0001")
            await asyncio.sleep(5)
            assert office.registry.records == {}
            assert not office.enrolment.is_registered("a-0001")
            assert office.said == []

    run(test)


def test_new_capabilities_are_announced_under_the_same_id() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001")
            await settle()
            office.announce("a-0001", port=9000)
            await settle()
            assert office.registry.records == {"a-0001": 9000}
            assert office.registry.requests("withdraw") == []

    run(test)


def test_a_change_while_it_is_announced_is_announced_too() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.registry.slow = 1
            office.announce("a-0001")
            await asyncio.sleep(0.5)
            office.announce("a-0001", port=9000)
            await asyncio.sleep(5)
            assert office.registry.records == {"a-0001": 9000}

    run(test)


# ---- away and back ---------------------------------------------------------------------------------------------------


def test_the_registry_goes_away_and_comes_back_empty() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001", "b-0001")
            await settle()
            office.registry.away = True
            office.registry.records.clear()
            office.enrolment.registry_went()
            assert not office.enrolment.is_registered("a-0001")
            office.enrolment.withdraw("b-0001")
            office.announce("c-0001")
            await asyncio.sleep(60)
            office.registry.away = False
            office.enrolment.registry_came_back()
            await settle()
            assert sorted(office.registry.records) == ["a-0001", "c-0001"]

    run(test)


def test_a_registry_that_stops_answering_is_said_once_and_asked_less_and_less() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.registry.away = True
            office.announce("a-0001")
            await asyncio.sleep(60)
            assert office.said == [("registry", "the registry does not answer")]
            assert office.enrolment.trouble == "the registry does not answer"
            office.registry.away = False
            await asyncio.sleep(6)
            assert office.enrolment.trouble is None
            assert office.said[1:] == [("a", "registered as a-0001"), ("registry", "the registry answers again")]

    run(test)


def test_own_ghosts_are_withdrawn_at_the_start_and_after_a_crash_of_the_registry() -> None:
    async def test() -> None:
        async with open_office(back=False) as office:
            office.registry.records = {"a-0007": 8101}
            office.announce("a-0008")
            office.enrolment.issue("sdk-0002", "sdk", 2)
            office.enrolment.registry_came_back()
            await settle()
            assert office.registry.requests("forget") == [("forget", "a-0008", "sdk-0002")]
            assert list(office.registry.records) == ["a-0008"]

    run(test)


# ---- leases ----------------------------------------------------------------------------------------------------------


def test_leases_are_renewed_long_before_they_end() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001", "b-0001")
            await asyncio.sleep(60)
            renewals = [at for at, ids in office.registry.leases if ids == ["a-0001", "b-0001"]]
            assert len(renewals) >= 5
            gaps = [later - earlier for earlier, later in pairwise(renewals)]
            assert max(gaps) <= RENEW_EVERY + 1 < LEASE

    run(test)


def test_a_record_that_the_registry_lost_is_announced_again() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001", "b-0001")
            await settle()
            del office.registry.records["a-0001"]
            await asyncio.sleep(RENEW_EVERY + 1)
            assert sorted(office.registry.records) == ["a-0001", "b-0001"]
            assert len(office.registry.requests("register")) == 3

    run(test)


def test_one_that_is_not_wanted_does_no_harm_to_the_others() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.registry.refused = {"bad"}
            office.announce("a-0001", "bad-0001", "c-0001")
            await asyncio.sleep(60)
            assert sorted(office.registry.records) == ["a-0001", "c-0001"]
            assert len(office.registry.leases) >= 5
            assert office.said.count(("registry", "bad: not wanted")) == 1
            assert office.enrolment.trouble is None, "the registry is all right"
            office.registry.refused.clear()
            await asyncio.sleep(RENEW_EVERY + 1)
            assert office.enrolment.is_registered("bad-0001")

    run(test)


# ---- agents that register themselves ---------------------------------------------------------------------------------


def test_issued_ids_are_told_once_and_again_to_a_registry_that_was_away() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.enrolment.issue("sdk-0001", "sdk", 1)
            await asyncio.sleep(30)
            assert office.registry.requests("issue") == [("issue", "sdk-0001")]
            office.enrolment.registry_went()
            office.enrolment.registry_came_back()
            await settle()
            assert office.registry.requests("issue") == [("issue", "sdk-0001")] * 2

    run(test)


def test_an_agent_that_registers_itself_is_seen_and_withdrawn_when_it_ends() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.enrolment.issue("sdk-0001", "sdk", 1)
            await settle()
            assert not office.enrolment.is_registered("sdk-0001")
            office.registry.rows = [{"id": "sdk-0001", "status": "healthy", "endpoint": "http://127.0.0.1:9001"}]
            await asyncio.sleep(6)
            assert office.enrolment.is_registered("sdk-0001")
            office.registry.rows = [{"id": "sdk-0001", "status": "unhealthy"}]
            await asyncio.sleep(6)
            assert not office.enrolment.is_registered("sdk-0001")
            office.enrolment.withdraw("sdk-0001")
            await settle()
            assert office.registry.requests("withdraw") == [("withdraw", "sdk-0001")]
            assert office.registry.requests("register") == []

    run(test)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"status": "healthy", "endpoint": "http://127.0.0.1:9001"}, Place("127.0.0.1", 9001)),
        ({"status": "healthy", "endpoint": "http://[::1]:9001/"}, Place("::1", 9001)),
        ({"status": "healthy", "endpoint": "http://box:9001"}, Place("box", 9001)),
        ({"status": "unhealthy", "endpoint": "http://127.0.0.1:9001"}, None),
        ({"status": "healthy", "endpoint": None}, None),
        ({"status": "healthy"}, None),
        ({"status": "healthy", "endpoint": "nonsense"}, None),
    ],
)
def test_where_it_is_registered(row: Mapping[str, Any], place: Place | None) -> None:
    async def test() -> None:
        office = Office()
        office.registry.rows = [{"id": "other", **row}, {"id": "sdk-0001", **row}, {}]
        assert await office.enrolment.place_of("sdk-0001") == place
        assert await office.enrolment.place_of("unknown") is None
        assert office.enrolment.is_registered("sdk-0001") == (row["status"] == "healthy")

    run(test)


def test_nobody_can_tell_where_it_is_registered() -> None:
    async def test() -> None:
        office = Office()
        office.registry.away = True
        with pytest.raises(RegistryError):
            await office.enrolment.place_of("sdk-0001")

    run(test)


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_farewell_withdraws_all_that_is_left() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001")
            office.enrolment.issue("sdk-0001", "sdk", 1)
            await settle()
            await office.enrolment.farewell(2)
            assert office.registry.records == {}
            assert {("withdraw", "a-0001"), ("withdraw", "sdk-0001")} <= set(office.registry.asked)

    run(test)


@pytest.mark.parametrize("patience", [0.0, 2.0])
def test_farewell_is_bounded(patience: float) -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001", "b-0001")
            await settle()
            office.registry.slow = 1000
            before = now()
            await office.enrolment.farewell(patience)
            assert now() - before == pytest.approx(patience, abs=0.01)

    run(test)


def test_farewell_to_a_registry_that_is_away() -> None:
    async def test() -> None:
        async with open_office() as office:
            office.announce("a-0001")
            await settle()
            office.registry.away = True
            before = now()
            await office.enrolment.farewell(2)
            assert now() - before < 0.01

    run(test)


# ---- who announces whom ----------------------------------------------------------------------------------------------

ROOT = Path("/mesh")
SCRIPT = AgentSpec("planner", Script(ROOT / "planner.py"), ROOT)
WITH_PORT = AgentSpec("planner", Script(ROOT / "planner.py"), ROOT, port=8101)


@pytest.mark.parametrize(
    ("spec", "frameworks", "registrar"),
    [
        (SCRIPT, frozenset(), Register.NEVER),
        (WITH_PORT, frozenset({"fastapi"}), Register.SUPERVISOR),
        (SCRIPT, frozenset({"mesh"}), Register.SELF),
        (WITH_PORT, frozenset({"mesh"}), Register.SELF),
        (AgentSpec("a", SCRIPT.command, ROOT, port=1, register=Register.NEVER), frozenset({"mesh"}), Register.NEVER),
        (AgentSpec("a", SCRIPT.command, ROOT, register=Register.SELF), frozenset(), Register.SELF),
        # A word of a command line is no import: many things are called mesh.
        (AgentSpec("a", CommandLine(("node", "serve.js", "mesh")), ROOT, port=1), frozenset(), Register.SUPERVISOR),
    ],
)
def test_registrar(spec: AgentSpec, frameworks: frozenset[str], registrar: Register) -> None:
    assert registrar_of(spec, frameworks) is registrar


def test_announcement() -> None:
    mesh = MeshSpec("demo", ROOT / "mesh.toml", ROOT, ROOT / ".mesh", advertise="box")
    said = announcement_of(WITH_PORT, mesh, 7, "abcd1234")
    assert (said.id, said.host, said.port, said.generation) == ("planner-0007", "box", 8101, 7)
    assert [capability.name for capability in said.capabilities] == ["planner"]
    shared = MeshSpec(
        "demo", ROOT / "mesh.toml", ROOT, ROOT / ".mesh", registry=RegistrySpec("external", url="http://reg:8000")
    )
    spec = AgentSpec("planner", SCRIPT.command, ROOT, port=8101, capabilities=(Capability("plan"),))
    assert announcement_of(spec, shared, 7, "abcd1234").id == "planner-abcd1234-0007"
    assert announcement_of(spec, shared, 7, "abcd1234").capabilities == (Capability("plan"),)
