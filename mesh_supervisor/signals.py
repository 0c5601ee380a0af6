"""What signals ask of a mesh: SIGTERM, SIGINT and their kin stop it in order, a second one at once; SIGHUP applies
mesh.toml, or, from a terminal that is gone, stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from functools import partial

from mesh_supervisor.applying import Applying
from mesh_supervisor.host.container import is_main_process
from mesh_supervisor.host.early import STOPPING
from mesh_supervisor.supervisor import Supervisor

_WITHOUT_MEANING = ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO")
"""They end any other process. PID 1 they cannot end, and that should not look as if they had been heard."""


class Signals:
    """Hears them from the beginning. What comes before there is a mesh to tell (``tell``) is told to it then."""

    def __init__(self) -> None:
        self._untold: list[Callable[[], None]] = []
        self._supervisor: Supervisor | None = None
        self._applying: Applying | None = None
        self._cut_short: signal.Signals | None = None

    def tell(self, supervisor: Supervisor, applying: Applying) -> None:
        self._supervisor, self._applying = supervisor, applying
        for hear in self._untold:
            hear()

    def exit_code(self, code: int) -> int:
        """``code``, unless a signal cut a clean stop short: then 128 and its number, as shells have it."""
        return 128 + self._cut_short if code == 0 and self._cut_short is not None else code

    def stop(self, number: signal.Signals) -> None:
        if self._supervisor is None:
            self._untold.append(partial(self.stop, number))
            return
        if self._supervisor.over.is_set() and self._cut_short is None:
            self._cut_short = number
        self._supervisor.finish(why=number.name)

    def apply(self) -> None:
        if self._supervisor is None or self._applying is None:
            self._untold.append(self.apply)
        else:
            self._supervisor.selection.soon(partial(self._applying.asked_by, "SIGHUP"))

    def pass_over(self, number: signal.Signals) -> None:
        if self._supervisor is not None:
            self._supervisor.say(f"{number.name} means nothing here: SIGTERM stops the mesh, SIGHUP applies mesh.toml")


@contextlib.contextmanager
def heard(*, terminal: bool) -> Generator[Signals, None, None]:
    """In the running loop, from the main thread. ``terminal``: there is one, whose end is the end of the mesh."""
    loop, signals = asyncio.get_running_loop(), Signals()
    handlers: dict[signal.Signals, Callable[[], None]] = {number: partial(signals.stop, number) for number in STOPPING}
    handlers[signal.SIGHUP] = partial(signals.stop, signal.SIGHUP) if terminal else signals.apply
    if os.getpid() == 1:
        known = (getattr(signal, name) for name in _WITHOUT_MEANING if hasattr(signal, name))
        handlers.update({number: partial(signals.pass_over, number) for number in known})
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield signals
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
        # Everything is done. What asks once more ends what is left of us, without a word from a loop that is closing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def has_terminal() -> bool:
    """A container has none to lose: `docker kill -s HUP` is meant as it is said, with `docker run -t` too."""
    return not is_main_process() and sys.stdin is not None and sys.stdin.isatty()
