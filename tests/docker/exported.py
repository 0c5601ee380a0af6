"""What `meshsup export compose` writes for the example mesh, brought up for real: a container per agent."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docker.containers import AGENT_PORTS, get, write
from tests.docker.engine import wait_for
from tests.docker.scenarios import GOAL, Rig, Skipped, assert_powerless, server

PROJECT = "example"


@dataclass(frozen=True, slots=True)
class Project:
    """The services of an exported file. ``address``: where they are published on this host, none of anybody else's;
    ``told``: variables for Compose."""

    rig: Rig
    file: Path
    address: str
    told: dict[str, str]

    def run(self, *verb: str, timeout: float = 180) -> str:
        """Raises AssertionError with what it said when it fails."""
        assert self.rig.compose is not None
        # fmt: off
        done = self.rig.docker.run(
            "-f", str(self.file), *verb, timeout=timeout, env=self.told, both=True, command=self.rig.compose
        )
        # fmt: on
        assert done.returncode == 0, f"{' '.join(verb)}: {done.stdout[-2000:]}"
        return done.stdout

    def ask(self, port: int, path: str = "/") -> str:
        """Raises OSError, AssertionError for another status than 200."""
        return get(port, path, self.address)

    def started_at(self) -> dict[str, str]:
        """service → when its container was started."""
        found = {}
        for name in self.rig.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split():
            told = self.rig.docker.inspect(name)
            found[told["Config"]["Labels"]["com.docker.compose.service"]] = told["State"]["StartedAt"]
        return found

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """`docker compose watch` beside the running services."""
        assert self.rig.compose is not None
        log = self.file.with_suffix(".watch")
        with log.open("wb") as output:
            watch = subprocess.Popen(
                [*self.rig.compose, "-f", str(self.file), "watch", "--no-up"],
                env={**self.rig.docker.environ, **self.told},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: "Watch enabled" in log.read_text(), "watching", 30)
            yield
        finally:
            watch.terminate()
            watch.wait(20)


@contextlib.contextmanager
def exported(rig: Rig, folder: Path | None = None, **told: str) -> Iterator[Project]:
    """The example mesh, or the one in ``folder``, as the image itself exports it; all of it is gone at the end."""
    if rig.compose is None:
        raise Skipped("there is no `docker compose`, no docker-compose, and no --compose PATH")
    words = ("export", "compose", *(() if folder else ("--dockerfile", "examples/docker/Dockerfile")))
    folder = folder or rig.context
    given = [word for name in told for word in ("-e", f"{name}={told[name]}")]
    text = rig.docker("run", "--rm", "--label", rig.label, *given, "-v", f"{folder}:/app:ro", rig.image, *words)
    file = folder / "compose.yaml"
    file.write_text(text + "\n")
    address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    project = Project(rig, file, address, {"MESHSUP_IMAGE": rig.image, "MESHSUP_BIND": address, **told})
    project.run("config", "--quiet")
    try:
        yield project
    finally:
        project.run("down", "-v", "--remove-orphans", "--timeout", "12")
        file.unlink()


def exported_compose(rig: Rig) -> str:
    """An exported Compose file: up, all healthy, agents find each other through the registry; edits are taken over."""
    # The engine looks the owner of what is taken over up on this host, which does not know the image's user.
    with exported(rig, MESHSUP_USER="root") as project:
        before = time.monotonic()
        project.run("up", "-d", "--no-build", "--wait", timeout=300)
        healthy = time.monotonic() - before
        assert "boil" in project.ask(AGENT_PORTS["planner"], GOAL)
        assert set(project.started_at()) == {"registry", *AGENT_PORTS}
        edit = _edit(project, "examples/planner.py", {"planner"})
        _edit(project, "examples/common.py", {"planner", "retriever"})
        before = time.monotonic()
        project.run("stop", timeout=60)
        stopped = time.monotonic() - before
        codes = [json.loads(line)["ExitCode"] for line in project.run("ps", "-a", "--format", "json").splitlines()]
        assert codes == [0] * 5, codes
    return f"all healthy after {healthy:.1f} s, an edit answered after {edit:.1f} s, stopped in {stopped:.1f} s with 0"


def _edit(project: Project, name: str, affected: set[str]) -> float:
    """Seconds from a save to the new code's answer; nobody else starts again."""
    source = project.file.parent / name
    text = source.read_text()
    before = project.started_at()

    def restarted() -> set[str]:
        now = project.started_at()
        return {service for service in now if now[service] != before[service]}

    with project.watching():
        at = time.monotonic()
        source.write_text(text.replace("json.dumps(said)", 'json.dumps({"edit": said})').replace('{"goal"', '{"edit"'))
        try:
            wait_for(lambda: '"edit"' in project.ask(AGENT_PORTS["planner"], GOAL), f"{name} is taken over", 60)
            seconds = time.monotonic() - at
            wait_for(lambda: restarted() >= affected, f"{affected} start again", 30)
        finally:
            source.write_text(text)
        wait_for(lambda: '"edit"' not in project.ask(AGENT_PORTS["planner"], GOAL), f"{name} as it was", 60)
    assert restarted() == affected, f"an edit of {name} restarted {restarted()}"
    return seconds


def exported_hardened(rig: Rig) -> str:
    """The same with a read-only root: healthy, no capabilities, nothing to gain."""
    with exported(rig, MESHSUP_READ_ONLY="true") as project:
        before = time.monotonic()
        project.run("up", "-d", "--no-build", "--wait", timeout=300)
        seconds = time.monotonic() - before
        (name,) = rig.docker("ps", "-q", "--filter", "label=com.docker.compose.service=planner").split()
        assert rig.docker.inspect(name)["HostConfig"]["ReadonlyRootfs"]
        assert_powerless(rig.docker, name)
        assert "boil" in project.ask(AGENT_PORTS["planner"], GOAL)
    return f"all healthy after {seconds:.1f} s"


SECRETS = """
[mesh]
name = "with-secrets"

[agents.keeper]
command = "keeper.py"
port = 8101
env_file = "keeper.env"
env = { SHELL_WORD = "${SHELL_WORD}" }

[agents.other]
command = "other.py"
port = 8102
env = { KEEPER = "${agents.keeper.url}" }
"""
KEPT = "os.environ['FILE_WORD'] + ' ' + os.environ['SHELL_WORD']"
ASKED = "str(os.environ.get('SHELL_WORD')) + ' ' + urlopen(os.environ['KEEPER'], timeout=5).read().decode()"


def exported_secrets(rig: Rig) -> str:
    """Of a mesh with secrets: they are in no file and no image, and each is in the one container that needs it."""
    files = {
        "mesh.toml": SECRETS,
        "keeper.py": server(KEPT),
        "other.py": server(ASKED, "from urllib.request import urlopen"),
        "Dockerfile": f"FROM {rig.image}\nCOPY mesh.toml keeper.py other.py /app/\n",
        "keeper.env": "FILE_WORD=from-the-file\n",
    }
    folder = write(rig.folder / "secrets", files)
    image = f"{rig.image}-secrets"
    rig.docker("build", "--label", rig.label, "-t", image, str(folder))
    try:
        with exported(rig, folder, SHELL_WORD="from-the-shell", MESHSUP_IMAGE=image) as project:
            written = project.file.read_text()
            assert "from-the" not in written, written
            project.run("up", "-d", "--no-build", "--wait", timeout=300)
            assert project.ask(8101) == "from-the-file from-the-shell"
            assert project.ask(8102) == "None from-the-file from-the-shell"
    finally:
        rig.docker.run("rmi", "-f", image)
    return "an env file is mounted, a variable is handed over, both to one container; the other finds it by its name"


ALL = (exported_compose, exported_hardened, exported_secrets)
