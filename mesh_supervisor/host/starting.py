"""How the process of an instance comes to be: plainly, or with the runtime in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.guest import Guest
from mesh_supervisor.host.sockets import Held
from mesh_supervisor.host.spawn import spawn
from mesh_supervisor.target import Target

RUNTIME = str(Path(__file__).parent.parent / "runtime" / "__main__.py")


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


@dataclass(frozen=True, slots=True)
class Cold:
    """A fresh interpreter that runs the runtime, which runs the program."""

    target: Target
    guest: Guest
    begin: Begin

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        channel, target = self.guest.channel, self.target
        held, descriptors = self.guest.offer()
        channel.send(
            "start",
            descriptors,
            held=held,
            gate=self.begin.gate,
            trace=self.begin.trace,
            learn=self.begin.learn,
            words=list(target.words),
        )
        own = (RUNTIME, str(channel.theirs), target.kind, target.name, *target.args)
        dressed = replace(program, argv=(target.python, *target.flags, *own))
        child = spawn(dressed, output=output, mark=mark, pass_fds=(channel.theirs,))
        channel.release_theirs()
        return child
