"""Descriptors that others opened are closed on threads of their own.

close() may wait as long as their maker wants: for data of a socket that nobody reads (SO_LINGER, also where O_NONBLOCK
is set), for a FUSE mount that is dead, and for whatever such a thing lies in: a Unix socket takes the messages in its
queue, and their descriptors, along. The event loop must not.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

MOST_WITH_ONE = 253
"""Descriptors with one message (SCM_MAX_FD). Where there is room for fewer, the kernel closes the others itself, in the
thread that reads."""

MOST_WAITING = 512
"""Descriptors that wait to be closed behind one that hangs. Whoever sends them is read no more until they are fewer."""


class Closing:
    """One line in which descriptors wait, of one owner: what hangs holds up nobody else's. Any thread may use it.

    Its thread is there while something waits. It holds up no exit: it is a daemon, and a process that ends does not
    linger.
    """

    def __init__(self) -> None:
        self._line: deque[int] = deque()
        self._lock = threading.Lock()
        self._busy = False

    @property
    def waiting(self) -> int:
        return len(self._line)

    def take(self, descriptors: Iterable[int] = ()) -> None:
        """They are ours from now on. Where no thread can be had they wait for the next call."""
        with self._lock:
            self._line.extend(descriptors)
            if self._busy or not self._line:
                return
            self._busy = True
        try:
            threading.Thread(target=self._close, name="closing", daemon=True).start()
        except RuntimeError:  # as many as the system grants
            self._busy = False

    def _close(self) -> None:
        while True:
            with self._lock:
                if not self._line:
                    self._busy = False
                    return
                descriptor = self._line.popleft()
            with suppress(OSError):
                os.close(descriptor)
