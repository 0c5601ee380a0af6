"""Listeners that are taken from under a program, and the connections that came through them."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest

from mesh_supervisor.runtime.drain_manner import enclosed, is_quiet
from mesh_supervisor.runtime.drain_sockets import Accepted, address_of, is_listener, quieten


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=request.param == "::") as sock:
        yield sock


@pytest.fixture
def others(listener: socket.socket) -> Iterator[socket.socket]:
    """What another process holds: the same socket, and in this one as far as its parent knows."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # On its way through a socket it is nobody's descriptor.
        socket.send_fds(ours, [b"-"], [listener.fileno()])
        yield theirs


def arrived(others: socket.socket) -> socket.socket:
    _, (fd,), _, _ = socket.recv_fds(others, 1, 1)
    return socket.socket(fileno=fd)


def client_of(listener: socket.socket) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.getsockname()[1]))


def test_nothing_comes_to_a_listener_that_was_taken_away(listener: socket.socket, others: socket.socket) -> None:
    listener.setblocking(False)
    copy = listener.dup()
    address = ("127.0.0.1", listener.getsockname()[1])
    with copy, select.epoll() as watched:
        watched.register(listener.fileno(), select.EPOLLIN)
        watched.register(copy.fileno(), select.EPOLLIN)
        quieten([listener.fileno()])
        with socket.create_connection(address):
            assert watched.poll(0) == []
            for sock in (listener, copy):
                with pytest.raises(BlockingIOError):
                    sock.accept()
            with arrived(others) as held:
                held.settimeout(10)
                held.accept()[0].close()  # it waited for somebody else


def test_a_taken_descriptor_goes_on_as_it_was(listener: socket.socket, others: socket.socket) -> None:
    listener.setblocking(True)
    address = listener.getsockname()
    quieten([listener.fileno()])
    assert os.get_blocking(listener.fileno())
    assert not os.get_inheritable(listener.fileno())
    assert is_listener(listener.fileno())
    assert len(listener.getsockname()) == len(address)
    assert listener.getsockname()[1] != address[1]


def test_what_is_no_listener_is_left_alone(listener: socket.socket) -> None:
    with client_of(listener) as client:
        quieten([client.fileno(), 0, 10_000])
        accepted = listener.accept()[0]
        with accepted:
            client.sendall(b"x")
            assert accepted.recv(1) == b"x"


def test_connections_are_counted_until_they_are_closed(listener: socket.socket) -> None:
    counted = Accepted([address_of(listener.fileno())])
    assert counted.count() == 0
    with client_of(listener), client_of(listener):
        first, second = listener.accept()[0], listener.accept()[0]
        assert counted.count() == 2
        first.close()
        assert counted.count() == 1
        third = listener.accept() if select.select([listener], [], [], 0)[0] else None
        assert third is None
        second.close()
        assert counted.count() == 0


def test_a_number_that_was_given_to_another_is_not_counted(listener: socket.socket) -> None:
    counted = Accepted([address_of(listener.fileno())])
    with client_of(listener):
        accepted = listener.accept()[0]
        assert counted.count() == 1
        number = accepted.fileno()
        with socket.socket() as other:
            os.dup2(other.fileno(), number)
            assert counted.count() == 0
        accepted.close()


def test_connections_of_others_are_not_counted(listener: socket.socket) -> None:
    counted = Accepted([address_of(listener.fileno())])
    with socket.create_server(("127.0.0.1", 0)) as other, client_of(other), other.accept()[0]:
        assert counted.count() == 0


def test_what_moves_is_not_quiet(listener: socket.socket) -> None:
    with client_of(listener) as client, listener.accept()[0] as accepted:
        assert is_quiet(accepted.fileno(), 0.0)
        assert not is_quiet(accepted.fileno(), 1000.0)
        client.sendall(b"x")
        select.select([accepted], [], [], 10)
        assert not is_quiet(accepted.fileno(), 0.0)
    assert not is_quiet(10_000, 0.0)


def test_what_a_factory_has_around_it() -> None:
    config = object()

    def factory() -> object:
        return config

    assert enclosed(factory) == {"config": config}
    assert enclosed(print) == {}
    assert enclosed(None) == {}
