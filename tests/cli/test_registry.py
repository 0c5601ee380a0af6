"""`registry health` and `registry list` against registries that are well, and others."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from mesh_supervisor.cli import pulse, registry
from mesh_supervisor.errors import RegistryError
from tests.cli.conftest import MESHSUP, Command, environment
from tests.control.fake import FakeMesh
from tests.registry.bodies import agent, tool
from tests.registry.running import Running, running

Ask = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def ours() -> Iterator[Running]:
    with running() as one:
        one.heartbeat(agent("clock", tool("time", description="x" * 2000)))
        yield one


@pytest.fixture(params=["short", "long"])
def ask(request: pytest.FixtureRequest, meshsup: Command) -> Ask:
    """(exit code, line) of `registry health`, by the short way of cli/entry.py and by click: both say the same."""

    def health(url: str, *more: str) -> tuple[int, str]:
        named = ["--url", url] if request.param == "short" else [f"--url={url}"]
        done = meshsup("registry", "health", *named, *more)
        assert (done.err, done.out.count("\n")) == ("", 1)
        return done.code, done.out.strip()

    return health


@contextmanager
def answering(answer: bytes, *, hangs: bool = False) -> Iterator[str]:
    """The URL of somebody who says ``answer`` to one who asks, and then hangs up, or does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said: list[socket.socket] = []

        def serve() -> None:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            line.recv(65536)
            said.append(line)
            line.sendall(answer)
            if not hangs:
                line.close()

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)
        for line in said:
            line.close()


def of(status: str, body: object) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n{json.dumps(body)}".encode()


def test_a_registry_that_is_well(ours: Running, ask: Ask) -> None:
    assert ask(ours.url) == (0, f"healthy: the registry at {ours.url} (1 agent)")
    assert ask(f"http://user:secret@127.0.0.1:{ours.port}/", "--timeout", "5") == ask(ours.url)


def test_a_registry_of_another_make_is_well_too(ask: Ask) -> None:
    body = {"status": "healthy", "service": "mcp-mesh-registry", "version": "3.6.0", "uptime_seconds": 1}
    with answering(of("200 OK", body)) as url:
        assert ask(url) == (0, f"healthy: the registry at {url}")


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", "no answer: {} does not answer: it hung up in the middle"),
        (of("503 Service Unavailable", {"error": "going\ndown"}), "unhealthy: {} answers GET /health with 503: going"),
        (of("404 Not Found", "x"), "unhealthy: {} answers GET /health with 404"),
        (of("200 OK", {"status": "degraded"}), "unhealthy (degraded): {}"),
        (of("200 OK", ["x"]), "no registry: {} answers GET /health without a JSON object"),
        (of("200 OK", {"ok": True}), "no registry: {} answers GET /health without a status"),
        (of("200 OK", "x" * 70_000), "no answer: {} does not answer: what is there sends more than an answer to GET"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer: {} does not answer: what is there does not speak HTTP"),
        (b"", "no answer: {} does not answer: it hung up"),
    ],
)
def test_what_is_not_well(ask: Ask, answer: bytes, line: str) -> None:
    with answering(answer) as url:
        code, said = ask(url)
    assert (code, said.startswith(line.format(f"the registry at {url}"))) == (1, True), said


def test_nobody_listens(ask: Ask) -> None:
    code, line = ask("http://127.0.0.1:1")
    assert (code, line) == (1, "no answer: the registry at http://127.0.0.1:1 does not answer: Connection refused")
    assert ask(f"http://{'a' * 70}.example")[0] == 1


def test_one_that_hangs_is_a_no_in_time(ask: Ask) -> None:
    with answering(b"HTTP/1.0 200 OK\r\n", hangs=True) as url:
        assert ask(url, "--timeout", "1") == (1, f"no answer: the registry at {url} does not answer within 1 s")


@pytest.mark.parametrize("url", ["localhost:1", "http://[::1", "http://a b", "ftp://x", "http://x:99999", "http://é"])
def test_what_is_no_url(ask: Ask, url: str) -> None:
    assert ask(url) == (2, "unclear: --url: must be like http://127.0.0.1:8000")


def test_without_a_url_it_is_the_registry_of_the_mesh(meshsup: Command) -> None:
    assert meshsup("registry", "health").code == 3


@pytest.mark.parametrize(
    "line",
    [
        "",
        "registry",
        "registry health",
        "registry health --url",
        "registry health --url --timeout",
        "registry list --url http://x",
        "registry health --url http://x --timeout",
        "registry health --url http://x --timeout 0.5",
        "registry health --url http://x y",
    ],
)
def test_all_else_goes_the_long_way(line: str) -> None:
    assert pulse.understood(line.split()) is None


@pytest.mark.parametrize(
    ("words", "short"),
    [(["health"], "mesh_supervisor.cli.probe"), (["registry", "health", "--url"], "mesh_supervisor.cli.pulse")],
)
def test_the_installed_command_takes_the_short_way(
    ours: Running, mesh: FakeMesh, root: Path, words: list[str], short: str
) -> None:
    """Both commands that engines run every few seconds."""
    named = [ours.url] if words[-1] == "--url" else []
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(MESHSUP), *words, *named],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert short in loaded
    assert not {"click", "http.client", "urllib.request", "asyncio", "ssl", "pydantic", "psutil"} & loaded
    assert not {name for name in loaded if name.startswith(("click.", "email", "mesh_supervisor.cli.main"))}


# ---- registry list -------------------------------------------------------------------------------------------------


def test_a_listing_that_is_too_long_is_said_not_cut(ours: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one["id"] for one in registry._agents(ours.url, 60)["agents"]] == ["clock"]
    monkeypatch.setattr(registry, "LARGEST", 2 << 20)
    ours.heartbeat(agent("wordy", *[tool(f"tool-{n}", description="x" * 60_000) for n in range(17)]))
    ours.heartbeat(agent("wordier", *[tool(f"tool-{n}", description="x" * 60_000) for n in range(17)]))
    ours.heartbeat(agent("wordiest", *[tool(f"tool-{n}", description="x" * 60_000) for n in range(17)]))
    with pytest.raises(RegistryError) as error:
        registry._agents(f"http://user:secret@127.0.0.1:{ours.port}/", 60)
    assert f"lists more than 2 MiB; ask it for a part of that yourself, such as {ours.url}/agents?" in str(error.value)


def test_a_listing_that_is_nested_without_end_is_one_sentence(meshsup: Command) -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 200_000) as url:
        done = meshsup("registry", "list", "--url", url)
    assert (done.code, done.out) == (1, "") and "is no registry" in done.err


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (of("403 Forbidden", {}), "{} answers GET /agents with 403"),
        (of("200 OK", {"agents": {}}), "what answers at {url} is no registry: GET /agents holds no list of agents"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{",
            "{} does not answer: it hung up in the middle of its answer",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n{", "what answers at {url} is no registry: "),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "{} does not answer: what is there does not speak HTTP"),
    ],
)
def test_what_is_no_listing(meshsup: Command, answer: bytes, error: str) -> None:
    with answering(answer) as url:
        done = meshsup("registry", "list", "--url", url)
    assert (done.code, done.out) == (1, "")
    assert error.format(f"the registry at {url}", url=url) in done.err


def test_a_listing_that_does_not_come_to_its_end_is_given_up_in_time(meshsup: Command) -> None:
    with answering(b'HTTP/1.0 200 OK\r\n\r\n{"agents": [', hangs=True) as url:
        done = meshsup("registry", "list", "--url", url, "--timeout", "1")
    assert (done.code, done.out) == (1, "")
    assert f"the registry at {url} has not listed its agents within 1 s; --timeout SECONDS waits longer" in done.err


def test_what_is_no_url_of_a_listing(meshsup: Command) -> None:
    done = meshsup("registry", "list", "--url", "localhost:1")
    assert (done.code, done.out) == (2, "") and "--url: must be like http://127.0.0.1:8000" in done.err
