"""One instance's output: a pipe, read on the event loop, handed on as lines."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
from collections import deque
from collections.abc import Callable
from time import perf_counter, time

from mesh_supervisor.host.lastwords import TAIL, Failure, read_failure
from mesh_supervisor.host.lines import LONGEST_LINE, Line, LineSplitter, readable

SLICE = 0.002
"""Seconds of one turn of the event loop that all output that waits may take. A flood goes on in the next turn."""

PIPE_SIZE = 256 * 1024
"""Bytes that an agent may be ahead of us. Larger ones would use up what Linux grants one user (64 MiB in all)."""

LONGEST_TAIL_LINE = 2000
LONGEST_WAIT = 5.0
"""Seconds after which ``finished`` gives up on a survivor that keeps writing."""

_behind: set[Capture] = set()
"""Those with lines left over from an earlier turn; they share a slice."""


class Capture:
    """Owns a pipe. Give ``output`` to the program as stdout and stderr, then ``release_output()``.

    ``on_line`` gets every line, in the event loop. It must not block, and what cannot keep up behind it (a terminal, a
    disk) drops lines instead: an agent never waits for those. It waits at most for this reader, which in a flood takes
    lines as fast as they can be handled in slices, and loses none.
    """

    def __init__(
        self, agent: str, generation: int, on_line: Callable[[Line], None], *, clock: Callable[[], float] = time
    ) -> None:
        self.agent, self.generation = agent, generation
        self._on_line, self._clock = on_line, clock
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter()
        self._waiting: deque[bytes] = deque()  # lines that were read and not handed on yet
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._ended = asyncio.Event()
        self._source: int | None
        self._source, self._output = os.pipe()
        self._output_open = True
        os.set_blocking(self._source, False)
        with contextlib.suppress(OSError):  # over the user's limit: the default size does too
            fcntl.fcntl(self._source, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._listening = False
        self._listen()

    @property
    def output(self) -> int:
        """The writing end, for the program."""
        return self._output

    def release_output(self) -> None:
        """Close our copy of the writing end: while it is open the end of the output cannot be seen."""
        if self._output_open:
            self._output_open = False
            os.close(self._output)

    async def finished(self, grace: float = 0.25) -> None:
        """After the program's exit: wait until its output is read to the end.

        What it left behind can hold the pipe open, so this waits ``grace`` seconds for the end, and longer only while
        there is something to read.
        """
        patience = self._loop.time() + LONGEST_WAIT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._ended.wait()
        while not self._ended.is_set() and self._more() and self._loop.time() < patience:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5 * SLICE):
                    await self._ended.wait()

    def close(self) -> None:
        """Stop reading; what was read is handed on at once. Safe to call twice."""
        self.release_output()
        self._end()
        while self._waiting:
            self._hand_on(self._waiting.popleft(), self._clock())
        self._ended.set()

    # ---- why it ended ------------------------------------------------------------------------------------------------

    def failure(self) -> Failure:
        """What the last lines say about why the program ended."""
        return read_failure(tuple(self._tail))

    def last_words(self) -> str:
        """The exception in one line (a syntax error with ``(file:line)``), else the last line that is not empty."""
        return self.failure().words

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._source is None:
            return
        try:
            chunk = os.read(self._source, LONGEST_LINE)
        except BlockingIOError:
            return
        if chunk:
            self._waiting.extend(self._splitter.feed(chunk))
        else:
            self._end()
        self._go_on()

    def _go_on(self) -> None:
        """Hand on lines for one slice. While some are left nothing more is read: what is held stays small."""
        until = perf_counter() + SLICE / max(1, len(_behind))
        at = self._clock()
        while self._waiting:
            for _ in range(min(32, len(self._waiting))):
                self._hand_on(self._waiting.popleft(), at)
            if perf_counter() > until:
                break
        _behind.discard(self)
        if self._waiting:
            _behind.add(self)
            self._pause()
            self._loop.call_soon(self._go_on)
        elif self._source is None:
            self._ended.set()
        else:
            self._listen()

    def _hand_on(self, raw: bytes, at: float) -> None:
        text, styled = readable(raw)
        self._tail.append(text if len(text) <= LONGEST_TAIL_LINE else text[:LONGEST_TAIL_LINE])
        self._on_line(Line(at, self.agent, self.generation, text, styled))

    def _more(self) -> bool:
        if self._waiting or self._source is None:
            return bool(self._waiting)
        return _readable(self._source)

    def _listen(self) -> None:
        if not self._listening and self._source is not None:
            self._listening = True
            self._loop.add_reader(self._source, self._read)

    def _pause(self) -> None:
        if self._listening and self._source is not None:
            self._listening = False
            self._loop.remove_reader(self._source)

    def _end(self) -> None:
        if self._source is None:
            return
        self._pause()
        os.close(self._source)
        self._source = None
        self._waiting.extend(self._splitter.rest())


def _readable(source: int) -> bool:
    poll = select.poll()  # not select(): it cannot see descriptors above 1023
    poll.register(source, select.POLLIN)
    return bool(poll.poll(0))
