"""What serves in this process: one record for each server that listens. Sockets, servers and drain share it."""

from __future__ import annotations

from .hints import Any, Callable


class Place:
    """One address that the program asked for, and the listening socket that it got for it.

    ``family``, ``kind``: as socket.socket() takes them. ``address``: as the program gave it to bind(), a list.
    ``adopted``: the socket came from the supervisor. ``fd`` is the program's own descriptor.
    """

    def __init__(self, number: int, family: int, kind: int, address: list[Any], fd: int, adopted: bool) -> None:
        self.number, self.family, self.kind, self.address, self.fd = number, family, kind, address, fd
        self.adopted = adopted
        self.listening = False


class Server:
    """One server object of a framework.

    ``go(done)``: accept from now on, then call done() once. ``knock(fd, answer)``: serve this connected socket too
    (owns fd), and answer why not, or "" once it is taken. ``retire(patience, done)``: stop accepting, finish what was
    accepted within ``patience`` seconds, then call done() once. All three may be called from any thread and return at
    once; None: it cannot. ``how``: in a word, for people ("asyncio", "uvloop", …).
    """

    def __init__(self, how: str, places: list[Place]) -> None:
        self.how, self.places = how, places
        self.go: Callable[[Callable[[], None]], None] | None = None
        self.knock: Callable[[int, Callable[[str], None]], None] | None = None
        self.retire: Callable[[float, Callable[[], None]], None] | None = None


places: list[Place] = []
"""Those that were captured or adopted, in the order of bind()."""

servers: list[Server] = []
"""Those that have shown themselves, in that order."""

draining = False
"""Whether a drain was ordered: listeners that are closed now are closed because the instance ends."""
