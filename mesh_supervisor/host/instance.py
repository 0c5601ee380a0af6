"""One instance from its spawn to its end: its process, its output, its readiness, its liveness, what it leaves.

What agent.py calls a Process. It finds out; what follows from it is decided in lifecycle.py.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGKILL
from typing import Protocol
from urllib.parse import urlsplit

from mesh_supervisor.errors import NotReady, RegistryError
from mesh_supervisor.host import notify, probes, procfs
from mesh_supervisor.host.capture import Capture
from mesh_supervisor.host.children import Child, Program
from mesh_supervisor.host.guest import Guest
from mesh_supervisor.host.handed import Queue
from mesh_supervisor.host.lastwords import Failure
from mesh_supervisor.host.lines import Line
from mesh_supervisor.host.memory import OutOfMemory
from mesh_supervisor.host.ports import listeners
from mesh_supervisor.host.sockets import Held
from mesh_supervisor.host.spawn import Swept, is_below, stop, sweep, tree
from mesh_supervisor.lifecycle import Ended
from mesh_supervisor.spec import AgentSpec, ExecProbe, HttpProbe, LogProbe, NotifyProbe, Probe, TcpProbe

SETTLED_AFTER = 1.0
"""Seconds alive after which a program that has no port and no probe counts as ready."""

FIRST_PAUSE = 0.02
PAUSE_SHARE = 0.1
"""While starting, the next probe comes after this share of the time that has passed, at least FIRST_PAUSE and at most
the interval of mesh.toml: readiness is seen at most a tenth late, and slow starters are not pestered."""

SLOW_AFTER = 30.0
"""Seconds after which waiting for readiness is reported once."""

HINT_AFTER = 5.0
"""Seconds after which a program that listens, but elsewhere than on its port, is told so."""

SDK_HEALTH = "/health"

EXIT_PATIENCE = 2.0
"""Seconds between the end of a channel and the end of its process, which may still flush, or write a core."""

LEAST_GRACE = 0.5
"""Seconds that its signal gets after a drain that took all of ``stop.timeout``."""

_IN_USE = re.compile(r"\b(already )?in use\b|\balready taken\b|EADDRINUSE|\b(Errno|os error) 98\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a self-registering agent says it can be reached. Its endpoint in the registry."""

    host: str
    port: int


class Enrolled(Protocol):
    """What an agent that registers itself must reach before it counts as ready."""

    async def __call__(self) -> Place | None:
        """Where this generation is registered as healthy; None: not yet. Raises RegistryError: nobody can tell."""


@dataclass(frozen=True, slots=True)
class Watchers:
    """What an instance tells those around it. Called in the event loop; must not block. ``memory``: knows why somebody
    was killed."""

    line: Callable[[Line], None]
    slow: Callable[[str], None]
    status: Callable[[str], None]
    swept: Callable[[list[Swept]], None]
    memory: OutOfMemory = field(default_factory=OutOfMemory)


class Starter(Protocol):
    """How the process comes to be: spawned, or warm (host/starting.py)."""

    async def __call__(self, program: Program, *, output: int, mark: str) -> Child:
        """Raises SpawnError; OSError without descriptors. Cancelled, it leaves no process."""


class Instance:
    """``start`` comes first. ``mark``: OWNER/agent/generation. ``guest``: the runtime that will be in its process.

    ``enrolled`` is asked of agents that register themselves: they are not ready before they are registered.
    ``handed``: the listening socket that it gets as descriptor 3.
    """

    child: Child
    spawned_at: float

    def __init__(
        self,
        spec: AgentSpec,
        mark: str,
        generation: int,
        watchers: Watchers,
        enrolled: Enrolled | None,
        guest: Guest | None = None,
        handed: Held | None = None,
    ) -> None:
        self.spec, self.mark, self.generation = spec, mark, generation
        self._watchers, self._enrolled, self.guest, self._handed = watchers, enrolled, guest, handed
        self._loop = asyncio.get_running_loop()
        self._was_ready = False
        self._said = "nothing yet"
        self._pattern = _pattern_of(spec)
        self._saw_pattern = asyncio.Event()
        self._said_ready = asyncio.Event()
        self._watchdog = asyncio.Event()
        self._watchdog_every = spec.live.interval if spec.live is not None else 0.0
        self._tripped = False
        self._deadline: asyncio.Timeout | None = None
        self._notify: notify.NotifySocket | None = None
        try:
            self._notify = notify.NotifySocket(self._is_mine, self._notice) if _notifies(spec) else None
            self._capture = Capture(spec.name, generation, self._line)
        except OSError:
            self._close_others()
            raise

    async def start(self, program: Program, starter: Starter) -> None:
        """Raises SpawnError; OSError without descriptors. Then, and when it is cancelled, there is no process."""
        self._watchers.memory.look()
        try:
            self.child = await starter(self._told(program), output=self._capture.output, mark=self.mark)
        except BaseException:
            self._close()
            raise
        self._capture.release_output()
        if self._notify is not None:
            self._notify.hear()
        self.spawned_at = self._loop.time()

    @property
    def said(self) -> str:
        """What its readiness probe said last."""
        return self._said

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def program(self) -> Program:
        return self.child.program

    def _told(self, program: Program) -> Program:
        if self._notify is None:
            return program
        told = {**program.environ, "NOTIFY_SOCKET": self._notify.address}
        live = self.spec.live
        if live is not None and isinstance(live.probe, NotifyProbe):
            told["WATCHDOG_USEC"] = str(int(live.interval * 1_000_000))
        return replace(program, environ=told)

    def alone(self) -> str | None:
        """Why no other may live beside it; None: its sockets can be handed over, and it waits for its turn."""
        guest = self.guest
        if guest is None:
            return "the runtime is not in its process"
        if not guest.open:
            return "it closed its channel to meshsup"
        for what in ("runtime", "sockets", "gate", "drain"):
            if what in guest.limits:
                return guest.limits[what]
        if not procfs.ours:
            return "without a /proc nobody can tell which ports it has bound besides"
        unseen = sorted({port for _, port in listeners(tree(self.child.pid), but=guest.inodes)})
        if unseen:
            return f"port {unseen[0]} is bound where the runtime does not see it"
        if isinstance(self.spec.ready.probe, ExecProbe):
            return "a command asks whether it is ready, and its predecessor would answer that"
        if guest.by_hand:
            return f"it accepts by hand on port {guest.by_hand[0]}, so that it cannot be told to wait"
        if not guest.listening:
            return "it listens on no port, so that two of it could do the same work twice"
        return None

    def beside_another(self) -> bool:
        """Whether another generation of the agent lives."""
        return False

    def why_taken(self) -> str:
        """Why somebody else has the address that it wants to bind; "": not by what mesh.toml says."""
        return ""

    # ---- its end -----------------------------------------------------------------------------------------------------

    async def stop(self, *, at_once: bool, replaced: bool) -> None:
        """``replaced``: another generation serves, so that streams may go on for ``drain`` seconds."""
        rule = self.spec.stop
        if at_once:
            await stop(self.child, SIGKILL, 0.0)
            return
        began = self._loop.time()
        if self.guest is not None and self.guest.open and self.guest.has(None):
            await self.guest.drain(self.spec.drain if replaced else rule.timeout, close_idle=not replaced)
            if replaced:
                await self._retired()
        used = 0.0 if replaced else self._loop.time() - began
        await stop(self.child, rule.signal, max(rule.timeout - used, min(rule.timeout, LEAST_GRACE)))

    async def _retired(self) -> None:
        """Another generation serves, and this one has nothing left to do but to end."""

    async def ended(self) -> Ended:
        """Waits for the exit, sweeps what it left, reads its output to the end."""
        how = await self.child.wait()
        how = self._watchers.memory.explained(how, ours=self.child.killed, peak=self.child.peak)
        swept = await sweep(self.mark, self.child)
        if swept:
            self._watchers.swept(swept)
        await self._capture.finished()
        failure = self._capture.failure()
        self._close()
        if not how.code:
            return Ended(how)
        words = "; ".join(filter(None, (_with_place(failure, self.spec.directory), how.last_words)))
        if self._was_ready:
            return Ended(replace(how, last_words=words))
        in_use = _IN_USE.search(failure.words) is not None
        crowded = self._was_crowded(in_use)
        if in_use and not crowded and (why := self.why_taken()):
            words = f"{words}: {why}"
        return Ended(replace(how, last_words=words), failure.loading, crowded)

    def _was_crowded(self, in_use: bool) -> bool:
        """Its predecessor has what it wanted to bind: seen, or in its last words where we cannot see (Rust, C)."""
        return self.guest is not None and bool(self.guest.offered_ports) and (self.guest.crowded or in_use)

    def _close(self) -> None:
        self._capture.close()
        self._close_others()

    def _close_others(self) -> None:
        if self._notify is not None:
            self._notify.close()
        if self.guest is not None:
            self.guest.close()

    # ---- what it says ------------------------------------------------------------------------------------------------

    def _line(self, line: Line) -> None:
        if self._pattern is not None and not self._saw_pattern.is_set() and self._pattern.search(line.text):
            self._saw_pattern.set()
        self._watchers.line(line)

    def _is_mine(self, pid: int) -> bool:
        """Anybody may have it asked, so it is quick. Not by uid: an agent may run by sudo, or have given up root."""
        if pid <= 0:  # of another PID namespace
            return False
        return pid == self.child.pid or _is_in_session(pid, self.child.pid) or is_below(pid, self.child.pid)

    def _notice(self, notice: notify.Notice) -> None:
        match notice:
            case notify.Ready():
                self._said_ready.set()
            case notify.Status(text):
                self._watchers.status(text)
            case notify.Watchdog():
                self._watchdog.set()
            case notify.WatchdogTripped():
                self._tripped = True
                self._watchdog.set()
            case notify.WatchdogEvery(seconds):
                self._watchdog_every = seconds
                self._watchdog.set()
            case notify.ExtendTimeout(seconds):
                self._extend(seconds)

    def _extend(self, seconds: float) -> None:
        """EXTEND_TIMEOUT_USEC never shortens what mesh.toml grants."""
        if self._deadline is not None and not self._deadline.expired():
            until = self._deadline.when()
            self._deadline.reschedule(max(self._loop.time() + seconds, until or 0.0))

    # ---- readiness ---------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Returns when it is ready. Raises NotReady after ``start_timeout`` seconds from the spawn."""
        limit = self.spec.start_timeout
        hint = self._loop.call_at(self.spawned_at + HINT_AFTER, self._report_elsewhere)
        reminder = self._loop.call_at(self.spawned_at + SLOW_AFTER, self._report_slow)
        try:
            async with asyncio.timeout_at(self.spawned_at + limit) as self._deadline:
                await self._become_ready()
        except TimeoutError:
            raise NotReady(f"not ready after {limit:g} s ({self._said})") from None
        finally:
            self._deadline = None
            hint.cancel()
            reminder.cancel()
        self._was_ready = True

    def _report_slow(self) -> None:
        self._watchers.slow(f"not ready after {SLOW_AFTER:g} s, still waiting ({self._said})")

    def _report_elsewhere(self) -> None:
        """The commonest reason why an agent with a port never gets ready: it does not read PORT."""
        wanted = self.spec.port
        ports = sorted({port for _, port in listeners(tree(self.child.pid))})
        if wanted is not None and ports and wanted not in ports:
            told = ", ".join(map(str, ports))
            self._said = f"it listens on port {told}, not on {wanted}"
            self._watchers.slow(f"{self._said}: make it read PORT, or change port in mesh.toml")

    async def _become_ready(self) -> None:
        if self._handed is not None and self.beside_another():
            # On that socket its predecessor accepts and answers too: all that can be told is whether it stays.
            await self._settle()
        if self._enrolled is not None:
            await self._answer_where_registered(self._enrolled)
        elif self.spec.ready.probe is not None:
            await self._answer(self.spec.ready.probe)
        elif self._handed is not None:
            await self._accept(self._handed)
        elif self.spec.port is not None:
            await self._until(self._listens)
        else:
            await self._settle()

    async def _settle(self) -> None:
        self._said = "it has just been started"
        await asyncio.sleep(SETTLED_AFTER)

    async def _answer(self, probe: Probe) -> None:
        match probe:
            case LogProbe(pattern):
                self._said = f"no line of its output matches {pattern!r}"
                await self._saw_pattern.wait()
            case NotifyProbe():
                self._said = "it has not said READY=1"
                await self._said_ready.wait()
            case _:
                await self._until(lambda: self._ask(probe, self.spec.ready.timeout))

    async def _answer_where_registered(self, enrolled: Enrolled) -> None:
        """MCP Mesh's SDK is up long before it is registered, and registers whatever port it got: see facts.md."""
        place = await self._registered_place(enrolled)
        if self.spec.port is not None and place is not None and place.port != self.spec.port:
            raise NotReady(
                f"it registered port {place.port} instead of {self.spec.port}: something else had that port "
                f"when it started"
            )
        probe = self.spec.ready.probe
        if probe is None and (place is not None or self.spec.port is not None):
            host, port = (place.host, place.port) if place is not None else (self.spec.host, self.spec.port)
            probe = HttpProbe(_url(SDK_HEALTH, _connectable(host), port))
        if probe is not None:
            await self._answer(probe)

    async def _registered_place(self, enrolled: Enrolled) -> Place | None:
        found: list[Place] = []

        async def registered() -> probes.Probed:
            place = await enrolled()
            if place is not None:
                found.append(place)
            return probes.Probed(place is not None, "it has not registered yet")

        try:
            await self._until(registered)
        except RegistryError:
            return None  # nobody can tell: readiness does not wait for a registry that is down
        return found[0]

    async def _until(self, ask: Callable[[], Awaitable[probes.Probed]]) -> None:
        while True:
            if self.guest is not None:
                self.guest.changed.clear()
            answer = await ask()
            self._said = answer.said
            if answer.ok:
                return
            passed = self._loop.time() - self.spawned_at
            await self._pause(min(self.spec.ready.interval, max(FIRST_PAUSE, passed * PAUSE_SHARE)))

    async def _pause(self, seconds: float) -> None:
        """Or until the guest has news."""
        if self.guest is None:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.guest.changed.wait()

    async def _accept(self, handed: Held) -> None:
        """Something waits there in any case: a connection of ours."""
        await probes.tcp(_connectable(self.spec.host), handed.port, self.spec.ready.timeout)
        queue = Queue(handed)
        if not queue.known:
            await self._settle()
            return

        async def accepts() -> probes.Probed:
            return queue.look()

        await self._until(accepts)

    async def _listens(self) -> probes.Probed:
        """Its port accepts, and it is a process of this instance that listens there, not a stranger."""
        port = self.spec.port
        assert port is not None
        if self.guest is not None and self.guest.has(port):
            return self._serves(self.guest, port)
        answer = await probes.tcp(_connectable(self.spec.host), port, self.spec.ready.timeout)
        if not answer.ok or self._listens_itself(port):
            return answer
        if self.guest is not None and port in self.guest.offered_ports:
            return probes.Probed(False, f"it has not bound port {port} yet")
        return probes.Probed(False, f"port {port} is taken: {self.why_taken() or 'another program listens there'}")

    def _predecessors(self, port: int) -> probes.Probed | None:
        """What an answer on its port would be worth; None: it would be its own. A plain program's predecessor has that
        port, and would answer for it."""
        on_its_own = self.guest is None or not self.guest.current
        if on_its_own and port == self.spec.port and self.beside_another() and not self._listens_itself(port):
            return probes.Probed(False, f"port {port} is taken: {self.why_taken()}")
        return None

    def _listens_itself(self, port: int) -> bool:
        """Without a /proc whoever accepts there is believed, where nobody did before its start: neither a predecessor,
        nor we, who hold the socket for it."""
        if not procfs.ours:
            return not self.beside_another() and (self.guest is None or port not in self.guest.offered_ports)
        but = self.guest.inodes if self.guest is not None else frozenset[int]()
        return any(found == port for _, found in listeners(tree(self.child.pid), but=but))

    @staticmethod
    def _serves(guest: Guest, port: int) -> probes.Probed:
        if guest.serves(port):
            return probes.Probed(True, f"it serves port {port}")
        if "gate" in guest.limits and any(one.port == port for one in guest.listening):
            return probes.Probed(True, f"it listens on port {port}")  # its workers do, which have no runtime
        return probes.Probed(False, f"it has bound port {port} and does not serve yet")

    async def _ask(self, probe: Probe, timeout: float) -> probes.Probed:
        host = _connectable(self.spec.host)
        match probe:
            case HttpProbe(target):
                return await self._ask_http(_url(target, host, self.spec.port), timeout)
            case TcpProbe(port):
                wanted = port if port is not None else self.spec.port
                assert wanted is not None  # config.py refuses a tcp probe without any port
                guest = self.guest
                if guest is not None and not guest.current and wanted in guest.offered_ports:
                    return self._serves(guest, wanted)
                return self._predecessors(wanted) or await probes.tcp(host, wanted, timeout)
            case ExecProbe(argv):
                return await probes.exec_(replace(self.program, argv=argv), timeout, mark=f"{self.mark}/probe")
            case _:
                raise AssertionError(f"not a question: {probe}")

    async def _ask_http(self, url: str, timeout: float) -> probes.Probed:
        """Through a connection of its own where there is one: on a shared socket its predecessor would answer."""
        guest, port = self.guest, _port_of(url, self.spec.host)
        if guest is None or guest.current or not (guest.has(port) or port in guest.offered_ports):
            return self._predecessors(port) or await probes.http(url, timeout)
        if not guest.open:
            return self._deaf(guest)
        served = self._serves(guest, port)
        if not served.ok:
            return served
        try:
            async with asyncio.timeout(timeout):
                through = await guest.knock(port)
        except TimeoutError:
            return probes.Probed(False, f"its server takes no connection within {timeout:g} s")
        except OSError as error:
            return probes.Probed(False, f"no private connection to it: {error.strerror or error}")
        # Without one it accepts on its own, and then nobody else lives beside it.
        return await probes.http(url, timeout, through=through)

    def _deaf(self, guest: Guest) -> probes.Probed:
        """Its channel is closed. Mostly that is how it ends, which is seen a moment later; else nothing can be said of
        it any more. Raises NotReady."""
        said = "it closed its channel to meshsup, so nobody can tell whether it or its predecessor answers"
        if guest.deaf_since is not None and self._loop.time() > guest.deaf_since + EXIT_PATIENCE:
            raise NotReady(said)
        return probes.Probed(False, said)

    # ---- liveness ----------------------------------------------------------------------------------------------------

    async def unwell(self) -> str:
        live = self.spec.live
        if live is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        if isinstance(live.probe, NotifyProbe):
            return await self._watchdog_barks()
        failures = 0
        while True:
            await asyncio.sleep(live.interval)
            answer = await self._ask(live.probe, live.timeout)
            failures = 0 if answer.ok else failures + 1
            if failures >= live.failures:
                return f"not live: {answer.said} ({failures} times in a row)"

    async def _watchdog_barks(self) -> str:
        while not self._tripped:  # it may have said so before anybody asked
            self._watchdog.clear()
            try:
                async with asyncio.timeout(self._watchdog_every):
                    await self._watchdog.wait()
            except TimeoutError:
                return f"not live: no WATCHDOG=1 for {self._watchdog_every:g} s"
        return "not live: it said WATCHDOG=trigger"


def _is_in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except OSError:  # gone
        return False


def _with_place(failure: Failure, directory: Path) -> str:
    """``KeyError: 'key' (agents/planner.py:13)``, so that the place can be clicked at."""
    if failure.file is None or failure.line is None or f":{failure.line})" in failure.words:
        return failure.words
    file = Path(failure.file)
    shown = file.relative_to(directory) if file.is_relative_to(directory) else file
    return f"{failure.words} ({shown}:{failure.line})"


def _notifies(spec: AgentSpec) -> bool:
    probing = (spec.ready.probe, spec.live.probe if spec.live is not None else None)
    return any(isinstance(probe, NotifyProbe) for probe in probing)


def _pattern_of(spec: AgentSpec) -> re.Pattern[str] | None:
    return re.compile(spec.ready.probe.pattern) if isinstance(spec.ready.probe, LogProbe) else None


def _connectable(host: str) -> str:
    """Where to connect for something that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _port_of(url: str, host: str) -> int:
    """0 for what is on another machine, or is no URL: then it is asked in public."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.hostname in _LOCAL or parts.hostname == host:
            return parts.port or (443 if parts.scheme == "https" else 80)
    return 0


_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})


def _url(target: str, host: str, port: int | None) -> str:
    if not target.startswith("/"):
        return target
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{target}"
