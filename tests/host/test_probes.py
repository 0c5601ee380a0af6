"""Probes against servers that answer, refuse, dawdle and rave; every outcome is a value."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh_supervisor.host.probes import Probed, exec_, http, tcp
from mesh_supervisor.host.spawn import Program

from .stage import alive

PATIENCE = 30.0
MARK = f"test{secrets.token_hex(6)}/planner/1/probe"  # a sweep looks at all processes: also at those of another run
Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Conversation, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on 127.0.0.1 where ``talk`` has every conversation; all of them are over at the end."""
    talks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def answering(answer: bytes, asked: list[bytes] | None = None) -> Conversation:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(request)
        writer.write(answer)
        await writer.drain()

    return talk


def probed(talk: Conversation, path: str = "/health", timeout: float = PATIENCE) -> Probed:
    """What is said of a server that talks so; its port is written PORT."""

    async def run() -> Probed:
        async with server(talk) as port:
            found = await http(f"http://127.0.0.1:{port}{path}", timeout)
            return Probed(found.ok, found.said.replace(str(port), "PORT"))

    return asyncio.run(run())


# ---- http ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "ok"), [(200, True), (204, True), (302, True), (399, True), (400, False), (404, False), (503, False)]
)
def test_the_status_decides(status: int, ok: bool) -> None:
    found = probed(answering(b"HTTP/1.1 %d What\r\nContent-Length: 0\r\n\r\n" % status))
    assert found == Probed(ok, f"{status} from http://127.0.0.1:PORT/health")


def test_the_request_and_no_secrets_in_what_is_said() -> None:
    asked: list[bytes] = []
    found = probed(answering(b"HTTP/1.0 200\r\n\r\n", asked), "/he alth\r\nX: y/ä?token=s3cret")
    assert found == Probed(True, "200 from http://127.0.0.1:PORT/he althX: y/ä")
    (request,) = asked
    first, host, *_ = request.split(b"\r\n")
    assert first == b"GET /he%20althX:%20y/%C3%A4?token=s3cret HTTP/1.1"
    assert host.startswith(b"Host: 127.0.0.1:")


def test_announcements_before_the_answer_do_not_count() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert not probed(answering(early + b"HTTP/1.1 500 No\r\n\r\n")).ok


def test_nonsense() -> None:
    found = probed(answering(b"SSH-2.0-OpenSSH\x1b[2J\r\n"))
    assert found == Probed(False, "http://127.0.0.1:PORT/health does not answer in HTTP but with 'SSH-2.0-OpenSSH'")
    for rubbish in (
        b"\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 99999\r\n\r\n",
        os.urandom(5000) + b"\n",
    ):
        assert not probed(answering(rubbish)).ok


def test_an_end_without_an_answer() -> None:
    assert "closed the connection without an answer" in probed(answering(b"")).said
    assert "closed the connection without an answer" in probed(answering(b"HTTP/1.1 200")).said


def test_an_endless_header() -> None:
    assert "endless header" in probed(answering(b"HTTP/1.1 " + b"2" * 1_000_000)).said
    assert "endless header" in probed(answering(b"HTTP/1.1 100 X\r\n" + b"a: b\r\n" * 200_000)).said


def test_silence_is_over_in_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await asyncio.Event().wait()

    assert probed(talk, timeout=0.05) == Probed(False, "no answer from http://127.0.0.1:PORT/health within 0.05 s")


def test_a_drip_is_over_in_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.01)

    assert not probed(talk, timeout=0.1).ok


@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_an_endless_body_is_not_waited_for(pause: float) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            await asyncio.sleep(pause)

    assert probed(talk).ok


def test_a_body_is_taken_so_that_the_server_does_not_stumble(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain server would print a traceback if the connection was closed under its answer."""
    monkeypatch.setattr("mesh_supervisor.host.probes.BODY_PATIENCE", PATIENCE)
    stumbled: list[Exception] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            for _ in range(10):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10_000)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError as error:
            stumbled.append(error)

    assert probed(talk).ok
    assert not stumbled


def test_nobody_there() -> None:
    with socket.socket() as reserved:  # bound and not listening: nobody else can be there
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        assert asyncio.run(tcp("127.0.0.1", port, PATIENCE)) == Probed(False, f"connection refused by 127.0.0.1:{port}")
        refused = asyncio.run(http(f"http://127.0.0.1:{port}", PATIENCE))
        assert refused == Probed(False, f"connection refused by http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url", ["", "health", "ftp://x/", "http://", "http://[::1/", "http://x:99999/", "http://a..b/", "http://a\0b/"]
)
def test_what_is_no_url_is_an_outcome_too(url: str) -> None:
    assert not asyncio.run(http(url, PATIENCE)).ok


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_of_ones_own_is_good_enough(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=agent",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def run() -> tuple[Probed, Probed]:
        async with server(answering(b"HTTP/1.1 200 OK\r\n\r\n"), tls) as port:
            return await http(f"https://127.0.0.1:{port}/", PATIENCE), await http(f"http://127.0.0.1:{port}/", PATIENCE)

    secure, plain = asyncio.run(run())
    assert secure.ok
    assert not plain.ok


def test_a_cancelled_probe_is_gone() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()

    async def run() -> None:
        async with server(talk) as port:
            asking = asyncio.ensure_future(http(f"http://127.0.0.1:{port}/", PATIENCE))
            await connected.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    connected = asyncio.Event()
    asyncio.run(run())


# ---- tcp -------------------------------------------------------------------------------------------------------------


def test_tcp_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert asyncio.run(tcp("127.0.0.1", port, PATIENCE)) == Probed(True, f"127.0.0.1:{port} accepts")


def test_tcp_over_ipv6() -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        port = listening.getsockname()[1]
        assert asyncio.run(tcp("::1", port, PATIENCE)) == Probed(True, f"[::1]:{port} accepts")


def test_a_connection_with_itself_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP connects a socket with itself when the local port it is given is the one it asks for."""
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    port = reserved.getsockname()[1]
    connect = asyncio.open_connection

    async def from_that_port(host: str, port: int, **options: object) -> object:
        reserved.close()
        return await connect(host, port, local_addr=("127.0.0.1", port), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "open_connection", from_that_port)
    assert asyncio.run(tcp("127.0.0.1", port, PATIENCE)) == Probed(False, f"connection refused by 127.0.0.1:{port}")


# ---- exec ------------------------------------------------------------------------------------------------------------


def ran(*argv: str, timeout: float = PATIENCE, directory: Path = Path("/")) -> Probed:
    return asyncio.run(exec_(Program(argv, dict(os.environ), directory), timeout, mark=MARK))


def test_the_exit_code_decides() -> None:
    assert ran("sh", "-c", "exit 0") == Probed(True, "exit 0")
    assert ran("sh", "-c", "echo not yet; exit 3") == Probed(False, "exit 3: not yet")
    assert ran("sh", "-c", "kill -SEGV $$") == Probed(False, "killed by SIGSEGV")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    assert "it is not in the agent's PATH" in ran("no-such-program").said
    assert "does not exist" in ran("true", directory=tmp_path / "gone").said


def test_no_descriptors_left_is_an_outcome_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("os.pipe", full)
    assert ran("true") == Probed(False, "cannot run true: Too many open files")


def test_a_probe_that_hangs_is_over_in_time() -> None:
    assert ran("sh", "-c", "sleep 300", timeout=0.05) == Probed(False, "sh took longer than 0.05 s")


def test_a_cancelled_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither itself, which does not listen to SIGTERM, nor what it started in a session of its own."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; setsid sh -c 'echo $$ >> {pids}; exec sleep 300' & echo $$ >> {pids}; sleep 300"

    async def run() -> None:
        asking = asyncio.ensure_future(
            exec_(Program(("sh", "-c", script), dict(os.environ), tmp_path), PATIENCE, mark=MARK)
        )
        async with asyncio.timeout(PATIENCE):
            while not (pids.exists() and pids.read_text().count("\n") == 2):  # noqa: ASYNC110 (a fact of others)
                await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(run())
    assert [pid for pid in pids.read_text().split() if alive(int(pid))] == []
