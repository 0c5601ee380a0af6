"""What waits between the event loop and a writer thread: bounded, dropping instead of blocking."""

from __future__ import annotations

import threading
from collections import deque

from mesh_supervisor.host.lines import Line

MOST_LINES = 50_000
MOST_CHARACTERS = 8 * 1024 * 1024


class Backlog:
    """Lines from one thread to another. ``put`` never blocks; when it is full the oldest lines are dropped."""

    def __init__(self, most_lines: int = MOST_LINES, most_characters: int = MOST_CHARACTERS) -> None:
        self._most_lines, self._most_characters = most_lines, most_characters
        self._lines: deque[Line] = deque()
        self._characters = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._waiting = False
        self._closed = False

    def put(self, line: Line) -> None:
        with self._changed:
            self._lines.append(line)
            self._characters += line.weight
            while len(self._lines) > self._most_lines or self._characters > self._most_characters:
                self._characters -= self._lines.popleft().weight
                self._dropped += 1
            if self._waiting:
                self._waiting = False
                self._changed.notify()

    def take(self) -> tuple[deque[Line], int]:
        """Wait for lines; (lines, how many were dropped before the first of them). Empty: it was closed."""
        with self._changed:
            while not self._lines and not self._closed:
                self._waiting = True
                self._changed.wait()
            lines, dropped = self._lines, self._dropped
            self._lines, self._characters, self._dropped = deque(), 0, 0
            return lines, dropped

    def close(self) -> None:
        """What waits may still be taken; then ``take`` answers with nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
