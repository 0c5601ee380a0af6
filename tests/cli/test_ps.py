"""`ps`: columns, what is cut where, JSON."""

from __future__ import annotations

import json
from dataclasses import replace

from mesh_supervisor.cli import rows
from mesh_supervisor.control.messages import WarmView
from mesh_supervisor.limits import Limitation
from tests.cli.conftest import Command
from tests.cli.test_command import in_terminal
from tests.control.fake import VIEW, FakeMesh, snapshot

REJECTION = "reload rejected: NameError: name 'x' is not defined … agents/planner.py:12"


def test_a_table_in_a_pipe_is_never_cut(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, detail=REJECTION, last="z" * 300))
    header, row = meshsup("ps").out.splitlines()
    assert " ".join(header.split()) == "NAME STATE PID PORT GEN UPTIME RESTARTS CPU MEM REGISTERED LAST"
    assert row.split()[:2] == ["planner", "ready"]
    assert f"ready ({REJECTION})" in row
    assert row.endswith("z" * 300)


def test_values_as_people_read_them(mesh: FakeMesh, meshsup: Command) -> None:
    row = meshsup("ps").out.splitlines()[1]
    assert row.split()[2:10] == ["4242", "8101", "7", "3m12s", "1", "0.3%", "45.2M", "yes"]
    assert row.endswith("reloaded in 0.41 s (common/llm.py)")


def test_what_is_not_known_is_a_dash(mesh: FakeMesh, meshsup: Command) -> None:
    down = replace(
        VIEW, state="stopped", pid=None, port=None, generation=0, uptime=None, cpu=None, memory=None, last=""
    )
    mesh.now = snapshot(mesh.place, replace(down, registered="-"))
    assert meshsup("ps").out.splitlines()[1].split() == ["planner", "stopped", "-", "-", "-", "-", "1", "-", "-", "-"]


def test_only_last_is_cut_on_a_narrow_terminal(mesh: FakeMesh) -> None:
    mesh.now = snapshot(mesh.place, VIEW, replace(VIEW, name="retriever", pid=123456, last="short"))
    for columns in (90, 100, 120):
        header, first, second = in_terminal(mesh.place.root, "ps", columns=columns, NO_COLOR="1").splitlines()
        assert all(len(line) <= columns for line in (header, first, second))
        assert "REGISTERED" in header
        assert first.split()[:10] == ["planner", "ready", "4242", "8101", "7", "3m12s", "1", "0.3%", "45.2M", "yes"]
    narrow = in_terminal(mesh.place.root, "ps", columns=60, NO_COLOR="1").splitlines()
    assert narrow[0].split()[-1] == "REGISTERED"  # LAST is gone, the rest is whole
    assert narrow[1].split()[9] == "yes"


def test_a_detail_without_room_stands_below_in_full(mesh: FakeMesh) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, detail=REJECTION))
    lines = in_terminal(mesh.place.root, "ps", columns=80, NO_COLOR="1").splitlines()
    assert lines[1].split()[1] == "ready"
    assert " ".join(" ".join(lines[2:]).replace("└", "").split()) == REJECTION
    assert all(len(line) <= 80 for line in lines)
    wide = in_terminal(mesh.place.root, "ps", columns=220, NO_COLOR="1").splitlines()
    assert f"ready ({REJECTION})" in wide[1]
    assert len(wide) == 2


def test_wide_says_all_that_is_known(mesh: FakeMesh, meshsup: Command) -> None:
    view = replace(
        VIEW, state="backoff", detail="retry in 2 s", failure="ValueError: no key", warnings=("no known inputs",)
    )
    mesh.now = snapshot(mesh.place, view)
    out = meshsup("ps", "-o", "wide").out
    for told in (
        "    └ runs agents/planner.py in /home/ada/demo\n",
        "      python /home/ada/demo/.venv/bin/python\n",
        "      12 inputs\n",
        "      failure: ValueError: no key\n",
        "      warning: no known inputs\n",
    ):
        assert told in out


def test_wide_shows_what_waits_warm(mesh: FakeMesh, meshsup: Command) -> None:
    template = WarmView("template", "warm", 4300, ("planner",), 210, 64_100_000)
    mesh.now = snapshot(mesh.place, warm=(template, WarmView("judge", "warming", 4301, (), 0, 0)))
    assert meshsup("ps", "-o", "wide").out.splitlines()[-2:] == [
        "warm: a template for planner (warm, pid 4300, 61.1M)",
        "warm: a judge (warming, pid 4301, 0K)",
    ]
    assert "template" not in meshsup("ps").out


def test_wide_says_how_it_was_started_and_what_it_cannot_have(mesh: FakeMesh, meshsup: Command) -> None:
    limits = (Limitation("warm", "polars starts threads", 'warm = "spare"'), Limitation("trace", "it is muted"))
    view = replace(VIEW, order="start-first", start="cold", runtime="yes", limits=limits)
    mesh.now = snapshot(mesh.place, view, replace(VIEW, name="writer"))
    out = meshsup("ps", "-o", "wide").out
    assert "      order start-first · start cold · runtime yes\n" in out
    assert '      starts cold: polars starts threads (warm = "spare")\n' in out
    assert "      inputs by import only: it is muted\n" in out
    assert out.count(" · ") == 2, "nothing is said of what is not known"
    assert "polars" not in meshsup("ps").out
    assert json.loads(meshsup("ps", "--json").out)["agents"][0]["limits"][1]["why"] == "it is muted"


def test_what_is_held_says_by_whom(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, state="held", detail="run, pid 4242"))
    assert "held (run, pid 4242)" in meshsup("ps").out


def test_json_is_the_snapshot(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, VIEW, replace(VIEW, name="writer"))
    body = json.loads(meshsup("ps", "--json", "wri*").out)
    assert [agent["name"] for agent in body["agents"]] == ["writer"]
    assert body["registry_url"] == "http://127.0.0.1:8000"
    assert body["agents"][0]["memory"] == 47_400_000


def test_names_and_globs(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, VIEW, replace(VIEW, name="writer"), replace(VIEW, name="web-1"))
    assert meshsup("ps", "-q", "w*").out == "writer\nweb-1\n"
    done = meshsup("ps", "writter")
    assert (done.code, done.out) == (4, "")
    assert "did you mean 'writer'?" in done.err


def test_what_is_wrong_with_the_mesh_is_talk(mesh: FakeMesh, meshsup: Command) -> None:
    error = "mesh.toml: agents.planner.port: must be a number"
    mesh.now = snapshot(mesh.place, VIEW, config_error=error, registry_up=False, warnings=("watching is switched off",))
    done = meshsup("ps")
    assert len(done.out.splitlines()) == 2
    assert done.err.splitlines() == [
        f"the last valid configuration is kept: {error}",
        "the registry does not answer at http://127.0.0.1:8000",
        "watching is switched off",
    ]


def test_each_mistake_of_mesh_toml_has_a_line(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, VIEW, config_error="mesh.toml: one\nmesh.toml: two")
    said = meshsup("ps").err.splitlines()
    assert said == ["the last valid configuration is kept:", "mesh.toml: one", "mesh.toml: two"]


def test_what_the_state_says_is_not_said_again(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, detail=REJECTION, last=REJECTION))
    header, row = meshsup("ps").out.splitlines()
    assert row.count("NameError") == 1 and f"ready ({REJECTION})" in row
    assert header.split()[-1] == "LAST"


def test_nothing_from_an_agent_moves_the_cursor(mesh: FakeMesh, meshsup: Command) -> None:
    mesh.now = snapshot(mesh.place, replace(VIEW, detail="\x1b[2Jevil\nnext \u202e", last="a\x07b"))
    done = meshsup("ps")
    assert "\x1b" not in done.out and "\x07" not in done.out and "\u202e" not in done.out
    assert len(done.out.splitlines()) == 2


def test_an_empty_mesh_has_a_header() -> None:
    assert rows.processes([])[0].startswith("NAME")
