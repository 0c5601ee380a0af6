"""Warm starts of a mesh, with the runtime itself in real processes: what one run has learnt, the next start uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from textwrap import dedent

import pytest

from mesh_supervisor.host import warm as warming
from mesh_supervisor.host.channel import Packet
from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.guest import Guest, Told
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.sockets import HeldSockets
from mesh_supervisor.host.spawn import stop, sweep
from mesh_supervisor.host.starting import Begin, Cold, Warmly
from mesh_supervisor.host.sweep import mark_in, remains_of_owner
from mesh_supervisor.host.warm import How, Warmth
from mesh_supervisor.lifecycle import Exit
from mesh_supervisor.target import Target
from mesh_supervisor.warmth import Choice, Way
from tests.agent.virtual import after_turns

from .stage import PLAIN, Stage, alive, until

pytestmark = pytest.mark.usefixtures("subreaper", "in_no_hurry")

PATIENCE = 60.0

AGENT = """
import json, os, signal, sys
{imports}
where = {{name: getattr(sys.modules.get(name), "LOADED", None) for name in ("light", "heavy", "looks", "threads")}}
print(json.dumps({{"pid": os.getpid(), "where": where, "modules": sorted(m for m in where if m in sys.modules)}}))
sys.stdout.flush()
signal.pause()
"""

PACKAGES = {
    "light": "import os\nLOADED = os.getpid()\n",
    "heavy": "import os, light\nLOADED = os.getpid()\n",
    "looks": "import os\nLOADED = os.getpid()\nTONE = os.environ.get('TONE', 'none')\n",
    "threads": "import os, threading, time\nLOADED = os.getpid()\n"
    "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
    "dies": "import os, sys\nif not sys.argv[0]: os.abort()\n",
}


@pytest.fixture
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests wait for facts; and a machine that is short of memory is another test's matter."""
    monkeypatch.setattr(warming, "QUIET", 0.0)
    monkeypatch.setattr(warming, "LATEST", 10 * PATIENCE)
    monkeypatch.setattr("mesh_supervisor.host.warm_process.FORK_AT_MOST", PATIENCE)
    monkeypatch.setattr(warming, "is_short", lambda: False)


@dataclass
class Started:
    """An instance that has said that it is there: ``facts`` is what it found."""

    child: Child
    guest: Guest
    how: How
    pipe: int
    said: bytes = b""
    facts: dict[str, object] = field(default_factory=dict)

    async def announced(self) -> None:
        import json

        loop = asyncio.get_running_loop()
        while b"\n" not in self.said:
            ready = asyncio.Event()
            loop.add_reader(self.pipe, ready.set)
            try:
                async with asyncio.timeout(PATIENCE):
                    await ready.wait()
            finally:
                loop.remove_reader(self.pipe)
            piece = os.read(self.pipe, 65536)
            assert piece, f"it ended: {self.said.decode()}"
            self.said += piece
        self.facts = json.loads(self.said)

    @property
    def imported_itself(self) -> set[str]:
        """The packages that this very process has executed."""
        where = self.facts["where"]
        assert isinstance(where, Mapping)
        return {name for name, pid in where.items() if pid == self.child.pid}


class Mesh:
    """The supervisor's part: agents that are scripts of one folder, with packages of their own."""

    def __init__(self, stage: Stage, **how: object) -> None:
        self.stage = stage
        self.folder = stage.directory
        self.site = self.folder / "env" / "lib" / "python3" / "site-packages"
        self.said: list[str] = []
        self.lines: list[str] = []
        self._generations = 0
        self.started: list[Started] = []
        self.warmth = Warmth(
            stage.owner,
            self.folder / "state" / "warm",
            line=self._line,
            say=self.said.append,
            **how,  # type: ignore[arg-type]
        )
        self.runner = asyncio.create_task(self.warmth.run())

    def _line(self, line: Line) -> None:
        self.lines.append(line.text)

    def install(self, *names: str) -> None:
        self.site.mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.site / f"{name}.py").write_text(PACKAGES[name])
            (self.site / f"{name}-1.0.dist-info").mkdir(exist_ok=True)

    def write(self, agent: str, *imports: str) -> None:
        (self.folder / f"{agent}.py").write_text(
            dedent(AGENT).format(imports="\n".join(f"import {n}" for n in imports))
        )

    def starter(self, agent: str, imports: tuple[str, ...], choice: Choice, guest: Guest) -> Warmly:
        target = Target(sys.executable, (), "script", f"{agent}.py", (), (sys.executable, f"{agent}.py"))
        return Warmly(self.warmth, agent, choice, frozenset(imports), Cold(target, guest, Begin(learn=True)))

    def program(self, **environ: str) -> Program:
        return Program(("python",), {**PLAIN, "PYTHONPATH": str(self.site), **environ}, self.folder)

    async def start(self, agent: str, *imports: str, choice: Choice = "auto", **environ: str) -> Started:
        self._generations += 1
        guest = Guest(HeldSockets(), Told())
        reading, writing = os.pipe()
        mark = self.stage.mark(agent, self._generations)
        try:
            starter = self.starter(agent, imports, choice, guest)
            child = await starter(self.program(**environ), output=writing, mark=mark)
        except BaseException:
            guest.close()
            os.close(reading)
            raise
        finally:
            os.close(writing)
        how = self.warmth.how(agent)
        assert how is not None
        started = Started(child, guest, how, reading)
        self.started.append(started)
        await started.announced()
        return started

    async def learn(self, started: Started, agent: str) -> None:
        parts = await started.guest.inventory(PATIENCE)
        assert parts, "it tells what it has imported"
        # As long as a cold start takes, the next one waits for its template.
        self.warmth.learnt(agent, parts, PATIENCE if started.how.way is Way.COLD else None)

    async def settle(self, *agents: str, kind: str = "template") -> None:
        """Waits until there is a warm process of this kind for exactly these agents."""

        def there() -> bool:
            assert not self.runner.done(), self.runner.exception()
            return any(
                one.kind == kind and one.state == "warm" and one.agents == agents for one in self.warmth.status()
            )

        await until(there)

    async def taught(self, agent: str, *imports: str, choice: Choice = "auto", **environ: str) -> Started:
        """Started cold once, and learnt."""
        started = await self.start(agent, *imports, choice=choice, **environ)
        assert started.how.way is Way.COLD
        await self.learn(started, agent)
        return started

    async def end(self, started: Started) -> Exit:
        await stop(started.child, signal.SIGTERM, PATIENCE)
        await sweep(started.child.mark, started.child)
        return await started.child.wait()

    async def close(self) -> None:
        self.runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.runner
        await self.warmth.close()
        assert all(alive(one.child.pid) for one in self.started if one.child.exit is None), "instances live on"
        for one in self.started:
            await self.end(one)
            one.guest.close()
            os.close(one.pipe)
        assert remains_of_owner(self.stage.owner) == []


@contextlib.asynccontextmanager
async def mesh(stage: Stage, **how: object) -> AsyncIterator[Mesh]:
    found = Mesh(stage, **how)
    try:
        yield found
    finally:
        await found.close()


# ---- forks -----------------------------------------------------------------------------------------------------------


def test_the_second_start_is_a_fork_with_everything_there(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "heavy")
            here.write("planner", "heavy")
            first = await here.start("planner", "heavy")
            assert first.how == How(Way.COLD, "what it imports is learnt at its first start")
            assert first.imported_itself == {"light", "heavy"}
            await here.learn(first, "planner")
            await here.settle("planner")
            await here.end(first)
            second = await here.start("planner", "heavy")
            assert second.how == How(Way.FORK)
            assert second.imported_itself == set()
            assert second.facts["modules"] == ["heavy", "light"]
            await here.learn(second, "planner")
            assert await here.end(second) == Exit(None, signal.SIGTERM)
            [status] = here.warmth.status()
            assert (status.kind, status.agents, alive(status.pid)) == ("template", ("planner",), True)
            assert mark_in(status.pid).startswith(f"{stage.owner}/warm/")

    asyncio.run(scenario())


def test_a_second_up_begins_at_once_and_its_first_start_waits_for_it(stage: Stage) -> None:
    async def first_run() -> None:
        async with mesh(stage) as here:
            here.install("light")
            for agent in ("one", "two"):
                here.write(agent, "light")
                await here.taught(agent, "light")

    async def second_run() -> None:
        async with mesh(stage) as here:
            guest = Guest(HeldSockets(), Told())
            wanted = [here.starter(agent, ("light",), "auto", guest).wanted(here.program()) for agent in ("one", "two")]
            guest.close()
            here.warmth.expect(wanted)
            assert [(one.kind, one.state) for one in here.warmth.status()] == [("template", "warming")]
            for agent in ("one", "two"):
                started = await here.start(agent, "light")
                assert started.how == How(Way.FORK)
                assert started.imported_itself == set()
            assert len(here.warmth.status()) == 1, "both from one"

    asyncio.run(first_run())
    asyncio.run(second_run())


def test_agents_that_load_other_packages_share_no_template(stage: Stage) -> None:
    """A module that an agent does not use is not in its process."""

    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "heavy")
            here.write("one", "light")
            here.write("two", "heavy")
            await here.taught("one", "light")
            await here.taught("two", "heavy")
            await here.settle("one")
            await here.settle("two")
            started = await here.start("one", "light")
            assert started.how.way is Way.FORK
            assert started.facts["modules"] == ["light"]

    asyncio.run(scenario())


def test_until_its_own_template_is_there_one_with_less_serves(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "heavy")
            here.write("one", "light")
            here.write("two", "heavy")
            await here.taught("one", "light")
            await here.settle("one")
            two = await here.start("two", "heavy")
            here.runner.cancel()  # no other template comes
            await here.learn(two, "two")
            started = await here.start("two", "heavy")
            assert started.how.way is Way.FORK
            assert started.imported_itself == {"heavy"}
            with contextlib.suppress(asyncio.CancelledError):
                await here.runner

    asyncio.run(scenario())


def test_who_differs_in_what_imports_look_at_has_a_template_of_its_own(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("looks")
            for agent, tone in (("one", "loud"), ("two", "soft"), ("three", "loud")):
                here.write(agent, "looks")
                await here.taught(agent, "looks", TONE=tone, OTHER=agent)
            await here.settle("one", "three")
            await here.settle("two")
            assert (await here.start("two", "looks", TONE="soft")).how.way is Way.FORK
            changed = await here.start("two", "looks", TONE="shrill")
            assert changed.how == How(Way.COLD, "its template is not there yet")
            await here.learn(changed, "two")
            await here.settle("two")

    asyncio.run(scenario())


def test_what_it_does_not_import_any_more_is_not_in_it(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "looks")
            here.write("one", "light", "looks")
            await here.taught("one", "light", "looks")
            await here.settle("one")
            here.write("one", "light")
            started = await here.start("one", "light")
            assert started.how == How(Way.COLD, "it does not import looks any more: what it imports is learnt anew")
            assert started.facts["modules"] == ["light"]
            await here.learn(started, "one")
            await until(lambda: any(one.state == "warm" for one in here.warmth.status()))
            await here.settle("one")
            assert (await here.start("one", "light")).facts["modules"] == ["light"]

    asyncio.run(scenario())


def test_a_file_of_the_agent_that_hides_a_package_wins(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            await here.settle("one")
            (here.folder / "light.py").write_text("LOADED = 'own'\n")
            started = await here.start("one", "light")
            assert started.how.way is Way.COLD
            assert "light.py has the name of a module" in started.how.reason
            assert started.facts["where"]["light"] == "own"  # type: ignore[index]

    asyncio.run(scenario())


def test_packages_that_change_renew_what_is_warm(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            await here.settle("one")
            [before] = here.warmth.status()
            here.install("heavy")
            started = await here.start("one", "light")
            assert started.how == How(Way.COLD, "the installed packages have changed")
            assert here.said == ["installed packages have changed: warm processes are made anew"]
            await here.learn(started, "one")
            await until(lambda: not alive(before.pid))
            await here.settle("one")
            assert (await here.start("one", "light")).how.way is Way.FORK

    asyncio.run(scenario())


# ---- what may not be forked ------------------------------------------------------------------------------------------


def test_what_starts_threads_gets_a_spare_and_the_rest_is_forked(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "threads")
            here.write("one", "light", "threads")
            first = await here.taught("one", "light", "threads")
            await here.settle("one", kind="spare")
            await here.settle("one")
            await here.end(first)
            second = await here.start("one", "light", "threads")
            assert second.how.way is Way.SPARE
            assert second.how.reason.startswith("threads cannot be forked: ")
            assert "spare is kept" in second.how.cure
            assert second.imported_itself == {"light", "threads"}, "it has imported them before it was this agent"
            third = await here.start("one", "light", "threads")
            assert third.how.way is Way.FORK, "while there is no other spare"
            assert third.imported_itself == {"threads"}
            here.warmth.settled(third.child.mark)
            await here.settle("one", kind="spare")

    asyncio.run(scenario())


def test_spares_are_for_the_agents_edited_last(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage, spares=1) as here:
            here.install("threads")
            for agent in ("one", "two"):
                here.write(agent, "threads")
                await here.taught(agent, "threads")
            await here.settle("one", kind="spare")
            here.warmth.edited("two")
            here.warmth.settled("")
            await here.settle("two", kind="spare")
            assert [one.agents for one in here.warmth.status() if one.kind == "spare"] == [("two",)]
            here.warmth.stopped("two")
            await here.settle("one", kind="spare")

    asyncio.run(scenario())


def test_what_ends_a_process_when_it_is_imported_is_imported_ahead_by_nobody(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light", "dies")
            here.write("one", "light", "dies")
            await here.taught("one", "light", "dies")
            await here.settle("one")
            started = await here.start("one", "light", "dies")
            assert started.how.way in {Way.FORK, Way.SPARE}
            assert started.how.reason.startswith("dies cannot be forked: ")

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(4))
def test_it_ends_also_when_a_verdict_comes_in_that_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """A cancellation that comes together with a result is a cancellation (asyncio.wait_for of Python 3.11 loses it)."""

    async def scenario() -> None:
        async with mesh(stage) as here:
            cancelled = asyncio.Event()

            def cancel() -> None:
                here.runner.cancel()
                cancelled.set()

            class Put(asyncio.Queue[Packet]):
                def put_nowait(self, item: Packet) -> None:
                    super().put_nowait(item)
                    if item["is"] == "judged" and not cancelled.is_set():
                        if turns:
                            after_turns(turns - 1, cancel)
                        else:
                            cancel()

            monkeypatch.setattr("mesh_supervisor.host.warm_process.asyncio.Queue", Put)
            here.install("light", "dies")
            here.write("one", "light", "dies")
            await here.taught("one", "light", "dies")
            async with asyncio.timeout(PATIENCE):
                await cancelled.wait()
                await asyncio.wait({here.runner})
            assert here.runner.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize("choice", ["fork", "spare", False])
def test_what_mesh_toml_says(stage: Stage, choice: Choice) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light", choice=choice)
            if choice:
                await here.settle("one", kind={"fork": "template", "spare": "spare"}[choice])
            started = await here.start("one", "light", choice=choice)
            assert started.how.way is {"fork": Way.FORK, "spare": Way.SPARE, False: Way.COLD}[choice]
            if choice is False:
                assert started.how.reason == "warm = false in mesh.toml"
                assert here.warmth.status() == []

    asyncio.run(scenario())


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_instance_that_aborts_was_forked_for_the_last_time(stage: Stage) -> None:
    async def scenario(first: bool) -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            here.write("two", "light")
            if first:
                await here.taught("one", "light")
                await here.taught("two", "light")
                await here.settle("one", "two")
                started = await here.start("one", "light")
                assert started.how.way is Way.FORK
                os.kill(started.child.pid, signal.SIGABRT)
                await started.child.wait()
                await until(lambda: any(one.agents == ("two",) for one in here.warmth.status()))
            started = await here.start("one", "light")
            assert started.how.way in {Way.COLD, Way.SPARE}
            assert started.how.reason.startswith("an instance of it that was forked died by SIGABRT")
            if first:
                assert (await here.start("two", "light")).how.way is Way.FORK, "that says nothing about another agent"

    asyncio.run(scenario(True))
    asyncio.run(scenario(False))


def test_one_that_was_forked_and_is_not_ready_is_started_cold_next(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage, spares=0) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            await here.settle("one")
            for _ in range(warming.MOST_HANGS - 1):
                started = await here.start("one", "light")
                assert started.how.way is Way.FORK
                here.warmth.distrust(started.child.mark, "it hung")
                cold = await here.start("one", "light")
                assert cold.how.reason == "its last instance was forked and did not get ready: it hung"
                here.warmth.distrust(cold.child.mark, "it hung again")  # nothing: it was not forked
            started = await here.start("one", "light")
            here.warmth.distrust(started.child.mark, "it hung")
            for _ in range(2):
                assert (await here.start("one", "light")).how == How(Way.COLD, "it hung")
            here.warmth.settled("")
            await until(lambda: here.warmth.status() == [])

    asyncio.run(scenario())


def test_one_that_gets_ready_is_trusted_again(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage, spares=0) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            await here.settle("one")
            for _ in range(warming.MOST_HANGS + 1):
                started = await here.start("one", "light")
                here.warmth.distrust(started.child.mark, "it hung")
                await here.start("one", "light")
                good = await here.start("one", "light")
                assert good.how.way is Way.FORK
                here.warmth.settled(good.child.mark)

    asyncio.run(scenario())


def test_a_template_that_is_killed_is_made_again_and_not_for_ever(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            for _ in range(warming.MOST_DEATHS):
                await here.settle("one")
                [status] = here.warmth.status()
                os.kill(status.pid, signal.SIGKILL)
                await until(lambda pid=status.pid: not any(one.pid == pid for one in here.warmth.status()))  # type: ignore[misc]
            started = await here.start("one", "light")
            assert "its template does not live: it ended" in started.how.reason

    asyncio.run(scenario())


def test_damaged_files_count_as_nothing_learnt(stage: Stage) -> None:
    async def scenario(content: str) -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            folder = here.folder / "state" / "warm"
            folder.mkdir(parents=True, exist_ok=True)
            for file in [*folder.iterdir(), folder / "agent-one.json"]:
                file.write_text(content)
            assert (await here.start("one", "light")).how.reason == "what it imports is learnt at its first start"

    for content in ("", "[]", "nonsense", '{"python": 7}', '{"python": "x", "flags": 3, "modules": {"a": 1}}'):
        asyncio.run(scenario(content))


def test_nothing_ahead_of_need_where_memory_is_short(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            asked = asyncio.Event()

            def is_short() -> bool:
                asked.set()
                return True

            monkeypatch.setattr(warming, "is_short", is_short)
            here.install("light")
            here.write("one", "light")
            await here.taught("one", "light")
            async with asyncio.timeout(PATIENCE):
                await asked.wait()
            assert here.warmth.status() == []

    asyncio.run(scenario())


def test_a_cancelled_launch_leaves_no_process_and_its_spare_in_place(stage: Stage) -> None:
    async def scenario() -> None:
        async with mesh(stage) as here:
            here.install("light")
            here.write("one", "light")
            first = await here.taught("one", "light")
            await here.settle("one")
            for turns in range(8):
                launch = asyncio.create_task(here.start("one", "light"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                launch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await launch
                known = {one.child.pid for one in here.started} | {one.pid for one in here.warmth.status()}
                assert {one.pid for one in remains_of_owner(stage.owner)} <= known
            assert alive(first.child.pid)

    asyncio.run(scenario())
