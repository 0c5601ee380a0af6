"""Under which address this machine is seen from another one."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from threading import Thread
from urllib.parse import urlsplit

PATIENCE = 2.0
"""Seconds for the name in a URL to become an address."""


@cache
def address_towards(url: str) -> str:
    """The address that a server at ``url`` would see us come from: of the network that we share with it. This machine's
    name where that cannot be told. Nothing is sent to anybody but the name server; blocks for at most PATIENCE seconds.

    Asked once, so that what others are told stays the same while we run.
    """
    found: list[str] = []
    # A thread: nothing else ends a look-up that does not come back. At our end nobody waits for it.
    looking = Thread(target=lambda: found.extend(_addresses(url)), daemon=True)
    looking.start()
    looking.join(PATIENCE)
    return found[0] if found else socket.gethostname()


def _addresses(url: str) -> list[str]:
    parts = urlsplit(url)
    with suppress(OSError, UnicodeError):  # no such name (yet); no name at all
        there = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        for family, kind, protocol, _, address in sorted(there, key=lambda one: one[0] != socket.AF_INET):
            with suppress(OSError), socket.socket(family, kind, protocol) as line:  # no way there in this family
                line.connect(address)
                return [str(line.getsockname()[0])]
    return []
