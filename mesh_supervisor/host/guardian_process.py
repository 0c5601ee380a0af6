"""The guardian's own process: ``python -I -S guardian_process.py IMPORT_PATH OWNER REPORT`` with a pipe as its stdin.

The supervisor holds the other end. A byte on the pipe is an orderly end: nothing is done. End of file without one: the
supervisor is gone, so every process of the mesh is swept and one line about it is appended to REPORT ("" for none).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time


def main(import_path: str, owner: str, report: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # Before the wait: by the time of need an upgrade may have replaced the files.
    sys.path.insert(0, import_path)
    from mesh_supervisor.host.sweep import drop_tag, sweep_owner

    drop_tag()
    close_inherited()
    os.chdir("/")
    if os.read(0, 1):
        return
    swept = sweep_owner(owner)
    if swept and report:
        names = ", ".join(f"{one.name} ({one.pid})" for one in swept)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with contextlib.suppress(OSError):
            fd = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.write(fd, f"{moment} the supervisor was killed; swept {names}\n".encode(errors="replace"))


def close_inherited() -> None:
    """What the supervisor's own parent left open: whoever waits for the other end must not wait for the guardian."""
    try:
        opened = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208
    except OSError:
        opened = list(range(4096))  # no /dev
    for fd in opened:
        if fd > 2:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


if __name__ == "__main__":
    main(*sys.argv[1:4])
