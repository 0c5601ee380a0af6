"""Packets: what one end packs, the other end reads; and it is JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.runtime import wire

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def opened() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


@given(VALUES)
def test_a_packet_is_json(value: object) -> None:
    text = json.dumps({"is": "x", "value": value}, separators=(",", ":"))
    assert wire.pack("x", {"value": value}) == text.encode()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        wire.send(one, text.encode())
        assert wire.receive(other) == ({"is": "x", "value": value}, [])


def test_descriptors_travel_with_it(ends: tuple[socket.socket, socket.socket]) -> None:
    read, write = os.pipe()
    wire.send(ends[0], wire.pack("x", {}), (read, write))
    os.close(read)
    os.close(write)
    heard = wire.receive(ends[1])
    assert heard is not None
    message, (read, write) = heard
    try:
        assert message == {"is": "x"}
        assert not os.get_inheritable(read)
        os.write(write, b"through")
        assert os.read(read, 10) == b"through"
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    "packet",
    [
        *(b"x", b"{", b"{}", b"[]", b"null", b'{"is":1}', b'{"is":"x"} ', b'{"is":"x"}{}', b' {"is":"x"}', b"\xff"),
        *(b"[" * 9999, b'{"is":"x",}', b"\0", b'{"is":"\xe9"}'),
    ],
)
def test_what_is_no_packet_is_garbled(packet: bytes, ends: tuple[socket.socket, socket.socket]) -> None:
    wire.send(ends[0], packet)
    with pytest.raises(wire.Garbled):
        wire.receive(ends[1])


def test_descriptors_of_a_garbled_one_are_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    before = opened()
    wire.send(ends[0], b"nonsense", (0, 1, 2))
    with pytest.raises(wire.Garbled):
        wire.receive(ends[1])
    assert opened() == before


def test_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].close()
    assert wire.receive(ends[1]) is None


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
def test_what_json_has_not(value: object) -> None:
    with pytest.raises(TypeError):
        wire.pack("x", {"value": value})


def test_what_holds_itself_or_is_too_large() -> None:
    itself: list[object] = []
    itself.append(itself)
    with pytest.raises(ValueError, match="Circular"):
        wire.pack("x", {"value": itself})
    with pytest.raises(ValueError, match="do not fit"):
        wire.pack("x", {"value": "x" * wire.LARGEST})
