"""The packets that go between the supervisor and the runtime in an agent. Both ends read this file.

One Unix socket of type SOCK_SEQPACKET: a packet is one JSON object with the key ``is`` (its kind), and at most
``MOST_DESCRIPTORS`` descriptors travel with it. A packet boundary cannot be garbled, and what belongs together arrives
together.
"""

from __future__ import annotations

import _socket
import os
import sys
from _json import encode_basestring_ascii, make_encoder, make_scanner

from .hints import Any, NoReturn

LARGEST = 128 * 1024
"""Bytes of one packet. The kernel takes up to SO_SNDBUF (208 KiB by default) less its own overhead."""

MOST_DESCRIPTORS = 64
"""With one packet of ours."""

_MOST_TAKEN = 253
"""What the kernel allows. Those for which there is no room it would close itself, in the thread that reads."""

_SIZE = 4
"""Bytes of a descriptor beside a packet: an int of C."""


class Garbled(ValueError):
    """A packet that is no JSON object with a kind."""


def pack(kind: str, fields: dict[str, object]) -> bytes:
    """Raises ValueError if it does not fit into a packet, TypeError for what JSON has not."""
    packet = _written({"is": kind, **fields}).encode()
    if len(packet) > LARGEST:
        raise ValueError(f"{kind}: {len(packet)} bytes do not fit into a packet")
    return packet


def send(sock: _socket.socket, packet: bytes, descriptors: tuple[int, ...] = (), *, wait: bool = True) -> None:
    """Raises OSError; BlockingIOError when there is no room and ``wait`` is False."""
    numbers = b"".join(fd.to_bytes(_SIZE, sys.byteorder) for fd in descriptors)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)] if descriptors else []
    flags = _socket.MSG_NOSIGNAL | (0 if wait else _socket.MSG_DONTWAIT)
    sock.sendmsg([packet], ancillary, flags)


def receive(sock: _socket.socket, *, wait: bool = True) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet and its descriptors (close-on-exec, the caller's to close); None at the end.

    Raises OSError; Garbled, with the descriptors closed, for what is not a packet of ours.
    """
    taken = take(sock, wait=wait)
    if taken is None:
        return None
    packet, descriptors = taken
    try:
        return unpack(packet), descriptors
    except Garbled:
        for fd in descriptors:
            os.close(fd)
        raise


def take(sock: _socket.socket, *, wait: bool = True) -> tuple[bytes, list[int]] | None:
    """As ``receive``, but nothing is looked into yet. Raises OSError."""
    flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
    packet, ancillary, _, _ = sock.recvmsg(LARGEST, _socket.CMSG_SPACE(_MOST_TAKEN * _SIZE), flags)
    descriptors = passed(ancillary)
    return (packet, descriptors) if packet or descriptors else None


def passed(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message, as recvmsg() returns them. They are the caller's."""
    descriptors: list[int] = []
    for level, kind, found in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = range(0, len(found) - len(found) % _SIZE, _SIZE)
            descriptors.extend(int.from_bytes(found[at : at + _SIZE], sys.byteorder) for at in whole)
    return descriptors


def unpack(packet: bytes) -> dict[str, Any]:
    """Raises Garbled."""
    try:
        message = _read(packet.decode())
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("is"), str):
        raise Garbled(f"not a packet: {packet[:80]!r}")
    return message


# ---- JSON: what the module ``json`` uses itself --------------------------------------------------------------------
# To import that one costs an agent 5 ms (it loads ``re``), and a program's folder may have a json.py of its own.


class _Manner:
    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


_scan = make_scanner(_Manner)  # type: ignore[arg-type]  # typeshed has it otherwise


def _read(text: str) -> Any:
    """Raises ValueError, RecursionError."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    if end != len(text):
        raise ValueError("not JSON")
    return value


def _written(value: object) -> str:
    """Raises TypeError, ValueError."""
    encode = make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)
    return "".join(encode(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is not for JSON")
