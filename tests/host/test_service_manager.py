"""sd_notify as the supervisor speaks it: to a real socket, without ever waiting for who listens."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from mesh_supervisor.host.service_manager import LONGEST_STATUS, Invitation, ServiceManager, invitation
from tests.e2e.service import Manager, listening

OURS = 4711


def run(told: Callable[[ServiceManager], Coroutine[object, object, None]], invited: Invitation) -> list[str]:
    """What was said about trouble while ``told`` talked to the manager."""
    troubles: list[str] = []

    async def test() -> None:
        manager = ServiceManager(invited, troubles.append)
        try:
            await told(manager)
        finally:
            manager.close()

    asyncio.run(test())
    return troubles


def invited_by(manager: Manager, watchdog: float | None = None) -> Invitation:
    found = invitation({"NOTIFY_SOCKET": manager.address}, OURS)
    assert found is not None
    return Invitation(found.address, watchdog)


# ---- whether one wants to know ---------------------------------------------------------------------------------------


def test_nobody_asked() -> None:
    assert invitation({"PATH": "/bin", "NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1"}, OURS) is None


def test_an_invitation_is_taken_from_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(OURS), "PATH": "/bin"}
    assert invitation(environ, OURS) == Invitation("/run/notify", 3.0)
    assert environ == {"PATH": "/bin"}


def test_a_name_without_a_file() -> None:
    assert invitation({"NOTIFY_SOCKET": "@a/b"}, OURS) == Invitation("\0a/b")


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "9" * 30},
        {"WATCHDOG_USEC": "1e6"},
        {"WATCHDOG_PID": str(OURS)},
    ],
)
def test_a_watchdog_that_is_not_for_us(watchdog: dict[str, str]) -> None:
    assert invitation({"NOTIFY_SOCKET": "/run/notify", **watchdog}, OURS) == Invitation("/run/notify")


def test_a_watchdog_for_whoever_it_is() -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "500000"}
    assert invitation(environ, OURS) == Invitation("/run/notify", 0.5)


# ---- telling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_fields_arrive_in_order(abstract: bool) -> None:
    async def told(manager: ServiceManager) -> None:
        manager.status("two\nlines  and more", READY=1)
        manager.tell(STOPPING=1)

    with listening(abstract=abstract) as systemd:
        assert run(told, invited_by(systemd)) == []
        assert list(systemd.next().items()) == [("READY", "1"), ("STATUS", "two lines and more")]
        assert systemd.next() == {"STOPPING": "1"}


def test_a_long_status_is_cut() -> None:
    async def told(manager: ServiceManager) -> None:
        manager.status("ä" * 10_000)

    with listening() as systemd:
        run(told, invited_by(systemd))
        assert systemd.next() == {"STATUS": "ä" * LONGEST_STATUS}


def test_who_does_not_read_is_not_waited_for_and_gets_everything_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.service_manager.AGAIN", 0.001)
    count = 5000  # more than any queue holds (net.unix.max_dgram_qlen)

    with listening() as systemd:

        async def told(manager: ServiceManager) -> None:
            for number in range(count):
                manager.tell(STATUS=number)
            heard = [await asyncio.to_thread(systemd.next) for _ in range(count)]
            assert [message["STATUS"] for message in heard] == [str(number) for number in range(count)]

        assert run(told, invited_by(systemd)) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/nowhere/notify", "NOTIFY_SOCKET=/nowhere/notify: No such file or directory"),
        ("@meshsup-test/nobody", "NOTIFY_SOCKET=@meshsup-test/nobody: Connection refused"),
        ("vsock:2:1234", "NOTIFY_SOCKET=vsock:2:1234: no address that is known here"),
        ("/" + "x" * 200, "path too long"),
    ],
)
def test_a_manager_that_is_not_there_is_said_once(address: str, said: str) -> None:
    async def told(manager: ServiceManager) -> None:
        for _ in range(3):
            manager.tell(READY=1)

    found = invitation({"NOTIFY_SOCKET": address}, OURS)
    assert found is not None
    troubles = run(told, found)
    assert len(troubles) == 1
    assert said in troubles[0]


def test_a_manager_that_starts_anew_hears_us(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    first, second = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with first, second:
        first.bind(path)

        async def told(manager: ServiceManager) -> None:
            manager.tell(READY=1)
            Path(path).unlink()
            second.bind(path)
            manager.tell(STATUS="again")

        assert run(told, Invitation(path)) == []
        second.setblocking(False)
        assert second.recv(100) == b"STATUS=again"


# ---- the watchdog ----------------------------------------------------------------------------------------------------


def test_the_watchdog_is_fed_more_often_than_it_wants() -> None:
    every = 0.5

    with listening() as systemd:
        begun = time.monotonic()

        async def told(manager: ServiceManager) -> None:
            for number in range(1, 4):
                assert await asyncio.to_thread(systemd.next) == {"WATCHDOG": "1"}
                assert time.monotonic() - begun >= number * every / 2 * 0.9

        run(told, invited_by(systemd, every))


def test_a_loop_that_does_not_turn_feeds_nobody() -> None:
    with listening() as systemd:

        async def told(manager: ServiceManager) -> None:
            assert await asyncio.to_thread(systemd.next) == {"WATCHDOG": "1"}
            systemd.now()  # the next one, where the thread was late
            time.sleep(0.5)  # noqa: ASYNC251 (this is how it hangs)
            assert systemd.now() == []
            assert await asyncio.to_thread(systemd.next) == {"WATCHDOG": "1"}

        run(told, invited_by(systemd, 0.1))


def test_without_a_watchdog_nothing_is_said_by_itself() -> None:
    with listening() as systemd:

        async def told(manager: ServiceManager) -> None:
            await asyncio.sleep(0.2)

        run(told, invited_by(systemd))
        assert systemd.now() == []
