"""From what was seen around a mesh to what is wrong, and its cure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.diagnosis import (
    GROUPS,
    AgentSeen,
    Finding,
    Inotify,
    InterpreterSeen,
    PortSeen,
    Seen,
    StateDirSeen,
    diagnose,
    summary,
)
from mesh_supervisor.limits import Limitation

PYTHON = InterpreterSeen(Path("/v/bin/python"), ("planner",), (3, 11))
WELL = Seen(
    agents=(AgentSeen("planner"),),
    interpreters=(PYTHON,),
    inotify=Inotify(watches=8192, watches_used=100, instances=128, instances_used=3, needed=40),
    state_dir=StateDirSeen(Path("/p/.mesh"), free=10**9),
)


def only(**seen: object) -> Finding:
    """The one finding of a mesh that is well but for this."""
    found = diagnose(replace(WELL, **seen))  # type: ignore[arg-type]
    assert len(found) == 1, found
    return found[0]


def test_nothing_is_wrong() -> None:
    assert diagnose(WELL) == []
    assert summary([], WELL) == "nothing is wrong: 1 agent, 1 interpreter, ports, watching, state_dir, limits"
    assert diagnose(Seen()) == []


def test_mistakes_of_mesh_toml() -> None:
    found = diagnose(replace(WELL, mistakes=("mesh.toml: agents.a.prot: unknown key", "mesh.toml: two")))
    assert [one.text for one in found] == ["agents.a.prot: unknown key", "two"]
    assert all(one.wrong for one in found)
    assert summary(found, WELL) == "2 problems found"


def test_limits_of_agents_are_no_failures() -> None:
    limit = Limitation("warm", "polars starts threads", 'warm = "spare"')
    one = only(agents=(AgentSeen("planner", limits=(limit,)),))
    assert one == Finding("agents", "planner", "starts cold: polars starts threads", 'warm = "spare"', wrong=False)


@pytest.mark.parametrize(
    ("agent", "text", "cure"),
    [
        (AgentSeen("planner", failure="failed: NameError"), "failed: NameError", "`meshsup logs planner`"),
        (AgentSeen("planner", needs_uv=True), "its command starts with uv, which is not in PATH", "install uv"),
        (AgentSeen("planner", lock_file=Path("/p/uv.lock")), "/p/uv.lock is there, but no .venv", "`uv sync` in /p"),
        (AgentSeen("planner", lock_file=Path("/p/poetry.lock")), "/p/poetry.lock is there", "`poetry install` in /p"),
    ],
)
def test_what_keeps_an_agent_from_working(agent: AgentSeen, text: str, cure: str) -> None:
    one = only(agents=(agent,))
    assert one.wrong and text in one.text and cure in one.cure


@pytest.mark.parametrize(
    ("interpreter", "wrong", "text"),
    [
        (replace(PYTHON, version=None, error="cannot be run: No such file"), True, "cannot be run: No such file"),
        (replace(PYTHON, version=(3, 9)), False, "is Python 3.9: its agents run plainly"),
        (replace(PYTHON, implementation="pypy"), False, "is pypy: its agents run plainly"),
    ],
)
def test_interpreters(interpreter: InterpreterSeen, wrong: bool, text: str) -> None:
    one = only(interpreters=(interpreter,))
    assert (one.group, one.subject, one.wrong) == ("interpreters", "/v/bin/python (planner)", wrong)
    assert text in one.text


def test_an_old_python_is_fine_for_agents_that_want_no_runtime() -> None:
    assert diagnose(replace(WELL, interpreters=(replace(PYTHON, version=(3, 8), runtime=False),))) == []
    assert diagnose(replace(WELL, interpreters=(replace(PYTHON, version=(3, 10)),))) == []


def test_a_port_that_somebody_has() -> None:
    one = only(ports=(PortSeen("planner", 8101, "python3 (pid 7)"),))
    assert (one.text, one.cure) == ("port 8101 is in use by python3 (pid 7)", "stop it, or change agents.planner.port")
    assert only(ports=(PortSeen("registry", 8000, "x"),)).cure.endswith("change registry.port")


def test_inotify_watches_that_do_not_suffice() -> None:
    few = replace(WELL.inotify, watches=8192, watches_used=8000, needed=2000)
    one = only(inotify=few)
    assert "8,192 watches are allowed, 8,000 are in use and 2,000 needed" in one.text
    assert "`sudo sysctl fs.inotify.max_user_watches=65536` (" in one.cure
    assert "on the host of this container" in only(inotify=few, container=True).cure
    assert diagnose(replace(WELL, inotify=few, running=True)) == [], "it has them already"
    assert diagnose(replace(WELL, inotify=few, watching=False)) == []
    many = replace(few, watches=100_000, watches_used=90_000, needed=50_000)
    assert "=262144`" in only(inotify=many).cure


def test_inotify_instances_that_are_used_up() -> None:
    one = only(inotify=replace(WELL.inotify, instances=128, instances_used=128))
    assert "all 128 instances" in one.text and "max_user_instances=1024" in one.cure


def test_a_running_mesh_that_polls() -> None:
    one = only(running=True, polls="the limit fs.inotify.max_user_watches is reached")
    assert one.wrong and one.text == "inotify is not used: the limit fs.inotify.max_user_watches is reached"


@pytest.mark.parametrize(
    ("where", "cure"),
    [
        ({}, "local disk"),
        ({"wsl": True}, "not below /mnt"),
        ({"container": True}, "copy the sources into the container"),
    ],
)
def test_file_systems_that_lose_events(where: dict[str, bool], cure: str) -> None:
    one = only(lossy=((Path("/p"), "9p"),), polls="events of 9p file systems can get lost", **where)
    assert not one.wrong and one.subject == "/p" and cure in one.cure


@pytest.mark.parametrize(
    ("state_dir", "text"),
    [
        (StateDirSeen(Path("/p/.mesh"), writable=False), "cannot be written to"),
        (StateDirSeen(Path("/p/.mesh"), there=False, writable=False), "cannot be made"),
        (StateDirSeen(Path("/p/.mesh"), ours=False), "belongs to another user"),
        (StateDirSeen(Path("/p/.mesh"), mode=0o755), "is open to others (mode 0755)"),
        (StateDirSeen(Path("/p/.mesh"), free=2**20), "1 MiB are left"),
    ],
)
def test_state_dir(state_dir: StateDirSeen, text: str) -> None:
    one = only(state_dir=state_dir)
    assert one.wrong and text in one.text and one.cure


def test_a_folder_that_is_still_to_be_made_has_no_mode() -> None:
    assert diagnose(replace(WELL, state_dir=StateDirSeen(Path("/p/.mesh"), there=False, mode=0o755))) == []


def test_in_a_container_its_group_is_who_runs_it() -> None:
    """fsGroup of Kubernetes."""
    opened = StateDirSeen(Path("/state/demo"), mode=0o2750)
    assert only(state_dir=opened).wrong
    assert diagnose(replace(WELL, container=True, state_dir=opened)) == []
    assert only(container=True, state_dir=replace(opened, mode=0o755)).wrong


def test_a_path_that_is_too_long_for_a_socket_is_no_failure() -> None:
    assert not only(state_dir=StateDirSeen(Path("/long"), socket=Path("/tmp/short.sock"))).wrong


def test_open_files() -> None:
    agents = tuple(AgentSeen(f"a{number}") for number in range(300))
    found = diagnose(replace(WELL, agents=agents, open_files=(1024, 1024)))
    assert [one.text for one in found] == ["300 agents need about 2528 open files, the limit is 1024"]
    assert diagnose(replace(WELL, agents=agents, open_files=(1024, 4096))) == []
    assert "64 files only" in only(open_files=(64, 4096)).text


def test_the_order_is_that_of_the_groups_and_failures_come_first() -> None:
    agents = (AgentSeen("a", limits=(Limitation("warm", "x"),)), AgentSeen("b", needs_uv=True))
    state_dir = StateDirSeen(Path("/p"), writable=False)
    found = diagnose(replace(WELL, agents=agents, state_dir=state_dir, mistakes=("mesh.toml: x",)))
    assert [one.group for one in found] == ["mesh.toml", "agents", "agents", "state_dir"]
    assert [one.subject for one in found if one.group == "agents"] == ["b", "a"]
    assert set(GROUPS) >= {one.group for one in found}
