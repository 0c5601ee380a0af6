"""What a program really reads and writes, told by the runtime in real programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.runtime.guests import Guest


class Project:
    """A folder with a program in it. ``run`` returns what its runtime said, by relative path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    def guest(self, code: str, *args: str, options: Mapping[str, Any] | None = None, **more: Any) -> Guest:
        self.write("program.py", code)
        start = {"trace": {"roots": [str(self.root)], "never": [], **(options or {})}}
        return Guest(["script", "program.py", *args], start=start, directory=self.root, **more)

    def run(self, code: str, *args: str, options: Mapping[str, Any] | None = None, **more: Any) -> Said:
        with self.guest(code, *args, options=options, **more) as guest:
            packets = guest.hear_all()
            _, err = guest.out()
            assert guest.wait() == 0, err
            return Said(self.root, packets)


class Said:
    """What was told. ``reads``: every record; paths relative to the project."""

    def __init__(self, root: Path, packets: Sequence[Mapping[str, Any]]) -> None:
        self.packets = packets
        self._root = root
        self.reads = [record for packet in packets if packet["is"] == "reads" for record in packet["files"]]
        self.writes = [self._short(path) for packet in packets if packet["is"] == "writes" for path in packet["files"]]

    def _short(self, path: str | None) -> str | None:
        return path.removeprefix(f"{self._root}/") if path is not None else None

    def told(self, how: str) -> dict[str, str | None]:
        """path → the nearest file of the project on the stack."""
        found: dict[str, str | None] = {}
        for path, kind, *rest in self.reads:
            if kind == how:
                found.setdefault(str(self._short(path)), self._short(rest[0]) if rest else None)
        return found

    @property
    def modules(self) -> dict[str, str | None]:
        return self.told("module")

    @property
    def data(self) -> dict[str, str | None]:
        return self.told("data")

    def records(self, name: str) -> list[list[Any]]:
        return [record for record in self.reads if self._short(record[0]) == name]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path.resolve())


# ---- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["first", "cached", "prefix", "no bytecode"])
def test_a_module_is_told_by_its_source_whatever_was_cached(project: Project, how: str) -> None:
    project.write("pkg/__init__.py")
    project.write("pkg/part.py", "x = 1")
    environ = {"prefix": {"PYTHONPYCACHEPREFIX": str(project.root.parent / "cache")}}.get(how, {})
    flags = ["-B"] if how == "no bytecode" else []
    for _ in range(1 if how == "first" else 2):
        said = project.run("import pkg.part", environ=environ, flags=flags)
    expected = {"program.py": None, "pkg/__init__.py": "program.py", "pkg/part.py": "program.py"}
    assert said.modules == expected
    assert said.data == {}
    assert said.writes == []


def test_a_data_file_is_told_with_the_file_that_asked_for_it(project: Project) -> None:
    project.write("prompts/system.md", "You are")
    project.write("loader.py", "def load(path): return open(path).read()")
    said = project.run("import loader; loader.load('prompts/system.md')")
    assert said.data == {"prompts/system.md": "loader.py"}
