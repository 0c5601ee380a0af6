"""Whatever stands in mesh.toml, it is a mesh or a ConfigError: never a traceback."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh_supervisor.config import load
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.mesh_toml import models
from mesh_supervisor.mesh_toml.models import keys_of

WORDS = st.sampled_from(
    [
        "",
        "x",
        ".",
        "a",
        "b",
        "/",
        "..",
        "30s",
        "10MiB",
        "${X}",
        "${port}",
        "${agents.a.url}",
        "${",
        "\0",
        "http://[",
        "(",
    ]
)
LEAVES = st.one_of(st.integers(-1, 70000), st.booleans(), st.floats(), WORDS, st.dates())
PROBES = st.sampled_from([*models.Ready.model_fields, *models.Stop.model_fields, "initial", "a", "b", "name", "x y"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(PROBES, inner, max_size=2)),
    max_leaves=4,
)


def tables(model: type[models.Table]) -> st.SearchStrategy[object]:
    return st.one_of(st.dictionaries(st.sampled_from([*keys_of(model), "cwd", "hooks"]), VALUES, max_size=5), LEAVES)


AGENTS = st.one_of(st.dictionaries(st.sampled_from(["a", "b", "B c", "registry"]), tables(models.Agent)), LEAVES)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "mesh": tables(models.Mesh),
        "registry": tables(models.Registry),
        "watch": tables(models.Watch),
        "logs": tables(models.Logs),
        "defaults": tables(models.Agent),
        "agents": AGENTS,
        "other": VALUES,
    },
)


@settings(deadline=None, max_examples=300)
@given(FILES, st.sampled_from([{}, {"X": "81"}, {"X": "hunter22"}]))
def test_a_mesh_or_a_config_error(content: dict[str, object], shell: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder).resolve() / "mesh.toml"
        file.write_text(tomli_w.dumps(content))
        try:
            load(file, shell)
        except ConfigError as error:
            assert error.mistakes
            assert all(mistake.startswith("mesh.toml: ") and "\n" not in mistake for mistake in error.mistakes)
            assert len(set(error.mistakes)) == len(error.mistakes)
