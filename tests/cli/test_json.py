"""docs/json.md shows what is really printed: every field of ours is in it, and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.cli import meshes, probe
from mesh_supervisor.control.brief import AgentBrief
from mesh_supervisor.control.messages import AgentView, Outcome, Snapshot
from mesh_supervisor.diagnosis import Finding
from mesh_supervisor.events import Event, Reload
from mesh_supervisor.host.lines import Line
from mesh_supervisor.limits import Limitation

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


def example(title: str) -> Any:
    """The JSON of a section."""
    section = PAGE.read_text().partition(f"\n## {title}")[2].partition("\n## ")[0]
    found = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"docs/json.md shows no JSON for {title}"
    return json.loads(found[1])


def names(shape: Any) -> list[str]:
    return [field.name for field in fields(shape)]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (lambda: example("ps"), names(Snapshot)),
        (lambda: example("ps")["agents"][0], names(AgentView)),
        (lambda: example("health")["agents"][0], names(AgentBrief)),
        (lambda: example("health"), list(json.loads(probe.answer(probe.Question(as_json=True), Path("/"), {})[0]))),
        (lambda: example("ls")[0], list(meshes.json_of(meshes.Found(Path("/x/control.sock"), 1, None)))),
        (lambda: example("history")[0], ["at", "agent", *names(Reload)]),
        (lambda: example("events"), names(Event)),
        (lambda: example("logs"), [name for name in names(Line) if name != "styled"]),
        (lambda: example("start")["outcomes"][0], names(Outcome)),
        (lambda: example("doctor")["findings"][0], names(Finding)),
        (lambda: example("ps")["agents"][0]["limits"][0], names(Limitation)),
    ],
)
def test_every_field_is_documented(shown: Any, expected: list[str]) -> None:
    assert sorted(shown()) == sorted(expected)


@pytest.mark.parametrize("title", ["apply", "why", "watch status", "registry list"])
def test_examples_are_json(title: str) -> None:
    assert isinstance(example(title), dict)
