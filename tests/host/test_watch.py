"""The watcher on a real file system, with real inotify: changes are made, and the batch that tells is waited for."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.host import batch, filesystems, polling, watch
from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.watch import Watcher, WatchStatus

PATIENCE = 40.0
"""Seconds until a fact that does not come is a failure; never waited for when all is well."""


class Watching:
    """A started watcher over ``root``, and what it has reported so far."""

    def __init__(self, root: Path, files: Collection[Path], **options: Any) -> None:
        self.root = root
        self.batches: list[frozenset[Path]] = []
        self.notices: list[str] = []
        self.overflows = self._markers = 0
        self._news = asyncio.Event()
        patterns = options.pop("patterns", ())
        state_dir = options.pop("state_dir", root / ".mesh")
        self.roots: list[Path] = options.pop("roots", [root])
        state_dir.mkdir(parents=True, exist_ok=True)
        self.watcher = Watcher(
            Ignore(self.roots, patterns, state_dir=state_dir),
            self._on_batch,
            state_dir=state_dir,
            on_notice=self._on_notice,
            on_overflow=self._on_overflow,
            debounce=options.pop("debounce", 0.02),
            **options,
        )
        self.watcher.start(self.roots, files)

    def _on_batch(self, paths: frozenset[Path]) -> None:
        self.batches.append(paths)
        self._news.set()

    def _on_notice(self, text: str) -> None:
        self.notices.append(text)
        self._news.set()

    def _on_overflow(self) -> None:
        self.overflows += 1
        self._news.set()

    @property
    def status(self) -> WatchStatus:
        return self.watcher.status

    @property
    def watched(self) -> set[Path]:
        """The folders watched through inotify, but the one of the start's probe, which goes away by itself."""
        assert self.watcher._watch is not None
        folders = {Path(one.path) for one in list(self.watcher._watch._folders.values())}
        return {folder for folder in folders if folder.name != "watch-probe"}

    @property
    def reported(self) -> set[Path]:
        return set().union(*self.batches)

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not fact():
                self._news.clear()
                await self._news.wait()

    async def sees(self, *paths: Path) -> None:
        """Wait until all of these were reported; then forget everything reported."""
        try:
            await self.until(lambda: self.reported >= set(paths))
        except TimeoutError:
            pytest.fail(f"not reported: {set(paths) - self.reported}; reported: {self.reported}")
        self.batches.clear()

    async def settled(self) -> set[Path]:
        """Everything reported up to now: a marker written now is reported after all that came before it. Another one
        each time: of the one before, something may be reported still."""
        self._markers += 1
        marker = self.root / f"marker{self._markers}.py"
        marker.write_text("x")
        await self.until(lambda: marker in self.reported)
        reported = {path for path in self.reported if not path.name.startswith("marker")}
        self.batches.clear()
        return reported


@asynccontextmanager
async def watching(root: Path, files: Collection[Path] = (), **options: Any) -> AsyncIterator[Watching]:
    one = Watching(root, files, **options)
    try:
        yield one
    finally:
        one.watcher.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await test()

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def patient_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its news may come late on a busy machine; that none comes is another test's matter."""
    monkeypatch.setattr(filesystems.Probe.__init__, "__kwdefaults__", {"patience": PATIENCE})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "proj"
    place.mkdir()
    return place


def written(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def save_atomically(path: Path, text: str) -> None:
    """As editors do: a temporary file, moved over the old one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


# ---- saves ---------------------------------------------------------------------------------------------------------


def test_a_save_is_reported_once_and_alone(root: Path) -> None:
    async def test() -> None:
        file, other = written(root / "a.py"), written(root / "b.py")
        async with watching(root, [file, other]) as seen:
            file.write_text("changed")
            assert await seen.settled() == {file}

    run(test)


def test_an_atomic_save_reports_the_file_and_not_the_temporary_one(root: Path) -> None:
    async def test() -> None:
        file = written(root / "a.py")
        async with watching(root, [file]) as seen:
            save_atomically(file, "changed")
            assert await seen.settled() == {file}

    run(test)


def test_many_saves_at_once_are_one_batch(root: Path) -> None:
    async def test() -> None:
        files = {written(root / f"m{number}.py") for number in range(50)}
        async with watching(root, files, debounce=1.0) as seen:
            for file in files:
                file.write_text("changed")
            await seen.until(lambda: bool(seen.batches))
            assert seen.batches == [files]

    run(test)


def test_a_batch_comes_within_a_second_though_it_is_never_quiet(root: Path) -> None:
    async def seconds() -> float:
        file = written(root / "a.py")
        async with watching(root, [file], debounce=0.5) as seen:
            over = threading.Event()

            def keep_saving() -> None:
                while not over.is_set():
                    file.write_text(str(time.monotonic_ns()))
                    over.wait(0.05)

            saver = threading.Thread(target=keep_saving)
            began = time.monotonic()
            saver.start()
            try:
                await seen.until(lambda: bool(seen.batches))
                return time.monotonic() - began
            finally:
                over.set()
                saver.join()

    async def test() -> None:
        # With a quiet time that never comes, only the limit can have ended the batch. It comes after all where the
        # machine holds one of the threads up for so long: then once more.
        for _ in range(5):
            if await seconds() > 0.9:
                return
        pytest.fail("somebody's quiet ends the batch")

    run(test)


def test_deleting_and_renaming_report_both_names(root: Path) -> None:
    async def test() -> None:
        gone, old = written(root / "gone.py"), written(root / "old.py")
        async with watching(root, [gone, old]) as seen:
            gone.unlink()
            old.rename(root / "new.py")
            assert await seen.settled() == {gone, old, root / "new.py"}

    run(test)


def test_a_move_out_of_the_tree_is_seen_without_delay(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        file = written(root / "a.py")
        async with watching(root, [file]) as seen:
            file.rename(tmp_path / "a.py")
            assert await seen.settled() == {file}

    run(test)


# ---- folders -------------------------------------------------------------------------------------------------------


def test_new_folders_are_watched_with_what_is_already_in_them(root: Path) -> None:
    async def test() -> None:
        async with watching(root) as seen:
            # Made as fast as possible: when the first folder is noticed, the rest is there already, unwatched.
            files = {written(root / f"new{number}/deep/deeper/f.py") for number in range(30)}
            await seen.sees(*files)
            late = written(root / "new7/deep/deeper/late.py")
            await seen.sees(late)

    run(test)


def test_folders_filled_while_they_are_discovered_lose_no_file(root: Path) -> None:
    async def test() -> None:
        async with watching(root) as seen:
            expected = {root / f"pkg{outer}/sub{inner}/m.py" for outer in range(20) for inner in range(20)}
            filler = threading.Thread(target=lambda: [written(file) for file in sorted(expected)])
            filler.start()
            try:
                await seen.sees(*expected)
            finally:
                filler.join()

    run(test)


def test_a_folder_moved_in_reports_its_files_and_is_watched(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        written(tmp_path / "outside/deep/f.py")
        async with watching(root) as seen:
            (tmp_path / "outside").rename(root / "inside")
            await seen.sees(root / "inside/deep/f.py")
            (root / "inside/deep/f.py").write_text("changed")
            await seen.sees(root / "inside/deep/f.py")

    run(test)


def test_a_folder_moved_out_reports_itself_and_its_known_files_and_is_forgotten(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        known = written(root / "pkg/deep/f.py")
        async with watching(root, [known]) as seen:
            assert seen.watched == {tmp_path, root, root / "pkg", root / "pkg/deep"}
            (root / "pkg").rename(tmp_path / "elsewhere")
            await seen.sees(known, root / "pkg")
            await seen.settled()
            assert seen.watched == {tmp_path, root}
            written(tmp_path / "elsewhere/deep/f.py", "changed outside")
            assert await seen.settled() == set()

    run(test)


def test_a_folder_moved_inside_is_followed(root: Path) -> None:
    async def test() -> None:
        known = written(root / "before/deep/f.py")
        async with watching(root, [known]) as seen:
            (root / "before").rename(root / "after")
            await seen.sees(known, root / "after/deep/f.py")
            await seen.settled()
            (root / "after/deep/f.py").write_text("changed")
            assert await seen.settled() == {root / "after/deep/f.py"}

    run(test)


def test_a_folder_deleted_and_made_again_is_watched_again(root: Path) -> None:
    async def test() -> None:
        file = written(root / "pkg/f.py")
        async with watching(root, [file]) as seen:
            for turn in range(5):
                shutil.rmtree(root / "pkg")
                written(file, str(turn))
                await seen.sees(file)
            await seen.settled()
            file.write_text("and again")
            assert await seen.settled() == {file}

    run(test)


# ---- roots ---------------------------------------------------------------------------------------------------------


def test_a_root_deleted_and_made_again_is_watched_again(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        file = written(root / "pkg/f.py")
        async with watching(root, [file], state_dir=tmp_path / "state") as seen:
            shutil.rmtree(root)
            await seen.sees(file)
            written(file, "again")
            await seen.sees(file)
            written(root / "pkg/new.py")
            await seen.sees(root / "pkg/new.py")

    run(test)


def test_a_root_that_a_process_still_stands_in_is_watched_again(root: Path, tmp_path: Path) -> None:
    """The kernel tells of the deletion of a folder only when nobody uses it any more."""

    async def test() -> None:
        file = written(root / "f.py")
        held = os.open(root, os.O_RDONLY)
        try:
            async with watching(root, [file], state_dir=tmp_path / "state") as seen:
                shutil.rmtree(root)
                await seen.sees(file)
                written(file, "again")
                await seen.sees(file)
                await seen.settled()
                file.write_text("and again")
                assert await seen.settled() == {file}
        finally:
            os.close(held)

    run(test)


def test_a_root_whose_parents_vanish_too_is_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
        root = tmp_path / "one/two/proj"
        file = written(root / "f.py")
        async with watching(root, [file], state_dir=tmp_path / "state") as seen:
            shutil.rmtree(tmp_path / "one")
            await seen.sees(file)
            written(file, "again")
            await seen.sees(file)
            file.write_text("and again")
            await seen.sees(file)

    run(test)


def test_a_root_renamed_away_and_replaced_is_the_new_one(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        file = written(root / "f.py")
        async with watching(root, [file], state_dir=tmp_path / "state") as seen:
            root.rename(tmp_path / "old")
            await seen.sees(file)
            written(file, "new")
            await seen.sees(file)
            await seen.settled()
            written(tmp_path / "old/f.py", "changed outside")
            assert await seen.settled() == set()

    run(test)


def test_a_root_that_does_not_exist_yet_is_waited_for(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        later = tmp_path / "not/yet"
        async with watching(root, roots=[root, later]) as seen:
            written(later / "pkg/f.py")
            await seen.sees(later / "pkg/f.py")

    run(test)


def test_a_symlinked_root_is_reported_as_it_was_given_and_followed_when_it_turns(tmp_path: Path) -> None:
    async def test() -> None:
        first, second, root = tmp_path / "first", tmp_path / "second", tmp_path / "current"
        written(first / "f.py")
        written(second / "f.py")
        root.symlink_to(first)
        async with watching(root, [root / "f.py"], state_dir=tmp_path / "state") as seen:
            (first / "f.py").write_text("changed")
            assert await seen.settled() == {root / "f.py"}
            (tmp_path / "next").symlink_to(second)
            (tmp_path / "next").replace(root)
            await seen.sees(root / "f.py")
            await seen.settled()
            (second / "f.py").write_text("changed")
            assert await seen.settled() == {root / "f.py"}

    run(test)


def test_a_symlinked_root_keeps_its_ignore_rules(tmp_path: Path) -> None:
    async def test() -> None:
        real, root = tmp_path / "real", tmp_path / "link"
        written(real / ".gitignore", "/out/\n")
        for name in ("out", "node_modules", "drafts/old"):
            written(real / name / "deep/f.py")
        root.symlink_to(real)
        async with watching(root, patterns=["drafts/old"], state_dir=root / "state") as seen:
            for name in ("out", "drafts/old", "state/logs"):
                written(real / name / "deep/f.py", "changed")
            assert await seen.settled() == set()
            assert seen.watched == {tmp_path, real, real / "drafts"}

    run(test)


# ---- single files --------------------------------------------------------------------------------------------------


def test_a_single_file_outside_is_watched_and_its_neighbours_are_not(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        file = written(tmp_path / "elsewhere/lib.py")
        async with watching(root, [file]) as seen:
            written(tmp_path / "elsewhere/other.py")
            save_atomically(file, "changed")
            assert await seen.settled() == {file}

    run(test)


def test_a_file_that_does_not_exist_yet_is_seen_when_it_appears_with_its_folders(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "some/where/later.py"
        async with watching(root, [file]) as seen:
            written(file)
            await seen.sees(file)
            file.write_text("changed")
            await seen.sees(file)

    run(test)


def test_an_input_in_an_ignored_folder_is_watched_by_itself(root: Path) -> None:
    async def test() -> None:
        written(root / ".gitignore", "generated/\n")
        file, other = written(root / "generated/api.py"), written(root / "generated/other.py")
        async with watching(root, [file]) as seen:
            other.write_text("changed")
            file.write_text("changed")
            assert await seen.settled() == {file}

    run(test)


def test_a_file_behind_symlinks_changes_with_the_link_and_with_its_target(root: Path, tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> ..1, and ..data is replaced."""

    async def test() -> None:
        mount = tmp_path / "config"
        written(mount / "..1/app.yaml", "one")
        written(mount / "..2/app.yaml", "two")
        (mount / "..data").symlink_to("..1")
        (mount / "app.yaml").symlink_to("..data/app.yaml")
        file = mount / "app.yaml"
        async with watching(root, [file]) as seen:
            (mount / "..1/app.yaml").write_text("changed")
            assert await seen.settled() == {file}
            (mount / "..tmp").symlink_to("..2")
            (mount / "..tmp").replace(mount / "..data")
            assert await seen.settled() == {file}
            (mount / "..2/app.yaml").write_text("changed")
            assert await seen.settled() == {file}

    run(test)


def test_other_files_and_roots_from_now_on(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        before, after = written(tmp_path / "before/f.py"), written(tmp_path / "after/f.py")
        more = tmp_path / "more"
        written(more / "pkg/g.py")
        async with watching(root, [before]) as seen:
            seen.watcher.update(files=[after])
            before.write_text("changed")
            after.write_text("changed")
            assert await seen.settled() == {after}
            seen.watcher.update(roots=[root, more])
            (more / "pkg/g.py").write_text("changed")
            assert await seen.settled() == {more / "pkg/g.py"}
            seen.watcher.update(roots=[root])
            (more / "pkg/g.py").write_text("changed again")
            assert await seen.settled() == set()

    run(test)


# ---- what does not matter ------------------------------------------------------------------------------------------


def test_nothing_is_watched_below_environments_packages_git_and_the_state_dir(root: Path) -> None:
    async def test() -> None:
        for name in ("node_modules", ".venv", ".git", ".mesh", "pkg/__pycache__", "pkg/node_modules"):
            written(root / name / "deep/f.py")
        async with watching(root) as seen:
            await seen.settled()
            assert seen.watched == {root.parent, root, root / "pkg"}
            # Also what is made while we watch.
            for number in range(20):
                written(root / f"other/.venv/lib/p{number}/m.py")
            assert await seen.settled() == set()
            assert seen.watched == {root.parent, root, root / "pkg", root / "other"}

    run(test)


def test_the_users_word_beats_everything_but_a_listed_file(root: Path) -> None:
    async def test() -> None:
        written(root / ".meshwatch", "drafts/\n")
        test_file, draft = written(root / "a_test.py"), written(root / "drafts/d.md")
        async with watching(root, patterns=["**/*_test.py"], relevant=lambda path: True) as seen:
            test_file.write_text("changed")
            draft.write_text("changed")
            assert await seen.settled() == set()

    run(test)


def test_a_folder_of_a_glob_is_watched_though_git_ignores_it(root: Path) -> None:
    async def test() -> None:
        written(root / ".gitignore", "build/\n")
        prompt = written(root / "build/prompts/deep/p.md")
        folders = [root / "build/prompts"]
        async with watching(root, folders=lambda: folders, relevant=lambda path: path.suffix in {".md", ".py"}) as seen:
            prompt.write_text("changed")
            written(root / "build/other/p.md")
            assert await seen.settled() == {prompt}

    run(test)


def test_irrelevant_noise_neither_makes_a_batch_nor_holds_one_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Now a batch that the noise holds up would never come.
    monkeypatch.setattr(batch, "LONGEST_WAIT", 1000.0)

    async def test() -> None:
        file = written(root / "a.py")
        over = threading.Event()

        def make_noise() -> None:
            while not over.wait(0.01):
                written(root / "out.dat", str(time.monotonic_ns()))

        noise = threading.Thread(target=make_noise)
        async with watching(root, [file], relevant=lambda path: path.suffix == ".py", debounce=0.05) as seen:
            noise.start()
            try:
                file.write_text("changed")
                await seen.sees(file)
                assert await seen.settled() <= {file}  # whose events may come in two batches
            finally:
                over.set()
                noise.join()

    run(test)


def test_a_changed_rule_file_holds_at_once(root: Path) -> None:
    async def test() -> None:
        rules = written(root / ".gitignore", "lib/\n")
        file = written(root / "lib/f.py")
        async with watching(root) as seen:
            file.write_text("ignored")
            assert await seen.settled() == set()
            rules.write_text("")
            await seen.sees(rules)
            await seen.settled()
            file.write_text("seen")
            assert await seen.settled() == {file}

    run(test)


# ---- git -----------------------------------------------------------------------------------------------------------


def test_a_batch_waits_while_git_holds_its_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        file, late = written(root / "a.py"), root / "late.py"
        lock = written(root / ".git/index.lock")
        found_held = asyncio.Event()
        look = filesystems.is_locked

        def is_locked(locks: Sequence[Path]) -> bool:
            held = look(locks)
            if held:
                found_held.set()
            return held

        monkeypatch.setattr(watch, "is_locked", is_locked)
        async with watching(root, [file]) as seen:
            seen.watcher._batcher._longest_hold = 1000.0  # however long the test takes
            file.write_text("half of a checkout")
            await found_held.wait()
            late.write_text("the other half")
            found_held.clear()
            await found_held.wait()
            assert seen.batches == []
            lock.unlink()
            await seen.sees(file, late)

    run(test)


def test_a_lock_that_a_crashed_git_left_holds_for_two_seconds_only(root: Path) -> None:
    async def test() -> None:
        file = written(root / "a.py")
        written(root / ".git/index.lock")
        async with watching(root, [file]) as seen:
            began = time.monotonic()
            file.write_text("changed")
            await seen.sees(file)
            assert time.monotonic() - began > 1.9

    run(test)


def test_a_lock_where_we_may_not_look_is_none(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text(f"gitdir: {'x' * 300}\n")
    assert not filesystems.is_locked(filesystems.git_locks([tmp_path]))


def test_the_lock_of_a_worktree_is_found(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    written(root / ".git", "gitdir: ../main/.git/worktrees/tree\n")
    assert filesystems.git_locks([root / "sub", root]) == (root / "../main/.git/worktrees/tree/index.lock",)


# ---- size, cost and limits -----------------------------------------------------------------------------------------


def make_folders(root: Path, count: int) -> list[Path]:
    folders = [root / f"p{number // 100}/d{number % 100}" for number in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_a_tree_of_5000_folders_is_watched_at_once_with_one_thread(root: Path) -> None:
    async def test() -> None:
        folders = make_folders(root, 5000)
        threads = threading.active_count()
        async with watching(root) as seen:
            assert seen.status.how == "inotify"
            assert seen.status.directories >= 5000
            assert threading.active_count() == threads + 1
            await seen.sees(written(folders[0] / "f.py"), written(folders[-1] / "f.py"))

    run(test)


def test_after_an_overflow_every_file_is_looked_at_and_new_folders_are_watched(root: Path) -> None:
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if queue > 100_000:
        pytest.skip(f"the kernel's queue holds {queue} events: filling it takes too long")

    async def test() -> None:
        file = written(root / "a.py")
        async with watching(root, [file]) as seen:
            await seen.settled()  # the probe was heard
            folder_watch = seen.watcher._watch
            assert folder_watch is not None
            # With its lock held the reader stands still, and the kernel's queue fills up.
            with folder_watch._lock:
                for number in range(queue // 2 + 100):
                    written(root / f"noise{number}.log")
                file.write_text("lost")
                lost = written(root / "new/deep/lost.py")
            await seen.sees(file, lost)
            assert seen.overflows == 1
            await seen.settled()
            lost.write_text("changed")
            assert await seen.settled() == {lost}

    run(test)


LIMITED = """
import asyncio, sys
from pathlib import Path
limit, root = sys.argv[1], Path(sys.argv[2])
Path("/proc/sys/user", limit).write_text(sys.argv[3])
from mesh_supervisor.host.watch import Ignore, Watcher

async def main():
    batches = asyncio.Queue()
    watcher = Watcher(
        Ignore([root]), batches.put_nowait, state_dir=root / ".mesh", on_notice=lambda text: print("notice", text)
    )
    watcher.start([root], [root / "a.py"])
    if sys.argv[4] == "later":
        print(watcher.status.how)
        for number in range(50):
            (root / f"new{number}").mkdir()
        while watcher.status.how == "inotify":
            await asyncio.sleep(0.01)
    print(watcher.status.how)
    while root / "a.py" not in await batches.get():
        pass  # where inotify was given up every file counts as changed
    (root / "a.py").write_text("changed and longer")
    while root / "a.py" not in (batch := await batches.get()):
        pass
    print("batch", sorted(path.name for path in batch))
    watcher.stop()

asyncio.run(main())
"""


def in_user_namespace(script: str, *arguments: str) -> list[str]:
    """Run it where this process may set limits of its own; the lines it prints. Skips where there is no such place."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Ur", "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    command = [unshare, "-Ur", sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_watches_left_means_polling_and_names_the_limit(root: Path) -> None:
    make_folders(root, 50)
    written(root / "a.py")
    notice, how, reported = in_user_namespace(LIMITED, "max_inotify_watches", str(root), "20", "now")
    assert "the limit user.max_inotify_watches of this user namespace is reached" in notice
    assert "sysctl" in notice
    assert how == "polling"
    assert reported == "batch ['a.py']"


def test_no_watches_left_while_watching_means_polling_from_then_on(root: Path) -> None:
    written(root / "a.py")
    before, notice, how, reported = in_user_namespace(LIMITED, "max_inotify_watches", str(root), "20", "later")
    assert before == "inotify"
    assert "user.max_inotify_watches" in notice
    assert how == "polling"
    assert reported == "batch ['a.py']"


def test_no_instance_left_means_polling_and_names_the_limit(root: Path) -> None:
    written(root / "a.py")
    notice, how, reported = in_user_namespace(LIMITED, "max_inotify_instances", str(root), "0", "now")
    assert "user.max_inotify_instances" in notice
    assert how == "polling"
    assert reported == "batch ['a.py']"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "fs.inotify.max_user_watches"),
        (errno.EMFILE, "fs.inotify.max_user_instances"),
        (errno.ENOSYS, "inotify cannot be used: Function not implemented"),
    ],
)
def test_a_refusal_of_the_system_is_said_with_a_way_out(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    async def test() -> None:
        file = written(root / "a.py")
        monkeypatch.setattr(watch, "FolderWatch", refuse)
        async with watching(root, [file]) as seen:
            assert seen.status.how == "polling"
            assert words in seen.status.why
            assert len(seen.notices) == 1
            await seen.sees(file)  # where inotify was given up every file counts as changed
            file.write_text("changed")
            await seen.sees(file)

    run(test)


# ---- file systems that lose events ---------------------------------------------------------------------------------


def test_a_probe_that_nobody_hears_of_means_polling_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unheard(filesystems.Probe):
        def __init__(self, folder: Path, silent: Callable[[], None]) -> None:
            super().__init__(folder, silent, patience=0.05)

        def write(self) -> None:
            """Writes where no event comes from."""

    async def test() -> None:
        monkeypatch.setattr(watch, "Probe", Unheard)
        file = written(root / "a.py")
        async with watching(root, [file]) as seen:
            await seen.until(lambda: bool(seen.notices))
            assert seen.status.how == "inotify+polling"
            assert "no inotify events arrive" in seen.status.why
            assert not (root / ".mesh/watch-probe").exists()

    run(test)


def test_a_probe_that_is_heard_leaves_nothing_behind(root: Path) -> None:
    async def test() -> None:
        async with watching(root) as seen:
            await seen.settled()
            assert not (root / ".mesh/watch-probe").exists()
            assert seen.status.how == "inotify"
            assert seen.status.why == ""

    run(test)


def test_only_what_lies_on_a_lossy_file_system_is_polled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        there, here = written(tmp_path / "share/lib.py"), written(root / "a.py")
        glob_folder = tmp_path / "share/prompts"
        written(glob_folder / "old.md")
        monkeypatch.setattr(watch, "mounts", lambda: filesystems.Mounts({"/": "ext4", str(tmp_path / "share"): "9p"}))
        async with watching(root, [there, here], folders=lambda: [glob_folder]) as seen:
            assert seen.status.how == "inotify+polling"
            assert "9p" in seen.status.why
            assert seen.watcher._poller is not None
            assert seen.watcher._poller._files == {str(there)}
            # Nothing is heard of any more, as when another machine writes.
            seen.watcher._close_watch()
            there.write_text("changed")
            new = written(glob_folder / "deep/new.md")
            await seen.sees(there, new)

    run(test)


def test_the_mount_table_names_lossy_file_systems(tmp_path: Path) -> None:
    table = written(
        tmp_path / "mountinfo",
        "22 1 259:1 / / rw - ext4 /dev/root rw\n"
        "30 22 0:30 / /mnt/c rw,noatime shared:1 - 9p C:\\134 rw\n"
        "31 22 0:31 / /srv/two\\040words rw - nfs4 host:/x rw\n"
        "32 30 0:32 / /mnt/c/local rw - tmpfs tmpfs rw\n",
    )
    found = filesystems.mounts(table)
    assert found.lossy("/home/me") is None
    assert found.lossy("/mnt/c/Users/me/a.py") == "9p"
    assert found.lossy("/srv/two words/x") == "nfs4"
    assert found.lossy("/mnt/c/local/x") is None
    assert filesystems.mounts(tmp_path / "missing").lossy("/x") is None


# ---- ending --------------------------------------------------------------------------------------------------------


def test_stopping_ends_everything_and_starting_again_works(root: Path) -> None:
    async def test() -> None:
        file = written(root / "a.py")
        threads = threading.active_count()
        async with watching(root, [file]) as seen:
            file.write_text("gathered, not delivered")
            seen.watcher.stop()
            assert seen.status.how == "off"
            assert threading.active_count() == threads
            file.write_text("while nobody looks")
            seen.watcher.start([root], [file])
            assert await seen.settled() == set()
            file.write_text("seen")
            await seen.sees(file)
        assert threading.active_count() == threads
        seen.watcher.stop()

    run(test)


def test_a_loop_that_ends_without_a_stop_is_no_error(root: Path) -> None:
    left: list[Watcher] = []

    async def test() -> None:
        one = Watcher(Ignore([root]), lambda paths: None, state_dir=root / ".mesh")
        one.start([root])
        left.append(one)

    run(test)
    written(root / "a.py")
    left[0].stop()


def test_polling_keeps_up_with_changes_of_aim(tmp_path: Path) -> None:
    async def test() -> None:
        reported: asyncio.Queue[set[str]] = asyncio.Queue()
        file, other = written(tmp_path / "a"), written(tmp_path / "b")
        poller = polling.Poller(prunes=lambda folder: False, report=reported.put_nowait)
        poller.aim({str(file)}, ())
        poller.start()
        try:
            file.write_text("longer than before")
            poller.aim({str(file), str(other)}, ())
            assert await reported.get() == {str(file)}
            poller.aim({str(other)}, ())
            other.unlink()
            assert await reported.get() == {str(other)}
        finally:
            poller.stop()

    run(test)


def test_polling_goes_on_past_what_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of NFS does not tell kinds: each entry is looked up, and its server says what it likes."""

    class Stale:
        path = str(tmp_path / "stale")

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    class Listing(list[Any]):
        def __enter__(self) -> Listing:
            return self

        def __exit__(self, *_: object) -> None:
            return

    really = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: Listing([Stale(), *really(folder)]))

    async def test() -> None:
        reported: asyncio.Queue[set[str]] = asyncio.Queue()
        poller = polling.Poller(prunes=lambda folder: False, report=reported.put_nowait)
        poller.aim((), {str(tmp_path)})
        poller.start()
        try:
            file = written(tmp_path / "new")
            async with asyncio.timeout(PATIENCE):
                assert await reported.get() == {str(file)}
        finally:
            poller.stop()

    run(test)


def test_polling_reports_young_files_again_where_times_are_coarse() -> None:
    second = 1_000_000_000
    coarse = {"/f": (5 * second, 5 * second, 3, 7)}
    fine = {"/f": (5 * second + 1, 5 * second + 1, 3, 7)}
    assert polling.changes({**coarse}, {**coarse}, now_ns=6 * second) == {"/f"}
    assert polling.changes({**coarse}, {**coarse}, now_ns=8 * second) == set()
    assert polling.changes({**fine}, {**fine}, now_ns=6 * second) == set()
    assert polling.changes({"/f": None}, {}, now_ns=0) == set()
