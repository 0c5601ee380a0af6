"""Log files in state_dir/logs: one per agent and ``up``, rotated, written by a thread of their own; and reading them.

A line is ``2026-11-21T01:43:36.123Z [7] text``, the number being the generation. A run begins with a line that has
``[up]`` there; nothing an agent writes can look like that, because its lines begin with our time and generation.
``AGENT.log`` is the newest file, ``AGENT.log.1`` the one before: filled up, or of the run before.
"""

from __future__ import annotations

import errno
import heapq
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from mesh_supervisor.host.backlog import Backlog
from mesh_supervisor.host.lines import Line, left_out

_RUN = "[up]"
_LINE = re.compile(r"^(\S+) \[(\d+|up)\] ?(.*)$", re.DOTALL)
_BLOCK = 64 * 1024


def stamp(at: float) -> str:
    """Unix time → ``2026-11-21T01:43:36.123Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


# ---- writing ---------------------------------------------------------------------------------------------------------


class LogFiles:
    """A sink. ``write`` never blocks and never raises: a thread writes, and what the disk does not take is counted.

    ``trouble(text)`` is called from that thread, once when lines begin to be lost and once when writing works again.
    """

    def __init__(
        self, directory: Path, max_size: int, keep: int, *, trouble: Callable[[str], None] = lambda text: None
    ) -> None:
        self._directory, self._max_size, self._keep = directory, max_size, keep
        self._trouble = trouble
        self._backlog = Backlog()
        self._files: dict[str, _LogFile] = {}
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="log files", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        self._backlog.put(line)

    def close(self, timeout: float = 2.0) -> None:
        """Write what is left. A disk that hangs is given up after ``timeout`` seconds."""
        self._backlog.close()
        self._thread.join(timeout)

    def _write_all(self) -> None:
        while True:
            lines, dropped = self._backlog.take()
            if not lines:
                break
            if dropped:
                lines.appendleft(Line(lines[0].at, lines[0].agent, 0, left_out(dropped, "the disk is too slow")))
            by_agent: dict[str, list[Line]] = {}
            for line in lines:
                by_agent.setdefault(line.agent, []).append(line)
            for agent, its_lines in by_agent.items():
                self._append(agent, its_lines)
        for file in self._files.values():
            file.close()

    def _append(self, agent: str, lines: list[Line]) -> None:
        file = self._files.get(agent)
        if file is None:
            file = self._files[agent] = _LogFile(self._directory / f"{agent}.log", self._max_size, self._keep)
        file.append(lines)
        self._tell(file)

    def _tell(self, file: _LogFile) -> None:
        failing = any(each.lost for each in self._files.values())
        if failing and not self._failing:
            self._trouble(f"{file.path}: log lines are being lost: {file.why}; free space or set [logs] files = false")
        elif self._failing and not failing:
            self._trouble("log files are written again")
        self._failing = failing


class _LogFile:
    """One agent's file. ``lost``: lines that could not be written since the last that could; ``why`` says why."""

    def __init__(self, path: Path, max_size: int, keep: int) -> None:
        self.path, self._max_size, self._keep = path, max_size, keep
        self.lost = 0
        self.why = ""
        self._file: int | None = None
        self._size = 0
        self._apart = False  # the previous run's file is out of the way
        self._marked = False  # this run's beginning is written

    def append(self, lines: list[Line]) -> None:
        """Write ``lines``, whole ones only; what does not get in is counted in ``lost``."""
        rows = _rows(lines)
        written = 0
        try:
            self._look()
            while written < len(rows):
                self._prepare(lines[written].at)
                written += self._write_some(rows[written:])
        except OSError as error:
            self.lost += len(rows) - written
            self.why = error.strerror or str(error)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _prepare(self, at: float) -> None:
        """Have a file open that is not full and says where this run begins and what is missing.

        ``at``: unix time of the line to come.
        """
        if self._file is not None and self._size >= self._max_size:
            self.close()
            _rotate(self.path, self._keep)
        if self._file is None:
            self._open()
        if not self._marked:
            self._write(f"{stamp(at)} {_RUN}\n".encode())
            self._marked = True
        if self.lost:
            self._write(f"{stamp(at)} [0] {left_out(self.lost, self.why)}\n".encode())
            self.lost = 0

    def _look(self) -> None:
        """Somebody may have removed the file, or emptied it. Once per batch: every call of the system gives up the
        interpreter's lock, and getting it back takes longer than writing a thousand lines."""
        if self._file is None:
            return
        mine = os.fstat(self._file)
        self._size = mine.st_size
        try:
            there = self.path.stat()
        except FileNotFoundError:
            self.close()
            return
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            self.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._apart:
            _rotate(self.path, self._keep)
            self._apart = True
        # A link would lead to a file that is none of ours; one that was there before the run has been rotated away.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _write_some(self, rows: list[str]) -> int:
        """Write rows until the file is full (at least one); how many. Raises OSError when not even one got in."""
        content = "".join(rows).encode()
        if len(content) > self._max_size - self._size:
            rows = self._fitting(rows)
            content = "".join(rows).encode()
        try:
            self._write(content)
        except _Short as short:
            if not short.whole_lines:
                raise
            return short.whole_lines
        return len(rows)

    def _fitting(self, rows: list[str]) -> list[str]:
        """As many as fill the file, at least one."""
        room, count = self._max_size - self._size, 0
        while count < len(rows) and (room > 0 or count == 0):
            room -= len(rows[count].encode())
            count += 1
        return rows[:count]

    def _write(self, content: bytes) -> None:
        """Raises _Short when only a part got in; no half line stays in the file."""
        assert self._file is not None
        written = os.write(self._file, content)
        if written == len(content):
            self._size += written
            return
        whole = content.rfind(b"\n", 0, written) + 1
        self._size += whole
        os.ftruncate(self._file, self._size)
        raise _Short(content.count(b"\n", 0, whole))


class _Short(OSError):
    """A disk that fills up takes the first part of what is written, and says so only the next time."""

    def __init__(self, whole_lines: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.whole_lines = whole_lines


def _rows(lines: list[Line]) -> list[str]:
    """As they are in the file. Many lines share a moment, and nearly all of the cost is in writing it down."""
    rows, at, moment = [], -1.0, ""
    for line in lines:
        if line.at != at:
            at, moment = line.at, stamp(line.at)
        rows.append(f"{moment} [{line.generation}] {line.text}\n")
    return rows


def _rotate(path: Path, keep: int) -> None:
    """``path`` → ``path.1`` → … → ``path.keep``; the oldest is gone."""
    numbered = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
    if not os.path.lexists(path):  # a dangling link is moved away like anything else
        return
    for older, newer in zip(reversed(numbered), reversed(numbered[:-1]), strict=False):
        if os.path.lexists(newer):
            newer.replace(older)
    if keep == 0:
        path.unlink(missing_ok=True)


# ---- reading ---------------------------------------------------------------------------------------------------------


def logged_agents(directory: Path) -> list[str]:
    """The names that have a log there."""
    return sorted(path.name.removesuffix(".log") for path in directory.glob("*.log"))


def read_log(
    directory: Path,
    agents: Collection[str] = (),
    *,
    lines: int | None = None,
    since: float | None = None,
    grep: re.Pattern[str] | None = None,
    previous: bool = False,
) -> list[Line]:
    """The newest run's lines of ``agents`` (none named: all that have a log), in the order of time.

    ``lines``: at most so many of each agent, the last ones; ``since``: unix time; ``previous``: instead the lines of
    the generation before the newest one that wrote any, of whichever run it was.
    """
    found: list[list[Line]] = []
    for agent in logged_agents(directory):
        if not agents or agent in agents:
            backwards = _previous(directory, agent) if previous else _newest_run(directory, agent)
            found.append(_choose(backwards, lines, since, grep))
    # Merged, not sorted: a clock that was set back must not mix up the lines of one agent.
    return list(heapq.merge(*found, key=lambda line: line.at))


def _choose(
    backwards: Iterator[Line], lines: int | None, since: float | None, grep: re.Pattern[str] | None
) -> list[Line]:
    chosen: list[Line] = []
    for line in backwards:
        if (since is not None and line.at < since) or (lines is not None and len(chosen) >= lines):
            break
        if grep is None or grep.search(line.text):
            chosen.append(line)
    return chosen[::-1]


def _newest_run(directory: Path, agent: str) -> Iterator[Line]:
    for line in _backwards(directory, agent):
        if line is None:
            return
        yield line


def _previous(directory: Path, agent: str) -> Iterator[Line]:
    everything = [line for line in _backwards(directory, agent) if line is not None]
    generations = sorted({line.generation for line in everything if line.generation})
    if len(generations) > 1:
        yield from (line for line in everything if line.generation == generations[-2])


def _backwards(directory: Path, agent: str) -> Iterator[Line | None]:
    """All lines of one agent, newest first; None where a run began. A line that is none of ours is left out."""
    for path in _files(directory / f"{agent}.log"):
        for raw in _lines_backwards(path):
            match = _LINE.match(raw.decode("utf-8", "replace"))
            if match is None:
                continue
            if match[2] == "up":
                yield None
                continue
            at = _unix_time(match[1])
            if at is not None:
                yield Line(at, agent, int(match[2]), match[3])


def _unix_time(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _files(newest: Path) -> Iterator[Path]:
    yield newest
    number = 1
    while (older := newest.with_name(f"{newest.name}.{number}")).exists():
        yield older
        number += 1


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file from its end, without reading more of it than is asked for."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            first, *whole = (file.read(size) + rest).split(b"\n")
            yield from (raw for raw in reversed(whole) if raw)
            rest = first
        if rest:
            yield rest
