"""`run`, `exec`, `check`, completion: what needs no supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from mesh_supervisor.cli import alone
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import Answer
from mesh_supervisor.errors import MeshError, UnknownAgent
from mesh_supervisor.host.peer import Peer
from mesh_supervisor.locate import Place, control_socket
from tests.cli.conftest import MESHSUP, Command, environment
from tests.control.fake import FakeMesh

REPORT = """
import json, os, sys
print(json.dumps({
    "said": sys.stdin.read(), "cwd": os.getcwd(), "python": sys.executable, "argv": sys.argv[1:],
    "environ": dict(os.environ), "group": os.getpgrp(),
}))
sys.exit(7)
"""


@pytest.fixture
def planner(root: Path) -> Path:
    """planner tells what it finds, and exits with 7."""
    (root / "agents" / "planner.py").write_text(REPORT)
    (root / "mesh.toml").write_text(
        '[agents.planner]\ncommand = "agents/planner.py"\nargs = ["--fast"]\ndirectory = "agents"\nport = 18765\n'
        'env = { MODEL = "small" }\n'
    )
    return root


def test_run_becomes_the_agent(planner: Path, meshsup: Command) -> None:
    mark = {"MESHSUP_INSTANCE": "someone/else/1", "PORT": "3000", "MODEL": "large"}
    done = meshsup("run", "planner", stdin="over stdio", env=mark)
    assert done.code == 7
    report = json.loads(done.out)
    assert (report["said"], report["cwd"], report["argv"]) == ("over stdio", str(planner / "agents"), ["--fast"])
    told = report["environ"]
    assert (told["PORT"], told["MODEL"], told["MESHSUP_GENERATION"]) == ("18765", "small", "0")
    assert "MESHSUP_INSTANCE" not in told
    assert Path(told["MESHSUP_STATE_DIR"]).is_dir()


def test_exec_runs_anything_there(planner: Path, meshsup: Command) -> None:
    done = meshsup("exec", "planner", "--", "sh", "-c", 'echo "$MODEL $PORT $PWD"; exit 3', "--version")
    assert (done.code, done.out) == (3, f"small 18765 {planner}/agents\n")
    assert meshsup("exec", "planner", "sh", "-c", "echo $0", "-x").out == "-x\n"
    python = meshsup("exec", "planner", "python", "-c", "import sys; print(sys.prefix)").out
    assert python == f"{sys.prefix}\n"


def test_exec_finds_the_nearest_venv(planner: Path, meshsup: Command) -> None:
    bin_dir = planner / "agents" / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    (bin_dir / "python").symlink_to(sys.executable)
    (bin_dir / "tool").write_text("#!/bin/sh\necho the tool of $VIRTUAL_ENV\n")
    (bin_dir / "tool").chmod(0o755)
    assert meshsup("exec", "planner", "tool").out == f"the tool of {planner}/agents/.venv\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("exec", "planner", "--", "nonsuch"), 127, "nonsuch: no such command"),
        (("exec", "planner", "--"), 2, "nothing to run"),
        (("exec", "planer", "--", "true"), 4, "did you mean 'planner'?"),
        (("run", "planer"), 4, "did you mean 'planner'?"),
        (("run", "planer", "--prod"), 4, "did you mean 'planner'?"),
        (("run", "planner", "--debug", "--watch"), 2, "leave one of them out"),
    ],
)
def test_what_cannot_be_run(planner: Path, meshsup: Command, words: tuple[str, ...], code: int, sentence: str) -> None:
    done = meshsup(*words)
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err


HOW_IT_STARTS = {
    "generation": 8,
    "argv": [sys.executable, "-c", "import os; print(os.environ['MODEL'], os.environ['TERM'], os.getcwd())"],
    "environ": {"MODEL": "small", "TERM": "of the mesh", "PATH": os.environ["PATH"]},
    "directory": "/",
    "python": sys.executable,
}


def test_run_takes_the_agent_over(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.answers["hold"] = Answer(ok=True, body=HOW_IT_STARTS)
    done = meshsup("run", "planner", env={"MODEL": "large"})
    assert (done.code, done.out) == (0, "small xterm-256color /\n"), "the mesh's environment, this terminal"
    assert done.err == "planner: taken over from the mesh; it goes on there when this ends\n"
    ((verb, arguments),) = mesh.asked
    assert (verb, arguments["agents"], arguments["how"]) == ("hold", ["planner"], "run")
    assert arguments["pid"] > 1, "who asks, as the kernel says it"


@pytest.mark.parametrize(("words", "mode"), [((), "prod"), (("--dev",), "prod"), (("--no-watch",), "dev")])
def test_a_person_beside_a_running_mesh_takes_over_whatever_its_mode(
    mesh: FakeMesh, meshsup: Command, words: tuple[str, ...], mode: str
) -> None:
    mesh.answers["hold"] = Answer(ok=True, body=HOW_IT_STARTS)
    assert meshsup("run", "planner", *words, env={"MESHSUP_MODE": mode}).code == 0
    assert [verb for verb, _ in mesh.asked] == ["hold"]


def test_nobody_can_ask_for_another_process(mesh: FakeMesh) -> None:
    mesh.answers["hold"] = Answer(ok=True, body=HOW_IT_STARTS)
    Client(mesh.place).command("hold", agents=["planner"], pid=1)
    assert mesh.asked[0][1]["pid"] == os.getpid()


def test_run_of_what_cannot_be_taken_over(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.answers["hold"] = MeshError("planner is held by `meshsup run` (pid 4242) already; end that first")
    done = meshsup("run", "planner")
    assert (done.code, done.out) == (1, "")
    assert done.err == "meshsup: planner is held by `meshsup run` (pid 4242) already; end that first\n"
    mesh.answers["hold"] = UnknownAgent("planer", ["planner"])
    assert meshsup("run", "planer").code == 4


@contextlib.contextmanager
def forged(place: Place) -> Iterator[list[bytes]]:
    """Somebody else at the control socket, who says what to run to whoever asks; what he was asked."""
    place.state_dir.mkdir()
    body = json.dumps(Answer(ok=True, body={**HOW_IT_STARTS, "argv": ["touch", str(place.root / "caught")]}).to_json())
    said = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_socket(place.state_dir)))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # it is over
                while True:
                    line, _ = listener.accept()
                    with line, contextlib.suppress(OSError):
                        if request := line.recv(65536):
                            asked.append(request)
                            line.sendall(said)
                        while line.recv(65536):  # a body comes by itself; they hang up
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def ways_to_obey(place: Place) -> Iterator[Callable[[], object]]:
    yield lambda: alone.run(place, "planner")
    yield lambda: alone.run(place, "planner", alone.Debug())
    yield lambda: alone.execute(place, "planner", ["true"])


def test_a_forged_answer_is_executed_where_it_is_our_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the next one shows something."""
    became: list[str] = []

    def become(file: str, argv: list[str], environ: dict[str, str]) -> NoReturn:
        became.append(file)
        raise SystemExit

    monkeypatch.setattr(os, "execvpe", become)
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with forged(place), pytest.raises(SystemExit):
        alone.run(place, "planner")
    assert became == ["touch"]


@pytest.mark.parametrize(
    ("pid", "uid", "sentence"),
    [(0, None, "in another container"), (4242, 54321, "become that user: `docker exec -u 54321")],
)
def test_nobody_else_says_what_is_run(
    place: Place, monkeypatch: pytest.MonkeyPatch, pid: int, uid: int | None, sentence: str
) -> None:
    listener = Peer(pid, os.geteuid() if uid is None else uid)
    monkeypatch.setattr("mesh_supervisor.control.client.peer_of", lambda line: listener)
    monkeypatch.setattr(os, "execvpe", lambda *_: pytest.fail("it was executed"))
    with forged(place) as asked:
        for become in ways_to_obey(place):
            with pytest.raises(MeshError, match=sentence) as refused:
                become()
            assert refused.value.exit_code == 1
    assert asked == [], "and nothing was asked of him"


def test_run_keeps_the_terminal(planner: Path) -> None:
    """The agent is in the terminal's foreground process group: a debugger can read from it."""
    (planner / "agents" / "planner.py").write_text(
        "import os, sys\nprint('in front:', os.tcgetpgrp(0) == os.getpgrp(), sys.stdin.isatty())\n"
    )
    assert pty.STDIN_FILENO == 0
    script = "import pty,sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(MESHSUP), "run", "planner"],
        cwd=planner,
        env=environment(planner),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "in front: True True" in done.stdout


def test_a_broken_pipe_ends_what_is_run(planner: Path) -> None:
    """SIGPIPE is back to normal: Python's own ignoring of it must not be inherited."""
    shell = f"{MESHSUP} exec planner -- yes | head -n 1"
    done = subprocess.run(
        shell,
        shell=True,
        cwd=planner,
        env=environment(planner),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("y\n", "")


# ---- check -------------------------------------------------------------------------------------------------------


def test_check_says_what_the_mesh_is(planner: Path, meshsup: Command) -> None:
    done = meshsup("check")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == f"{planner}/mesh.toml is valid"
    assert "1 agent, dev (the default), watching" in lines[1]
    assert lines[2] == "registry: embedded, port 8000 or the next free one"
    assert lines[-1].split()[:3] == ["planner", "18765", "1"]
    assert lines[-1].endswith("agents/planner.py --fast (in agents)")


def test_check_finds_all_mistakes_at_once(root: Path, meshsup: Command) -> None:
    (root / "mesh.toml").write_text(
        '[agents.planner]\ncommand = "gone.py"\nprot = 1\n\n[agents.Bad]\ncommand = "x.py"\n'
    )
    done = meshsup("check")
    assert (done.code, done.out) == (2, "")
    lines = done.err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("mesh.toml") for line in lines)
    assert "did you mean" in done.err


def test_check_names_imports_that_are_nowhere(root: Path, meshsup: Command) -> None:
    (root / "agents" / "planner.py").write_text("import common.llm\nimport common.tool\nimport not_installed_at_all\n")
    (root / "common").mkdir()
    (root / "common" / "llm.py").write_text("")
    done = meshsup("check")
    assert (done.code, done.err.splitlines()) == (
        0,
        [
            "planner: ModuleNotFoundError: No module named 'not_installed_at_all' … agents/planner.py:3",
            "planner: ModuleNotFoundError: No module named 'common' … agents/planner.py:1; a script finds what is "
            'beside it, `module = "agents.planner"` what is in mesh.toml\'s folder',
        ],
    )


def test_schema_is_a_json_schema(meshsup: Command) -> None:
    assert "agents" in json.loads(meshsup("schema").out)["properties"]


# ---- completion --------------------------------------------------------------------------------------------------


def completed(meshsup: Command, *words: str) -> list[str]:
    asked = {"_MESHSUP_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return [line.partition(",")[2] for line in meshsup(env=asked).out.splitlines()]


def test_verbs_and_agents_are_completed(meshsup: Command) -> None:
    assert completed(meshsup, "meshsup", "rest") == ["restart"]
    assert completed(meshsup, "meshsup", "restart", "pl") == ["planner"]
    assert completed(meshsup, "meshsup", "watch", "en") == ["enable"]
    assert completed(meshsup, "meshsup", "up", "--pro") == ["--profile", "--prod"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(meshsup: Command, shell: str) -> None:
    done = meshsup("completion", shell)
    assert done.code == 0
    assert "_MESHSUP_COMPLETE" in done.out


def test_bash_accepts_the_script(meshsup: Command, root: Path) -> None:
    shell = f'source <("{MESHSUP}" completion bash); complete -p meshsup'
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=root,
        env={**environment(root), "PATH": f"{MESHSUP.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "_meshsup_completion meshsup" in done.stdout


def test_why_when_nothing_runs(root: Path, meshsup: Command) -> None:
    (root / "agents" / "planner.py").write_text("import tool\n")
    (root / "agents" / "tool.py").write_text("")
    done = meshsup("why", "agents/tool.py", "mesh.toml", "gone.py")
    assert (done.code, done.err) == (0, "nothing runs; this is what mesh.toml says\n")
    imported, config, gone = done.out.splitlines()
    assert imported == "planner: agents/tool.py ← agents/planner.py (import)"
    assert config.startswith(f"{root}/mesh.toml: it is applied when it is saved")
    assert gone == f"{root}/gone.py: no agent depends on it (there is no such file)"
    assert not (root / ".mesh").exists()


def test_watch_status_when_nothing_runs(root: Path, meshsup: Command) -> None:
    (root / "agents" / "planner.py").write_text("import tool\n")
    (root / "agents" / "tool.py").write_text("")
    done = meshsup("watch", "status", "plan*")
    assert (done.code, done.err) == (0, "")
    assert done.out == "watching: nothing runs; as soon as it does\nplanner: 2 imported files\n"
    assert not (root / ".mesh").exists()
    body = json.loads(meshsup("watch", "status", "--json").out)
    assert (body["how"], body["agents"]["planner"]["imports"]) == ("off", 2)
    assert meshsup("watch", "status", "planer").code == 4
    assert meshsup("watch", "disable").code == 3, "what changes a mesh needs one"


def test_check_shows_a_port_that_was_chosen_and_chooses_none(root: Path, meshsup: Command) -> None:
    (root / "mesh.toml").write_text('[agents.planner]\ncommand = "agents/planner.py"\nport = 0\n')
    assert meshsup("check").out.splitlines()[-1].split()[1:3] == ["at", "start"]
    assert not (root / ".mesh").exists()
    port = meshsup("exec", "planner", "--", "sh", "-c", "echo $PORT").out.strip()
    assert meshsup("check").out.splitlines()[-1].split()[1] == port
