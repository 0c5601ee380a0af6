"""From a save to the agents that it concerns: real files, and a finder that says what a test wants it to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.host.ignore import Ignore
from mesh_supervisor.impact import Inputs, globs_of
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

    def __init__(self, root: Path) -> None:
        self.root, self.finder = root, FakeFinder(root)
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

    async def save(self, name: str, text: str) -> list[tuple[str, Event]]:
        self.write(name, text)
        return await self.batch(name)


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
