"""Bodies of strangers are read with care: a record, or a sentence with the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh_supervisor.registry.records import BadRecord, read_json, read_record, unsupported
from tests.registry.bodies import agent, needs, tool


def test_defaults_of_a_minimal_body() -> None:
    record = read_record({"agent_id": "a"})
    assert (record.name, record.agent_type, record.status, record.namespace) == ("a", "mcp_agent", "healthy", "default")
    assert record.tools == () and record.endpoint == "stdio://a"
    assert read_record(agent("a", tool("c"))).tools[0].version == "1.0.0"


def test_null_counts_as_absent() -> None:
    nothing = dict.fromkeys(("name", "version", "http_host", "http_port", "tools", "a2a_producer", "owner"))
    assert read_record({"agent_id": "a", **nothing}) == read_record({"agent_id": "a"})


def test_dependencies_keep_their_positions_and_alternatives() -> None:
    body = agent("a", tool("c", needs("x", tags=["t", ["u", "v"], "+w"]), [needs("y"), needs("z", version="^1")]))
    first, second = read_record(body).tools[0].slots
    assert (first[0].capability, first[0].tags, first[0].groups) == ("x", ("t", "+w"), (("u", "v"),))
    assert [(one.capability, one.version) for one in second] == [("y", ""), ("z", "^1")]


def test_many_tools_and_many_dependencies_are_fine_where_they_are_different_or_the_same() -> None:
    assert len(read_record(agent("a", *[tool(f"c{n}") for n in range(1000)])).tools) == 1000
    assert len(read_record(agent("a", *[tool("c") for _ in range(200)])).tools) == 200
    same, different = [needs("x")] * 500, [needs(f"x{n}", tags=["t"] * 200) for n in range(500)]
    assert len(read_record(agent("a", tool("c", *same, *different))).tools[0].slots) == 1000


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], "body: must be an object, not a list"),
        (None, "body: must be an object, not null"),
        ({}, "agent_id: is required"),
        ({"agent_id": ""}, "agent_id: is required"),
        ({"agent_id": 5}, "agent_id: must be a text, not a number"),
        ({"agent_id": "a/b"}, "agent_id: must be printable"),
        ({"agent_id": "a b"}, "agent_id: must be printable"),
        ({"agent_id": "a\x1b[31m"}, "agent_id: must be printable"),
        ({"agent_id": "a\u202e"}, "agent_id: must be printable"),
        ({"agent_id": "a" * 254}, "agent_id: longer than 253 characters"),
        ({"agent_id": "a", "http_port": "80"}, "http_port: must be a whole number from 0 to 65535"),
        ({"agent_id": "a", "http_port": 65536}, "http_port: must be a whole number"),
        ({"agent_id": "a", "http_port": True}, "http_port: must be a whole number"),
        ({"agent_id": "a", "http_port": 8.5}, "http_port: must be a whole number"),
        ({"agent_id": "a", "http_host": "evil/x?"}, "http_host: must be a host name or an IP address"),
        ({"agent_id": "a", "http_host": "user@evil"}, "http_host: must be a host name or an IP address"),
        ({"agent_id": "a", "a2a_producer": "yes"}, "a2a_producer: must be true or false, not a text"),
        ({"agent_id": "a", "generation": -1}, "generation: must be a whole number"),
        ({"agent_id": "a", "tools": {}}, "tools: must be a list, not an object"),
        ({"agent_id": "a", "tools": [1]}, "tools[0]: must be an object, not a number"),
        ({"agent_id": "a", "tools": [{}]}, "tools[0].function_name: is required"),
        ({"agent_id": "a", "tools": [{"function_name": "f"}]}, "tools[0].capability: is required"),
        (agent("a", tool("c"), tool("d", tags="x")), "tools[1].tags: must be a list, not a text"),
        (agent("a", tool("c", tags=[1])), "tools[0].tags[0]: must be a text"),
        (agent("a", tool("c", kwargs=[])), "tools[0].kwargs: must be an object"),
        (agent("a", tool("c", kwargs={"x": "y" * 70_000})), "tools[0].kwargs: larger than 64 KiB"),
        (agent("a", *[tool("c", version=f"{n}") for n in range(201)]), "tools: more than 200 of capability 'c'"),
        (
            agent("a", tool("c", *[needs("x", version=f">{n}") for n in range(251)])),
            "tools: more than 250 different de",
        ),
        (
            agent("a", tool("c", needs("x", tags=[["t"] * 124] * 2))),
            "tools: more than 250 different dependencies on 'x'",
        ),
        (
            agent("a", tool("c", *[needs("x", version=f">{'0' * 200}{n}") for n in range(30)])),
            "tools: more than 250 diff",
        ),
        (agent("a", tool("c", 7)), "tools[0].dependencies[0]: must be an object, not a number"),
        (agent("a", tool("c", [])), "tools[0].dependencies[0]: an empty list"),
        (agent("a", tool("c", [needs("x"), []])), "tools[0].dependencies[0][1]: must be an object"),
        (agent("a", tool("c", {})), "tools[0].dependencies[0].capability: is required"),
        (agent("a", tool("c", needs("x", tags=[["u", 1]]))), "tools[0].dependencies[0].tags[0]: must be a text"),
        (agent("a", *[tool("c")] * 1001), "tools: more than 1000 entries"),
        (agent("a", tool("c", *[[needs("x")] * 600] * 2)), "tools: more than 1000 dependencies"),
    ],
)
def test_a_mistake_is_named_with_its_place(body: Any, place: str) -> None:
    with pytest.raises(BadRecord) as caught:
        read_record(body)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json(text: bytes, why: str) -> None:
    with pytest.raises(BadRecord, match=r"^Invalid JSON payload: ") as caught:
        read_json(text)
    assert why in str(caught.value)


def test_whole_surrogate_pairs_are_fine() -> None:
    assert read_json(b'"\\ud83d\\ude00"') == "😀"


def test_what_is_not_acted_on_is_named() -> None:
    body = agent("a", tool("c", needs("x", required=True), llm_filter={"filter": []}), surfaces=[1], shoe_size=42)
    assert unsupported(body) == {"required", "llm_filter", "surfaces", "shoe_size"}


def test_an_ordinary_sdk_body_asks_for_nothing_unknown() -> None:
    kwargs = {"task": False, "resume_cursor": False, "function_name": "greet"}
    schemas = {"inputSchema": {"a": 0}, "outputSchemaHash": "sha256:1", "inputSchemaCanonical": {"a": 0}}
    body = agent("a", tool("c", needs("x", tags=["t"], version="1"), kwargs=kwargs, **schemas), runtime="python")
    assert unsupported(json.loads(json.dumps(body))) == frozenset()
