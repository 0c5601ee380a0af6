"""PURE. One agent's life: three truths (wish, instances, patience), events that change them, effects that follow.

``advance(agent, event, now, policy)`` returns the next agent and what is to be done. Nothing here has a clock, a
process or a socket; time is an argument, monotonic, in seconds. agent.py feeds it and carries out the effects.

How it works:

* *wish* says whether the agent should run. Only people and configuration change it.
* *instances* are what lives: ``serving`` (ready), ``incoming`` (started, not ready yet), ``draining`` (told to go).
* ``pending`` is the intention to start one more instance. ``_settle`` is the only place that turns it into an
  instance, and it does so only when the order allows it: stop-first never has two instances alive at once.
* *patience* counts crashes and says when to try again. ``next_wake`` tells the shell when to send the next Tick.

News about a generation that is no longer what it was are ignored: every event about an instance carries its number.
The status word is derived (``phase``), never stored.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mesh_supervisor.spec import Backoff, CrashLoop, Kind, Restart

JITTER = 0.2
"""A delay is spread by this share to both sides, so that agents that died together do not come back together."""

SIGNALLED = 128
"""Exit code, less the number of the signal, of a program that says by it which signal ended it."""

MOST_DRAINING = 2
"""Older generations than these are killed, so that saving often cannot pile up processes."""


class Wish(StrEnum):
    UP = "up"
    DOWN = "down"


class Order(StrEnum):
    START_FIRST = "start-first"
    STOP_FIRST = "stop-first"


class Cause(StrEnum):
    """Why an instance was started."""

    START = "start"
    RELOAD = "reload"
    RESTART = "restart"
    CRASH = "crash"


class Phase(StrEnum):
    """The words that ``ps`` shows."""

    STOPPED = "stopped"
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RELOADING = "reloading"
    DRAINING = "draining"
    BACKOFF = "backoff"
    CRASHLOOP = "crashloop"
    FAILED = "failed"
    DONE = "done"


# ---- values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: an exit code, or the signal that ended it; and the last line of its traceback or output.
    ``why``: the reason for which it was killed, where that is known."""

    code: int | None
    signal: int | None = None
    last_words: str = ""
    why: str = ""

    @property
    def clean(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.why:
            return f"killed: {self.why}"
        how = f"exit {self.code}" if self.signal is None else f"killed by {signal_name(self.signal)}"
        return f"{how}: {self.last_words}" if self.last_words else how


@dataclass(frozen=True, slots=True)
class Ended:
    """An exit, after everything that the instance left behind is gone. ``permanent``, ``crowded``: see Exited."""

    exit: Exit
    permanent: bool = False
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What mesh.toml says about this agent's life. ``dev``: a failure that no retry can mend waits for an edit.
    ``stop_signal``: by which it is asked to go."""

    restart: Restart = Restart.ALWAYS
    backoff: Backoff = Backoff()
    crashloop: CrashLoop = CrashLoop()
    kind: Kind = Kind.SERVICE
    order: Order = Order.STOP_FIRST
    dev: bool = True
    essential: bool = False
    stop_signal: int = signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Start:
    """The intention to start an instance: why, in words for people, and since when it is wanted. ``alone``: not before
    every other one is gone, whatever the order."""

    cause: Cause
    reason: str
    asked_at: float
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """One generation. ``spawned_at`` and ``ready_at`` are None until they happened."""

    generation: int
    start: Start
    spawned_at: float | None = None
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """``crashes``: when, within the window. ``attempts``: crashes since patience was last restored. ``retry_at``: not
    before that. ``looping``: too many crashes in the window, until ready for ``reset_after``, edited or restarted."""

    crashes: tuple[float, ...] = ()
    attempts: int = 0
    retry_at: float | None = None
    looping: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """``generation`` is the last one issued, never reused. ``ended``: how it ended for good (a task, or a policy that
    does not restart). ``blocked``: the dependencies that a first start waits for. ``restarts``: after crashes.
    ``rejected_at``: when ``rejection`` was, by the clock of the events."""

    wish: Wish = Wish.DOWN
    serving: Instance | None = None
    incoming: Instance | None = None
    draining: tuple[Instance, ...] = ()
    pending: Start | None = None
    blocked: tuple[str, ...] = ()
    patience: Patience = Patience()
    rejection: str | None = None
    rejected_at: float = 0.0
    ended: Exit | None = None
    generation: int = 0
    restarts: int = 0

    @property
    def alive(self) -> tuple[Instance, ...]:
        """Every instance that may have a process, the newest first."""
        return tuple(i for i in (self.incoming, self.serving, *self.draining) if i is not None)


def phase(agent: Agent) -> Phase:
    """The one word for this state."""
    if agent.incoming is not None:
        return _phase_while_starting(agent, agent.incoming)
    if agent.serving is not None:
        return Phase.READY
    if agent.draining:
        reload = agent.pending is not None and agent.pending.cause is Cause.RELOAD
        return Phase.RELOADING if reload else Phase.DRAINING
    return _phase_without_instance(agent)


def _phase_while_starting(agent: Agent, incoming: Instance) -> Phase:
    if agent.serving is not None or incoming.start.cause is Cause.RELOAD:
        return Phase.RELOADING
    return Phase.CRASHLOOP if agent.patience.looping else Phase.STARTING


def _phase_without_instance(agent: Agent) -> Phase:
    if agent.wish is Wish.DOWN:
        return Phase.STOPPED
    if agent.ended is not None:
        return Phase.DONE if agent.ended.clean and agent.patience.failure is None else Phase.FAILED
    if agent.patience.looping:
        return Phase.CRASHLOOP
    if agent.patience.retry_at is not None:
        return Phase.BACKOFF
    if agent.pending is not None:
        return Phase.WAITING
    return Phase.FAILED if agent.patience.failure is not None else Phase.STOPPED


# ---- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """``start``: by a person, or by ``up``. Does nothing to an agent that runs."""

    reason: str = "start"


@dataclass(frozen=True, slots=True)
class Unwanted:
    """``stop``, ``down``, or no longer in mesh.toml."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """Hard: stop, then start, whatever the order."""

    reason: str = "restart"


@dataclass(frozen=True, slots=True)
class InputsChanged:
    """What it was started from has changed, and the new code loads as far as can be told without running it."""

    reason: str


@dataclass(frozen=True, slots=True)
class EditRejected:
    """An edit that cannot load (file, line and message in ``text``). ``reason``: what would have been reloaded for."""

    text: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EditUndone:
    """The inputs are again what the serving instance was started from."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Dependencies that are not met; empty: all are."""

    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DependencyReady:
    """Worth another try at once."""


@dataclass(frozen=True, slots=True)
class Spawned:
    generation: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No process came to be: the program or the folder is missing, or the port belongs to somebody else."""

    generation: int
    text: str
    luck: float = 0.5


@dataclass(frozen=True, slots=True)
class BecameReady:
    generation: int


@dataclass(frozen=True, slots=True)
class StartTimedOut:
    generation: int
    text: str
    luck: float = 0.5


@dataclass(frozen=True, slots=True)
class NotLive:
    generation: int
    text: str
    luck: float = 0.5


@dataclass(frozen=True, slots=True)
class Exited:
    """``permanent``: SyntaxError, ImportError or NameError while the program was loaded; no retry can mend that.
    ``crowded``: it ended because its address was taken, by its own predecessor most likely. ``luck``: 0 to 1, drawn by
    the shell, for the jitter."""

    generation: int
    exit: Exit
    permanent: bool = False
    luck: float = 0.5
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """``next_wake`` has come."""


Event = (
    Wanted
    | Unwanted
    | RestartAsked
    | InputsChanged
    | EditRejected
    | EditUndone
    | Blocked
    | DependencyReady
    | Spawned
    | SpawnFailed
    | BecameReady
    | StartTimedOut
    | NotLive
    | Exited
    | Tick
)

# ---- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    generation: int
    start: Start


@dataclass(frozen=True, slots=True)
class Stop:
    """``at_once``: without grace. ``replaced``: another generation serves already, so that streams may be finished.
    An ``Exited`` follows in any case, also when nothing was spawned yet."""

    generation: int
    at_once: bool = False
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Announce:
    """This generation may get traffic."""

    generation: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """This generation takes no traffic any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """An essential agent cannot be kept: the mesh stops and ``up`` exits 1."""

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What happened, for people: one of the kinds of docs/events.md. ``seconds``: how long it took (None: nothing was
    started), or how long until the next try. ``reason``: why what was rejected was wanted."""

    kind: str
    text: str
    generation: int = 0
    seconds: float | None = None
    reason: str = ""


Effect = Spawn | Stop | Announce | Withdraw | GiveUp | Report
Step = tuple[Agent, Sequence[Effect]]


# ---- the machine -----------------------------------------------------------------------------------------------------


def advance(agent: Agent, event: Event, now: float, policy: Policy) -> Step:
    """The next state and what is to be done, in order."""
    match event:
        case Wanted(reason):
            return _want(agent, reason, now, policy)
        case Unwanted():
            return _unwant(agent)
        case RestartAsked(reason):
            return _replace(agent, Start(Cause.RESTART, reason, now), Order.STOP_FIRST, policy)
        case InputsChanged(reason):
            return _reload(agent, reason, now, policy)
        case EditRejected(text, reason):
            return _reject(agent, text, reason, now)
        case EditUndone():
            return _undo(agent)
        case Blocked(on):
            return _settle(replace(agent, blocked=on), policy, [])
        case DependencyReady() | Tick():
            return _try_again(agent, now, policy, at_once=isinstance(event, DependencyReady))
        case Spawned(generation):
            return _spawned(agent, generation, now), []
        case BecameReady(generation):
            return _promote(agent, generation, now, policy)
        case SpawnFailed(generation, text, luck):
            return _without_process(agent, generation, text, now, policy, luck)
        case StartTimedOut(generation, text, luck):
            return _bury(agent, generation, text, now, policy, luck)
        case NotLive(generation, text, luck):
            after, effects = _bury(agent, generation, text, now, policy, luck)
            return after, [Report("not-live", text, generation), *effects] if effects else []
        case Exited():
            return _exited(agent, event, now, policy)


def next_wake(agent: Agent, policy: Policy) -> float | None:
    """When the next Tick is due: a retry, or the moment that restores patience. None: nothing to wait for."""
    if agent.patience.retry_at is not None:
        return agent.patience.retry_at
    if agent.serving is None or agent.serving.ready_at is None or agent.patience == Patience():
        return None
    return agent.serving.ready_at + policy.backoff.reset_after


def _settle(agent: Agent, policy: Policy, effects: list[Effect]) -> Step:
    """The one place where an intention becomes an instance."""
    start = agent.pending
    if start is None or agent.wish is Wish.DOWN or agent.patience.retry_at is not None or agent.incoming:
        return agent, effects
    if start.cause is Cause.START and agent.blocked:
        return agent, effects
    # A restart is always hard; otherwise two generations may live side by side only where the order says so.
    side_by_side = policy.order is Order.START_FIRST and start.cause is not Cause.RESTART and not start.alone
    if agent.alive and not side_by_side:
        return agent, effects
    generation = agent.generation + 1
    agent = replace(agent, generation=generation, incoming=Instance(generation, start), pending=None, ended=None)
    return agent, [*effects, Spawn(generation, start)]


def _want(agent: Agent, reason: str, now: float, policy: Policy) -> Step:
    agent = replace(agent, wish=Wish.UP)
    if agent.incoming or agent.serving:
        return agent, []
    patience = replace(agent.patience, retry_at=None, looping=False, attempts=0, crashes=())
    agent = replace(agent, pending=Start(Cause.START, reason, now), patience=patience, ended=None)
    return _settle(agent, policy, [])


def _unwant(agent: Agent) -> Step:
    agent = replace(agent, wish=Wish.DOWN, pending=None, patience=Patience(), rejection=None, ended=None)
    return _retire_all(agent)


def _retire_all(agent: Agent) -> Step:
    leaving = [i for i in (agent.incoming, agent.serving) if i is not None]
    effects: list[Effect] = [Withdraw(agent.serving.generation)] if agent.serving else []
    # Those that drain already may have been given time for their streams, which they have no more.
    effects += [Stop(i.generation) for i in (*leaving, *agent.draining)]
    return replace(agent, incoming=None, serving=None, draining=(*leaving, *agent.draining)), effects


def _replace(agent: Agent, start: Start, order: Order, policy: Policy) -> Step:
    """A new instance instead of the present ones: the old ones go first, or (start-first) only an older newcomer."""
    agent = replace(agent, wish=Wish.UP, pending=start, patience=Patience(), rejection=None, ended=None)
    if order is Order.STOP_FIRST:
        agent, effects = _retire_all(agent)
        return _settle(agent, policy, list(effects))
    effects = []
    if agent.incoming is not None:
        # Two saves in a row: the newest wins, the newcomer of the first never gets a request.
        effects.append(Stop(agent.incoming.generation))
        agent = replace(agent, draining=(agent.incoming, *agent.draining), incoming=None)
    return _settle(agent, policy, [*effects, *_kill_the_oldest(agent)])


def _kill_the_oldest(agent: Agent) -> list[Effect]:
    return [Stop(i.generation, at_once=True) for i in agent.draining[MOST_DRAINING:]]


def _reload(agent: Agent, reason: str, now: float, policy: Policy) -> Step:
    if agent.wish is Wish.DOWN:
        return replace(agent, rejection=None), []  # an edit never starts what was stopped by hand
    if agent.pending is not None and agent.pending.cause is Cause.START and agent.blocked and not agent.alive:
        return agent, []  # it will start from the new files anyway, once its dependencies are met
    if agent.pending is not None and agent.alive and (agent.pending.alone or agent.pending.cause is Cause.RESTART):
        return agent, []  # it will start from the new files anyway, once the others are gone
    start = Start(Cause.RELOAD, reason, now)
    if not agent.alive:
        agent, effects = _replace(agent, start, Order.STOP_FIRST, policy)
        return agent, [Report("reload-started", reason, agent.generation), *effects]
    agent, effects = _replace(agent, start, policy.order, policy)
    return agent, [Report("reload-started", reason, agent.generation), *effects]


def _reject(agent: Agent, text: str, reason: str, now: float) -> Step:
    if agent.wish is Wish.DOWN or agent.rejection == text:
        return agent, []
    report = Report("reload-rejected", text, agent.generation, reason=reason)
    return replace(agent, rejection=text, rejected_at=now), [report]


def _rejected_since(agent: Agent, newcomer: Instance) -> str | None:
    """Of an edit that came after it was spawned, and is not the code that it runs."""
    newer = newcomer.spawned_at is not None and agent.rejected_at > newcomer.spawned_at
    return agent.rejection if newer else None


def _undo(agent: Agent) -> Step:
    if agent.rejection is None:
        return agent, []
    return replace(agent, rejection=None), [Report("reload-undone", "the edit was undone", agent.generation)]


def _try_again(agent: Agent, now: float, policy: Policy, *, at_once: bool) -> Step:
    retry_at = agent.patience.retry_at
    if retry_at is not None and (at_once or retry_at <= now):
        return _settle(replace(agent, patience=replace(agent.patience, retry_at=None)), policy, [])
    serving = agent.serving
    if serving is not None and serving.ready_at is not None and now >= serving.ready_at + policy.backoff.reset_after:
        return replace(agent, patience=Patience()), []
    return agent, []


def _spawned(agent: Agent, generation: int, now: float) -> Agent:
    if agent.incoming is None or agent.incoming.generation != generation:
        return agent
    return replace(agent, incoming=replace(agent.incoming, spawned_at=now))


def _promote(agent: Agent, generation: int, now: float, policy: Policy) -> Step:
    newcomer, old = agent.incoming, agent.serving
    if newcomer is None or newcomer.generation != generation:
        return agent, []  # about an instance that we no longer care for
    serving = replace(newcomer, ready_at=now)
    agent = replace(agent, serving=serving, incoming=None, rejection=_rejected_since(agent, newcomer))
    effects: list[Effect] = [Announce(generation), _report_ready(newcomer, now)]
    if old is not None:
        agent = replace(agent, draining=(old, *agent.draining))
        effects += [Withdraw(old.generation), Stop(old.generation, replaced=True), *_kill_the_oldest(agent)]
    return agent, effects


def _report_ready(instance: Instance, now: float) -> Report:
    if instance.start.cause is Cause.RELOAD:
        return Report("reload-completed", instance.start.reason, instance.generation, now - instance.start.asked_at)
    # What it waited for before (dependencies, a slot) is not its own time.
    begun = instance.start.asked_at if instance.spawned_at is None else instance.spawned_at
    return Report("ready", instance.start.reason, instance.generation, now - begun)


def _without_process(agent: Agent, generation: int, text: str, now: float, policy: Policy, luck: float) -> Step:
    """The start failed before there was a process, so there is nothing to stop and nothing to wait for."""
    if agent.incoming is None or agent.incoming.generation != generation:
        return _forget(agent, generation, policy)
    newcomer = agent.incoming
    agent = replace(agent, incoming=None)
    if agent.serving is not None:
        return _newcomer_failed(agent, newcomer, text, now, policy)
    return _crashed(agent, newcomer, None, text, now, policy, luck, permanent=False)


def _bury(agent: Agent, generation: int, text: str, now: float, policy: Policy, luck: float) -> Step:
    """It lives but is no use (never ready, or not live): it goes, and that counts as a crash."""
    for instance in (agent.incoming, agent.serving):
        if instance is None or instance.generation != generation:
            continue
        was_serving = instance is agent.serving
        leaving = replace(
            agent,
            incoming=agent.incoming if was_serving else None,
            serving=None if was_serving else agent.serving,
            draining=(instance, *agent.draining),
        )
        gone: list[Effect] = [Withdraw(generation)] if was_serving else []
        gone.append(Stop(generation))
        if was_serving and leaving.incoming is not None:
            # The newcomer is on its way already: it takes over as soon as it is ready.
            return leaving, [*gone, Report("crashed", text, generation)]
        if leaving.serving is not None:
            after, effects = _newcomer_failed(leaving, instance, text, now, policy)
        else:
            after, effects = _crashed(leaving, instance, None, text, now, policy, luck, permanent=False)
        return after, [*gone, *effects]
    return agent, []


def _exited(agent: Agent, event: Exited, now: float, policy: Policy) -> Step:
    generation, text = event.generation, str(event.exit)
    if agent.incoming is not None and agent.incoming.generation == generation:
        newcomer = agent.incoming
        agent = replace(agent, incoming=None)
        if event.crowded and not newcomer.start.alone:
            # Not possible beside what is held for it, or lives: once more, when nothing of that is there.
            after, effects = _replace(agent, replace(newcomer.start, alone=True), Order.STOP_FIRST, policy)
            return replace(after, patience=agent.patience), effects
        if agent.serving is not None:
            return _newcomer_failed(agent, newcomer, text, now, policy)
        if event.exit.clean and policy.kind is not Kind.TASK:
            text = 'exit 0 before it was ready (a program that is to end is type = "task")'
        return _crashed(agent, newcomer, event.exit, text, now, policy, event.luck, permanent=event.permanent)
    if agent.serving is not None and agent.serving.generation == generation:
        gone = agent.serving
        agent = replace(agent, serving=None)
        if agent.incoming is not None:
            # The newcomer is on its way already: it takes over as soon as it is ready.
            return agent, [Withdraw(generation), Report("crashed", text, generation)]
        after, effects = _crashed(agent, gone, event.exit, text, now, policy, event.luck, permanent=False)
        return after, [Withdraw(generation), *effects]
    return _forget(agent, generation, policy, event.exit)


def _forget(agent: Agent, generation: int, policy: Policy, how: Exit | None = None) -> Step:
    """One that was told to go is gone."""
    if all(i.generation != generation for i in agent.draining):
        return agent, []
    agent = replace(agent, draining=tuple(i for i in agent.draining if i.generation != generation))
    text = "stopped" if how is None or _as_asked(how, policy) else f"stopped ({how})"
    return _settle(agent, policy, [Report("stopped", text, generation)])


def _as_asked(how: Exit, policy: Policy) -> bool:
    """An end by the signal that asked for it is clean: most programs have no handler, and uvicorn raises it again.
    Shells, Java and Node say it as 128 and its number. SIGTERM is understood whatever mesh.toml says."""
    asked = {int(policy.stop_signal), int(signal.SIGTERM)}
    return how.clean or how.signal in asked or (how.code is not None and how.code - SIGNALLED in asked)


def _newcomer_failed(agent: Agent, newcomer: Instance, text: str, now: float, policy: Policy) -> Step:
    """start-first: code that does not come up never replaces code that works."""
    agent = replace(agent, rejection=_rejected_since(agent, newcomer) or text, rejected_at=now)
    start = newcomer.start
    report = Report("reload-rejected", text, newcomer.generation, now - start.asked_at, start.reason)
    return _settle(agent, policy, [report])


def _crashed(
    agent: Agent,
    instance: Instance,
    how: Exit | None,
    text: str,
    now: float,
    policy: Policy,
    luck: float,
    *,
    permanent: bool,
) -> Step:
    """Nothing serves any more and nothing comes: done, failed, or try again, now or later."""
    generation = instance.generation
    if how is None and policy.restart is Restart.NEVER:
        return _ended(agent, Exit(None, None, text), text, generation, policy)  # never, however it failed
    if how is not None and _is_end(how, policy, started=instance.ready_at is not None):
        return _ended(agent, how, text, generation, policy)
    reports: list[Effect] = [Report("crashed", text, generation)]
    patience = _counted(agent.patience, text, now, policy)
    if agent.pending is not None:
        # A start is wanted anyway (an edit came while it died): that one decides.
        return _settle(replace(agent, patience=replace(patience, retry_at=None)), policy, reports)
    if permanent and policy.dev:
        waiting = replace(patience, retry_at=None, looping=False)
        return replace(agent, patience=waiting), [*reports, Report("failed", text, generation)]
    delay = _delay(patience, policy.backoff, luck)
    patience = replace(patience, retry_at=now + delay if delay else None)
    agent = replace(
        agent, patience=patience, pending=Start(Cause.CRASH, text, now), restarts=agent.restarts + 1, ended=None
    )
    if patience.looping:
        reports.append(Report("crashloop", text, generation, delay))
        if policy.essential and not policy.dev:
            reports.append(GiveUp(f"is in a crash loop ({text})"))
    elif delay:
        reports.append(Report("backoff", text, generation, delay))
    return _settle(agent, policy, reports)


def _is_end(how: Exit, policy: Policy, *, started: bool) -> bool:
    """A policy that does not restart, or a task that succeeded. Exit 0 of a service in its start-up is a failure."""
    if policy.kind is Kind.TASK and how.clean:
        return True
    if policy.restart is Restart.NEVER:
        return True
    return policy.restart is Restart.ON_FAILURE and how.clean and started


def _ended(agent: Agent, how: Exit, text: str, generation: int, policy: Policy) -> Step:
    if policy.kind is Kind.TASK and how.clean:
        ended = replace(agent, ended=how, patience=Patience(), pending=None)
        return ended, [Report("done", "exit 0", generation)]
    ended = replace(agent, ended=how, patience=replace(agent.patience, failure=text, retry_at=None), pending=None)
    effects: list[Effect] = [Report("failed", text, generation)]
    if policy.essential:
        effects.append(GiveUp(f"has ended ({text})"))
    return ended, effects


def _counted(patience: Patience, text: str, now: float, policy: Policy) -> Patience:
    window = policy.crashloop.window
    crashes = (*(t for t in patience.crashes if t > now - window), now)
    return Patience(
        crashes=crashes,
        attempts=patience.attempts + 1,
        looping=patience.looping or len(crashes) >= policy.crashloop.crashes,
        failure=text,
    )


def _delay(patience: Patience, backoff: Backoff, luck: float) -> float:
    """Seconds: the first restart at once, then ``initial`` times ``factor`` up to ``max``; in a crash loop ``max``."""
    if patience.looping:
        delay = backoff.max
    elif patience.attempts <= 1:
        return 0.0
    else:
        # The exponent is bounded so that a patient agent cannot overflow a float.
        delay = min(backoff.max, backoff.initial * backoff.factor ** min(patience.attempts - 2, 64))
    return delay * (1 + JITTER * (2 * luck - 1))


# ---- its sockets -----------------------------------------------------------------------------------------------------


class Hold(StrEnum):
    """What becomes of the listening sockets that are held for an agent."""

    KEEP = "keep"
    LINGER = "linger"
    RELEASE = "release"


def hold(agent: Agent) -> Hold:
    """Callers wait while an instance is there or comes at once, and for a while when one died. They are refused by an
    agent that nobody wants and by one in a crash loop: a dead agent does not look alive."""
    if agent.wish is Wish.DOWN or agent.ended is not None:
        return Hold.RELEASE
    if agent.incoming is not None or agent.serving is not None:
        return Hold.KEEP
    if agent.patience.looping:
        return Hold.RELEASE
    coming = agent.pending is not None and agent.patience.retry_at is None
    return Hold.KEEP if coming else Hold.LINGER


# ---- what a command came to ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    ok: bool
    text: str


def verdict_up(agent: Agent, after: int) -> Verdict | None:
    """Has a start, restart or reload that was asked when ``after`` was the last generation come to its end?

    None: not yet. A generation newer than ``after`` must serve; an edit that was rejected is a no.
    """
    if agent.serving is not None and agent.serving.generation > after and agent.pending is None:
        return Verdict(True, f"ready (generation {agent.serving.generation})")
    if agent.rejection is not None and agent.incoming is None and agent.pending is None:
        return Verdict(False, f"rejected: {agent.rejection}")
    word = phase(agent)
    if word is Phase.DONE and agent.generation > after:
        return Verdict(True, "done")
    if word is Phase.STOPPED:
        return Verdict(False, "was stopped meanwhile")
    if word in (Phase.FAILED, Phase.BACKOFF) or (word is Phase.CRASHLOOP and agent.incoming is None):
        return Verdict(False, f"{word}: {agent.patience.failure}")
    return None


def verdict_down(agent: Agent) -> Verdict | None:
    """Has a stop come to its end?"""
    if agent.wish is Wish.UP:
        return Verdict(False, "was started again meanwhile")
    return None if agent.alive else Verdict(True, "stopped")


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; a number that has no name (real-time signals) stays one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
