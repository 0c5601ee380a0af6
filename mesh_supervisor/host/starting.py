"""How the process of an instance comes to be: plainly, or with the runtime in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.guest import Guest
from mesh_supervisor.host.sockets import Held
from mesh_supervisor.host.spawn import SpawnError, spawn
from mesh_supervisor.host.warm import Warmth
from mesh_supervisor.host.warm_process import GUEST, Order
from mesh_supervisor.target import Target
from mesh_supervisor.warmth import Choice, Wanted


@dataclass(frozen=True, slots=True)
class Plainly:
    """As its command line says."""

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        return spawn(program, output=output, mark=mark)


@dataclass(frozen=True, slots=True)
class Handing:
    """With a listening socket as descriptor 3, as systemd does it: sd_listen_fds(3)."""

    held: Held

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        told = replace(program, environ={**program.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "meshsup"})
        return spawn(told, output=output, mark=mark, listen=self.held.sock.fileno())


@dataclass(frozen=True, slots=True)
class Begin:
    """What the runtime is told before the program begins. ``trace``: see runtime/trace.py; None: nothing is traced.
    ``gate``: it accepts nothing before it is told to. ``learn``: it can be asked what it has imported."""

    trace: Mapping[str, object] | None = None
    gate: bool = True
    learn: bool = False

    def fields(self, target: Target, held: list[dict[str, object]]) -> dict[str, object]:
        """Of the `start` packet."""
        return {
            "held": held,
            "gate": self.gate,
            "trace": self.trace,
            "learn": self.learn,
            "words": list(target.words),
        }


@dataclass(frozen=True, slots=True)
class Cold:
    """A fresh interpreter that runs the runtime, which runs the program."""

    target: Target
    guest: Guest
    begin: Begin

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        channel, target = self.guest.channel, self.target
        held, descriptors = self.guest.offer()
        try:
            channel.send("start", descriptors, **self.begin.fields(target, held))
        except ValueError as error:
            raise SpawnError(f"cannot start {target.name}: what its runtime is to be told is too long") from error
        own = (str(GUEST), str(channel.theirs), target.kind, target.name, *target.args)
        dressed = replace(program, argv=(target.python, *target.flags, *own))
        child = spawn(dressed, output=output, mark=mark, pass_fds=(channel.theirs,))
        channel.release_theirs()
        return child


@dataclass(frozen=True, slots=True)
class Warmly:
    """From a warm process, or else by ``cold``. ``choice``: ``warm`` of mesh.toml; ``imports``: the packages that the
    agent's own code imports, by its source; ``told``: what belongs to its environment only if it starts warm."""

    warmth: Warmth
    agent: str
    choice: Choice
    imports: frozenset[str]
    cold: Cold
    told: Mapping[str, str] = field(default_factory=dict)

    def wanted(self, program: Program) -> Wanted:
        """``program`` as it would be started cold."""
        return wanted_by(self.agent, self.choice, self.imports, self.cold.target, program, self.told)

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        target, guest = self.cold.target, self.cold.guest
        held, descriptors = guest.offer()
        wanted = self.wanted(program)
        with _kept(descriptors, guest) as kept:
            order = Order(
                mark=mark,
                program=replace(program, environ=wanted.environ),
                kind=target.kind,
                name=target.name,
                args=target.args,
                start=self.cold.begin.fields(target, held),
                output=output,
                channel=guest.channel.theirs,
                held=kept,
            )
            child = await self.warmth.launch(wanted, order)
        if child is None:
            return await self.cold(program, output=output, mark=mark)
        guest.channel.release_theirs()
        return child


@contextmanager
def _kept(descriptors: Iterable[int], guest: Guest) -> Iterator[tuple[int, ...]]:
    """Copies: until its template has imported everything, what it is to take over may be closed, and the numbers be
    those of something else. Raises OSError."""
    copies: list[int] = []
    try:
        copies.extend(map(os.dup, descriptors))
        yield tuple(copies)
    finally:
        guest.channel.closing.take(copies)


def wanted_by(
    agent: str, choice: Choice, imports: frozenset[str], target: Target, program: Program, told: Mapping[str, str]
) -> Wanted:
    where, environ = str(program.directory), {**program.environ, **told}
    return Wanted(agent, choice, target.python, target.flags, environ, where, imports)
