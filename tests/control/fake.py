"""A supervisor that is none: a real control socket in front of answers that a test has prepared."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesh_supervisor.control import server
from mesh_supervisor.control.brief import AgentBrief, Brief
from mesh_supervisor.control.messages import AgentView, Answer, Snapshot
from mesh_supervisor.events import Event
from mesh_supervisor.host.lines import Line
from mesh_supervisor.locate import Place, control_socket

AT = 1_795_225_416.123  # 2026-11-21T01:43:36.123Z

VIEW = AgentView(
    name="planner",
    kind="agent",
    state="ready",
    detail="",
    pid=4242,
    port=8101,
    host="127.0.0.1",
    generation=7,
    uptime=192.4,
    restarts=1,
    cpu=0.34,
    memory=47_400_000,
    registered="yes",
    last="reloaded in 0.41 s (common/llm.py)",
    failure=None,
    rejection=None,
    retry_in=None,
    interpreter="/home/ada/demo/.venv/bin/python",
    command="agents/planner.py",
    directory="/home/ada/demo",
    watched=True,
    inputs=12,
    warnings=(),
    wanted=True,
)


def snapshot(place: Place, *views: AgentView, **changed: Any) -> Snapshot:
    whole = Snapshot(
        name="demo",
        file=str(place.file),
        state_dir=str(place.state_dir),
        pid=4000,
        version="0.1.0",
        mode="dev",
        started_at="2026-11-21T01:40:00.000Z",
        watching=True,
        registry_url="http://127.0.0.1:8000",
        registry_up=True,
        config_error=None,
        warnings=(),
        agents=views or (VIEW,),
    )
    return replace(whole, **changed)


PLANNER = AgentBrief("planner", "agent", "ready", "", wanted=True, ready=True, essential=False, given_up=False)


def brief(place: Place, *agents: AgentBrief, **changed: Any) -> Brief:
    whole = Brief(
        name="demo",
        file=str(place.file),
        state_dir=str(place.state_dir),
        pid=4000,
        version="0.1.0",
        mode="dev",
        started_at="2026-11-21T01:40:00.000Z",
        uptime=192.4,
        registry_url="http://127.0.0.1:8000",
        begun=True,
        stopping=False,
        gave_up=None,
        agents=agents or (PLANNER,),
    )
    return replace(whole, **changed)


class FakeMesh:
    """Answers as it was told to, and keeps a list of what it was asked."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.now = snapshot(place)
        self.in_brief = brief(place)
        self.later: list[Snapshot] = []  # shown one after the other, before `now`
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer | Exception] = {}
        self.past_lines: list[Line] = []
        self.coming_lines: list[Line] = []
        self.coming_events: list[Event] = []
        self.forever = False  # whether streams go on after what is coming
        self.hang = threading.Event()  # commands wait until it is set when `hanging`
        self.hanging = False
        self.left = threading.Event()  # a follower has gone

    def snapshot(self) -> Snapshot:
        return self.later.pop(0) if self.later else self.now

    def brief(self) -> Brief:
        return self.in_brief

    async def command(self, verb: str, arguments: Mapping[str, Any]) -> Answer:
        self.asked.append((verb, dict(arguments)))
        if self.hanging:
            await asyncio.to_thread(self.hang.wait)
        answer = self.answers.get(verb, Answer(ok=True))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def follow_events(self) -> AsyncIterator[Event]:
        async for event in self._stream(self.coming_events):
            yield event

    async def follow_logs(self, agents: Collection[str], lines: int) -> AsyncIterator[Line]:
        self.asked.append(("follow_logs", {"agents": list(agents), "lines": lines}))
        async for line in self._stream([*self.recent_logs(agents, lines), *self.coming_lines]):
            yield line

    def recent_logs(self, agents: Collection[str], lines: int) -> Sequence[Line]:
        wanted = [line for line in self.past_lines if not agents or line.agent in agents]
        return wanted[len(wanted) - min(lines, len(wanted)) :]

    async def _stream(self, items: Sequence[Any]) -> AsyncIterator[Any]:
        try:
            for item in items:
                yield item
            if self.forever:
                await asyncio.Event().wait()
        finally:
            self.left.set()


async def _serve(fake: FakeMesh, started: threading.Event, stops: list[Any]) -> None:
    stop = asyncio.Event()
    path = control_socket(fake.place.state_dir)
    listener = server.listen(path)
    stops.append((asyncio.get_running_loop(), stop))
    started.set()
    await server.serve(fake, listener, stop=stop)
    server.withdraw(path)
    # Turns of the loop, not time: what was accepted last is closed in the next few, and a loop that ends before warns.
    for _ in range(8):
        await asyncio.sleep(0)


@contextlib.contextmanager
def running(fake: FakeMesh) -> Iterator[FakeMesh]:
    """``fake`` behind the control socket of its place, in a thread with a loop of its own."""
    fake.place.state_dir.mkdir(parents=True, exist_ok=True)
    started, stops = threading.Event(), list[Any]()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(fake, started, stops)))
    thread.start()
    try:
        assert started.wait(60)
        yield fake
    finally:
        fake.hang.set()
        loop, stop = stops[0]
        with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
            loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()


class Ending(FakeMesh):
    """Goes down when told to, as a supervisor does: after the answer was given."""

    stop: asyncio.Event

    async def command(self, verb: str, arguments: Mapping[str, Any]) -> Answer:
        if verb == "down":
            self.stop.set()
            return Answer(ok=True, lines=("demo is down",))
        return await super().command(verb, arguments)


async def _be_a_process(root: Path) -> None:
    fake = Ending(Place(root / "mesh.toml", root, root / ".mesh"))
    fake.place.state_dir.mkdir(exist_ok=True)
    fake.stop = asyncio.Event()
    listener = server.listen(control_socket(fake.place.state_dir))
    print("ready", flush=True)
    await server.serve(fake, listener, stop=fake.stop)


if __name__ == "__main__":
    asyncio.run(_be_a_process(Path(sys.argv[1])))
