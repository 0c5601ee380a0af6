"""The control socket: who may talk, what is refused, streams that end, the client's sentences."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.control import server
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.messages import Answer, Outcome
from mesh_supervisor.errors import AlreadyRunning, MeshError, NotRunning, UnknownAgent, WaitTimedOut
from mesh_supervisor.events import Event
from mesh_supervisor.host import peer
from mesh_supervisor.host.lines import Line
from mesh_supervisor.locate import Place, control_socket
from tests.control.fake import AT, VIEW, FakeMesh, running, snapshot


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "mesh.toml", tmp_path, tmp_path / ".mesh")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, wherever temporary folders are: a Unix socket has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="meshsup-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def fake(place: Place) -> Iterator[FakeMesh]:
    with running(FakeMesh(place)) as mesh:
        yield mesh


def raw(place: Place, request: bytes) -> tuple[int, str]:
    """Status and body of a request that is written by hand."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(20)
        line.connect(str(control_socket(place.state_dir)))
        with contextlib.suppress(BrokenPipeError):  # refused before all of it was read
            line.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := line.recv(65536):
                answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def post(place: Place, path: str, body: bytes) -> tuple[int, str]:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return raw(place, head.encode() + body)


# ---- asking ------------------------------------------------------------------------------------------------------


def test_snapshot_comes_back_as_it_was(fake: FakeMesh, place: Place) -> None:
    failing = replace(VIEW, name="writer", state="backoff", failure="exit 1", pid=None, warnings=("no known inputs",))
    fake.now = snapshot(place, VIEW, failing, warnings=("a warning",))
    assert Client(place).snapshot() == fake.now


def test_command_carries_its_arguments_and_brings_the_answer(fake: FakeMesh, place: Place) -> None:
    answer = Answer(
        ok=False, outcomes=(Outcome("planner", False, "did not get ready", 8, 1.5),), error="x", exit_code=1
    )
    fake.answers["restart"] = answer
    assert Client(place).command("restart", agents=["plan*"], force=True) == answer
    assert fake.asked == [("restart", {"agents": ["plan*"], "force": True})]


def test_names_of_files_that_are_no_text_come_back_as_they_went_out(fake: FakeMesh, place: Place) -> None:
    fake.answers["why"] = answer = Answer(ok=True, lines=("data/\udcff.md: nobody",))
    assert Client(place).command("why", paths=["data/\udcff.md"]) == answer
    assert fake.asked == [("why", {"paths": ["data/\udcff.md"]})]
    fake.now = snapshot(place, replace(VIEW, last="data/\udcff.md"))
    assert Client(place).snapshot() == fake.now


def test_an_error_of_ours_keeps_its_sentence_and_exit_code(fake: FakeMesh, place: Place) -> None:
    fake.answers["stop"] = UnknownAgent("planer", ["planner"])
    answer = Client(place).command("stop", agents=["planer"])
    assert (answer.ok, answer.exit_code) == (False, 4)
    assert answer.error == "no agent is called 'planer'; did you mean 'planner'?"


def test_waiting_has_an_end(fake: FakeMesh, place: Place) -> None:
    fake.hanging = True
    with pytest.raises(WaitTimedOut, match=r"within 0\.2 s"):
        Client(place).command("restart", timeout=0.2, agents=[])


def test_twenty_clients_at_once(fake: FakeMesh, place: Place) -> None:
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(Client(place).snapshot().pid)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == [4000] * 20


# ---- refusing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/commands/explode", b"{}", 404, "no command is called 'explode'"),
        ("/commands/stop", b"{nonsense", 400, "no JSON"),
        ("/commands/stop", b"[1]", 400, "must be a JSON object"),
        ("/commands/stop", b'{"agents": "planner"}', 400, "'agents' must be a list of strings"),
        ("/commands/why", b'{"paths": [1]}', 400, "'paths' must be a list of strings"),
        ("/commands/why", b'{"paths": ["a\\u0000b"]}', 400, "'paths' has a NUL character"),
        ("/commands/stop", b"[" * 200_000, 400, "no JSON"),
        ("/commands/stop", b'{"x": "' + b"y" * server.BODY_LIMIT + b'"}', 413, "larger than 1048576 bytes"),
        ("/snapshot", b"", 405, "Method Not Allowed"),
        ("/commands/../snapshot", b"{}", 404, ""),
    ],
)
def test_bad_requests_get_a_reason(
    fake: FakeMesh, place: Place, path: str, body: bytes, status: int, reason: str
) -> None:
    got, text = post(place, path, body)
    assert got == status
    assert reason in json.loads(text)["error"]
    assert fake.asked == []


@pytest.mark.parametrize("lines", ["-1", "many", "99999999999", "²"])
def test_a_count_must_be_one(fake: FakeMesh, place: Place, lines: str) -> None:
    request = f"GET /logs?lines={lines} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert raw(place, request.encode("latin-1"))[0] == 400


class Peer(socket.socket):
    """A connection whose other end is user ``uid``."""

    uid = 0

    def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
        return struct.pack("3i", 1, self.uid, self.uid)


@pytest.mark.parametrize(("uid", "admitted"), [(0, True), (54321, True), (54322, False)])
def test_only_this_user_and_root_may_talk(monkeypatch: pytest.MonkeyPatch, uid: int, admitted: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with Peer(socket.AF_UNIX) as connection:
        connection.uid = uid
        assert server.may_talk(connection) is admitted


def test_strangers_are_hung_up_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "may_talk", lambda connection: False)
    fake = FakeMesh(place)
    with running(fake), pytest.raises(MeshError, match="hung up"):
        Client(place).command("down")
    assert fake.asked == []


def test_the_socket_is_ours_alone(fake: FakeMesh, place: Place) -> None:
    mode = control_socket(place.state_dir).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert [file.name for file in place.state_dir.iterdir()] == ["control.sock"]


# ---- the socket's file -------------------------------------------------------------------------------------------


def test_a_stale_socket_is_replaced(place: Place) -> None:
    place.state_dir.mkdir()
    path = control_socket(place.state_dir)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with running(FakeMesh(place)):
        assert Client(place).running()


def test_a_live_socket_is_not(fake: FakeMesh, place: Place) -> None:
    with pytest.raises(AlreadyRunning, match="already running"):
        server.listen(control_socket(place.state_dir))
    assert Client(place).running()


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "control.sock"
    file.write_text("precious")
    with pytest.raises(MeshError, match="is no socket"):
        server.listen(file)
    assert file.read_text() == "precious"


def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="cannot listen there: No such file"):
        server.listen(tmp_path / "gone" / "control.sock")


# ---- nobody there ------------------------------------------------------------------------------------------------


def test_nothing_runs(place: Place) -> None:
    assert not Client(place).running()
    with pytest.raises(NotRunning, match=r"mesh\.toml: this mesh is not running; start it with `meshsup up`"):
        Client(place).snapshot()


def test_a_dead_socket_counts_as_nothing(place: Place) -> None:
    place.state_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(control_socket(place.state_dir)))
    with pytest.raises(NotRunning):
        Client(place).events()


@contextlib.contextmanager
def answering(place: Place, answer: bytes) -> Iterator[None]:
    """Something else that listens on the control socket, says ``answer`` to one client and hangs up."""
    place.state_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control_socket(place.state_dir)))
        listener.listen()

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "hung up"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "hung up"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "no supervisor of meshsup"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "hung up"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", "refused: oops"),
    ],
)
def test_nonsense_answers_become_sentences(place: Place, answer: bytes, sentence: str) -> None:
    with answering(place, answer), pytest.raises(MeshError, match=sentence):
        Client(place).snapshot()


@contextlib.contextmanager
def busy(path: Path) -> Iterator[None]:
    """Somebody who hangs, with as many in front of him as the kernel lets wait: one."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        yield


def test_one_whose_queue_is_full_is_neither_away_nor_dead(place: Place) -> None:
    with busy(control_socket(place.state_dir)):
        for ask in (Client(place).running, Client(place).snapshot, Client(place).events):
            with pytest.raises(WaitTimedOut, match="takes no more connections; it hangs, or is very busy"):
                ask()
        with pytest.raises(AlreadyRunning):
            server.refuse_if_taken(control_socket(place.state_dir))


# ---- whom to obey ------------------------------------------------------------------------------------------------


def asks_of_the_obeyed(client: Client) -> Iterator[Callable[[], object]]:
    yield lambda: client.command("hold", agents=["planner"])
    yield lambda: client.command("hold", agents=["planner"], dry_run=True)
    yield client.snapshot


def test_the_own_supervisor_is_obeyed(fake: FakeMesh, place: Place) -> None:
    for ask in asks_of_the_obeyed(Client(place, obeyed=True)):
        ask()
    assert [verb for verb, _ in fake.asked] == ["hold", "hold"]


@pytest.mark.parametrize(("us", "who"), [(0, "root"), (54321, "user 54321")])
def test_what_another_user_says_is_not_executed(
    fake: FakeMesh, place: Place, monkeypatch: pytest.MonkeyPatch, us: int, who: str
) -> None:
    monkeypatch.setattr("mesh_supervisor.control.client.peer_of", lambda line: peer.Peer(4242, 10001))
    monkeypatch.setattr(os, "geteuid", lambda: us)
    for ask in asks_of_the_obeyed(Client(place, obeyed=True)):
        with pytest.raises(MeshError) as refused:
            ask()
        assert refused.value.exit_code == 1
        assert str(refused.value) == (
            f"{control_socket(place.state_dir)}: this mesh belongs to user 10001, and what it says would be run as "
            f"{who}; become that user: `docker exec -u 10001 …` or `sudo -u '#10001' …`"
        )
    assert fake.asked == []
    monkeypatch.undo()
    assert Client(place).running(), "and a server that ends while it accepts those above would leave them open"


@pytest.mark.parametrize(("pid", "nested", "over"), [(0, False, False), (4242, True, False), (4242, False, True)])
def test_what_is_said_in_another_container_is_not_executed(
    fake: FakeMesh, place: Place, monkeypatch: pytest.MonkeyPatch, pid: int, nested: bool, over: bool
) -> None:
    """Seen from a container the other one has no pid; seen from the machine it has two, or it had one that is by now
    somebody else's."""
    monkeypatch.setattr("mesh_supervisor.control.client.has_ended", lambda line: over)
    monkeypatch.setattr("mesh_supervisor.control.client.peer_of", lambda line: peer.Peer(pid, os.geteuid()))
    monkeypatch.setattr("mesh_supervisor.control.client.is_of_another_namespace", lambda pid: nested)
    for ask in asks_of_the_obeyed(Client(place, obeyed=True)):
        with pytest.raises(AlreadyRunning, match="what answers for this mesh runs in another container; ask there"):
            ask()
    assert fake.asked == []
    assert Client(place).running(), "looking is another thing"


def test_where_nobody_tells_who_listens_the_permissions_decide(
    fake: FakeMesh, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh_supervisor.control.client.peer_of", lambda line: None)
    assert Client(place, obeyed=True).command("hold").ok


# ---- streams -----------------------------------------------------------------------------------------------------


def test_events_stream_as_they_are(fake: FakeMesh, place: Place) -> None:
    fake.coming_events = [Event(AT, "ready", "planner", "planner is ready: ünïcode", {"generation": 7})]
    assert list(Client(place).events()) == [
        {
            "at": "2026-11-21T01:43:36.123Z",
            "kind": "ready",
            "agent": "planner",
            "text": "planner is ready: ünïcode",
            "details": {"generation": 7},
        }
    ]


def test_logs_past_and_coming(fake: FakeMesh, place: Place) -> None:
    fake.past_lines = [Line(AT, "planner", 7, f"past {n}") for n in range(5)] + [Line(AT, "writer", 1, "other")]
    fake.coming_lines = [Line(AT, "planner", 7, "red", "\x1b[31mred\x1b[0m")]
    lines = list(Client(place).logs(["planner"], lines=2))
    assert [line["text"] for line in lines] == ["past 3", "past 4", "red"]
    assert "styled" not in lines[0]
    assert lines[2]["styled"] == "\x1b[31mred\x1b[0m"
    recent = Client(place).logs(["planner"], lines=2, follow=False)
    assert [line["text"] for line in recent] == ["past 3", "past 4"]


def test_many_lines_arrive_in_order(fake: FakeMesh, place: Place) -> None:
    fake.past_lines = [Line(AT, "planner", 1, f"{n} {'x' * 200}") for n in range(5000)]
    lines = list(Client(place).logs(lines=5000))
    assert [int(line["text"].split()[0]) for line in lines] == list(range(5000))


def test_the_end_of_the_mesh_ends_followers(place: Place) -> None:
    fake = FakeMesh(place)
    fake.forever = True
    fake.coming_events = [Event(AT, "ready", "planner", "ready")]
    with running(fake):
        stream = Client(place).events()
        assert next(stream)["kind"] == "ready"
    assert list(stream) == []


def test_a_follower_that_leaves_is_noticed(fake: FakeMesh, place: Place) -> None:
    fake.forever = True
    fake.coming_events = [Event(AT, "ready", "planner", "ready")]
    stream = Client(place).events()
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert fake.left.wait(10)


# ---- a supervisor as a process ----------------------------------------------------------------------------------


@pytest.fixture
def process(place: Place) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "tests.control.fake", str(place.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def test_the_end_of_the_process_can_be_waited_for(process: subprocess.Popen[str], place: Place) -> None:
    client = Client(place)
    with client.supervisor() as supervisor:
        assert supervisor.pid == process.pid
        assert not supervisor.wait(0)
        assert client.command("down").lines == ("demo is down",)
        assert supervisor.wait(20)
    assert process.wait(10) == 0


def test_a_killed_supervisor_is_a_sentence_for_its_followers(process: subprocess.Popen[str], place: Place) -> None:
    logs = Client(place).logs()
    assert list(logs) == []  # this fake has none, and its stream ends properly
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with pytest.raises(NotRunning):
        Client(place).snapshot()
