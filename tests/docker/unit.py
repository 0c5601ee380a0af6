"""The unit that `meshsup export systemd` writes, under a real systemd: PID 1 of a container of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docker.containers import AGENT_PORTS, Container, started, write
from tests.docker.engine import DockerError, wait_for
from tests.docker.scenarios import Rig, Skipped

NAME = "mesh-example"
MESH = "/srv/team/mesh"
WATCHDOG = 3  # seconds, so that nobody waits for the unit's own 30

# The mesh lies where its user comes only through a group, and the Python of its environment is a link into a home.
DOCKERFILE = """
FROM {image}
USER root
RUN apt-get update && apt-get install -y --no-install-recommends systemd systemd-sysv dbus
RUN groupadd team && usermod -aG team mesh && install -d -g team -m 0750 /srv/team \
 && cp -r /app {mesh} && chown -R mesh:mesh {mesh}
RUN mkdir -m 0755 /home/ada && cp "$(readlink -f /opt/venv/bin/python3)" /home/ada/python3 \
 && ln -sf /home/ada/python3 /opt/venv/bin/python3
ENV container=docker MESHSUP_STATE_HOME=
HEALTHCHECK NONE
ENTRYPOINT ["sh", "-c", "mount -o remount,bind,rw /sys/fs/cgroup; exec /lib/systemd/systemd"]
CMD []
"""
UNCONFINED = ("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined")
OPTIONS = ("--cap-add", "SYS_ADMIN", *UNCONFINED, "--cgroupns", "private", "--tmpfs", "/run", "--tmpfs", "/run/lock")
"""What systemd needs of an engine. Not --privileged, which takes an engine that has every capability itself; and not
the host's control groups, in which it would leave some of its own."""

SHORT = f"[Service]\\nWatchdogSec={WATCHDOG}\\nRestartSec=1\\n"


@dataclass(frozen=True, slots=True)
class Service:
    """The unit, installed in a container in which systemd runs."""

    container: Container

    def do(self, verb: str) -> None:
        """`systemctl VERB`. Raises DockerError with what it said, and what the unit did."""
        try:
            self.container.execute("systemctl", verb, NAME)
        except DockerError as error:
            raise DockerError(f"{error}\n{self.shell(f'journalctl -u {NAME} -n 20 --no-pager')}") from error

    def told(self, name: str) -> str:
        """A property, as `systemctl show` has it."""
        return self.container.execute("systemctl", "show", NAME, "--property", name, "--value")

    def wait_told(self, name: str, text: str) -> None:
        wait_for(lambda: text in self.told(name), f"{name} says {text!r}", 30)

    def shell(self, line: str) -> str:
        return self.container.execute("sh", "-c", line)

    def pids(self) -> dict[str, int]:
        return {name: self.container.agent(name, "-C", MESH)["pid"] for name in AGENT_PORTS}


def runs_as_a_unit(rig: Rig) -> str:
    """The exported unit in a real systemd: start, reload, a mesh.toml that is wrong, a supervisor that hangs, stop."""
    image = f"{rig.image}-unit"
    folder = write(rig.folder / "unit", {"Dockerfile": DOCKERFILE.format(image=rig.image, mesh=MESH)})
    words = ("build", "--network", "host", "--label", rig.label, "-t", image, str(folder))
    if (done := rig.docker.run(*words, timeout=600, both=True)).returncode:
        raise Skipped(f"systemd cannot be installed into the image: {done.stdout.strip()[-200:]}")
    try:
        with _booted(rig, image) as container:
            return _tried(Service(container))
    finally:
        rig.docker.run("rmi", "-f", image)


@contextlib.contextmanager
def _booted(rig: Rig, image: str) -> Iterator[Container]:
    """Raises Skipped where an engine, or what it runs in, does not let systemd be."""
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(started(rig.docker, rig.label, image, options=OPTIONS))
        except DockerError as error:
            raise Skipped(f"the engine gives no container what systemd needs: {error}") from error
        _wait_for_systemd(container)
        yield container


def _wait_for_systemd(container: Container) -> None:
    def up() -> bool:
        return container.execute("sh", "-c", "systemctl is-system-running || :") in ("running", "degraded")

    try:
        wait_for(up, "systemd is up", 30)
    except (AssertionError, DockerError) as error:
        raise Skipped(f"systemd does not start in this engine: {error}; {container.logs()[-300:]}") from error


def _tried(service: Service) -> str:
    unit = f"/etc/systemd/system/{NAME}.service"
    service.shell(f"meshsup -C {MESH} export systemd -o {unit}")
    assert service.shell(f"systemd-analyze verify {unit} 2>&1") == ""
    service.shell(f"mkdir {unit}.d && printf '{SHORT}' > {unit}.d/short.conf && systemctl daemon-reload")

    seconds = _timed(service, "start")
    version = service.shell("systemctl --version").split()[1]
    main = service.told("MainPID")
    assert service.shell(f"grep -E '^(Uid|CapEff)' /proc/{main}/status").split()[1::5] == ["10001", "0" * 16]
    assert "4 of 4 agents are ready" in service.told("StatusText")
    # A PID namespace of its own makes systemd no engine: nothing is published here.
    assert service.container.agent("planner", "-C", MESH)["host"] == "127.0.0.1"

    pids = service.pids()
    service.shell(f"cp {MESH}/mesh.toml /tmp/good && echo '[broken' >> {MESH}/mesh.toml")
    service.do("reload")
    service.wait_told("StatusText", "mesh.toml is not applied")
    service.shell(f"cp /tmp/good {MESH}/mesh.toml")
    service.do("reload")
    wait_for(lambda: "not applied" not in service.told("StatusText"), "the mended one is applied", 30)
    assert service.pids() == pids

    before = time.monotonic()
    service.shell(f"kill -STOP {main}")
    service.wait_told("NRestarts", "1")
    wait_for(lambda: service.told("ActiveState") == "active", "it runs again", 30)
    hung = time.monotonic() - before
    assert "boil" in service.shell(
        "python3 -c \"from urllib.request import *; print(urlopen('http://127.0.0.1:8104/?goal=make+tea').read())\""
    )

    stopped = _timed(service, "stop")
    assert (service.told("Result"), service.told("ExecMainStatus")) == ("success", "0")

    service.shell(f"echo '[broken' >> {MESH}/mesh.toml; systemctl start {NAME} || :")
    assert (service.told("ActiveState"), service.told("ExecMainStatus")) == ("failed", "2")
    return (
        f"systemd {version}: ready after {seconds:.1f} s, reloads, says when mesh.toml is wrong, started again "
        f"{hung:.1f} s after it hung (WatchdogSec={WATCHDOG}), stopped in {stopped:.1f} s"
    )


def _timed(service: Service, verb: str) -> float:
    before = time.monotonic()
    service.do(verb)
    return time.monotonic() - before


ALL = (runs_as_a_unit,)
