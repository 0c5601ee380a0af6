"""How instances are started, and how their exits are seen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh_supervisor.host import exec_helper
from mesh_supervisor.host import spawn as spawning
from mesh_supervisor.host.spawn import MARK, Program, SpawnError, allow_many_files, spawn
from mesh_supervisor.lifecycle import Exit

from .stage import PLAIN, Stage, ended, held, python


@contextmanager
def careless_parent() -> Iterator[int]:
    """As a shell's background job leaves us: SIGINT ignored, signals blocked, a descriptor open for children."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    fd = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(fd, True)
    try:
        yield fd
    finally:
        os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ---- what the program finds --------------------------------------------------------------------------------------


def test_dispositions_and_mask_are_the_defaults_whatever_we_inherited(stage: Stage) -> None:
    async def scenario() -> dict[str, str]:
        with careless_parent():
            actor = stage.start(("cat", "/proc/self/status"))
        text = (await actor.rest()).decode()
        await actor.child.wait()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

    status = asyncio.run(scenario())
    glibc_own = 1 << 31 | 1 << 32  # its posix_spawn ignores the two signals that it keeps for threads
    assert [int(status[key], 16) & ~glibc_own for key in ("SigIgn", "SigBlk", "SigCgt")] == [0, 0, 0]


def test_no_descriptor_is_inherited_but_those_that_are_passed(stage: Stage) -> None:
    code = "import os; print(*(fd for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd)))"

    async def opened(*pass_fds: int) -> set[int]:
        actor = stage.start(python(code), pass_fds=pass_fds)
        line = await actor.line()
        await actor.child.wait()
        return set(map(int, line.split()))

    async def scenario() -> None:
        with careless_parent() as leaked:
            private = os.dup(leaked)
            assert not os.get_inheritable(private)
            assert await opened() == {0, 1, 2}
            assert await opened(private) == {0, 1, 2, private}
            assert not os.get_inheritable(private), "the caller's flag is left alone"
            os.close(private)

    asyncio.run(scenario())


def test_the_limit_of_open_files_is_the_one_from_before_we_raised_our_own(stage: Stage) -> None:
    async def limit_of_a_program() -> str:
        actor = stage.start(python("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"))
        line = await actor.line()
        await actor.child.wait()
        return line

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert asyncio.run(limit_of_a_program()) == "512"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        spawning._own_files = ""


def test_environment_is_exactly_the_given_one_and_the_mark(stage: Stage) -> None:
    given = {**PLAIN, "ODD": "a=b\nc\udcff", "PYTHONHOME": "/nowhere", "LC_CTYPE": "C"}

    async def scenario() -> bytes:
        actor = stage.start(("cat", "/proc/self/environ"), environ=given)
        said = await actor.rest()
        assert await actor.child.wait() == Exit(0)
        return said

    entries = asyncio.run(scenario()).split(b"\0")[:-1]
    expected = {**given, MARK: stage.mark("agent")}
    assert sorted(entries) == sorted(os.fsencode(f"{key}={value}") for key, value in expected.items())


def test_arguments_arrive_byte_by_byte(stage: Stage) -> None:
    async def scenario() -> bytes:
        actor = stage.start(("printf", "%s|", "", "two words", "\udcff\udc80", "--", "naïve"))
        said = await actor.rest()
        await actor.child.wait()
        return said

    assert asyncio.run(scenario()) == b"|two words|\xff\x80|--|na\xc3\xafve|"


def test_directory_session_and_silent_stdin(stage: Stage) -> None:
    code = "import os, sys; print(os.getcwd(), os.getsid(0) == os.getpid() == os.getpgrp(), repr(sys.stdin.read()))"

    async def scenario() -> str:
        actor = stage.start(python(code))
        line = await actor.line()
        await actor.child.wait()
        return line

    assert asyncio.run(scenario()) == f"{stage.directory} True ''"


def test_stdin_can_be_given(stage: Stage) -> None:
    async def scenario() -> bytes:
        reading, writing = os.pipe()
        actor = stage.start(("cat",), stdin=reading)
        os.close(reading)
        os.write(writing, b"hello")
        os.close(writing)
        return await actor.rest()

    assert asyncio.run(scenario()) == b"hello"


def test_program_is_searched_in_its_own_path(stage: Stage) -> None:
    tool = stage.directory / "bin" / "greet"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)

    async def scenario(argv: tuple[str, ...], path: str) -> str:
        actor = stage.start(argv, environ={"PATH": path})
        line = await actor.line()
        await actor.child.wait()
        return line

    assert asyncio.run(scenario(("greet",), str(tool.parent))) == "found"
    assert asyncio.run(scenario(("bin/greet",), "/nowhere")) == "found", "relative to the program's directory"
    with pytest.raises(SpawnError, match="not in the agent's PATH"):
        asyncio.run(scenario(("greet",), "/usr/bin"))


# ---- what cannot be started --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda p: Program(("no-such-program",), PLAIN, p), "no-such-program: it is not in the agent's PATH"),
        (lambda p: Program(("./missing",), PLAIN, p), "missing: there is no such file; change 'command'"),
        (lambda p: Program((str(p),), PLAIN, p), "it is not executable"),
        (lambda p: Program(("true",), PLAIN, p / "gone"), "gone does not exist; create it or change 'directory'"),
        (lambda p: Program(("true", "a\0b"), PLAIN, p), "embedded null"),
        (lambda p: Program(("true",), {**PLAIN, "A": "x" * 4_000_000}, p), "Argument list too long"),
    ],
)
def test_what_cannot_be_started_is_one_clear_sentence(
    tmp_path: Path, break_it: Callable[[Path], Program], sentence: str
) -> None:
    with pytest.raises(SpawnError) as caught:
        spawn(break_it(tmp_path), output=1, mark="test/agent/1")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("#!/no/such/interpreter\n", 127, "the interpreter that its #! line names is not there"),
        ("\x01\x02", 126, "neither a program of this machine nor a script with a #! line"),
    ],
)
def test_what_fails_in_the_helper_is_one_line_of_output(stage: Stage, text: str, code: int, sentence: str) -> None:
    script = stage.directory / "script"
    script.write_text(text)
    script.chmod(0o755)

    async def scenario() -> tuple[bytes, Exit]:
        actor = stage.start((str(script),))
        return await actor.rest(), await actor.child.wait()

    said, exit = asyncio.run(scenario())
    assert exit == Exit(code)
    assert said.decode() == f"meshsup: cannot run {script}: {sentence}\n" or sentence in said.decode()
    assert said.count(b"\n") == 1


def test_only_the_main_thread_may_spawn(stage: Stage) -> None:
    caught: list[RuntimeError] = []

    def elsewhere() -> None:
        try:
            stage.start(("true",))
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


# ---- death of the parent -----------------------------------------------------------------------------------------

SUPERVISOR_WITHOUT_GUARDIAN = """
import sys, time
from pathlib import Path
from mesh_supervisor.host.spawn import Program, spawn
argv = ("sh", "-c", "echo $$; exec sleep 600")
spawn(Program(argv, {"PATH": sys.argv[2]}, Path("/")), output=1, mark=sys.argv[1])
time.sleep(600)
"""


def test_an_instance_dies_with_its_supervisor(stage: Stage) -> None:
    supervisor = stage.other(SUPERVISOR_WITHOUT_GUARDIAN, stage.mark("agent"), PLAIN["PATH"])
    assert supervisor.stdout is not None
    with held(int(supervisor.stdout.readline())) as instance:
        supervisor.kill()
        assert ended(instance)


SUPERVISOR_THAT_DIES_WHILE_IT_STARTS_ONE = """
import os, sys
from pathlib import Path
from mesh_supervisor.host.spawn import Program, spawn
child = spawn(Program(("sleep", "600"), {"PATH": sys.argv[2]}, Path("/")), output=2, mark=sys.argv[1])
os.write(1, b"%d" % child.pid)
os.kill(os.getpid(), 9)
"""


def test_an_instance_dies_with_a_supervisor_that_is_killed_while_it_starts(stage: Stage) -> None:
    supervisor = stage.other(SUPERVISOR_THAT_DIES_WHILE_IT_STARTS_ONE, stage.mark("agent"), PLAIN["PATH"])
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.read())
    with contextlib.suppress(ProcessLookupError), held(pid) as instance:
        assert ended(instance)


def test_the_helper_does_not_start_the_program_when_the_parent_is_gone_already(tmp_path: Path) -> None:
    stranger = "1" if os.getpid() != 1 else "2"
    argv = [sys.executable, "-I", "-S", exec_helper.__file__, stranger, "-", "-", str(tmp_path), "echo", "started"]
    result = subprocess.run(argv, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (127, b"", b"")


# ---- exits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(7)", Exit(7)),
        ("pass", Exit(0)),
        ("import os; os.kill(os.getpid(), 9)", Exit(None, signal.SIGKILL)),
        ("import os; os.abort()", Exit(None, signal.SIGABRT)),
    ],
)
def test_exit_tells_code_or_signal(stage: Stage, code: str, expected: Exit) -> None:
    async def scenario() -> Exit:
        return await stage.start(python(code)).child.wait()

    assert asyncio.run(scenario()) == expected


def test_wait_may_be_asked_again_by_many_and_cancelled(stage: Stage) -> None:
    async def scenario() -> list[Exit]:
        reading, writing = os.pipe()
        child = stage.start(("sh", "-c", "read line; exit 3"), stdin=reading).child
        os.close(reading)
        impatient = asyncio.create_task(child.wait())
        patient = [asyncio.create_task(child.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert child.exit is None
        os.close(writing)
        return [*await asyncio.gather(*patient), await child.wait()]

    assert asyncio.run(scenario()) == [Exit(3)] * 4


def test_wait_goes_on_in_another_loop(stage: Stage) -> None:
    async def begin() -> None:
        task = asyncio.create_task(child.wait())
        await asyncio.sleep(0)
        task.cancel()

    reading, writing = os.pipe()
    child = stage.start(("sh", "-c", "read line; exit 3"), stdin=reading).child
    os.close(reading)
    asyncio.run(begin())
    os.close(writing)
    assert asyncio.run(child.wait()) == Exit(3)


def test_no_descriptor_is_lost(stage: Stage) -> None:
    async def scenario() -> None:
        for _ in range(5):
            actor = stage.start(("true",))
            assert await actor.child.wait() == Exit(0)

    asyncio.run(scenario())
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before + 5, "only the read ends that the stage keeps"  # noqa: PTH208
