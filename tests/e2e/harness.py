"""A mesh under test: a folder of its own, ports of its own, and the real ``meshsup`` command.

``with fresh_mesh() as mesh`` ends by stopping everything and then asserts that no process of this mesh remains. Every
process that a mesh starts is recognised by a mark in its environment, or by the folder in its command line or working
directory (for those that scrub their environment). Tests wait for facts with ``wait_for``, never for time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.load import Load, http_load
from mesh_supervisor.control.messages import AgentView, Snapshot
from mesh_supervisor.host import procfs
from mesh_supervisor.locate import control_socket

MESHSUP = Path(sys.executable).with_name("meshsup")
REPOSITORY = Path(__file__).resolve().parents[2]
NOT_YET = (AssertionError, OSError, http.client.HTTPException, KeyError, ValueError)

STANDSTILL = 2
"""Seconds' worth of requests that a load has open at most: a machine that is slower than that is asked less, instead of
being buried (requests time out after 10 s, and that must be the product's doing)."""

T = TypeVar("T")


def wait_for(fact: Callable[[], T], timeout: float = 30.0) -> T:
    """The first truthy value of ``fact()``, asked every 20 ms; not-yet errors count as no. AssertionError when late."""
    deadline = time.monotonic() + timeout
    while True:
        said: object = None
        try:
            said = found = fact()
            if found:
                return found
        except NOT_YET as error:
            said = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not a fact within {timeout} s; the last look said: {said!r}")
        time.sleep(0.02)


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, below the range that the kernel hands out to outgoing connections.

    None is given twice: nobody may listen on the first one yet. Workers of pytest-xdist each have ports of their own.
    """
    while True:
        port = random.randrange(12000 + WORKER, 32000, WORKERS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def overwrite(file: Path, text: str) -> None:
    """Save in place, as editors without atomic saves do, but in one write: a busy machine that stopped us between the
    emptying of a file and its writing would make two saves of one."""
    content = text.encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        written = os.write(descriptor, content)
        assert written == len(content), f"{file}: only {written} bytes could be written"
        if os.fstat(descriptor).st_size > written:
            os.ftruncate(descriptor, written)
    finally:
        os.close(descriptor)


def get(port: int, path: str = "/", *, host: str = "127.0.0.1", timeout: float = 10.0) -> tuple[int, str]:
    """Status and body of one GET on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (OSError, IndexError):
        return False


def children(pid: int) -> list[int]:
    """Of all its threads, some of which may end while they are looked at. The kernel's own list, or nothing to test."""
    found = procfs.children(pid)
    assert found is not None, "this kernel does not list children (CONFIG_PROC_CHILDREN)"
    return found


def open_files(pid: int) -> list[str]:
    """What its descriptors are of; one that is closed while they are looked at is left out."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Those that are still there: some come and go, such as what is tried before it is warm."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str


class Foreground:
    """A ``meshsup`` command that goes on, with its output in a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout)


SERVER = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
{extra}
ANSWER = {answer!r}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *args):
        pass

ThreadingHTTPServer.allow_reuse_address = True
ThreadingHTTPServer.request_queue_size = 128  # with its own five, a busy machine loses callers before they are accepted
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


def server(answer: str, extra: str = "") -> str:
    """The source of an agent that answers every GET with ``answer``; ``extra`` is run before it serves."""
    return SERVER.format(answer=answer, extra=textwrap.dedent(extra))


class Mesh:
    """One folder with a mesh.toml, and the command that runs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mark = uuid.uuid4().hex
        self.state_dir = root / ".mesh"
        self.registry_port = free_port()
        self._ports: dict[str, int] = {}
        self._foregrounds: list[Foreground] = []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MESHSUP", "MCP_MESH"))}
        inherited.pop("VIRTUAL_ENV", None)
        self.environ = {**inherited, "MESH_UNDER_TEST": self.mark, "NO_COLOR": "1", "COLUMNS": "200"}

    # ---- files ---------------------------------------------------------------------------------------------------

    def port(self, agent: str) -> int:
        """The port of an agent: a free one, the same at every call."""
        return self._ports.setdefault(agent, free_port())

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        overwrite(file, textwrap.dedent(text))
        return file

    def edit(self, path: str, old: str, new: str) -> None:
        """Save the file with ``old`` replaced, in place, as editors without atomic saves do."""
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{path} does not hold {old!r}"
        overwrite(file, text.replace(old, new))

    def save_atomically(self, path: str, text: str) -> None:
        """Save as most editors do: a temporary file beside it, moved over it."""
        file = self.root / path
        beside = file.with_name(file.name + ".tmp~")
        beside.write_text(text)
        beside.replace(file)

    def config(self, agents: str, *, mesh: str = "", registry: str = "") -> Path:
        """Write mesh.toml: this mesh's registry port, and what the test has to say."""
        text = f'[mesh]\nname = "under-test"\n{textwrap.dedent(mesh)}\n'
        text += f"[registry]\nport = {self.registry_port}\n{textwrap.dedent(registry)}\n"
        return self.write("mesh.toml", text + textwrap.dedent(agents))

    def serving(self, *names: str, keys: str = "") -> None:
        """Agents NAME.py that answer ``NAME one``, each with a port, and the mesh.toml that runs them."""
        for name in names:
            self.write(f"{name}.py", server(f"{name} one"))
        self.config("".join(self.table(name, keys) for name in names))

    def table(self, name: str, keys: str = "") -> str:
        return f'[agents.{name}]\ncommand = "{name}.py"\nport = {self.port(name)}\n{textwrap.dedent(keys)}\n'

    # ---- the command ---------------------------------------------------------------------------------------------

    def run(self, *words: str, timeout: float = 60.0, env: Mapping[str, str] = {}, cwd: Path | None = None) -> Finished:
        """One ``meshsup`` command to its end. TimeoutExpired when it hangs."""
        done = subprocess.run(
            [str(MESHSUP), *words],
            cwd=cwd or self.root,
            env={**self.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, timeout: float = 60.0) -> str:
        """One command that must succeed; its stdout."""
        done = self.run(*words, timeout=timeout)
        assert done.code == 0, f"meshsup {' '.join(words)} exited with {done.code}: {done.out}\n{done.err}"
        return done.out

    def up(self, *words: str, ready: bool = True) -> None:
        """``up -d``; with ``ready`` also waits until all agents are."""
        self.ok("up", "-d", *words)
        if ready:
            self.wait_ready()

    def foreground(self, *words: str, env: Mapping[str, str] = {}, before: tuple[str, ...] = ()) -> Foreground:
        """A command that goes on, in a session of its own (so that its Ctrl-C is not ours); ``before``: a wrapper."""
        output = self.root / f"foreground-{len(self._foregrounds)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*before, str(MESHSUP), *words],
                cwd=self.root,
                env={**self.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._foregrounds.append(Foreground(process, output))
        return self._foregrounds[-1]

    # ---- what is the case ----------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """From the control socket, as ``ps`` reads it, but cheap enough to be asked often. OSError: nothing runs."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            line.connect(str(control_socket(self.state_dir)))
            line.sendall(b"GET /snapshot HTTP/1.0\r\nHost: mesh\r\n\r\n")
            with http.client.HTTPResponse(line) as answer:
                answer.begin()
                return Snapshot.from_json(json.load(answer))

    def agents(self) -> dict[str, AgentView]:
        return {view.name: view for view in self.snapshot().agents if view.kind != "registry"}

    def agent(self, name: str) -> AgentView:
        return self.agents()[name]

    def registry(self) -> AgentView:
        return next(view for view in self.snapshot().agents if view.kind == "registry")

    def pids(self) -> dict[str, int | None]:
        return {name: view.pid for name, view in self.agents().items()}

    def wait_ready(self, *names: str, timeout: float = 40.0) -> dict[str, AgentView]:
        """Until these agents (none named: all that are wanted) are ready, and registered where they are to be."""

        def look() -> dict[str, AgentView]:
            views = self.agents()
            wanted = names or [name for name, view in views.items() if view.wanted]
            assert wanted or not views, "the supervisor has not come to its agents yet"
            for name in wanted:
                view = views[name]
                assert (view.state == "ready" and view.registered != "no") or view.state == "done", (
                    f"{name}: {view.state} ({view.detail}), registered: {view.registered}; {view.failure}"
                )
            return views

        return wait_for(look, timeout)

    def wait_state(self, name: str, *states: str, timeout: float = 30.0) -> AgentView:
        def look() -> AgentView:
            view = self.agent(name)
            assert view.state in states, f"{name} is {view.state} ({view.detail})"
            return view

        return wait_for(look, timeout)

    def wait_generation(self, name: str, above: int, timeout: float = 30.0) -> AgentView:
        """Until a later generation than ``above`` is ready and registered."""

        def look() -> AgentView:
            view = self.agent(name)
            assert view.generation > above and view.state == "ready" and view.registered != "no", f"{view}"
            return view

        return wait_for(look, timeout)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send it to the process of the agent; its pid."""
        pid = self.agent(name).pid
        assert pid is not None, f"{name} has no process"  # a pid of 0 would be all of us
        os.kill(pid, number)
        return pid

    def reload(self, name: str) -> None:
        """`reload`, and until nothing of the old one is left: it answers for a moment beside the new one."""
        old = self.agent(name).pid
        self.ok("reload", name)
        self.wait_gone(old)

    def wait_gone(self, pid: int | None, timeout: float = 30.0) -> None:
        """Until that process has ended: an old generation, which answers for a moment beside the new one."""
        wait_for(lambda: pid is None or not alive(pid), timeout)

    @contextlib.contextmanager
    def only_restarts(self, *names: str, timeout: float = 30.0) -> Iterator[None]:
        """What is done inside restarts exactly these agents, each once; the others keep pid and generation. Afterwards
        nothing of the old ones is left, so that only the new ones can answer: for a moment both do."""
        before = self.wait_ready()
        yield
        for name in names:
            self.wait_generation(name, before[name].generation, timeout)
            self.wait_gone(before[name].pid)
        after = self.wait_ready()
        restarted = {name for name in after if after[name].pid != before[name].pid}
        assert restarted == set(names)
        assert {name: after[name].generation - before[name].generation for name in after} == {
            name: int(name in names) for name in after
        }

    def answer(self, name: str, path: str = "/", *, timeout: float = 10.0) -> str:
        """What the agent says; OSError while it is away. ``timeout``: seconds that a long work of its own may take."""
        status, text = get(self.port(name), path, timeout=timeout)
        assert status == 200, f"{name} answered {status}: {text}"
        return text

    def wait_answer(self, name: str, text: str, timeout: float = 30.0) -> None:
        def look() -> bool:
            said = self.answer(name)
            assert said == text, f"{name} says {said!r}"
            return True

        wait_for(look, timeout)

    def word(self, name: str, path: str = "/") -> str:
        """The first word of what the agent says: those of agents.py answer ``WORD PID``."""
        return self.answer(name, path).split()[0]

    def wait_word(self, name: str, word: str, timeout: float = 30.0) -> None:
        def look() -> bool:
            said = self.word(name)
            assert said == word, f"{name} says {said!r}"
            return True

        wait_for(look, timeout)

    def wait_rejected(self, name: str) -> AgentView:
        """Until the newest edit was not taken, and the old instance is ready again."""

        def look() -> AgentView:
            view = self.agent(name)
            assert view.rejection and view.state == "ready", view
            return view

        return wait_for(look)

    def load(self, name: str, *, rate: int = 100, **options: Any) -> Load:
        """So many requests a second on the agent, on fresh and kept connections in turn; see http_load."""
        return Load(http_load(self.port(name), rate=rate, most=STANDSTILL * rate, **options))

    def row(self, name: str) -> dict[str, Any]:
        """The agent in ``ps --json``."""
        rows: list[dict[str, Any]] = json.loads(self.ok("ps", "--json", name))["agents"]
        return rows[0]

    def history(self, name: str) -> list[dict[str, Any]]:
        """The reloads of the agent, oldest first."""
        rows: list[dict[str, Any]] = json.loads(self.ok("history", "--json", name))
        return rows

    def registered(self, query: str = "") -> list[dict[str, Any]]:
        """Rows of the registry's GET /agents."""
        status, text = get(self.registry_port, "/agents" + query)
        assert status == 200, text
        rows: list[dict[str, Any]] = json.loads(text)["agents"]
        return rows

    def log(self, name: str = "meshsup") -> str:
        """The log file of an agent, or the supervisor's; '' while there is none. A thread writes it: what has happened
        is not in it yet. See ``wait_log``."""
        try:
            return (self.state_dir / "logs" / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_log(self, text: str, name: str = "meshsup", *, count: int = 1) -> None:
        """Until that log file has the text, so many times at least."""

        def look() -> bool:
            said = self.log(name)
            assert said.count(text) >= count, f"{text!r} is not {count} times in {said[-2000:]!r}"
            return True

        wait_for(look)

    def events(self, *kinds: str, agent: str | None = None) -> list[dict[str, Any]]:
        """What is in events.jsonl, oldest first; a line that is still being written is left out."""
        file = self.state_dir / "events.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [e for e in events if (not kinds or e["kind"] in kinds) and (agent is None or e.get("agent") == agent)]

    # ---- the end -------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """{pid: command line} of everything that belongs to this mesh, zombies left out."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid() and self._is_ours(entry):
                with contextlib.suppress(OSError):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return {pid: line for pid, line in found.items() if alive(pid)}

    def _is_ours(self, entry: Path) -> bool:
        folder = str(self.root).encode()
        try:
            if self.mark.encode() in (entry / "environ").read_bytes() or folder in (entry / "cmdline").read_bytes():
                return True
            return (entry / "cwd").readlink().is_relative_to(self.root)
        except OSError:
            return False

    def nothing_remains(self, timeout: float = 15.0) -> None:
        """Assert that no process of this mesh is left, giving those that are ending the time to end."""

        def look() -> bool:
            left = self.processes()
            assert not left, f"still there: {left}"
            return True

        wait_for(look, timeout)

    def close(self) -> None:
        """Stop all; assert that nothing remains; whatever happens, kill what does."""
        try:
            if any(alive(pid) for pid in self.processes()):
                self.run("down", timeout=60)
            for foreground in self._foregrounds:  # those that `down` does not know of: `registry serve`, a log
                foreground.process.terminate()
            self.nothing_remains()
        finally:
            signal_all(self.processes(), signal.SIGKILL)
            for foreground in self._foregrounds:
                if foreground.process.poll() is None:
                    foreground.process.kill()
                foreground.process.wait(10)

    def tell(self) -> None:
        """For the report of a failed test: how it stood."""
        print(f"mesh {self.root}, registry port {self.registry_port}")
        with contextlib.suppress(*NOT_YET):
            for view in self.snapshot().agents:
                print(view)
        for file in sorted(self.root.glob("foreground-*.out")) + sorted((self.state_dir / "logs").glob("*")):
            with contextlib.suppress(OSError):  # it may be rotated away meanwhile
                print(f"---- {file.name}\n{file.read_text(errors='replace')[-4000:]}")


@contextlib.contextmanager
def fresh_mesh() -> Iterator[Mesh]:
    """A mesh in a folder of its own (a short path: sockets live in it), stopped and gone at the end."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        mesh = Mesh(Path(folder).resolve())
        try:
            yield mesh
        finally:
            mesh.tell()
            mesh.close()
