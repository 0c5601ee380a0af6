"""From saves to batches: watches the roots and the inputs, waits for quiet, and hands over what may have changed.

    FolderWatch (its own thread) ─┐
                                  ├─► whose business? ─► Batcher: quiet, git has finished ─► on_batch(paths)
    Poller (where events get lost)┘

A batch says "look at these", never more: whether content differs is for host/content.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh_supervisor.host.batch import Batcher
from mesh_supervisor.host.filesystems import Probe, git_locks, is_locked, mounts
from mesh_supervisor.host.ignore import RULE_FILES, Ignore
from mesh_supervisor.host.inbox import Inbox, News
from mesh_supervisor.host.inotify import Depth, FolderWatch
from mesh_supervisor.host.polling import Poller
from mesh_supervisor.host.routes import NO_PLAN, Plan, make_plan, within

__all__ = ["Ignore", "WatchStatus", "Watcher"]

# After an overflow more events usually follow; one look at everything once they are over is enough.
_CALM_AFTER_OVERFLOW = 0.2


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """``how``: off, inotify, polling, or inotify+polling (where only some events get lost). ``why``: the reason when
    it is not plainly inotify, else "". ``directories``: how many are watched through inotify."""

    how: str
    why: str
    roots: tuple[Path, ...]
    directories: int
    files: int


class Watcher:
    """Watches ``roots`` (everything below them that ``ignore`` does not prune) and ``files`` (each by itself: wherever
    it lies, also where it is ignored, behind symlinks, or not there yet).

    Lives in the event loop's thread, where the callbacks come too:

    on_batch(paths)   files that came, went or were written, spelled as roots and files were given; and folders that
                      went away with everything in them
    on_overflow()     the kernel dropped events; a batch of every file follows by itself
    on_notice(text)   a sentence, when the way of watching changes (a limit; a file system without events)
    relevant(path)    does a path that is not among ``files`` matter at all? Without it: what is not ignored. What does
                      not matter (an agent's own output) neither makes a batch nor holds one up
    folders()         the folders of ``watch`` globs: watched with everything below also where .gitignore passes them
                      over, and listed when polling; asked again at ``update``
    """

    def __init__(
        self,
        ignore: Ignore,
        on_batch: Callable[[frozenset[Path]], None],
        *,
        state_dir: Path,
        debounce: float = 0.05,
        on_overflow: Callable[[], None] = lambda: None,
        on_notice: Callable[[str], None] = lambda text: None,
        relevant: Callable[[Path], bool] | None = None,
        folders: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self._ignore, self._state_dir = ignore, state_dir
        self._on_overflow, self._on_notice, self._asked_folders = on_overflow, on_notice, folders
        self._relevant = relevant or (lambda path: not ignore.discovery_ignored(path))
        self._on_batch = on_batch
        self._batcher = Batcher(self._hand_over, quiet=debounce, held=lambda: is_locked(self._git_locks))
        self._roots: tuple[Path, ...] = ()
        self._folders: tuple[Path, ...] = ()
        self._files: frozenset[str] = frozenset()
        self._git_locks: tuple[Path, ...] = ()
        self._plan = NO_PLAN
        self._watch: FolderWatch | None = None
        self._poller: Poller | None = None
        self._poll_everything = False
        self._probe: Probe | None = None
        self._why = ""
        self._rescan: asyncio.TimerHandle | None = None
        self._inbox: Inbox | None = None

    # ---- what the supervisor calls ---------------------------------------------------------------------------------

    def start(self, roots: Sequence[Path], files: Collection[Path] = ()) -> None:
        """Whatever changes after this returned is in a batch. Where inotify's limits forbid that, polls and says so."""
        self._inbox = Inbox(asyncio.get_running_loop(), self._collect)
        self._aim(roots, files)
        try:
            self._watch = self._open(self._inbox)
            self._settle(self._watch)
        except OSError as error:
            self._give_up_inotify(error)
        else:
            self._start_probe(self._watch)
        self._settle_polling()

    def update(self, roots: Sequence[Path] | None = None, files: Collection[Path] | None = None) -> None:
        """Other roots or files from now on; nothing is done when they are the same. What lies in them counts as
        known: hash it after this."""
        before = (self._roots, self._folders, self._files)
        self._aim(self._roots if roots is None else roots, map(Path, self._files) if files is None else files)
        if self._inbox is not None and before != (self._roots, self._folders, self._files):
            self._settle_all()

    @property
    def debounce(self) -> float:
        """Seconds of quiet before a batch is handed over."""
        return self._batcher.quiet

    @debounce.setter
    def debounce(self, seconds: float) -> None:
        self._batcher.quiet = seconds

    def stop(self) -> None:
        """No callback comes after this; what was gathered is dropped. It can be started again."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()
        self._batcher.cancel()
        self._stop_probe()
        if self._rescan is not None:
            self._rescan.cancel()
        if self._poller is not None:
            self._poller.stop()
        self._close_watch()
        self._rescan = self._poller = None
        self._poll_everything, self._why, self._plan = False, "", NO_PLAN

    @property
    def status(self) -> WatchStatus:
        ways = {"inotify": self._watch, "polling": self._poller}
        how = "+".join(way for way, on in ways.items() if on is not None) or "off"
        directories = 0 if self._watch is None else len(self._watch)
        return WatchStatus(how, self._why, self._roots, directories, len(self._files))

    # ---- what to watch ---------------------------------------------------------------------------------------------

    def _aim(self, roots: Sequence[Path], files: Iterable[Path]) -> None:
        folders = tuple(self._asked_folders())
        if (tuple(roots), folders) != (self._roots, self._folders):
            self._roots, self._folders = tuple(roots), folders
            self._ignore.cover(self._roots, self._folders)
            self._git_locks = git_locks(self._roots)
        self._files = frozenset(str(path) for path in files)

    def _make_plan(self) -> Plan:
        return make_plan((str(root) for root in (*self._roots, *self._folders)), self._files)

    def _settle_all(self, suspects: Collection[str] = (), *, announce: bool = False) -> None:
        """Bring watching and polling up to date with the disk, or with what is asked for. ``suspects``: real paths
        that are not what they were."""
        if suspects:
            self._stop_probe()  # its watch may go with them, and events do arrive
        if self._watch is not None:
            try:
                self._settle(self._watch, suspects, announce=announce)
            except OSError as error:
                self._give_up_inotify(error)
        self._settle_polling()

    def _settle(self, watch: FolderWatch, suspects: Collection[str] = (), *, announce: bool = False) -> None:
        """Between looking where paths lead and watching what is there, it can change: so look again until it holds
        still. A disk that never does is watched all the same, and its next change brings us back here."""
        before = old = self._plan
        for _ in range(5):
            self._plan = plan = self._make_plan()
            if old == plan and not suspects:
                break
            if not _apply(watch, old, plan, suspects, announce=announce):
                break
            old, suspects = plan, ()
        if announce:
            self._offer(_rerouted(before, self._plan))

    def _settle_polling(self) -> None:
        files, folders, why = self._lost_places()
        if not files and not folders and not self._poll_everything:
            return
        if self._poller is None:
            self._poller = Poller(prunes=self._ignore.prunes, report=self._offer)
            self._poller.start()
            self._say(why)
        self._poller.aim(files, folders)

    def _lost_places(self) -> tuple[set[str], set[str], str]:
        """The files and folders that have to be polled, and why."""
        rules = {str(root / name) for root in self._roots for name in RULE_FILES}
        files, folders = {*self._files, *rules}, {str(folder) for folder in self._folders}
        if self._poll_everything:
            return files, folders, self._why
        table, kinds = mounts(), set[str]()

        def lossy(path: str) -> bool:
            route = self._plan.routes.get(path)
            kind = table.lossy(path if route is None else route.real)
            kinds.update({kind} if kind else ())
            return kind is not None

        lost_files, lost_folders = set(filter(lossy, files)), set(filter(lossy, folders))
        return lost_files, lost_folders, f"events of {', '.join(sorted(kinds))} file systems can get lost"

    # ---- ways of watching ------------------------------------------------------------------------------------------

    def _open(self, inbox: Inbox) -> FolderWatch:
        return FolderWatch(
            prunes=self._prunes,
            report=inbox.put_seen,
            turned=inbox.put_turned,
            vanished=inbox.put_vanished,
            overflowed=lambda: inbox.call(self._overflow),
            failed=lambda error: inbox.call(lambda: self._give_up_inotify(error)),
        )

    def _prunes(self, real: str) -> bool:
        """Asked from the reader's thread as well. A folder under two spellings is left out if both agree."""
        return all(self._ignore.prunes(folder) for folder in self._plan.spelled(real))

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _give_up_inotify(self, error: OSError) -> None:
        if self._poll_everything and self._watch is None:
            return  # each of many new folders says so
        self._stop_probe()
        self._close_watch()
        self._poll_all(_limit_sentence(error))
        self._offer(self._files)

    def _poll_all(self, why: str) -> None:
        already, self._poll_everything, self._why = self._poller is not None, True, why
        self._settle_polling()
        if already:
            self._say(why)

    def _say(self, why: str) -> None:
        self._why = why
        self._on_notice(f"{why}; files are looked at every 0.5 s instead")

    def _start_probe(self, watch: FolderWatch) -> None:
        """No probe where we may not write: the tables of file systems have to do."""
        folder = self._state_dir / "watch-probe"
        with contextlib.suppress(OSError):
            self._probe = Probe(folder, self._nothing_heard)
            watch.cover(str(folder.resolve()), announce=False)
            self._probe.write()

    def _nothing_heard(self) -> None:
        self._probe = None
        self._poll_all(f"no inotify events arrive from the file system of {self._state_dir}")

    def _stop_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.stop()

    # ---- what happened ---------------------------------------------------------------------------------------------

    def _collect(self, news: News) -> None:
        """What the reader's thread saw since the last time, in real paths."""
        plan = self._plan
        if self._probe is not None:
            self._hear_probe(self._probe, news.seen)
        self._offer({name for real in news.seen for name in plan.given(real)})
        for folder in news.vanished:
            gone = {name for name in plan.spelled(folder) if not self._ignore.prunes(name)}
            self._batcher.add(Path(name) for name in gone | plan.files_below(folder))
        moved = news.seen | news.turned | news.vanished
        suspects = {path for path in moved if path in plan.pivots or path in plan.contents}
        if suspects:
            self._settle_all(suspects, announce=True)

    def _hear_probe(self, probe: Probe, seen: set[str]) -> None:
        folder = str(probe.folder.resolve())
        if any(within(path, folder) for path in seen):
            self._stop_probe()

    def _offer(self, paths: Iterable[str]) -> None:
        """These may have changed: into the batch with those that matter."""
        self._batcher.add([Path(path) for path in paths if path in self._files or self._matters(path)])

    def _matters(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        if self._ignore.user_ignored(path):
            return False
        return name in RULE_FILES or self._relevant(Path(path))

    def _hand_over(self, batch: frozenset[Path]) -> None:
        if any(path.name in RULE_FILES for path in batch):
            self._rules_changed()
        self._on_batch(batch)

    def _rules_changed(self) -> None:
        """What is no longer ignored must be watched; what is ignored from now on does not matter any more."""
        self._ignore.refresh()
        if self._watch is not None:
            try:
                for top in self._plan.trees:
                    self._watch.cover(top, announce=False)
            except OSError as error:
                self._give_up_inotify(error)

    def _overflow(self) -> None:
        if self._rescan is None:
            self._rescan = asyncio.get_running_loop().call_later(_CALM_AFTER_OVERFLOW, self._look_at_everything)

    def _look_at_everything(self) -> None:
        """Events were dropped: the watches may be out of date too. Make them anew, and report every file."""
        self._rescan = None
        self._on_overflow()
        if self._watch is not None:
            self._watch.drop("/")
            self._settle_all(self._plan.trees.keys(), announce=True)
        self._offer(self._files)


def _apply(watch: FolderWatch, old: Plan, plan: Plan, suspects: Collection[str], *, announce: bool) -> bool:
    """Watch what the plan names and no more; whether anything was added. A suspect top may be another folder of the
    same name by now: it is entered anew, like one that lay below what is dropped."""
    dropped = [top for top in old.trees if top not in plan.trees or top in suspects]
    for top in dropped:
        watch.drop(top)
    entered = [top for top in plan.trees if top not in old.trees or any(within(top, gone) for gone in dropped)]
    for top in entered:
        watch.cover(top, announce=announce)
    watch.keep_single(plan.contents | plan.names)
    added = [watch.watch(folder, Depth.FILES) for folder in plan.contents]
    added += [watch.watch(folder, Depth.NAMES) for folder in plan.names]
    return bool(entered) or any(added)


def _rerouted(before: Plan, after: Plan) -> set[str]:
    """Files that are other files now, because a symlink or a folder on the way is another: they count as changed."""
    return {path for path, route in before.routes.items() if after.routes.get(path) != route}


def _limit_sentence(error: OSError) -> str:
    """Why inotify cannot be used, and what to do about it."""
    if error.errno == errno.EMFILE and not _may_open_files():
        return "the limit of open files is reached (raise it with 'ulimit -n 65536')"
    names = {errno.ENOSPC: ("watches", 1_048_576), errno.EMFILE: ("instances", 1024)}
    if error.errno not in names:
        return f"inotify cannot be used: {error.strerror or error}"
    name, better = names[error.errno]
    whole, own = f"fs.inotify.max_user_{name}", f"user.max_inotify_{name}"
    if _setting(own) < _setting(whole):  # that of this user namespace: of a container that has one
        return f"the limit {own} of this user namespace is reached (raise it with 'sysctl {own}={better}' inside)"
    return f"the limit {whole} is reached (raise it with 'sudo sysctl {whole}={better}', for a container on its host)"


def _setting(name: str) -> float:
    try:
        return int(Path("/proc/sys", *name.split(".")).read_text())
    except (OSError, ValueError):
        return math.inf


def _may_open_files() -> bool:
    try:
        os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EMFILE
    return True
