"""The example mesh at the top of the repository, as people meet it: one running mesh for all of these tests."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.harness import REPOSITORY, Mesh, fresh_mesh, get, overwrite, wait_for


@pytest.fixture(scope="module")
def example() -> Iterator[Mesh]:
    """A copy of the repository's mesh.toml and examples, on free ports."""
    with fresh_mesh() as mesh:
        shutil.copytree(REPOSITORY / "examples", mesh.root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        text = (REPOSITORY / "mesh.toml").read_text()
        name = ""

        def on_free_port(line: str) -> str:
            nonlocal name
            if header := re.match(r"\[agents\.(.+)\]", line):
                name = header[1]
            return re.sub(r"^port = \d+", f"port = {mesh.port(name)}", line) if name else line

        text = "\n".join(on_free_port(line) for line in text.splitlines())
        (mesh.root / "mesh.toml").write_text(text + f"\n[registry]\nport = {mesh.registry_port}\n")
        mesh.up("--wait")
        yield mesh


def test_all_agents_are_ready_and_registered(example: Mesh) -> None:
    views = example.wait_ready()
    assert set(views) == {"clock", "weather", "retriever", "planner"}
    assert {view.state for view in views.values()} == {"ready"}
    assert {view.registered for view in views.values()} == {"yes"}
    offers = {row["name"]: [c["name"] for c in row["capabilities"]] for row in example.registered()}
    assert offers == {"clock": ["time"], "weather": ["weather"], "retriever": ["retrieve"], "planner": ["plan"]}


def test_every_agent_answers(example: Mesh) -> None:
    example.wait_ready()
    assert json.loads(example.answer("clock"))
    assert json.loads(example.answer("weather", "/?city=Ghent"))["city"] == "Ghent"
    assert json.loads(example.answer("planner", "/?goal=make+tea"))["notes"][0].startswith("Tea needs water")


def test_an_edit_of_one_agent_restarts_that_one_only(example: Mesh) -> None:
    with example.only_restarts("clock"):
        example.edit("examples/clock.py", 'timespec="seconds"', 'timespec="minutes"')
    assert len(json.loads(example.answer("clock"))["time"]) == len("2026-11-21T01:43")


def test_an_atomic_save_is_an_edit(example: Mesh) -> None:
    source = (example.root / "examples/clock.py").read_text()
    with example.only_restarts("clock"):
        example.save_atomically("examples/clock.py", source + "\n# saved as most editors do\n")


def test_a_module_named_on_uvicorns_command_line_is_an_input(example: Mesh) -> None:
    with example.only_restarts("weather"):
        example.edit("examples/weather.py", '"clear"', '"sunny"')


def test_an_edit_of_the_shared_library_restarts_exactly_its_importers(example: Mesh) -> None:
    with example.only_restarts("retriever", "planner"):
        example.edit("examples/common.py", "timeout=5", "timeout=4")


def test_an_edit_of_the_prompt_restarts_exactly_its_reader(example: Mesh) -> None:
    with example.only_restarts("planner"):
        example.edit("examples/prompts/plan.md", "three steps", "four steps")
    assert "four steps" in json.loads(example.answer("planner"))["prompt"]


def test_after_a_reload_the_agent_is_registered_again_and_found(example: Mesh) -> None:
    with example.only_restarts("retriever"):
        example.edit("examples/retriever.py", "Tea needs water", "Tea wants water")
    status, text = get(example.port("planner"), "/?goal=make+tea")
    assert (status, json.loads(text)["notes"]) == (200, ["Tea wants water just off the boil and three minutes."])
    wait_for(lambda: len(example.registered("?capability=retrieve")) == 1)  # that of the old generation is no ghost


def test_what_changes_nothing_restarts_nothing(example: Mesh) -> None:
    """A touch, an identical save, a test file, a file nobody imports. Two edits of the clock afterwards, each seen
    through to its end, prove that the watcher was past them when we look at the others."""
    planner = example.root / "examples/planner.py"
    before = example.wait_ready()
    os.utime(planner)
    os.utime(example.root / "examples/common.py")
    overwrite(planner, planner.read_text())
    example.write("examples/test_planner.py", "def test_nothing(): pass\n")
    example.write("examples/scratch.py", "raise SystemExit('nobody imports this')\n")
    for number in range(2):
        generation = example.agent("clock").generation
        example.write("examples/clock.py", (example.root / "examples/clock.py").read_text() + f"\n# {number}\n")
        example.wait_generation("clock", generation)
    after = example.wait_ready()
    others = ("weather", "retriever", "planner")
    assert {n: (after[n].pid, after[n].generation) for n in others} == {
        n: (before[n].pid, before[n].generation) for n in others
    }


def test_two_saves_of_equal_length_within_one_second_end_with_the_second_ones_code(example: Mesh) -> None:
    """Python itself trusts bytecode whose source has the same size and the same second. The saved module is imported,
    so that it has bytecode; on a slow machine the second save gets its time set to within the second of the first."""
    module = example.root / "examples/seasonal.py"
    module.write_text('SEASON = "spring"\n')
    example.edit("examples/retriever.py", "import serve\n", "import serve\nfrom seasonal import SEASON\n")
    example.edit("examples/retriever.py", "    return [note", "    return [SEASON] + [note")
    wait_for(lambda: json.loads(example.answer("retriever")) == ["spring"])
    first = module.stat().st_mtime_ns // 1_000_000_000 * 1_000_000_000
    for number, season in enumerate(("summer", "autumn", "winter")):
        module.write_text(f'SEASON = "{season}"\n')
        os.utime(module, ns=(first + number, first + number))
        wait_for(partial(_says, example, [season]))


def _says(example: Mesh, notes: list[str]) -> bool:
    return bool(json.loads(example.answer("retriever")) == notes)


def test_saves_in_quick_succession_end_with_the_last_ones_code(example: Mesh) -> None:
    source = (REPOSITORY / "examples/clock.py").read_text()
    generation = example.wait_ready("clock")["clock"].generation
    for key in ("one", "two"):
        example.write("examples/clock.py", source.replace('"time"', f'"{key}"'))
    wait_for(lambda: "two" in example.answer("clock"))
    assert example.wait_ready("clock")["clock"].generation <= generation + 2
    # And once more, while the reload of the first save is under way.
    generation = example.agent("clock").generation
    example.write("examples/clock.py", source.replace('"time"', '"three"'))
    wait_for(lambda: (view := example.agent("clock")).state != "ready" or view.generation > generation)
    example.write("examples/clock.py", source.replace('"time"', '"now"'))
    wait_for(lambda: "now" in example.answer("clock"))


def test_why_prints_the_chain(example: Mesh) -> None:
    said = example.ok("why", "examples/common.py")
    assert "planner" in said and "retriever" in said and "clock" not in said
    assert "examples/common.py ← examples/planner.py (import)" in said
    assert "planner" in example.ok("why", "examples/prompts/plan.md")


def test_history_tells_what_was_reloaded_and_why(example: Mesh) -> None:
    with example.only_restarts("planner"):
        example.edit("examples/planner.py", "# Read once", "# Read one time")
    said = example.ok("history")
    assert "planner" in said and "examples/planner.py" in said
    example.wait_log("Reload completed: planner in ")
