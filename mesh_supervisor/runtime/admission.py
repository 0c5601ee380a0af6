"""Whether a process may fork its instances: nothing in it but one thread, and nothing changed that a fork would share.

Not a list of names of threads or libraries: OpenBLAS, torch and onnxruntime all call their threads "python", and of
these only onnxruntime's survive a fork. So one fork is tried, and looked at.
"""

from __future__ import annotations

import os
import time

NEVER_FORKED = ("pyarrow", "onnxruntime", "polars", "crewai")
"""Their threads may be gone at the moment we look; a forked child gets its results right and dies when it ends."""

_TRIAL_AT_MOST = 10.0
_SIGNALS = ("SigBlk", "SigIgn", "SigCgt")
_OF_THE_C_LIBRARY = 1 << 31 | 1 << 32 | 1 << 33
"""Signals 32 to 34: it uses them itself as soon as there has been a second thread."""


class Condition:
    """A process as it is now."""

    def __init__(self) -> None:
        self.threads = thread_count()
        self.descriptors = _descriptors()
        self.has_children = _has_children()
        self.status = _status()
        self.directory = _directory()
        self.timer = _has_timer()

    def why_not_fork(self, before: Condition) -> str:
        """What has become of it since ``before``, in words; "" if a fork shares nothing that it must not."""
        if self.threads != 1:
            return f"it has {self.threads} threads"
        if self.has_children:
            return "it has started a process"
        opened = sorted(self.descriptors.keys() - before.descriptors.keys())
        if opened:
            return f"it keeps {_described(self.descriptors[opened[0]])} open"
        if self.status != before.status:
            return _changed(before.status, self.status)
        if self.directory != before.directory:
            return "it has changed its working directory"
        return "it has set a timer" if self.timer else ""


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the one that lists them
    return found


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _status() -> dict[str, int]:
    with open("/proc/self/status") as file:
        lines = [line.partition(":") for line in file]
    found = {name: int(value, 16) & ~_OF_THE_C_LIBRARY for name, _, value in lines if name in _SIGNALS}
    return {**found, **{name: int(value, 8) for name, _, value in lines if name == "Umask"}}


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _has_timer() -> bool:
    import _signal  # type: ignore[import-not-found]  # typeshed has it not

    return any(
        _signal.getitimer(which) != (0.0, 0.0)
        for which in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
    )


def _described(target: str) -> str:
    return "a socket or pipe" if target.startswith(("socket:", "pipe:")) else target


def _changed(before: dict[str, int], now: dict[str, int]) -> str:
    if before.get("Umask") != now.get("Umask"):
        return "it has changed its umask"
    return "it has changed how signals are handled"


# ---- the trial ---------------------------------------------------------------------------------------------------


def try_fork() -> str:
    """Forks once, which is what ends the threads of libraries that are ready for it. "" or what was wrong with it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads; they are what is tried
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    status = wait(pid, _TRIAL_AT_MOST)
    if status is None:
        return "a fork of it hangs"
    return "" if status == 0 else "a fork of it dies"


def wait(pid: int, patience: float) -> int | None:
    """Its exit code (negative: the signal), collected; None: it did not end in time and was killed."""
    deadline = time.monotonic() + patience
    pause = 0.0005
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None
