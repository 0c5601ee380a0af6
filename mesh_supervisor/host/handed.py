"""Readiness of a program that gets its listening socket as descriptor 3 (``listen = "fd"``).

The socket listened before the program was started, so that a connection proves nothing: the kernel queues it. What
tells is that what waits in the queue becomes less.
"""

from __future__ import annotations

from mesh_supervisor.host.probes import Probed
from mesh_supervisor.host.sockets import Held

NOT_YET = "it accepts nothing from the socket that it was given as descriptor 3 (LISTEN_FDS)"


class Queue:
    """``known``: whether the kernel tells its length at all. Something should wait in it when this is made."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._most = held.waiting

    @property
    def known(self) -> bool:
        return self._most is not None

    def look(self) -> Probed:
        """Has anything been accepted?"""
        before, now = self._most or 0, self._held.waiting
        self._most = max(before, now or 0)
        return Probed(now is not None and (now == 0 or now < before), NOT_YET)
