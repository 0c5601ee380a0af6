"""Under which address this machine is seen from another one."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from mesh_supervisor.host import address
from mesh_supervisor.host.address import address_towards, known


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_known", {})
    monkeypatch.setattr(address, "_asked", set())
    monkeypatch.setattr(address, "PATIENCE", 30.0)  # of a thread that may be late on a busy machine


def test_the_address_of_the_network_that_is_shared() -> None:
    assert address_towards("http://127.0.0.1:1") == "127.0.0.1"
    assert address_towards("https://localhost") == "127.0.0.1"


def test_ipv4_where_there_are_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("::1", 80, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 80)),
    ]
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **options: both)
    assert address_towards("http://both") == "127.0.0.1"


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*asked: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    assert address_towards("http://registry:8000") is None


def test_a_name_server_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **options: over.wait(30) and [])
    monkeypatch.setattr(address, "PATIENCE", 0.05)
    assert address_towards("http://registry:8000") is None
    over.set()


def test_what_was_told_to_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    first = address_towards("http://127.0.0.1:1")
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **options: pytest.fail("asked again"))
    assert address_towards("http://127.0.0.1:1") == first


def test_a_name_that_gets_its_address_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who asks meanwhile is not held up again."""
    answers: list[object] = []

    def found(*asked: object, **options: object) -> list[object]:
        answers.append(asked)
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 80))] if len(answers) > 2 else []

    monkeypatch.setattr("socket.getaddrinfo", found)
    monkeypatch.setattr(address, "AGAIN", 0.01)
    assert address_towards("http://registry:8000") is None
    assert address_towards("http://registry:8000") is None
    assert len(answers) == 1
    assert asyncio.run(known("http://registry:8000")) == "127.0.0.1"
    assert address_towards("http://registry:8000") == "127.0.0.1"
