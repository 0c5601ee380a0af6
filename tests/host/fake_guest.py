"""A small stand-in for runtime/warm.py: ``python fake_guest.py FD warm LABEL``. Its modules are instructions:
"hang", "die", "refuse", "flood", "garble", and at a fork: "die at fork", "never fork", "half a fork", "stop at fork",
"no tag", "no session", "unforked", "linger PORT". The program of an instance is Python code, its ``name``."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from types import ModuleType

package = ModuleType("_meshsup")
package.__path__ = [str(Path(__file__).parents[2] / "mesh_supervisor" / "runtime")]
sys.modules["_meshsup"] = package
from _meshsup import wire  # type: ignore[import-not-found]  # noqa: E402


def main(fd: int) -> None:
    link = socket.socket(fileno=fd)
    link.setblocking(True)
    told: list[str] = []
    while (heard := wire.receive(link)) is not None:
        packet, descriptors = heard
        if packet["is"] == "warm":
            told += packet["modules"]
            if not packet["more"]:
                warm(link, told)
        elif packet["is"] == "judge":
            judge(link, packet["modules"])
        elif packet["is"] == "start":
            start(link, packet, descriptors, told)
        for each in descriptors:
            os.close(each)


def tell(link: socket.socket, kind: str, **fields: object) -> None:
    wire.send(link, wire.pack(kind, fields))


def warm(link: socket.socket, told: list[str]) -> None:
    print("imports", *told[:9], len(told), flush=True)
    if "hang" in told:
        signal.pause()
    if "die" in told:
        os.kill(os.getpid(), signal.SIGABRT)
    for port in (name.partition("linger ")[2] for name in told if name.startswith("linger ")):
        linger(link, int(port))
    if "refuse" in told:
        tell(link, "refused", why="it has 3 threads", spare=True, leave_out=[n for n in told if n.startswith("bad")])
    else:
        tell(link, "warmed", ms=12.5, failed={})
    while "flood" in told:
        tell(link, "noise")
    for _ in range(10 * ("garble" in told)):
        link.send(b"{")


def linger(link: socket.socket, port: int) -> None:
    """A descriptor whose close() waits until somebody reads; the port is called again when it is the last copy."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
        wire.send(link, wire.pack("noise", {}), (sock.fileno(),))
    socket.create_connection(("127.0.0.1", port)).close()


def judge(link: socket.socket, modules: list[str]) -> None:
    for name in modules:
        if name == "hang":
            signal.pause()
        if name == "die":
            os.kill(os.getpid(), signal.SIGABRT)
        verdict = {"verdict": "spare", "why": "starts a thread"} if name.startswith("bad") else {"verdict": "fork"}
        tell(link, "judged", verdicts={name: {"why": "", "loads": [], **verdict}}, more=name != modules[-1])


def start(link: socket.socket, packet: dict, descriptors: list[int], told: list[str]) -> None:  # type: ignore[type-arg]
    number = packet["id"]
    if packet["become"]:
        take(packet, descriptors, told)
        tell(link, "forked", id=number, pid=os.getpid())
        link.close()
        run(packet)
    if "unforked" in told:
        tell(link, "unforked", id=number, why="no processes left")
        return
    if "die at fork" in told:
        os.kill(os.getpid(), signal.SIGKILL)
    if "never fork" in told:
        return
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        second = os.fork()
        if second == 0:
            link.close()
            if "no session" not in told:
                os.setsid()
            while os.getppid() == os.getpid():
                pass
            take(packet, descriptors, told)
            os.write(writing, b"%d" % os.getpid())
            os.close(writing)
            run(packet)
        os._exit(0)
    os.close(writing)
    os.waitpid(first, 0)
    pid = int(os.read(reading, 20))
    if "stop at fork" in told:
        os.kill(os.getpid(), signal.SIGSTOP)
    if "half a fork" in told:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(link, "forked", id=number, pid=pid)
    os.close(reading)


def take(packet: dict, descriptors: list[int], told: list[str]) -> None:  # type: ignore[type-arg]
    if "no tag" not in told:
        resource.setrlimit(10, (packet["tag"], resource.getrlimit(10)[1]))
    os.environ.clear()
    os.environ.update(packet["environ"])
    os.chdir(packet["directory"])
    for number in range(3):
        os.dup2(descriptors[number], number)


def run(packet: dict) -> None:  # type: ignore[type-arg]
    code = 0
    try:
        exec(packet["program"]["name"], {"args": packet["program"]["args"]})
    except SystemExit as end:
        code = int(end.code or 0)
    os._exit(code)


main(int(sys.argv[1]))
