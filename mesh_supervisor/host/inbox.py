"""From the thread that reads inotify to the loop's thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class News:
    """Real paths: files that came, went or were written; folders that came or went; folders moved away as a whole."""

    seen: set[str] = field(default_factory=set)
    turned: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)


class Inbox:
    """From the reader's thread to the loop's: gathers, and wakes the loop once for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, collect: Callable[[News], None]) -> None:
        self._loop, self._collect = loop, collect
        self._lock = threading.Lock()
        self._closed = self._woken = False
        self._news = News()

    def put_seen(self, path: str) -> None:
        with self._lock:
            self._news.seen.add(path)
            self._wake()

    def put_turned(self, path: str) -> None:
        with self._lock:
            self._news.turned.add(path)
            self._wake()

    def put_vanished(self, path: str) -> None:
        with self._lock:
            self._news.vanished.add(path)
            self._wake()

    def call(self, function: Callable[[], None]) -> None:
        """Call it in the loop's thread, unless this is closed by then."""
        with self._lock:
            self._call_soon(lambda: None if self._closed else function())

    def close(self) -> None:
        """Nothing is delivered any more."""
        with self._lock:
            self._closed = True

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._call_soon(self._deliver)

    def _call_soon(self, function: Callable[[], None]) -> None:
        # The loop may have been closed without stop(): then nobody is left to be told.
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _deliver(self) -> None:
        with self._lock:
            news, self._news, self._woken = self._news, News(), False
        if not self._closed:
            self._collect(news)
