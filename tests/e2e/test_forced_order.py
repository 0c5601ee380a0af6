"""``order = "start-first"`` for a program that the runtime does not serve: two of it want one port."""

from __future__ import annotations

import pytest

from benchmarks.load import failures
from tests.e2e.agents import line_of, stdlib
from tests.e2e.harness import Mesh, alive, wait_for

KEYS = 'runtime = false\norder = "start-first"\n'
WHY = (
    'its predecessor listens there until this one is ready (order = "start-first"), and its socket cannot be handed '
    "over (runtime = false); take `order` out of mesh.toml, and reload it"
)
PROBES = {
    "no probe": "",
    "tcp": "ready = { tcp = true, interval = 0.05 }\n",
    "http": 'ready = { http = "/", interval = 0.05 }\n',
}


def start(mesh: Mesh, source: str, keys: str) -> int:
    mesh.write("agent.py", source)
    mesh.config(mesh.table("agent", KEYS + keys))
    mesh.up()
    return mesh.agent("agent").pid or 0


@pytest.mark.parametrize("probe", PROBES)
def test_a_newcomer_that_finds_the_port_taken_is_told_the_cure(mesh: Mesh, probe: str) -> None:
    """Its predecessor answers on, and not for it: no probe of the newcomer may be answered by the old one."""
    pid = start(mesh, stdlib("first"), PROBES[probe])
    source = stdlib("second", "import time\ntime.sleep(0.5)\n")  # as long as an import: enough for many probes
    with mesh.load("agent") as load:
        mesh.write("agent.py", source)
        view = mesh.wait_rejected("agent")
        answered = len(load.so_far())
        wait_for(lambda: len(load.so_far()) > answered + 50)
        requests = load.stop()
    assert failures(requests) == {}
    assert {request.said for request in requests} == {f"first {pid}"}
    place = f"agent.py:{line_of(source, 'serve_forever()')}"
    assert view.rejection == f"exit 1: OSError: [Errno 98] Address already in use ({place}): {WHY}"
    assert mesh.history("agent")[0]["error"] == view.rejection
    wait_for(lambda: f"Reload rejected: agent ({view.rejection})" in mesh.log())
    assert "take `order` out of mesh.toml" in mesh.ok("ps", "-o", "wide")

    mesh.edit("mesh.toml", 'order = "start-first"\n', "")
    mesh.ok("apply")
    mesh.ok("reload", "agent")
    assert mesh.word("agent") == "second"


@pytest.mark.parametrize("probe", PROBES)
def test_a_newcomer_that_waits_for_the_port_is_told_too(mesh: Mesh, probe: str) -> None:
    patient = """
    import errno, time
    bind = Server.server_bind
    def patiently(self):
        while True:
            try:
                return bind(self)
            except OSError as error:
                time.sleep(0.02)
    Server.server_bind = patiently
    """
    pid = start(mesh, stdlib("first", patient), PROBES[probe] + "start_timeout = 3\n")
    mesh.write("agent.py", stdlib("second", patient))
    view = mesh.wait_rejected("agent")
    assert view.rejection == f"not ready after 3 s (port {mesh.port('agent')} is taken: {WHY})"
    assert mesh.answer("agent") == f"first {pid}"


@pytest.mark.parametrize("probe", PROBES)
def test_one_that_shares_its_port_by_itself_is_replaced(mesh: Mesh, probe: str) -> None:
    sharing = "Server.allow_reuse_port = True\n"
    old = start(mesh, stdlib("first", sharing), PROBES[probe])
    mesh.write("agent.py", stdlib("second", sharing))
    wait_for(lambda: not alive(old))
    mesh.wait_ready()
    assert mesh.word("agent") == "second"
    assert [row["outcome"] for row in mesh.history("agent")] == ["completed"]
