"""TCP ports: who holds one, which are free, where a process listens. From /proc/net on Linux, psutil elsewhere."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import pwd
import random
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from . import procfs

_LISTENING = b"0A"
_BELOW_EPHEMERAL = range(20000, 32768)  # a kept port must not be lent to an outgoing connection meanwhile


class Listener(NamedTuple):
    host: str  # "127.0.0.1", "0.0.0.0", "::1", "::"
    port: int
    uid: int
    inode: int


def holder_of(port: int, host: str) -> str | None:
    """Who would make a bind of ``host:port`` fail: "python3 (pid 123)", as much of it as may be read; None: nobody.

    A name with several addresses (localhost) is free when all of them are. Decided by a bind, as the agent will do it:
    what is bound to 0.0.0.0 or :: conflicts too. A port that only root may bind counts as free.
    """
    for family, address in _addresses(host, port):
        if not _can_bind(family, address):
            return _name_holder(port, address[0])
    return None


def free_port(preferred: Sequence[int] = (), *, taken: Collection[int] = ()) -> int:
    """The first of ``preferred`` that nobody holds on any address, else one below the range of outgoing connections.
    ``taken`` is promised to others."""
    candidates = [*preferred, *random.sample(_BELOW_EPHEMERAL, 64)]
    for port in candidates:
        if port not in taken and holder_of(port, "0.0.0.0") is None and holder_of(port, "::") is None:
            return port
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def listeners(pids: Iterable[int], *, but: Collection[int] = ()) -> set[tuple[str, int]]:
    """(host, port) of every TCP socket in LISTEN that one of these processes has open, as far as that can be seen
    (procfs.ours). ``but``: inodes of those that do not count."""
    if sys.platform != "linux":
        return _listeners_by_psutil(pids)
    if not procfs.ours:
        return set()
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}.difference(but)
    return {(one.host, one.port) for one in _listening() if one.inode in inodes} if inodes else set()


# ---- binding -----------------------------------------------------------------------------------------------------


def _addresses(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return []  # no such name: the agent itself will say so
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


def _can_bind(family: int, address: tuple[str, int]) -> bool:
    """False only for an address in use; SO_REUSEADDR as servers set it, so that TIME_WAIT does not count."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # A server on :: that also serves IPv4 is hindered by one on 0.0.0.0; one on ::1 is not.
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
            probe.bind(address)
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


# ---- naming ------------------------------------------------------------------------------------------------------


def _name_holder(port: int, host: str) -> str:
    if sys.platform != "linux":
        return _name_by_psutil(port)
    candidates = sorted(
        (one for one in _listening() if one.port == port and _overlap(one.host, host)),
        key=lambda one: one.host != host,
    )
    for listener in candidates:
        pid = _owner_of(listener.inode)
        if pid is not None:
            return _name(pid)
    if candidates:
        return f"a process of {_user(candidates[0].uid)}"
    return "another process that has bound it without listening"


def _overlap(one: str, other: str) -> bool:
    wild = {"0.0.0.0", "::"}
    return one == other or one in wild or other in wild


def _name(pid: int) -> str:
    process = procfs.look(pid)
    return f"{process.name} (pid {pid})" if process is not None else f"pid {pid}"


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with uid {uid}"


def _owner_of(inode: int) -> int | None:
    """The lowest pid that has it open: of a server with workers, the parent. None: none that we may look into."""
    if not procfs.ours:
        return None
    names = (name for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    return next((pid for pid in sorted(map(int, names)) if inode in _socket_inodes(pid)), None)


# ---- reading -----------------------------------------------------------------------------------------------------


def _socket_inodes(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return  # gone, or another user's
    for name in names:
        with contextlib.suppress(OSError):
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115
            if target.startswith("socket:["):
                yield int(target[8:-1])


def _listening() -> Iterator[Listener]:
    for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):  # /proc/net is not there with ProcSubset=pid
        for line in procfs.read(path).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENING:
                host, _, port = fields[1].partition(b":")
                yield Listener(_address(host), int(port, 16), int(fields[7]), int(fields[9]))


def _address(digits: bytes) -> str:
    """The kernel prints addresses as 32-bit words in the byte order of the machine."""
    words = bytes.fromhex(digits.decode())
    packed = b"".join(
        int.from_bytes(words[at : at + 4], "big").to_bytes(4, sys.byteorder) for at in range(0, len(words), 4)
    )
    return str(ipaddress.ip_address(packed))


def _listeners_by_psutil(pids: Iterable[int]) -> set[tuple[str, int]]:
    import psutil

    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((str(one.laddr.ip), int(one.laddr.port)))
    return found


def _name_by_psutil(port: int) -> str:
    import psutil

    for process in psutil.process_iter(["name"]):
        if any(held == port for _, held in _listeners_by_psutil([process.pid])):
            return f"{process.info['name']} (pid {process.pid})"
    return "another user's process"
