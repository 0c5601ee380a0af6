"""One warm process: a *template*, which forks instances, or a *spare*, which becomes one. Its guest: runtime/warm.py.

It has imported what its agents import and waits on its channel. What comes back is judged before it counts: an instance
is ours only if it is our child, leads a session of its own and carries the tag of its mark (sweep.py), so that whatever
happens to the template concerns nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..warmth import Verdict, is_module
from . import procfs, spawn
from .capture import Capture
from .channel import Channel, Packet
from .children import Child, Program, expected, living
from .interpreter import RUNTIME
from .lines import Line
from .memory import OutOfMemory, offer
from .priority import Priority, give_priority
from .sweep import tag_in, tag_of

GUEST = RUNTIME / "__main__.py"

WARMING_AT_MOST = 120.0
"""Seconds; what has not been imported by then hangs."""

FORK_AT_MOST = 5.0
"""Seconds from the request to the instance: 0.015 on a quiet machine. Afterwards the template is taken for hung."""

JUDGE_AT_MOST = 120.0
"""Seconds for one module, at the lowest priority; the guest itself gives up sooner."""

MOST_UNREAD = 1000
"""Verdicts that nobody has looked at yet."""

NAMES_AT_ONCE = 1500
"""Modules of one packet."""

LONGEST_REASON = 300


class NotWarm(Exception):
    """This start cannot be a warm one; ``str()`` says why, in words for people. Nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Order:
    """One instance that is to be started. ``program`` is what a cold start would run.

    ``kind``, ``name``, ``args``: what the runtime runs (target.py). ``start``: the fields of the `start` packet, and
    ``held`` the descriptors that belong to them. ``output``, ``channel``, ``stdin``: descriptors, the caller's (stdin
    None: /dev/null).
    """

    mark: str
    program: Program
    kind: str
    name: str
    args: tuple[str, ...]
    start: Mapping[str, object]
    output: int
    channel: int
    held: tuple[int, ...] = ()
    stdin: int | None = None

    def fields(self) -> dict[str, object]:
        return {
            **self.start,
            "program": {"kind": self.kind, "name": self.name, "args": list(self.args)},
            "environ": {**self.program.environ, spawn.MARK: self.mark},
            "directory": str(self.program.directory),
            "umask": None,
            "tag": tag_of(self.mark),
            "parent": os.getpid(),
            "files": spawn.own_files(),
        }


class WarmProcess:
    """Spawned by its constructor. Raises SpawnError; OSError without descriptors.

    ``modules`` are imported in this order; ``forks``: a template, which first tries whether it may fork (W1).
    ``state``: "warming", then "warm", or "refused" (it may still become an instance), at the end "over" or, for a spare
    that was used, "given". ``why``: the reason of these. ``blamed``: the modules that made it refuse, if known;
    ``stale``: what is installed now is not what it has imported. ``names``, ``dotenv``: what its imports looked at.
    ``milliseconds`` that they took, None if they did not come to an end.
    """

    def __init__(
        self,
        label: str,
        mark: str,
        program: Program,
        modules: tuple[str, ...],
        *,
        forks: bool,
        line: Callable[[Line], None],
        changed: Callable[[], None] = lambda: None,
        memory: OutOfMemory | None = None,
        priority: Priority = Priority.NORMAL,
        guest: Path = GUEST,
    ) -> None:
        """``program``: the interpreter with its flags; its environment and directory are those of the imports.
        ``changed`` is called when it is warm, refuses, or has ended."""
        self._memory, self._hung_up = memory, False
        self.mark, self.modules, self._changed = mark, modules, changed
        self.state, self.why = "warming", ""
        self.blamed: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.dotenv: tuple[str, ...] = ()
        self.stale = False
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Packet]] = {}
        self._asked = 0
        self._judged: asyncio.Queue[Packet] = asyncio.Queue()
        self.milliseconds: float | None = None
        with contextlib.ExitStack() as undo:
            self._capture = Capture(label, 0, line)
            undo.callback(self._capture.close)
            self._channel = Channel(self._heard, self._over)
            undo.callback(self._channel.close)
            words = (*program.argv, str(guest), str(self._channel.theirs), "warm", label)
            self.child = spawn.spawn(
                replace(program, argv=words),
                output=self._capture.output,
                mark=mark,
                pass_fds=(self._channel.theirs,),
            )
            undo.pop_all()
        give_priority(self.child.pid, priority)
        offer(self.child.pid, first=True)
        self._priority = priority
        self._capture.release_output()
        self._channel.release_theirs()
        self._tell_modules(forks)
        self._limit = self._loop.call_later(WARMING_AT_MOST, self._condemn, "importing takes for ever")
        self._watcher = self._loop.create_task(self._watch())

    def _tell_modules(self, trial: bool) -> None:
        for start in range(0, len(self.modules) or 1, NAMES_AT_ONCE):
            names = self.modules[start : start + NAMES_AT_ONCE]
            more = start + NAMES_AT_ONCE < len(self.modules)
            self._channel.send("warm", modules=list(names), trial=trial, more=more)

    @property
    def pid(self) -> int:
        return self.child.pid

    async def settled(self, patience: float) -> bool:
        """Waits until it has imported everything, or cannot; False: it is still at it after ``patience`` seconds."""
        if self.state == "warming":
            self.hurry()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._settled.wait()
        return self.state != "warming"

    def hurry(self) -> None:
        """Somebody waits for it."""
        if self._priority is not Priority.NORMAL:
            self._priority = Priority.NORMAL
            give_priority(self.pid, Priority.NORMAL)

    # ---- what it can do ----------------------------------------------------------------------------------------------

    async def fork(self, order: Order) -> Child:
        """Raises NotWarm. A cancelled one leaves no process when it returns, and none that lives for long before; one
        that is cancelled again does not wait for the template, but ends it."""
        if self.state != "warm":
            raise NotWarm(self.why or f"its template is {self.state}")
        self.hurry()
        return await self._unbroken(self._fork(order))

    async def become(self, order: Order) -> Child:
        """The same, by this process itself, which is a warm process no more."""
        if self.state not in {"warm", "refused"}:
            raise NotWarm(self.why or f"its spare is {self.state}")
        self.hurry()
        before, self.state, self.why = (self.state, self.why), "given", "it became an instance"
        try:
            return await self._unbroken(self._become(order))
        except NotWarm:
            if self.state == "given":  # nothing was asked of it: it is as it was, and ours to end
                self.state, self.why = before
            raise

    async def judge(self, modules: tuple[str, ...], found: Callable[[str, Verdict], None]) -> None:
        """Tells each verdict as it comes (W2). Raises NotWarm when the process does not live through it."""
        if not self._channel.send("judge", modules=list(modules)):
            raise NotWarm(self.why or "it ended")
        more = True
        while more:
            packet = await self._next_verdict()
            for name, told in _table(packet.get("verdicts")).items():
                way = _text(_table(told).get("verdict"))
                found(name, Verdict(way if way in ("fork", "spare") else "skip", _text(_table(told).get("why"))))
            more = bool(packet.get("more"))

    async def _next_verdict(self) -> Packet:
        try:
            async with asyncio.timeout(JUDGE_AT_MOST):
                packet = await self._judged.get()
        except TimeoutError:
            self._condemn("importing takes for ever")
            raise NotWarm("importing takes for ever") from None
        if packet["is"] != "judged":
            raise NotWarm(self.why)
        return packet

    async def close(self) -> None:
        """Ends it; returns when nothing of it is left. What it forked lives on."""
        if self.state != "given":
            self._condemn(self.why or "it is not needed any more")
        await self._gone()

    # ---- forks -------------------------------------------------------------------------------------------------------

    async def _unbroken(self, work: Any) -> Child:
        """A request that was sent is seen through: the instance may exist already."""
        task: asyncio.Task[Child] = self._loop.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._buried(task)
            raise

    async def _buried(self, task: asyncio.Task[Child]) -> None:
        burial = self._loop.create_task(_bury(task))
        while not burial.done():
            try:
                await asyncio.shield(burial)
            except asyncio.CancelledError:
                self._condemn("nobody waits for its answer any more")

    async def _fork(self, order: Order) -> Child:
        with _expecting(order.mark):
            answer = await self._ask(order, become=False)
            pid = answer.get("pid")
            if answer["is"] != "forked" or not isinstance(pid, int):
                raise NotWarm(_text(answer.get("why")) or "its template did not fork")
            try:
                return _adopted(pid, order)
            except NotWarm as problem:
                await self._undo(str(problem), order)
                raise

    async def _become(self, order: Order) -> Child:
        answer = await self._ask(order, become=True)
        marked = self.child.exit is not None or tag_in(self.pid) == tag_of(order.mark)  # its program may have ended
        if answer["is"] != "forked" or answer.get("pid") != self.pid or not marked:
            why = _text(answer.get("why")) or "its spare did not become it"
            await self._undo(why, order)
            raise NotWarm(why)
        self._watcher.cancel()
        await self._gone()
        self._limit.cancel()
        self._channel.close()
        self._capture.close()
        self.state, self.why = "given", "it became an instance"
        self.child.becomes(order.program, order.mark)
        offer(self.pid)
        return self.child

    async def _ask(self, order: Order, *, become: bool) -> Packet:
        """Its answer. Raises NotWarm, when whatever there was of the instance is gone."""
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[Packet] = self._loop.create_future()
        self._answers[number] = answer
        try:
            self._send(order, number, become)
            async with asyncio.timeout(FORK_AT_MOST):
                return await answer
        except (TimeoutError, OSError) as error:
            why = str(error) or f"its template said nothing for {FORK_AT_MOST:g} s"
            await self._undo(why, order)
            raise NotWarm(why) from None
        finally:
            self._answers.pop(number, None)

    def _send(self, order: Order, number: int, become: bool) -> None:
        with _source(order.stdin) as stdin:
            descriptors = (stdin, order.output, order.output, order.channel, *order.held)
            try:
                sent = self._channel.send("start", descriptors, id=number, become=become, **order.fields())
            except ValueError:
                raise NotWarm("its environment is too large for a packet") from None
        if not sent:
            raise ConnectionError(self.why or "its template ended")

    async def _undo(self, why: str, order: Order) -> None:
        """Nobody knows how far it came: the process ends, and whatever carries its mark or the instance's."""
        self._condemn(why)
        await self._gone()
        await spawn.sweep(order.mark)

    # ---- its end -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        how = await self.child.wait()
        if self._memory is not None and self.state != "given":
            # Of one that is killed the channel ends first, and it is killed once more for that.
            ours = self.child.killed and not self._hung_up
            how = self._memory.explained(how, ours=ours, peak=self.child.peak)
        self._end(f"it ended ({how})")
        self._limit.cancel()
        await spawn.sweep(self.mark, self.child)
        await self._capture.finished()
        self._capture.close()
        self._channel.close()
        self._fail_all()
        self._changed()

    async def _gone(self) -> None:
        await asyncio.wait({self._watcher})
        if not self._watcher.cancelled():
            self._watcher.result()

    def _condemn(self, why: str) -> None:
        self._end(why)
        self.child.send(signal.SIGKILL)

    def _end(self, why: str) -> None:
        if self.state != "over":
            self.state, self.why = "over", why
        self._settled.set()

    def _fail_all(self) -> None:
        self._judged.put_nowait({"is": "over"})
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError(self.why))
                answer.exception()  # nobody may be waiting

    # ---- what it says ------------------------------------------------------------------------------------------------

    def _heard(self, packet: Packet, descriptors: list[int]) -> None:
        self._channel.closing.take(descriptors)
        match packet["is"]:
            case "warmed" if self.state == "warming":
                self.state = "warm"
                self._imported(packet)
            case "refused" if self.state in {"warming", "warm"}:
                self.state, self.why = "refused", _text(packet.get("why")) or "it must not fork"
                self.blamed = tuple(filter(is_module, _texts(packet.get("leave_out"))))
                self._imported(packet)
                if packet.get("spare") is False:
                    self.milliseconds = None
                    self._condemn(self.why)
            case "forked" | "unforked":
                self._answered(packet)
            case "judged" if self._judged.qsize() < MOST_UNREAD:
                self._judged.put_nowait(packet)

    def _imported(self, packet: Packet) -> None:
        spent = packet.get("ms")
        if isinstance(spent, int | float):
            self.milliseconds = float(spent)
        self.names = (*self.names, *_texts(packet.get("names")))
        self.dotenv = (*self.dotenv, *_texts(packet.get("dotenv")))
        self._limit.cancel()
        self._settled.set()
        self._changed()

    def _answered(self, packet: Packet) -> None:
        self.stale = self.stale or packet.get("stale") is True
        number = packet.get("id")
        answer = self._answers.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            answer.set_result(packet)

    def _over(self, why: str) -> None:
        """The channel's end. A process without one is of no use; a spare that was given away has closed it itself."""
        if self.state != "given" or any(not answer.done() for answer in self._answers.values()):
            if why:
                self._end(why)
            self._hung_up = not self.child.killed
            self.child.send(signal.SIGKILL)


async def _bury(task: asyncio.Task[Child]) -> None:
    """The one who asked has gone: the instance goes too."""
    try:
        child = await task
    except (NotWarm, OSError):
        return
    child.send(signal.SIGKILL)
    await child.wait()
    await spawn.sweep(child.mark, child)


def _adopted(pid: int, order: Order) -> Child:
    """Raises NotWarm for what is not a process of ours, marked and in its own session."""
    found = procfs.look(pid)
    if found is None or found.parent != os.getpid() or found.session != pid or pid in living:
        raise NotWarm("what its template forked is not a child of the supervisor")
    if tag_in(pid) != tag_of(order.mark):
        raise NotWarm("an instance cannot be marked here, so that it could not be told from its template")
    offer(pid)
    try:
        return Child(pid, order.program, order.mark)
    except OSError as error:
        raise NotWarm(f"it cannot be watched: {error.strerror}") from error


@contextlib.contextmanager
def _expecting(mark: str) -> Iterator[None]:
    expected.add(tag_of(mark))
    try:
        yield
    finally:
        expected.discard(tag_of(mark))


@contextlib.contextmanager
def _source(stdin: int | None) -> Iterator[int]:
    if stdin is not None:
        yield stdin
        return
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield null
    finally:
        os.close(null)


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value[:LONGEST_REASON] if isinstance(value, str) else ""
