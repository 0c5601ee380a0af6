"""A Docker engine: the one that answers, or one of our own in a folder, which is gone at the end.

Standard library only, like everything beside it: it is to run where nothing of this project is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class NoEngine(Exception):
    """Why no engine can be used here."""


class DockerError(Exception):
    """A docker command failed; its last words."""


def wait_for(fact: Callable[[], T], what: str, timeout: float = 60.0) -> T:
    """The first truthy value of ``fact()``, asked every 20 ms; what is not there yet counts as no.

    AssertionError, with the last thing that was said, when it does not come."""
    deadline = time.monotonic() + timeout
    while True:
        said: object = None
        try:
            said = found = fact()
            if found:
                return found
        except (AssertionError, OSError, ValueError, KeyError, DockerError) as error:
            said = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s; last seen: {said!r}")
        time.sleep(0.02)


class Docker:
    """The docker command, speaking with one engine: ``docker("ps", "-q")`` is its output."""

    def __init__(self, host: str | None = None) -> None:
        self.environ = dict(os.environ) if host is None else {**os.environ, "DOCKER_HOST": host}

    def run(
        self,
        *words: str,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        both: bool = False,
        command: Sequence[str] = ("docker",),
    ) -> subprocess.CompletedProcess[str]:
        """Its exit code and output (``both``: with stderr in it); TimeoutExpired when it hangs."""
        return subprocess.run(
            [*command, *words],
            env={**self.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def __call__(self, *words: str, timeout: float = 60.0) -> str:
        """Raises DockerError when it fails."""
        done = self.run(*words, timeout=timeout)
        if done.returncode:
            raise DockerError(
                f"docker {' '.join(words[:2])}: exit {done.returncode}: {_tail(done.stdout, done.stderr)}"
            )
        return done.stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", what))
        assert isinstance(found, dict)
        return found

    def has_image(self, name: str) -> bool:
        return self.run("image", "inspect", name).returncode == 0

    def is_there(self) -> str:
        """The engine's version, or "" with nobody there."""
        try:
            return self("version", "--format", "{{.Server.Version}}", timeout=20)
        except (DockerError, subprocess.TimeoutExpired):
            return ""


def _tail(*texts: str, lines: int = 12) -> str:
    return "\n".join("\n".join(texts).strip().splitlines()[-lines:])


def running_engine() -> Docker:
    """The engine that `docker` speaks with here. Raises NoEngine."""
    if shutil.which("docker") is None:
        raise NoEngine("there is no docker command (Debian: docker.io)")
    docker = Docker()
    if not docker.is_there():
        where = os.environ.get("DOCKER_HOST") or "the default socket"
        raise NoEngine(f"no Docker engine answers at {where}; as root, --start-engine starts one")
    return docker


@contextlib.contextmanager
def own_engine(folder: Path) -> Iterator[Docker]:
    """An engine whose data, socket and network are its own, gone afterwards. Raises NoEngine where that cannot be.

    It makes no firewall rules but one, since those would stay, and could be another engine's: ports that are published
    on 127.0.0.1 are served by its proxy, and builds need ``--network host``.
    """
    for command in ("docker", "dockerd", "ip"):
        if shutil.which(command) is None:
            raise NoEngine(f"--start-engine: there is no {command} command (Debian: docker.io, iproute2)")
    if os.geteuid() != 0:
        raise NoEngine("--start-engine: only root can start an engine")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _bridge() as (bridge, pool), _let_through(pool), (folder / "dockerd.log").open("wb") as log:
        socket = f"unix://{folder}/docker.sock"
        # fmt: off
        dockerd = subprocess.Popen(
            ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "-p", f"{folder}/pid",
             "-H", socket, "--bridge", bridge, "--default-address-pool", f"base={pool},size=24",
             "--iptables=false", "--ip6tables=false", "--ip-masq=false"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
        # fmt: on
        docker = Docker(socket)
        try:
            wait_for(lambda: _answers(docker, dockerd, folder), "an engine of our own", timeout=60)
            yield docker
        finally:
            _end(dockerd)
            _unmount_below(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _answers(docker: Docker, dockerd: subprocess.Popen[bytes], folder: Path) -> str:
    if dockerd.poll() is not None:
        raise NoEngine(f"dockerd does not start here: {_tail((folder / 'dockerd.log').read_text(errors='replace'))}")
    return docker.is_there()


def _end(dockerd: subprocess.Popen[bytes]) -> None:
    """In order; it ends its containerd."""
    dockerd.terminate()
    try:
        dockerd.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(dockerd.pid, signal.SIGKILL)
        dockerd.wait()


def _unmount_below(folder: Path) -> None:
    """It leaves the network namespace of `--network host` mounted, and, when it was killed, the containers' roots."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)


@contextlib.contextmanager
def _bridge() -> Iterator[tuple[str, str]]:
    """A network interface for the containers, which no other engine uses, and addresses for networks of Compose.

    The addresses are those of RFC 2544, for tests: no host is there that could be cut off."""
    name = f"meshsup{os.getpid() % 10**6}"
    _ip("link", "add", name, "type", "bridge")
    try:
        _ip("addr", "add", f"198.18.{random.randint(0, 255)}.1/24", "dev", name)
        _ip("link", "set", name, "up")
        yield name, f"198.19.{random.randrange(0, 256, 16)}.0/20"
    finally:
        _ip("link", "del", name)


@contextlib.contextmanager
def _let_through(pool: str) -> Iterator[None]:
    """Another engine of this host may forbid what it did not allow itself, also from container to container."""
    rule = ("FORWARD", "-s", pool, "-d", pool, "-j", "ACCEPT")
    if shutil.which("iptables") is None:
        yield
        return
    _admin("iptables", "-w", "-I", *rule)
    try:
        yield
    finally:
        _admin("iptables", "-w", "-D", *rule)


def _ip(*words: str) -> None:
    _admin("ip", *words)


def _admin(*words: str) -> None:
    """Raises NoEngine when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoEngine(f"--start-engine: {' '.join(words)}: {done.stderr.strip()}")
