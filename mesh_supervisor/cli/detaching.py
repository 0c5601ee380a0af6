"""`up -d`: a supervisor of its own session, and the news of whether it got up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from click.exceptions import Exit

from mesh_supervisor.cli.terminal import talk
from mesh_supervisor.control.client import Client
from mesh_supervisor.errors import ConfigError, NotRunning
from mesh_supervisor.host.service_manager import without_invitation
from mesh_supervisor.host.statedir import StateDir
from mesh_supervisor.locate import Place
from mesh_supervisor.options import UpOptions

LOOK_EVERY = 0.02
TAIL = 40
"""Lines of its output that are shown of a supervisor that did not get up."""


def detach(place: Place, options: UpOptions) -> None:
    """Start a supervisor in the background and return once its control socket answers.

    Exits with its exit code, after its own words, when it ends before.
    """
    output = _output(place)
    process = _start(place, options, output)
    snapshot_pid = _wait(Client(place), process)
    if snapshot_pid is None:
        talk(*output.read_text(errors="replace").splitlines()[-TAIL:])
        raise Exit(_exit_code(process.returncode))
    talk(f"running in the background (pid {snapshot_pid}); `meshsup ps`, `logs -f`, `down`")


def _output(place: Place) -> Path:
    """What a supervisor without a terminal says before, after and beside its log. Raises ConfigError."""
    StateDir.open(place.state_dir, place.root)
    file = place.state_dir / "logs" / "meshsup.out"
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{file.parent}: cannot keep logs there ({error.strerror}); move it away") from error
    return file


def _start(place: Place, options: UpOptions, output: Path) -> subprocess.Popen[bytes]:
    # -P: the folder that somebody stands in must not be where its modules are looked for.
    argv = [sys.executable, "-P", "-m", "mesh_supervisor.cli.detached", str(place.file), options.to_json()]
    try:
        # O_NONBLOCK: a named pipe that lies there must not hold us up.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(output, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); move it away") from error
    with os.fdopen(descriptor, "wb") as file:
        os.set_blocking(descriptor, True)
        return subprocess.Popen(
            argv,
            env=without_invitation(),  # the service manager waits for this process, not for that one
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _wait(client: Client, process: subprocess.Popen[bytes]) -> int | None:
    """The supervisor's pid once it answers; None when it ended. Another one that answers there is not waited for."""
    while process.poll() is None:
        try:
            snapshot = client.snapshot()
        except NotRunning:
            snapshot = None
        if snapshot is not None and snapshot.pid == process.pid:
            return snapshot.pid
        time.sleep(LOOK_EVERY)
    return None


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code or 1
