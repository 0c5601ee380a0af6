"""Who holds a port, which is free, where a process listens."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mesh_supervisor.host import ports
from mesh_supervisor.host.ports import free_port, holder_of, listeners

from .stage import Stage, python


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def listening(host: str, *, dual: bool = False) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as server:
        yield server.getsockname()[1]


def me() -> str:
    with open("/proc/self/comm") as file:  # noqa: PTH123
        return f"{file.read().strip()} (pid {os.getpid()})"


@pytest.mark.parametrize(
    ("held", "dual", "asked", "conflict"),
    [
        ("127.0.0.1", False, "127.0.0.1", True),
        ("127.0.0.1", False, "0.0.0.0", True),
        ("0.0.0.0", False, "127.0.0.1", True),
        ("127.0.0.1", False, "localhost", True),
        ("127.0.0.2", False, "127.0.0.1", False),
        pytest.param("127.0.0.1", False, "::1", False, marks=ipv6),
        pytest.param("::1", False, "127.0.0.1", False, marks=ipv6),
        pytest.param("::1", False, "::1", True, marks=ipv6),
        pytest.param("::1", False, "::", True, marks=ipv6),
        pytest.param("::", True, "127.0.0.1", True, marks=ipv6),
        pytest.param("0.0.0.0", False, "::", True, marks=ipv6),
    ],
)
def test_holder_is_named_where_a_bind_would_fail(held: str, dual: bool, asked: str, conflict: bool) -> None:
    with listening(held, dual=dual) as port:
        assert holder_of(port, asked) == (me() if conflict else None)
    assert holder_of(port, asked) is None


def test_another_process_is_named(stage: Stage) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); input()"
    reading, writing = os.pipe()

    async def scenario() -> None:
        actor = stage.start(python(code), stdin=reading)
        port = int(await actor.line())
        named = holder_of(port, "127.0.0.1")
        assert named is not None
        assert named.endswith(f"(pid {actor.child.pid})")
        assert listeners([actor.child.pid]) == {("127.0.0.1", port)}
        assert listeners([os.getpid()]).isdisjoint({("127.0.0.1", port)})

    asyncio.run(scenario())
    os.close(reading)
    os.close(writing)


def test_another_users_process_is_told_by_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_owner_of", lambda inode: None)  # as it is without root
    with listening("127.0.0.1") as port:
        assert holder_of(port, "127.0.0.1") == f"a process of {ports._user(os.getuid())}"
    assert ports._user(4_000_000) == "the user with uid 4000000"


def test_a_port_that_is_bound_but_not_listened_on_is_taken_too() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        holder = holder_of(bound.getsockname()[1], "127.0.0.1")
    assert holder == "another process that has bound it without listening"


def test_a_name_that_does_not_resolve_is_the_agents_business() -> None:
    assert holder_of(80, "no-such-host.invalid") is None


@ipv6
def test_listeners_of_both_families() -> None:
    with listening("127.0.0.1") as one, listening("::1") as other:
        assert {("127.0.0.1", one), ("::1", other)} <= listeners([os.getpid()])
        assert listeners([]) == set()


def test_free_port_prefers_and_avoids() -> None:
    with listening("127.0.0.1") as held:
        free = free_port()
        assert free_port([held, free]) == free
        assert free_port([free], taken={free}) != free
        assert holder_of(free, "0.0.0.0") is None
