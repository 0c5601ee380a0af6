"""A ``meshsup`` command on a terminal of its own, as a person has it: typed to, and read from."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from tests.e2e.harness import MESHSUP, Mesh

ON_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes stdin the controlling terminal of a new session, then becomes the command: its foreground process group."""


class Terminal:
    """``screen`` is all that was shown so far; ``process`` the command. Somebody always reads: a program that writes
    more than a terminal holds would wait for ever."""

    def __init__(self, mesh: Mesh, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.screen = ""
        self._read_to = 0
        self._ended = False
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, str(MESHSUP), *words],
            cwd=mesh.root,
            env={**mesh.environ, "TERM": "dumb"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def see(self, text: str, timeout: float = 30.0) -> None:
        """Until ``text`` is shown, after what was seen before. AssertionError when it is not, with the screen."""
        with self._news:
            there = self._news.wait_for(lambda: text in self.screen[self._read_to :] or self._ended, timeout)
            assert there, f"{text!r} is not on the screen:\n{self.screen}"
            assert text in self.screen[self._read_to :], f"it has ended without {text!r}:\n{self.screen}"
            self._read_to = self.screen.index(text, self._read_to) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ends(self, timeout: float = 30.0) -> int:
        """Its exit code, as a shell would see it, once all it showed was read."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code

    def _read(self) -> None:
        """Until nobody has the other end open any more: then reading is an error (EIO)."""
        read = b"?"
        while read:
            try:
                read = os.read(self._master, 65536)
            except OSError:
                read = b""
            with self._news:
                self.screen += read.decode(errors="replace")
                self._ended = not read
                self._news.notify_all()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
        self._reader.join(10)
        os.close(self._master)


@contextlib.contextmanager
def terminal(mesh: Mesh, *words: str) -> Iterator[Terminal]:
    """The command, gone at the end."""
    opened = Terminal(mesh, *words)
    try:
        yield opened
    finally:
        print(f"---- the terminal of {' '.join(words)}\n{opened.screen[-4000:]}")
        opened.close()
