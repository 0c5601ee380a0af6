"""Where paths lead, through symlinks and through what is not there yet."""

from __future__ import annotations

from pathlib import Path

from mesh_supervisor.host.routes import NO_PLAN, Route, Router, make_plan


def route(path: Path) -> Route:
    return Router().route(str(path))


def test_a_plain_path_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert route(tmp_path / "a") == Route(str(tmp_path / "a"), True)
    assert Router().route("/") == Route("/", True)


def test_the_first_missing_part_is_what_to_wait_for(tmp_path: Path) -> None:
    expected = Route(str(tmp_path / "a/b/c.py"), False, (str(tmp_path / "a"),))
    assert route(tmp_path / "a/b/c.py") == expected
    (tmp_path / "file").write_text("")
    assert not route(tmp_path / "file/below").exists


def test_every_link_on_the_way_turns_it(tmp_path: Path) -> None:
    (tmp_path / "one/deep").mkdir(parents=True)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "one/alias").symlink_to(tmp_path / "one/deep")
    (tmp_path / "up").symlink_to("one/deep/../deep")
    found = route(tmp_path / "current/alias")
    assert found == Route(str(tmp_path / "one/deep"), True, (str(tmp_path / "current"), str(tmp_path / "one/alias")))
    assert route(tmp_path / "up").real == str(tmp_path / "one/deep")


def test_a_broken_link_waits_for_its_target_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("not/there")
    found = route(tmp_path / "link")
    assert found == Route(str(tmp_path / "not/there"), False, (str(tmp_path / "link"), str(tmp_path / "not")))


def test_links_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert not route(tmp_path / "a").exists
    assert not route(tmp_path / "a/deeper").exists


def test_a_plan_names_folders_to_watch_and_spells_paths_as_they_were_given(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    outside = tmp_path / "outside/lib.py"
    plan = make_plan([str(link)], [str(link / "a.py"), str(outside)])
    assert plan.trees == {str(real): frozenset({str(link)})}
    assert plan.given(str(real / "deep/b.py")) == {str(link / "deep/b.py")}
    assert plan.given(str(real / "a.py")) == {str(link / "a.py")}
    assert plan.given(str(outside)) == {str(outside)}
    assert plan.given(str(tmp_path / "stranger")) == set()
    assert plan.files_below(str(real)) == {str(link / "a.py")}
    assert {str(link), str(real), str(tmp_path / "outside")} <= plan.pivots
    assert str(tmp_path) in plan.names
    assert NO_PLAN.given("/x") == set()
