"""sd_notify, as `meshsup up` itself speaks it to the service manager that started it (systemd, podman, an outer mesh).

host/notify.py is the other end: what our agents say to us.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

AGAIN = 0.05
"""Seconds until a message is sent again for which there was no room: the manager is busy, and will read."""

LONGEST_STATUS = 200
"""Characters; `systemctl status` shows one line."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where the service manager listens: a path, or \\0 and a name. ``watchdog``: seconds within which it wants a sign
    of life, again and again; None: it wants none. ``odd``: an address that we cannot write to, instead of one."""

    address: str
    watchdog: float | None = None
    odd: bool = False


def invitation(environ: MutableMapping[str, str], pid: int) -> Invitation | None:
    """What ``environ`` says to the process ``pid``; None: nobody wants to know. It is taken out of ``environ``:
    whoever we start would speak in our name."""
    address, interval, whose = (environ.pop(name, "") for name in NAMES)
    if not address:
        return None
    mine = whose in ("", str(pid))
    watchdog = int(interval) / 1e6 if mine and _is_number(interval) and int(interval) > 0 else None
    if address.startswith("@"):
        return Invitation("\0" + address[1:], watchdog)
    # "vsock:CID:PORT": of a whole virtual machine.
    return Invitation(address, watchdog, odd=not address.startswith("/"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


class ServiceManager:
    """Tells it. Lives in the running loop until ``close``. What cannot be delivered is said once, through ``trouble``,
    and stops nothing."""

    def __init__(self, invited: Invitation, trouble: Callable[[str], None]) -> None:
        self._invited, self._trouble = invited, trouble
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._failed = self._said = False
        self._feeding: asyncio.TimerHandle | None = None
        self._feed_later()

    def tell(self, **fields: str | int) -> None:
        """One message of these fields, in order. Never waits."""
        if not self._failed:
            self._waiting.append("\n".join(f"{name}={value}" for name, value in fields.items()).encode())
            self._send()

    def status(self, text: str, **fields: str | int) -> None:
        """One line for people, with whatever else is to be said at this moment."""
        self.tell(**fields, STATUS=" ".join(text.split())[:LONGEST_STATUS])

    def close(self) -> None:
        """What could not be sent yet is sent if there is room by now."""
        if self._feeding is not None:
            self._feeding.cancel()
        self._send()
        if self._later is not None:
            self._later.cancel()
        self._socket.close()

    def _send(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        while self._waiting:
            try:
                # By its address each time: a manager that starts anew listens on another socket.
                self._socket.sendto(self._waiting[0], self._invited.address)
            except BlockingIOError:
                self._later = self._loop.call_later(AGAIN, self._send)
                return
            except OSError as error:
                self._lose(error)
            else:
                self._waiting.popleft()
                self._said = False

    def _lose(self, error: OSError) -> None:
        """What waits is lost; said once, and tried again with the next message, such as the next sign of life."""
        self._failed = self._invited.odd
        self._waiting.clear()
        if self._said:
            return
        self._said = True
        where = self._invited.address.replace("\0", "@", 1)
        why = "no address that is known here" if self._invited.odd else error.strerror or str(error)
        self._trouble(f"the service manager is told nothing: NOTIFY_SOCKET={where}: {why}")

    # ---- the watchdog ------------------------------------------------------------------------------------------------

    def _feed_later(self) -> None:
        """By a timer of the loop, so that the sign of life comes only while the loop turns."""
        if self._invited.watchdog is not None:
            self._feeding = self._loop.call_later(self._invited.watchdog / 2, self._feed)

    def _feed(self) -> None:
        if not self._waiting:  # what waits there is a sign of life too
            self.tell(WATCHDOG=1)
        self._feed_later()


def monotonic_usec() -> int:
    """The clock of MONOTONIC_USEC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def is_invited(environ: MutableMapping[str, str]) -> bool:
    return bool(environ.get(NAMES[0]))


def without_invitation() -> dict[str, str]:
    """The environment of this process, for one that is not to speak in its name."""
    return {name: value for name, value in os.environ.items() if name not in NAMES}
