"""Digests: equal content is no change, and no coarse clock hides one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh_supervisor.host import content
from mesh_supervisor.host.content import LARGE, Fingerprints, digest

SECOND = 1_000_000_000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read, in order."""
    done: list[Path] = []
    read = content._read

    def noted(path: Path) -> content._Fingerprint | None:
        done.append(path)
        return read(path)

    monkeypatch.setattr(content, "_read", noted)
    return done


def later(file: Path, seconds: float) -> Fingerprints:
    """Fingerprints whose clock stands so many seconds after the file's last change."""
    now = file.stat().st_ctime_ns + int(seconds * SECOND)
    return Fingerprints(wall_clock_ns=lambda: now)


def test_the_digest_is_of_the_content_and_nothing_else(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    other.write_bytes(b"else")
    assert digest(one) == digest(two) != digest(other)
    os.utime(one, ns=(0, 0))
    one.chmod(0o600)
    assert digest(one) == digest(two)


def test_files_larger_than_one_read_count_to_the_end(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 3_000_000 + b"1")
    first = digest(file)
    file.write_bytes(b"x" * 3_000_000 + b"2")
    assert digest(file) != first


def test_what_is_no_regular_file_has_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "fifo", "loop", "", "missing/deeper", "\0"):
        assert digest(tmp_path / name) is None
    assert Fingerprints().digest(tmp_path / "missing") is None


def test_two_saves_of_equal_length_in_one_tick_differ(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    prints = Fingerprints()
    file.write_text("x = 1")
    status = file.stat()
    first = prints.digest(file)
    file.write_text("x = 2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prints.digest(file) != first


def test_a_young_file_is_read_every_time_and_an_old_one_once(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    young, old = later(file, 1.9), later(file, 2.1)
    for _ in range(3):
        young.digest(file)
    assert len(reads) == 3
    for _ in range(3):
        old.digest(file)
    assert len(reads) == 4


def test_an_old_file_that_changes_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    prints = later(file, 10)
    first = prints.digest(file)
    status = file.stat()
    replacement = tmp_path / "a.py.tmp"
    replacement.write_text("x = 2")
    os.utime(replacement, ns=(status.st_atime_ns, status.st_mtime_ns))
    replacement.replace(file)
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert prints.digest(file) != first
    file.unlink()
    assert prints.digest(file) is None


def test_a_file_from_the_future_is_never_trusted(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1")
    prints = later(file, 10)
    os.utime(file, ns=(0, file.stat().st_ctime_ns + 3600 * SECOND))
    prints.digest(file)
    prints.digest(file)
    assert len(reads) == 2


def test_digests_of_many_and_forgetting(tmp_path: Path, reads: list[Path]) -> None:
    file, missing = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("x = 1")
    prints = later(file, 10)
    assert prints.digests([file, missing]) == {file: digest(file), missing: None}
    reads.clear()
    prints.digest(file)
    assert reads == []
    prints.forget([file])
    prints.digest(file)
    assert reads == [file]


def test_a_large_file_is_known_by_time_and_size_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    with file.open("wb") as writing:
        writing.truncate(LARGE + 1)
    before = digest(file)
    assert before is not None and before == digest(file)
    os.utime(file, ns=(1, 1))
    assert digest(file) != before


def test_a_stamp_and_a_digest_are_of_one_content(tmp_path: Path) -> None:
    file = tmp_path / "x.md"
    fingerprints = Fingerprints()
    assert fingerprints.stamped([file]) == {file: (None, None)}
    file.write_text("1")
    status = file.stat()
    stamp = (max(status.st_mtime_ns, status.st_ctime_ns), status.st_size, status.st_ino)
    assert fingerprints.stamped([file]) == {file: (stamp, digest(file))}
    file.write_text("22")
    assert fingerprints.stamped([file])[file] != (stamp, digest(file))
