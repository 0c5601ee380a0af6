"""A container without an engine: ``meshsup`` as PID 1 of a PID namespace of its own, made by util-linux's ``unshare``.

``with boxed(mesh) as box`` starts ``meshsup up`` there and ends with the namespace, whatever happens in between: when
its PID 1 ends, the kernel kills the rest. Network and folders are those of the test, so that ``mesh.port``,
``mesh.snapshot()`` and ``mesh.answer()`` work as they do without a box; pids that a mesh tells of are those inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.host import procfs
from tests.e2e.harness import MESHSUP, REPOSITORY, Finished, Foreground, Mesh, wait_for

TOOLS = ("unshare", "nsenter", "setpriv", "setsid", "mount")
OWN_USERS = () if os.geteuid() == 0 else ("--map-root-user",)
UNSHARE = ("unshare", "--pid", "--fork", "--mount", "--kill-child", *OWN_USERS)

INIT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(15, {name}.encode())  # PR_SET_NAME
child = os.fork()
if child == 0:
    os.setsid()
    os.execvp(sys.argv[1], sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(child, number))
while True:
    ended, status = os.wait()
    if ended == child:
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
"""
"""What ``docker run --init`` puts in front: it hands signals on, reaps, and ends as its child does. ``name``: what the
kernel calls it."""

READ_ONLY = """
while read -r _ _ _ _ point _; do
    case $point in {left_alone}) ;; *) mount -o remount,bind,ro "$point" ;; esac
done < /proc/self/mountinfo
"""


@cache
def why_not() -> str:
    """Why there can be no such box here; "" when there can."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if sys.platform != "linux" or missing:
        return f"PID namespaces need Linux and util-linux; missing: {', '.join(missing) or sys.platform}"
    done = subprocess.run([*UNSHARE, "--mount-proc", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"PID namespaces are not allowed here: {done.stderr.strip()}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How the container is. The defaults are those of an engine: root, everything writable, stdin is /dev/null.

    ``read_only``: every file system but ``writable`` (``--read-only``). ``writable``: folders that hold a fresh tmpfs
    that anybody may write to (``--tmpfs``); they are made where there are none. ``user``: uid and gid, which no passwd
    file knows, and HOME is not set. ``capabilities`` False: none, and none to be gained. ``init``: a process of
    this name is PID 1 and meshsup its child. ``stdin`` False: closed. ``proc``: "own"; "none", an empty folder;
    "other", the one of the namespace outside, whose pids mean nothing inside. ``prepare``: command lines that are run
    as root inside, before all that. ``environ``: of the command; None takes a name away.
    """

    read_only: bool = False
    writable: tuple[Path, ...] = ()
    user: int | None = None
    capabilities: bool = True
    init: str = ""
    stdin: bool = True
    proc: str = "own"
    prepare: tuple[tuple[str, ...], ...] = ()
    environ: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def as_somebody(self) -> list[str]:
        """The wrapper that gives away what this one does not have."""
        words = ["setpriv"]
        if self.user is not None:
            words += ["--reuid", str(self.user), "--regid", str(self.user), "--clear-groups"]
        if not self.capabilities or self.user is not None:
            words += ["--inh-caps=-all", "--ambient-caps=-all"]
        if not self.capabilities:
            words += ["--bounding-set=-all", "--no-new-privs"]
        return words if len(words) > 1 else []


class Box(Foreground):
    """One such container. ``pid`` is that of ``unshare``, ``first`` that of its PID 1, both as seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path, around: Surroundings) -> None:
        super().__init__(process, output)
        self._errors, self._around = errors, around
        self._first = wait_for(lambda: procfs.children(process.pid) or self.ended)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def first(self) -> int:
        assert isinstance(self._first, list), f"it has ended with {self.process.returncode}: {self.errors()}"
        return self._first[0]

    def errors(self) -> str:
        """Its stderr."""
        return self._errors.read_text(errors="replace")

    def log(self) -> list[dict[str, Any]]:
        """Its stdout, where every line is one JSON object; the last one only when it is complete."""
        lines = self.output().splitlines(keepends=True)
        return [_object(line) for line in lines if line.endswith("\n")]

    def says(self, text: str, agent: str | None = None) -> bool:
        """Whether a line of the log holds it, of ``agent`` or of anybody."""
        return any(text in str(line.get("text")) for line in self.log() if agent in (None, line["agent"]))

    def wait_says(self, text: str, agent: str | None = None) -> None:
        wait_for(lambda: self.says(text, agent))

    def signal(self, number: signal.Signals) -> None:
        """To PID 1, as an engine does it."""
        os.kill(self.first, number)

    def path(self, inside: Path) -> Path:
        """The same file as seen from outside, where the box has a file system of its own there."""
        return Path(f"/proc/{self.first}/root") / inside.relative_to("/")

    def processes(self) -> list[procfs.Process]:
        """Everything inside but PID 1, zombies too; pids are those outside."""
        return list(procfs.descendants(self.first))

    def zombies(self) -> list[procfs.Process]:
        return [one for one in self.processes() if one.over]

    def outside(self, pid: int | None) -> int:
        """The pid by which a process inside is known outside. AssertionError: there is none."""
        for process in (self.first, *(one.pid for one in self.processes())):
            if _pid_inside(process) == pid:
                return process
        raise AssertionError(f"no process inside has pid {pid}")

    def command(self, *words: str) -> list[str]:
        """What to run outside for ``words`` inside, as the same user: ``docker exec``."""
        own_users = [] if os.geteuid() == 0 else ["--user"]
        return [
            *("nsenter", "--target", str(self.first), *own_users, "--pid", "--mount", "--wd", "setsid", "--wait"),
            *self._around.as_somebody,
            *words,
        ]

    def run(self, mesh: Mesh, *words: str, timeout: float = 60.0) -> Finished:
        """One ``meshsup`` command inside, to its end: ``docker exec CONTAINER meshsup …``."""
        done = subprocess.run(
            self.command(str(MESHSUP), *words),
            env=_environ(mesh, self._around),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        """Kill PID 1, and with it the rest; returns when nothing is left."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.first, signal.SIGKILL)
            self.process.wait(10)


@contextlib.contextmanager
def boxed(mesh: Mesh, *words: str, around: Surroundings = Surroundings(), ready: bool = True) -> Iterator[Box]:
    """``meshsup WORDS`` (none: ``up``) in a box, with all agents ``ready``. Skips the test where there can be none.

    A ``state_dir`` of the mesh that lies in ``around.writable`` is looked at through the box from then on.
    """
    if why_not():
        pytest.skip(why_not())
    script = _script(mesh, around, [str(MESHSUP), *(words or ("up",))])
    for folder in around.writable:
        folder.mkdir(parents=True, exist_ok=True)
    number = len(list(mesh.root.glob("box-*.out")))
    output, errors = (mesh.root / f"box-{number}.{stream}" for stream in ("out", "err"))
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [*UNSHARE, *(["--mount-proc"] if around.proc == "own" else []), "sh", "-ec", script],
            cwd=mesh.root,
            env=_environ(mesh, around),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    box = None
    own_state_dir = mesh.state_dir
    try:
        box = Box(process, output, errors, around)
        if any(own_state_dir.is_relative_to(folder) for folder in around.writable):
            mesh.state_dir = box.path(own_state_dir)
        if ready:
            mesh.wait_ready()
        yield box
    finally:
        print(f"---- {output.name}\n{output.read_text(errors='replace')[-6000:]}")
        print(f"---- {errors.name}\n{errors.read_text(errors='replace')[-4000:]}")
        mesh.state_dir = own_state_dir
        if box is not None:
            box.close()
        process.kill()
        process.wait(10)


def _script(mesh: Mesh, around: Surroundings, command: Sequence[str]) -> str:
    """What `sh -e` runs as PID 1, until it becomes the command. Skips the test for what only root can have."""
    lines = [shlex.join(words) for words in around.prepare]
    if around.user is not None or around.read_only:
        if os.geteuid() != 0:
            pytest.skip("other users and read-only mounts need root")
        lines += _opened(mesh) if around.user is not None else []
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {shlex.quote(str(folder))}" for folder in around.writable]
    if around.read_only:
        left_alone = [shlex.quote(str(point)) for point in around.writable]
        lines.append(READ_ONLY.format(left_alone="|".join(["/proc", *left_alone])))
    if around.proc == "none":
        lines.append("mount -t tmpfs -o mode=555,size=4k tmpfs /proc")
    lines.append(f"cd {shlex.quote(str(mesh.root))}")
    words = ["exec", "setsid", *around.as_somebody]
    words += [sys.executable, "-ISc", INIT.format(name=repr(around.init))] if around.init else []
    return "\n".join([*lines, shlex.join([*words, *command]) + ("" if around.stdin else " <&-")])


def _opened(mesh: Mesh) -> list[str]:
    """Lines that let anybody reach the interpreter, this repository and the mesh, and nothing else of what is closed to
    others: a folder like /root is replaced, inside, by one in which only the ways to them exist."""
    mesh.root.chmod(0o755)
    needed = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, REPOSITORY, mesh.root)}
    closed: dict[Path, list[Path]] = {}
    for place in sorted(needed):
        if not _open_to_all(place):
            pytest.skip(f"{place} is not readable for other users")
        for folder in reversed(place.parents):
            if not _open_to_all(folder):
                closed.setdefault(folder, []).append(place)
                break
    lines: list[str] = []
    for folder, places in closed.items():
        if mesh.root.is_relative_to(folder):
            pytest.skip(f"{folder}, around the mesh, is not readable for other users")
        aside = mesh.root / f"aside{len(lines)}"
        aside.mkdir(exist_ok=True)
        lines += [shlex.join(["mount", "--rbind", str(folder), str(aside)])]
        lines += [shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder)])]
        for place in places:
            lines += [shlex.join(["mkdir", "-p", str(place)])]
            lines += [shlex.join(["mount", "--rbind", str(aside / place.relative_to(folder)), str(place)])]
        lines += [shlex.join(["umount", "-l", str(aside)])]
    return lines


def _open_to_all(folder: Path) -> bool:
    return folder.stat().st_mode & (stat.S_IROTH | stat.S_IXOTH) == stat.S_IROTH | stat.S_IXOTH


def _environ(mesh: Mesh, around: Surroundings) -> dict[str, str]:
    changes = {"HOME": None, **around.environ} if around.user is not None else around.environ
    merged = {**mesh.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise AssertionError(f"no JSON on stdout: {line!r}") from error
    assert isinstance(value, dict), line
    return value


def _pid_inside(process: int) -> int | None:
    pids = procfs.status(process, b"NSpid")
    return int(pids[-1]) if pids else None
