"""Whose state_dir is it: what a supervisor writes into the lock that it holds, and what that says to the next one.

A lock is seen by all containers of a machine, but the pid in it says nothing in another one; and on file systems that
come from elsewhere the lock itself may be seen on one machine only.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from mesh_supervisor.host.filesystems import mounts
from mesh_supervisor.locate import STATE_HOME

_PID = re.compile(r"[0-9]{1,20}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
"""What a lock says is shown to people, and whoever shares the folder may have written it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """``namespace``: of its pids, unlike any other on any machine; "" where that is not known."""

    pid: str = ""
    host: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.pid} {self.host} {self.namespace}\n"

    @property
    def elsewhere(self) -> bool:
        """In another container, or on another machine."""
        here = _namespace()
        if self.namespace and here:
            return self.namespace != here
        return self.host not in ("", _host())

    @property
    def on_other_machine(self) -> bool:
        """As far as can be told: the containers of one machine have one kernel."""
        kernel, ours = (place.partition("/")[0] for place in (self.namespace, _namespace()))
        return self.host not in ("", _host()) and (not kernel or kernel != ours)


def ourselves() -> Holder:
    return Holder(str(os.getpid()), _host(), _namespace())


def holder_in(lock: int) -> Holder:
    """As much as it says: of an earlier version only the pid, of what is no lock of ours nothing. What can be no host
    name counts as not said."""
    try:
        words = os.pread(lock, 400, 0).decode(errors="replace").split()
    except OSError:
        return Holder()
    if not words or not _PID.fullmatch(words[0]):
        return Holder()
    pid, host, namespace, *_ = [*words, "", ""]
    return Holder(pid, host if _HOST.fullmatch(host) else "", namespace)


def refusal(state_dir: Path, holder: Holder) -> str:
    """A sentence for AlreadyRunning."""
    if holder.elsewhere:
        return _refusal_elsewhere(state_dir, holder.host)
    return f"a supervisor (pid {holder.pid or 'unknown'}) already runs this mesh; `meshsup down` ends it"


def refusal_elsewhere(state_dir: Path) -> str:
    """The same, where it is known that it is none of those that can be seen from here."""
    try:
        lock = os.open(state_dir / "lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return _refusal_elsewhere(state_dir, "")
    try:
        return _refusal_elsewhere(state_dir, holder_in(lock).host)
    finally:
        os.close(lock)


def _refusal_elsewhere(state_dir: Path, host: str) -> str:
    named = f" (host name {host})" if host else ""
    return (
        f"a supervisor in another container or on another machine{named} already runs this mesh, with the same "
        f"state_dir {state_dir}; end that one, or give each its own: {STATE_HOME}, or mesh.state_dir"
    )


def doubt(state_dir: Path, before: Holder) -> str:
    """What to say when the lock was free but may be one that other machines do not see; "" when all is well.
    ``before``: who had it, and has not let go of it in order."""
    kind = mounts().lossy(os.path.realpath(state_dir))
    if kind is None or not before.on_other_machine:
        return ""
    return (
        f"{state_dir} was last used on {before.host}, which has not let go of it, and {kind} may not show locks to "
        f"other machines: if a supervisor still runs there, give each its own state_dir ({STATE_HOME}, or "
        "mesh.state_dir)"
    )


def _host() -> str:
    """The name of this machine or container, as a lock may say it; the kernel takes any bytes for one."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "-"


def _namespace() -> str:
    """``BOOT/PIDS``: which run of which machine's kernel, and which pids of it. The first ones have the same number on
    every machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
