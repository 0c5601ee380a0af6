"""What is tried: each scenario is a function that returns its figures in words, and raises AssertionError.

The first one builds the image that the others use. Times are of this machine and say so in docs/containers.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.docker.containers import AGENT_PORTS, Callers, Container, get, started, write
from tests.docker.engine import Docker, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
CONTEXT = (".dockerignore", "pyproject.toml", "README.md", "LICENSE", "mesh.toml", "mesh_supervisor", "examples")
"""What the example's image is built from: the repository as it is, committed or not."""

NOT_FOR_THE_IMAGE = (".env", "examples/.env", ".git/config", ".mesh/owner", "examples/.mesh/owner")

GOAL = "/?goal=make+tea"


class Skipped(Exception):
    """Why a scenario cannot be tried here."""


@dataclass(frozen=True, slots=True)
class Rig:
    """``image``: the example's, once it is built; ``context``: a copy of the repository that may be edited; ``folder``:
    for files of the scenarios; ``label``: on all that is started; ``compose``: the words of that command, if any."""

    docker: Docker
    base: str
    image: str
    context: Path
    folder: Path
    label: str
    compose: tuple[str, ...] | None

    def run(self, *words: str, options: tuple[str, ...] = ()) -> contextlib.AbstractContextManager[Container]:
        """A container of the example's image."""
        return started(self.docker, self.label, self.image, *words, options=options)

    def mesh(
        self, files: dict[str, str], *options: str, mode: str = "ro"
    ) -> contextlib.AbstractContextManager[Container]:
        """A container that runs a mesh of these files instead of the example's."""
        folder = write(self.folder / f"mesh-{time.monotonic_ns()}", files)
        return self.run(options=("-v", f"{folder}:/app:{mode}", *options))

    def build(self, tag: str) -> float:
        """Seconds that it took."""
        before = time.monotonic()
        # fmt: off
        done = self.docker.run(
            "build", "--network", "host", "--build-arg", f"BASE={self.base}", "--label", self.label, "-t", tag,
            "-f", str(self.context / "examples/docker/Dockerfile"), str(self.context), timeout=1200, both=True,
        )
        # fmt: on
        assert done.returncode == 0, f"docker build: {done.stdout[-3000:]}"
        return time.monotonic() - before


def copy_context(target: Path) -> Path:
    for name in CONTEXT:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".mesh", ".venv"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    # Whoever runs this may have a strict umask; the container's user is somebody else.
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def settled(*agents: str, keys: str = "", table: str = "") -> str:
    """A mesh.toml with an agent per name, on the example's ports in their order."""
    ports = dict(zip(agents, AGENT_PORTS.values(), strict=False))
    tables = (f'[agents.{name}]\ncommand = "{name}.py"\nport = {ports[name]}\n{keys}\n' for name in agents)
    return "[mesh]\nname = 'under-test'\n" + "".join(tables) + table


SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
{before}
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str({answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def server(answer: str, before: str = "") -> str:
    """A program that answers with the expression ``answer``."""
    return SERVER.format(answer=answer, before=before)


# ---- the image -------------------------------------------------------------------------------------------------------


def builds(rig: Rig) -> str:
    """The example's image builds; after an edit of an agent one layer is made anew, and nothing is installed again."""
    with _beside_the_sources(rig.context, NOT_FOR_THE_IMAGE):
        first = rig.build(rig.image)
    look = " -o ".join(f"-path '*/{name}'" for name in NOT_FOR_THE_IMAGE)
    found = rig.docker(
        "run", "--rm", "--label", rig.label, "--entrypoint", "sh", rig.image, "-c", f"find /app /src {look}"
    )
    assert found == "", f"in the image: {found}"
    layers = _layers(rig, rig.image)
    again = f"{rig.image}-again"
    try:
        _append(rig.context / "examples/clock.py", "\n# edited\n")
        agent = rig.build(again)
        after_agent = _layers(rig, again)
        assert after_agent[:-1] == layers[:-1] and after_agent[-1] != layers[-1], (
            "an edit of an agent: more than one layer"
        )
        _append(rig.context / "mesh_supervisor/__init__.py", "\n# edited\n")
        supervisor = rig.build(again)
        kept = [one for one, other in zip(layers, _layers(rig, again), strict=False) if one == other]
    finally:
        rig.docker.run("rmi", "-f", again)
    size = int(rig.docker.inspect(rig.image)["Size"]) - int(rig.docker.inspect(rig.base)["Size"])
    heaviest = _heaviest_layer(rig)
    assert len(kept) > heaviest, f"an edit of the supervisor makes the layer of the dependencies anew: {kept}"
    return (
        f"first {first:.1f} s, after an edit of an agent {agent:.1f} s (1 of {len(layers)} layers), "
        f"of the supervisor {supervisor:.1f} s; {size / 1e6:.0f} MB above the base's"
    )


@contextlib.contextmanager
def _beside_the_sources(context: Path, names: Sequence[str]) -> Iterator[None]:
    """Only for the build: others mount the context."""
    for name in names:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text("SECRET=1\n")
    try:
        yield
    finally:
        for name in names:
            (context / name).unlink()


def _layers(rig: Rig, image: str) -> list[str]:
    layers: list[str] = rig.docker.inspect(image)["RootFS"]["Layers"]
    return layers


def _heaviest_layer(rig: Rig) -> int:
    """The index of the largest layer above the base's: the dependencies."""
    base = len(_layers(rig, rig.base))
    told = rig.docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", rig.image)
    sizes = [int(line.split()[0]) for line in reversed(told.splitlines())]
    filled = [size for size in sizes if size]
    above = filled[-(len(_layers(rig, rig.image)) - base) :]
    return base + above.index(max(above))


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def is_healthy(rig: Rig) -> str:
    """It is healthy by its own HEALTHCHECK, not root, PID 1 is ours, its agents answer outside, its log is JSON."""
    with rig.run() as container:
        answering = wait_for(lambda: "prompt" in container.get(8104, GOAL) and time.monotonic(), "planner answers")
        healthy = container.wait_healthy()
        assert container.execute("id", "-u") == "10001"
        assert "meshsup" in container.execute("cat", "/proc/1/cmdline")
        assert "boil" in container.get(8104, GOAL), "planner's answer lacks what retriever knows"
        assert container.get(8102, "/health") == '{"status":"ok"}'
        said = container.messages()
        assert "prod mode (meshsup is PID 1), not watching" in said[0], said
        wait_for(lambda: container.zombies()[0] == 0, "no zombies", 20)  # the engine's own checks come and go
        check = _median_seconds(lambda: container.execute("meshsup", "health"))
        memory = container.memory()
    return (
        f"answers after {answering - container.started:.1f} s, healthy after {healthy:.1f} s; "
        f"{memory:.0f} MB with four agents; `docker exec … meshsup health` takes {check:.2f} s"
    )


def _median_seconds(call: Callable[[], object], times: int = 5) -> float:
    def one() -> float:
        before = time.monotonic()
        call()
        return time.monotonic() - before

    return statistics.median(one() for _ in range(times))


# ---- stopping --------------------------------------------------------------------------------------------------------


def stops(rig: Rig) -> str:
    """`docker stop` ends it in order: exit code 0, inside the grace of 10 s, nothing killed."""
    with rig.run() as container:
        container.wait_healthy()
        seconds, code = container.stop()
        assert code == 0, f"exit code {code} after {seconds:.1f} s: {container.logs()[-2000:]}"
        assert container.messages()[-1] == "stopped", container.messages()[-5:]
    return f"exit code 0 after {seconds:.2f} s of 10"


def stops_a_stubborn_one(rig: Rig) -> str:
    """An agent that ignores SIGTERM does not cost the mesh the engine's grace: it is killed before, by us."""
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    files = {
        "mesh.toml": settled("deaf", "polite", keys="runtime = false"),
        "deaf.py": server("'deaf'", ignoring),
        "polite.py": server("'polite'"),
    }
    with rig.mesh(files) as container:
        container.wait_ready("deaf", "polite")
        seconds, code = container.stop()
        assert code == 0, f"exit code {code} after {seconds:.1f} s: {container.logs()[-2000:]}"  # 137: by the engine
    return f"exit code 0 after {seconds:.2f} s of 10, with an agent that ignores SIGTERM"


def stops_while_it_starts(rig: Rig) -> str:
    """SIGTERM at any moment of the start-up, from the first word on: exit code 0, long before the grace is over."""
    told = []
    for moment in ("prod mode", "registry: listening", "registry is ready", "clock is ready"):
        with rig.run() as container:
            wait_for(lambda moment=moment: moment in container.logs(), f"the log says {moment}")  # type: ignore[misc]
            seconds, code = container.stop()
            assert code == 0, f"at “{moment}”: exit code {code} after {seconds:.1f} s: {container.logs()[-2000:]}"
            told.append(f"at “{moment}” {seconds:.1f} s")
    return "exit code 0: " + ", ".join(told)


def gives_up(rig: Rig) -> str:
    """An essential agent in a crash loop ends the mesh with exit code 1, and the log names it."""
    files = {
        "mesh.toml": settled("steady", "broken", table="essential = true\ncrashloop = { crashes = 3, window = 60 }\n"),
        "steady.py": server("'steady'"),
        "broken.py": "import sys\nsys.exit(7)\n",
    }
    with rig.mesh(files) as container:
        code = container.wait()
        seconds = time.monotonic() - container.started
        assert code == 1, f"exit code {code}: {container.logs()[-2000:]}"
        assert any("broken" in text and "essential" in text for text in container.messages()), container.messages()
    return f"exit code 1 after {seconds:.1f} s (3 crashes), the agent is named"


# ---- reloading -------------------------------------------------------------------------------------------------------

MOUNTED = ("-e", "MESHSUP_MODE=dev")


def reloads(rig: Rig) -> str:
    """An edit on this host, below a bind mount, is answered by new code; no caller sees a failed request."""
    with rig.run(options=(*MOUNTED, "-v", f"{rig.context}:/app:ro")) as container:
        container.wait_ready(*AGENT_PORTS)
        assert "(MESHSUP_MODE), watching" in container.logs(), container.logs()[:500]
        with Callers(container.port(8104), GOAL) as callers:
            seconds = _edits(rig.context, lambda: container.get(8104, GOAL))
        assert not callers.failed, f"{len(callers.failed)} of {callers.asked} requests failed: {callers.failed[:3]}"
        clock = container.agent("clock")
        assert clock["generation"] == 1, f"an edit of others' files reloaded the clock: {clock}"
    return f"{_spread(seconds)} from the save to the new answer; 0 of {callers.asked} requests failed"


def _edits(mesh: Path, ask: Callable[[], str], times: int = 6) -> list[float]:
    """Edits of what planner reads, in place, and of its program, by a move; seconds until each is in its answer."""
    prompt, program = mesh / "examples/prompts/plan.md", mesh / "examples/planner.py"
    prompt_text, program_text = prompt.read_text(), program.read_text()
    seconds = []
    for number in range(times):
        word = f"edit-{number}"
        before = time.monotonic()
        if number % 2:
            prompt.write_text(f"{prompt_text}\n{word}\n")
        else:
            _save_atomically(program, program_text.replace('return {"goal"', f'return {{"edit": "{word}", "goal"'))
        wait_for(lambda word=word: word in ask(), f"the answer says {word}", 30)  # type: ignore[misc]
        seconds.append(time.monotonic() - before)
    prompt.write_text(prompt_text)
    _save_atomically(program, program_text)
    return seconds


def _save_atomically(path: Path, text: str) -> None:
    beside = path.with_name(path.name + "~")
    beside.write_text(text)
    beside.chmod(0o644)
    beside.replace(path)


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s (median of {len(seconds)}, slowest {max(seconds):.2f})"


def reloads_by_polling(rig: Rig) -> str:
    """The same through a file system that tells no events of edits on the other side, as those of Docker Desktop."""
    with _without_events(rig) as mounted, rig.run(options=(*MOUNTED, "-v", f"{mounted}:/app:ro")) as container:
        container.wait_ready(*AGENT_PORTS)
        assert "looked at every 0.5 s instead" in container.logs(), container.logs()[:1500]
        seconds = _edits(rig.context, lambda: container.get(8104, GOAL), 4)
    return f"{_spread(seconds)} from the save to the new answer, polling as it found out by itself"


@contextlib.contextmanager
def _without_events(rig: Rig) -> Iterator[Path]:
    """The context once more, through FUSE: what is edited in the first is seen in the second, without a word."""
    if shutil.which("bindfs") is None or not Path("/dev/fuse").exists() or os.geteuid() != 0:
        raise Skipped("needs bindfs, /dev/fuse and root, to make a file system that loses events")
    mounted = rig.folder / "without-events"
    mounted.mkdir()
    mounted.chmod(0o755)
    # The type by which the kernel calls Docker Desktop's; no attribute is kept, as there.
    words = [
        "bindfs",
        "-o",
        "subtype=grpcfuse,allow_other,attr_timeout=0,entry_timeout=0",
        str(rig.context),
        str(mounted),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"bindfs: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False)


# ---- with as little as possible --------------------------------------------------------------------------------------


def hardened(rig: Rig) -> str:
    """A read-only root, the state on a tmpfs, no capabilities, a user without a passwd entry, no new privileges."""
    options = ("--read-only", "--tmpfs", "/var/lib/mesh", "--cap-drop", "ALL", "--user", "12345:12345")
    with rig.run(options=(*options, "--security-opt", "no-new-privileges")) as container:
        healthy = container.wait_healthy()
        assert "prompt" in container.get(8104, GOAL)
        assert container.execute("id", "-u") == "12345"
        seconds, code = container.stop()
        assert code == 0, f"exit code {code}: {container.logs()[-2000:]}"
        warnings = [text for text in container.messages() if text.startswith("note:")]
    return f"healthy after {healthy:.1f} s, stopped after {seconds:.2f} s" + "".join(f"; {text}" for text in warnings)


def under_an_init(rig: Rig) -> str:
    """`docker run --init`: the same mode, the same addresses, the same end."""
    with rig.run(options=("--init",)) as container:
        container.wait_healthy()
        assert "prompt" in container.get(8104, GOAL)
        assert "prod mode" in container.messages()[0], container.messages()[0]
        seconds, code = container.stop()
        assert code == 0, f"exit code {code} after {seconds:.1f} s"
    return f"healthy, its ports answer, exit code 0 after {seconds:.2f} s"


def without_stdin(rig: Rig) -> str:
    """Descriptor 0 is closed; the next file that is opened must not become anybody's stdin."""
    options = ("--entrypoint", "sh")
    with rig.run("-c", "exec meshsup up <&-", options=options) as container:
        container.wait_healthy()
        assert "prompt" in container.get(8104, GOAL)
        seconds, code = container.stop()
        assert code == 0, f"exit code {code}: {container.logs()[-2000:]}"
    return f"healthy, exit code 0 after {seconds:.2f} s"


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def hangs_up(rig: Rig) -> str:
    """`docker kill -s HUP` with a broken mesh.toml changes nothing and says where; with a mended one it is applied."""
    good = settled("one")
    files = {"mesh.toml": good, "one.py": server("'one'"), "two.py": server("'two'")}
    with rig.mesh(files) as container:
        container.wait_ready("one")
        file = _mounted_folder(container) / "mesh.toml"
        file.write_text(good + "[agents.two\n")
        rig.docker("kill", "-s", "HUP", container.name)
        told = wait_for(lambda: [text for text in container.messages() if "mesh.toml" in text], "it is said", 20)
        assert container.get(8101) == "one" and container.agent("one")["generation"] == 1
        file.write_text(settled("one", "two"))
        before = time.monotonic()
        rig.docker("kill", "-s", "HUP", container.name)
        wait_for(lambda: container.get(8102) == "two", "the new agent answers", 20)
        seconds = time.monotonic() - before
        assert container.agent("one")["generation"] == 1, "the agent that did not change was restarted"
    return f"“{told[-1]}”; the mended one applied after {seconds:.2f} s"


def _mounted_folder(container: Container) -> Path:
    return Path(container.docker.inspect(container.name)["Mounts"][0]["Source"])


HUNGRY = """
import threading, time
def eat():
    time.sleep({delay})
    hoard = []
    while True:
        hoard.append(bytearray(4_000_000))
        time.sleep(0.01)
threading.Thread(target=eat, daemon=True).start()
"""


def runs_out_of_memory(rig: Rig) -> str:
    """The container's memory limit is reached by one agent: that one is named and restarted, the others serve on."""
    files = {
        "mesh.toml": settled("steady", "hungry", table="warm = false\n"),
        "steady.py": server("'steady'"),
        "hungry.py": server("'hungry'", HUNGRY.format(delay=3)),
    }
    with rig.mesh(files, "--memory", "200m", "--memory-swap", "200m") as container:
        if rig.docker("inspect", "--format", "{{.HostConfig.Memory}}", container.name) == "0":
            raise Skipped("this engine does not limit memory")
        container.wait_ready("steady", "hungry")
        told = wait_for(lambda: [t for t in container.messages() if "hungry" in t and "memory" in t], "it is named", 60)
        assert container.state()["Running"], "the limit of one agent ended the container"
        wait_for(lambda: container.agent("hungry")["generation"] > 1, "hungry is started again", 30)
        steady = container.agent("steady")
        assert container.get(8101) == "steady" and steady["generation"] == 1, f"steady suffered: {steady}"
        last = container.agent("hungry")["last"]
    return f"limit 200 MB: “{told[0]}” (ps: {last})"


ORPHANS = """
import os
for number in range(1000):
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid()
            os._exit(number % 2)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def reaps(rig: Rig) -> str:
    """A thousand children of an agent, each forked twice, end as orphans: nobody stays behind as a zombie."""
    files = {"mesh.toml": settled("parent"), "parent.py": server("'forked'", ORPHANS)}
    with rig.mesh(files) as container:
        container.wait_ready("parent")
        assert container.get(8101) == "forked"
        wait_for(lambda: container.zombies()[0] == 0, "no zombies", 20)
        zombies, processes = container.zombies()
        assert processes < 20, f"{processes} processes are left"
    return f"{zombies} zombies among {processes} processes after 1,000 orphans"


# ---- one agent per container -----------------------------------------------------------------------------------------


def one_agent_each(rig: Rig) -> str:
    """A registry and two agents in three containers of one image find each other; each stops with exit code 0."""
    network = f"{rig.label}-net".replace("=", "-")
    rig.docker("network", "create", "--label", rig.label, network)
    serve = ("registry", "serve", "--host", "0.0.0.0", "--allow-host", "registry")

    def options(name: str) -> tuple[str, ...]:
        told = ("-e", "MESHSUP_REGISTRY_URL=http://registry:8000", "-e", f"MESHSUP_ADVERTISE={name}")
        return ("--network", network, "--network-alias", name, *told)

    try:
        with (
            rig.run(*serve, options=(*options("registry"), "--no-healthcheck")) as registry,
            rig.run("run", "retriever", options=options("retriever")) as retriever,
            rig.run("run", "planner", options=options("planner")) as planner,
        ):
            retriever.wait_healthy()
            healthy = planner.wait_healthy()
            wait_for(lambda: "boil" in planner.get(8104, GOAL), "planner finds retriever", 30)
            ends = {name: one.stop() for name, one in (("planner", planner), ("retriever", retriever))}
            assert all(code == 0 for _, code in ends.values()), ends
            registry.stop()
    finally:
        rig.docker.run("network", "rm", network)
    slowest = max(seconds for seconds, _ in ends.values())
    return f"healthy after {healthy:.1f} s, found through the registry, exit code 0 after at most {slowest:.2f} s"


def one_agent_crashes(rig: Rig) -> str:
    """`run AGENT` restarts nothing: its exit code is the engine's to act on."""
    files = {"mesh.toml": settled("broken"), "broken.py": "import sys\nprint('no luck')\nsys.exit(7)\n"}
    folder = write(rig.folder / "crashing", files)
    with rig.run("run", "broken", options=("-v", f"{folder}:/app:ro")) as container:
        code = container.wait()
        assert code == 7, f"exit code {code}: {container.logs()}"
        assert container.messages("broken") == ["no luck"], container.logs()
    return f"exit code {code}, run once"


# ---- Compose ---------------------------------------------------------------------------------------------------------


def builds_by_compose(rig: Rig) -> str:
    """`docker compose build`: the same Dockerfile by BuildKit, where Compose has it; what it builds can run."""
    image = f"{rig.image}-composed"
    override = rig.folder / "network.yaml"  # an engine of our own gives containers no way out but the host's
    override.write_text("services: {mesh: {build: {network: host}}}\n")
    compose = _compose_command(rig, "compose.yaml", override, MESH_IMAGE=image)
    try:
        before = time.monotonic()
        built = compose("build", timeout=1200)
        seconds = time.monotonic() - before
        assert built.returncode == 0, built.stdout[-3000:]
        said = rig.docker("run", "--rm", "--label", rig.label, image, "check")
    finally:
        rig.docker.run("rmi", "-f", image)
    return f"{seconds:.1f} s; `docker run IMAGE check`: {said.splitlines()[-1]}"


def composed_for_development(rig: Rig) -> str:
    """compose.yaml: up, healthy, an edit on this host is answered, `down` leaves nothing."""
    with _composed(rig, "compose.yaml") as (ports, seconds):
        edits = _edits(rig.context, lambda: get(ports["planner"], GOAL), 4)
    return f"`up --wait` {seconds:.1f} s; an edit {_spread(edits)}"


def composed_for_production(rig: Rig) -> str:
    """compose.prod.yaml: up, healthy, answers; read-only, without capabilities."""
    with _composed(rig, "compose.prod.yaml") as (ports, seconds):
        assert "prompt" in get(ports["planner"], GOAL)
        (name,) = rig.docker("ps", "-q", "--filter", "label=com.docker.compose.project=mesh-example").split()
        host = rig.docker.inspect(name)["HostConfig"]
        assert host["ReadonlyRootfs"] and host["Memory"], host
        assert_powerless(rig.docker, name)
        before = time.monotonic()
        rig.docker("stop", name)
        stopping = time.monotonic() - before
        code = rig.docker.inspect(name)["State"]["ExitCode"]
        assert code == 0, f"exit code {code}"
    return f"`up --wait` {seconds:.1f} s, stopped after {stopping:.2f} s with exit code 0"


def assert_powerless(docker: Docker, container: str) -> None:
    """What the kernel says of it: engines write down in their own ways what they were asked for."""
    rows = dict(line.split(":\t", 1) for line in docker("exec", container, "cat", "/proc/1/status").splitlines())
    assert {int(rows[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}, "it has capabilities"
    assert rows["NoNewPrivs"] == "1", "it may get privileges"


@contextlib.contextmanager
def _composed(rig: Rig, file: str) -> Iterator[tuple[dict[str, int], float]]:
    """(the agents' ports on this host, seconds that `up --wait` took). `down` at the end, with its volumes."""
    ports = {name: _free_port() for name in AGENT_PORTS}
    compose = _compose_command(rig, file, **{f"{name.upper()}_PORT": str(port) for name, port in ports.items()})
    checked = compose("config", "--quiet")
    assert checked.returncode == 0 and not checked.stdout.strip(), f"config: {checked.stdout}"
    try:
        before = time.monotonic()
        up = compose("up", "-d", "--no-build", "--wait")
        logs = compose("logs").stdout[-2000:] if up.returncode else ""
        assert up.returncode == 0, f"up: {up.stdout[-1000:]}{logs}"
        yield ports, time.monotonic() - before
    finally:
        down = compose("down", "-v", "--timeout", "10")
    assert down.returncode == 0, f"down: {down.stdout}"


class ComposeCommand(Protocol):
    def __call__(self, *verb: str, timeout: float = 180) -> subprocess.CompletedProcess[str]: ...


def _compose_command(rig: Rig, file: str, *more: Path, **told: str) -> ComposeCommand:
    """Compose with a file of examples/docker/ (and others over it), and these variables. Raises Skipped."""
    if rig.compose is None:
        raise Skipped("there is no `docker compose`, no docker-compose, and no --compose PATH")
    command, environ = rig.compose, {"MESH_IMAGE": rig.image, "BASE": rig.base, **told}
    files = [word for path in (rig.context / "examples/docker" / file, *more) for word in ("-f", str(path))]

    def run(*verb: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return rig.docker.run(*files, *verb, timeout=timeout, env=environ, both=True, command=command)

    return run


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


ALL: tuple[Callable[[Rig], str], ...] = (
    builds,
    is_healthy,
    stops,
    stops_a_stubborn_one,
    stops_while_it_starts,
    gives_up,
    reloads,
    reloads_by_polling,
    hardened,
    under_an_init,
    without_stdin,
    hangs_up,
    runs_out_of_memory,
    reaps,
    one_agent_each,
    one_agent_crashes,
    builds_by_compose,
    composed_for_development,
    composed_for_production,
)


def title(scenario: Callable[[Rig], str]) -> str:
    return scenario.__name__.replace("_", " ")
