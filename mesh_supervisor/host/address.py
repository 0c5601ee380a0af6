"""Under which address this machine is seen from another one."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from urllib.parse import urlsplit

PATIENCE = 2.0
"""Seconds for the name in a URL to become an address."""

AGAIN = 2.0
"""Seconds until a name that has no address yet is looked up again."""

_known: dict[str, str] = {}
_asked: set[str] = set()


def address_towards(url: str) -> str | None:
    """The address that a server at ``url`` would see us come from: of the network that we share with it. None where
    that cannot be told (yet). Nothing is sent to anybody but the name server.

    Blocks for at most PATIENCE seconds, and only the first time; what was found stays, as others are told of it.
    """
    if url not in _asked:
        _asked.add(url)
        _looking(url).join(PATIENCE)
    return _known.get(url)


async def known(url: str) -> str:
    """The same, once it can be told: a registry's name may get its address after we have started."""
    looking: Thread | None = None
    while url not in _known:
        if looking is None or not looking.is_alive():
            looking = _looking(url)
        await asyncio.sleep(AGAIN)
    return _known[url]


def _looking(url: str) -> Thread:
    # A thread: nothing else ends a look-up that does not come back. At our end nobody waits for it.
    looking = Thread(target=_look, args=(url,), daemon=True)
    looking.start()
    return looking


def _look(url: str) -> None:
    for found in _addresses(url):
        _known.setdefault(url, found)


def _addresses(url: str) -> list[str]:
    parts = urlsplit(url)
    with suppress(OSError, UnicodeError):  # no such name (yet); no name at all
        there = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        for family, kind, protocol, _, address in sorted(there, key=lambda one: one[0] != socket.AF_INET):
            with suppress(OSError), socket.socket(family, kind, protocol) as line:  # no way there in this family
                line.connect(address)
                return [str(line.getsockname()[0])]
    return []
