"""The packets that go between the supervisor and the runtime in an agent. Both ends read this file.

One Unix socket of type SOCK_SEQPACKET: a packet is one JSON object with the key ``is`` (its kind), and at most
``MOST_DESCRIPTORS`` descriptors travel with it. A packet boundary cannot be garbled, and what belongs together arrives
together.
"""

from __future__ import annotations

import _socket
import json
import os
from array import array
from typing import Any

LARGEST = 128 * 1024
"""Bytes of one packet. The kernel takes up to SO_SNDBUF (208 KiB by default) less its own overhead."""

MOST_DESCRIPTORS = 64
"""With one packet. The kernel allows 253."""

_SIZE = array("i").itemsize


class Garbled(ValueError):
    """A packet that is no JSON object with a kind."""


def pack(kind: str, fields: dict[str, object]) -> bytes:
    """Raises ValueError if it does not fit into a packet."""
    packet = json.dumps({"is": kind, **fields}, ensure_ascii=True, separators=(",", ":")).encode()
    if len(packet) > LARGEST:
        raise ValueError(f"{kind}: {len(packet)} bytes do not fit into a packet")
    return packet


def send(sock: _socket.socket, packet: bytes, descriptors: tuple[int, ...] = (), *, wait: bool = True) -> None:
    """Raises OSError; BlockingIOError when there is no room and ``wait`` is False."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    flags = _socket.MSG_NOSIGNAL | (0 if wait else _socket.MSG_DONTWAIT)
    sock.sendmsg([packet], ancillary, flags)


def receive(sock: _socket.socket, *, wait: bool = True) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet and its descriptors (close-on-exec, the caller's to close); None at the end.

    Raises OSError; Garbled, with the descriptors closed, for what is not a packet of ours.
    """
    flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
    packet, ancillary, _, _ = sock.recvmsg(LARGEST, _socket.CMSG_SPACE(MOST_DESCRIPTORS * _SIZE), flags)
    descriptors: list[int] = []
    for level, kind, found in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            numbers = array("i")
            numbers.frombytes(found[: len(found) - len(found) % _SIZE])
            descriptors.extend(numbers)
    if not packet and not descriptors:
        return None
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("is"), str):
        for fd in descriptors:
            os.close(fd)
        raise Garbled(f"not a packet: {packet[:80]!r}")
    return message, descriptors
