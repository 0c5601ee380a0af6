"""From a save to the agents that it concerns: real files, and a finder that says what a test wants it to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.impact import Inputs, chain_text, globs_of
from mesh_supervisor.imports import Gone, Step
from mesh_supervisor.lifecycle import EditRejected, EditUndone, Event, InputsChanged
from mesh_supervisor.selection import Selection
from mesh_supervisor.spec import AgentSpec, Script


class FakeFinder:
    """Every agent imports what ``imports`` names for it and, in a chain, what its lines ``import NAME`` name; a file
    with ``syntax error`` in it cannot be loaded. Looks at the disk each time, as the real one does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.extra: dict[str, Callable[[Inputs], Inputs]] = {}
        self.asked: list[tuple[str, list[str], list[str]]] = []
        self.forgotten: list[str] = []

    async def inputs_of(self, spec: AgentSpec) -> Inputs:
        assert isinstance(spec.command, Script)
        files: dict[Path, Step] = {}
        missing: dict[Path, Path | None] = {}
        waiting: list[tuple[Path, Path | None]] = [(spec.command.path, None)]
        while waiting:
            path, via = waiting.pop()
            if path in files:
                continue
            if not path.exists():
                missing[path] = via
                continue
            files[path] = Step(via, "import")
            for line in path.read_text().splitlines():
                if line.startswith("import "):
                    waiting.append((self.root / f"{line.split()[1].replace('.', '/')}.py", path))
        gone = tuple(Gone(via, 1, f"no {path.stem}") for path, via in missing.items() if via is not None)
        inputs = Inputs(files=files, missing=missing, gone=gone, watched=spec.watch is not False)
        return self.extra[spec.name](inputs) if spec.name in self.extra else inputs

    async def broken(
        self, spec: AgentSpec, inputs: Inputs, changed: Collection[Path], tolerated: Collection[Gone] = ()
    ) -> str | None:
        names = sorted(path.name for path in changed)
        self.asked.append((spec.name, names, [gone.message for gone in tolerated]))
        bad = [path.name for path in changed if path.exists() and "syntax error" in path.read_text()]
        return f"SyntaxError in {bad[0]}" if bad else None

    def forget_bytecode(self, changed: Iterable[Path]) -> None:
        self.forgotten += sorted(path.name for path in changed)


class Project:
    """A folder with agents, and the selection that watches it. ``posted``: every event, in order."""

    def __init__(self, root: Path, state: Path | None = None) -> None:
        self.root, self.finder = root, FakeFinder(root)
        self.now = 100.0
        self.posted: list[tuple[str, Event]] = []
        self.said: list[str] = []
        self.learnt = 0
        self.configured: list[str] = []
        self.selection = Selection(
            root,
            self.finder,
            Ignore([root], ["ignored/"]),
            post=lambda agent, event: self.posted.append((agent, event)),
            configured=self._configured,
            inputs_changed=self._learn,
            say=self.said.append,
            traces=Traces(state),
            clock=lambda: self.now,
        )

    async def _configured(self) -> None:
        self.configured.append("asked")

    def _learn(self) -> None:
        self.learnt += 1

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, text: str = "") -> Path:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def agent(self, name: str, text: str = "", *, watch: bool = True) -> AgentSpec:
        spec = AgentSpec(name, Script(self.write(f"{name}.py", text)), self.root, watch=() if watch else False)
        self.selection.track(spec, enabled=True)
        return spec

    async def start(self, *agents: str) -> None:
        for agent in agents or list(self.selection.agents):
            await self.selection.look(agent)

    async def batch(self, *names: str | Path) -> list[tuple[str, Event]]:
        """What one batch of these paths comes to."""
        before = len(self.posted)
        await self.selection._take(frozenset(self.path(str(name)) for name in names))
        return self.posted[before:]

    async def settle(self) -> None:
        """All that instances have told is looked at, and what follows from that."""
        waiting = self.selection._batches
        while not waiting.empty():
            what = waiting.get_nowait()
            await (self.selection._take(what) if isinstance(what, frozenset) else what())

    async def read(self, agent: str, *names: str, generation: int = 1, how: str = "data", place: str = "p") -> None:
        """An instance opens these files now."""
        for name in names:
            path = self.path(name)
            via, stamp = str(self.path(f"{agent}.py")), _stamp(path)
            more = [place, 1, self.now, self.now] if how != "module" else [self.now]
            self.selection.reads(agent, generation, [[str(path), how, via, stamp, *more]])
        await self.settle()

    async def ready(self, agent: str, generation: int = 1) -> None:
        self.now += 1
        self.selection.ready(agent, generation)
        self.now += 1
        await self.settle()

    async def save(self, name: str, text: str) -> list[tuple[str, Event]]:
        self.write(name, text)
        return await self.batch(name)


def _stamp(path: Path) -> list[int] | None:
    """As runtime/trace.py makes it."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [max(status.st_mtime_ns, status.st_ctime_ns), status.st_size, status.st_ino]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path.resolve())


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


# ---- what is a change ------------------------------------------------------------------------------------------------


def test_an_edit_concerns_exactly_those_who_import_it(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import shared\n")
        project.agent("b")
        project.write("shared.py", "x = 1\n")
        await project.start()
        assert await project.save("shared.py", "x = 2\n") == [("a", InputsChanged("shared.py ← a.py (import)"))]
        assert project.said == ["File changed: shared.py"]
        assert project.finder.forgotten == ["shared.py"]

    run(test)


def test_a_touch_and_an_identical_save_are_no_change(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        await project.start()
        os.utime(project.path("a.py"), (1, 1))
        assert await project.batch("a.py") == [("a", EditUndone())]
        assert await project.save("a.py", "x = 1\n") == [("a", EditUndone())]
        assert project.said == []
        assert project.finder.asked == []

    run(test)


def test_two_saves_of_equal_length_within_a_moment_are_two_changes(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        await project.start()
        for text in ("x = 2\n", "x = 3\n", "x = 4\n"):
            (posted,) = await project.save("a.py", text)
            assert isinstance(posted[1], InputsChanged)

    run(test)


def test_a_branch_switched_forth_and_back_within_one_batch_is_none(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import b\n")
        project.write("b.py", "x = 1\n")
        await project.start()
        project.path("b.py").unlink()
        project.write("a.py", "# other branch\n")
        project.write("a.py", "import b\n")
        project.write("b.py", "x = 1\n")
        assert await project.batch("a.py", "b.py") == [("a", EditUndone())]

    run(test)


def test_an_agent_that_never_started_is_started_from_what_is_there_then(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        assert await project.save("a.py", "x = 2\n") == []
        await project.start()
        assert await project.batch("a.py") == [("a", EditUndone())]

    run(test)


def test_what_the_user_ignores_is_no_input_for_anybody(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import ignored.x\n")
        project.write("ignored/x.py", "1")
        await project.start()
        assert await project.save("ignored/x.py", "2") == []

    run(test)


def test_a_hundred_files_are_not_all_named(project: Project) -> None:
    async def test() -> None:
        names = [f"m{number:02}" for number in range(8)]
        project.agent("a", "".join(f"import {name}\n" for name in names))
        for name in names:
            project.write(f"{name}.py", "1")
        await project.start()
        for name in names:
            project.write(f"{name}.py", "2")
        assert len(await project.batch(*(f"{name}.py" for name in names))) == 1
        assert project.said == ["File changed: m00.py, m01.py, m02.py, m03.py, m04.py and 3 more"]

    run(test)


def test_one_file_is_said_once_however_many_agents_it_concerns(project: Project) -> None:
    async def test() -> None:
        for name in ("a", "b", "c"):
            project.agent(name, "import shared\n")
        project.write("shared.py", "1")
        await project.start()
        assert [agent for agent, _ in await project.save("shared.py", "2")] == ["a", "b", "c"]
        assert project.said == ["File changed: shared.py"]

    run(test)


# ---- does it load ----------------------------------------------------------------------------------------------------


def test_a_rejected_edit_is_undone(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        await project.start()
        ((_, rejected),) = await project.save("a.py", "syntax error")
        assert isinstance(rejected, EditRejected)
        assert rejected.text == "SyntaxError in a.py"
        assert await project.save("a.py", "x = 1\n") == [("a", EditUndone())]
        assert project.finder.forgotten == []

    run(test)


def test_a_rejected_edit_is_mended_and_all_of_it_counts(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import b\nimport c\n")
        project.write("b.py", "1")
        project.write("c.py", "1")
        await project.start()
        await project.save("b.py", "syntax error")
        await project.save("c.py", "2")
        ((_, mended),) = await project.save("b.py", "2")
        assert isinstance(mended, InputsChanged)
        assert project.finder.asked[-1][1] == ["b.py", "c.py"]
        assert project.finder.forgotten == ["b.py", "c.py"]

    run(test)


def test_a_rejected_edit_is_mended_in_a_file_that_only_the_edit_imports(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        await project.start()
        project.write("new.py", "syntax error")
        ((_, rejected),) = await project.save("a.py", "import new\n")
        assert isinstance(rejected, EditRejected)
        assert await project.save("new.py", "fine") == [("a", InputsChanged("new.py ← a.py (import)"))]

    run(test)


def test_a_rejected_edit_is_undone_in_a_file_that_the_edit_no_longer_imports(project: Project) -> None:
    """What serves still has it: giving it another content and back is seen."""

    async def test() -> None:
        project.agent("a", "import old\n")
        project.write("old.py", "1")
        await project.start()
        project.write("old.py", "2")
        ((_, rejected),) = await project.save("a.py", "syntax error")
        assert isinstance(rejected, EditRejected)
        project.write("a.py", "import old\n")
        ((_, half),) = await project.batch("a.py")
        assert isinstance(half, InputsChanged), "old.py is still another one"
        assert project.finder.asked[-1][1] == ["old.py"]

    run(test)


def test_an_edit_that_did_not_come_up_is_undone_and_may_be_tried_again(project: Project) -> None:
    """It loads as far as can be told, and its process dies: what serves is still what the older files made."""

    async def main() -> None:
        project.agent("a", "good")
        await project.start()
        project.selection.ready("a", 1)
        project.write("a.py", "dies at its start")
        ((_, event),) = await project.batch("a.py")
        assert isinstance(event, InputsChanged)
        await project.start("a")
        project.selection.rejected("a")
        ((_, event),) = await project.batch("a.py")
        assert isinstance(event, InputsChanged), "the same once more: a database may be there by now"
        await project.start("a")
        project.selection.rejected("a")
        project.write("a.py", "good")
        assert await project.batch("a.py") == [("a", EditUndone())]

    asyncio.run(main())


def test_what_serves_lives_with_is_tolerated(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import nowhere\n")
        await project.start()
        await project.save("a.py", "import nowhere\nx = 1\n")
        assert project.finder.asked == [("a", ["a.py"], ["no nowhere"])]

    run(test)


def test_a_new_file_satisfies_a_missing_import(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import later\n")
        await project.start()
        assert project.path("later.py") in project.selection.files()
        ((agent, event),) = await project.save("later.py", "1")
        assert (agent, event) == ("a", InputsChanged("later.py ← a.py (import, new file)"))

    run(test)


def test_a_file_that_is_no_input_any_more_concerns_nobody(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import old\n")
        project.write("old.py", "1")
        await project.start()
        await project.save("a.py", "# alone\n")
        await project.start()
        assert await project.save("old.py", "2") == []

    run(test)


# ---- folders, globs, env files ---------------------------------------------------------------------------------------


def test_a_folder_that_went_stands_for_what_was_in_it(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import lib.x\n")
        project.write("lib/x.py", "1")
        await project.start()
        project.path("lib").rename(project.path("away"))
        ((_, gone),) = await project.batch("lib")
        assert isinstance(gone, InputsChanged)
        await project.start()
        project.path("away").rename(project.path("lib"))
        ((_, back),) = await project.batch("lib")
        assert isinstance(back, InputsChanged), "the missing file is there again"

    run(test)


def test_globs_see_new_and_deleted_files(project: Project) -> None:
    async def test() -> None:
        project.agent("a")

        def with_prompts(inputs: Inputs) -> Inputs:
            matched = frozenset(project.root.glob("prompts/*.md"))
            return replace(inputs, globs=globs_of(project.root, ["prompts/*.md"]), matched=matched)

        project.finder.extra["a"] = with_prompts
        project.write("prompts/one.md", "1")
        await project.start()
        assert project.selection.folders() == [project.path("prompts")]
        assert project.selection.relevant(project.path("prompts/two.md"))
        assert not project.selection.relevant(project.path("prompts/two.txt"))
        ((_, new),) = await project.save("prompts/two.md", "2")
        assert new == InputsChanged("prompts/two.md (watch: prompts/*.md)")
        await project.start()
        project.path("prompts/two.md").unlink()
        ((_, deleted),) = await project.batch("prompts/two.md")
        assert isinstance(deleted, InputsChanged)

    run(test)


def test_mesh_toml_is_applied_before_anything_else_of_the_batch(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        project.selection.config_files = frozenset({project.write("mesh.toml")})
        project.selection._configured = lambda: _noted(project)
        await asyncio.gather(project.save("a.py", "2"))
        assert project.configured == []
        project.write("a.py", "3")
        await project.batch("mesh.toml", "a.py")
        assert project.configured == ["after 1 events"]
        assert len(project.posted) == 2

    async def _noted(project: Project) -> None:
        project.configured.append(f"after {len(project.posted)} events")

    run(test)


def test_a_comment_in_an_env_file_is_no_change_then_nor_later(project: Project) -> None:
    """What an env file means is decided by its values, when mesh.toml is applied; its bytes are no reason."""

    async def test() -> None:
        project.agent("a", "x = 1\n")
        env = project.write(".env", "A=1\n")
        project.finder.extra["a"] = lambda inputs: replace(inputs, env_files=frozenset({env}))
        project.selection.config_files = frozenset({env})
        await project.start()
        assert await project.save(".env", "A=1  # one\n") == []
        assert project.configured == ["asked"]
        os.utime(project.path("a.py"), (1, 1))
        assert await project.batch("a.py") == [("a", EditUndone())]

    run(test)


def test_another_glob_counts_from_now_on(project: Project) -> None:
    async def test() -> None:
        spec = project.agent("a", "1")
        project.write("one.md", "1")
        await project.start()
        project.write("a.py", "2")  # not yet looked at: it still counts

        def with_glob(inputs: Inputs) -> Inputs:
            matched = frozenset({project.path("one.md")})
            return replace(inputs, globs=globs_of(project.root, ["*.md"]), matched=matched)

        project.finder.extra["a"] = with_glob
        project.write("one.md", "changed before it was an input")
        project.selection.track(replace(spec, watch=("*.md",)), enabled=True)
        await project.selection.relearn("a")
        assert project.path("one.md") in project.selection.files()
        ((_, first),) = await project.batch("one.md")
        assert isinstance(first, InputsChanged)
        assert project.finder.asked[-1][1] == ["a.py"]
        assert await project.save("one.md", "again") == [("a", InputsChanged("one.md (watch: *.md)"))]

    run(test)


def test_what_is_no_input_any_more_is_no_later_reason(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        project.write("one.md", "1")
        with_glob = lambda inputs: replace(inputs, matched=frozenset({project.path("one.md")}))  # noqa: E731
        project.finder.extra["a"] = with_glob
        await project.start()
        project.finder.extra.clear()
        await project.selection.relearn("a")
        project.write("one.md", "2")
        assert await project.batch("a.py") == [("a", EditUndone())]

    run(test)


# ---- switched off ----------------------------------------------------------------------------------------------------


def test_an_agent_whose_watching_is_off_is_left_alone_until_it_catches_up(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        tracked = project.selection.agents["a"]
        tracked.enabled = False
        assert await project.save("a.py", "2") == []
        tracked.enabled = True
        await project.selection.catch_up("a")
        assert project.posted == [("a", InputsChanged("changed while its watching was off"))]
        await project.selection.catch_up("a")
        assert project.posted[1:] == [("a", EditUndone())]

    run(test)


def test_catching_up_rejects_what_cannot_load(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        project.write("a.py", "syntax error")
        await project.selection.catch_up("a")
        ((_, rejected),) = project.posted
        assert isinstance(rejected, EditRejected)

    run(test)


def test_watch_false_means_never_by_a_save_not_even_when_watching_is_switched_on(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1", watch=False)
        await project.start()
        assert await project.save("a.py", "2") == []
        await project.selection.catch_up("a")
        assert project.posted == []

    run(test)


# ---- questions -------------------------------------------------------------------------------------------------------


def test_a_restart_accepts_what_is_there_so_that_its_save_is_no_second_reason(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        project.write("a.py", "2")
        assert await project.selection.accept("a") is None
        assert await project.batch("a.py") == [("a", EditUndone())]
        project.write("a.py", "syntax error")
        assert await project.selection.accept("a") == "SyntaxError in a.py"
        ((_, rejected),) = await project.batch("a.py")
        assert isinstance(rejected, EditRejected), "nothing was accepted"

    run(test)


def test_why_knows_agents_that_never_started_and_those_that_are_not_watched(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import shared\n")
        project.agent("b", "import shared\n", watch=False)
        project.agent("c")
        project.write("shared.py")
        assert sorted(await project.selection.why(project.path("shared.py"))) == ["a", "b"]

    run(test)


def test_inputs_that_are_known_only_later_count_from_then(project: Project) -> None:
    async def test() -> None:
        spec = project.agent("a", "1")
        project.write("found.py", "1")
        await project.start()
        project.write("a.py", "2")
        inputs = await project.finder.inputs_of(spec)
        found = replace(inputs, files={**inputs.files, project.path("found.py"): Step(None, "seen")})
        project.finder.extra["a"] = lambda inputs: found
        await project.selection.look_again("a", found)
        ((_, changed),) = await project.batch("a.py")
        assert isinstance(changed, InputsChanged), "a.py changed after the start, found.py did not"
        assert project.finder.asked[-1][1] == ["a.py"]

    run(test)


# ---- meanwhile -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2", "syntax error", "1"])
def test_an_agent_that_is_removed_while_its_edit_is_looked_at_hears_nothing(project: Project, text: str) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        looking = project.finder.inputs_of

        async def removed_meanwhile(spec: AgentSpec) -> Inputs:
            project.selection.forget("a")
            return await looking(spec)

        project.finder.inputs_of = removed_meanwhile  # type: ignore[method-assign]
        assert await project.save("a.py", text) == []

    run(test)


def test_an_agent_that_was_removed_before_its_turn_has_nothing_to_catch_up_with(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        project.selection.forget("a")
        await project.selection.catch_up("a")
        assert project.posted == []

    run(test)


def test_why_while_an_agent_is_removed(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import shared\n")
        project.agent("b", "import shared\n")
        project.write("shared.py")
        looking = project.finder.inputs_of

        async def removed_meanwhile(spec: AgentSpec) -> Inputs:
            if spec.name == "a":
                project.selection.forget("b")
            return await looking(spec)

        project.finder.inputs_of = removed_meanwhile  # type: ignore[method-assign]
        assert sorted(await project.selection.why(project.path("shared.py"))) == ["a"]

    run(test)


def test_the_watcher_is_told_only_when_inputs_really_differ(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "1")
        await project.start()
        told = project.learnt
        await project.save("a.py", "2")
        assert project.learnt == told
        await project.save("a.py", "import b\n")
        assert project.learnt == told + 1

    run(test)


# ---- what instances read and write -----------------------------------------------------------------------------------


def test_what_an_instance_reads_is_an_input_of_that_agent_only(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.agent("b")
        prompt = project.write("prompts/system.md", "1")
        await project.start()
        assert not project.selection.relevant(prompt)
        await project.read("a", "prompts/system.md")
        assert project.selection.relevant(prompt)
        assert prompt in project.selection.files()
        reload = InputsChanged("prompts/system.md ← a.py (read)")
        assert await project.save("prompts/system.md", "2") == [("a", reload)]
        assert project.said == ["File changed: prompts/system.md"]

    run(test)


def test_the_chain_leads_from_a_file_by_the_module_that_read_it(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "import common.load\n")
        project.write("common/load.py")
        project.write("plugin.py")
        project.write("x.md")
        await project.start()
        via = str(project.path("common/load.py"))
        project.selection.reads("a", 1, [[str(project.path("plugin.py")), "module", via, None, 1.0]])
        plugin = str(project.path("plugin.py"))
        project.selection.reads("a", 1, [[str(project.path("x.md")), "data", plugin, None, "p", 1, 1.0, 1.0]])
        await project.settle()
        (reason,) = (await project.selection.why(project.path("x.md"))).values()
        assert chain_text(reason, project.root) == "x.md ← plugin.py ← common/load.py ← a.py (read)"

    run(test)


def test_what_changed_between_the_read_and_the_telling_is_a_reason_at_once(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        prompt = project.write("x.md", "read by the instance")
        await project.start()
        record = [str(prompt), "data", None, _stamp(prompt), "p", 1, 1.0, 1.0]
        project.write("x.md", "saved before we heard of it")
        project.selection.reads("a", 1, [record])
        await project.settle()
        assert project.posted == [("a", InputsChanged("x.md (read)"))]
        await project.start()
        await project.read("a", "x.md", generation=2)
        assert await project.batch("x.md") == [("a", EditUndone())]

    run(test)


def test_what_changed_before_the_instance_read_it_is_no_reason(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("x.md", "1")
        await project.start()
        await project.read("a", "x.md")
        await project.start()  # the next one is prepared, then the file is saved, then read
        project.write("x.md", "2")
        await project.read("a", "x.md", generation=2)
        assert await project.batch("x.md") == [("a", EditUndone())]

    run(test)


def test_a_file_that_was_looked_for_counts_when_it_comes_and_when_it_goes(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        await project.start()
        await project.read("a", "local.yaml")
        assert project.path("local.yaml") in project.selection.files()
        await project.read("a", "other.yaml")  # told while the first is being made
        ((_, came),) = await project.save("local.yaml", "x: 1")
        assert came == InputsChanged("local.yaml ← a.py (read)")
        await project.start()
        await project.read("a", "local.yaml", generation=2)
        project.path("local.yaml").unlink()
        ((_, went),) = await project.batch("local.yaml")
        assert isinstance(went, InputsChanged)

    run(test)


def test_a_file_that_comes_while_another_is_told_of_is_not_taken_for_known(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        await project.start()
        await project.read("a", "local.yaml")
        assert await project.batch("a.py") == [("a", EditUndone())]
        project.write("local.yaml", "x: 1")
        project.write("x.md")
        await project.read("a", "x.md")
        ((_, came),) = await project.batch("local.yaml")
        assert isinstance(came, InputsChanged)

    run(test)


def test_what_another_agent_writes_is_no_input_and_makes_no_loop(project: Project) -> None:
    async def test() -> None:
        project.agent("reader")
        project.agent("writer")
        project.write("data.json", "1")
        await project.start()
        await project.read("reader", "data.json")
        project.selection.writes("writer", 1, [str(project.path("data.json"))])
        await project.settle()
        assert await project.save("data.json", "2") == []
        assert await project.batch("reader.py") == [("reader", EditUndone())], "nor is it a reason later"
        assert project.selection.asides(project.path("data.json")) == {"reader": "writer writes it"}

    run(test)


def test_what_an_agent_looks_for_and_then_writes_is_its_own_work(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        await project.start()
        await project.read("a", "cache.json")
        project.selection.writes("a", 1, [str(project.path("cache.json"))])
        project.write("cache.json", "{}")
        await project.settle()
        assert await project.batch("cache.json") == []

    run(test)


def test_what_requests_read_again_and_again_is_no_reason_now_nor_later(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("data.csv", "1")
        await project.start()
        await project.ready("a")
        await project.read("a", "data.csv")
        assert project.path("data.csv") in project.selection.files()
        await project.read("a", "data.csv")
        assert project.path("data.csv") not in project.selection.files()
        assert await project.save("data.csv", "2") == []
        assert await project.batch("a.py") == [("a", EditUndone())]
        matched = frozenset({project.path("data.csv")})
        globs = globs_of(project.root, ["data.csv"])
        project.finder.extra["a"] = lambda inputs: replace(inputs, globs=globs, matched=matched)
        await project.selection.relearn("a")
        ((_, watched),) = await project.save("data.csv", "3")
        assert watched == InputsChanged("data.csv (watch: data.csv)")

    run(test)


def test_what_is_read_counts_also_where_git_ignores_it(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write(".gitignore", "private/\n")
        project.write("private/local.yaml", "1")
        await project.start()
        await project.read("a", "private/local.yaml")
        assert project.selection.relevant(project.path("private/local.yaml"))
        assert [agent for agent, _ in await project.save("private/local.yaml", "2")] == ["a"]

    run(test)


def test_what_serves_is_heard_while_and_after_its_successor_fails(project: Project) -> None:
    """Generation 2 has told something and never gets ready; a save between a read of generation 1 and its telling."""

    async def test() -> None:
        project.agent("a")
        project.write("x.md", "1")
        lazy = project.write("lazy.md", "1")
        await project.start()
        await project.ready("a", 1)
        await project.start()
        await project.read("a", "x.md", generation=2)
        record = [str(lazy), "data", None, _stamp(lazy), "p", 1, 900.0, 900.0]
        project.write("lazy.md", "saved before we heard of it")
        project.selection.reads("a", 1, [record])
        await project.settle()
        assert [type(event) for _, event in project.posted] == [InputsChanged]

    run(test)


def test_what_serves_reads_late_is_no_reason_when_its_successor_fails(project: Project) -> None:
    async def test() -> None:
        project.agent("a", "x = 1\n")
        for name in ("start.md", "late.md", "tried.md"):
            project.write(name, "1")
        await project.start()
        project.write("start.md", "saved between the look and the read")
        await project.read("a", "start.md")
        await project.ready("a", 1)
        await project.read("a", "late.md")
        ((_, changed),) = await project.save("a.py", "x = 2\n")
        assert isinstance(changed, InputsChanged)
        await project.start()
        await project.read("a", "start.md", "tried.md", generation=2)
        project.selection.rejected("a")
        assert await project.save("a.py", "x = 1\n") == [("a", EditUndone())]
        assert isinstance((await project.save("late.md", "2"))[0][1], InputsChanged)

    run(test)


def test_a_watch_pattern_takes_out_what_is_read(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.finder.extra["a"] = lambda inputs: replace(inputs, globs=globs_of(project.root, ["!draft.md"]))
        project.write("draft.md", "1")
        project.write("ignored/x.md", "1")
        await project.start()
        await project.read("a", "draft.md", "ignored/x.md")
        assert await project.save("draft.md", "2") == []
        assert await project.save("ignored/x.md", "2") == []
        assert await project.batch("a.py") == [("a", EditUndone())]

    run(test)


def test_a_new_file_counts_in_a_folder_that_is_listed(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("rules/one.json", "1")
        project.write("rules/unread.json", "1")
        await project.start()
        await project.read("a", "rules/one.json")
        await project.read("a", "rules", how="list")
        assert await project.save("rules/unread.json", "2") == [], "it was there, and nobody has read it"
        assert await project.save("rules/notes.txt", "2") == [], "such files are not read"
        ((_, new),) = await project.save("rules/two.json", "2")
        assert new == InputsChanged("rules/two.json ← a.py (read, new file)")
        await project.start()
        assert await project.batch("rules/two.json", "a.py") == [("a", EditUndone())]
        project.selection.writes("a", 2, [str(project.path("rules/made.json"))])
        await project.settle()
        assert await project.save("rules/made.json", "3") == []
        assert await project.batch("a.py") == [("a", EditUndone())]

    run(test)


def test_a_data_file_that_will_not_keep_still_is_muted_until_code_is_edited(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("feed.json", "0")
        await project.start()
        for number in range(1, 8):
            await project.read("a", "feed.json", generation=number)
            posted = await project.save("feed.json", str(number))
            assert [type(event) for _, event in posted] == ([InputsChanged] if number <= 5 else [])
            await project.start()
        assert [text for text in project.said if "muted" in text] == [
            "a: feed.json: muted: it caused more than 5 reloads in 60 s without an edit of code; "
            "`watch` in mesh.toml makes it count always"
        ]
        assert await project.batch("a.py") == [("a", EditUndone())]
        assert isinstance((await project.save("a.py", "x = 1\n"))[0][1], InputsChanged)
        await project.start()
        assert isinstance((await project.save("feed.json", "9"))[0][1], InputsChanged)

    run(test)


def test_trace_false_and_imports(project: Project) -> None:
    async def test() -> None:
        for name, trace in (("none", False), ("imports", "imports")):
            spec = project.agent(name)
            project.selection.track(replace(spec, trace=trace), enabled=True)  # type: ignore[arg-type]
        project.write("x.md", "1")
        project.write("lazy.py", "1")
        await project.start()
        for name in ("none", "imports"):
            await project.read(name, "x.md")
            await project.read(name, "lazy.py", how="module")
        assert await project.save("x.md", "2") == []
        assert [agent for agent, _ in await project.save("lazy.py", "2")] == ["imports"]

    run(test)


def test_a_module_that_was_seen_and_cannot_load_rejects_the_edit(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("lazy.py", "1")
        await project.start()
        await project.read("a", "lazy.py", how="module")
        ((_, rejected),) = await project.save("lazy.py", "syntax error")
        assert isinstance(rejected, EditRejected)
        assert await project.save("lazy.py", "1") == [("a", EditUndone())]

    run(test)


def test_what_was_read_outlives_the_supervisor(tmp_path: Path) -> None:
    async def test() -> None:
        project, later = Project(tmp_path.resolve(), tmp_path), Project(tmp_path.resolve(), tmp_path)
        project.agent("a")
        project.write("x.md", "1")
        running = asyncio.create_task(project.selection.run())
        await project.start()
        project.selection.reads("a", 1, [[str(project.path("x.md")), "data", None, None, "p", 1, 1.0, 1.0]])
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        later.agent("a")
        assert list(await later.selection.why(project.path("x.md"))) == ["a"]
        await later.start()
        assert [agent for agent, _ in await later.save("x.md", "2")] == ["a"]
        later.selection.forget("a")
        assert list((tmp_path / "traced").iterdir()) == []

    run(test)


def test_a_state_dir_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "traced").touch()
        project = Project(tmp_path.resolve(), tmp_path)
        project.agent("a")
        project.write("x.md", "1")
        await project.start()
        for number in (1, 2):
            await project.read("a", "x.md", generation=number)
            await project.selection._tracing.keep()
        (said,) = project.said
        assert said.startswith("what agents read cannot be kept for the next run: ")

    run(test)


def test_news_of_an_agent_that_is_gone_is_passed_over(project: Project) -> None:
    async def test() -> None:
        project.agent("a")
        project.write("x.md")
        await project.start()
        record = [str(project.path("x.md")), "data", None, None, "p", 1, 1.0, 1.0]
        project.selection.reads("a", 1, [record])
        project.selection.ready("a", 1)
        project.selection.forget("a")
        project.selection.reads("a", 1, [record])
        project.selection.writes("a", 1, ["/x"])
        project.selection.ready("a", 1)
        await project.settle()
        assert project.posted == []

    run(test)
