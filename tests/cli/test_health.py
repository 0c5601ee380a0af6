"""`health`: one line on stdout whatever happens, an exit code that engines understand, and no work to speak of."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mesh_supervisor.cli.probe import Question, answer, understood
from mesh_supervisor.control import glance
from mesh_supervisor.control.brief import AgentBrief
from mesh_supervisor.host.peer import Peer
from mesh_supervisor.locate import Place, control_socket
from tests.cli.conftest import MESHSUP, Command, Done, environment
from tests.control.fake import PLANNER, FakeMesh, brief

CRASHED = replace(PLANNER, name="clock", state="crashloop", detail="exit 1", ready=False, given_up=True)

Ask = Callable[..., Done]


@pytest.fixture(params=["short", "long"])
def ask(request: pytest.FixtureRequest, root: Path) -> Ask:
    """`meshsup …` by the short way of cli/entry.py, and by cli/main.py: both must say the same."""
    module = {"short": "mesh_supervisor.cli.entry", "long": "mesh_supervisor.cli.main"}[request.param]
    code = f"from {module} import main; main()"

    def run(*words: str, cwd: Path | None = None, **env: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=cwd or root,
            env={**environment(root), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def said(done: Done) -> tuple[int, str]:
    """Its exit code and its line: one, and nothing else anywhere."""
    assert done.err == ""
    assert done.out.count("\n") == 1 and done.out.endswith("\n")
    return done.code, done.out.strip()


# ---- what it says ------------------------------------------------------------------------------------------------


def test_ready_and_live(mesh: FakeMesh, ask: Ask) -> None:
    mesh.in_brief = brief(mesh.place, PLANNER, CRASHED)
    down = "1 of 2 agents are ready; clock is in a crash loop (exit 1)"
    assert said(ask("health")) == said(ask("health", "--ready")) == (1, f"not ready: {down}")
    assert said(ask("health", "--live")) == (0, f"live: {down}")
    assert said(ask("health", "planner")) == (0, "ready: 1 of 1 agent is ready")
    assert said(ask("health", "c*", "--live")) == (1, "not live: clock is in a crash loop (exit 1)")


def test_an_agent_that_is_none(mesh: FakeMesh, ask: Ask) -> None:
    code, line = said(ask("health", "planer"))
    assert (code, line) == (4, "unknown agent: no agent is called 'planer'; did you mean 'planner'?")


def test_nothing_runs(root: Path, ask: Ask) -> None:
    assert said(ask("health")) == (3, f"not running: nobody answers for {root}/mesh.toml; `meshsup up` starts it")
    assert said(ask("health", "--live"))[0] == 3


def test_no_mesh_is_a_line_too(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code, line = said(ask("health", cwd=elsewhere))
    assert code == 2
    assert line.startswith("no mesh: no mesh.toml in ")
    code, line = said(ask("-f", "other.toml", "health"))
    assert (code, line.endswith("other.toml: no such file; `meshsup init` writes one")) == (2, True)


def test_from_another_folder_as_engines_ask(
    mesh: FakeMesh, root: Path, ask: Ask, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """docker exec and HEALTHCHECK run in WORKDIR, with the image's environment."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fine = (0, "ready: 1 of 1 agent is ready")
    assert said(ask("health", cwd=elsewhere, MESHSUP_FILE=str(root / "mesh.toml"))) == fine
    assert said(ask("-C", str(root), "health", cwd=elsewhere)) == fine
    assert said(ask("--file", str(root / "mesh.toml"), "health", "--live", cwd=elsewhere))[0] == 0
    assert said(ask("health", cwd=root / "agents")) == fine


def test_a_mesh_toml_that_is_broken_is_not_its_business(mesh: FakeMesh, root: Path, ask: Ask) -> None:
    (root / "mesh.toml").write_text("[mesh\nname = ")
    assert said(ask("health"))[0] == 0


# ---- supervisors that do not answer ------------------------------------------------------------------------------


@pytest.fixture
def silent(place: Place) -> Iterator[socket.socket]:
    """Somebody who listens and never accepts: a supervisor that hangs, or was stopped by SIGSTOP."""
    place.state_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_socket(place.state_dir)))
        listener.listen(1)
        yield listener


def test_one_that_hangs_is_a_no_in_time(silent: socket.socket, ask: Ask) -> None:
    late = (1, "no answer: the supervisor does not answer within 1 s")
    assert said(ask("health", "--timeout", "1")) == late
    assert said(ask("health", "--live", "--timeout", "1")) == late


def test_one_for_which_the_kernel_takes_no_more_connections(silent: socket.socket, place: Place, ask: Ask) -> None:
    waiting = []
    try:
        while True:
            line = socket.socket(socket.AF_UNIX)
            line.setblocking(False)
            waiting.append(line)
            try:
                line.connect(str(control_socket(place.state_dir)))
            except BlockingIOError:
                break
        assert said(ask("health")) == (1, "no answer: the supervisor does not answer within 3 s")
    finally:
        for line in waiting:
            line.close()


def test_one_that_has_died_left_a_socket_that_says_nothing(silent: socket.socket, ask: Ask) -> None:
    silent.close()
    assert said(ask("health"))[0] == 3


def test_one_in_another_container_is_none(mesh: FakeMesh, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared state_dir: what answers there is not what the check is for, whatever it says."""
    monkeypatch.setattr(glance, "peer_of", lambda line: Peer(0, os.geteuid()))
    assert answer(Question(), root, {}) == (
        f"not running: nobody here answers for {root}/mesh.toml; what listens at {root}/.mesh/control.sock runs in "
        "another container",
        3,
    )
    monkeypatch.setattr(glance, "peer_of", lambda line: None)  # nobody can tell
    assert answer(Question(), root, {}) == ("ready: 1 of 1 agent is ready", 0)


# ---- for machines ------------------------------------------------------------------------------------------------


def test_json_is_one_line_as_well(mesh: FakeMesh, ask: Ask) -> None:
    mesh.in_brief = brief(mesh.place, PLANNER, CRASHED)
    done = ask("health", "--json", "--live", "clock")
    assert said(done)[0] == 1
    body = json.loads(done.out)
    assert body == {
        "healthy": False,
        "asked": "live",
        "word": "not live",
        "line": "not live: clock is in a crash loop (exit 1)",
        "mesh": "demo",
        "agents": [{field.name: getattr(CRASHED, field.name) for field in fields(AgentBrief)}],
    }


def test_json_also_when_nobody_answers(ask: Ask) -> None:
    done = ask("health", "--json")
    code, _ = said(done)
    body = json.loads(done.out)
    assert (code, body["healthy"], body["word"], body["mesh"], body["agents"]) == (3, False, "not running", None, [])


# ---- the short way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("health", Question()),
        ("health --ready", Question()),
        ("health --live a b*", Question(agents=("a", "b*"), live=True)),
        ("-f x.toml -C dir health", Question(file=Path("x.toml"), directory=Path("dir"))),
        ("--file x.toml --directory dir health a", Question(Path("x.toml"), Path("dir"), ("a",))),
        ("health --timeout 5 --json", Question(timeout=5.0, as_json=True)),
        ("health --live --ready", Question()),
    ],
)
def test_what_the_short_way_understands(line: str, question: Question) -> None:
    assert understood(line.split()) == question


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-f",
        "-f health",
        "ps",
        "ps health",
        "health --help",
        "health -f x",
        "health --nonsense",
        "health --timeout",
        "health --timeout x",
        "health --timeout -1",
        "health --timeout=5",
        "health -- a",
        "health --timeout 0.5",
    ],
)
def test_all_else_goes_the_long_way(line: str) -> None:
    assert understood(line.split()) is None


def test_what_only_click_understands_is_answered_too(mesh: FakeMesh, meshsup: Command) -> None:
    assert said(meshsup("health", "--timeout=30.5", "--", "planner")) == (0, "ready: 1 of 1 agent is ready")
    assert "--nonsense" in meshsup("health", "--nonsense").err
    assert meshsup("health", "--timeout", "-1").code == 2
    assert meshsup("health", "--help").out.startswith("Usage: meshsup health")


def test_nobody_has_to_read_the_line(mesh: FakeMesh, root: Path) -> None:
    mesh.in_brief = brief(mesh.place, CRASHED)
    for redirected in (">&-", ">/dev/full", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f"{MESHSUP} health {redirected}"], cwd=root, env=environment(root), capture_output=True
        )
        assert (done.returncode, done.stderr) == (1, b""), redirected
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([MESHSUP, "health"], cwd=root, env=environment(root), stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", [("health",), ("health", "--json"), ("--", "health")])
def test_a_folder_that_is_gone_is_a_line_too(root: Path, words: tuple[str, ...]) -> None:
    gone = root / "gone"
    gone.mkdir()
    command = " ".join(map(str, (MESHSUP, *words)))
    done = subprocess.run(
        ["sh", "-c", f"cd {gone} && rmdir {gone} && {command}"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert words[0] == "--" or len(done.stdout.splitlines()) == 1
