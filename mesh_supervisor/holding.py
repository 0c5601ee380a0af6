"""Agents that a person has taken over (`meshsup run`): out of the mesh's hands, and back in them afterwards.

The program in the terminal is no child of ours, and none of our instances. While it runs the agent counts as unwanted:
no save, no crash and no liveness check can start or stop anything. It gets a generation of its own, and is registered
as an instance would be. It is over when its process is, however that ends.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mesh_supervisor.control.messages import Answer
from mesh_supervisor.debugging import python_words
from mesh_supervisor.errors import MeshError, RegistryError
from mesh_supervisor.events import EventKind, event
from mesh_supervisor.host.children import Program
from mesh_supervisor.host.foreign import Foreign
from mesh_supervisor.host.instance import Enrolled
from mesh_supervisor.launcher import AgentPreparation
from mesh_supervisor.lifecycle import Event, Phase, RestartAsked, Unwanted, Wanted, Wish, phase, verdict_down
from mesh_supervisor.member import Held, Member
from mesh_supervisor.spec import AgentSpec, Kind
from mesh_supervisor.supervisor import Supervisor
from mesh_supervisor.target import Target

FIRST_LOOK, LAST_LOOK = 0.05, 1.0
"""Seconds between two looks whether it serves. It may stand in a debugger for as long as it likes."""


class Holding:
    """Takes agents out of the mesh's hands, one process each, and gives them back."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def hold(self, member: Member, pid: int, *, how: str) -> Answer:
        """Stop the agent, and say how the process ``pid`` is to start it in its place. ``how``: ``run`` and its option.

        Raises MeshError: it is held already, or cannot be started. If the process ends before the answer, it is given
        back like any other time.
        """
        preparation = self.refuse(member)
        process = Foreign(pid)
        held = member.held = Held(pid, asyncio.get_running_loop().time(), how, afterwards=_afterwards(member))
        self._supervisor.keep(self._attend(member, held, process))
        self._tell(member, EventKind.HELD, f"{by_whom(held)}: until it ends, nothing else starts or stops it", pid=pid)
        await member.task.ask(Unwanted(), verdict_down)
        if member.held is not held:
            raise MeshError(f"{member.spec.name}: given back before it was taken over")
        held.generation = self._issued(member)
        member.last = "runs in a terminal"
        program = await preparation.program(member.spec, held.generation)
        enrolled = preparation.enrolled(member.spec, held.generation)
        self._supervisor.keep(self._enrol(member, held, process, enrolled))
        return Answer(ok=True, body=await _body(preparation, member.spec, program, held.generation))

    async def preview(self, member: Member) -> Answer:
        """How it would be started, with nothing done. Raises MeshError as `hold` does."""
        preparation = self.refuse(member)
        generation = member.state.generation + 1
        # Not `program`: an edit that is on its way must still differ from what the instance was started from.
        program = await preparation.as_known(member.spec, generation)
        return Answer(ok=True, body=await _body(preparation, member.spec, program, generation))

    def refuse(self, member: Member) -> AgentPreparation:
        """Raises MeshError for one that somebody else holds, and for the registry."""
        name = member.spec.name
        if not isinstance(member.preparation, AgentPreparation):
            raise MeshError("the registry belongs to the mesh; `meshsup registry serve` runs one of its own")
        if member.held is not None:
            raise MeshError(f"{name} is {by_whom(member.held)} already; end that first")
        return member.preparation

    # ---- while it is held --------------------------------------------------------------------------------------------

    async def _attend(self, member: Member, held: Held, process: Foreign) -> None:
        try:
            await process.ended()
        finally:
            process.close()
        member.held = None
        if held.generation is not None:
            member.preparation.withdraw(member.spec, held.generation)
        seconds = asyncio.get_running_loop().time() - held.since
        text = f"given back by `meshsup {held.how}` (pid {held.pid})"
        self._tell(member, EventKind.GIVEN_BACK, text, seconds=round(seconds, 3))
        if self._supervisor.members.get(member.spec.name) is not member:
            return  # no longer in mesh.toml
        if isinstance(held.afterwards, Wanted):
            self._supervisor.want([member.spec.name])
        elif held.afterwards is not None:
            member.task.post(held.afterwards)

    async def _enrol(self, member: Member, held: Held, process: Foreign, enrolled: Enrolled | None) -> None:
        """Registered like an instance: by itself, or by us once it has its port open."""
        pause = FIRST_LOOK
        while not await self._serves(member, process, enrolled):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK)
            if member.held is not held:
                return
        if member.held is held and held.generation is not None:
            member.preparation.announce(member.spec, held.generation)
            held.serves = True
            self._supervisor.tell_dependents(member.spec.name)

    @staticmethod
    async def _serves(member: Member, process: Foreign, enrolled: Enrolled | None) -> bool:
        if enrolled is not None:
            try:
                return await enrolled() is not None
            except RegistryError:
                return False
        port = member.spec.port
        return port is None or process.listens(port)

    def _issued(self, member: Member) -> int:
        generation = member.issue_generation()
        try:
            self._supervisor.state.keep_generation(member.spec.name, generation)
        except OSError as error:  # as at every start: a full disk is no reason to have no agent
            self._supervisor.say(f"cannot write generations.json: {error.strerror}; taken over all the same")
        return generation

    def _tell(self, member: Member, kind: EventKind, text: str, **details: float) -> None:
        name = member.spec.name
        self._supervisor.say(f"{name} is {text}")
        self._supervisor.outputs.bus.publish(event(kind, text, agent=name, **details))


def by_whom(held: Held) -> str:
    return f"held by `meshsup {held.how}` (pid {held.pid})"


def _afterwards(member: Member) -> Event | None:
    """What it is told when it is given back: what ran must come back alone, what was stopped stays so."""
    state = member.state
    if state.wish is Wish.DOWN or (member.spec.kind is Kind.TASK and phase(state) is Phase.DONE):
        return None
    return RestartAsked("given back by `meshsup run`") if state.alive else Wanted()


async def _body(preparation: AgentPreparation, spec: AgentSpec, program: Program, generation: int) -> dict[str, Any]:
    """What `run` needs to start it: over a socket that is this user's alone, for the environment holds secrets."""
    found = preparation.interpreter
    target = await preparation.target(spec)
    return {
        "generation": generation,
        "argv": list(program.argv),
        "environ": dict(program.environ),
        "directory": str(program.directory),
        "python": None if found is None else str(found.python),
        "words": list(python_words(target)) if isinstance(target, Target) else [],
    }
