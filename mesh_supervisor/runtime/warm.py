"""A warm process: it has imported what an agent will import, calls nothing in it, and waits on its channel.

Asked, it forks the instance (a template) or becomes it (a spare). Either way `serve` returns in the process that is the
instance, to the top level of ``__main__``, and the rest goes as for a cold start.

Packets, host → guest:

``warm``    {"modules": [names], "trial": bool, "more": bool}. Imported in this order, one by one. ``more`` (default
            false): another ``warm`` with further names follows at once (a packet holds about 3,500 names). ``trial``: a
            template; try whether it may fork. The ``trial`` of the last one counts.
``judge``   {"modules": [names]}. Only to a process that was warmed with no modules; it serves nothing else afterwards
            and is to be closed when it has answered. See judge.py.
``start``   as in the contract. ``environ``: complete; ``files``, ``umask``: null leaves what the warm process has.
            ``environ`` and the like have to fit into one packet.

Guest → host, while warming:

``warmed``  {"ms": float, "failed": {module: why}, "fork": bool, "why": str, "needed": [names]}. ``failed``: left out,
            nothing is wrong with the rest. ``fork`` false where no trial was asked for. ``needed``: those of
            ``modules`` that were not there yet when their turn came: enough to ask for next time, a tenth as many.
            Also {"names", "added", "dotenv"} as in learn.py: what was asked of the environment here.
``refused`` {"why": str, "spare": bool, "leave_out": [names]} and all that ``warmed`` has. It must not fork.
            ``spare``: it may become an instance (true unless what was imported brought in project code). ``leave_out``:
            the names in ``modules`` that made it so, as far as that is known: a new one without them may do. After
            ``spare`` false the process ends by itself. Also said later (without the rest), when a template is found to
            have threads.

Guest → host, for each ``start``:

``forked``   {"id", "pid"}. The instance leads a session, carries its tag, is the child of ``parent`` and will die with
             it. A spare says it of itself, then waits (at most 1 s) until its warm channel is closed by the host.
``unforked`` {"id", "why", "stale": bool, "hides": str}. Nothing was started; start it cold. ``stale``: the installed
             packages are not those that were imported: renew the warm process. ``hides``: a file of the program that
             has the name of a module that is loaded already ("agents/queue.py"): this agent is not for this template.

A warm process whose channel ends, exits at once; what it forked lives on.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from .link import Link, Message

if TYPE_CHECKING:
    from .become import Order
    from .preload import Preload

_at_start = frozenset(sys.modules)
"""What a cold instance has loaded as well, before its program begins."""

_MOST_FAILED = 100
_FAREWELL = 1000
"""Milliseconds."""

Instance = tuple[Message, list[int], Link]


def serve(link: Link) -> Instance:
    """Returns in the instance: its `start` packet, the descriptors of ``held``, and its own link. Every other way ends
    the process.
    """
    from .preload import Preload

    sys.argv = [""]
    modules: list[str] = []
    warm: _Warm | None = None
    preload = Preload()
    while True:
        message, descriptors = _next(link)
        if message["is"] == "warm":
            modules += message["modules"]
            if not message.get("more"):
                warm = _Warm(link, preload, modules, bool(message.get("trial")))
        elif message["is"] == "judge":
            from .judge import judge

            judge(link, preload, message["modules"])
        elif message["is"] == "start" and warm is not None:
            instance = warm.start(message, descriptors)
            if instance is not None:
                return instance
            continue
        for fd in descriptors:
            os.close(fd)


def _next(link: Link) -> tuple[Message, list[int]]:
    try:
        heard = link.hear()
    except (OSError, ValueError):
        heard = None
    if heard is None:
        os._exit(0)  # nothing that was imported is to do something now
    return heard


class _Warm:
    """A process with everything imported. Its constructor imports, and tells the host."""

    def __init__(self, link: Link, preload: Preload, modules: list[str], trial: bool) -> None:
        self._link, self._preload = link, preload
        began = time.monotonic()
        preload.bring_all(modules)
        self._imported = preload.settle()
        why = preload.why_not_fork() if trial else "it was not to be tried"
        self._forks = trial and not why
        self._tell(trial, why, round((time.monotonic() - began) * 1000, 1))
        self._names = {name.partition(".")[0] for name in sys.modules.keys() - _at_start}

    def _tell(self, trial: bool, why: str, ms: float) -> None:
        preload = self._preload
        failed = dict([*preload.failed.items()][:_MOST_FAILED])
        fields: dict[str, object] = {"ms": ms, "failed": failed, "needed": preload.needed, **preload.lookups.found()}
        if preload.strangers:
            why = f"what it has imported brings in project code: {preload.strangers[0]}"
            fields["leave_out"] = preload.leave_out
            self._link.tell("refused", why=why, spare=False, **fields)
            os._exit(0)
        if trial and why:
            self._link.tell("refused", why=why, spare=True, leave_out=preload.leave_out, **fields)
        else:
            self._link.tell("warmed", fork=self._forks, why=why, **fields)

    # ---- an instance -------------------------------------------------------------------------------------------------

    def start(self, start: Message, descriptors: list[int]) -> Instance | None:
        """None in the process that goes on waiting."""
        from .become import Order

        try:
            order = Order(start, descriptors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._decline(start, descriptors, f"the request makes no sense: {type(error).__name__}: {error}")
            return None
        hidden = self._hidden(order)
        if hidden:
            self._decline(start, descriptors, f"{hidden} has the name of a module that is loaded already", hides=hidden)
        elif not self._preload.installed.still():
            self._decline(start, descriptors, "the installed packages have changed", stale=True)
        elif start.get("become"):
            return self._become(start, order)
        else:
            return self._fork(start, order)
        return None

    def _decline(self, start: Message, descriptors: list[int], why: str, **fields: object) -> None:
        for fd in descriptors:
            os.close(fd)
        self._link.tell("unforked", **{"id": start.get("id"), "why": why, "stale": False, "hides": "", **fields})

    def _hidden(self, order: Order) -> str:
        """A cold start would import the program's own file of that name."""
        from .program import is_safe

        if is_safe():
            return ""
        folder = order.directory
        if order.kind == "script":
            path = os.path.join(folder, order.name)
            folder = path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))
        try:
            entries = os.listdir(folder)
        except OSError:
            return ""
        for entry in entries:
            if entry.partition(".")[0] in self._names and _is_module(os.path.join(folder, entry)):
                return os.path.join(folder, entry)
        return ""

    def _become(self, start: Message, order: Order) -> Instance | None:
        from .become import put_on, settle

        try:
            settle(order, None)
        except OSError as error:
            self._decline(start, order.received, f"it cannot become it: {error.strerror}")
            return None
        self._link.tell("forked", id=start["id"], pid=os.getpid())
        _wait_for_end(self._link)
        self._link.close()
        put_on(order, self._imported, forked=False)
        return start, order.held, Link(order.channel)

    def _fork(self, start: Message, order: Order) -> Instance | None:
        from .become import put_on, settle
        from .double_fork import double_fork

        why = self._preload.why_not_now(order.received) if self._forks else "it must not fork"
        if why:
            self._refuse(why)
            self._decline(start, order.received, why)
            return None
        try:
            pid, why = double_fork(lambda middle: settle(order, middle))
        except OSError as error:
            pid, why = -1, f"it cannot be forked: {error.strerror}"
        if pid == 0:
            self._link.close()
            put_on(order, self._imported, forked=True)
            return start, order.held, Link(order.channel)
        if pid < 0:
            self._decline(start, order.received, why)
            return None
        for fd in order.received:
            os.close(fd)
        self._link.tell("forked", id=start["id"], pid=pid)
        return None

    def _refuse(self, why: str) -> None:
        if self._forks:
            self._forks = False
            self._link.tell("refused", why=why, spare=True, leave_out=[])


def _is_module(path: str) -> bool:
    """A folder without ``__init__`` hides nothing."""
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, "__init__.py"))
    return path.endswith((".py", ".pyc", ".so"))


def _wait_for_end(link: Link) -> None:
    """The host has taken notice: only then is the end of this channel no bad news to it."""
    import select

    waiting = select.poll()
    waiting.register(link.descriptor, select.POLLIN)
    waiting.poll(_FAREWELL)
