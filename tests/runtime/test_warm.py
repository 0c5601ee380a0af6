"""A template forks instances, a spare becomes one: as if they had been started, and nobody else suffers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from .guests import PATIENCE, held, listening
from .programs import CASES, Case
from .test_program import Outcome, comparable, environ_of, parted, plainly, write
from .warm_guests import TAG, Instance, Unforked, Warm, subreaper


@pytest.fixture(autouse=True, scope="module")
def adopts() -> Iterator[None]:
    with subreaper():
        yield


def script(folder: Path, text: str, name: str = "x.py") -> list[str]:
    (folder / name).write_text(dedent(text), encoding="utf-8")
    return ["script", name]


def package(folder: Path, name: str, text: str) -> dict[str, str]:
    """A module in a site-packages folder of its own; the environment that makes it third-party."""
    site = folder / "lib" / "site-packages"
    site.mkdir(parents=True, exist_ok=True)
    (site / f"{name}.py").write_text(dedent(text), encoding="utf-8")
    return {"PYTHONPATH": str(site)}


def both(warm: Warm, how: str, program: list[str], **more: Any) -> Instance:
    return warm.fork(program, **more) if how == "fork" else warm.become(program, **more)


HOW = pytest.mark.parametrize("how", ["fork", "become"])


# ---- an instance is as one that was started ----------------------------------------------------------------------


NOT_WARM = ("shadows the library",)
"""It has files with the names of modules that are loaded: it is not started from a warm process, see below."""


def in_warm(how: str, case: Case, folder: Path, python: str) -> Outcome:
    flags, program = parted(case)
    environ = environ_of(case)
    (folder.parent / "elsewhere").mkdir(exist_ok=True)
    with Warm(
        ["asyncio", "logging"], trial=how == "fork", python=python, flags=flags, environ=environ,
        directory=folder.parent / "elsewhere",
    ) as warm:  # fmt: skip
        warm.hear("warmed")
        with both(warm, how, program, directory=folder, environ=environ) as instance:
            out, err = instance.out()
            assert [packet["is"] for packet in instance.hear_all()] == ["hello"]
            return instance.wait(), out, err


@HOW
@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_WARM])
def test_as_in_plain_python(name: str, how: str, python: str, tmp_path: Path) -> None:
    case, folder = CASES[name], tmp_path / "here"
    folder.mkdir()
    write(case, folder, python)
    plain = comparable(plainly(case, folder, python))
    assert comparable(in_warm(how, case, folder, python)) == plain


@HOW
def test_a_file_of_the_program_that_would_be_hidden_is_a_reason_to_start_it_cold(how: str, tmp_path: Path) -> None:
    program = script(tmp_path, "import queue\n")
    (tmp_path / "queue.py").write_text("mine = 1\n", encoding="utf-8")
    (tmp_path / "logging").mkdir()  # a folder without __init__ hides nothing
    with Warm(["queue", "logging"], trial=how == "fork") as warm:
        with pytest.raises(Unforked) as refusal:
            both(warm, how, program, directory=tmp_path)
        assert refusal.value.packet["hides"] == str(tmp_path / "queue.py")
        (tmp_path / "queue.py").unlink()
        with both(warm, how, program, directory=tmp_path) as instance:
            assert instance.wait() == 0


SEES = """
    import os, resource, sys, time
    print(os.getsid(0) == os.getpid(), os.getppid(), resource.getrlimit(10)[0], resource.getrlimit(7)[0])
    print(os.getcwd(), os.umask(0), sorted(os.listdir("/proc/self/fd")))
    print(sorted(os.environ))
    print(time.tzname, os.popen("echo $TZ $ONLY").read().strip())
    print(sys.stdin.read())
"""


@HOW
def test_what_it_is_given(how: str, tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "TZ": "XYZ-5", "ONLY": "here", "UMLAUT": "ä\udcff"}
    (tmp_path / "sub").mkdir()
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as end:
        end.write("said to it")
    with Warm(trial=how == "fork", environ={"LEFT": "over", "TZ": "ABC-3"}) as warm:
        program = script(tmp_path / "sub", SEES)
        more = {"umask": 0o27, "files": 99}
        with both(warm, how, program, directory=tmp_path / "sub", environ=environ, start=more, stdin=reading) as one:
            os.close(reading)
            out = one.out()[0].splitlines()
            assert one.wait() == 0
    # LC_CTYPE: where Python itself adds it.
    names = [name for name in out[2].strip("[]").replace("'", "").split(", ") if name != "LC_CTYPE"]
    assert out[0] == f"True {os.getpid()} {TAG} 99"
    assert out[1].startswith(f"{tmp_path}/sub {0o27} ['0', '1', '2', ") and len(out[1].split(", ")) == 5
    assert names == sorted(environ)
    assert out[3] == "('XYZ', 'XYZ') XYZ-5 here"
    assert out[4] == "said to it"


def test_it_is_shown_as_what_it_is(tmp_path: Path) -> None:
    program = [*script(tmp_path, "import sys\nprint('up', flush=True)\nsys.stdin.read()\n"), "--fast", "ä"]
    reading, writing = os.pipe()
    with Warm() as warm, warm.fork(program, directory=tmp_path, environ={"A": "1"}, stdin=reading) as instance:
        assert instance.line() == "up"
        words = Path(f"/proc/{instance.pid}/cmdline").read_bytes().split(b"\0")
        if b"warm" in words:
            pytest.skip("this kernel was built without checkpoint/restore")
        assert words[-5:] == [b"script", b"x.py", b"--fast", "ä".encode(), b""]
        assert words[0] == sys.executable.encode() and words[-7].endswith(b"/runtime/__main__.py")
        assert Path(f"/proc/{instance.pid}/environ").read_bytes() == b"A=1\0"
        assert Path(f"/proc/{instance.pid}/comm").read_bytes() == Path(f"/proc/{warm.pid}/comm").read_bytes()
        os.close(writing)
        os.close(reading)
        assert instance.wait() == 0


STREAMS = (
    "import sys; print([(s.name, s.mode, s.encoding, s.errors, s.isatty(), s.fileno(), s.seekable(), s.newlines)"
    " for s in (sys.stdin, sys.stdout, sys.stderr)])"
)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@HOW
def test_streams_that_modules_have_kept_are_those_of_the_instance(how: str, unbuffered: str, tmp_path: Path) -> None:
    kept = """
        import logging, sys
        print("imported")
        handler = logging.StreamHandler()
        logging.getLogger("kept").addHandler(handler)
        out, before = sys.stdout, (id(sys.stdin), id(sys.stdout), id(sys.stderr))
    """
    program = script(
        tmp_path,
        """
        import keeper, logging, os, sys
        logging.getLogger("kept").warning("by the handler")
        print("by the stream", file=keeper.out)
        print("by print", (id(sys.stdin), id(sys.stdout), id(sys.stderr)) == keeper.before, sys.stdout.line_buffering)
        STREAMS
        print(type(sys.stdout.buffer), sys.stdout.write_through, sys.stderr.line_buffering)
        """.replace("STREAMS", STREAMS),
    )
    environ = {**os.environ, **package(tmp_path, "keeper", kept), "PYTHONUNBUFFERED": unbuffered}
    with Warm(["keeper"], trial=how == "fork", environ=environ) as warm:
        with both(warm, how, program, directory=tmp_path, environ=environ) as instance:
            out, err = instance.out()
            assert err == "by the handler\n"
            lines = out.splitlines()
        warm.kill()
    assert lines[:2] == ["by the stream", "by print True False"]
    plain = subprocess.run(
        [sys.executable, "-c", STREAMS],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert lines[2] == plain.stdout.rstrip("\n")
    assert lines[3] == ("<class '_io.FileIO'> True False" if unbuffered else "<class '_io.BufferedWriter'> False True")


@HOW
@pytest.mark.parametrize("kind", ["terminal", "pipe", "file"])
def test_streams_are_of_the_kind_that_is_given(kind: str, how: str, tmp_path: Path) -> None:
    """Those of the warm process: /dev/null and pipes."""
    program = script(
        tmp_path, "import sys\nprint(sys.stdin.isatty(), sys.stdin.seekable(), sys.stdin.readline(), end='')\n"
    )
    theirs, ours = reversed(os.openpty()) if kind == "terminal" else os.pipe()
    if kind == "file":
        (tmp_path / "file").write_text("typed\n", encoding="utf-8")
        os.close(theirs)
        theirs = os.open(tmp_path / "file", os.O_RDONLY)
    else:
        os.write(ours, b"typed\n")
    with Warm(trial=how == "fork") as warm, both(warm, how, program, directory=tmp_path, stdin=theirs) as instance:
        assert instance.out() == (f"{kind == 'terminal'} {kind == 'file'} typed\n", "")
    os.close(ours)
    os.close(theirs)


@HOW
def test_held_sockets_come_with_it(how: str, tmp_path: Path) -> None:
    text = "import http.server as h\nh.HTTPServer(('127.0.0.1', PORT), h.BaseHTTPRequestHandler).serve_forever()\n"
    with listening() as sock, Warm(["http.server"], trial=how == "fork") as warm:
        program = script(tmp_path, text.replace("PORT", str(sock.getsockname()[1])))
        start = {"held": [held(sock)], "gate": False}
        with both(warm, how, program, directory=tmp_path, start=start, descriptors=[sock.fileno()]) as instance:
            assert instance.hear("adopted")["number"] == 0


# ---- what imports have done --------------------------------------------------------------------------------------


CHANGES = """
    import os
    os.environ.setdefault("ADDED", "by import")
    os.environ["CHANGED"] = "always this"
    os.environ["PATH_LIKE"] = "/mine:" + os.environ["PATH_LIKE"]
    del os.environ["REMOVED"]
    os.environ.get("LOOKED_UP"), os.getenv("LOOKED_UP_TOO"), "ASKED_FOR" in os.environ
    all_of_it = dict(os.environ), list(os.environ.items()), os.environ.copy(), {k: v for k, v in os.environ.items()}
    class Settings:
        inside = os.environ.get("LOOKED_UP_INSIDE")
"""


@HOW
def test_what_imports_do_to_the_environment_is_done_to_the_instance(how: str, tmp_path: Path) -> None:
    site = package(tmp_path, "changes", CHANGES)
    before = {**site, "CHANGED": "before", "PATH_LIKE": "/theirs", "REMOVED": "1"}
    program = script(tmp_path, "import os\nprint([os.environ.get(n) for n in N])".replace("N]", repr(sorted(
        ["ADDED", "CHANGED", "PATH_LIKE", "REMOVED"])) + "]"))  # fmt: skip
    with Warm(["changes"], trial=how == "fork", environ=before) as warm:
        said = warm.hear("warmed")
        assert said["names"] == ["ADDED", "ASKED_FOR", "LOOKED_UP", "LOOKED_UP_INSIDE", "LOOKED_UP_TOO", "PATH_LIKE"]
        assert said["added"] == ["ADDED"]
        environ = {**before, "PATH_LIKE": "/own"}
        with both(warm, how, program, directory=tmp_path, environ=environ) as instance:
            assert instance.line() == "['by import', 'always this', '/mine:/own', None]"
        if how == "fork":
            with warm.fork(program, directory=tmp_path, environ={**environ, "ADDED": "own"}) as instance:
                assert instance.line() == "['own', 'always this', '/mine:/own', None]"


def test_imports_see_no_program_and_no_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("", encoding="utf-8")
    looks = (
        "import sys\nprint(sys.argv, [p for p in sys.path if 'runtime' in p or p == ''], flush=True)\nimport project\n"
    )
    with Warm(["looks"], environ=package(tmp_path, "looks", looks), directory=tmp_path) as warm:
        assert warm.line() == "[''] []"
        assert "No module named 'project'" in warm.hear("warmed")["failed"]["looks"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys; sys.exit()", "SystemExit: "),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("def f(:", "SyntaxError: "),
    ],
)
def test_what_cannot_be_imported_is_left_out(text: str, why: str, tmp_path: Path) -> None:
    environ = package(tmp_path, "bad", text)
    package(tmp_path, "good", "")
    with Warm(["bad", "nothing.like.it", "good", "good"], environ=environ) as warm:
        said = warm.hear("warmed")
        assert said["fork"] and said["needed"] == ["good"]
        assert said["failed"]["bad"].startswith(why)
        assert said["failed"].keys() == {"bad", "nothing.like.it"}


def test_project_code_is_never_in_it(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("", encoding="utf-8")
    environ = package(tmp_path, "plugged", f"import sys\nsys.path.append({str(tmp_path)!r})\nimport project")
    package(tmp_path, "good", "")
    for trial in (True, False):
        with Warm(["good", "plugged"], trial=trial, environ=environ) as warm:
            said = warm.hear("refused")
            assert (said["spare"], said["leave_out"]) == (False, ["plugged"])
            assert "project" in said["why"]
            assert warm.wait() == 0


# ---- who may be forked -------------------------------------------------------------------------------------------


THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(9999,), daemon=True).start()\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (THREAD, "2 threads"),
        ("import os\nkept = open(__file__)", "bad.py open"),
        ("import socket\nkept = socket.socketpair()", "a socket or pipe open"),
        ("import signal\nsignal.signal(signal.SIGUSR1, print)", "signals"),
        ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)", "signals"),
        ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])", "signals"),
        ("import os\nos.umask(0o7)", "umask"),
        ("import os\nos.chdir('/')", "working directory"),
        ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 9999)", "timer"),
        ("import subprocess\nkept = subprocess.Popen(['sleep', '9999'])", "process"),
        ("import subprocess\nkept = subprocess.Popen(['true'])", "process"),
        ("import os\nos.register_at_fork(after_in_child=lambda: os.abort())", "dies"),
    ],
)
def test_what_a_fork_would_share_is_refused_and_a_spare_may_have_it(text: str, why: str, tmp_path: Path) -> None:
    environ = package(tmp_path, "bad", text)
    program = script(tmp_path, "import bad\nprint('up', flush=True)\n")
    with Warm(["bad"], environ=environ, directory=tmp_path) as warm:
        said = warm.hear("refused")
        assert why in said["why"] and said["spare"] is True
        with pytest.raises(Unforked):
            warm.fork(program, directory=tmp_path)
        with warm.become(program, directory=tmp_path) as instance:
            assert instance.line() == "up"


def test_threads_that_end_for_a_fork_are_no_reason(tmp_path: Path) -> None:
    """As OpenBLAS does with its pool, and starts it again afterwards."""
    pool = """
        import os, threading
        leave, thread = threading.Event(), None
        def begin():
            global thread
            leave.clear()
            thread = threading.Thread(target=leave.wait, daemon=True)
            thread.start()
        def end():
            if thread is not None:
                leave.set()
                thread.join()
        begin()
        os.register_at_fork(before=end)
    """
    environ = package(tmp_path, "pool", pool)
    program = script(tmp_path, "import pool\npool.begin()\nprint(pool.thread.is_alive())")
    with Warm(["pool"], environ=environ) as warm:
        assert warm.hear("warmed")["fork"]
        with warm.fork(program, directory=tmp_path) as instance:
            assert instance.line() == "True"
            assert instance.wait() == 0


def test_users_of_forks_hooks_are_no_reason(tmp_path: Path) -> None:
    hooks = "import os\ncalls = []\nfor when in ('before', 'after_in_parent', 'after_in_child'):\n"
    environ = package(tmp_path, "hooks", hooks + "    os.register_at_fork(**{when: lambda: calls.append(1)})\n")
    with Warm(["hooks"], environ=environ) as warm:
        assert warm.hear("warmed")["fork"]
        with warm.fork(script(tmp_path, "import hooks\nprint(bool(hooks.calls))"), directory=tmp_path) as instance:
            assert instance.line() == "True"


@pytest.mark.parametrize("name", ["pyarrow", "onnxruntime", "polars", "crewai"])
def test_those_that_die_after_a_fork_are_refused_by_name(name: str, tmp_path: Path) -> None:
    environ = package(tmp_path, name, "")
    package(tmp_path, "user", f"import {name}")
    package(tmp_path, "good", "")
    with Warm(["good", "user"], environ=environ) as warm:
        said = warm.hear("refused")
        assert name in said["why"] and said["leave_out"] == ["user"]


def test_a_thread_that_comes_later_ends_the_forks(tmp_path: Path) -> None:
    """As if a library started one at some time of its own."""
    later = (
        "import os, threading, time\nos.register_at_fork(after_in_parent=lambda: go.set())\ngo = threading.Event()\n"
    )
    later += "count = 0\ndef start():\n    global count\n    count += 1\n    if count == 2:\n"
    later += "        threading.Thread(target=time.sleep, args=(9999,), daemon=True).start()\n"
    environ = package(tmp_path, "later", later + "os.register_at_fork(after_in_parent=start)\n")
    program = script(tmp_path, "print('up')")
    with Warm(["later"], environ=environ) as warm:
        assert warm.hear("warmed")["fork"]
        with warm.fork(program, directory=tmp_path) as instance:
            assert instance.wait() == 0
        with pytest.raises(Unforked, match="2 threads"):
            warm.fork(program, directory=tmp_path)
        assert len(warm.said("refused")) == 1


# ---- nobody suffers ----------------------------------------------------------------------------------------------


SLEEPS = "import sys\nprint('up', flush=True)\nsys.stdin.read()\nprint('on', flush=True)\n"


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_the_end_of_its_template_is_nothing_to_an_instance(end: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with Warm() as warm, warm.fork(script(tmp_path, SLEEPS), directory=tmp_path, stdin=reading) as instance:
        os.close(reading)
        assert instance.line() == "up"
        if end == "killed":
            warm.signal(signal.SIGKILL)
        else:
            warm.raw.shutdown(socket.SHUT_RDWR)
        assert warm.wait() == (-signal.SIGKILL if end == "killed" else 0)
        os.close(writing)
        assert instance.line() == "on"
        assert instance.wait() == 0


def test_a_template_waits_without_working(tmp_path: Path) -> None:
    with Warm(["asyncio"]) as warm:
        warm.hear("warmed")
        deadline = time.monotonic() + PATIENCE
        while "recvmsg" not in (Path(f"/proc/{warm.pid}/wchan").read_text() + _syscall(warm.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _syscall(pid: int) -> str:
    """recvmsg is number 47 on x86-64; elsewhere any blocking call will do."""
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return "recvmsg" if number == "47" or os.uname().machine != "x86_64" else ""


def test_a_supervisor_that_is_not_the_parent_gets_no_instance(tmp_path: Path) -> None:
    with Warm() as warm:
        for parent in (1, warm.pid, 2**22 - 1):
            with pytest.raises(Unforked, match="subreaper"):
                warm.fork(script(tmp_path, ""), directory=tmp_path, start={"parent": parent})
        with warm.fork(script(tmp_path, ""), directory=tmp_path) as instance:
            assert instance.wait() == 0
    _nothing_left()


def _nothing_left() -> None:
    """No child of this process but those that pytest has."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if found is None:
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("change", [{"environ": []}, {"program": {}}, {"tag": "x"}, {"held": [1, 2]}, {"words": 3}])
def test_a_request_that_makes_no_sense_is_declined(change: dict[str, Any], tmp_path: Path) -> None:
    with Warm() as warm:
        warm.hear("warmed")
        before = sorted(os.listdir(f"/proc/{warm.pid}/fd"))  # noqa: PTH208
        with pytest.raises(Unforked, match="makes no sense"):
            warm.fork(script(tmp_path, ""), directory=tmp_path, start=change)
        with warm.fork(script(tmp_path, ""), directory=tmp_path) as instance:
            assert instance.wait() == 0
        assert sorted(os.listdir(f"/proc/{warm.pid}/fd")) == before  # noqa: PTH208


@HOW
def test_a_folder_that_is_gone_is_said_as_at_a_cold_start(how: str, tmp_path: Path) -> None:
    said = f"meshsup: cannot enter the directory {tmp_path}/gone: No such file or directory\n"
    with (
        Warm(trial=how == "fork") as warm,
        both(warm, how, ["script", "x.py"], directory=tmp_path / "gone") as instance,
    ):
        assert instance.out() == ("", said)
        assert instance.wait() == 126


def test_forks_leave_nothing_in_the_template(tmp_path: Path) -> None:
    program = script(tmp_path, "")
    with Warm(["asyncio"]) as warm:
        warm.hear("warmed")
        before = sorted(os.listdir(f"/proc/{warm.pid}/fd"))  # noqa: PTH208
        for _ in range(20):
            with warm.fork(program, directory=tmp_path) as instance:
                assert instance.wait() == 0
        assert sorted(os.listdir(f"/proc/{warm.pid}/fd")) == before  # noqa: PTH208
        assert Path(f"/proc/{warm.pid}/task/{warm.pid}/children").read_text() == ""
        assert warm.process.poll() is None


@pytest.mark.parametrize("depth", [1, 2])
def test_no_more_processes_is_an_answer(depth: int, tmp_path: Path) -> None:
    """``depth``: at the first fork, or at the second one, in the process between."""
    full = f"""
        import errno, os
        fork, first, failed = os.fork, os.getpid(), []
        def full():
            tried = os.path.exists({str(tmp_path / "tried")!r})
            if tried and not failed and (os.getpid() == first) == ({depth} == 1):
                failed.append(1)
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return fork()
        os.fork = full
    """
    program = script(tmp_path, "")
    with Warm(["full"], environ=package(tmp_path, "full", full)) as warm:
        assert warm.hear("warmed")["fork"]
        (tmp_path / "tried").touch()
        with pytest.raises(Unforked, match="cannot be forked: Resource temporarily unavailable"):
            warm.fork(program, directory=tmp_path)
        (tmp_path / "tried").unlink()
        with warm.fork(program, directory=tmp_path) as instance:
            assert instance.wait() == 0


def test_new_packages_make_it_stale(tmp_path: Path) -> None:
    environ = package(tmp_path, "one", "")
    site = tmp_path / "lib" / "site-packages"
    program = script(tmp_path, "import one\n")
    with Warm(["one"], environ=environ) as warm:
        with warm.fork(program, directory=tmp_path, environ={**os.environ, **environ}) as instance:
            assert instance.wait() == 0  # bytecode was written
        (site / "two-1.0.dist-info").mkdir()
        with pytest.raises(Unforked) as refusal:
            warm.fork(program, directory=tmp_path)
        assert refusal.value.packet["stale"] is True


# ---- siblings ----------------------------------------------------------------------------------------------------


RANDOM = """
    import multiprocessing, os, random, secrets, tempfile, threading, uuid
    print(random.random(), secrets.token_hex(), next(tempfile._get_candidate_names()), uuid.uuid4(), sep="\\n")
    print(bytes(multiprocessing.current_process().authkey))
    print(os.getpid(), threading.main_thread().native_id, threading.get_native_id(), sep="\\n")
"""


def test_siblings_do_not_throw_the_same_dice(tmp_path: Path) -> None:
    program = script(tmp_path, RANDOM)
    with Warm(["multiprocessing", "random", "tempfile", "uuid"]) as warm:
        outs = []
        for _ in range(2):
            with warm.fork(program, directory=tmp_path) as instance:
                outs.append(instance.out()[0].splitlines())
                assert outs[-1][-3:] == [str(instance.pid)] * 3
        assert not set(outs[0]) & set(outs[1])


@pytest.mark.parametrize("name", ["numpy.random", "torch"])
def test_generators_of_others_are_seeded_anew_in_a_fork(name: str, tmp_path: Path) -> None:
    environ = package(tmp_path, name.partition(".")[0], "")
    site = tmp_path / "lib" / "site-packages"
    text = "calls = []\ndef seed(*given): calls.append(given)\n"
    if "." in name:
        (site / "numpy.py").unlink()
        (site / "numpy").mkdir()
        (site / "numpy" / "__init__.py").touch()
    (site / f"{name.replace('.', '/')}.py").write_text(text, encoding="utf-8")
    program = script(tmp_path, f"import {name}\nprint({name}.calls)")
    with Warm([name], environ=environ) as warm:
        with warm.fork(program, directory=tmp_path) as instance:
            assert instance.line() == "[()]"
        with warm.become(program, directory=tmp_path) as instance:
            assert instance.line() == "[]"  # seeded by the system when it was imported, and nobody else has that


@HOW
def test_the_log_counts_from_the_instances_begin(how: str, tmp_path: Path) -> None:
    program = script(tmp_path, "import logging\nprint(float(logging._startTime))")
    with Warm(["logging"], trial=how == "fork") as warm:
        warm.hear("warmed")
        before = time.time()
        with both(warm, how, program, directory=tmp_path) as instance:
            found = float(instance.line())
            assert before <= (found / 1e9 if found > 1e12 else found) <= time.time()


@HOW
def test_what_modules_have_registered_for_the_end_is_done_by_the_instance_alone(how: str, tmp_path: Path) -> None:
    atend = "import atexit, concurrent.futures.thread\natexit.register(print, 'at the end of', __name__)\n"
    environ = package(tmp_path, "atend", atend)
    program = script(
        tmp_path,
        """
        import atend, concurrent.futures, sys, threading, time
        pool, over = concurrent.futures.ThreadPoolExecutor(1), threading.Event()
        pool.submit(lambda: (over.wait(), time.sleep(0.05), print("awaited")))
        print("main is over")
        over.set()
        """,
    )
    with Warm(["atend"], trial=how == "fork", environ=environ) as warm:
        with both(warm, how, program, directory=tmp_path, environ={**os.environ, **environ}) as instance:
            assert instance.out() == ("main is over\nawaited\nat the end of atend\n", "")
            assert instance.wait() == 0
        if how == "fork":
            warm.raw.shutdown(socket.SHUT_RDWR)
            assert warm.out() == ("", "")


def test_relative_folders_of_pythonpath_are_the_instances_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "which.py").write_text(f"print({name!r})\n", encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": "lib"}
    with Warm(environ=environ, directory=tmp_path / "one") as warm:
        program = script(tmp_path / "two", "import which\n")
        with warm.fork(program, directory=tmp_path / "two", environ=environ) as instance:
            assert instance.line() == "two"


def test_many_modules_in_several_packets(tmp_path: Path) -> None:
    with Warm() as warm:
        warm.hear("warmed")
        warm.tell("warm", modules=["bisect"], trial=True, more=True)
        warm.tell("warm", modules=["colorsys"], trial=True)
        assert warm.hear("warmed")["needed"][-1] == "colorsys"


@HOW
@pytest.mark.parametrize("given", [{"FASTMCP_PORT": "8123", "FASTMCP_HOST": "::1"}, {"FASTMCP_PORT": "8124"}, {}])
def test_fastmcp_has_the_address_that_its_agent_is_told(given: dict[str, str], how: str, tmp_path: Path) -> None:
    """It reads it at its import, when there was no agent yet."""
    program = script(tmp_path, "import fastmcp\nprint(fastmcp.settings.host, fastmcp.settings.port)\n")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FASTMCP_")}
    with (
        Warm(["fastmcp"], trial=how == "fork", environ=plain, directory=tmp_path) as warm,
        both(warm, how, program, directory=tmp_path, environ={**plain, **given}) as instance,
    ):
        out, _ = instance.out()
        assert instance.wait() == 0
    assert out.split() == [given.get("FASTMCP_HOST", "127.0.0.1"), given.get("FASTMCP_PORT", "8000")]
