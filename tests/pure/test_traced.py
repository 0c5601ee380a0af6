"""What instances read and wrote, and what of it counts: rules by example, no files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor import traced
from mesh_supervisor.spec import AgentSpec, Script
from mesh_supervisor.traced import (
    AT_EACH_REQUEST,
    CHANGED,
    MOST_RELOADS,
    MUTED,
    THERE,
    TOO_MANY,
    Known,
    Listing,
    Record,
    Roots,
    Traced,
    Verdicts,
    Written,
)

ROOT = Path("/p")
STAMP = (1, 2, 3)
PROMPT, DATA, CODE = ROOT / "prompts/system.md", ROOT / "data/orders.csv", ROOT / "agent.py"


def read(path: Path = PROMPT, place: str = "agent.py < load", first: float = 0.0, **more: Any) -> Record:
    return Record(path, "data", CODE, STAMP, place, **{"times": 1, "first": first, "last": first, **more})


def module(path: Path, at: float = 0.0) -> Record:
    return Record(path, "module", CODE, STAMP, first=at, last=at)


def listing(path: Path, first: float = 0.0, place: str = "agent.py < all") -> Record:
    return Record(path, "list", CODE, STAMP, place, 1, first, first)


def after(*records: Record, ready_at: float | None = None, known: Traced | None = None, generation: int = 1) -> Traced:
    return traced.heard(known or Traced(), generation, records, ready_at)


def judged(known: Traced, writer: Callable[[Path], str | None] = lambda path: None, *, data: bool = True) -> Verdicts:
    return traced.verdicts(known, writer, data=data)


def inputs(known: Traced) -> set[Path]:
    return set(judged(known).read)


# ---- T1, T2: what is an input ----------------------------------------------------------------------------------------


def test_modules_and_files_read_at_start_are_inputs_with_who_read_them() -> None:
    verdicts = judged(after(module(ROOT / "lazy.py"), read()))
    assert verdicts.read == {ROOT / "lazy.py": CODE, PROMPT: CODE}
    assert verdicts.modules == {ROOT / "lazy.py"}
    assert verdicts.asides == {}


def test_trace_imports_means_modules_only() -> None:
    known = after(module(ROOT / "lazy.py"), read(), listing(PROMPT.parent))
    verdicts = judged(known, data=False)
    assert set(verdicts.read) == {ROOT / "lazy.py"}
    assert verdicts.listings == {}


def test_a_file_that_was_looked_for_in_vain_counts_and_is_told_apart() -> None:
    verdicts = judged(after(read()._replace(stamp=None)))
    assert verdicts.absent == {PROMPT} == set(verdicts.read)


def test_of_a_folder_with_too_many_no_data_file_counts() -> None:
    verdicts = judged(after(read(), module(ROOT / "prompts/x.py"), Record(PROMPT.parent, "dropped")))
    assert set(verdicts.read) == {ROOT / "prompts/x.py"}
    assert verdicts.asides == {PROMPT: TOO_MANY, PROMPT.parent: TOO_MANY}


# ---- T3: what programs write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.db", "a.sqlite3", "a.db-wal", "a.sqlite-journal", "a.log", "a.log.1", "a.pid", "a.tmp", ".a.swp", "a~"]
)
def test_what_programs_write_by_its_name_is_none(name: str) -> None:
    verdicts = judged(after(read(ROOT / name)))
    assert verdicts.read == {}
    assert verdicts.asides == {ROOT / name: "programs write such files"}


def test_what_any_agent_writes_is_no_data_input_of_anybody() -> None:
    reader = after(read(DATA), read(ROOT / "out/7.json"), read(ROOT / "moved/here.md"), read())
    writer = traced.wrote(Traced(), 1, [str(DATA), "/p/out/*", "/p/moved"])
    verdicts = judged(reader, Written({"a": reader, "b": writer}).by)
    assert set(verdicts.read) == {PROMPT}
    assert verdicts.asides[DATA] == "b writes it"


def test_many_files_written_in_a_folder_say_nothing_of_folders_in_it() -> None:
    written = Written({"a": traced.wrote(Traced(), 1, ["/p/out/*"])})
    assert written.by(Path("/p/out/x")) == "a"
    assert written.by(Path("/p/out/in/x")) is None


def test_a_module_counts_whoever_writes_it() -> None:
    known = traced.wrote(after(module(ROOT / "made.py")), 1, ["/p/made.py"])
    assert set(judged(known, Written({"a": known}).by).read) == {ROOT / "made.py"}


# ---- T4: folders -----------------------------------------------------------------------------------------------------


def test_a_listed_folder_counts_for_endings_that_were_read_there() -> None:
    known = after(read(), listing(PROMPT.parent), listing(ROOT / "empty"))
    assert judged(known).listings == {PROMPT.parent: Listing(frozenset({".md"}), CODE)}


def test_a_folder_that_is_listed_at_each_request_does_not_count() -> None:
    known = after(read(), ready_at=None)
    known = after(listing(PROMPT.parent, 2.0), listing(PROMPT.parent, 3.0), ready_at=1.0, known=known)
    assert judged(known).listings == {}


# ---- T5: at each request ---------------------------------------------------------------------------------------------


def test_opened_once_after_ready_counts() -> None:
    assert inputs(after(read(first=2.0), ready_at=1.0)) == {PROMPT}


@pytest.mark.parametrize("records", [[read(first=2.0), read(first=3.0)], [read(first=2.0, times=2, last=3.0)]])
def test_opened_again_from_the_same_place_after_ready_does_not(records: list[Record]) -> None:
    verdicts = judged(after(*records, ready_at=1.0))
    assert verdicts.read == {}
    assert verdicts.asides == {PROMPT: AT_EACH_REQUEST}


def test_a_loop_that_began_before_ready_is_work_all_the_same() -> None:
    """An agent without a port is ready after a second: the first opens of its loop came before."""
    known = after(read(first=0.5))
    known = after(read(first=2.0), read(first=3.0), ready_at=1.0, known=known)
    assert inputs(known) == set()


def test_what_was_counted_before_and_after_ready_together_is_once() -> None:
    assert inputs(after(read(first=0.5, times=5, last=2.0), ready_at=1.0)) == {PROMPT}


def test_opened_at_start_from_another_place_counts_whatever_requests_do() -> None:
    known = after(read(place="agent.py < <module>"))
    known = after(read(first=2.0), read(first=3.0), ready_at=1.0, known=known)
    assert inputs(known) == {PROMPT}


def test_opened_once_each_from_two_places_counts() -> None:
    known = after(read(first=2.0), read(first=3.0, place="agent.py < other"), ready_at=1.0)
    assert inputs(known) == {PROMPT}


def test_the_next_generation_is_believed_to_do_the_same() -> None:
    known = after(read(first=2.0), read(first=3.0), ready_at=1.0)
    known = traced.settled(known, 2)
    assert inputs(known) == set()
    assert inputs(after(read(first=12.0), ready_at=11.0, known=known, generation=2)) == set()


def test_the_next_generation_that_reads_it_at_start_is_an_input_again() -> None:
    known = after(read(first=2.0), read(first=3.0), ready_at=1.0)
    known = after(read(place="agent.py < <module>"), known=known, generation=2)
    assert inputs(known) == {PROMPT}


def test_an_edit_of_the_code_that_reads_gives_it_another_chance() -> None:
    """It may cache now what it read again and again."""
    place = f"open < {CODE} < load"
    known = after(read(first=2.0, place=place), read(first=3.0, place=place), ready_at=1.0)
    assert inputs(traced.edited(known, [ROOT / "elsewhere.py"])) == set()
    assert inputs(traced.edited(known, [CODE])) == {PROMPT}
    assert inputs(traced.edited(known)) == {PROMPT}, "after a run of which nothing is known"


# ---- T6: too many reloads --------------------------------------------------------------------------------------------


def reload(known: Traced, times: int, begin: float = 0.0, apart: float = 1.0) -> tuple[Traced, list[frozenset[Path]]]:
    muted = []
    for number in range(times):
        known, now = traced.caused(known, [DATA], begin + number * apart)
        muted.append(now)
    return known, muted


def test_a_data_file_that_causes_too_many_reloads_is_muted_and_said() -> None:
    known, muted = reload(after(read(DATA), read()), MOST_RELOADS + 1)
    assert muted == [frozenset()] * MOST_RELOADS + [frozenset({DATA})]
    assert judged(known).asides == {DATA: MUTED}
    assert inputs(known) == {PROMPT}


def test_reloads_that_are_far_apart_mute_nothing() -> None:
    known, muted = reload(after(read(DATA)), 30, apart=13.0)
    assert set(muted) == {frozenset()}
    assert len(known.reloads) <= MOST_RELOADS


def test_an_edit_of_code_ends_it() -> None:
    known, _ = reload(after(read(DATA)), MOST_RELOADS + 1)
    assert inputs(traced.edited(known, [CODE])) == {DATA}
    assert traced.caused(traced.edited(known, [CODE]), [DATA], 7.0)[1] == frozenset()


# ---- generations -----------------------------------------------------------------------------------------------------


def test_what_the_next_generation_does_not_read_on_its_way_is_none_any_more() -> None:
    known = after(read(), module(ROOT / "old.py"))
    known = after(module(ROOT / "new.py"), known=known, generation=2)
    assert inputs(known) == {PROMPT, ROOT / "old.py", ROOT / "new.py"}, "until it is ready: it may be buried"
    assert inputs(traced.settled(known, 2)) == {ROOT / "new.py"}


def test_what_is_read_late_is_kept_until_nobody_has_read_it_for_long() -> None:
    known = after(read(first=2.0), module(ROOT / "lazy.py", 2.0), ready_at=1.0)
    assert inputs(traced.settled(known, 2)) == {PROMPT, ROOT / "lazy.py"}
    assert inputs(traced.settled(known, 2 + traced.FORGOTTEN_AFTER)) == set()


def test_an_old_instance_that_drains_changes_nothing_of_the_new_one() -> None:
    known = after(read(place="new"), generation=2)
    assert after(read(first=1.0), read(first=2.0), ready_at=0.0, known=known) == known


def test_writes_are_forgotten_too() -> None:
    known = traced.wrote(Traced(), 1, ["/p/x"])
    assert traced.settled(known, 5).writes == {"/p/x": 1}
    assert traced.settled(known, 2 + traced.FORGOTTEN_AFTER).writes == {}


# ---- which content was read ------------------------------------------------------------------------------------------


NOW = {PROMPT: (STAMP, "digest")}


def test_a_file_as_it_was_when_it_was_opened_is_what_was_read() -> None:
    assert traced.rooted({}, NOW, {PROMPT: read()}, set()).digests == {PROMPT: "digest"}
    assert traced.rooted({PROMPT: "before the spawn"}, NOW, {PROMPT: read()}, set()).digests == {PROMPT: "digest"}
    assert traced.rooted({PROMPT: THERE}, NOW, {PROMPT: read()}, set()).digests == {PROMPT: "digest"}


def test_a_file_that_changed_since_has_changed() -> None:
    later = {PROMPT: ((9, 2, 3), "digest")}
    assert traced.rooted({}, later, {PROMPT: read()}, set()).digests == {PROMPT: CHANGED}
    assert traced.rooted({PROMPT: "known"}, later, {PROMPT: read()}, set()).digests == {}, "compared with that"


def test_a_file_that_came_or_went_since_has_changed() -> None:
    absent = read()._replace(stamp=None)
    assert traced.rooted({}, NOW, {PROMPT: absent}, set()).digests == {PROMPT: CHANGED}
    assert traced.rooted({}, {PROMPT: (None, None)}, {PROMPT: read()}, set()).digests == {PROMPT: CHANGED}
    assert traced.rooted({}, {PROMPT: (None, None)}, {PROMPT: absent}, set()).digests == {PROMPT: None}


def test_a_module_counts_as_before_the_spawn() -> None:
    """Python looks at the source before it opens the bytecode: a save in between would be lost."""
    assert traced.rooted({PROMPT: "before"}, NOW, {PROMPT: module(PROMPT)}, set()).digests == {}
    assert traced.rooted({}, NOW, {PROMPT: module(PROMPT)}, set()).digests == {PROMPT: "digest"}


def test_what_only_an_older_instance_read_is_assumed_until_the_new_one_reads_it() -> None:
    roots = traced.rooted({}, NOW, {}, set())
    assert roots == Roots({PROMPT: "digest"}, {PROMPT})
    later = {PROMPT: ((9, 2, 3), "other")}
    assert traced.rooted(roots.digests, later, {PROMPT: read()}, roots.assumed) == Roots({PROMPT: CHANGED}, set())


# ---- packets ---------------------------------------------------------------------------------------------------------


def test_records_are_read_with_suspicion() -> None:
    good = ["/p/x", "data", None, [1, 2, 3], "place", 1, 1.5, 2.5]
    bad = [
        None, 7, "x", [], ["/p/x"], ["x", "module", None, None], ["/p\0x", "dropped"], ["/p/x", "other", None, None],
        ["/p/x", "data", None, None, "place", "1", 1.0, 2.0], ["/p/x", "data", None, None, "place", 1, None, 2.0],
        {"path": "/p/x"},
    ]  # fmt: skip
    assert traced.records_of([*bad, good]) == [Record(Path("/p/x"), "data", None, STAMP, "place", 1, 1.5, 2.5)]
    odd = [["/p/x", "module", 7, ["a"], 1.5], ["/p/x", "module", None, None]]
    assert traced.records_of(odd) == [Record(Path("/p/x"), "module", first=1.5, last=1.5)]
    for nonsense in (None, "files", 7, {"a": 1}):
        assert traced.records_of(nonsense) == []
        assert traced.paths_of(nonsense) == []
    assert traced.paths_of(["/p/x", "x", 7, None]) == ["/p/x"]


def test_a_flood_is_not_kept() -> None:
    records = [read(ROOT / f"{number}/x") for number in range(traced.MOST_KEPT + 10)]
    assert len(after(*records).files) == traced.MOST_KEPT
    paths = [f"/p/{number}" for number in range(traced.MOST_KEPT + 10)]
    assert len(traced.wrote(Traced(), 1, paths).writes) <= traced.MOST_KEPT


# ---- kept ------------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_known() -> None:
    known = after(read(), module(CODE), listing(PROMPT.parent), Record(ROOT / "many", "dropped"))
    known = after(read(DATA, first=2.0), read(DATA, first=3.0), ready_at=1.0, known=known)
    known = replace(traced.wrote(known, 1, ["/p/out.txt", "/p/out/*"]), muted=frozenset({ROOT / "loud.json"}))
    again = traced.from_json(json.loads(json.dumps(traced.to_json(known))))
    assert judged(again) == judged(known)
    assert again.writes == known.writes
    assert traced.to_json(again) == traced.to_json(known)


@pytest.mark.parametrize(
    "kept",
    [
        None, [], "x", 7, {}, {"files": []}, {"files": {"/p/x": None}}, {"files": {"x": ["data"]}}, {"writes": 7},
        {"files": {"/p/x": ["data", None, "1", True, True, [], []]}, "folders": 7, "dropped": {}, "muted": [7]},
        {"writes": {"/p/x": "1", "x": 1}},
    ],
)  # fmt: skip
def test_what_is_damaged_is_left_out(kept: object) -> None:
    assert traced.from_json(kept) == Traced()


def test_names_that_are_no_text_can_be_kept() -> None:
    odd = Path("/p/\udcff.md")
    known = Traced(files={odd: Known("data", None, 1, True)})
    assert set(traced.from_json(json.loads(json.dumps(traced.to_json(known)))).files) == {odd}


# ---- options ---------------------------------------------------------------------------------------------------------


def test_options_of_the_runtime() -> None:
    spec = AgentSpec("a", Script(CODE), ROOT)
    never = [ROOT / ".mesh", Path("/tmp"), Path("/")]
    assert traced.trace_options(spec, [ROOT], never) == {"roots": ["/p"], "never": ["/p/.mesh"], "data": True}
    assert traced.trace_options(replace(spec, trace=False), [ROOT], never) is None
    only_modules = traced.trace_options(replace(spec, trace="imports"), [ROOT], never)
    assert only_modules is not None and only_modules["data"] is False
    assert traced.trace_options(spec, [], never) is None


@pytest.mark.parametrize("path", ["/\ud800/x", "/x\0", "relative", "/" + "x" * 5000, 7, None])
def test_a_path_that_no_system_gave_is_passed_over(path: object) -> None:
    assert traced.records_of([[path, "data", None, None, "", 1, 1.0, 1.0]]) == []
    assert traced.paths_of([path]) == []
