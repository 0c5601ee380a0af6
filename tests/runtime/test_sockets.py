"""Listening sockets of a program under the runtime, seen from the supervisor's end of the channel."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .guests import PATIENCE, Guest, Packet, held, listening

Program = Callable[[str], list[str]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Writes a script; returns what starts it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text("import os, socket, sys, time\n" + textwrap.dedent(text), encoding="utf-8")
        return ["script", str(path)]

    return write


@contextlib.contextmanager
def succeeding(words: list[str], *socks: socket.socket, gate: bool = False, **more: Any) -> Iterator[Guest]:
    """A guest that may adopt these, numbered from 0."""
    start = {"held": [held(sock, number) for number, sock in enumerate(socks)], "gate": gate, **more}
    with Guest(words, start=start, descriptors=[sock.fileno() for sock in socks]) as guest:
        yield guest


def copy(guest: Guest) -> tuple[Packet, socket.socket]:
    """The next place that it tells of, and its socket."""
    packet, descriptors = guest.hear_with_descriptors("bound")
    return packet, socket.socket(fileno=descriptors.pop())


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def queue(sock: socket.socket) -> int:
    """What it may hold."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 28)[0])


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def ask(address: Any, text: bytes = b"?") -> bytes:
    with socket.create_connection(address[:2], PATIENCE) as sock:
        sock.sendall(text)
        return sock.recv(100)


def is_refused(address: Any) -> bool:
    try:
        socket.create_connection(address[:2], PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def wait_until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ECHO = """
def serve(sock):
    while True:
        connection, _ = sock.accept()
        assert connection.getblocking() and connection.gettimeout() is None
        with connection:
            connection.sendall(connection.recv(100) + str(os.getpid()).encode())
"""


# ---- captured --------------------------------------------------------------------------------------------------------


def test_what_listens_is_told_of_with_a_copy(program: Program) -> None:
    words = program("""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        print(sock.getsockname()[1], os.fstat(sock.fileno()).st_ino, flush=True)
        time.sleep(100)
    """)
    with Guest(words) as guest:
        packet, sock = copy(guest)
        with sock:
            assert packet == {
                **{"is": "bound", "number": 0, "family": socket.AF_INET, "kind": socket.SOCK_STREAM},
                "address": ["127.0.0.1", 0],
            }
            assert guest.hear("listens")["number"] == 0
            assert guest.line().split() == [str(sock.getsockname()[1]), str(inode(sock))]


def test_callers_wait_for_the_next_generation_when_one_is_killed(program: Program) -> None:
    words = program(ECHO + 'serve(socket.create_server(("127.0.0.1", 0)))')
    with Guest(words) as first:
        _, sock = copy(first)
        first.hear("serves")
        assert ask(sock.getsockname()) == b"?%d" % first.pid
        first.kill()
        with sock, socket.create_connection(sock.getsockname()) as waiting:
            waiting.sendall(b"!")
            entry = {**held(sock), "address": ["127.0.0.1", 0]}
            with Guest(words, start={"held": [entry]}, descriptors=[sock.fileno()]) as second:
                assert second.hear("adopted") == {"is": "adopted", "number": 0}
                assert waiting.recv(100) == b"!%d" % second.pid


def test_a_port_that_is_only_tried_stays_free(program: Program) -> None:
    """Looking for a free port, closing it and giving its number to another program."""
    words = program("""
        import subprocess
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        code = f"import socket; socket.create_server(('127.0.0.1', {port})); print('bound')"
        print(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
    """)
    with Guest(words) as guest:
        assert guest.line() == "bound"
        assert "bound" not in [packet["is"] for packet in guest.hear_all()]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_shared_port_is_the_kernels_to_distribute(program: Program, moment: str) -> None:
    words = program(f"""
        sock = socket.socket()
        share = lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if {moment == "before"}: share()
        sock.bind(("127.0.0.1", 0))
        share()
        sock.listen()
    """)
    with Guest(words) as guest:
        assert [packet["is"] for packet in guest.hear_all()] == ["hello"]


@pytest.mark.parametrize(
    "make",
    [
        'socket.socket(socket.AF_UNIX).bind("")',
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 0))',
        "socket.socketpair()",
    ],
)
def test_other_sockets_are_left_alone(program: Program, make: str) -> None:
    with Guest(program(make)) as guest:
        assert [packet["is"] for packet in guest.hear_all()] == ["hello"]
        assert guest.wait() == 0


@pytest.mark.parametrize("give", ["sock.set_inheritable(True)", "sock.detach()"])
def test_what_is_handed_on_is_told_of_before_it_listens(program: Program, give: str) -> None:
    words = program(f"""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        {give}
        time.sleep(100)
    """)
    with Guest(words) as guest:
        _, sock = copy(guest)
        with sock:
            assert not listens(sock)


def test_both_families_of_a_name(program: Program) -> None:
    words = program("""
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")):
            sock = socket.create_server((host, 0), family=family)
            sock.detach()
        time.sleep(100)
    """)
    with Guest(words) as guest:
        told = [guest.hear("bound") for _ in range(3)]
    assert [(one["number"], one["family"], one["address"]) for one in told] == [
        (0, socket.AF_INET, ["127.0.0.1", 0]),
        (1, socket.AF_INET6, ["::1", 0]),
        (2, socket.AF_INET6, ["::", 0]),
    ]


# ---- adopted ---------------------------------------------------------------------------------------------------------

REPORT = """
def report(sock):
    print(sock.getsockname()[1], os.fstat(sock.fileno()).st_ino, sock.gettimeout(), sock.timeout, sock.getblocking(),
          sock.get_inheritable(), os.get_blocking(sock.fileno()), flush=True)
"""


@pytest.mark.parametrize("asked", ["127.0.0.1", "localhost"])
def test_a_bind_of_a_held_address_takes_it_over(program: Program, asked: str) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"{REPORT}\nreport(socket.create_server(({asked!r}, {port})))\ntime.sleep(100)")
        with succeeding(words, sock) as guest:
            assert guest.hear("adopted")["number"] == 0
            assert guest.hear("listens")["number"] == 0
            assert guest.line() == f"{port} {inode(sock)} None None True False False"
            assert not guest.said("bound")


def test_an_empty_host_is_any(program: Program) -> None:
    with listening("0.0.0.0") as sock:
        words = program(f'socket.create_server(("", {sock.getsockname()[1]}))')
        with succeeding(words, sock) as guest:
            assert guest.hear("adopted")["number"] == 0


def test_port_0_in_the_order_of_binds(program: Program) -> None:
    words = program("""
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        print(*[sock.getsockname()[1] for sock in socks[:2]], flush=True)
        time.sleep(100)
    """)
    with listening() as first, listening() as second:
        entries = [{**held(sock, number), "address": ["127.0.0.1", 0]} for number, sock in enumerate((first, second))]
        with Guest(words, start={"held": entries}, descriptors=[first.fileno(), second.fileno()]) as guest:
            assert [guest.hear("adopted")["number"] for _ in range(2)] == [0, 1]
            assert guest.hear("bound")["number"] == 2
            assert guest.line() == f"{first.getsockname()[1]} {second.getsockname()[1]}"


def test_another_address_is_bound_as_ever(program: Program) -> None:
    with listening() as sock:
        with succeeding(program(f'socket.create_server(("127.0.0.2", {sock.getsockname()[1]}))'), sock) as guest:
            assert guest.hear("bound")["number"] == 1
        assert not guest.said("adopted")


def test_one_that_is_for_ipv6_alone_is_not_taken_for_one_that_is_for_both(program: Program) -> None:
    words = """
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, {only})
        try:
            sock.bind(("::", {port}))
            sock.listen()
        except OSError as error:
            print(error)
    """
    with listening("::") as sock:
        mine = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        port = sock.getsockname()[1]
        with succeeding(program(words.format(only=mine, port=port)), sock) as guest:
            assert guest.hear("adopted")["number"] == 0
        with succeeding(program(words.format(only=1 - mine, port=port)), sock) as guest:
            assert guest.hear("conflict")["address"] == ["::", port]


def test_a_program_may_try_its_port_by_binding_it_first(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"""
            for listen in (False, True, False):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", {port}))
                    if listen: probe.listen(1)
            sock = socket.create_server(("127.0.0.1", {port}))
            print(os.fstat(sock.fileno()).st_ino, flush=True)
            time.sleep(100)
        """)
        with succeeding(words, sock, gate=True) as guest:
            assert guest.line() == str(inode(sock))
            assert guest.hear("adopted")
            assert not guest.said("closed")


def test_a_program_may_try_its_port_by_connecting_first(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"""
            said = [socket.socket().connect_ex(("127.0.0.1", {port}))]
            try:
                socket.create_connection(("localhost", {port}))
            except ConnectionRefusedError as error:
                said.append(error)
            sock = socket.create_server(("127.0.0.1", {port}))
            socket.create_connection(("127.0.0.1", {port})).close()
            print(*said, "connected")
        """)
        with succeeding(words, sock) as guest:
            assert guest.line() == "111 [Errno 111] Connection refused connected"


def test_the_same_address_twice_is_an_error_as_ever(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"""
            first = socket.create_server(("127.0.0.1", {port}))
            try:
                socket.create_server(("127.0.0.1", {port}))
            except OSError as error:
                print(error.errno, flush=True)
        """)
        with succeeding(words, sock) as guest:
            assert guest.hear("conflict")["address"] == ["127.0.0.1", port]
            assert guest.line() == "98"


def test_a_taken_port_is_an_error_as_ever_and_told(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f'socket.create_server(("127.0.0.1", {port}))')
        with Guest(words) as guest:
            assert guest.hear("conflict")["address"] == ["127.0.0.1", port]
            _, err = guest.out()
            assert "OSError: [Errno 98] Address already in use" in err
            assert guest.wait() == 1


@pytest.mark.parametrize(
    "address", ['("127.0.0.1",)', '("127.0.0.1", "80")', "None", '"x"', '("127.0.0.1", 70000)', "(b'127.0.0.1', 0)"]
)
def test_nonsense_is_judged_by_the_real_bind(program: Program, address: str) -> None:
    words = program(f"""
        import _socket
        said = []
        for cls in (_socket.socket, socket.socket):
            try:
                said.append(cls(socket.AF_INET, socket.SOCK_STREAM).bind({address}))
            except Exception as error:
                said.append((type(error), str(error)))
        assert said[0] == said[1], said
        print("the same", flush=True)
    """)
    with listening() as sock, succeeding(words, sock) as guest:
        assert guest.line() == "the same"


def test_held_that_makes_no_sense_harms_nothing(program: Program) -> None:
    words = program('socket.create_server(("127.0.0.1", 0))')
    with listening() as sock, open(os.devnull) as file:  # noqa: PTH123 - a descriptor that is no socket
        entries = [{"number": 0}, held(sock, 1), held(sock, 2)]
        with Guest(words, start={"held": entries}, descriptors=[sock.fileno(), file.fileno()]) as guest:
            guest.hear("bound")
            assert guest.wait() == 0


# ---- shared ----------------------------------------------------------------------------------------------------------


def test_the_queue_of_all_is_never_lowered(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        sock.listen(2048)
        words = program(f"""
            sock = socket.create_server(("127.0.0.1", {port}), backlog=1)
            sock.listen(2)
            print(flush=True)
            time.sleep(100)
        """)
        with succeeding(words, sock) as guest:
            guest.line()
            assert queue(sock) == 2048


def test_shutting_it_down_ends_accept_here_and_not_elsewhere(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"""
            import threading
            sock = socket.create_server(("127.0.0.1", {port}))
            said = []
            def wait():
                try:
                    sock.accept()
                except OSError as error:
                    said.append(str(error))
            threads = [threading.Thread(target=wait) for _ in range(3)]
            for thread in threads: thread.start()
            sys.stdin.readline()
            sock.shutdown(socket.SHUT_RDWR)
            for thread in threads: thread.join()
            print(*said, sep=", ", flush=True)
            sock.listen()
            print(sock.accept()[0].recv(1), flush=True)
        """)
        with Guest(words, start={"held": [held(sock)]}, descriptors=[sock.fileno()], stdin=-1) as guest:
            guest.hear("serves")
            assert guest.process.stdin is not None
            print(file=guest.process.stdin, flush=True)
            assert guest.line() == ", ".join(["[Errno 22] Invalid argument"] * 3)
            assert listens(sock)
            with socket.create_connection(sock.getsockname()) as client:
                client.sendall(b"x")
                assert guest.line() == "b'x'"


def test_timeouts_are_the_programs_own(program: Program) -> None:
    with listening() as sock:
        port = sock.getsockname()[1]
        words = program(f"""
            sock = socket.create_server(("127.0.0.1", {port}))
            def tried():
                try:
                    sock.accept()
                except OSError as error:
                    return type(error).__name__
            def look():
                print(sock.gettimeout(), sock.timeout, sock.getblocking(), os.get_blocking(sock.fileno()), end=" ")
            look(); print()
            sock.settimeout(0.01); look(); print(tried())
            sock.setblocking(False); look(); print(tried())
            sock.settimeout(0.0); look(); print(tried())
            sock.setblocking(True); look(); print()
            other = sock.dup()
            print(other.gettimeout(), os.get_blocking(other.fileno()))
            for wrong in (-1, "x"):
                try:
                    sock.settimeout(wrong)
                except (ValueError, TypeError) as error:
                    print(error)
        """)
        with succeeding(words, sock) as guest:
            out, err = guest.out()
        assert out.splitlines() == [
            "None None True False ",
            "0.01 0.01 True False TimeoutError",
            "0.0 0.0 False False BlockingIOError",
            "0.0 0.0 False False BlockingIOError",
            "None None True False ",
            "None False",
            "Timeout value out of range",
            "'str' object cannot be interpreted as an integer",
        ], err


def test_one_that_somebody_else_took_is_waited_for_again(program: Program) -> None:
    """Two generations wait for the same connections: all are answered, by either."""
    with listening() as sock:
        words = program(f'{ECHO}\nserve(socket.create_server(("127.0.0.1", {sock.getsockname()[1]})))')
        with succeeding(words, sock) as first, succeeding(words, sock) as second:
            first.hear("serves")
            second.hear("serves")
            answers = [ask(sock.getsockname()) for _ in range(50)]
            assert set(answers) <= {b"?%d" % first.pid, b"?%d" % second.pid}
            second.kill()
            assert ask(sock.getsockname()) == b"?%d" % first.pid


# ---- closed ----------------------------------------------------------------------------------------------------------


def test_what_the_program_closes_is_told(program: Program) -> None:
    words = program("""
        sock = socket.create_server(("127.0.0.1", 0))
        sock.close()
        time.sleep(100)
    """)
    with Guest(words) as guest:
        _, sock = copy(guest)
        assert guest.hear("closed") == {"is": "closed", "number": 0}
        address = sock.getsockname()
        sock.close()
        assert is_refused(address)


def test_what_is_adopted_and_closed_is_told_after_go(program: Program) -> None:
    with listening() as sock:
        words = program(f"""
            sock = socket.create_server(("127.0.0.1", {sock.getsockname()[1]}))
            sys.stdin.readline()
            sock.close()
            time.sleep(100)
        """)
        with Guest(words, start={"held": [held(sock)]}, descriptors=[sock.fileno()], stdin=-1) as guest:
            guest.hear("adopted")
            guest.tell("go")
            guest.hear("accepting")
            assert guest.process.stdin is not None
            print(file=guest.process.stdin, flush=True)
            assert guest.hear("closed")["number"] == 0
        address = sock.getsockname()
    assert is_refused(address)


def test_a_server_that_is_started_anew_has_its_socket_back(program: Program) -> None:
    words = program("""
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        first = os.fstat(sock.fileno()).st_ino
        sock.close()
        sock = socket.create_server(("127.0.0.1", port))
        print(first == os.fstat(sock.fileno()).st_ino, flush=True)
        sys.stdin.readline()
    """)
    with Guest(words, stdin=-1) as guest:
        assert guest.line() == "True"
        guest.process.stdin.close()  # type: ignore[union-attr]
        assert "closed" not in [packet["is"] for packet in guest.hear_all()]


def test_a_bind_waits_until_the_supervisor_has_let_go(program: Program) -> None:
    """Closed where nobody sees it; then the copy is in the way."""
    words = program("""
        sys.modules["_meshsup.sockets"].LET_GO = 30.0  # however late the test is
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        os.close(sock.detach())
        sock = socket.create_server(("127.0.0.1", port))
        print(port, flush=True)
        time.sleep(100)
    """)
    with Guest(words) as guest:
        _, in_the_way = copy(guest)
        guest.hear("closed")
        in_the_way.close()
        packet, sock = copy(guest)
        with sock:
            assert packet["number"] == 1
            assert guest.line() == str(sock.getsockname()[1])


def test_who_ends_has_not_closed(program: Program) -> None:
    words = program("""
        with socket.create_server(("127.0.0.1", 0)):
            pass
        raise SystemExit(3)
    """)
    with Guest(words) as guest:
        _, sock = copy(guest)
        with sock:
            assert guest.wait() == 3
            assert "closed" not in [packet["is"] for packet in guest.hear_all()]
            assert listens(sock)


def test_a_duplicate_keeps_the_place(program: Program) -> None:
    words = program("""
        sock = socket.create_server(("127.0.0.1", 0))
        other = os.dup(sock.fileno())
        sock.close()
        time.sleep(1.5)  # longer than the place would be kept
    """)
    with Guest(words) as guest:
        assert "closed" not in [packet["is"] for packet in guest.hear_all()]


@pytest.mark.parametrize(
    "make", ["sock.dup()", "socket.socket(fileno=sock.detach())", "socket.fromfd(sock.fileno(), 2, 1)"]
)
def test_another_object_waits_as_the_first(program: Program, make: str) -> None:
    words = program(f"""
        {ECHO.strip().replace(chr(10), chr(10) + " " * 8)}
        sock = socket.create_server(("127.0.0.1", 0))
        other = {make}
        sock.close()
        print(other.gettimeout(), flush=True)
        serve(other)
    """)
    with Guest(words, start={"gate": True}) as guest:
        _, sock = copy(guest)
        with sock:
            assert guest.line() == "None"
            guest.hear("serves")
            guest.tell("go")
            assert [ask(sock.getsockname()) for _ in range(3)] == [b"?%d" % guest.pid] * 3


def test_a_listener_under_tls_is_the_same_place(program: Program) -> None:
    words = program("""
        import ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        sock = socket.create_server(("127.0.0.1", 0))
        name = sock.getsockname()
        sock = context.wrap_socket(sock, server_side=True)
        print(sock.gettimeout(), os.get_blocking(sock.fileno()), flush=True)
        try:
            sock.accept()
        except ssl.SSLError as error:
            print(error.reason, flush=True)
    """)
    with Guest(words) as guest:
        _, sock = copy(guest)
        with sock:
            assert guest.line() == "None False"
            with socket.create_connection(sock.getsockname()) as client:
                client.sendall(b"this is no TLS")
                guest.hear("serves")
                assert guest.line() != ""


# ---- other processes -------------------------------------------------------------------------------------------------


def test_a_forked_child_accepts_and_says_nothing(program: Program) -> None:
    with listening() as sock:
        words = program(f"""
            {ECHO.strip().replace(chr(10), chr(10) + " " * 12)}
            sock = socket.create_server(("127.0.0.1", {sock.getsockname()[1]}))
            if os.fork() == 0:
                socket.create_server(("127.0.0.1", 0)).close()
                sock.listen(1)
                sock.setblocking(True)
                serve(sock)
            os.wait()
        """)
        with succeeding(words, sock, gate=True) as guest:
            assert guest.hear("cannot") == {"is": "cannot", "what": "gate", "why": "worker processes"}
            answer = ask(sock.getsockname())
            assert answer.startswith(b"?")
            assert int(answer[1:]) != guest.pid
            assert not os.get_blocking(sock.fileno())
            assert queue(sock) >= 128
            assert {packet["is"] for packet in guest.heard} == {"hello", "adopted", "listens", "cannot"}


def test_a_spawned_worker_gets_a_socket_that_waits(program: Program) -> None:
    """As multiprocessing hands it on; nothing of ours is in the worker."""
    with listening() as sock:
        words = program(f"""
            import multiprocessing
            {ECHO.strip().replace(chr(10), chr(10) + " " * 12)}
            if __name__ == "__main__":
                sock = socket.create_server(("127.0.0.1", {sock.getsockname()[1]}))
                worker = multiprocessing.get_context("spawn").Process(target=serve, args=(sock,))
                worker.start()
                print(worker.pid, flush=True)
                worker.join()
        """)
        with succeeding(words, sock, gate=True) as guest:
            assert guest.hear("cannot")["why"] == "worker processes"
            pid = guest.line()
            assert [ask(sock.getsockname()) for _ in range(3)] == [b"?" + pid.encode()] * 3


# ---- as if nobody was there ------------------------------------------------------------------------------------------


def test_the_class_looks_as_ever(program: Program) -> None:
    words = program("""
        import inspect
        for name in ("bind", "listen", "accept", "close", "settimeout", "connect"):
            method = getattr(socket.socket, name)
            print(method.__name__, method.__qualname__, bool(method.__doc__), method.__module__)
        with socket.socket() as sock:
            print(repr(sock).replace(str(sock.fileno()), "N"))
            print(sock.detach() > 2, sock.fileno())
        try:
            sock.bind(("127.0.0.1", 0))
        except OSError as error:
            print(error)
    """)
    with Guest(words) as guest:
        out, err = guest.out()
    assert err == ""
    assert out.splitlines()[0] == "bind socket.bind True socket"
    assert out.splitlines()[-1] == "[Errno 9] Bad file descriptor"


def test_a_default_timeout_goes_for_listeners_too(program: Program) -> None:
    with listening() as sock:
        words = program(f"""
            socket.setdefaulttimeout(0.01)
            sock = socket.create_server(("127.0.0.1", {sock.getsockname()[1]}))
            print(sock.gettimeout())
            try:
                sock.accept()
            except TimeoutError as error:
                print(error)
        """)
        with succeeding(words, sock) as guest:
            out, err = guest.out()
        assert out.splitlines() == ["0.01", "timed out"], err


def test_signals_reach_a_program_that_waits(program: Program) -> None:
    """At once, also those that come while a thread of ours begins."""
    words = program("""
        import signal
        def end(*_): raise SystemExit(5)
        signal.signal(signal.SIGTERM, end)
        socket.create_server(("127.0.0.1", 0)).accept()
    """)
    for _ in range(20):
        with Guest(words, start={"gate": True}) as guest:
            guest.hear("serves")
            guest.signal(signal.SIGTERM)
            assert guest.wait() == 5
