"""The supervisor's end of a runtime: what an agent says is checked, what it hands over is kept and given up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.host import guest
from mesh_supervisor.host.channel import MOST_IN_A_WINDOW, MOST_UNSENT
from mesh_supervisor.host.guest import MOST_PLACES, Guest, Told
from mesh_supervisor.host.sockets import HeldSockets
from mesh_supervisor.runtime import wire

from .lingering import closers, is_closed, lingering, make_linger, pipe
from .stage import PATIENCE, until

Say = Callable[..., None]


class Agent:
    """What a test plays: the other end, and sockets of its own."""

    def __init__(self, sockets: HeldSockets | None = None) -> None:
        self.sockets = sockets or HeldSockets()
        self.guest = Guest(self.sockets, Told())
        self.end = socket.socket(fileno=os.dup(self.guest.channel.theirs))
        self.guest.channel.release_theirs()
        self._own: list[socket.socket] = []

    @property
    def limits(self) -> list[tuple[str, str]]:
        return list(self.guest.limits.items())

    def say(self, kind: str, /, *descriptors: int, **fields: Any) -> None:
        wire.send(self.end, wire.pack(kind, fields), descriptors)

    def bind(self, number: int = 0) -> socket.socket:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._own.append(sock)
        self.say("bound", sock.fileno(), number=number, family=2, kind=1, address=["127.0.0.1", 0])
        return sock

    def serve(self, number: int = 0) -> socket.socket:
        sock = self.bind(number)
        sock.listen()
        self.say("listens", number=number, plain=False)
        self.say("serves", numbers=[number], how="asyncio")
        return sock

    def adopt(self, number: int = 0) -> None:
        self.guest.offer()
        self.say("adopted", number=number)
        self.say("listens", number=number, plain=False)
        self.say("serves", numbers=[number], how="asyncio")

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        heard = wire.receive(self.end)
        assert heard is not None
        return heard

    def close(self) -> None:
        self.guest.close()
        self.end.close()
        for sock in self._own:
            sock.close()


@contextlib.asynccontextmanager
async def agent(sockets: HeldSockets | None = None) -> AsyncIterator[Agent]:
    one = Agent(sockets)
    try:
        yield one
    finally:
        one.close()
        if sockets is None:
            one.sockets.release()
        await until(lambda: not closers())


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def test_what_listens_is_kept_for_the_next_generation_which_takes_it_over() -> None:
    async def main() -> None:
        async with agent() as first:
            sock = first.serve()
            port = port_of(sock)
            await until(lambda: first.guest.serves(port))
            first.guest.go()
            assert first.hear()[0]["is"] == "go"
            assert first.sockets.ports == {port}
            sock.close()
            async with agent(first.sockets) as second:
                held, descriptors = second.guest.offer()
                assert held == [{"number": 0, "family": 2, "kind": 1, "address": ("127.0.0.1", 0)}]
                assert os.fstat(descriptors[0]).st_ino in second.guest.inodes
                assert not second.guest.serves(port)
                second.adopt()
                await until(lambda: second.guest.serves(port))
                first.guest.close()
                second.guest.go()
            assert accepts(port)  # both are gone, and callers wait
            first.sockets.release()
            assert not accepts(port)

    asyncio.run(main())


def test_what_the_newcomer_does_not_take_over_is_given_up() -> None:
    async def main() -> None:
        async with agent() as first:
            old = first.serve()
            await until(lambda: first.guest.serves(None))
            first.guest.go()
            old.close()
            async with agent(first.sockets) as second:
                second.guest.offer()
                new = second.serve(1)
                await until(lambda: second.guest.serves(port_of(new)))
                second.guest.go()
                assert second.sockets.ports == {port_of(new)}

    asyncio.run(main())


def test_a_socket_that_the_program_closes_is_given_up() -> None:
    async def main() -> None:
        async with agent() as one:
            sock = one.serve()
            port = port_of(sock)
            await until(lambda: one.guest.serves(port))
            one.guest.go()
            sock.close()
            one.say("closed", number=0)
            await until(lambda: not one.sockets.now())
            assert not accepts(port)

    asyncio.run(main())


def test_a_program_that_accepts_by_hand_serves_when_it_listens() -> None:
    async def main() -> None:
        async with agent() as one:
            sock = one.bind()
            sock.listen()
            one.say("listens", number=0, plain=True)
            await until(lambda: one.guest.serves(port_of(sock)))
            assert one.guest.by_hand == (port_of(sock),)

    asyncio.run(main())


def test_a_private_connection_leads_to_its_server() -> None:
    async def main() -> None:
        async with agent() as one:
            port = port_of(one.serve())
            await until(lambda: one.guest.serves(port))
            knocking = asyncio.ensure_future(one.guest.knock(port))
            heard, descriptors = await asyncio.to_thread(one.hear)
            assert heard["is"] == "knock"
            one.say("knocked", id=heard["id"], ok=True)
            ours = await knocking
            assert ours is not None
            with ours, socket.socket(fileno=descriptors[0]) as theirs:
                theirs.sendall(b"privately")
                assert await asyncio.get_running_loop().sock_recv(ours, 100) == b"privately"
            refused = asyncio.ensure_future(one.guest.knock(port))
            heard, descriptors = await asyncio.to_thread(one.hear)
            os.close(descriptors[0])
            one.say("knocked", id=heard["id"], ok=False, why="no loop")
            assert await refused is None
            assert one.limits == [("gate", "no loop")]

    asyncio.run(main())


def test_a_drain_ends_when_it_says_so_and_when_it_is_gone() -> None:
    async def main() -> None:
        async with agent() as one:
            draining = asyncio.ensure_future(one.guest.drain(60, close_idle=True))
            assert (await asyncio.to_thread(one.hear))[0] == {"is": "drain", "patience": 60, "close_idle": True}
            one.say("drained", left=0)
            async with asyncio.timeout(PATIENCE):
                await draining
        async with agent() as other:
            draining = asyncio.ensure_future(other.guest.drain(60, close_idle=True))
            await asyncio.to_thread(other.hear)
            other.end.close()
            async with asyncio.timeout(PATIENCE):
                await draining
            async with asyncio.timeout(PATIENCE):
                await other.guest.drain(60, close_idle=True)  # nobody is there to be asked

    asyncio.run(main())


NONSENSE: list[tuple[str, dict[str, Any]]] = [
    ("bound", {}),
    ("bound", {"number": "x", "family": 2, "kind": 1, "address": ["a", 1]}),
    ("bound", {"number": -1, "family": 2, "kind": 1, "address": ["a", 1]}),
    ("bound", {"number": 0, "family": 2, "kind": 1, "address": [{}]}),
    ("bound", {"number": 0, "family": 1, "kind": 1, "address": ["a", 1]}),
    ("bound", {"number": 0, "family": 2, "kind": 1, "address": ["x" * 70_000, 1]}),
    ("conflict", {"address": ["x", []]}),
    ("adopted", {"number": 7}),
    ("adopted", {"number": None}),
    ("listens", {"number": 3}),
    ("serves", {"numbers": [9, "x", None]}),
    ("serves", {"numbers": "all"}),
    ("closed", {"number": 12}),
    ("knocked", {"id": 4, "ok": True}),
    ("drained", {}),
    ("modules", {}),
    ("no such kind", {"deep": [[[[]]]]}),
    ("cannot", {}),
]


@pytest.mark.parametrize(("kind", "fields"), NONSENSE)
def test_nonsense_changes_nothing_and_leaks_nothing(kind: str, fields: dict[str, Any]) -> None:
    async def main() -> None:
        async with agent() as one:
            before = len(list(Path("/proc/self/fd").iterdir()))
            with socket.socket() as sock:
                one.say(kind, sock.fileno(), sock.fileno(), **fields)
            one.say("hello", python="3.11.7", pid=1)
            await until(lambda: one.guest.present and not closers())
            assert len(list(Path("/proc/self/fd").iterdir())) == before
            assert not one.guest.has(None)

    asyncio.run(main())


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    async def main() -> None:
        async with agent() as one:
            source, sink = os.pipe()
            one.say("bound", source, number=0, family=2, kind=1, address=["127.0.0.1", 0])
            os.close(source)
            one.say("hello")
            await until(lambda: one.guest.present and not closers())
            assert not one.guest.has(None)
            with pytest.raises(BrokenPipeError):
                os.write(sink, b"x")  # nobody reads any more: our copy is closed
            os.close(sink)

    asyncio.run(main())


NONE_OF_ITS = [("hello", {}), ("bound", {"number": 0, "family": 2, "kind": 1, "address": ["127.0.0.1", 0]}), (None, {})]


@pytest.mark.parametrize(("kind", "fields"), NONE_OF_ITS)
def test_a_descriptor_that_hangs_holds_up_neither_the_loop_nor_another_agent(
    kind: str | None, fields: dict[str, Any]
) -> None:
    """With a kind that has none, as a socket to be held, with what is garbled."""

    async def main() -> None:
        async with agent() as one, agent() as bystander:
            with lingering() as hanging:
                if kind is None:
                    hanging.give(lambda fd: wire.send(one.end, b"garbled", (fd,)))
                else:
                    hanging.give(lambda fd: one.say(kind, fd, **fields))
                one.say("drained")
                await until(lambda: one.guest.changed.is_set() and closers())
                with pipe() as (reader, writer):
                    bystander.say("hello", writer)
                    os.close(writer)
                    await until(lambda: is_closed(reader))
                assert closers(), "it hangs still"
                assert not one.guest.has(None)

    asyncio.run(main())


def test_what_hangs_in_a_channel_that_nobody_has_read_holds_up_no_end() -> None:
    async def main() -> None:
        async with agent() as one:
            with lingering() as hanging:
                hanging.give(lambda fd: one.say("hello", fd))
                one.guest.close()
                assert closers(), "it is closed elsewhere"

    asyncio.run(main())


def test_a_socket_that_is_connected_after_it_was_told_of_hangs_nobody() -> None:
    async def main() -> None:
        async with agent() as one:
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            one.say("bound", sock.fileno(), **NONE_OF_ITS[1][1])
            await until(lambda: one.guest.has(None))
            with socket.create_server(("127.0.0.1", 0)) as listener:
                sock.setblocking(True)
                sock.connect(listener.getsockname())
                reader, _ = listener.accept()
            with reader:
                make_linger(sock)
                sock.close()
                one.say("closed", number=0)
                await until(lambda: not one.guest.has(None))
                assert closers(), "its last copy is closed elsewhere"

    asyncio.run(main())


def test_who_sends_only_what_hangs_is_heard_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.channel.MOST_WAITING", 3)

    async def main() -> None:
        async with agent() as one:
            with lingering() as hanging, pipe() as (reader, writer):
                hanging.give(lambda fd: one.say("hello", fd))
                await until(closers)
                one.say("hello", *[writer] * 3)
                one.say("hello")
                os.close(writer)
                await until(lambda: not one.guest.open)
                assert one.limits == [("runtime", "it sends descriptors that cannot be closed")]
                hanging.let_go()
                await until(lambda: is_closed(reader))

    asyncio.run(main())


@pytest.fixture
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a flood takes on a busy machine."""
    monkeypatch.setattr("mesh_supervisor.host.channel.WINDOW", 1000.0)


@pytest.mark.usefixtures("long_window")
def test_garbled_packets_and_floods_close_the_channel_with_the_reason() -> None:
    async def main() -> None:
        async with agent() as one:
            for _ in range(3):
                one.end.send(b"\xff not json")
            await until(lambda: not one.guest.open)
            assert one.limits == [("runtime", "what it sends is garbled")]
        async with agent() as other:
            await asyncio.to_thread(send_until_refused, other, [])
            await until(lambda: not other.guest.open)
            assert "packets" in other.limits[0][1]

    asyncio.run(main())


@pytest.mark.usefixtures("long_window")
def test_few_packets_may_not_be_many_bytes_either() -> None:
    large = [[f"/tmp/{number}", "x" * 1000] for number in range(100)]

    async def main() -> None:
        async with agent() as one, agent() as bystander:
            flood = asyncio.create_task(asyncio.to_thread(send_until_refused, one, large))
            await asyncio.to_thread(bystander.serve)  # and nobody else waits for the flood
            await until(lambda: bystander.guest.serves(None))
            await flood
            await until(lambda: not one.guest.open)
            assert "MB, in 1000 s" in one.limits[0][1]

    asyncio.run(main())


def send_until_refused(one: Agent, files: list[list[str]]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(MOST_IN_A_WINDOW + 1):
            one.say("reads", files=files)


def test_as_many_sockets_as_are_kept_can_be_offered_to_the_next() -> None:
    async def main() -> None:
        async with agent() as one:
            for number in range(MOST_PLACES + 5):
                one.bind(number).listen()
                one.say("listens", number=number, plain=False)
            one.guest.go()
            await until(lambda: len(one.guest.listening) == MOST_PLACES)
            one.guest.go()
            _, descriptors = one.guest.offer()
            assert len(descriptors) == MOST_PLACES and len(descriptors) + 4 <= wire.MOST_DESCRIPTORS

    asyncio.run(main())


def test_one_that_never_reads_is_told_no_more_and_blocks_nobody() -> None:
    async def main() -> None:
        async with agent() as one:
            for _ in range(MOST_UNSENT + 5000):
                if not one.guest.channel.send("go"):
                    break
            assert not one.guest.open
            assert one.limits == [("runtime", "it does not read what it is told")]

    asyncio.run(main())


def test_a_guest_that_goes_frees_those_who_wait() -> None:
    async def main() -> None:
        async with agent() as one:
            port = port_of(one.serve())
            await until(lambda: one.guest.serves(port))
            knocking = asyncio.ensure_future(one.guest.knock(port))
            asking = asyncio.ensure_future(one.guest.inventory(600))
            for _ in range(2):  # both are asked
                _, descriptors = await asyncio.to_thread(one.hear)
                for fd in descriptors:
                    os.close(fd)
            one.end.close()
            with pytest.raises(ConnectionError):
                await knocking
            assert await asking == []

    asyncio.run(main())


def test_one_that_goes_while_it_is_being_called_on_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = guest._connected_pair

    async def main() -> None:
        async with agent() as one:
            port = port_of(one.serve())
            await until(lambda: one.guest.serves(port))

            async def connected_late() -> tuple[socket.socket, socket.socket]:
                one.end.close()
                await until(lambda: not one.guest.open)
                return await connected()

            monkeypatch.setattr(guest, "_connected_pair", connected_late)
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(PATIENCE):
                    await one.guest.knock(port)

    asyncio.run(main())


def test_sockets_are_let_go_after_a_while_without_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh_supervisor.host.sockets.LINGER", 0.01)

    async def main() -> None:
        async with agent() as one:
            sock = one.serve()
            port = port_of(sock)
            await until(lambda: one.guest.serves(port))
            one.guest.go()
            sock.close()
            one.sockets.linger()
            one.sockets.keep()
            assert accepts(port)
            one.sockets.linger()
            await until(lambda: not one.sockets.now())
            assert not accepts(port)

    asyncio.run(main())


def test_an_address_that_is_taken_counts_where_the_predecessor_has_it() -> None:
    async def main() -> None:
        async with agent() as first:
            port = port_of(first.serve())
            await until(lambda: first.guest.serves(port))
            first.guest.go()
            async with agent(first.sockets) as second:
                second.guest.offer()
                second.say("conflict", address=["127.0.0.1", port + 1], error=98)
                second.say("hello")
                await until(lambda: second.guest.present)
                assert not second.guest.crowded
                second.say("conflict", address=["127.0.0.1", port], error=98)
                await until(lambda: second.guest.crowded)

    asyncio.run(main())
