"""Code that does not come up never replaces code that works: the old generation answers on, and people are told why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from benchmarks.load import failures
from tests.e2e.agents import fastapi, line_of
from tests.e2e.harness import Mesh, fresh_mesh, wait_for

HEALTH = """
@app.get("/health")
async def health(response: Response):
    response.status_code = {status}
    return {{}}
"""


@dataclass(frozen=True)
class Broken:
    """What is saved, what people must be told, and the text whose line must be named ("": no line can be known)."""

    source: str
    told: str
    culprit: str = ""


def broken(top: str = "", *, startup: str = "pass", status: int = 200) -> str:
    return fastapi("broken", top, startup=startup, routes=HEALTH.format(status=status))


GOOD = fastapi("good", routes=HEALTH.format(status=200))

CASES = {
    "ImportError": Broken(broken("from json import nothing_of_that_name"), "nothing_of_that_name", "nothing_of_that"),
    "NameError": Broken(broken("unknown_thing()"), "NameError", "unknown_thing()"),
    "exception at module level": Broken(broken("{}['key']"), "KeyError", "{}['key']"),
    "crash in start-up": Broken(broken(startup="raise RuntimeError('no model')"), "no model", "raise RuntimeError"),
    "exit in start-up": Broken(broken("raise SystemExit('no licence')"), "no licence"),
    "killed in start-up": Broken(broken("os.kill(os.getpid(), 9)"), "SIGKILL"),
    "hang at module level": Broken(broken("time.sleep(1000)"), "not ready"),
    "hang in start-up": Broken(broken(startup="await asyncio.sleep(1000)"), "not ready"),
    "500 on its readiness path": Broken(broken(status=500), "500"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        mesh.write("agent.py", GOOD)
        keys = 'ready = { http = "/health", interval = 0.1 }\nstart_timeout = 8\nstop = { timeout = 2 }\n'
        mesh.config(f'[agents.agent]\ncommand = "agent.py"\nport = {mesh.port("agent")}\n{keys}')
        mesh.up()
        yield mesh


@pytest.fixture
def mended(running: Mesh) -> Iterator[Mesh]:
    """The agent with good code again afterwards, whatever the test has left."""
    yield running
    running.write("agent.py", GOOD)
    running.wait_word("agent", "good")
    wait_for(lambda: running.agent("agent").rejection is None and running.agent("agent").state == "ready")


@pytest.mark.parametrize("case", CASES)
def test_the_old_generation_answers_on_and_people_are_told(mended: Mesh, case: str) -> None:
    what = CASES[case]
    place = f"agent.py:{line_of(what.source, what.culprit)}" if what.culprit else ""
    before = mended.wait_ready()["agent"]
    earlier = len(mended.history("agent"))
    with mended.load("agent") as load:
        mended.write("agent.py", what.source)
        view = mended.wait_rejected("agent")
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 50)
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said for request in requests} == {f"good {before.pid}"}
    assert view.pid == before.pid
    for told in (what.told, place):
        assert told in str(view.rejection)
    assert "reload rejected" in mended.ok("ps") and what.told in mended.ok("ps", "-o", "wide")
    row = mended.history("agent")[earlier]
    assert (row["outcome"], row["trigger"]) == ("rejected", "save")
    assert what.told in row["error"] and place in row["error"]
    assert what.told in mended.events("reload-rejected", agent="agent")[-1]["details"]["error"]
    wait_for(lambda: f"Reload rejected: agent ({row['error']}" in mended.log())


@pytest.mark.parametrize("case", ["NameError", "crash in start-up", "500 on its readiness path"])
def test_the_exit_code_of_reload_tells(mended: Mesh, case: str) -> None:
    what = CASES[case]
    before = mended.wait_ready()["agent"]
    mended.write("agent.py", what.source)
    mended.wait_rejected("agent")
    done = mended.run("reload", "agent")
    assert done.code == 1 and what.told in done.out + done.err and "Traceback" not in done.err
    outcome = json.loads(mended.run("reload", "agent", "--json").out)["outcomes"][0]
    assert not outcome["ok"] and what.told in outcome["text"]
    assert mended.word("agent") == "good" and mended.agent("agent").pid == before.pid


def test_nothing_of_a_rejected_newcomer_remains(mended: Mesh) -> None:
    before = set(mended.processes())
    note = mended.root / "newcomer.pid"
    mended.write("agent.py", broken(f"pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(1000)"))
    pid = wait_for(lambda: int(note.read_text()))
    mended.wait_rejected("agent")
    wait_for(lambda: pid not in mended.processes())
    assert mended.agent("agent").pid in before


def test_the_newest_save_wins_while_a_newcomer_is_coming_up(mended: Mesh) -> None:
    """The one that hangs is given up for the next save, not waited for."""
    with mended.load("agent") as load:
        mended.write("agent.py", broken("pathlib.Path('hangs').touch()\ntime.sleep(1000)"))
        wait_for((mended.root / "hangs").exists)
        mended.write("agent.py", fastapi("newest", routes=HEALTH.format(status=200)))
        mended.wait_word("agent", "newest")
        mended.wait_ready()
        assert failures(load.stop()) == {}
    assert mended.agent("agent").rejection is None


def test_undoing_a_bad_edit_starts_nothing(mended: Mesh) -> None:
    before = mended.wait_ready()["agent"]
    good = (mended.root / "agent.py").read_text()
    mended.write("agent.py", CASES["NameError"].source)
    mended.wait_rejected("agent")
    mended.write("agent.py", good)
    wait_for(lambda: mended.agent("agent").rejection is None)
    assert mended.agent("agent").pid == before.pid


def test_a_crash_in_a_module_that_is_imported_names_that_module(mended: Mesh) -> None:
    before = mended.wait_ready()["agent"]
    mended.write("rules.py", "LIMIT = 1\n\nBOUND = 1 / 0\n")
    mended.write("agent.py", broken("import rules"))
    view = mended.wait_rejected("agent")
    assert "ZeroDivisionError" in str(view.rejection) and "rules.py:3" in str(view.rejection)
    assert view.pid == before.pid
    mended.write("rules.py", "LIMIT = 1\n\nBOUND = 1\n")
    mended.wait_word("agent", "broken")
