"""PURE. A mesh → one systemd unit: `meshsup up` under a manager that starts it at boot, again after a failure, and in a
sandbox.

How systemd reads a line differs from key to key: some take the rest of the line as it is, some split it into words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from mesh_supervisor.spec import CommandLine, MeshSpec
from mesh_supervisor.wording import counted, one_line

WIDTH = 118
STOP_SLACK = 15
"""Seconds between our own limit for a stop and the one after which systemd kills."""

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
PRIVILEGED = 1024
"""Ports below it need a capability."""

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where systemd looks for programs if nobody says otherwise."""

INSTALLERS = ("uv", "uvx", "npx")


class CannotSay(ValueError):
    """A path that a unit file has no way to write. ``str(error)`` is a sentence."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on it. ``command``: how `meshsup` is run. ``kill``: the program; None: only shells have it.
    ``user``: whose mesh.toml it is; ``group``: its group, None: it has no passwd entry. ``places``: what must be
    readable besides (interpreters, sources outside, and where links on the way to them lead). ``written``: where agents
    were seen to write, without links; ``closed``: where they were too, and stay read-only. ``path``: folders of
    programs beyond ``SYSTEM_PATH``. ``virtual_env``, ``state_home``: what the shell says under these names and matters.
    ``short_socket``: the control socket is in /tmp. ``variables``: what mesh.toml takes from the environment, and
    whether it must be set."""

    command: tuple[str, ...]
    kill: Path | None
    user: str
    group: int | None = None
    places: tuple[Path, ...] = ()
    written: tuple[Path, ...] = ()
    closed: tuple[Path, ...] = ()
    path: tuple[Path, ...] = ()
    virtual_env: Path | None = None
    state_home: str = ""
    short_socket: bool = False
    variables: Mapping[str, bool] = field(default_factory=dict)

    @property
    def as_root(self) -> bool:
        return self.user in ("", "0", "root")


@dataclass(frozen=True, slots=True)
class Unit:
    """``warnings``: a sentence each, without its end. ``name``: as the file should be called."""

    name: str
    text: str
    warnings: tuple[str, ...]


def unit(mesh: MeshSpec, machine: Machine) -> Unit:
    """``mesh`` in prod mode. Raises CannotSay."""
    name = f"mesh-{mesh.name}"
    parts = (_head(name), _unit(mesh), _service(mesh, machine, name), _install())
    text = "\n".join("".join(f"{line}\n" for line in part) for part in parts)
    return Unit(f"{name}.service", text, tuple(_warnings(mesh, machine, name)))


# ---- sections --------------------------------------------------------------------------------------------------------


def _head(name: str) -> Iterator[str]:
    yield "#"
    yield f"#   sudo cp {name}.service /etc/systemd/system/ && sudo systemctl enable --now {name}"
    yield f"#   journalctl -fu {name}; `systemctl reload {name}` applies mesh.toml; `meshsup ps` works as always"


def _unit(mesh: MeshSpec) -> Iterator[str]:
    yield "[Unit]"
    yield f"Description=Mesh {mesh.name}: {counted(len(mesh.agents), 'agent')}"
    yield "Wants=network-online.target"
    yield "After=network-online.target"


def _install() -> Iterator[str]:
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _service(mesh: MeshSpec, machine: Machine, name: str) -> Iterator[str]:
    yield "[Service]"
    yield from _program(mesh, machine)
    yield ""
    yield from _environment(machine, name)
    yield ""
    yield from _ends(mesh)
    yield ""
    yield from _sandbox(mesh, machine)
    yield ""
    yield from _files(mesh, machine, name)


def _program(mesh: MeshSpec, machine: Machine) -> Iterator[str]:
    yield from _comment(
        "READY=1 is sent when nothing that is wanted is on its way any more; until then the time for it is extended. "
        "From systemd 253 on `Type=notify-reload` does without ExecReload, and `systemctl reload` waits for its end."
    )
    yield "Type=notify"
    program, *words = machine.command
    line = (word(program, program=True), *map(word, words), "-f", word(mesh.file), "up", "--prod")
    yield f"ExecStart={' '.join(line)}"
    yield f"ExecReload={_reload(machine.kill)}"
    yield f"WorkingDirectory={rest_of_line(mesh.root)}"
    if machine.as_root:
        yield from _comment(
            "mesh.toml belongs to root, and so would its agents. They need no root: give its folder to another user."
        )
        yield "#User="
    else:
        yield f"User={machine.user}"


def _reload(kill: Path | None) -> str:
    return '/bin/sh -c "kill -HUP $$MAINPID"' if kill is None else f"{word(kill, program=True)} -HUP $MAINPID"


def _environment(machine: Machine, name: str) -> Iterator[str]:
    taken = ", ".join(machine.variables)
    wants = f"mesh.toml takes from the environment: {taken}." if taken else "Your shell's environment is not here."
    yield from _comment(f"{wants} What agents need of it stands in this file, for root to read, as NAME=value.")
    yield f"EnvironmentFile=-{env_file_of(name)}"
    if machine.path:
        yield f"Environment={setting('PATH', ':'.join((*map(str, machine.path), *SYSTEM_PATH)))}"
    if machine.virtual_env is not None:
        yield f"Environment={setting('VIRTUAL_ENV', str(machine.virtual_env))}"
    if machine.state_home:
        yield f"Environment={setting('MESHSUP_STATE_HOME', machine.state_home)}"


def env_file_of(name: str) -> str:
    return f"/etc/meshsup/{name}.env"


def _ends(mesh: MeshSpec) -> Iterator[str]:
    yield from _comment("It exits with 1 when an essential agent was given up, with 2 when mesh.toml is wrong.")
    yield "Restart=on-failure"
    yield "RestartSec=5"
    yield "RestartPreventExitStatus=2"
    yield from _comment("A sign of life comes twice in this time, from the loop that does all the work.")
    yield "WatchdogSec=30"
    yield from _comment("SIGTERM to meshsup, which stops its agents in order; SIGKILL to whatever is left afterwards.")
    yield "KillMode=mixed"
    yield f"TimeoutStopSec={ceil(mesh.stop_timeout) + STOP_SLACK}"
    yield from _comment("An agent that runs out of memory is started again; the others go on.")
    yield "OOMPolicy=continue"


# ---- the sandbox -----------------------------------------------------------------------------------------------------


KERNEL = """\
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
"""


def _sandbox(mesh: MeshSpec, machine: Machine) -> Iterator[str]:
    yield from _comment(
        "What it may do. Add where no agent needs the opposite: PrivateDevices=yes (a GPU), MemoryDenyWriteExecute=yes "
        "(JavaScript, PyTorch, numba). Take away where one does: RestrictNamespaces (a browser with its own sandbox)."
    )
    yield "NoNewPrivileges=yes"
    ports = sorted(spec.port for spec in mesh.agents.values() if spec.port and spec.port < PRIVILEGED)
    if ports:
        yield from _comment(f"To listen on {', '.join(map(str, ports))}.")
        yield "AmbientCapabilities=CAP_NET_BIND_SERVICE"
    yield f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if ports else ''}"
    # Of root it would take the message queues of everybody.
    yield from (line for line in KERNEL.splitlines() if not (machine.as_root and line.startswith("RemoveIPC")))


def _files(mesh: MeshSpec, machine: Machine, name: str) -> Iterator[str]:
    yield from _comment(
        "Everything is read-only but the state of the mesh, where each agent has a folder of its own "
        "(MESHSUP_STATE_DIR), a cache (XDG_CACHE_HOME), and /tmp. What else agents write needs a ReadWritePaths= too."
    )
    needed = list(_needed(mesh, machine))
    yield "ProtectSystem=strict"
    yield f"ProtectHome={'read-only' if _is_in(needed, HOMES) else 'yes'}"
    yield from _temporary(machine, needed)
    # What is bound into the sandbox must be there before. `+` runs outside of it, but not without these binds: hence
    # the `-`, for what is not there yet. As the user all the same: root would follow links that the user has put there.
    yield f"ExecStartPre=+{' '.join((*_as_user(machine), '/usr/bin/install -d -m 0700', word(mesh.state_dir)))}"
    yield f"ReadWritePaths=-{path_word(mesh.state_dir)}"
    yield from (f"ReadWritePaths=-{path_word(path)}" for path in machine.written if _can_say(path))
    yield f"CacheDirectory={name}"
    yield f"Environment=XDG_CACHE_HOME=%C/{name}"


def _as_user(machine: Machine) -> Iterator[str]:
    if machine.as_root:
        return
    yield f"/usr/bin/setpriv --reuid={machine.user}"
    # With all its groups, since it may come to its mesh only through one of them.
    yield "--regid=65534 --clear-groups" if machine.group is None else f"--regid={machine.group} --init-groups"


def _can_say(path: Path) -> bool:
    try:
        path_word(path)
    except CannotSay:
        return False
    return True


def _needed(mesh: MeshSpec, machine: Machine) -> Iterator[Path]:
    yield from (mesh.root, mesh.state_dir, Path(machine.command[0]))
    yield from (*machine.places, *machine.written, *machine.path)
    if machine.virtual_env is not None:
        yield machine.virtual_env


def _is_in(paths: Iterable[Path], folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for path in paths for folder in folders)


def _temporary(machine: Machine, needed: Iterable[Path]) -> Iterator[str]:
    if not machine.short_socket and not _is_in(needed, TEMPORARY):
        yield "PrivateTmp=yes"
        return
    if machine.short_socket:
        yield from _comment("The path of state_dir is too long for a socket: that is in /tmp, where `ps` finds it.")
    else:
        yield from _comment("Some of what is needed is in there.")
    yield "PrivateTmp=no"
    yield "ReadWritePaths=/tmp /var/tmp"


# ---- warnings --------------------------------------------------------------------------------------------------------


def _warnings(mesh: MeshSpec, machine: Machine, name: str) -> Iterator[str]:
    if machine.as_root:
        yield "mesh.toml belongs to root, so the unit names no user and its agents would run as root"
    elif machine.group is None:
        yield (
            f"mesh.toml belongs to user {machine.user}, who has no passwd entry, and systemd starts nothing as such a "
            "user: make one (useradd), or give the folder to another"
        )
    missing = [variable for variable, needed in machine.variables.items() if needed]
    if missing:
        yield f"mesh.toml needs {', '.join(missing)} from the environment: write them into {env_file_of(name)}"
    if not machine.written:
        yield "agents may write below state_dir and /tmp; for what else they write, add ReadWritePaths= to the unit"
    if machine.closed:
        yield (
            f"agents were seen to write into {_some(machine.closed)}: read-only for the unit, since code or "
            "configuration lies there, or a program starts there of which nothing is known; have them write elsewhere, "
            "or add ReadWritePaths="
        )
    if unsaid := [path for path in machine.written if not _can_say(path)]:
        yield (
            f"agents were seen to write into {_some(unsaid)}: read-only for the unit, since a unit file has no way to "
            "write this path"
        )
    for spec in mesh.agents.values():
        if isinstance(spec.command, CommandLine) and spec.command.argv[0] in INSTALLERS:
            installer = spec.command.argv[0]
            yield f"{spec.name}: {installer} would install into folders that are read-only for the unit; install before"


def _some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(one_line(str(path)) for path in paths[:3]) + more


# ---- words -----------------------------------------------------------------------------------------------------------


def word(value: Path | str, *, program: bool = False) -> str:
    """A word of a command line. ``program``: its first, in which no variable is looked for."""
    text = _said(str(value)).replace("%", "%%")
    if not program:
        text = text.replace("$", "$$")
    if _is_plain(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def path_word(path: Path) -> str:
    """A path in a list of paths: quoted, but nothing in it escaped. Raises CannotSay for one with both quotes."""
    text = _said(str(path)).replace("%", "%%")
    if _is_plain(text):
        return text
    quote = next((quote for quote in "\"'" if quote not in text), None)
    if quote is None or text.endswith("\\"):
        raise CannotSay(f"{path}: a unit file has no way to write this path; use another folder")
    return f"{quote}{text}{quote}"


def rest_of_line(path: Path) -> str:
    """A path that takes the rest of its line as it is."""
    text = _said(str(path)).replace("%", "%%")
    if text != text.strip() or text.endswith("\\"):
        raise CannotSay(f"{path}: a unit file has no way to write this path; use another folder")
    return text


def setting(name: str, value: str) -> str:
    """A word of Environment=."""
    text = _said(value).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}={text}"'


def _said(text: str) -> str:
    if not text.isprintable():
        raise CannotSay(f"{one_line(text)}: a unit file has no way to write this path; use another folder")
    return text


def _is_plain(text: str) -> bool:
    return bool(text) and not set(text) & set(" \t\"'\\;")


def _comment(text: str) -> list[str]:
    wrapped = textwrap.wrap(one_line(text), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]
