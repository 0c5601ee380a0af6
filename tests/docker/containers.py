"""A container under test: started, asked, stopped, and removed whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.docker.engine import Docker, DockerError, wait_for

AGENT_PORTS = {"clock": 8101, "weather": 8102, "retriever": 8103, "planner": 8104}

MEMORY = """
import glob, os
def share(path):
    try:
        return sum(int(line.split()[1]) for line in open(path) if line.startswith("Pss:"))
    except OSError:
        return 0
own = f"/proc/{os.getpid()}/smaps_rollup"
print(sum(share(path) for path in glob.glob("/proc/[0-9]*/smaps_rollup") if path != own))
"""

ZOMBIES = """
import glob
states = []
for path in glob.glob("/proc/[0-9]*/stat"):
    try:
        states.append(open(path).read().rpartition(") ")[2].split())
    except OSError:  # it has ended meanwhile
        pass
print(sum(state[0] == "Z" for state in states), len(states))
"""


class Container:
    """A container that was started with ``docker run -d``."""

    def __init__(self, docker: Docker, name: str, started: float) -> None:
        self.docker, self.name, self.started = docker, name, started

    # ---- what it says --------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """As the engine has it: Status, Running, ExitCode, OOMKilled, Health, …"""
        found: dict[str, Any] = self.docker.inspect(self.name)["State"]
        return found

    def logs(self) -> str:
        """stdout and stderr."""
        return self.docker.run("logs", self.name, both=True).stdout

    def messages(self, agent: str = "meshsup") -> list[str]:
        """What `meshsup` itself said, or an agent, out of the JSON lines."""
        said = (json.loads(line) for line in self.logs().splitlines())
        return [line["text"] for line in said if line["agent"] == agent and "text" in line]

    def healthy(self) -> bool:
        state = self.state()
        assert state["Running"], f"it ended with exit code {state['ExitCode']}: {self.logs()[-2000:]}"
        return bool(state["Health"]["Status"] == "healthy")

    def wait_healthy(self, timeout: float = 90.0) -> float:
        """Seconds since it was started."""
        wait_for(self.healthy, f"{self.name} is healthy", timeout)
        return time.monotonic() - self.started

    def wait_ready(self, *agents: str, timeout: float = 60.0) -> float:
        """Until `meshsup ps` says so of all of these; seconds since it was started."""
        wait_for(lambda: all(self.agent(name)["state"] == "ready" for name in agents), f"{agents} ready", timeout)
        return time.monotonic() - self.started

    def execute(self, *words: str) -> str:
        """`docker exec`. Raises DockerError."""
        return self.docker("exec", self.name, *words)

    def agent(self, name: str, *options: str) -> dict[str, Any]:
        """Its row of `meshsup OPTIONS ps --json`."""
        rows: list[dict[str, Any]] = json.loads(self.execute("meshsup", *options, "ps", "--json"))["agents"]
        (row,) = [row for row in rows if row["name"] == name]
        return row

    def zombies(self) -> tuple[int, int]:
        """(zombies, processes), counted inside."""
        zombies, processes = self.execute("python3", "-c", ZOMBIES).split()
        return int(zombies), int(processes)

    def memory(self) -> float:
        """MB of all its processes, shared pages counted once."""
        return int(self.execute("python3", "-c", MEMORY)) * 1024 / 1e6

    # ---- its agents, from outside --------------------------------------------------------------------------------

    def port(self, inside: int) -> int:
        """Where a published port is on this host."""
        return int(self.docker("port", self.name, f"{inside}/tcp").splitlines()[0].rpartition(":")[2])

    def get(self, inside: int, path: str = "/") -> str:
        """The body of a GET. Raises OSError, AssertionError for another status than 200."""
        return get(self.port(inside), path)

    # ---- its end -------------------------------------------------------------------------------------------------

    def stop(self, grace: int = 10) -> tuple[float, int]:
        """`docker stop`: (seconds, exit code)."""
        before = time.monotonic()
        self.docker("stop", "-t", str(grace), self.name, timeout=grace + 60)
        return time.monotonic() - before, int(self.state()["ExitCode"])

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, when it ends by itself."""
        return int(self.docker("wait", self.name, timeout=timeout))


def get(port: int, path: str = "/", address: str = "127.0.0.1") -> str:
    """The body of a GET from this host. Raises OSError, AssertionError for another status than 200."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(repr(error)) from error
    finally:
        connection.close()
    assert answer.status == 200, f"{answer.status}: {body[:200]}"
    return body


class Callers:
    """Somebody who asks an agent all the time, one connection per request, from one thread."""

    def __init__(self, port: int, path: str = "/") -> None:
        self.asked, self.failed = 0, list[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(port, path))

    def _ask(self, port: int, path: str) -> None:
        while not self._over.wait(0.005):
            self.asked += 1
            try:
                get(port, path)
            except (OSError, AssertionError) as error:
                self.failed.append(repr(error))

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextlib.contextmanager
def started(docker: Docker, label: str, image: str, *words: str, options: tuple[str, ...] = ()) -> Iterator[Container]:
    """``docker run -d OPTIONS IMAGE WORDS`` with the example's ports published. Removed at the end."""
    published = [word for port in AGENT_PORTS.values() for word in ("-p", f"127.0.0.1::{port}")]
    before = time.monotonic()
    name = docker("run", "-d", "--label", label, *published, *options, image, *words)
    try:
        yield Container(docker, name, before)
    finally:
        docker.run("rm", "-f", "-v", name)


def remove_labelled(docker: Docker, label: str) -> None:
    """What an interrupted scenario left."""
    with contextlib.suppress(DockerError):
        for kind, remove in (("ps", ("rm", "-f", "-v")), ("network", ("network", "rm"))):
            listed = ("ps", "-aq") if kind == "ps" else ("network", "ls", "-q")
            left = docker(*listed, "--filter", f"label={label}").split()
            if left:
                docker.run(*remove, *left)


def write(folder: Path, files: dict[str, str]) -> Path:
    """A mesh in a folder that anybody may read, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return folder
