"""PURE. What was seen of a mesh's surroundings → what is wrong with them, and what helps (`meshsup doctor`).

host/surroundings.py looks; nothing is decided there, and nothing is looked at here. Sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mesh_supervisor.limits import Limitation
from mesh_supervisor.wording import counted

OLDEST_PYTHON = (3, 10)
"""What the runtime needs in an agent's interpreter."""

SPARE_WATCHES = 1.25
"""Times as many watches as there are folders: a project grows, and editors watch it too."""

FILES_PER_AGENT, OWN_FILES = 8, 128
"""Descriptors of the supervisor: pipe, pidfd, channel, held sockets and clients of each agent; and its own."""

LITTLE_SPACE = 256 * 1024 * 1024

Group = Literal["mesh.toml", "agents", "interpreters", "ports", "watching", "state_dir", "system"]
GROUPS: tuple[Group, ...] = ("mesh.toml", "agents", "interpreters", "ports", "watching", "state_dir", "system")


@dataclass(frozen=True, slots=True)
class Finding:
    """``wrong`` False: as good as it gets, or a matter of taste; worth knowing, and no failure. ``subject``: whose it
    is; "" the group as a whole."""

    group: Group
    subject: str
    text: str
    cure: str = ""
    wrong: bool = True


# ---- what was seen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentSeen:
    """``needs_uv``: its command starts with uv, which is not in PATH. ``lock_file``: one without a .venv beside it."""

    name: str
    limits: tuple[Limitation, ...] = ()
    failure: str = ""
    needs_uv: bool = False
    lock_file: Path | None = None


@dataclass(frozen=True, slots=True)
class InterpreterSeen:
    """``version`` None: it does not run, ``error`` says why. ``runtime``: an agent of it is to have the runtime."""

    python: Path
    agents: tuple[str, ...]
    version: tuple[int, int] | None = None
    implementation: str = "cpython"
    error: str = ""
    runtime: bool = True


@dataclass(frozen=True, slots=True)
class PortSeen:
    """A port that is promised to ``agent``, which does not run, and that somebody else has."""

    agent: str
    port: int
    holder: str


@dataclass(frozen=True, slots=True)
class Inotify:
    """Limits of this user, and what is in use; None: not known here. ``needed``: folders that the mesh watches."""

    watches: int | None = None
    watches_used: int = 0
    instances: int | None = None
    instances_used: int = 0
    needed: int = 0


@dataclass(frozen=True, slots=True)
class StateDirSeen:
    path: Path
    there: bool = True
    mode: int = 0o700
    writable: bool = True
    ours: bool = True
    free: int | None = None
    socket: Path | None = None  # where the control socket is instead


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything. ``mistakes`` of mesh.toml; ``running``: a supervisor answers. ``polls``: why it does not use inotify.
    ``lossy``: root -> type of its file system, where events get lost. ``container``, ``wsl``: where all this runs."""

    mistakes: tuple[str, ...] = ()
    not_applied: str = ""
    running: bool = False
    watching: bool = True
    agents: tuple[AgentSeen, ...] = ()
    interpreters: tuple[InterpreterSeen, ...] = ()
    ports: tuple[PortSeen, ...] = ()
    inotify: Inotify = field(default_factory=Inotify)
    polls: str = ""
    lossy: tuple[tuple[Path, str], ...] = ()
    state_dir: StateDirSeen | None = None
    open_files: tuple[int, int] = (1024, 1024 * 1024)  # soft, hard
    container: bool = False
    wsl: bool = False
    missing: str = ""  # what this system cannot tell


# ---- what it means ---------------------------------------------------------------------------------------------------


def diagnose(seen: Seen) -> list[Finding]:
    """In the order of GROUPS; those that are wrong first in each."""
    found = [*_mesh_toml(seen), *_agents(seen), *_interpreters(seen), *_ports(seen)]
    found += [*_watching(seen), *_state_dir(seen.state_dir, seen.container), *_system(seen)]
    return sorted(found, key=lambda one: (GROUPS.index(one.group), not one.wrong))


def _mesh_toml(seen: Seen) -> Iterator[Finding]:
    for mistake in seen.mistakes:
        yield Finding("mesh.toml", "", mistake.removeprefix("mesh.toml: "))
    if seen.not_applied and not seen.mistakes:
        yield Finding("mesh.toml", "", "is valid, but not what runs", "`meshsup apply`")


def _agents(seen: Seen) -> Iterator[Finding]:
    for agent in seen.agents:
        if agent.failure:
            yield Finding("agents", agent.name, agent.failure, f"`meshsup logs {agent.name}`")
        if agent.needs_uv:
            cure = "install uv (https://docs.astral.sh/uv), or name the program of the .venv itself"
            yield Finding("agents", agent.name, "its command starts with uv, which is not in PATH", cure)
        if agent.lock_file is not None:
            yield _without_environment(agent.name, agent.lock_file)
        for limit in agent.limits:
            yield Finding("agents", agent.name, f"{limit.effect}: {limit.why}", limit.cure, wrong=False)


SYNC = {"uv.lock": "uv sync", "poetry.lock": "poetry install", "pdm.lock": "pdm install", "Pipfile.lock": "pipenv sync"}


def _without_environment(agent: str, lock: Path) -> Finding:
    command = SYNC.get(lock.name, "python -m venv .venv, and install what it names")
    return Finding("agents", agent, f"{lock} is there, but no .venv beside it", f"`{command}` in {lock.parent}")


def _interpreters(seen: Seen) -> Iterator[Finding]:
    for one in seen.interpreters:
        whose = f"{one.python} ({', '.join(one.agents)})"
        plainly = "its agents run plainly (stop-first, cold, inputs by import only)"
        if one.version is None:
            yield Finding("interpreters", whose, one.error or "does not run", "make the environment again")
        elif one.implementation != "cpython" and one.runtime:
            text = f"is {one.implementation}: {plainly}"
            yield Finding("interpreters", whose, text, "CPython 3.10 or newer", wrong=False)
        elif one.version < OLDEST_PYTHON and one.runtime:
            text = f"is Python {one.version[0]}.{one.version[1]}: {plainly}"
            yield Finding("interpreters", whose, text, "Python 3.10 or newer", wrong=False)


def _ports(seen: Seen) -> Iterator[Finding]:
    for one in seen.ports:
        key = "registry.port" if one.agent == "registry" else f"agents.{one.agent}.port"
        cure = f"stop it, or change {key}"
        yield Finding("ports", one.agent, f"port {one.port} is in use by {one.holder}", cure)


def _watching(seen: Seen) -> Iterator[Finding]:
    if not seen.watching:
        return
    for root, kind in seen.lossy:
        text = f"lies on {kind}, where events get lost: files are looked at every 0.5 s instead"
        yield Finding("watching", str(root), text, _nearer(seen, kind), wrong=False)
    if seen.polls and not seen.lossy:
        yield Finding("watching", "", f"inotify is not used: {seen.polls}", _more_watches(seen))
    elif not seen.polls:
        yield from _inotify(seen)


def _inotify(seen: Seen) -> Iterator[Finding]:
    limits = seen.inotify
    wanted = 0 if seen.running else limits.needed  # what runs has its watches already
    if limits.watches is not None and limits.watches_used + wanted > limits.watches:
        text = (
            f"inotify: {limits.watches:,} watches are allowed, {limits.watches_used:,} are in use and "
            f"{limits.needed:,} needed; files would be looked at every 0.5 s instead"
        )
        yield Finding("watching", "", text, _more_watches(seen))
    if limits.instances is not None and limits.instances_used + (not seen.running) > limits.instances:
        text = f"inotify: all {limits.instances:,} instances of this user are in use"
        yield Finding("watching", "", text, f"close editors and watchers, or {_sysctl(seen, 'instances', 1024)}")


def _more_watches(seen: Seen) -> str:
    limits = seen.inotify
    least = int((limits.watches_used + limits.needed) * SPARE_WATCHES)
    enough = next((count for count in (65_536, 131_072, 262_144, 524_288) if count >= least), 1_048_576)
    return f"{_sysctl(seen, 'watches', enough)}; or leave folders out with watch.ignore"


def _sysctl(seen: Seen, what: str, count: int) -> str:
    where = " on the host of this container" if seen.container else ""
    return f"`sudo sysctl fs.inotify.max_user_{what}={count}`{where} (to stay: in /etc/sysctl.d/)"


def _nearer(seen: Seen, kind: str) -> str:
    if seen.wsl and kind in ("9p", "drvfs"):
        return "keep the project in the Linux file system (~/…), not below /mnt"
    if seen.container:
        return "copy the sources into the container, or a volume of its own"
    return "keep the project on a local disk"


def _state_dir(seen: StateDirSeen | None, in_container: bool) -> Iterator[Finding]:
    if seen is None:
        return
    name = str(seen.path)
    others = 0o007 if in_container else 0o077  # its group is what the engine gave to this container alone (fsGroup)
    if not seen.writable:
        text = "cannot be written to" if seen.there else "cannot be made"
        yield Finding("state_dir", name, text, "make it writable, or name another folder in mesh.state_dir")
    elif seen.there and not seen.ours:
        yield Finding("state_dir", name, "belongs to another user", f"`sudo chown -R $USER {name}`, or another folder")
    elif seen.there and seen.mode & others:
        text = f"is open to others (mode {seen.mode:04o}); logs and the control socket are in it"
        yield Finding("state_dir", name, text, f"`chmod 700 {name}`")
    if seen.free is not None and seen.free < LITTLE_SPACE:
        text = f"{seen.free // 2**20} MiB are left on its disk; logs and events stop when it is full"
        yield Finding("state_dir", name, text, "free some space")
    if seen.socket is not None:
        text = f"its control socket is at {seen.socket}: its path is too long, or its file system has no sockets"
        yield Finding(
            "state_dir", name, text, "another mesh.state_dir, if another container is to reach it", wrong=False
        )


def _system(seen: Seen) -> Iterator[Finding]:
    soft, hard = seen.open_files
    needed = OWN_FILES + FILES_PER_AGENT * len(seen.agents)
    if hard < needed:
        text = f"{counted(len(seen.agents), 'agent')} need about {needed} open files, the limit is {hard}"
        yield Finding("system", "", text, "raise it: `ulimit -Hn`, or LimitNOFILE= of the service")
    if seen.missing:
        yield Finding("system", "", seen.missing)
    # The soft limit is raised by us for ourselves; agents get it as it is.
    if soft < 256:
        yield Finding("system", "", f"agents may open {soft} files only", "`ulimit -n 1024` in this shell")


def summary(found: Sequence[Finding], seen: Seen) -> str:
    """The last line: what is wrong in one clause, or what was looked at."""
    wrong = sum(one.wrong for one in found)
    if wrong:
        return f"{counted(wrong, 'problem')} found"
    looked = [counted(len(seen.agents), "agent"), counted(len(seen.interpreters), "interpreter")]
    return f"nothing is wrong: {', '.join(looked)}, ports, watching, state_dir, limits"
