"""What the registry knew survives its end, however that came; and nothing on the disk can keep it from serving."""

from __future__ import annotations

import re
import resource
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mesh_supervisor.registry.__main__ import parse
from mesh_supervisor.registry.book import Changes, Saved
from mesh_supervisor.registry.records import Issued
from mesh_supervisor.registry.store import Store, StoreError
from tests.e2e.harness import free_port
from tests.registry.bodies import agent, needs, providers, tool
from tests.registry.running import Running, eventually, running


def saved(agent_id: str, body: str | None = "{}", *, alive: bool = True, lease: float = 20) -> Saved:
    return Saved(agent_id, body, 1.0, 2.0, lease, alive, "told")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path / "registry.db")
    assert store.load().agents == []
    issued = Issued("a-0001", "me", "a", 1)
    store.save(Changes({"a": saved("a"), "b": saved("b"), "c": None}, {"a-0001": issued, "x": None}))
    store.save(Changes({"a": saved("a", None, alive=False, lease=60), "b": None}))
    store.close()
    again = Store(tmp_path / "registry.db")
    loaded = again.load()
    assert loaded.agents == [saved("a", alive=False, lease=60)]
    assert (loaded.issued, loaded.said) == ([issued], [])
    again.close()


def test_without_a_path_nothing_is_kept() -> None:
    store = Store(None)
    store.save(Changes({"a": saved("a")}))
    assert store.load().agents == []
    store.close()


@pytest.mark.parametrize("content", [b"this is not a database, " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_moved_aside_and_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(content)
    store = Store(path)
    loaded = store.load()
    assert loaded.agents == [] and "is damaged" in loaded.said[0]
    aside = next(tmp_path.glob("registry.db.*.broken"))
    assert aside.read_bytes() == content and aside.name in loaded.said[0]
    store.save(Changes({"a": saved("a")}))
    store.close()
    again = Store(path)
    assert again.load().agents == [saved("a")]
    again.close()


def test_a_file_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    store = Store(path)
    store.load()
    store.save(Changes({f"a{n}": saved(f"a{n}", "x" * 3000) for n in range(50)}))
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:60_000] = b"\x55" * (60_000 - 8192)
    path.write_bytes(content)
    store = Store(path)
    assert "is damaged" in store.load().said[0]
    store.close()


def test_a_file_of_another_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE agents (other TEXT); PRAGMA user_version = 99;")
    connection.close()
    content = path.read_bytes()
    store = Store(path)
    assert "another version" in store.load().said[0]
    store.close()
    assert next(tmp_path.glob("*.broken")).read_bytes() == content


def test_a_folder_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    store = Store(tmp_path / "no" / "registry.db")
    with pytest.raises(StoreError, match="No such file"):
        store.load()
    with pytest.raises(StoreError, match="No such file"):
        store.save(Changes({"a": saved("a")}))


def test_two_registries_do_not_share_a_file(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "registry.db"), Store(tmp_path / "registry.db")
    first.load()
    first.save(Changes({"a": saved("a")}))
    with pytest.raises(StoreError, match="locked"):
        second.load()
    first.close()
    assert len(second.load().agents) == 1
    second.close()


# ---- the process ---------------------------------------------------------------------------------------------------


def populate(registry: Running) -> None:
    registry.ask("PUT", "/owners/me/ids", {"ids": [{"id": "clock-0002", "name": "clock", "generation": 2}]})
    registry.heartbeat(agent("clock-0001", tool("time"), owner="me", name="clock", generation=1))
    registry.heartbeat(agent("clock-0002", tool("time", kwargs={"task": False})))
    registry.heartbeat(agent("greeter", tool("greet", needs("time"))))
    registry.ask("POST", "/owners/me/lease", {"ttl": 300, "ids": ["clock-0001"]})


def written(path: Path, count: int) -> bool:
    """Whether the file holds so many agents; it is locked, so a copy is read."""
    copy = path.with_name("copy.db")
    for end in ("", "-wal"):
        part = path.with_name(path.name + end)
        copy.with_name(copy.name + end).write_bytes(part.read_bytes() if part.exists() else b"")
    try:
        with closing(sqlite3.connect(copy)) as connection:
            found = connection.execute("SELECT count(*) FROM agents").fetchone()[0]
    except sqlite3.DatabaseError:  # copied in the middle of a write
        return False
    return bool(found >= count)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_goes_unnoticed(tmp_path: Path, end: signal.Signals) -> None:
    path, port = tmp_path / "registry.db", free_port()
    with running(store=path, port=port) as before:
        populate(before)
        old = before.agents()
        eventually(lambda: written(path, 3), "the agents are on disk")
        before.stop(end)
    with running(store=path, port=port) as after:
        assert after.beat("greeter") == 200, "nothing has changed for it"
        assert after.beat("clock-0001") == 200
        new = after.agents()
        for agent_id, row in new.items():
            del row["last_seen"], old[agent_id]["last_seen"]
        assert new == old
        assert new["greeter"]["dependency_resolutions"][0]["provider_agent_id"] == "clock-0002"
        asked = after.heartbeat(agent("other", tool("o", needs("time"))))
        assert providers(asked["dependencies_resolved"]) == {"o": ["clock-0002"]}
    assert not [line for line in after.said if "cannot" in line or "Traceback" in line], after.said


def test_a_withdrawn_record_stays_gone_over_a_restart(tmp_path: Path) -> None:
    with running(store=tmp_path / "registry.db") as before:
        populate(before)
        before.ask("DELETE", "/agents/clock-0002")
        before.ask("DELETE", "/owners/me")
        before.stop()
    with running(store=tmp_path / "registry.db") as after:
        assert list(after.agents()) == ["greeter"]
        assert after.beat("greeter") == 202


def test_a_damaged_file_is_said_and_the_registry_serves(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database" * 100)
    with running(store=tmp_path / "registry.db") as one:
        populate(one)
        assert one.ask("GET", "/health").json["store"] == "ok"
        eventually(lambda: any("is damaged; moved to" in line for line in one.said), "it is said")


def test_a_store_that_cannot_be_opened_is_said_and_the_registry_serves_from_memory(tmp_path: Path) -> None:
    folder = tmp_path / "late"
    with running(store=folder / "registry.db") as one:
        populate(one)
        assert "No such file" in one.ask("GET", "/health").json["store"]
        eventually(lambda: any("working from memory" in line for line in one.said), "it is said")
        folder.mkdir()
        eventually(lambda: one.ask("GET", "/health").json["store"] == "ok", "the store is used once it can be")
        one.stop()
    assert len([line for line in one.said if "working from memory" in line]) == 1, one.said
    with running(store=folder / "registry.db") as again:
        assert set(again.agents()) == {"clock-0001", "clock-0002", "greeter"}


def test_a_full_disk_is_said_once_and_made_good_later(tmp_path: Path) -> None:
    """The disk is full for this process alone: a limit on the size of its files, lifted later."""
    path = tmp_path / "registry.db"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, resource.RLIM_INFINITY))"
    with running(store=path, before=limit) as one:
        for number in range(30):
            one.heartbeat(agent(f"a{number}", tool("c", description="x" * 4000)))
        eventually(lambda: one.ask("GET", "/health").json["store"] != "ok", "the trouble shows")
        assert one.beat("a29") == 200
        eventually(lambda: any("cannot keep records on disk" in line for line in one.said), "the trouble is said")
        resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: any("the store works again" in line for line in one.said), "it recovers")
        # On a busy machine asyncio's debug mode says in between which callback was slow, and leases end.
        slow = re.compile("Executing |a[0-9]+ has not been heard of")
        assert len([line for line in one.said if not slow.match(line)]) == 3, one.said
        one.stop(signal.SIGKILL)
    with running(store=path) as again:
        assert len(again.agents()) == 30


def test_a_second_registry_on_the_same_file_says_so(tmp_path: Path) -> None:
    with running(store=tmp_path / "registry.db") as first:
        populate(first)
        with running(store=tmp_path / "registry.db") as second:
            assert "locked" in second.ask("GET", "/health").json["store"]
            assert second.agents() == {}


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    with running(store=tmp_path / "registry.db") as one:
        populate(one)
        assert (tmp_path / "registry.db").stat().st_mode & 0o077 == 0


def test_a_link_is_followed_only_where_somebody_named_it(tmp_path: Path) -> None:
    link, victim = tmp_path / "registry.db", tmp_path / "victim"
    link.symlink_to(victim)
    with pytest.raises(StoreError, match=r"registry\.db: is a link, which is not followed; remove it"):
        Store(link).load()
    assert not victim.exists()
    assert parse(["--own-store", str(link)]).store == link
    assert parse(["--store", str(link)]).store == victim
    with running(store=link) as one:
        populate(one)
    assert victim.exists() and link.is_symlink()


def test_a_port_is_free_again_at_once() -> None:
    port = free_port()
    with running(port=port) as one, socket.create_connection(("127.0.0.1", port)):
        one.stop()
    with running(port=port) as again:
        assert again.port == port
