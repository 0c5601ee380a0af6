"""What happened to an agent, told to people: a line of the log, an event, a word for `ps`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mesh_supervisor.events import Bus, EventKind, Reload, event
from mesh_supervisor.host.logs import LogHub
from mesh_supervisor.host.spawn import Swept
from mesh_supervisor.lifecycle import Cause, Report
from mesh_supervisor.member import Member


@dataclass(slots=True)
class Outputs:
    """Where what is to be known goes."""

    hub: LogHub
    bus: Bus
    hide: Callable[[str], str] = field(default=lambda text: text)


class News:
    """``quiet``: the mesh is stopping, so that an agent stopped is no news for the log. ``alone``: the agent that is
    supervised by itself, whose end nothing comes after."""

    def __init__(self, outputs: Outputs, quiet: Callable[[], bool], alone: str | None = None) -> None:
        self._outputs, self._quiet, self._alone = outputs, quiet, alone

    def say(self, text: str) -> None:
        """To the log, for people."""
        self._outputs.hub.say(self._outputs.hide(text))

    def swept(self, name: str, swept: list[Swept]) -> None:
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in swept)
        alive = [str(one.pid) for one in swept if not one.killed]
        text = f"left behind by {name}, killed: {names}" + (f"; could not kill {', '.join(alive)}" if alive else "")
        self.say(text)
        self._outputs.bus.publish(event(EventKind.SWEPT, text, agent=name, pids=[one.pid for one in swept]))

    def report(self, member: Member, report: Report) -> None:
        name = member.spec.name
        text = self._outputs.hide(report.text)
        known = report.kind == "failed" and member.last == text  # the crash was said a moment ago
        # An old generation that goes when it has been replaced is as it should be: no line, and no word in `ps`.
        replaced = report.kind == "stopped" and member.state.serving is not None
        if not replaced:
            member.last = _last_words(report.kind, text, report.seconds)
        ended = report.kind == "failed" and name == self._alone
        line = _LINES.get("ended" if ended else "waits" if known else report.kind)
        if report.kind in ("reload-completed", "reload-rejected") or self._was_reload(member, report):
            self._report_reload(name, member, report, text)
        elif line is not None and not replaced and not self._quiet():
            self.say(line(name, text, report))
        if report.kind in ("ready", "reload-completed"):
            member.status, member.served = "", report.generation
        if report.kind in _KINDS:
            details = {"generation": report.generation}
            if report.seconds is not None:
                details["seconds"] = round(report.seconds, 3)  # type: ignore[assignment]
            self._outputs.bus.publish(event(_KINDS[report.kind], text, agent=name, **details))

    def held_back(self, member: Member, reason: str) -> None:
        """An edit of an agent that a person has taken over: it counts when it is given back."""
        record = Reload("held", _trigger(reason), reason, member.state.generation)
        member.last = f"edited: {self._outputs.hide(reason)}"
        self._outputs.bus.publish(record.as_event(member.spec.name))
        self.say(record.sentence(member.spec.name))

    @staticmethod
    def _was_reload(member: Member, report: Report) -> bool:
        """A crash of an instance that a reload had started and that never got ready is a reload that failed."""
        start = member.launcher.starts.get(report.generation)
        never_ready = member.served != report.generation
        return report.kind == "crashed" and start is not None and start.cause is Cause.RELOAD and never_ready

    def _report_reload(self, name: str, member: Member, report: Report, text: str) -> None:
        outcome = {"reload-completed": "completed", "reload-rejected": "rejected"}.get(report.kind, "failed")
        launcher = member.launcher
        start, phases = launcher.starts.get(report.generation), launcher.phases.get(report.generation)
        now = asyncio.get_running_loop().time()
        tried = outcome != "rejected" or report.seconds is not None
        asked_at = start.asked_at if start is not None and tried else now
        spans = {}
        if phases is not None and tried:  # without: no process came to be
            spans = {
                "stop": 1000 * (phases.launched_at - phases.asked_at),
                "start": 1000 * (phases.spawned_at - phases.launched_at),
                "ready": 1000 * (now - phases.spawned_at),
            }
        reason = report.reason if outcome == "rejected" else start.reason if start is not None else ""
        record = Reload(
            outcome=outcome,
            trigger=_trigger(reason),
            reason=reason or text,
            generation=report.generation,
            previous=member.served if tried else None,  # not by counting: a rejected one takes a number too
            phases_ms=spans,
            total_ms=1000 * (now - asked_at),
            error=None if outcome == "completed" else text,
        )
        self._outputs.bus.publish(record.as_event(name))
        self.say(record.sentence(name))


def _trigger(reason: str) -> str:
    if reason.startswith("mesh.toml"):
        return "config"
    return "command" if reason.startswith("asked") else "save"


def _last_words(kind: str, text: str, seconds: float | None) -> str:
    if kind in ("ready", "reload-completed"):
        return f"{'reloaded' if kind == 'reload-completed' else 'ready'} in {seconds or 0:.2f}s"
    says_it_all = kind in ("backoff", "crashloop", "crashed", "failed", "stopped")
    return text if says_it_all else f"{kind.replace('-', ' ')}: {text}"


_LINES: Mapping[str, Callable[[str, str, Report], str]] = {
    "ready": lambda name, text, r: f"{name} is ready in {r.seconds or 0:.2f}s (generation {r.generation})",
    "crashed": lambda name, text, r: f"{name} crashed: {text}",
    "backoff": lambda name, text, r: f"{name} is started again in {r.seconds or 0:.1f}s",
    "crashloop": lambda name, text, r: (
        f"{name} is in a crash loop: next try in {r.seconds or 0:.0f}s, "
        f"or at once on an edit or `meshsup restart {name}`"
    ),
    "failed": lambda name, text, r: f"{name} failed: {text}; it waits for an edit or `meshsup start {name}`",
    "ended": lambda name, text, r: f"{name} has ended: {text}",
    "waits": lambda name, text, r: f"{name} waits for an edit or `meshsup start {name}`",
    "done": lambda name, text, r: f"{name} is done",
    "reload-started": lambda name, text, r: f"Reloading {name} ({text})",
    "reload-undone": lambda name, text, r: f"{name}: {text}",
    "stopped": lambda name, text, r: f"{name} {text}",
}

_KINDS: Mapping[str, EventKind] = {
    "ready": EventKind.READY,
    "crashed": EventKind.CRASHED,
    "crashloop": EventKind.CRASHLOOP,
    "failed": EventKind.FAILED,
    "not-live": EventKind.NOT_LIVE,
    "done": EventKind.EXITED,
    "stopped": EventKind.STOPPED,
    "reload-started": EventKind.RELOAD_STARTED,
}
