"""Threads of ours in the program's process."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself loads enum

# Now: gevent puts something else in its place, which would stop the program while we wait.
from _thread import start_new_thread

from .hints import Any, Callable

_FAULTS = {_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE, _signal.SIGILL, _signal.SIGABRT}


def start(function: Callable[..., None], *arguments: Any) -> None:
    """Raises RuntimeError when there can be no more threads.

    It takes no signals: one that it took would not wake the main thread out of what that one waits in, and the
    program's handler would run when something else wakes it, if ever. The mask is inherited, so it holds from the
    first moment.
    """
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _FAULTS)
    try:
        start_new_thread(function, arguments)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
