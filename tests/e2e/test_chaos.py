"""What surrounds a mesh goes wrong: descriptors, neighbours, names. The supervisor stays, and says what is the case."""

from __future__ import annotations

import os
import resource
import signal

from tests.e2e.harness import Mesh, wait_for


def test_without_descriptors_agents_wait_and_the_mesh_goes_on(mesh: Mesh) -> None:
    mesh.serving("a", "b", keys="backoff = { initial = 0.1, max = 0.2 }\n")
    mesh.up()
    supervisor, before = mesh.snapshot().pid, mesh.pids()
    # Below those that are open, so that none can be opened.
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, limits[1]))
    log = mesh.log()
    assert before["a"] is not None
    os.kill(before["a"], signal.SIGKILL)
    wait_for(lambda: "Too many open files" in mesh.log()[len(log) :])
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    mesh.wait_ready()
    assert mesh.snapshot().pid == supervisor
    assert mesh.pids()["b"] == before["b"]
