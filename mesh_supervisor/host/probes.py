"""Questions to an agent: does it answer, accept, succeed? Every answer is a value; a probe does not raise.

The HTTP client is a tiny one of our own: of an answer only the status matters, and a program that is just starting, or
gone mad, may send anything: nothing, nonsense, a drip, a flood. What is read is bounded in bytes and in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from mesh_supervisor.host.capture import Capture
from mesh_supervisor.host.lines import sanitize
from mesh_supervisor.host.spawn import Child, Program, SpawnError, spawn, stop, sweep

MOST_HEADER = 64 * 1024
MOST_BODY = 256 * 1024
BODY_PATIENCE = 0.2
"""Seconds in which a body is still taken after the status is known, so that a plain server does not stumble over a
connection that was closed under it."""


@dataclass(frozen=True, slots=True)
class Probed:
    """``said``: "200 from http://…/health", "connection refused by 127.0.0.1:8101", …; one line, no secrets."""

    ok: bool
    said: str


class _Nonsense(Exception):
    """The peer does not speak HTTP; ``str`` is how it began."""


# ---- tcp -------------------------------------------------------------------------------------------------------------


async def tcp(host: str, port: int, timeout: float) -> Probed:
    """Does somebody accept there, within ``timeout`` seconds?"""
    place = _place(host, port)
    try:
        async with asyncio.timeout(timeout), _connected(host, port):
            return Probed(True, f"{place} accepts")
    except TimeoutError:
        return Probed(False, f"no answer from {place} within {timeout:g} s")
    except OSError as error:
        return Probed(False, _refusal(error, place))


@contextlib.asynccontextmanager
async def _connected(
    host: str, port: int, tls: ssl.SSLContext | None = None, through: socket.socket | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if through is None:
        opened = asyncio.open_connection(host, port, ssl=tls, limit=MOST_HEADER)
    else:
        named = host if tls is not None else None
        opened = asyncio.open_connection(sock=through, ssl=tls, server_hostname=named, limit=MOST_HEADER)
    reader, writer = await opened
    try:
        # A connect to a free port of the local range can be given that very port to come from: TCP then connects the
        # socket with itself, and nobody is there.
        if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
            raise ConnectionRefusedError
        yield reader, writer
    finally:
        writer.close()


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: OSError, place: str) -> str:
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return f"connection refused by {place}"
    if isinstance(error, ConnectionError):
        return f"{place} closed the connection"
    return f"cannot connect to {place}: {sanitize(error.strerror or str(error))}"


# ---- http ------------------------------------------------------------------------------------------------------------


async def http(url: str, timeout: float, *, through: socket.socket | None = None) -> Probed:
    """GET ``url`` (http or https, whose certificate is not checked); 200-399 is a yes. Redirects are not followed.

    ``through``: a connected socket to ask on instead of a new connection; it is closed.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        return Probed(False, f"not a URL: {sanitize(str(error))}")
    if parts.scheme not in ("http", "https") or not host:
        return Probed(False, "not an http:// or https:// URL")
    shown = f"{parts.scheme}://{_place(host, port)}{sanitize(parts.path) or '/'}"
    try:
        async with asyncio.timeout(timeout):
            status = await _status(parts, host, port, through)
    except TimeoutError:
        return Probed(False, f"no answer from {shown} within {timeout:g} s")
    except ValueError:  # UnicodeError, or a NUL character
        return Probed(False, f"not a host name: {sanitize(host)}")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, _Nonsense) as error:
        return Probed(False, _misunderstanding(error, shown))
    except OSError as error:
        return Probed(False, _refusal(error, shown))
    return Probed(200 <= status <= 399, f"{status} from {shown}")


def _misunderstanding(error: Exception, shown: str) -> str:
    if isinstance(error, _Nonsense):
        return f"{shown} does not answer in HTTP but with {str(error)!r}"
    if isinstance(error, asyncio.IncompleteReadError):
        return f"{shown} closed the connection without an answer"
    return f"{shown} answers with an endless header"


async def _status(parts: SplitResult, host: str, port: int, through: socket.socket | None) -> int:
    tls = _unchecked() if parts.scheme == "https" else None
    async with _connected(host, port, tls, through) as (reader, writer):
        writer.write(_request(parts))
        await writer.drain()
        status = await _final_status(reader)
        await _drain(reader)
        return status


def _request(parts: SplitResult) -> bytes:
    # Quoted by whoever wrote it; a line break or a blank would end the request line, so those are quoted here.
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = "".join(c if "!" <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in target)
    host = parts.netloc.rpartition("@")[2].encode("idna" if not parts.netloc.isascii() else "ascii").decode()
    lines = (f"GET {target} HTTP/1.1", f"Host: {host}", "User-Agent: meshsup", "Accept: */*", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("ascii", "replace")


async def _final_status(reader: asyncio.StreamReader) -> int:
    """The status of the answer; those before it (100, 103) only announce it."""
    seen = 0
    while True:
        first = await reader.readuntil(b"\n")
        status = _parse_status(first)
        if status >= 200:
            return status
        while (line := await reader.readuntil(b"\n")).strip():
            seen += len(line)
            if seen > MOST_HEADER:
                raise asyncio.LimitOverrunError("too many headers", seen)


def _parse_status(line: bytes) -> int:
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not (words[1].isdigit() and len(words[1]) == 3):
        raise _Nonsense(sanitize(line[:40].decode("ascii", "backslashreplace").strip()))
    return int(words[1])


async def _drain(reader: asyncio.StreamReader) -> None:
    taken = 0
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(BODY_PATIENCE):
            while taken < MOST_BODY and (piece := await reader.read(MOST_HEADER)):
                taken += len(piece)


def _unchecked() -> ssl.SSLContext:
    """An agent's own certificate is nobody's business here: the question is only whether it answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# ---- exec ------------------------------------------------------------------------------------------------------------


async def exec_(program: Program, timeout: float, *, mark: str) -> Probed:
    """Run ``program``; exit code 0 is a yes. After ``timeout`` seconds, or cancelled, it is killed with its session.

    ``mark``: of the instance it asks about, with a fourth part (see ``spawn``).
    """
    try:
        capture = Capture("probe", 0, lambda line: None)
    except OSError as error:  # no descriptors left
        return Probed(False, f"cannot run {program.argv[0]}: {error.strerror}")
    try:
        child = spawn(program, output=capture.output, mark=mark)
    except SpawnError as error:
        capture.close()
        return Probed(False, str(error))
    capture.release_output()
    try:
        async with asyncio.timeout(timeout):
            exit = await child.wait()
        await capture.finished(0.05)
    except TimeoutError:
        return Probed(False, f"{program.argv[0]} took longer than {timeout:g} s")
    finally:
        await asyncio.shield(_clear_away(child, mark))
        capture.close()
    ending = f"exit {exit.code}" if exit.signal is None else f"killed by {signal.Signals(exit.signal).name}"
    words = capture.last_words()
    return Probed(exit.code == 0, f"{ending}: {words}" if words else ending)


async def _clear_away(child: Child, mark: str) -> None:
    """A probe leaves nothing behind, neither itself nor what it started."""
    if child.exit is None:
        await stop(child, signal.SIGKILL, 0)
    await sweep(mark, child)
