"""Under which address this machine is seen from another one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mesh_supervisor.host import address
from mesh_supervisor.host.address import address_towards


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    address_towards.cache_clear()
    yield
    address_towards.cache_clear()


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
    monkeypatch.setattr("socket.gethostname", lambda: "3f2a9c1d7b60")
    assert address_towards("http://registry:8000") == "3f2a9c1d7b60"


def test_a_name_server_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *asked, **options: over.wait(30) and [])
    monkeypatch.setattr("socket.gethostname", lambda: "3f2a9c1d7b60")
    monkeypatch.setattr(address, "PATIENCE", 0.05)
    assert address_towards("http://registry:8000") == "3f2a9c1d7b60"
    over.set()


def test_what_was_told_to_others_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def nothing_found(*words: object, **options: object) -> list[object]:
        asked.append(words)
        return []

    monkeypatch.setattr("socket.getaddrinfo", nothing_found)
    monkeypatch.setattr("socket.gethostname", lambda: "3f2a9c1d7b60")
    assert address_towards("http://registry:8000") == address_towards("http://registry:8000")
    assert len(asked) == 1
