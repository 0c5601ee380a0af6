"""An instance that does not pay for its imports again is like any other, and whatever goes wrong harms nobody."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.agents import fastapi
from tests.e2e.harness import Mesh, alive, fresh_mesh, get, signal_all, wait_for

COLD = "cold"


def how(mesh: Mesh, name: str = "agent") -> str:
    """How the serving instance was started, as ``ps --json`` says it."""
    return str(mesh.row(name)["start"])


def reload_until_warm(mesh: Mesh, name: str = "agent") -> None:
    """Warm processes are made ready beside the agents' work; a reload that comes too soon is a cold one."""

    def look() -> bool:
        mesh.reload(name)
        assert how(mesh, name) != COLD, mesh.row(name)
        return True

    wait_for(look, 60)


def one(mesh: Mesh, source: str, keys: str = "") -> None:
    mesh.write("agent.py", source)
    mesh.config(f'[agents.agent]\ncommand = "agent.py"\nport = {mesh.port("agent")}\n{keys}\n')
    mesh.up()


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    with fresh_mesh() as mesh:
        for name in ("agent", "sibling"):
            mesh.write(f"{name}.py", fastapi(name))
        mesh.config(mesh.table("agent") + mesh.table("sibling"))
        mesh.up()
        reload_until_warm(mesh)
        reload_until_warm(mesh, "sibling")
        yield mesh


def test_a_save_is_answered_by_a_warm_instance(running: Mesh) -> None:
    running.write("agent.py", fastapi("second"))
    running.wait_word("agent", "second")
    running.wait_ready()
    assert how(running) != COLD
    wait_for(lambda: int(running.answer("agent").split()[1]) == running.agent("agent").pid)


def test_what_the_first_requests_import_is_imported_ahead_of_the_next_generation(mesh: Mesh) -> None:
    routes = """
    EARLY = "anyio._backends._asyncio" in sys.modules

    @app.get("/early")
    def plain():  # runs in a thread, for which starlette imports that module at the first request
        return {"early": EARLY}
    """

    def modules() -> int:
        return max((process.modules for process in mesh.snapshot().warm if process.state == "warm"), default=0)

    one(mesh, fastapi("word", top="import sys", routes=routes))
    reload_until_warm(mesh)
    before = wait_for(modules)
    assert json.loads(get(mesh.port("agent"), "/early")[1]) == {"early": False}
    mesh.reload("agent")  # the last words of the one that goes
    wait_for(lambda: modules() > before, 60)
    mesh.reload("agent")
    assert json.loads(get(mesh.port("agent"), "/early")[1]) == {"early": True}
    assert how(mesh) != COLD


def test_a_crash_restart_is_warm(running: Mesh) -> None:
    running.wait_ready()
    generation = running.agent("agent").generation
    running.kill("agent")
    running.wait_generation("agent", generation)
    assert how(running) != COLD


def warm_processes(mesh: Mesh) -> list[int]:
    """Those from which no agent runs."""
    known = {mesh.snapshot().pid, mesh.registry().pid, *mesh.pids().values()}
    return [pid for pid, line in mesh.processes().items() if pid not in known and "runtime" in line]


def test_a_template_that_is_killed_harms_nobody(running: Mesh) -> None:
    """Instances live on; the next ones are cold until there is a template again."""
    before = {name: view.pid for name, view in running.wait_ready().items()}
    warm = wait_for(lambda: warm_processes(running))
    signal_all(warm, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in warm))
    assert {name: view.pid for name, view in running.wait_ready().items()} == before
    running.ok("reload", "agent")
    assert running.word("agent") in ("agent", "second")
    reload_until_warm(running)
    assert running.agent("sibling").pid == before["sibling"]


def test_a_template_that_hangs_harms_nobody(running: Mesh) -> None:
    before = {name: view.pid for name, view in running.wait_ready().items()}
    warm = wait_for(lambda: warm_processes(running))
    signal_all(warm, signal.SIGSTOP)
    try:
        running.ok("reload", "agent")
        assert running.wait_ready()["agent"].pid != before["agent"]
    finally:
        signal_all(warm, signal.SIGCONT)


def test_the_second_up_is_warm(running: Mesh) -> None:
    """What is to be imported is known from the first one."""
    running.ok("down")
    running.up()
    wait_for(lambda: {how(running, name) for name in ("agent", "sibling")} != {COLD})


def test_warm_false_is_always_cold_and_says_so(mesh: Mesh) -> None:
    one(mesh, fastapi("word"), "warm = false")
    for _ in range(3):
        mesh.ok("reload", "agent")
        assert how(mesh) == COLD


@pytest.mark.parametrize("kind", ["fork", "spare"])
def test_the_kind_can_be_chosen(mesh: Mesh, kind: str) -> None:
    one(mesh, fastapi("word"), f'warm = "{kind}"')
    reload_until_warm(mesh)
    assert kind in how(mesh)


ENVIRONMENT = """
@app.get("/environment")
async def environment():
    import json, locale, sys, tempfile
    return {
        "environ": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv, "orig_argv": sys.orig_argv,
        "umask": os.umask(os.umask(0)), "name": __name__, "file": __file__, "timezone": time.tzname[0],
        "path": sys.path, "flags": str(sys.flags), "executable": sys.executable, "modules": "fastapi" in sys.modules,
        "stdout": sys.stdout.line_buffering, "threads": len(os.listdir("/proc/self/task")),
        "main": sys.modules["__main__"].__file__, "ours": [m for m in sys.modules if m[:5] == "mesh_"],
    }
"""


def test_a_warm_instance_sees_what_a_cold_one_sees(mesh: Mesh) -> None:
    """Environment, folder, arguments, time zone, flags, sys.path; only what differs by generation may differ."""
    mesh.write("deep/.keep", "")
    keys = 'args = ["--fast", "a b"]\ndirectory = "deep"\nenv = { TZ = "Asia/Tokyo", FLAVOUR = "mint" }\n'
    one(mesh, fastapi("word", routes=ENVIRONMENT), keys)
    assert how(mesh) == COLD
    cold = get_environment(mesh)
    reload_until_warm(mesh)
    warm = get_environment(mesh)
    assert warm == cold
    assert cold["timezone"] == "JST" and cold["environ"]["FLAVOUR"] == "mint"


def get_environment(mesh: Mesh) -> dict[str, Any]:
    said = json.loads(mesh.answer("agent", "/environment"))
    said["environ"] = {
        key: value
        for key, value in said["environ"].items()
        if key not in ("MESHSUP_GENERATION", "MESHSUP_INSTANCE", "MCP_MESH_AGENT_ID")
    }
    return dict(said)


def test_an_environment_that_imports_look_at_is_the_agents_own(mesh: Mesh) -> None:
    """A library reads SSL_CERT_FILE while it is imported: two agents that differ in it never share a template."""
    mesh.write("library/__init__.py", "")
    top = "import ssl\nimport email_validator\nSEEN = os.environ.get('SSL_CERT_FILE', 'none')\n"
    routes = "@app.get('/seen', response_class=PlainTextResponse)\nasync def seen():\n    return SEEN\n"
    for name in ("one", "two"):
        mesh.write(f"{name}.py", fastapi(name, top, routes=routes))
    mesh.write("certificates.pem", "")
    mesh.config(mesh.table("one", "env = { SSL_CERT_FILE = 'certificates.pem' }") + mesh.table("two"))
    mesh.up()
    for _ in range(3):
        mesh.ok("reload")
        assert mesh.answer("one", "/seen") == "certificates.pem"
        assert mesh.answer("two", "/seen") == mesh.environ.get("SSL_CERT_FILE", "none")


MULTIPROCESSING = """
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass


@dataclass
class Point:
    x: int


def double(point):
    return Point(point.x * 2)


if __name__ != "__main__":
    uvicorn.run = lambda *_, **__: None  # a spawned child imports this file
"""

POOLS = """
@app.get("/pools")
def pools():
    said = {}
    for method in ("fork", "spawn", "forkserver"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            said[method] = pool.submit(double, Point(21)).result(60).x
    said["pickle"] = pickle.loads(pickle.dumps(Point(7))).x
    said["module"] = Point.__module__
    return said
"""


def test_multiprocessing_and_pickling_work_in_a_warm_agent(mesh: Mesh) -> None:
    one(mesh, fastapi("word", MULTIPROCESSING, routes=POOLS))
    expected = '{"fork":42,"spawn":42,"forkserver":42,"pickle":7,"module":"__main__"}'
    assert mesh.answer("agent", "/pools", timeout=60) == expected
    reload_until_warm(mesh)
    assert mesh.answer("agent", "/pools", timeout=60) == expected


def test_exit_codes_and_atexit_of_a_warm_agent_are_its_own(mesh: Mesh) -> None:
    routes = """
    import atexit
    atexit.register(lambda: pathlib.Path("goodbye").touch())

    @app.get("/leave")
    async def leave():
        server.should_exit = True
        return {}
    """
    source = fastapi("word", routes=routes).replace("uvicorn.run(app", "server = uvicorn.Server(uvicorn.Config(app")
    one(mesh, source.rstrip() + ")\nserver.run()\nraise SystemExit(7)\n")
    reload_until_warm(mesh)
    assert not (mesh.root / "goodbye").exists(), "uvicorn ends itself by the signal that it was sent"
    before = mesh.agent("agent")
    mesh.answer("agent", "/leave")
    mesh.wait_generation("agent", before.generation)
    assert "exit 7" in mesh.events("crashed", agent="agent")[-1]["text"]
    assert (mesh.root / "goodbye").exists()


def test_an_edit_of_an_agent_whose_imports_start_threads_works_too(mesh: Mesh) -> None:
    """A package of the environment that starts a thread when it is imported may not be forked: a spare, or cold."""
    site = mesh.root / "vendored"
    mesh.write(
        "vendored/threaded_library.py",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n",
    )
    one(mesh, fastapi("word0", "import threaded_library"), f"env = {{ PYTHONPATH = '{site}' }}")
    for number in range(1, 5):
        mesh.write("agent.py", fastapi(f"word{number}", "import threaded_library"))
        mesh.wait_word("agent", f"word{number}")
        mesh.wait_ready()
    assert mesh.agent("agent").generation == 5


def test_what_makes_an_agent_start_cold_is_said(mesh: Mesh) -> None:
    one(mesh, fastapi("word"), "runtime = false")
    assert how(mesh) == COLD
    mesh.write("agent.py", fastapi("second"))
    mesh.wait_word("agent", "second")
    assert "runtime" in mesh.ok("ps", "-o", "wide")
