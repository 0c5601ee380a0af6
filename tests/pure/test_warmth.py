"""Who starts warm, from what, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from mesh_supervisor import warmth
from mesh_supervisor.warmth import (
    SPARES,
    TEMPLATES,
    Choice,
    Decision,
    Known,
    Learnt,
    Recipe,
    Verdict,
    Wanted,
    best,
    blamed,
    common_environ,
    decide,
    fits,
    learn,
    learn_names,
    mark_of,
    patience,
    pools,
    serves,
    spared,
    templates,
    to_judge,
    worst,
)

PYTHON = "/env/bin/python"
NOTHING = Known({}, {}, {})
WEB = ("fastapi", "fastapi.routing", "uvicorn", "uvicorn.server")


def loaded(*modules: str, names: str = "", **more: object) -> Learnt:
    return replace(Learnt(PYTHON, (), modules, names=frozenset(names.split())), **more)  # type: ignore[arg-type]


def wanted(agent: str = "one", choice: Choice = "auto", imports: str = "", **environ: str) -> Wanted:
    return Wanted(agent, choice, PYTHON, (), environ, "/project", frozenset(imports.split()))


def decided(who: Wanted, learnt: Mapping[str, Learnt], known: Known = NOTHING, spares: int = SPARES) -> Decision:
    return decide(who, learnt.get(who.agent), pools(learnt.values()), known, spares)


def template(who: Wanted, learnt: Mapping[str, Learnt], known: Known = NOTHING) -> Recipe:
    found = decided(who, learnt, known).template
    assert found is not None
    return found


# ---- one agent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "mine", "reason"),
    [
        (wanted(choice=False), loaded("fastapi"), "warm = false in mesh.toml"),
        (wanted(), None, "what it imports is learnt at its first start"),
        (wanted(), replace(loaded("fastapi"), python="/other/python"), "what it imports is learnt at its first start"),
        (wanted(), replace(loaded("fastapi"), flags=("-O",)), "what it imports is learnt at its first start"),
        (wanted(), loaded(), "it imports nothing that could be imported ahead"),
        (
            wanted(imports="fastapi"),
            replace(loaded("fastapi", "pandas"), imports=frozenset({"fastapi", "pandas"})),
            "it does not import pandas any more: what it imports is learnt anew",
        ),
    ],
)
def test_why_an_agent_starts_cold(who: Wanted, mine: Learnt | None, reason: str) -> None:
    found = decided(who, {} if mine is None else {"one": mine})
    assert found == Decision(reason=reason)


def test_a_plain_case_is_forked_and_needs_no_words() -> None:
    found = decided(wanted(imports="fastapi more"), {"one": loaded(*WEB, imports=frozenset({"fastapi"}))})
    assert found.template is not None
    assert found == Decision(template=found.template)
    assert found.template.modules == WEB


def test_of_the_library_alone_too() -> None:
    found = template(wanted(), {"one": loaded(standard=("asyncio", "json"))})
    assert found.modules == ("asyncio", "json")


def test_what_cannot_be_forked_is_left_to_a_spare() -> None:
    known = Known({"pyarrow": Verdict("spare", "it has 2 threads"), "fastapi": Verdict("fork")}, {}, {})
    found = decided(wanted(), {"one": loaded("fastapi", "pyarrow", "pyarrow.lib")}, known)
    assert found.template is not None and found.template.modules == ("fastapi",)
    assert found.spare is not None and found.spare.modules == ("fastapi", "pyarrow", "pyarrow.lib")
    assert found.reason == "pyarrow cannot be forked: it has 2 threads"
    assert found.cure == "a spare is kept for the 2 agents edited last; without pyarrow it could be forked"


def test_what_may_be_in_no_warm_process_is_in_none() -> None:
    known = Known({"bad": Verdict("skip", "it ends the process")}, {}, {})
    found = decided(wanted(), {"one": loaded("fastapi", "bad.core")}, known)
    assert found.template is not None and found.template.modules == ("fastapi",)
    assert found.spare is not None and found.spare.modules == ("fastapi",)


def test_what_mesh_toml_chooses() -> None:
    known = Known({"pyarrow": Verdict("spare", "it has 2 threads")}, {}, {})
    learnt = {"one": loaded("fastapi", "pyarrow")}
    fork, spare = decided(wanted(choice="fork"), learnt, known), decided(wanted(choice="spare"), learnt, known)
    assert fork.spare is None and fork.template is not None and "auto" in fork.cure
    assert spare.template is None and spare.spare is not None
    assert spare.reason == 'warm = "spare" in mesh.toml'


def test_where_nobody_edits_there_are_no_spares() -> None:
    known = Known({"pyarrow": Verdict("spare", "it has 2 threads")}, {}, {})
    found = decided(wanted(), {"one": loaded("fastapi", "pyarrow")}, known, spares=0)
    assert found.template is not None and found.spare is None
    assert (found.reason, found.cure) == ("pyarrow cannot be forked: it has 2 threads", "")


def test_a_marked_template_forks_its_agent_no_more_and_the_others_still() -> None:
    learnt = {"one": loaded(*WEB), "two": loaded(*WEB)}
    key = template(wanted(), learnt).key
    of_one = Known({}, {mark_of("one", key): "it died by SIGSEGV"}, {})
    found = decided(wanted(), learnt, of_one)
    assert found.template is None and found.spare is not None
    assert found.reason == "it died by SIGSEGV"
    assert decided(wanted("two"), learnt, of_one).template is not None
    of_all = Known({}, {key: "its template does not live"}, {})
    assert decided(wanted("two"), learnt, of_all).template is None


# ---- sharing ---------------------------------------------------------------------------------------------------------


def test_agents_of_the_same_packages_share_what_all_of_them_had() -> None:
    learnt = {"one": loaded(*WEB, "fastapi.extra"), "two": loaded(*WEB), "three": loaded(*WEB, "httpx")}
    one, two, three = (template(wanted(agent), learnt) for agent in ("one", "two", "three"))
    assert one == two
    assert one.modules == WEB
    assert three.key != one.key
    assert three.modules == (*WEB, "httpx")


def test_who_sees_something_else_does_not_share() -> None:
    learnt = {"one": loaded(*WEB, names="TONE"), "two": loaded(*WEB)}
    same = template(wanted("one", TONE="a", OTHER="1"), learnt)
    assert template(wanted("two", TONE="a", OTHER="2"), learnt).key == same.key, "nothing looks at OTHER"
    assert template(wanted("two", TONE="b"), learnt).key != same.key, "a name that any of them looks up"
    assert template(wanted("two"), learnt).key != same.key, "it is not there at all"


def test_the_address_that_an_agent_is_told_is_its_own_affair() -> None:
    learnt = {"one": loaded("fastmcp", names="FASTMCP_PORT")}
    assert len({template(wanted(FASTMCP_PORT=port), learnt).key for port in ("1", "2")}) == 1
    assert len({template(wanted(FASTMCP_LOG_LEVEL=level), learnt).key for level in ("1", "2")}) == 2
    assert common_environ([{"FASTMCP_PORT": "1", "FASTMCP_HOST": "::1", "X": "1"}]) == {"X": "1"}


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SSL_CERT_FILE", "HOME", "LC_ALL", "PYTHONPATH", "OTEL_SERVICE"])
def test_names_that_are_read_where_it_cannot_be_seen(name: str) -> None:
    learnt = {"one": loaded(*WEB)}
    keys = {template(Wanted("one", "auto", PYTHON, (), {name: value}, "/p"), learnt).key for value in ("/a", "/b")}
    assert len(keys) == 2


def test_the_folder_matters_where_paths_depend_on_it() -> None:
    learnt = {"one": loaded(*WEB)}

    def key(directory: str, path: str) -> str:
        return template(Wanted("one", "auto", PYTHON, (), {"PYTHONPATH": path}, directory), learnt).key

    assert key("/a", "/libs") == key("/b", "/libs")
    assert key("/a", "libs") != key("/b", "libs")
    assert key("/a", "/libs:") != key("/b", "/libs:"), "an empty entry is the working directory"


def test_a_dotenv_file_that_an_import_loads_belongs_to_the_key() -> None:
    learnt = {"one": loaded("litellm", dotenv=frozenset({"/project/.env"}))}
    before, after, gone = (
        template(wanted(), learnt, Known({}, {}, files)).key
        for files in ({"/project/.env": "1"}, {"/project/.env": "2"}, {})
    )
    assert len({before, after, gone}) == 3


def test_no_value_is_in_what_is_kept() -> None:
    learnt = {"one": loaded(*WEB, names="API_KEY")}
    assert "secret" not in repr(template(wanted(API_KEY="secret"), learnt))


def test_more_learnt_later_is_a_reason_for_a_new_template_less_is_none() -> None:
    few, many = loaded(*WEB), loaded(*WEB, "uvicorn.protocols")
    small, large = template(wanted(), {"one": few}), template(wanted(), {"one": many})
    assert serves(large, small)
    assert not serves(small, large)


def test_a_template_with_less_will_do_and_one_with_more_will_not() -> None:
    learnt = {"one": loaded(*WEB), "two": loaded(*WEB, "httpx")}
    small, large = template(wanted("one"), learnt), template(wanted("two"), learnt)
    made = {small.key: small, large.key: large}
    assert best(made, large, wanted("two"), NOTHING) == large.key
    assert best({small.key: small}, large, wanted("two"), NOTHING) == small.key
    assert best({large.key: large}, small, wanted("one"), NOTHING) is None
    assert not fits(small, large, wanted("two", HOME="/elsewhere"), NOTHING)
    assert not fits(small, replace(large, base=replace(large.base, flags=("-O",))), wanted("two"), NOTHING)


def test_a_template_knows_what_all_of_its_agents_know() -> None:
    environs = [
        {"PATH": "/bin", "NAME": "one", "MESHSUP_GENERATION": "3", "MODE": "x"},
        {"PATH": "/bin", "NAME": "two", "MESHSUP_GENERATION": "3"},
    ]
    assert common_environ(environs) == {"PATH": "/bin"}
    assert common_environ(environs[:1]) == {"PATH": "/bin", "NAME": "one", "MODE": "x"}


# ---- several ---------------------------------------------------------------------------------------------------------


def test_templates_are_few_for_those_edited_last_and_the_largest_groups() -> None:
    learnt = {f"a{n}": loaded(f"package{n}") for n in range(TEMPLATES + 3)} | {"b1": loaded("x"), "b2": loaded("x")}
    decisions = {agent: decided(wanted(agent), learnt) for agent in learnt}
    found = templates(decisions, ["a7"])
    assert len(found) == TEMPLATES
    [first, second, *_] = found.values()
    assert first.modules == ("package7",)
    assert second.modules == ("x",)


def test_spares_are_for_those_edited_last() -> None:
    known = Known({"pyarrow": Verdict("spare", "threads")}, {}, {})
    learnt = {"one": loaded("pyarrow"), "two": loaded("pyarrow"), "three": loaded("pyarrow"), "plain": loaded("x")}
    decisions = {agent: decided(wanted(agent), learnt, known) for agent in learnt}
    assert spared(decisions, []) == ["one", "two"]
    assert spared(decisions, ["plain", "three", "gone"]) == ["three", "one"]
    assert spared(decisions, ["three"], 0) == []


def test_nobody_waits_longer_than_a_cold_start_takes_beside_as_many() -> None:
    mine = replace(loaded(), cold=2.0)
    assert patience(mine, 0, 2) == 2.0
    assert patience(mine, 2, 2) == 2.0
    assert patience(mine, 6, 2) == 6.0
    assert patience(None, 1, 2) > 0


# ---- what was learnt -------------------------------------------------------------------------------------------------


def test_an_inventory_in_parts_is_one() -> None:
    parts: list[dict[str, object]] = [
        {"top": {"a": "1.0"}, "modules": ["a", "a.b"], "more": True},
        {"modules": ["c"], "standard": ["json"], "names": ["HOME"], "dotenv": ["/x/.env"], "places": ["/site"]},
    ]
    found = learn(parts, wanted(imports="a"), None, 1.5)
    assert found == Learnt(
        PYTHON,
        (),
        ("a", "a.b", "c"),
        ("json",),
        frozenset({"HOME"}),
        frozenset({"/x/.env"}),
        frozenset({"/site"}),
        frozenset({"a"}),
        1.5,
    )


def test_a_cold_start_tells_all_a_warm_one_only_what_is_new() -> None:
    before = learn([{"modules": ["a", "b"], "names": ["X"], "standard": ["json"]}], wanted(), None, 2.0)
    cold = learn([{"modules": ["a"], "names": []}], wanted(), before, 3.0)
    assert (cold.modules, cold.names, cold.cold) == (("a",), frozenset(), 3.0)
    warm = learn([{"modules": ["a", "c"], "names": ["Y"], "standard": ["json", "ctypes"]}], wanted(), before, None)
    assert warm.standard == ("json",), "the runtime itself needs some in a warm process"
    assert (warm.modules, warm.names, warm.cold) == (("a", "b", "c"), frozenset({"X", "Y"}), 2.0)


@pytest.mark.parametrize(
    "nonsense", [{}, {"modules": 3}, {"modules": ["a b", "import os; x", "", 7, None, "../x"], "names": {}}]
)
def test_nonsense_is_nothing_learnt(nonsense: dict[str, object]) -> None:
    found = learn([nonsense], wanted(), None, 1.0)
    assert (found.modules, found.names) == ((), frozenset())


def test_nobody_fills_the_memory_with_what_it_says() -> None:
    told = {
        "modules": [f"m{number}" for number in range(2 * warmth.MOST_MODULES)],
        "names": [f"N{number}" for number in range(2 * warmth.MOST_NAMES)],
        "places": ["/x" * warmth.LONGEST_PATH, "/site-packages"],
    }
    before = learn([{"modules": ["a"], "names": ["KNOWN"]}], wanted(), None, 1.0)
    found = learn([told], wanted(), before, None)
    assert len(found.modules) == warmth.MOST_MODULES and "a" in found.modules
    assert len(found.names) == warmth.MOST_NAMES and "KNOWN" in found.names
    assert found.places == {"/site-packages"}
    recipe = warmth.Recipe("", warmth.Base(found.python, found.flags, frozenset(), frozenset(), frozenset()), ())
    assert warmth.learn_names(recipe, {"one": found}, ["ANOTHER"], []) == {}


def test_what_a_template_saw_its_agents_learn() -> None:
    learnt = {"one": loaded(*WEB), "more": loaded(*WEB, "httpx"), "other": loaded("flask")}
    made = template(wanted(), learnt)
    assert learn_names(made, learnt, (), ()) == {}
    found = learn_names(made, learnt, ("TONE",), ("/.env",))
    assert found.keys() == {"one", "more"}
    assert found["one"].names == {"TONE"} and found["one"].dotenv == {"/.env"}


def test_verdicts() -> None:
    assert blamed(["pyarrow.lib", "not a name"], "threads", spare=True) == {"pyarrow": Verdict("spare", "threads")}
    assert blamed(["own"], "project code", spare=False) == {"own": Verdict("skip", "project code")}
    assert to_judge(["fastapi", "fastapi.routing", "google.cloud.storage", "google.cloud.storage.blob"]) == (
        "fastapi",
        "google.cloud.storage",
    )
    assert worst([Verdict("fork"), Verdict("skip", "x"), Verdict("spare", "y")]) == Verdict("skip", "x")


def test_a_name_that_does_not_fit_into_a_packet_is_none() -> None:
    assert warmth.is_module("fastapi.routing")
    assert not warmth.is_module("x" * 70_000)
    assert warmth.worst([Verdict("fork"), Verdict("")]).way == ""
