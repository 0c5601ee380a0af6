"""A program behaves in the runtime as in plain Python: what it prints, how it ends, what it sees of itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from mesh_supervisor.runtime import wire

from .guests import PATIENCE, RUNTIME, Guest
from .programs import ABOUT, CASES, Case


def write(case: Case, folder: Path, python: str) -> None:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("→"):
            path.symlink_to(content[1:])
        elif content == "compiled":
            _compile(path, python)
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                for inner, text in case.files.items():
                    if inner.startswith("in zip/"):
                        archive.writestr(inner.removeprefix("in zip/"), dedent(str(text)))
        else:
            path.write_text(dedent(content), encoding="utf-8")


def _compile(path: Path, python: str) -> None:
    source = path.with_suffix(".py")
    source.write_text(dedent(ABOUT), encoding="utf-8")
    subprocess.run([python, "-c", f"import py_compile; py_compile.compile({str(source)!r}, {str(path)!r})"], check=True)
    source.unlink()


Outcome = tuple[int, str, str]


def environ_of(case: Case) -> dict[str, str]:
    names = {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "COLUMNS": "80", **case.environ}
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}, **names}


def plainly(case: Case, folder: Path, python: str) -> Outcome:
    run = subprocess.run(
        [python, *case.words.split()],
        cwd=folder,
        env=environ_of(case),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        start_new_session=True,
    )
    return run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")


def parted(case: Case) -> tuple[list[str], list[str]]:
    """(flags, [KIND, NAME, ARG…])"""
    words, flags = case.words.split(), []
    while words[0].startswith("-") and words[0] != "-m":
        flags += [words.pop(0)]
        if flags[-1] in ("-X", "-W"):
            flags += [words.pop(0)]
    return flags, ["module", *words[1:]] if words[0] == "-m" else ["script", *words]


def in_runtime(case: Case, folder: Path, python: str) -> Outcome:
    flags, program = parted(case)
    everything = {"gate": True, "learn": True, "trace": {"roots": [str(folder)], "never": []}}
    with Guest(
        program,
        start=everything,
        python=python,
        flags=flags,
        directory=folder,
        environ=environ_of(case),
        text=False,
    ) as guest:
        out, err = guest.process.communicate(timeout=PATIENCE)
        assert [packet for packet in guest.hear_all() if packet["is"] not in ("hello", "reads", "writes")] == []
        return guest.process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


VARYING = re.compile(r"0x[0-9a-f]{6,}|\b\d{10,}\b|Process-\d+|pid=\d+|Thread-\d+")


def comparable(outcome: Outcome) -> Outcome:
    """Without what differs from run to run."""
    status, out, err = outcome
    return status, VARYING.sub("", out), VARYING.sub("", err)


@pytest.mark.parametrize("name", CASES)
def test_as_in_plain_python(name: str, python: str, tmp_path: Path) -> None:
    case = CASES[name]
    write(case, tmp_path, python)
    plain = comparable(plainly(case, tmp_path, python))
    assert comparable(in_runtime(case, tmp_path, python)) == plain


SMALL = frozenset({"_socket", "_json", "_contextvars", "select", "errno", "time", "types", "_thread", "__future__"})
"""What the runtime may load: modules in C that import nothing, and one that Python's own start loads nearly always."""


PATHS = frozenset({"os", "os.path", "stat", "_stat", "posixpath", "genericpath", "_collections_abc", "abc", "_abc"})
"""Not loaded without site."""


def test_next_to_nothing_is_loaded_for_it(python: str, tmp_path: Path) -> None:
    case = Case({"x.py": "import sys\nprint(*sys.modules)\n"}, "-S x.py")
    write(case, tmp_path, python)
    plain, ours = (set(run(case, tmp_path, python)[1].split()) for run in (plainly, in_runtime))
    assert {name for name in ours - plain - SMALL if not name.startswith("_meshsup")} - PATHS == set()


# ---- the channel -------------------------------------------------------------------------------------------------


def test_a_plain_program_says_hello_and_nothing_else(python: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import os\nprint(os.getpid())\n", encoding="utf-8")
    with Guest(["script", str(tmp_path / "x.py")], python=python) as guest:
        assert guest.hear("hello")["pid"] == guest.pid
        assert guest.line() == str(guest.pid)
        assert guest.wait() == 0
        assert len(guest.hear_all()) == 1


@pytest.mark.parametrize(
    "packet",
    [
        b"nonsense",
        b"{}",
        b'{"is":"start"}',
        b'{"is":"start","held":[],"words":"x"}',
        b'{"is":"go"}',
        b"\xff" * 100,
        b"",
    ],
)
def test_runs_plainly_when_its_start_is_garbled(packet: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import sys, os\nprint(sys.argv, sys.orig_argv)\nsys.exit(3)", encoding="utf-8")
    with Guest(["script", "x.py", "a"], start=None, directory=tmp_path, flags=["-X", "dev"]) as guest:
        wire.send(guest.raw, packet)
        out, err = guest.out()
        assert (guest.wait(), err) == (3, "")
        assert out == f"{['x.py', 'a']} {[sys.executable, '-X', 'dev', 'x.py', 'a']}\n"
        assert guest.hear_all() == []


@pytest.mark.parametrize("fd", ["99", "-1", "0", "2", "nonsense", ""])
def test_runs_plainly_without_a_channel(fd: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import sys\nprint(__file__, sys.argv)\n", encoding="utf-8")
    words = [sys.executable, str(RUNTIME), fd, "script", "x.py"]
    run = subprocess.run(
        words, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{tmp_path}/x.py ['x.py']\n", "")


def test_runs_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print('on my own')\n", encoding="utf-8")
    with Guest(["script", "x.py"], start=None, directory=tmp_path) as guest:
        guest.close()
        assert guest.out() == ("on my own\n", "")


CHILDREN = """
    import os, subprocess, sys, time
    channels = [fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}")]
    def opened():
        return sorted(set(channels) & {int(fd) for fd in os.listdir("/proc/self/fd")})
    pid = os.fork()
    if pid == 0:
        print("forked", opened(), flush=True)
        sys.modules["_meshsup.program"]
        os._exit(0)
    os.waitpid(pid, 0)
    show = "import os; print('executed', sorted(os.listdir('/proc/self/fd'))[3:])"
    subprocess.run([sys.executable, "-c", show], close_fds=False)
    print("itself", len(opened()), flush=True)
    if os.fork() == 0:
        sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2)
        time.sleep(1000)
"""


def test_children_have_no_part_in_the_channel(python: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(dedent(CHILDREN), encoding="utf-8")
    with Guest(["script", "x.py"], directory=tmp_path, python=python) as guest:
        assert guest.line() == "forked []"
        assert guest.line() == "executed ['3']"  # the folder that it lists
        assert guest.line() == "itself 1"
        assert guest.wait() == 0
        # Over, although a child lives on.
        assert [packet["is"] for packet in guest.hear_all()] == ["hello"]


def test_a_part_that_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print('runs')\n", encoding="utf-8")
    with Guest(["script", "x.py"], directory=tmp_path, start={"trace": ["not", "an", "object"]}) as guest:
        assert guest.hear("cannot")["what"] == "trace"
        assert guest.out() == ("runs\n", "")


def test_an_interrupt_is_the_programs_own(python: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(1000)\n", encoding="utf-8")
    with Guest(["script", "x.py"], directory=tmp_path, python=python) as guest:
        assert guest.line() == "up"
        guest.signal(signal.SIGINT)
        _, err = guest.out()
        assert guest.wait() == -signal.SIGINT
        assert err.splitlines()[0] == "Traceback (most recent call last):"
        assert "mesh" not in err
        assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_started_by_hand_it_says_what_it_is() -> None:
    run = subprocess.run([sys.executable, str(RUNTIME)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("meshsup: ") and run.stderr.count("\n") == 1
