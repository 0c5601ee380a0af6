"""Stopping: signal, SIGCONT, grace, SIGKILL, wait; also through shells and wrappers."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from mesh_supervisor.host import procfs
from mesh_supervisor.host.children import living
from mesh_supervisor.host.procfs import catches
from mesh_supervisor.host.spawn import Child, Swept, stop, sweep
from mesh_supervisor.lifecycle import Exit

from .stage import PATIENCE, PLAIN, Actor, Stage, alive, ended, held, python, until

DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""

# signal.pause() would miss a signal that comes just before it.
POLITE = """
import os, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("ready", os.getpid(), flush=True)
while not told:
    time.sleep(0.005)
sys.stdin.read()
print("finished what was accepted", len(told), flush=True)
"""


async def ready(actor: Actor) -> list[str]:
    words = (await actor.line()).split()
    assert words[0] == "ready"
    return words[1:]


async def stop_in_time(child: Child, number: int = signal.SIGTERM) -> Exit:
    """With a grace that would fail the test if it were used up."""
    begun = time.monotonic()
    exit = await stop(child, number, PATIENCE)
    assert time.monotonic() - begun < PATIENCE, "it did not end by the signal"
    return exit


def test_a_program_that_finishes_its_work_is_given_the_time(stage: Stage) -> None:
    async def scenario() -> None:
        actor = stage.start(python(POLITE))
        await ready(actor)
        assert await stop_in_time(actor.child) == Exit(0)
        assert await actor.line() == "finished what was accepted 1"

    asyncio.run(scenario())


def test_one_that_ignores_the_signal_is_killed(stage: Stage) -> None:
    async def scenario() -> None:
        actor = stage.start(python(DEAF))
        await ready(actor)
        assert await stop(actor.child, signal.SIGTERM, 0.05) == Exit(None, signal.SIGKILL)

    asyncio.run(scenario())


@pytest.mark.parametrize("code", [POLITE, DEAF])
def test_one_that_is_stopped_is_woken(stage: Stage, code: str) -> None:
    async def scenario() -> Exit:
        actor = stage.start(python(code))
        await ready(actor)
        os.kill(actor.child.pid, signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, actor.child.pid, os.WSTOPPED | os.WNOWAIT)
        if code is DEAF:
            return await stop(actor.child, signal.SIGTERM, 0.05)
        return await stop_in_time(actor.child)

    assert asyncio.run(scenario()) == (Exit(0) if code is POLITE else Exit(None, signal.SIGKILL))


def test_sigint_as_the_stop_signal_ends_a_python_program_as_ctrl_c_does(stage: Stage) -> None:
    async def scenario() -> Exit:
        actor = stage.start(python("import time; print('ready', flush=True); time.sleep(600)"))
        await ready(actor)
        return await stop_in_time(actor.child, signal.SIGINT)

    assert asyncio.run(scenario()) == Exit(None, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_has_only_just_been_spawned(stage: Stage, number: signal.Signals) -> None:
    async def scenario() -> bytes:
        actor = stage.start(("sleep", "600"))
        assert await stop_in_time(actor.child, number) == Exit(None, number)
        return await actor.rest()

    assert asyncio.run(scenario()) == b"", "the helper shows no traceback"


def test_sigint_while_the_helper_starts_shows_no_traceback(stage: Stage) -> None:
    async def scenario() -> bytes:
        actor = stage.start(("sleep", "600"))

        def python_has_its_handler_or_is_gone() -> bool:
            process = procfs.look(actor.child.pid)
            return catches(actor.child.pid, signal.SIGINT) or process is None or process.name == "sleep"

        while not python_has_its_handler_or_is_gone():
            pass  # a window of some milliseconds
        assert await stop_in_time(actor.child, signal.SIGINT) == Exit(None, signal.SIGINT)
        return await actor.rest()

    for _ in range(5):
        assert asyncio.run(scenario()) == b""


def test_a_sweep_waits_for_the_end_of_a_stop(stage: Stage, subreaper: None) -> None:
    """Whoever waits for the exit sweeps at once; a shell exits at once."""
    script = stage.directory / "polite.py"
    script.write_text(POLITE)

    async def swept_after_exit(child: Child) -> list[Swept]:
        await child.wait()
        return await sweep(child.mark, child)

    async def scenario() -> None:
        reading, writing = os.pipe()
        actor = stage.start(("sh", "-c", f"{sys.executable} -S {script}; true"), stdin=reading)
        os.close(reading)
        await ready(actor)
        stopped = asyncio.create_task(stop_in_time(actor.child))
        swept = asyncio.create_task(swept_after_exit(actor.child))
        await actor.child.wait()
        await asyncio.wait({swept}, timeout=0.2)  # long enough for a sweep that does not wait
        os.close(writing)  # only now can it finish
        assert await swept == []
        assert await stopped == Exit(None, signal.SIGTERM)
        assert await actor.line() == "finished what was accepted 1"

    asyncio.run(scenario())


def test_a_stop_that_is_hurried_kills_what_the_first_one_waits_for(stage: Stage, subreaper: None) -> None:
    script = stage.directory / "deaf.py"
    script.write_text(DEAF)

    async def scenario() -> None:
        actor = stage.start(("sh", "-c", f"{sys.executable} -S {script}; true"))
        await ready(actor)
        patient = asyncio.create_task(stop_in_time(actor.child))
        await actor.child.wait()
        await stop(actor.child, signal.SIGKILL, 0)
        assert await patient == Exit(None, signal.SIGTERM)
        assert await actor.rest() == b""

    asyncio.run(scenario())


def test_one_that_we_may_not_signal_is_given_up(stage: Stage, subreaper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has become another user's, as by sudo."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async def run() -> Child:
        actor = stage.start(python("import signal; print('up'); signal.pause()"))
        await actor.line()
        child = actor.child
        with monkeypatch.context() as patched:
            for name in ("kill", "killpg"):
                patched.setattr(os, name, refuse)
            patched.setattr(signal, "pidfd_send_signal", refuse)
            async with asyncio.timeout(PATIENCE):
                how = await stop(child, signal.SIGTERM, 0.01)
                left = await sweep(child.mark, child)
        assert str(how) == "killed: not permitted, it is another user's and goes on"
        assert [(one.pid, one.killed) for one in left] == [(child.pid, False)]
        assert child.pid not in living
        return child

    child = asyncio.run(run())
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


def test_one_that_has_ended_already(stage: Stage) -> None:
    async def scenario() -> tuple[Exit, Exit]:
        child = stage.start(("sh", "-c", "exit 5")).child
        await child.wait()
        return await stop(child, signal.SIGTERM, 1), await stop(child, signal.SIGTERM, 1)

    assert asyncio.run(scenario()) == (Exit(5), Exit(5))


# ---- through others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adoption", [True, False])
@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("sh", "{python}; true"),  # the shell dies of the signal at once, the program still works
        ("sh", "exec {python}"),
        ("sh", "trap 'echo cleaning' TERM; {python}"),  # the shell does not act before the program ends
        ("bash", "{python}; true"),
        ("bash", "set -m; {python} & wait"),  # a process group of its own
    ],
)
def test_a_program_in_a_shell_finishes_its_work(
    stage: Stage, shell: str, line: str, adoption: bool, request: pytest.FixtureRequest
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    if adoption:
        request.getfixturevalue("subreaper")
    script = stage.directory / "polite.py"
    script.write_text(POLITE)

    async def scenario() -> str:
        actor = stage.start((shell, "-c", line.format(python=f"{sys.executable} -S {script}")))
        (pid,) = await ready(actor)
        with held(int(pid)) as program:
            await stop_in_time(actor.child)
            assert adoption is False or ended(program, 0), "stop waits for what the shell has started"
            await sweep(stage.mark("agent"), actor.child)
        return (await actor.rest()).decode()

    assert "finished what was accepted 1" in asyncio.run(scenario())


def test_a_program_in_a_shell_that_ignores_the_signal_is_killed(stage: Stage, subreaper: None) -> None:
    script = stage.directory / "deaf.py"
    script.write_text(DEAF + "# SIGTERM")

    async def scenario() -> None:
        actor = stage.start(("sh", "-c", f"echo $$; {sys.executable} -S {script}; true"))
        await actor.line()
        await ready(actor)
        await stop(actor.child, signal.SIGTERM, 0.2)
        await sweep(stage.mark("agent"), actor.child)
        assert await actor.rest() == b"", "nobody holds the pipe any more"

    asyncio.run(scenario())


POOL = """
import os, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-S", "-u", "-c", "print(input())"], stdin=subprocess.PIPE, text=True)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
print("ready", worker.pid, flush=True)
while not told:
    time.sleep(0.005)
worker.communicate("answer")
sys.exit(worker.returncode)
"""


def test_a_program_that_catches_the_signal_keeps_its_workers_until_it_is_done(stage: Stage) -> None:
    async def scenario() -> None:
        actor = stage.start(python(POOL))
        await ready(actor)
        assert await stop_in_time(actor.child) == Exit(0)
        assert await actor.line() == "answer"

    asyncio.run(scenario())


LEAVES = """
import os, signal, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-S", "-u", "-c", {polite!r}])
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    time.sleep(0.005)
"""


def test_what_it_leaves_in_its_session_is_told_too(stage: Stage, subreaper: None) -> None:
    async def scenario() -> None:
        actor = stage.start(python(LEAVES.format(polite=POLITE)))
        await ready(actor)
        os.kill(actor.child.pid, 0)
        await stop_in_time(actor.child)
        assert await actor.line() == "finished what was accepted 1"

    asyncio.run(scenario())


def test_through_uv_run(stage: Stage) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{PLAIN['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    script = stage.directory / "polite.py"
    script.write_text(POLITE)
    environ = {**PLAIN, "UV_CACHE_DIR": str(stage.directory / "cache")}
    argv = (uv, "run", "--offline", "--no-project", "--no-config", "--python", sys.executable, "python", str(script))

    async def scenario() -> None:
        actor = stage.start(argv, environ=environ)
        (pid,) = await ready(actor)
        assert int(pid) != actor.child.pid, "uv stays in between"
        await until(lambda: catches(actor.child.pid, signal.SIGTERM))  # it has started the program before
        assert await stop_in_time(actor.child) == Exit(0)
        assert await actor.line() == "finished what was accepted 1"
        assert not alive(int(pid))

    asyncio.run(scenario())
