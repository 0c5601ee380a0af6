"""Servers of frameworks under the runtime: a gate before the first request, and private connections.

Each program here answers its process id to any request, on the port that it is given.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import ssl
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .guests import PATIENCE, Guest, held, listening

ASGI = """
import asyncio, os, socket, sys, threading
PORT = int(sys.argv[1])

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind.endswith("shutdown"):
                return
    body = str(os.getpid()).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

STREAMS = """
import asyncio, os, socket, sys
PORT = int(sys.argv[1])

async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\n\\r\\n%d" % os.getpid())
    writer.close()
"""

HANDLER = """
import http.server, os, sys, threading
PORT = int(sys.argv[1])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % os.getpid())
    def log_message(self, *_): pass
"""

BY_HAND = """
import os, socket, sys, threading
PORT = int(sys.argv[1])

def answer(connection):
    with connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n%d" % os.getpid())
"""

PROGRAMS = {
    "asyncio: start_server": STREAMS
    + """
async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", PORT) as server:
        await server.serve_forever()
asyncio.run(main())
""",
    "asyncio: not at once": STREAMS
    + """
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", PORT, start_serving=False)
    await server.start_serving()
    await asyncio.Event().wait()
asyncio.run(main())
""",
    "asyncio: a socket that is there": STREAMS
    + """
async def main():
    sock = socket.create_server(("127.0.0.1", PORT))
    await (await asyncio.start_server(answer, sock=sock)).serve_forever()
asyncio.run(main())
""",
    "asyncio: reuse_port": STREAMS
    + """
async def main():
    await (await asyncio.start_server(answer, "127.0.0.1", PORT, reuse_port=True)).serve_forever()
asyncio.run(main())
""",
    "asyncio: a second loop": STREAMS
    + """
async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", PORT) as server:
        if len(sys.argv) > 2: await server.serve_forever()
asyncio.run(main())
sys.argv.append("")
asyncio.run(main())
""",
    "asyncio: sock_accept": STREAMS
    + """
async def main():
    loop = asyncio.get_running_loop()
    sock = socket.create_server(("127.0.0.1", PORT))
    sock.setblocking(False)
    while True:
        connection, _ = await loop.sock_accept(sock)
        await loop.sock_recv(connection, 1000)
        await loop.sock_sendall(connection, b"HTTP/1.1 200 OK\\r\\n\\r\\n%d" % os.getpid())
        connection.close()
asyncio.run(main())
""",
    "asyncio: add_reader": STREAMS
    + """
async def main():
    sock = socket.create_server(("127.0.0.1", PORT))
    sock.setblocking(False)
    def come():
        while True:
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n%d" % os.getpid())
            connection.close()
    asyncio.get_running_loop().add_reader(sock, come)
    await asyncio.Event().wait()
asyncio.run(main())
""",
    "uvloop: start_server": STREAMS
    + """
import uvloop
async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", PORT) as server:
        await server.serve_forever()
uvloop.run(main())
""",
    "uvicorn: asyncio, h11": ASGI
    + """
import uvicorn
uvicorn.run(app, port=PORT, loop="asyncio", http="h11", log_level="error")
""",
    "uvicorn: uvloop, httptools": ASGI
    + """
import uvicorn
uvicorn.run(app, port=PORT, loop="uvloop", http="httptools", log_level="error")
""",
    "uvicorn: in a thread, as MCP Mesh": ASGI
    + """
import uvicorn
from _mcp_mesh.shared.port_binding import bind_server_socket_with_fallback
sock, port = bind_server_socket_with_fallback("127.0.0.1", PORT)
assert port == PORT
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
thread.start()
thread.join()
""",
    "aiohttp": """
import os, sys
from aiohttp import web
async def answer(request): return web.Response(text=str(os.getpid()))
app = web.Application()
app.router.add_get("/", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
""",
    "hypercorn": ASGI
    + """
from hypercorn.asyncio import serve
from hypercorn.config import Config
config = Config()
config.bind = [f"127.0.0.1:{PORT}"]
asyncio.run(serve(app, config))
""",
    "http.server": HANDLER + 'http.server.HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()',
    "http.server: threads": HANDLER + 'http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()',
    "http.server: in a thread": HANDLER
    + """
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
threading.Thread(target=server.serve_forever).start()
""",
    "http.server: one by one": HANDLER
    + """
server = http.server.HTTPServer(("127.0.0.1", PORT), Handler)
while True:
    server.handle_request()
""",
    "flask": """
import os, sys
from flask import Flask
app = Flask(__name__)
app.route("/")(lambda: str(os.getpid()))
app.run(port=int(sys.argv[1]))
""",
    "plain": BY_HAND
    + """
sock = socket.create_server(("127.0.0.1", PORT))
while True:
    answer(sock.accept()[0])
""",
    "plain: with a timeout": BY_HAND
    + """
sock = socket.create_server(("127.0.0.1", PORT))
sock.settimeout(0.05)
while True:
    try:
        answer(sock.accept()[0])
    except TimeoutError:
        pass
""",
    "plain: threads that wait": BY_HAND
    + """
sock = socket.create_server(("127.0.0.1", PORT))
def serve():
    while True:
        answer(sock.accept()[0])
for _ in range(3): threading.Thread(target=serve).start()
""",
}

NO_KNOCK = {"asyncio: sock_accept", "http.server: one by one", "plain: with a timeout"}
"""They serve no private connections."""

TWICE = {"asyncio: a second loop"}
"""The first server is closed again."""

NEEDS = {"uvicorn: in a thread, as MCP Mesh": "_mcp_mesh"}


def parameters() -> list[str]:
    return sorted(PROGRAMS)


Start = Callable[[str, socket.socket], contextlib.AbstractContextManager[Guest]]


@pytest.fixture
def newcomer(tmp_path: Path) -> Start:
    """Starts the program as the next generation of one that had this socket."""

    @contextlib.contextmanager
    def start(text: str, sock: socket.socket) -> Iterator[Guest]:
        path = tmp_path / "program.py"
        path.write_text(text, encoding="utf-8")
        port = str(sock.getsockname()[1])
        more = {"held": [held(sock)], "gate": True}
        with Guest(["script", str(path), port], start=more, descriptors=[sock.fileno()]) as guest:
            yield guest

    return start


def skip_without(name: str) -> None:
    for part in ("uvloop", "uvicorn", "aiohttp", "hypercorn", "flask", "httptools", NEEDS.get(name, "")):
        if part and (part in name or part == NEEDS.get(name)) and importlib.util.find_spec(part) is None:
            pytest.skip(f"{part} is not installed")


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), PATIENCE)
        return ours, listener.accept()[0]


def knock(guest: Guest, name: int, number: int = 0) -> socket.socket:
    ours, theirs = pair()
    with theirs:
        guest.tell("knock", [theirs.fileno()], id=name, number=number)
    return ours


def request(sock: socket.socket) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def answer(sock: socket.socket) -> str:
    """The body."""
    sock.settimeout(PATIENCE)
    text = b""
    with sock:
        while block := sock.recv(10_000):
            text += block
    head, _, body = text.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    return body.decode()


def caller(sock: socket.socket) -> socket.socket:
    """Has asked already."""
    connection = socket.create_connection(sock.getsockname()[:2], PATIENCE)
    request(connection)
    return connection


def is_unheard(connection: socket.socket) -> bool:
    connection.settimeout(0.2)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("name", parameters())
def test_who_calls_is_heard_after_go_and_who_knocks_before(name: str, newcomer: Start) -> None:
    skip_without(name)
    with listening() as sock, caller(sock) as waiting, newcomer(PROGRAMS[name], sock) as guest:
        served = guest.hear("serves")
        assert served["numbers"] == [0]
        if name in TWICE:
            guest.hear("serves")
        assert {packet["number"] for packet in guest.said("adopted")} == {0}
        if name not in NO_KNOCK:
            private = knock(guest, 7)
            request(private)
            assert guest.hear("knocked") == {"is": "knocked", "id": 7, "ok": True, "why": ""}
            assert answer(private) == str(guest.pid)
        assert is_unheard(waiting)
        guest.tell("go")
        guest.hear("accepting")
        assert answer(waiting) == str(guest.pid)
        assert answer(caller(sock)) == str(guest.pid)
        if name not in NO_KNOCK:
            private = knock(guest, 8)
            request(private)
            assert answer(private) == str(guest.pid)
        assert not guest.said("cannot")
        guest.signal(signal.SIGTERM)
        guest.out()
        guest.hear_all()
        assert not guest.said("closed")


@pytest.mark.parametrize("name", ["asyncio: start_server", "uvloop: start_server", "http.server", "plain", "aiohttp"])
def test_a_first_generation_waits_at_the_gate_as_well(name: str, tmp_path: Path) -> None:
    skip_without(name)
    path = tmp_path / "program.py"
    path.write_text(PROGRAMS[name], encoding="utf-8")
    with Guest(["script", str(path), "0"], start={"gate": True}) as guest:
        _, descriptors = guest.hear_with_descriptors("bound")
        guest.hear("serves")
        with socket.socket(fileno=os.dup(descriptors[0])) as sock:
            waiting = caller(sock)
            assert is_unheard(waiting)
            guest.tell("go")
            assert answer(waiting) == str(guest.pid)


@pytest.mark.parametrize("name", ["asyncio: start_server", "uvloop: start_server", "http.server", "plain"])
def test_without_a_gate_it_serves_at_once(name: str, tmp_path: Path) -> None:
    skip_without(name)
    path = tmp_path / "program.py"
    path.write_text(PROGRAMS[name], encoding="utf-8")
    with Guest(["script", str(path), "0"]) as guest:
        _, descriptors = guest.hear_with_descriptors("bound")
        guest.hear("listens")
        with socket.socket(fileno=os.dup(descriptors[0])) as sock:
            assert answer(caller(sock)) == str(guest.pid)
        guest.hear("serves")


TWO = """
import asyncio, os, sys, threading, http.server
{streams}
{handler}
PORT, METRICS = map(int, sys.argv[1:])
metrics = http.server.ThreadingHTTPServer(("127.0.0.1", METRICS), Handler)
threading.Thread(target=metrics.serve_forever).start()
async def main():
    async with await asyncio.start_server(answer, ["127.0.0.1", "::1"], PORT) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def test_several_servers_and_several_hosts(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    without = "\n".join(line for line in (STREAMS + HANDLER).splitlines() if "PORT =" not in line)
    path.write_text(TWO.format(streams=without, handler=""), encoding="utf-8")
    with listening() as first, listening() as metrics, socket.socket(socket.AF_INET6) as six:
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::1", first.getsockname()[1]))
        six.listen()
        socks = (first, metrics, six)
        words = ["script", str(path), *(str(sock.getsockname()[1]) for sock in (first, metrics))]
        start = {"held": [held(sock, number) for number, sock in enumerate(socks)], "gate": True}
        with Guest(words, start=start, descriptors=[sock.fileno() for sock in socks]) as guest:
            told = [guest.hear("serves") for _ in range(2)]
            assert sorted((packet["how"], sorted(packet["numbers"])) for packet in told) == [
                ("asyncio", [0, 2]),
                ("socketserver", [1]),
            ]
            waiting = [caller(sock) for sock in socks]
            private = [knock(guest, number, number) for number in range(3)]
            for connection in private:
                request(connection)
            assert [answer(connection) for connection in private] == [str(guest.pid)] * 3
            guest.tell("go")
            assert [answer(connection) for connection in waiting] == [str(guest.pid)] * 3
            assert len(guest.said("accepting")) <= 1


def test_a_server_that_comes_after_go_serves_at_once(newcomer: Start, tmp_path: Path) -> None:
    text = STREAMS + textwrap.dedent("""
        async def main():
            await asyncio.start_server(answer, "127.0.0.1", PORT)
            while not os.path.exists(os.path.dirname(__file__) + "/late"): await asyncio.sleep(0.01)
            late = await asyncio.start_server(answer, "127.0.0.1", 0)
            await late.serve_forever()
        asyncio.run(main())
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        guest.hear("serves")
        guest.tell("go")
        guest.hear("accepting")
        (tmp_path / "late").touch()
        packet, descriptors = guest.hear_with_descriptors("bound")
        assert packet["number"] == 1
        assert guest.hear("serves")["numbers"] == [1]
        with socket.socket(fileno=os.dup(descriptors[0])) as late:
            assert answer(caller(late)) == str(guest.pid)


@pytest.mark.parametrize("run", ["asyncio.run", "uvloop.run"])
def test_a_server_that_ends_at_the_gate(run: str, newcomer: Start) -> None:
    """serve_forever is cancelled as ever when its server is closed, or its task."""
    skip_without(run)
    text = STREAMS + textwrap.dedent(f"""
        import {run.partition(".")[0]}
        async def main():
            for end in ("close", "cancel"):
                server = await asyncio.start_server(answer, "127.0.0.1", PORT)
                task = asyncio.ensure_future(server.serve_forever())
                await asyncio.sleep(0)
                server.close() if end == "close" else task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    print("cancelled", len(server.sockets), server.is_serving())
        {run}(main())
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        out, err = guest.out()
        assert out.split("\n")[:2] == ["cancelled 0 False"] * 2, err
        with socket.create_connection(sock.getsockname()):
            pass  # it listens all the same


def test_shutdown_of_a_threaded_server_at_the_gate(newcomer: Start) -> None:
    text = HANDLER + textwrap.dedent("""
        import time
        server = http.server.HTTPServer(("127.0.0.1", PORT), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        sys.stdin.read()
        server.shutdown()
        thread.join()
        server.server_close()
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        guest.hear("serves")
        assert guest.wait() == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*words, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


TLS = {
    "asyncio": STREAMS
    + """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", PORT, ssl=context) as server:
        await server.serve_forever()
asyncio.run(main())
""",
    "uvicorn": ASGI
    + """
import uvicorn
uvicorn.run(app, port=PORT, loop="uvloop", ssl_keyfile=sys.argv[2], ssl_certfile=sys.argv[2], log_level="error")
""",
    "http.server": HANDLER
    + """
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
server = http.server.HTTPServer(("127.0.0.1", PORT), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
""",
}


@pytest.mark.parametrize("name", sorted(TLS))
def test_private_connections_are_encrypted_as_all_others(name: str, certificate: Path, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(TLS[name], encoding="utf-8")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with listening() as sock:
        words = ["script", str(path), str(sock.getsockname()[1]), str(certificate)]
        start = {"held": [held(sock)], "gate": True}
        with Guest(words, start=start, descriptors=[sock.fileno()]) as guest:
            guest.hear("serves")
            private = context.wrap_socket(knock(guest, 1))
            request(private)
            assert answer(private) == str(guest.pid)
            guest.tell("go")
            public = context.wrap_socket(socket.create_connection(sock.getsockname(), PATIENCE))
            request(public)
            assert answer(public) == str(guest.pid)


def test_a_knock_that_nobody_hears_is_answered(newcomer: Start) -> None:
    with listening() as sock, newcomer(PROGRAMS["plain"], sock) as guest:
        guest.hear("serves")
        private = knock(guest, 3, number=9)
        packet = guest.hear("knocked")
        assert (packet["ok"], packet["id"]) == (False, 3)
        assert packet["why"]
        with private, contextlib.suppress(ConnectionResetError):
            assert private.recv(1) == b""
        guest.tell("knock", id=4, number=0)
        assert guest.hear("knocked")["ok"] is False
        assert answer_after_go(guest, sock) == str(guest.pid)


def answer_after_go(guest: Guest, sock: socket.socket) -> str:
    guest.tell("go")
    return answer(caller(sock))


def test_what_waits_by_means_of_its_own_is_said(newcomer: Start) -> None:
    text = BY_HAND + textwrap.dedent("""
        import select
        sock = socket.create_server(("127.0.0.1", PORT))
        sock.setblocking(False)
        while True:
            select.select([sock], [], [])
            answer(sock.accept()[0])
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        guest.hear("listens")
        assert answer(caller(sock)) == str(guest.pid)
        assert guest.hear("cannot")["what"] == "gate"


def test_a_pool_of_processes_is_no_worker_of_a_server(newcomer: Start) -> None:
    """A server that serves itself may fork for other work."""
    text = HANDLER + textwrap.dedent("""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
        def work():
            if os.fork() == 0: os._exit(0)
            os.wait()
            print("worked", flush=True)
        server.service_actions = lambda: None
        threading.Thread(target=server.serve_forever).start()
        sys.stdin.read()
        work()
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        guest.hear("serves")
        assert guest.line() == "worked"
        assert answer_after_go(guest, sock) == str(guest.pid)
        assert not guest.said("cannot")


def test_an_asyncio_that_looks_otherwise_is_said(newcomer: Start) -> None:
    """What the server itself needs then is the program's affair; here it does."""
    text = STREAMS + textwrap.dedent("""
        from asyncio import base_events
        base_events.Server._protocol_factory = property(lambda self: 1 / 0, lambda self, value: None)
        async def main():
            try:
                await asyncio.start_server(answer, "127.0.0.1", PORT)
            except ZeroDivisionError:
                print("its own", flush=True)
        asyncio.run(main())
    """)
    with listening() as sock, newcomer(text, sock) as guest:
        assert guest.hear("cannot") == {
            "is": "cannot",
            "what": "gate",
            "why": "asyncio: ZeroDivisionError: division by zero",
        }
        assert guest.line() == "its own"


@pytest.mark.parametrize("name", ["asyncio: start_server", "uvloop: start_server", "http.server", "plain"])
def test_a_first_generation_without_a_supervisor_opens_the_gate_itself(name: str, tmp_path: Path) -> None:
    skip_without(name)
    path = tmp_path / "program.py"
    path.write_text(PROGRAMS[name], encoding="utf-8")
    with Guest(["script", str(path), "0"], start={"gate": True}) as guest:
        _, descriptors = guest.hear_with_descriptors("bound")
        with socket.socket(fileno=os.dup(descriptors[0])) as sock:
            guest.hear("serves")
            waiting = caller(sock)
            assert is_unheard(waiting)
            guest.close()
            assert answer(waiting) == str(guest.pid)
