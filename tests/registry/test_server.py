"""The registry over a real socket: what it answers, and what it refuses with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from mesh_supervisor.host.serve import listen
from mesh_supervisor.registry.server import AT_A_MOMENT, PIECE, Registry, _print, run
from mesh_supervisor.registry.store import Store
from tests.registry.bodies import agent, needs, post, providers, tool
from tests.registry.running import JSON, PATIENCE, Running, eventually, running

MIB = 1024 * 1024
HEAD = b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def reason(answer: Any) -> str:
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["timestamp"].endswith("Z")
    return str(answer.json["error"])


# ---- the API -------------------------------------------------------------------------------------------------------


def test_register_find_each_other_and_leave(registry: Running) -> None:
    greeter = agent("greeter-1", tool("greet", needs("time_now", tags=["system"], version=">=1.0.0")), name="greeter")
    first = registry.heartbeat(greeter)
    assert (first["status"], first["agent_id"], first["llm_tools"]) == ("success", "greeter-1", {})
    assert first["message"] == "Agent registered via heartbeat"
    placeholder = {
        "agent_id": "",
        "capability": "time_now",
        "endpoint": "",
        "function_name": "",
        "status": "unresolved",
    }
    assert first["dependencies_resolved"] == {"greet": [placeholder]}
    assert registry.beat("greeter-1") == 200

    kwargs = {"task": False, "deep": [{"er": None}]}
    clock = agent("clock-1", tool("time_now", tags=["system"], kwargs=kwargs), port=19101)
    assert registry.heartbeat(clock)["dependencies_resolved"] == {}
    assert registry.beat("greeter-1") == 202
    second = registry.heartbeat(greeter)
    assert second["message"] == "Agent updated via heartbeat"
    assert second["dependencies_resolved"]["greet"] == [
        {
            "agent_id": "clock-1",
            "capability": "time_now",
            "endpoint": "http://127.0.0.1:19101",
            "function_name": "time_now",
            "status": "available",
            "kwargs": kwargs,
        }
    ]
    assert registry.beat("greeter-1") == 200

    row = registry.agents("?capability=greeting") or registry.agents("?capability=greet")
    assert list(row) == ["greeter-1"]
    assert (row["greeter-1"]["total_dependencies"], row["greeter-1"]["dependencies_resolved"]) == (1, 1)
    assert row["greeter-1"]["dependency_resolutions"][0]["provider_agent_id"] == "clock-1"
    assert row["greeter-1"]["status"] == "healthy"

    for _ in range(2):  # idempotent
        left = registry.ask("DELETE", "/agents/clock-1")
        assert (left.status, left.body) == (204, b"")
    assert "clock-1" not in registry.agents()
    assert registry.beat("greeter-1") == 202
    assert registry.beat("clock-1") == 410


def test_health(registry: Running) -> None:
    health = registry.ask("GET", "/health").json
    assert (health["status"], health["service"]) == ("healthy", "mcp-mesh-registry")


def test_agents_is_one_json_document_with_a_count(registry: Running) -> None:
    for number in range(45):
        registry.heartbeat(agent(f"many-{number}", tool("many")))
    body = registry.ask("GET", "/agents?capability=many").json
    assert body["count"] == len(body["agents"]) == 45
    assert list(registry.agents("?id=many-7")) == ["many-7"]
    assert registry.agents("?id=nobody") == {}


def test_owners_leases_and_ghosts(registry: Running) -> None:
    ids = [{"id": f"timer-{n:04}", "name": "timer", "generation": n} for n in (1, 2)]
    assert registry.ask("PUT", "/owners/me/ids", {"ids": ids}).json == {"issued": 2}
    for n in (1, 2):
        registry.heartbeat(agent(f"timer-{n:04}", tool("tick")))
    registry.heartbeat(agent("web-0001", tool("web"), owner="me", generation=1, agent_type="service"))
    asker = registry.heartbeat(agent("asker", tool("ask", needs("tick"), needs("web"))))
    assert providers(asker["dependencies_resolved"]) == {"ask": ["timer-0002", ""]}
    assert set(registry.agents("?owner=me")) == {"timer-0001", "timer-0002", "web-0001"}
    assert registry.agents("?capability=web")["web-0001"]["endpoint"] == "http://127.0.0.1:9000"

    lease = registry.ask("POST", "/owners/me/lease", {"ttl": 30, "ids": ["web-0001", "web-0002"]})
    assert lease.json == {"known": ["web-0001"], "unknown": ["web-0002"]}
    gone = registry.ask("DELETE", "/owners/me?keep=timer-0002,web-0001")
    assert gone.json == {"withdrawn": ["timer-0001"]}
    assert registry.ask("DELETE", "/owners/me?keep=timer-0002&keep=web-0001").json == {"withdrawn": []}
    assert registry.ask("DELETE", "/owners/you").json == {"withdrawn": []}
    assert set(registry.agents("?owner=me")) == {"timer-0002", "web-0001"}


def test_a_listing_is_a_picture_of_one_moment() -> None:
    """A provider that comes while the answer is on its way is neither in a row nor named by one."""
    inside = Registry(Store(None))
    post(inside.book, agent("greeter", tool("greet", needs("time"))))
    body = bytearray()

    def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            post(inside.book, agent("clock", tool("time")))
        body.extend(message.get("body", b""))

    _get_agents(inside, send)
    (row,) = json.loads(body)["agents"]
    assert row["dependency_resolutions"][0]["provider_agent_id"] == ""


def _get_agents(inside: Registry, heard: Callable[[Message], None], gone: Callable[[], bool] = lambda: False) -> None:
    """GET /agents without a connection."""
    asked = asyncio.Event()

    async def receive() -> Message:
        if gone():
            return {"type": "http.disconnect"}
        if asked.is_set():  # who asked stays to listen
            await asyncio.Event().wait()
        asked.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        heard(message)

    scope = {"type": "http", "method": "GET", "path": "/agents", "query_string": b"", "headers": [], "root_path": ""}

    async def scene() -> None:
        await inside.app(lambda app: app)(scope, receive, send)

    asyncio.run(scene())


def test_a_long_listing_of_few_agents_comes_in_pieces() -> None:
    inside = Registry(Store(None))
    row = 60_000
    for number in range(50):
        post(inside.book, agent(f"wordy-{number}", description="x" * row))
    pieces: list[bytes] = []
    _get_agents(inside, lambda message: pieces.append(message.get("body", b"")))
    assert {one["id"] for one in json.loads(b"".join(pieces))["agents"]} == set(inside.book.seats)
    sizes = [len(piece) for piece in pieces if piece]
    assert len(sizes) > 20 and sizes[0] < AT_A_MOMENT + row + 2000 and max(sizes[1:]) < PIECE + row + 2000


def test_one_large_record_comes_in_pieces_too() -> None:
    """Forty who ask at once would hold forty of its rows, and make everybody else wait for each."""
    inside = Registry(Store(None))
    tools = [tool(f"tool-{number}", needs(f"want-{number}"), description="x" * 1000) for number in range(900)]
    post(inside.book, agent("large", *tools))
    pieces: list[bytes] = []
    _get_agents(inside, lambda message: pieces.append(message.get("body", b"")))
    (row,) = json.loads(b"".join(pieces))["agents"]
    assert [one["function_name"] for one in row["capabilities"]] == [f"tool-{number}" for number in range(900)]
    assert len(row["dependency_resolutions"]) == row["total_dependencies"] == 900
    sizes = [len(piece) for piece in pieces if piece]
    assert sizes[0] < AT_A_MOMENT + 5000 and max(sizes[1:]) < PIECE + 5000


def test_a_listing_that_nobody_reads_any_more_is_not_made_to_its_end() -> None:
    inside = Registry(Store(None))
    for number in range(50):
        post(inside.book, agent(f"wordy-{number}", description="x" * 60_000))
    pieces: list[bytes] = []
    _get_agents(inside, lambda message: pieces.append(message.get("body", b"")), lambda: len(pieces) > 3)
    assert 3 < len(pieces) < 10


def test_a_small_record_gets_no_endless_answer(registry: Running) -> None:
    """21 KB must not become 65 MB; which dependencies are not resolved for that is said, to the agent and once here."""
    registry.heartbeat(agent("large", tool("large", kwargs={"text": "x" * 65_000})))
    greedy = agent("greedy", tool("ask", *[needs("large")] * 1000))
    for _ in range(2):
        answer = registry.ask("POST", "/heartbeat", greedy)
        assert answer.status == 200 and len(answer.body) < 5 * 1024 * 1024
    statuses = [entry["status"] for entry in answer.json["dependencies_resolved"]["ask"]]
    assert len(statuses) == 1000 and statuses[:10] == ["available"] * 10 and statuses[-10:] == ["unresolved"] * 10
    left_out = f"{statuses.count('unresolved')} of its dependencies stay unresolved"
    assert left_out in answer.json["message"]
    row = registry.agents("?id=greedy")["greedy"]
    assert row["dependencies_resolved"] == statuses.count("available"), "the listing says what the agent was told"
    registry.ask("DELETE", "/agents/large")
    eventually(lambda: any(left_out in line for line in registry.said), "it is said")
    assert sum(left_out in line for line in registry.said) == 1
    assert registry.heartbeat(greedy)["message"] == "Agent updated via heartbeat"
    registry.ask("DELETE", "/agents/greedy")


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Invalid JSON payload"),
        (b"{", "Invalid JSON payload"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * MIB, "nested too deeply"),
        (b"5", "body: must be an object, not a number"),
        (b"{}", "agent_id: is required"),
        (b'{"agent_id": 5}', "agent_id: must be a text"),
        (b'{"agent_id": "x", "tools": [{"function_name": "f"}]}', "tools[0].capability: is required"),
    ],
)
def test_a_body_that_is_no_record(registry: Running, body: bytes, why: str) -> None:
    answer = registry.ask("POST", "/heartbeat", body)
    assert answer.status == 400
    assert why in reason(answer)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data; boundary=x"]
)
def test_a_body_that_is_not_declared_as_json(registry: Running, kind: str) -> None:
    answer = registry.ask("POST", "/heartbeat", b'{"agent_id": "form"}', {"Content-Type": kind} if kind else {})
    assert answer.status == 415 and "Content-Type" in reason(answer)
    assert registry.beat("form") == 410


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"])
def test_other_ways_to_say_json(registry: Running, kind: str) -> None:
    assert registry.ask("POST", "/heartbeat", agent("said"), {"Content-Type": kind}).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.1.2.3", "", "[::", "a b"]
)
def test_a_foreign_host(registry: Running, host: str) -> None:
    answer = registry.ask("POST", "/heartbeat", agent("rebound"), {**JSON, "Host": host})
    assert answer.status in (400, 421)
    assert registry.beat("rebound") == 410


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "127.1.2.3:1", "[::1]:{port}", "a.localhost."]
)
def test_our_own_host(registry: Running, host: str) -> None:
    assert registry.ask("GET", "/health", None, {"Host": host.format(port=registry.port)}).status == 200


def test_a_web_page(registry: Running) -> None:
    answer = registry.ask("POST", "/heartbeat", agent("page"), {**JSON, "Origin": "http://localhost:3000"})
    assert answer.status == 403 and "web pages" in reason(answer)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_web_page_that_has_no_origin(registry: Running, site: str) -> None:
    """`fetch(…, {mode: "no-cors", method: "HEAD"})` would keep an agent alive."""
    page = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    registry.ask("POST", "/heartbeat", agent("alive"), JSON)
    assert registry.ask("HEAD", "/heartbeat/alive", None, page).status == 403
    assert registry.ask("HEAD", "/heartbeat/alive").status == 200
    for person in ({**page, "Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}):
        assert registry.ask("GET", "/agents", None, person).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/heartbeats", 404),
        ("DELETE", "/agents/a/b", 404),
        ("GET", "/heartbeat", 405),
        ("GET", "/heartbeat/x", 405),
        ("POST", "/agents", 405),
        ("DELETE", "/agents", 405),
        ("PUT", "/health", 405),
        ("POST", "/proxy/127.0.0.1:1/mcp", 501),
        ("GET", "/jobs", 501),
        ("POST", "/jobs/batch/claim", 501),
        ("GET", "/events", 501),
        ("GET", "/schemas", 501),
        ("GET", "/a2a/agents", 501),
    ],
)
def test_what_is_not_there(registry: Running, method: str, path: str, status: int) -> None:
    answer = registry.ask(method, path)
    assert answer.status == status
    assert reason(answer)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/owners/me/lease", {}),
        ("POST", "/owners/me/lease", {"ttl": 0}),
        ("POST", "/owners/me/lease", {"ttl": "5"}),
        ("POST", "/owners/me/lease", {"ttl": True}),
        ("POST", "/owners/me/lease", {"ttl": 1e9}),
        ("POST", "/owners/me/lease", {"ttl": 5, "ids": [1]}),
        ("POST", "/owners/me/lease", {"ttl": 5, "ids": "x"}),
        ("PUT", "/owners/me/ids", []),
        ("PUT", "/owners/me/ids", {"ids": [{"id": "x"}]}),
        ("PUT", "/owners/me/ids", {"ids": [{"id": "x", "name": "y", "generation": "z"}]}),
        ("PUT", "/owners/m%20e/ids", {"ids": []}),
    ],
)
def test_owners_requests_that_make_no_sense(registry: Running, method: str, path: str, body: Any) -> None:
    answer = registry.ask(method, path, body)
    assert answer.status == 400
    assert reason(answer)


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_a_body_of_one_mebibyte_is_read_and_a_larger_one_is_refused(registry: Running) -> None:
    def filled(size: int) -> bytes:
        body = json.dumps(agent("big", inputs="")).encode()
        return body.replace(b'"inputs": ""', b'"inputs": "' + b"x" * (size - len(body)) + b'"')

    assert registry.ask("POST", "/heartbeat", filled(MIB)).status == 200
    answer = registry.ask("POST", "/heartbeat", filled(MIB + 1))
    assert answer.status == 413 and "1024 KiB" in reason(answer)


def test_a_large_body_is_refused_before_it_is_sent(registry: Running) -> None:
    with socket.create_connection(("127.0.0.1", registry.port), PATIENCE) as connection:
        connection.sendall(HEAD + b"Content-Length: 9999999999999\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("begun", [b"10000\r\nx", b""], ids=["in the body", "at its beginning"])
def test_nonsense_behind_an_answer_is_hung_up_on(registry: Running, begun: bytes) -> None:
    """It can have no second answer; the first one stands, and no traceback is left (conftest.py looks)."""
    with socket.create_connection(("127.0.0.1", registry.port), PATIENCE) as connection:
        connection.sendall(HEAD.replace(b"POST", b"GET") + b"Transfer-Encoding: chunked\r\n\r\n" + begun)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 405 ")
        connection.sendall(b"x" * 65536 + b"\r\nnonsense\r\n")
        with contextlib.suppress(ConnectionResetError):  # more was sent than anybody reads
            while more := connection.recv(65536):
                answer += more
    assert answer.count(b"HTTP/1.1") == 1


def test_chunks_are_counted(registry: Running) -> None:
    """Nothing declares the size, and the answer comes although the sender would go on for ever."""
    with socket.create_connection(("127.0.0.1", registry.port), PATIENCE) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.setblocking(False)
        answer = _sent_until_answered(connection, b"10000\r\n" + b"x" * 65536 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def _sent_until_answered(connection: socket.socket, chunk: bytes) -> bytes:
    answer = bytearray()
    at = 0  # a chunk of which only a part was taken goes on there: nonsense would be another test

    def push_and_look() -> bytes:
        nonlocal at
        for _ in range(8):
            try:
                at = (at + connection.send(chunk[at:])) % len(chunk)
            except (BlockingIOError, ConnectionError):
                break
        with contextlib.suppress(BlockingIOError):
            answer.extend(connection.recv(65536))
        return bytes(answer)

    return eventually(push_and_look, "an answer")


def test_chunks_that_make_a_record_are_read(registry: Running) -> None:
    def chunks() -> Iterator[bytes]:
        text = json.dumps(agent("chunky", tool("c"))).encode()
        yield from (text[at : at + 10] for at in range(0, len(text), 10))

    assert registry.ask("POST", "/heartbeat", chunks()).status == 200
    assert "chunky" in registry.agents()


@pytest.mark.parametrize(
    "nonsense", [b"\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET", b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\n"]
)
def test_what_is_no_http_and_who_hangs_up_in_the_middle(registry: Running, nonsense: bytes) -> None:
    with socket.create_connection(("127.0.0.1", registry.port), PATIENCE) as connection:
        connection.sendall(nonsense)
    assert registry.ask("GET", "/health").status == 200


def test_who_hangs_up_in_the_middle_of_a_body(registry: Running) -> None:
    with socket.create_connection(("127.0.0.1", registry.port), PATIENCE) as connection:
        connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"agent_id": "ha')
    assert registry.ask("GET", "/health").status == 200


# ---- nothing makes it fail -----------------------------------------------------------------------------------------

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WORD = (
    st.sampled_from(["a", "b", "time", "+x", "-x", "^1", ">=1.0", "1.0.0", "", "x" * 300, "\ud800", "\x00", "é"]) | ANY
)
DEPENDENCY = st.fixed_dictionaries(
    {}, optional={"capability": WORD, "tags": st.lists(WORD | st.lists(WORD, max_size=3), max_size=3), "version": WORD}
)
SLOTS = st.lists(DEPENDENCY | st.lists(DEPENDENCY, max_size=2) | ANY, max_size=3)
FIELDS = {
    "version": WORD,
    "tags": st.lists(WORD, max_size=3) | ANY,
    "description": WORD,
    "kwargs": ANY,
    "llm_filter": ANY,
}
TOOL = st.fixed_dictionaries(
    {"function_name": WORD, "capability": WORD}, optional={**FIELDS, "dependencies": SLOTS, "matchMode": WORD}
)
BODY = st.fixed_dictionaries(
    {"agent_id": WORD},
    optional={
        "name": WORD,
        "agent_type": WORD,
        "version": WORD,
        "http_host": WORD,
        "http_port": st.integers() | ANY,
        "status": WORD,
        "owner": WORD,
        "generation": st.integers() | ANY,
        "tools": st.lists(TOOL | ANY, max_size=3) | ANY,
        "surfaces": ANY,
    },
)


@pytest.fixture(scope="module")
def connection(registry: Running) -> Iterator[http.client.HTTPConnection]:
    kept = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=PATIENCE)
    yield kept
    kept.close()


def _status(connection: http.client.HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/heartbeat", body, JSON)
    response = connection.getresponse()
    assert json.loads(response.read())
    return response.status


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=BODY | ANY)
def test_no_json_makes_it_fail(connection: http.client.HTTPConnection, body: Any) -> None:
    assert _status(connection, json.dumps(body).encode()) in (200, 400, 409)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200) | st.text(alphabet='{}[]":,\\ud8tfn0123eE.- ', max_size=60).map(str.encode))
def test_no_bytes_make_it_fail(connection: http.client.HTTPConnection, body: bytes) -> None:
    assert _status(connection, body) in (200, 400)


# ---- as a process --------------------------------------------------------------------------------------------------


def test_sigterm_ends_it_in_order_although_a_connection_is_open() -> None:
    with running() as one:
        kept = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
        kept.request("GET", "/health")
        assert kept.getresponse().read()
        assert one.stop(signal.SIGTERM) == 0
        kept.close()
    assert not [line for line in one.said if "Traceback" in line], one.said


@pytest.mark.parametrize("broken", ["keep_time", "keep_store"])
def test_it_ends_where_it_would_forget_nobody_or_write_nothing_down(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A mistake of ours; whoever started it starts it anew."""

    async def mistaken(self: Registry) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Registry, broken, mistaken)

    async def scene() -> None:
        async with asyncio.timeout(PATIENCE):
            await run(listen("127.0.0.1", 0), None, [], asyncio.Event())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scene())


def test_a_full_disk_of_its_log_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        _print("an agent has not been heard of")
        with contextlib.suppress(OSError):
            full.close()


def test_a_taken_port_is_one_sentence_and_exit_1() -> None:
    with running() as one:
        argv = [sys.executable, "-m", "mesh_supervisor.registry", "--port", str(one.port)]
        second = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1 and f"127.0.0.1:{one.port}" in second.stderr


def test_it_can_be_given_a_listening_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        argv = [sys.executable, "-m", "mesh_supervisor.registry", "--fd", str(listener.fileno())]
        process = subprocess.Popen(argv, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL)
    try:
        # The connection was possible from the start: it waits in the socket's queue.
        assert Running(process, port).ask("GET", "/health").status == 200  # type: ignore[arg-type]
    finally:
        process.kill()
        process.wait()


def test_names_can_be_allowed() -> None:
    with running("--allow-host", "Registry.internal") as one:
        assert one.ask("GET", "/health", None, {"Host": "registry.internal:8000"}).status == 200
        assert one.ask("GET", "/health", None, {"Host": "other.internal"}).status == 421


def test_on_a_public_address_every_address_is_ours_but_no_name() -> None:
    with running("--host", "0.0.0.0") as one:
        assert one.ask("GET", "/health", None, {"Host": "10.1.2.3:8000"}).status == 200
        assert one.ask("GET", "/health", None, {"Host": "evil.example"}).status == 421


def test_what_it_does_not_act_on_is_said_once() -> None:
    with running() as one:
        for number in range(3):
            one.heartbeat(agent(f"llm-{number}", tool("chat", llm_filter={"filter": []}), **{"sh\x1boe": 42}))
        one.stop()
    said = [line for line in one.said if "does not act on" in line]
    assert len(said) == 2, one.said
    assert "\x1b" not in "".join(said)


# ---- ten thousand --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.mark.timeout(400)  # a minute where both cores are busy with something else
def test_ten_thousand_agents_are_served_and_one_more_is_429(crowd: Running) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", crowd.port, timeout=PATIENCE)) as connection:
        _fill(crowd, connection)
    answer = crowd.ask("POST", "/heartbeat", agent("late"))
    assert "10000 agents" in reason(answer)
    assert crowd.ask("GET", "/agents").json["count"] == 10_000
    crowd.ask("DELETE", "/agents/agent-1")
    assert crowd.ask("POST", "/heartbeat", agent("late")).status == 200


def _fill(crowd: Running, connection: http.client.HTTPConnection) -> None:
    def register(number: int) -> int:
        group = number // 10
        body = agent(f"agent-{number}", tool(f"does-{group}", needs(f"does-{group - 1}")), owner="crowd")
        connection.request("POST", "/heartbeat", json.dumps(body).encode(), JSON)
        response = connection.getresponse()
        response.read()
        return response.status

    # No short lease must end before the last has come, and a slow machine takes its time for a thousand.
    for number in range(10_000):
        assert register(number) == 200
        if number % 250 == 0:
            crowd.ask("POST", "/owners/crowd/lease", {"ttl": 600})
    crowd.ask("POST", "/owners/crowd/lease", {"ttl": 600})
    assert register(10_000) == 429
    assert register(9_999) == 200
    connection.request("HEAD", "/heartbeat/agent-5000")
    response = connection.getresponse()
    response.read()
    assert response.status == 200
