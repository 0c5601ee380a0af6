"""Log files: their shape, rotation, runs kept apart, and disks that are full, slow or gone."""

from __future__ import annotations

import os
import queue
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh_supervisor.host import logfiles
from mesh_supervisor.host.backlog import MOST_LINES
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.logfiles import LogFiles, logged_agents, read_log, stamp
from tests.e2e.harness import wait_for

AT = 1795225416.123
PATIENCE = 30.0


def line(text: str, generation: int = 7, agent: str = "planner", at: float = AT) -> Line:
    return Line(at, agent, generation, text)


@contextmanager
def logging_to(folder: Path, max_size: int = 10_000_000, keep: int = 3) -> Iterator[tuple[LogFiles, queue.Queue[str]]]:
    troubles: queue.Queue[str] = queue.Queue()
    files = LogFiles(folder, max_size, keep, trouble=troubles.put)
    try:
        yield files, troubles
    finally:
        files.close(PATIENCE)


def one_run(folder: Path, *lines: Line, max_size: int = 10_000_000, keep: int = 3) -> None:
    with logging_to(folder, max_size, keep) as (files, _):
        for each in lines:
            files.write(each)


def texts(lines: list[Line]) -> list[str]:
    return [each.text for each in lines]


# ---- shape -----------------------------------------------------------------------------------------------------------


def test_a_file_per_agent_with_time_and_generation(tmp_path: Path) -> None:
    one_run(tmp_path / "logs", line("héllo"), line("", 0, "meshsup"), line("[7] 2026-11-21T01:43:36.123Z [9] forged"))
    begun, *rows = (tmp_path / "logs/planner.log").read_text().splitlines()
    assert re.fullmatch(r"\S+Z \[up\]", begun)
    assert rows == [
        "2026-11-21T01:43:36.123Z [7] héllo",
        "2026-11-21T01:43:36.123Z [7] [7] 2026-11-21T01:43:36.123Z [9] forged",
    ]
    assert logged_agents(tmp_path / "logs") == ["meshsup", "planner"]
    assert (tmp_path / "logs/planner.log").stat().st_mode & 0o777 == 0o600


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = [line("a b"), line(""), line("  indented\ttab"), line("x" * 200_000, 8, at=AT + 1)]
    one_run(tmp_path, *written)
    assert read_log(tmp_path) == written


def test_reading_several_agents_in_the_order_of_time(tmp_path: Path) -> None:
    one_run(tmp_path, *(line(f"{name}{n}", agent=name, at=AT + n) for name in "ab" for n in range(3)))
    assert texts(read_log(tmp_path)) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert texts(read_log(tmp_path, ["b"], lines=2)) == ["b1", "b2"]
    assert texts(read_log(tmp_path, lines=1)) == ["a2", "b2"]
    assert texts(read_log(tmp_path, since=AT + 2)) == ["a2", "b2"]
    assert texts(read_log(tmp_path, grep=re.compile("[a]1|b0"), lines=1)) == ["a1", "b0"][::-1]
    assert texts(read_log(tmp_path, lines=0)) == []


def test_names_are_looked_up_and_never_used_as_paths(tmp_path: Path) -> None:
    one_run(tmp_path / "logs", line("secret", agent="planner"))
    (tmp_path / "logs/inner").mkdir()
    assert read_log(tmp_path / "logs/inner", ["../planner"]) == []
    assert read_log(tmp_path / "nowhere") == []


def test_damaged_files_are_read_as_far_as_possible(tmp_path: Path) -> None:
    good = f"{stamp(AT)} [7] good\n".encode()
    (tmp_path / "planner.log").write_bytes(b"no time\n\xff\xfe\x00\n" + good + b"2026-99-99T00:00:00Z [1] when?\n[1]\n")
    assert texts(read_log(tmp_path)) == ["good"]


# ---- rotation --------------------------------------------------------------------------------------------------------


def test_full_files_are_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    one_run(tmp_path, *(line(f"{n:04}") for n in range(1000)), max_size=2000, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["planner.log", "planner.log.1", "planner.log.2"]
    assert all(path.stat().st_size <= 2100 for path in tmp_path.iterdir())
    found = texts(read_log(tmp_path))
    assert found == [f"{n:04}" for n in range(1000 - len(found), 1000)]
    assert len(found) > 50


def test_without_older_files_to_keep(tmp_path: Path) -> None:
    one_run(tmp_path, *(line(f"{n:04}") for n in range(1000)), max_size=2000, keep=0)
    assert [path.name for path in tmp_path.iterdir()] == ["planner.log"]


def test_the_previous_run_is_kept_apart(tmp_path: Path) -> None:
    one_run(tmp_path, line("old", 1), line("old too", 2))
    one_run(tmp_path, line("new", 3))
    assert texts(read_log(tmp_path)) == ["new"]
    assert "old" in (tmp_path / "planner.log.1").read_text()
    assert "old" not in (tmp_path / "planner.log").read_text()


def test_a_run_of_several_files_is_read_as_one(tmp_path: Path) -> None:
    one_run(tmp_path, line("old", 1))
    one_run(tmp_path, *(line(f"{n}", 2) for n in range(40)), max_size=600, keep=9)
    assert texts(read_log(tmp_path)) == [str(n) for n in range(40)]


def test_previous_is_the_generation_before_the_newest(tmp_path: Path) -> None:
    one_run(tmp_path, line("one", 1), line("two", 2))
    assert texts(read_log(tmp_path, previous=True)) == ["one"]
    one_run(tmp_path, line("three", 3), line("note", 0))
    assert texts(read_log(tmp_path, previous=True)) == ["two"]
    one_run(tmp_path, line("three still", 3), line("four", 4), line("three again", 3))
    assert texts(read_log(tmp_path, previous=True)) == ["three", "three still", "three again"]
    assert read_log(tmp_path, ["nobody"], previous=True) == []


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    with logging_to(folder) as (files, _):
        files.write(line("first"))
        written(folder, "first")
        shutil.rmtree(folder)
        files.write(line("second"))
        written(folder, "second")


def written(folder: Path, text: str) -> None:
    """Wait until ``text`` stands in the log."""
    deadline = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if any(text in each for each in texts(read_log(folder))):
            return
        deadline.wait(0.005)
    raise AssertionError(f"{text!r} was not written")


def dealt_with(files: LogFiles, folder: Path, count: int) -> None:
    """Wait until so many lines are written or lost: one that comes later would find room again."""
    wait_for(lambda: files._files["planner"].lost + len(read_log(folder)) == count)


# ---- trouble ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """The system's own limit of a file's size stands for the full disk: a write is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with logging_to(tmp_path) as (files, troubles):
        files.write(line("before"))
        written(tmp_path, "before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            for n in range(100):
                files.write(line(f"during {n}"))
            assert "planner.log: log lines are being lost" in troubles.get(timeout=PATIENCE)
            dealt_with(files, tmp_path, 1 + 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        files.write(line("after"))
        assert troubles.get(timeout=PATIENCE) == "log files are written again"
    found = texts(read_log(tmp_path))
    kept = [text for text in found if text.startswith("during")]
    assert kept == [f"during {n}" for n in range(len(kept))]  # whole lines, the first ones
    note = next(text for text in found if "left out" in text)
    assert int(note[1:].split()[0]) == 100 - len(kept)
    assert found[-1] == "after"
    assert troubles.empty()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a tiny disk")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        (tmp_path / "hog").write_bytes(b"x" * 8192)
        with logging_to(tmp_path) as (files, troubles):
            for n in range(1000):
                files.write(line(f"{n}"))
            assert "No space left on device" in troubles.get(timeout=PATIENCE)
            dealt_with(files, tmp_path, 1000)
            (tmp_path / "hog").unlink()
            files.write(line("after"))
            assert troubles.get(timeout=PATIENCE) == "log files are written again"
        raw = (tmp_path / "planner.log").read_text()
        assert all(re.match(r"\S+Z \[(\d+|up)\]", row) for row in raw.splitlines())  # no half line
        *early, note, after = texts(read_log(tmp_path))
        assert after == "after"
        assert early == [str(n) for n in range(len(early))]
        assert note == f"({1000 - len(early)} lines left out: No space left on device)"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_run_that_begins_on_a_full_disk_still_says_where_it_begins(tmp_path: Path) -> None:
    one_run(tmp_path, line("old"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with logging_to(tmp_path) as (files, troubles):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
        try:
            files.write(line("lost"))
            troubles.get(timeout=PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        files.write(line("after"))
    found = texts(read_log(tmp_path))
    assert len(found) == 2
    assert found[0].startswith("(1 line left out: ")
    assert found[1] == "after"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with logging_to(tmp_path / "file") as (files, troubles):
        files.write(line("x"))
        assert "log lines are being lost" in troubles.get(timeout=PATIENCE)
        files.write(line("y"))
    assert troubles.empty()  # said once


def test_no_link_is_followed(tmp_path: Path) -> None:
    """One that was there before is rotated away as a file would be; one that comes later costs lines."""
    folder, victim = tmp_path / "logs", tmp_path / "victim"
    folder.mkdir()
    (folder / "planner.log").symlink_to(victim)
    with logging_to(folder) as (files, troubles):
        files.write(line("x"))
        written(folder, "x")
        assert (folder / "planner.log.1").is_symlink()
        (folder / "planner.log").unlink()
        (folder / "planner.log").symlink_to(victim)
        files.write(line("y"))
        assert "log lines are being lost" in troubles.get(timeout=PATIENCE)
    assert not victim.exists()


def test_a_disk_that_hangs_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, released = threading.Event(), threading.Event()
    append = logfiles._LogFile.append

    def hang(self: logfiles._LogFile, lines: list[Line]) -> None:
        hanging.set()
        assert released.wait(PATIENCE)
        append(self, lines)

    monkeypatch.setattr(logfiles._LogFile, "append", hang)
    files = LogFiles(tmp_path, 10_000_000, 3)
    try:
        files.write(line("first"))
        assert hanging.wait(PATIENCE)
        for n in range(MOST_LINES + 100):
            files.write(line(f"{n}"))  # returns, or the test never ends
        files.close(0.01)  # and so does this
    finally:
        released.set()
        files.close(PATIENCE)
    found = texts(read_log(tmp_path))
    assert found[:2] == ["first", "(100 lines left out: the disk is too slow)"]
