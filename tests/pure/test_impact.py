"""Changed paths → which agents, and by which chain."""

from __future__ import annotations

from pathlib import Path
from posixpath import normpath

import pytest

from mesh_supervisor.impact import Glob, Inputs, affected, chain_text, globs_of, reason_for
from mesh_supervisor.imports import Step

ROOT = Path("/p")
PLANNER, SEARCH, LLM = ROOT / "agents/planner.py", ROOT / "tools/search.py", ROOT / "common/llm.py"
IMPORTS = {PLANNER: Step(None, "the program"), SEARCH: Step(PLANNER, "x"), LLM: Step(SEARCH, "x")}


def never(_: Path) -> bool:
    return False


def test_the_chain_leads_to_where_the_program_starts() -> None:
    found = affected([LLM], {"planner": Inputs(files=IMPORTS), "clock": Inputs()})
    assert list(found) == ["planner"]
    assert chain_text(found["planner"], ROOT) == "common/llm.py ← tools/search.py ← agents/planner.py (import)"


def test_a_chain_that_bites_its_tail_ends() -> None:
    files = {LLM: Step(SEARCH, "x"), SEARCH: Step(LLM, "x")}
    reason = reason_for(LLM, Inputs(files=files))
    assert reason is not None and reason.chain == (LLM, SEARCH)


def test_all_changed_inputs_are_told_and_the_strongest_is_named() -> None:
    own = Inputs(files=IMPORTS, globs=globs_of(ROOT, ["prompts/*.md"]), env_files=frozenset({ROOT / ".env"}))
    changed = [ROOT / "prompts/a.md", ROOT / ".env", LLM, PLANNER, ROOT / "README.md"]
    reason = affected(changed, {"planner": own})["planner"]
    assert (reason.path, reason.source) == (PLANNER, "import")
    assert set(reason.paths) == set(changed) - {ROOT / "README.md"}


def test_what_is_said_of_the_other_sources() -> None:
    own = Inputs(
        missing={ROOT / "agents/new.py": PLANNER},
        folders={ROOT / "plugins": PLANNER},
        files=IMPORTS,
        globs=globs_of(ROOT, ["prompts/**/*.md"]),
        env_files=frozenset({ROOT / ".env"}),
        directories=(ROOT / "shell",),
    )
    said = {
        "agents/new.py": "agents/new.py ← agents/planner.py (import, new file)",
        "plugins/extra.py": "plugins/extra.py ← agents/planner.py (import, new file)",
        "prompts/plan.md": "prompts/plan.md (watch: prompts/**/*.md)",
        ".env": ".env (env)",
        "shell/work.sh": "shell/work.sh (directory)",
    }
    for path, text in said.items():
        reason = reason_for(ROOT / path, own)
        assert reason is not None and chain_text(reason, ROOT) == text
    assert reason_for(ROOT / "plugins/notes.txt", own) is None


def test_paths_outside_the_root_are_said_whole() -> None:
    path = Path("/libs/shared.py")
    reason = reason_for(path, Inputs(files={path: Step(PLANNER, "x"), PLANNER: Step(None, "")}))
    assert reason is not None and chain_text(reason, ROOT) == "/libs/shared.py ← agents/planner.py (import)"


# ---- precedence --------------------------------------------------------------------------------------------------


def test_the_users_word_beats_globs_and_imports() -> None:
    own = {"planner": Inputs(files=IMPORTS, globs=globs_of(ROOT, ["**/*.md"]))}
    assert affected([LLM, ROOT / "a.md"], own, user_ignored=lambda _: True) == {}


def test_gitignore_limits_folders_but_not_imports_nor_what_a_glob_names() -> None:
    own = Inputs(files=IMPORTS, globs=globs_of(ROOT, ["build/notes.md", "data/*.json"]), directories=(ROOT / "shell",))
    everything = {"planner": own}
    for path in (LLM, ROOT / "build/notes.md", ROOT / "data/a.json"):
        assert affected([path], everything, discovery_ignored=lambda _: True), path
    assert not affected([ROOT / "shell/x.sh"], everything, discovery_ignored=lambda _: True)


def in_vendor(path: Path) -> bool:
    return "vendor" in path.parts or path.name.endswith((".swp", ".log"))


@pytest.mark.parametrize(
    ("pattern", "path", "heeded"),
    [
        ("**/*.json", "a.json", True),
        ("**/*.json", "vendor/a.json", False),
        ("vendor/*.json", "vendor/a.json", True),
        ("vendor/**", "vendor/deep/a.json", True),
        ("notes/**", "notes/.a.md.swp", False),
        ("notes/*.log", "notes/a.log", True),
        ("notes/a.log", "notes/a.log", True),
    ],
)
def test_a_glob_reaches_into_ignored_places_only_where_it_says_so(pattern: str, path: str, heeded: bool) -> None:
    own = Inputs(globs=globs_of(ROOT, [pattern]))
    assert bool(affected([ROOT / path], {"a": own}, discovery_ignored=in_vendor)) is heeded


def test_watch_false_is_never_reloaded_but_can_be_asked_about() -> None:
    own = {"planner": Inputs(files=IMPORTS, watched=False)}
    assert affected([LLM], own) == {}
    assert list(affected([LLM], own, unwatched_too=True)) == ["planner"]


# ---- globs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("prompts/**/*.md", "prompts/a.md", True),
        ("prompts/**/*.md", "prompts/deep/er/a.md", True),
        ("prompts/**/*.md", "prompts/a.txt", False),
        ("prompts/**/*.md", "other/prompts/a.md", False),
        ("*.md", "a.md", True),
        ("*.md", "deep/a.md", False),
        ("**/*.md", "deep/a.md", True),
        ("prompts", "prompts/deep/a.md", True),
        ("prompts/", "prompts/deep/a.md", True),
        ("prompts/*", "prompts/a.md", True),
        ("config.y?ml", "config.yaml", True),
        ("config.[ty]*", "config.toml", True),
        ("./prompts/*.md", "prompts/a.md", True),
        ("../libs/*.md", "../libs/a.md", True),
        ("../libs/*.md", "libs/a.md", False),
        ("/abs/*.md", "/abs/a.md", True),
        ("plan.md", "plan.md", True),
        ("plan.md", "planxmd", False),
    ],
)
def test_globs_are_anchored_at_the_folder_of_mesh_toml(pattern: str, path: str, matches: bool) -> None:
    absolute = Path(normpath(ROOT / path))
    assert Glob.of(ROOT, pattern).matches(absolute) is matches


def test_a_later_pattern_takes_out_again() -> None:
    own = Inputs(globs=globs_of(ROOT, ["prompts/*.md", "!prompts/draft.md"]))
    assert own.heeds(ROOT / "prompts/a.md", never) is not None
    assert own.heeds(ROOT / "prompts/draft.md", never) is None


def test_where_a_glob_looks() -> None:
    bases = [str(Glob.of(ROOT, text).base) for text in ("a/b/*.md", "a/b.md", "*.md", "../x/**", "/y/z*", "!a/*.md")]
    assert bases == ["/p/a/b", "/p/a/b.md", "/p", "/x", "/y", "/p/a"]


def test_what_to_fingerprint() -> None:
    own = Inputs(files=IMPORTS, matched=frozenset({ROOT / "a.md"}), env_files=frozenset({ROOT / ".env"}))
    assert own.paths == {*IMPORTS, ROOT / "a.md", ROOT / ".env"}
    ignored = Inputs(files=IMPORTS, ignored=frozenset({LLM}))
    assert ignored.paths == {PLANNER, SEARCH}
