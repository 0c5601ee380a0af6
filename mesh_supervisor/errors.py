"""Everything that can go wrong and is told to people, one exit code per class.

The tree:

    MeshError              1  an operation failed
    ├── ConfigError        2  mesh.toml, or what it names, is not usable
    ├── UsageError         2  the command line is
    ├── NotRunning         3  no supervisor answers for this mesh
    ├── UnknownAgent       4  a name that the mesh does not have
    ├── WaitTimedOut     124  the wait that was asked for is over
    ├── PortTaken          1  somebody else listens there
    ├── NotReady           1  an instance did not get ready in time
    ├── RegistryError      1  the registry is unreachable or answers nonsense
    │   └── Refused        1  it answers, and does not want this one
    ├── AlreadyRunning     1  another supervisor owns this state_dir
    └── Stopping           1  the mesh has been told to stop

A message is one sentence (or one per line, for several mistakes) that names the place and a way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class MeshError(Exception):
    """An operation failed. ``str(error)`` is what people read; ``exit_code`` what the shell sees."""

    exit_code = 1


class UsageError(MeshError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class ConfigError(MeshError):
    """mesh.toml cannot be used. ``mistakes`` holds one sentence per mistake, all found at once."""

    exit_code = 2

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class NotRunning(MeshError):
    """No supervisor answers on the control socket of this mesh."""

    exit_code = 3


class UnknownAgent(MeshError):
    """A name or glob that matches no agent."""

    exit_code = 4

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(sorted(known))
        super().__init__(f"no agent is called '{name}'{suggestion(name, self.known)}")


class WaitTimedOut(MeshError):
    """The time given with ``--timeout`` is over and what was waited for has not happened."""

    exit_code = 124


class PortTaken(MeshError):
    """A port that an agent or the registry needs belongs to somebody else."""

    def __init__(self, who: str, port: int, holder: str) -> None:
        self.who, self.port, self.holder = who, port, holder
        key = "registry.port" if who == "registry" else f"agents.{who}.port"
        super().__init__(f"port {port} is already in use by {holder}; stop it or change {key} in mesh.toml")


class NotReady(MeshError):
    """The deadline for readiness is over, or it can no longer get ready. ``str(error)``: what its probe said last."""


class RegistryError(MeshError):
    """The registry does not answer, or not with what was asked for."""


class Refused(RegistryError):
    """The registry answers, and does not want this one agent; it may want others."""


class AlreadyRunning(MeshError):
    """Another supervisor holds the lock of this state_dir."""


class Stopping(MeshError):
    """The mesh has been told to stop, and begins nothing any more."""

    def __init__(self) -> None:
        super().__init__("the mesh is stopping; try again when it is down")


def suggestion(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'planner'?`` for a near miss, else the list of what there is (or nothing)."""
    import difflib  # only a mistake needs it, and `health` runs every few seconds

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not known:
        return ""
    return "; there are: " + ", ".join(known) if len(known) <= 12 else ""
