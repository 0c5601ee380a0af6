"""What surrounds a mesh goes wrong: descriptors, neighbours, names. The supervisor stays, and says what is the case."""

from __future__ import annotations

import os
import resource
import signal
from itertools import count
from pathlib import Path

from tests.e2e.harness import Mesh, overwrite, wait_for


def test_without_descriptors_agents_wait_and_the_mesh_goes_on(mesh: Mesh) -> None:
    """However many are left: a start needs several, and may fail at each of them."""
    mesh.serving("a", "b", keys="backoff = { initial = 0.1, max = 0.1 }\n")
    mesh.up()
    mesh.wait_log("all 2 agents are ready")  # its file is open by then
    supervisor, before = mesh.snapshot().pid, mesh.pids()
    most = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, most[1]))
    assert before["a"] is not None
    os.kill(before["a"], signal.SIGKILL)
    wait_for(lambda: "Too many open files" in mesh.log())
    for left in range(6):
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (lowest_free(supervisor) + left, most[1]))
        tries = mesh.log().count("a crashed")
        wait_for(lambda tries=tries: mesh.log().count("a crashed") > tries + 1 or mesh.answer("a"))  # type: ignore[misc]
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, most)
    mesh.wait_ready()
    assert mesh.snapshot().pid == supervisor
    assert mesh.pids()["b"] == before["b"]


def lowest_free(pid: int) -> int:
    opened = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in count() if number not in opened)


def test_a_files_name_cannot_speak_for_the_supervisor(mesh: Mesh) -> None:
    mesh.serving("a", keys='watch = ["data/**"]\n')
    mesh.write("data/calm.md", "1")
    mesh.up()
    name = b"x\nb crashed: exit 1\x1b[2J\xff.md"
    with mesh.only_restarts("a"):
        overwrite(mesh.root / "data" / os.fsdecode(name), "1")
    mesh.wait_log("(generation 2)")
    said = [row.split("] ", 1)[-1] for row in mesh.log().splitlines()]
    assert not any(row.startswith("b crashed") for row in said)
    assert any("Reloading a (data/x\\nb crashed: exit 1\\x1b[2J\\udcff.md (watch: data/**))" in row for row in said)
    mesh.ok("history")


def test_a_secret_that_came_with_apply_is_hidden_like_any_other(mesh: Mesh) -> None:
    mesh.serving("a")
    mesh.up()
    mesh.config(mesh.table("a", 'env = { TOKEN = "tell-nobody-7" }\n'))
    mesh.ok("apply")
    mesh.wait_ready()
    wait_for(lambda: mesh.agent("a").generation == 2)
    mesh.write("a.py", "import os\nraise RuntimeError('bad token ' + os.environ['TOKEN'])\n")
    wait_for(lambda: "RuntimeError: bad token •••" in mesh.log())
    wait_for(lambda: mesh.agent("a").rejection)
    assert "tell-nobody-7" not in mesh.log() + (mesh.state_dir / "events.jsonl").read_text()
    assert "tell-nobody-7" not in mesh.ok("ps", "-o", "wide") + mesh.ok("events", "--no-follow")
