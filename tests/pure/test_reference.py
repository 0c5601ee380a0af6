"""What is told about mesh.toml, to editors and to people."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mesh_supervisor.config import json_schema, reference
from mesh_supervisor.ignore import BUILT_IN
from mesh_supervisor.mesh_toml.models import LATER_AGENT_KEYS, Agent, Defaults, keys_of

COMMITTED = Path(__file__).parents[2] / "docs/configuration.md"


def test_the_committed_reference_is_current() -> None:
    made = subprocess.run([sys.executable, "-m", "mesh_supervisor.config"], capture_output=True, check=True, text=True)
    assert made.stdout == COMMITTED.read_text(), "python -m mesh_supervisor.config > docs/configuration.md"


def test_every_key_is_explained() -> None:
    page = reference()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert {row[0].strip("| `") for row in rows} >= set(keys_of(Agent))
    assert all(row[1].strip() and row[-1].strip(" |") for row in rows)
    assert all(pattern in page for pattern in BUILT_IN)
    assert not re.search(r"\bNone\b|PydanticUndefined|\{\}|\[\]", page)


def test_the_example_in_the_reference_is_right(tmp_path: Path) -> None:
    from tests.pure.meshfile import MeshFile

    example = re.search(r"```toml\n(.*?)```", reference(), re.DOTALL)
    assert example is not None
    mesh = MeshFile(tmp_path).touch("agents/retriever.py", ".env")
    assert mesh.read(example[1]).agents["planner"].environment["RETRIEVER"] == "http://127.0.0.1:8101"


def resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    agents = resolved(schema, schema["properties"]["agents"])
    agent = resolved(
        schema, next(iter((agents.get("patternProperties") or {"": agents["additionalProperties"]}).values()))
    )
    assert tuple(sorted(agent["properties"])) == tuple(sorted(keys_of(Agent)))
    assert agent["additionalProperties"] is False
    assert not set(LATER_AGENT_KEYS) & set(agent["properties"])
    defaults = resolved(schema, schema["properties"]["defaults"])
    assert set(defaults["properties"]) == set(keys_of(Defaults))


def test_the_schema_offers_no_null_and_lets_variables_stand_for_numbers() -> None:
    schema = json_schema()
    assert '"null"' not in json.dumps(schema)
    assert "x-type" not in json.dumps(schema)
    port = schema["$defs"]["Agent"]["properties"]["port"]
    assert {"type": "string", "pattern": r"\$\{"} in [
        option for way in port["anyOf"] for option in way.get("anyOf", [way])
    ]
    assert port["description"]
