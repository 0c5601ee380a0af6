"""What outlives a restart of the registry: one SQLite file.

Written behind: the registry answers from memory and hands batches to ``save`` in another thread, so no heartbeat waits
for a disk. What a kill -9 loses (some 50 ms) agents make good by themselves: they are told 410 and register again.

A file that is not readable is moved aside, not repaired and not overwritten: what it holds comes back within one
heartbeat, and somebody may want to look at it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mesh_supervisor.registry.book import Changes, Saved
from mesh_supervisor.registry.records import Issued

LAYOUT = 1
"""``PRAGMA user_version`` of the tables below."""

_TABLES = """
CREATE TABLE IF NOT EXISTS agents (
  id TEXT PRIMARY KEY, body TEXT NOT NULL, created REAL NOT NULL, last_seen REAL NOT NULL,
  lease REAL NOT NULL, alive INTEGER NOT NULL, told TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS issued (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL
) WITHOUT ROWID;
"""


class StoreError(Exception):
    """Nothing can be read from or written to the file right now. The text says why."""


@dataclass(slots=True)
class Loaded:
    """What the file held. ``said``: what people should know about it."""

    agents: list[Saved] = field(default_factory=list)
    issued: list[Issued] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class Store:
    """``path`` None: nothing is kept. Used by one thread at a time."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def load(self) -> Loaded:
        """Open the file (made when missing) and read it. Raises StoreError where that may work later."""
        if self.path is None:
            return Loaded()
        try:
            return self._read()
        except sqlite3.DatabaseError as error:
            if _passing(error):
                raise StoreError(f"{self.path}: {error}") from None
            return self._start_over(_complaint(error))

    def save(self, changes: Changes) -> None:
        """Write one batch, all or nothing. Raises StoreError; what was not written may be handed in again."""
        if self.path is None:
            return
        try:
            with self._writing() as connection:
                _write(connection, changes)
        except (sqlite3.DatabaseError, OSError) as error:
            self.close()
            raise StoreError(self._reason(error)) from None

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except sqlite3.DatabaseError as error:  # a full disk, once more: the last checkpoint stays in the WAL
                raise StoreError(f"{self.path}: {error}") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        with connection:
            yield connection

    def _reason(self, error: Exception) -> str:
        """Why a write failed; a file that became unreadable is moved away, so that the next write makes a new one."""
        if isinstance(error, sqlite3.DatabaseError) and not _passing(error):
            return self._move_aside(_complaint(error))
        return f"{self.path}: {error}"

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            assert self.path is not None
            self._connection = _connect(self.path)
        return self._connection

    def _read(self) -> Loaded:
        connection = self._open()
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            return self._start_over("is damaged")
        agents = connection.execute("SELECT id, body, created, last_seen, lease, alive, told FROM agents")
        issued = connection.execute("SELECT id, owner, name, generation FROM issued")
        return Loaded([_saved(row) for row in agents], [Issued(*row) for row in issued])

    def _start_over(self, why: str) -> Loaded:
        said = self._move_aside(why)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{said}; {self.path}: {error}") from None
        return Loaded(said=[said])

    def _move_aside(self, why: str) -> str:
        """Returns the sentence about it. Raises StoreError when even that is not possible."""
        assert self.path is not None
        aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%dT%H%M%S')}.broken")
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        try:
            for end in ("", "-wal", "-shm", "-journal"):
                part = self.path.with_name(self.path.name + end)
                if part.exists():
                    part.replace(aside.with_name(aside.name + end))
        except OSError as error:
            raise StoreError(f"{self.path} {why} and cannot be moved aside: {error.strerror}") from None
        return f"{self.path} {why}; moved to {aside.name}, agents register again by themselves"


def _saved(row: tuple[str, str, float, float, float, int, str]) -> Saved:
    agent, body, created, last_seen, lease, alive, told = row
    return Saved(agent, body, created, last_seen, lease, bool(alive), told)


def _connect(path: Path) -> sqlite3.Connection:
    """Exclusive, so that a second registry on the same file finds out; only for this user to read (bodies may hold
    what is nobody else's business). A link is not followed: it may lead to a file of another program."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        reason = "is a link, which is not followed; remove it" if path.is_symlink() else error.strerror
        raise StoreError(f"{path}: {reason}") from None
    connection = sqlite3.connect(path, timeout=0.2, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_layout(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(f"PRAGMA user_version = {LAYOUT};{_TABLES}")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _check_layout(connection: sqlite3.Connection) -> None:
    """Before anything is written: a file that somebody else's version made stays as it is."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and connection.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
        raise _OtherLayout


class _OtherLayout(sqlite3.DatabaseError):
    """A sound file, but not one of ours of today."""


def _complaint(error: sqlite3.DatabaseError) -> str:
    return "was written by another version" if isinstance(error, _OtherLayout) else "is damaged"


_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
    }
)


def _passing(error: sqlite3.DatabaseError) -> bool:
    """Whether the disk, the rights or another process are at fault, not the file's content."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _PASSING


def _write(connection: sqlite3.Connection, changes: Changes) -> None:
    for agent, saved in changes.agents.items():
        if saved is None:
            connection.execute("DELETE FROM agents WHERE id = ?", (agent,))
        elif saved.body is None:
            connection.execute(
                "UPDATE agents SET last_seen = ?, lease = ?, alive = ?, told = ? WHERE id = ?",
                (saved.last_seen, saved.lease, saved.alive, saved.told, agent),
            )
        else:
            connection.execute(
                "INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?, ?, ?, ?)",
                (agent, saved.body, saved.created, saved.last_seen, saved.lease, saved.alive, saved.told),
            )
    for agent, issued in changes.issued.items():
        if issued is None:
            connection.execute("DELETE FROM issued WHERE id = ?", (agent,))
        else:
            row = (agent, issued.owner, issued.name, issued.generation)
            connection.execute("INSERT OR REPLACE INTO issued VALUES (?, ?, ?, ?)", row)
