"""What a process was started as. Below PID 1 it is tried in tests/e2e/test_pid_one.py."""

from __future__ import annotations

import os

import pytest

from mesh_supervisor.host import container, procfs
from mesh_supervisor.host.procfs import Process


def test_what_a_person_started_is_neither() -> None:
    assert not container.is_main_process()
    assert container.why_unattended() == ""


@pytest.mark.parametrize(
    ("name", "own", "found"),
    [
        ("docker-init", True, "docker-init is PID 1 and has started it"),
        ("tini-static", True, "tini-static is PID 1 and has started it"),
        ("docker-init", False, "its parent is PID 1 and stdout is no terminal"),
        ("systemd", True, "its parent is PID 1 and stdout is no terminal"),
        ("bash", True, "its parent is PID 1 and stdout is no terminal"),
    ],
)
def test_what_pid_1_is_decides(monkeypatch: pytest.MonkeyPatch, name: str, own: bool, found: str) -> None:
    first, us = process(1, name, parent=0, started=1), process(os.getpid(), "meshsup", parent=1, started=2)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setattr(os, "isatty", lambda number: False)
    monkeypatch.setattr(container, "_has_own_pids", lambda: own)
    monkeypatch.setattr(procfs, "look", {1: first, us.pid: us}.get)
    monkeypatch.setattr(procfs, "everything", lambda: {1: first, us.pid: us})
    assert container.why_unattended() == found
    assert container.is_main_process() is found.endswith("has started it")


def process(pid: int, name: str, *, parent: int, started: int) -> Process:
    return Process(pid, name, "S", parent, pid, pid, started, 0.0, 0)
