"""The command line as a whole: help, options before the verb, exit codes, sentences on stderr."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mesh_supervisor import __version__
from mesh_supervisor.cli.help import GROUPS
from mesh_supervisor.cli.main import app
from mesh_supervisor.control.messages import Answer, Outcome
from mesh_supervisor.errors import UnknownAgent
from mesh_supervisor.host.lines import Line
from tests.cli.conftest import MESHSUP, Command, environment
from tests.control.fake import AT, FakeMesh


def registered_verbs() -> set[str]:
    return set(app.list_commands(click.Context(app)))


def test_help_shows_every_verb_once_in_a_group(meshsup: Command) -> None:
    done = meshsup("--help")
    assert done.code == 0
    in_groups = [name for names in GROUPS.values() for name in names]
    assert set(in_groups) == registered_verbs()
    assert len(in_groups) == len(set(in_groups))
    for name in in_groups:
        assert f"\n  {name:<12}" in done.out
    assert done.out.index("Examples") > done.out.index("Options") > done.out.index("More")


def test_help_fits_a_narrow_terminal(meshsup: Command) -> None:
    for line in meshsup("--help").out.splitlines():
        assert len(line) <= 80, line


@pytest.mark.parametrize("verb", sorted(name for names in GROUPS.values() for name in names))
def test_every_verb_explains_itself(meshsup: Command, verb: str) -> None:
    done = meshsup(verb, "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: meshsup {verb}")
    assert meshsup(verb, "-h").out == done.out


def test_no_verb_is_a_request_for_help(meshsup: Command) -> None:
    done = meshsup()
    assert done.code == 2
    assert "Usage: meshsup" in done.out + done.err


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_version(meshsup: Command, words: tuple[str, ...]) -> None:
    assert meshsup(*words).out == f"meshsup {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("explode",), 2, "No such command 'explode'"),
        (("relod",), 2, "No such command 'relod'; did you mean 'reload'?"),
        (("run",), 2, "Missing argument 'AGENT'"),
        (("down", "--timeout", "nan"), 2, "--timeout"),
        (("ps", "--nonsense"), 2, "--nonsense"),
        (("ps", "-o", "yaml"), 2, "there is only `-o wide`"),
        (("up", "--timeout", "3"), 2, "--timeout is for `up --wait`"),
        (("logs", "-f", "--previous"), 2, "cannot be followed"),
        (("logs", "--since", "yesterday"), 2, "--since yesterday: neither a span"),
        (("logs", "--grep", "("), 2, "--grep (: no regular expression"),
        (("logs", "--grep", "a{99999999999999999999}"), 2, ": no regular expression"),
        (("down", "--timeout", "inf"), 2, "--timeout"),
        (("down", "--timeout", "1e12"), 2, "--timeout"),
        (("registry", "list", "--url", "localhost:1"), 2, "--url: must be like http://"),
        (("registry", "list", "--url", "http://127.0.0.1:1"), 1, "does not answer: "),
        (("ps",), 3, "this mesh is not running; start it with `meshsup up`"),
        (("down",), 3, "not running"),
        (("restart",), 3, "not running"),
        (("logs", "-f"), 3, "not running"),
        (("-f", "other.toml", "ps"), 2, "other.toml: no such file"),
        (("-C", "nowhere", "ps"), 2, "no such folder"),
        (("logs", "planer"), 4, "no agent is called 'planer'; did you mean 'planner'?"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_a_code(
    meshsup: Command, words: tuple[str, ...], code: int, sentence: str
) -> None:
    done = meshsup(*words)
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err


def test_options_before_the_verb(
    mesh: FakeMesh, meshsup: Command, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert meshsup("ps", "-q", cwd=root / "agents").out == "planner\n"
    assert meshsup("-C", str(root), "ps", "-q", cwd=elsewhere).out == "planner\n"
    assert meshsup("-f", str(root / "mesh.toml"), "ps", "-q", cwd=elsewhere).out == "planner\n"
    assert meshsup("ps", "-q", cwd=elsewhere, env={"MESHSUP_FILE": str(root / "mesh.toml")}).out == "planner\n"
    assert "no mesh.toml in" in meshsup("ps", cwd=elsewhere).err


def test_ps_answers_while_mesh_toml_is_broken(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    (root / "mesh.toml").write_text("[mesh\nname = ")
    assert meshsup("ps", "-q").out == "planner\n"


# ---- verbs that act ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("start", "plan*", "writer"), ("start", {"agents": ["plan*", "writer"]})),
        (("stop",), ("stop", {"agents": []})),
        (("restart", "--force", "planner"), ("restart", {"agents": ["planner"], "force": True})),
        (("reload", "planner"), ("reload", {"agents": ["planner"], "force": False, "paths": []})),
        (("apply", "--dry-run"), ("apply", {"agents": [], "dry_run": True, "force": False})),
        (("watch", "status"), ("watch-status", {"agents": []})),
        (("watch", "enable", "planner"), ("watch-enable", {"agents": ["planner"]})),
        (("watch", "disable"), ("watch-disable", {"agents": []})),
    ],
)
def test_what_is_asked(mesh: FakeMesh, meshsup: Command, words: tuple[str, ...], asked: tuple[str, object]) -> None:
    assert meshsup(*words).code == 0
    assert mesh.asked == [asked]


def test_files_are_absolute_when_they_travel(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    meshsup("reload", "planner", "../agents/common.py", "prompt.md", cwd=root / "agents")
    meshsup("why", "gone.py", cwd=root / "agents")
    agents = root / "agents"
    assert mesh.asked == [
        ("reload", {"agents": ["planner"], "force": False, "paths": [f"{agents}/common.py", f"{agents}/prompt.md"]}),
        ("why", {"paths": [f"{agents}/gone.py"]}),
    ]


def test_outcomes_are_told_and_decide_the_exit_code(mesh: FakeMesh, meshsup: Command) -> None:
    good, bad = Outcome("planner", True, "restarted in 0.41 s"), Outcome("writer", False, "exit 1: ValueError: x")
    mesh.answers["restart"] = Answer(ok=False, outcomes=(good, bad), exit_code=1)
    done = meshsup("restart")
    assert (done.code, done.out, done.err) == (1, "planner: restarted in 0.41 s\n", "writer: exit 1: ValueError: x\n")


def test_no_error_moves_the_cursor_and_its_lines_stay_lines(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.answers["restart"] = Answer(ok=False, error="a.py: \x1b[2J\u202e\rgone\nb.py: \x9b5A")
    assert meshsup("restart").err == "meshsup: a.py: \\x1b[2J\\u202e\\rgone\nb.py: \\x9b5A\n"
    outcome = Outcome("planner", True, "restarted\x1b[2J\nand is well")
    mesh.answers["restart"] = Answer(ok=True, lines=("a line\x1b[1A",), outcomes=(outcome,))
    assert meshsup("restart").out == "a line\\x1b[1A\nplanner: restarted\\x1b[2J\nand is well\n"


def test_an_unknown_agent_is_4(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.answers["stop"] = UnknownAgent("planer", ["planner"])
    done = meshsup("stop", "planer")
    assert (done.code, done.err) == (4, "meshsup: no agent is called 'planer'; did you mean 'planner'?\n")


def test_waiting_longer_than_wanted_is_124(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.hanging = True
    done = meshsup("restart", "--timeout", "0.3")
    assert done.code == 124
    assert "no answer from the supervisor within 0.3 s" in done.err


def test_json_of_a_command(mesh: FakeMesh, meshsup: Command) -> None:
    import json

    outcome = Outcome("planner", True, "reloaded", 8, 0.41)
    mesh.answers["reload"] = Answer(ok=True, outcomes=(outcome,), lines=("talk",))
    assert json.loads(meshsup("reload", "--json").out) == {
        "ok": True,
        "outcomes": [{"agent": "planner", "ok": True, "text": "reloaded", "generation": 8, "seconds": 0.41}],
        "error": None,
    }
    mesh.answers["apply"] = Answer(ok=True, lines=("+ agents.writer",), body={"added": ["writer"]})
    assert json.loads(meshsup("apply", "--json").out)["added"] == ["writer"]
    assert meshsup("apply").out == "+ agents.writer\n"


# ---- the two streams ---------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error(mesh: FakeMesh, root: Path) -> None:
    mesh.past_lines = [Line(AT, "planner", 1, "x" * 200) for _ in range(1000)]
    shell = f"{MESHSUP} logs -n 1000 | head -n 1"
    done = subprocess.run(
        shell, shell=True, cwd=root, env=environment(root), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("planner | xxx")
    assert done.stderr == ""


def in_terminal(root: Path, *words: str, columns: int = 80, **env: str) -> str:
    """What the command writes to a terminal of that width."""
    script = "import pty,sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(MESHSUP), *words],
        cwd=root,
        env={**environment(root), "COLUMNS": str(columns), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.replace("\r\n", "\n")


def test_colours_only_where_they_are_wanted(mesh: FakeMesh, meshsup: Command, root: Path) -> None:
    assert pty.STDIN_FILENO == 0  # not on Windows
    assert "\x1b[" not in meshsup("ps").out
    assert "\x1b[32mready\x1b[0m" in in_terminal(root, "ps")
    assert "\x1b[" not in in_terminal(root, "ps", NO_COLOR="1")
    assert "\x1b[" not in in_terminal(root, "ps", TERM="dumb")


def test_ctrl_c_ends_following_with_130(mesh: FakeMesh, root: Path) -> None:
    import signal

    mesh.forever = True
    mesh.coming_lines = [Line(AT, "planner", 1, "here I am")]
    with subprocess.Popen(
        [str(MESHSUP), "logs", "-f"],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "planner | here I am\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""
    assert mesh.left.wait(10)


def test_down_waits_for_the_process(root: Path, meshsup: Command) -> None:
    argv = [sys.executable, "-m", "tests.control.fake", str(root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        try:
            assert supervisor.stdout.readline() == "ready\n"
            done = meshsup("down")
            assert (done.code, done.out) == (0, "demo is down\n")
            # It has ended, though nobody has collected it yet.
            assert os.waitid(os.P_PID, supervisor.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        finally:
            supervisor.kill()


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("schema",), ("logs", "-f")])
def test_a_reader_that_has_seen_enough_is_no_failure(mesh: FakeMesh, root: Path, words: tuple[str, ...]) -> None:
    mesh.past_lines = [Line(AT, "planner", 1, "x" * 1000)] * 200  # more than a pipe holds
    with subprocess.Popen(
        [MESHSUP, *words], cwd=root, env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_closed_streams_are_no_traceback(mesh: FakeMesh, root: Path) -> None:
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f"{MESHSUP} ps {closed}"], cwd=root, env=environment(root), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), closed
        assert ("planner" in done.stdout) is (">&-" not in closed.replace("2>&-", ""))


def test_a_full_disk_is_said(mesh: FakeMesh, root: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [MESHSUP, "ps"], cwd=root, env=environment(root), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "meshsup: cannot write: No space left on device\n")


@pytest.mark.parametrize("words", [("ps", "-f", "x"), ("why", "--file=x", "y"), ("up", "-C", "x")])
def test_an_option_behind_the_verb_that_belongs_before_it(meshsup: Command, words: tuple[str, ...]) -> None:
    done = meshsup(*words)
    assert done.code == 2
    assert f"stands before the verb: `meshsup {words[1].partition('=')[0]}" in done.err
    assert done.err.count("\n") == 1


def test_what_belongs_to_a_command_is_its_own(meshsup: Command) -> None:
    assert meshsup("exec", "planner", "echo", "-f", "x").out == "-f x\n"
