"""PURE. What an agent says about itself in POST /heartbeat, read once and carefully.

The wire format is MCP Mesh's, plus two fields of ours, ``owner`` and ``generation``. About a dozen fields matter for
finding providers; the rest is kept as it came (the store has the whole text) and is not looked at.

Everything in a body comes from somebody else: a field of the wrong type, or too much of anything, is a BadRecord with
the field's place in it, never a crash.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

SERVICE = "service"
"""``agent_type`` of what the supervisor announces: no MCP tool, so it is never given to an SDK agent to call."""

MOST_TOOLS = 1000
MOST_DEPENDENCIES = 1000
MOST_TAGS = 200
MOST_ALIKE = 200
"""Tools of one capability in one record, among which every dependency on it has to choose."""
MOST_WISHES = 250
"""Different dependencies on one capability in one record, with their tags and long version constraints. Every tool of
a new record is compared with all of them: a thousand times a thousand took 3 s."""
LONGEST_NAME = 253
LONGEST_TEXT = 64 * 1024
LARGEST_KWARGS = 64 * 1024
"""Bounds of one record, far above what agents send. What one agent is told of others is bounded in book.py."""


class BadRecord(ValueError):
    """A body that is no record. The text says where and why: ``tools[0].capability: must be a text``."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """What a tool wants: plain, ``+`` and ``-`` tags, groups of which one must be there, a version constraint."""

    capability: str
    tags: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    version: str = ""

    @property
    def weight(self) -> int:
        """How much there is to compare with a provider; 1 for a dependency that names a capability and no more."""
        return 1 + len(self.version) // 16 + len(self.tags) + sum(1 + len(group) for group in self.groups)


Slot = tuple[Dependency, ...]
"""One position in a function's dependencies: the first of these that can be resolved fills it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """``kwargs``: the JSON text of what consumers are told about calling it, '' for none."""

    function_name: str
    capability: str
    version: str = "1.0.0"
    tags: tuple[str, ...] = ()
    description: str = ""
    slots: tuple[Slot, ...] = ()
    kwargs: str = ""
    internal: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One instance of an agent. ``owner``: the supervisor it belongs to, '' unknown; ``agent``: its name there;
    ``generation`` counts its instances. ``announced``: the owner stands in the body, so the supervisor itself sent it
    and renews it by lease.
    """

    id: str
    name: str
    agent_type: str = "mcp_agent"
    version: str = "1.0.0"
    description: str = ""
    runtime: str = ""
    namespace: str = "default"
    status: str = "healthy"
    http_host: str = ""
    http_port: int = 0
    a2a_producer: bool = False
    a2a_consumer: bool = False
    tools: tuple[Tool, ...] = ()
    owner: str = ""
    agent: str = ""
    generation: int = 0
    announced: bool = False

    @property
    def endpoint(self) -> str:
        """``http://host:port``; ``stdio://id`` (as upstream) for an agent without an address."""
        if not self.http_host or not self.http_port:
            return f"stdio://{self.id}"
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}"

    @property
    def callable(self) -> bool:
        """Whether an SDK agent may be sent here: it would call /mcp on it."""
        return self.status == "healthy" and self.agent_type != SERVICE

    def belonging_to(self, issued: Issued | None) -> Record:
        """This record with what its supervisor said about the id; its own word in the body goes before."""
        if self.announced or issued is None:
            return self
        return replace(self, owner=issued.owner, agent=issued.name, generation=issued.generation)


@dataclass(frozen=True, slots=True)
class Issued:
    """An id that a supervisor gave to an instance which registers itself and knows nothing of owners.

    ``name`` is the agent's name in mesh.toml; all generations of one agent share it.
    """

    id: str
    owner: str
    name: str
    generation: int


# ---- JSON --------------------------------------------------------------------------------------------------------


def read_json(text: bytes) -> Any:
    """Like ``json.loads`` but with one error, BadRecord, and without values that no JSON can carry on.

    Refused: bytes that are no UTF-8, NaN and infinite numbers, half characters (``"\\ud800"``), endless nesting.
    """
    try:
        parsed = json.loads(text.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        # Only an escape can smuggle in half a character, and looking for one is much cheaper than encoding.
        if b"\\u" in text:
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadRecord(f"Invalid JSON payload: it is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise BadRecord("Invalid JSON payload: it contains half of a surrogate pair") from None
    except RecursionError:
        raise BadRecord("Invalid JSON payload: it is nested too deeply") from None
    except ValueError as error:
        raise BadRecord(f"Invalid JSON payload: {error}") from None
    return parsed


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


# ---- reading a record --------------------------------------------------------------------------------------------


def read_record(body: Any) -> Record:
    """The record in a parsed POST body. Raises BadRecord; unknown fields are no mistake (see unsupported)."""
    fields = Fields.of(body, "")
    name = fields.name("agent_id")
    record = Record(
        id=name,
        name=fields.text("name", longest=LONGEST_NAME) or name,
        agent_type=fields.text("agent_type", longest=64) or "mcp_agent",
        version=fields.text("version", longest=256) or "1.0.0",
        description=fields.text("description"),
        runtime=fields.text("runtime", longest=64),
        namespace=fields.text("namespace", longest=LONGEST_NAME) or "default",
        status=fields.text("status", longest=64) or "healthy",
        http_host=_read_host(fields),
        http_port=fields.whole("http_port", largest=65535),
        a2a_producer=fields.truth("a2a_producer"),
        a2a_consumer=fields.truth("a2a_consumer"),
        tools=tuple(_read_tool(tool) for tool in fields.objects("tools", MOST_TOOLS)),
        owner=fields.name("owner", required=False),
        generation=fields.whole("generation", largest=2**53),
    )
    if sum(len(slot) for tool in record.tools for slot in tool.slots) > MOST_DEPENDENCIES:
        raise BadRecord(f"tools: more than {MOST_DEPENDENCIES} dependencies in all")
    _refuse_endless_choice(record)
    return replace(record, agent=record.name, announced=True) if record.owner else record


def _refuse_endless_choice(record: Record) -> None:
    """Raises BadRecord where finding providers, for this record or among its tools, would take long."""
    alike = Counter(tool.capability for tool in record.tools)
    wishes: Counter[str] = Counter()
    for wanted in {wanted for tool in record.tools for slot in tool.slots for wanted in slot}:
        wishes[wanted.capability] += wanted.weight
    for capability, count in alike.items():
        if count > MOST_ALIKE:
            raise BadRecord(f"tools: more than {MOST_ALIKE} of capability {capability!a}")
    for capability, count in wishes.items():
        if count > MOST_WISHES:
            raise BadRecord(f"tools: more than {MOST_WISHES} different dependencies on {capability!a} (tags count too)")


def _read_host(fields: Fields) -> str:
    """A host that may stand in a URL; anything else would let one agent redirect the calls of others."""
    host = fields.text("http_host", longest=LONGEST_NAME)
    if any(not (char.isalnum() or char in ".-_:%") for char in host):
        raise BadRecord("http_host: must be a host name or an IP address")
    return host


def _read_tool(fields: Fields) -> Tool:
    kwargs = fields.mapping("kwargs")
    return Tool(
        function_name=fields.required_text("function_name"),
        capability=fields.required_text("capability"),
        version=fields.text("version", longest=256) or "1.0.0",
        tags=fields.tags("tags")[0],
        description=fields.text("description"),
        slots=tuple(_read_slots(fields)),
        kwargs=_kwargs_text(kwargs, fields.place("kwargs")) if kwargs else "",
        internal=kwargs.get("framework_internal") is True,
    )


def _kwargs_text(kwargs: Mapping[str, Any], place: str) -> str:
    try:
        text = json.dumps(kwargs, separators=(",", ":"))
    except RecursionError:
        raise BadRecord(f"{place}: nested too deeply") from None
    if len(text) > LARGEST_KWARGS:
        raise BadRecord(f"{place}: larger than {LARGEST_KWARGS // 1024} KiB")
    return text


def _read_slots(fields: Fields) -> Iterator[Slot]:
    """``dependencies``: objects, or lists of objects (alternatives)."""
    for index, entry in enumerate(fields.entries("dependencies", MOST_DEPENDENCIES)):
        place = f"{fields.place('dependencies')}[{index}]"
        if isinstance(entry, list):
            if not entry:
                raise BadRecord(f"{place}: an empty list of alternatives")
            yield tuple(_read_dependency(one, f"{place}[{at}]") for at, one in enumerate(entry))
        else:
            yield (_read_dependency(entry, place),)


def _read_dependency(entry: Any, place: str) -> Dependency:
    fields = Fields.of(entry, place)
    tags, groups = fields.tags("tags")
    return Dependency(
        capability=fields.required_text("capability"),
        tags=tags,
        groups=groups,
        version=fields.text("version", longest=256),
    )


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a body and its place, with one question per kind of value. None counts as absent everywhere:
    encoders of other languages write it for what is not set."""

    values: Mapping[str, Any]
    prefix: str

    @classmethod
    def of(cls, value: Any, place: str) -> Fields:
        if not isinstance(value, dict):
            raise BadRecord(f"{place or 'body'}: must be an object, not {_kind(value)}")
        return cls(value, f"{place}." if place else "")

    def place(self, key: str) -> str:
        return self.prefix + key

    def text(self, key: str, *, longest: int = LONGEST_TEXT) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise BadRecord(f"{self.place(key)}: must be a text, not {_kind(value)}")
        if len(value) > longest:
            raise BadRecord(f"{self.place(key)}: longer than {longest} characters")
        return value

    def required_text(self, key: str) -> str:
        text = self.text(key, longest=LONGEST_NAME)
        if not text:
            raise BadRecord(f"{self.place(key)}: is required")
        return text

    def name(self, key: str, *, required: bool = True) -> str:
        """A text that can stand in a path and in a terminal: printable, no space, none of ``/ ? # % , \\``."""
        text = self.required_text(key) if required else self.text(key, longest=LONGEST_NAME)
        if not text.isprintable() or any(char.isspace() or char in "/?#%,\\" for char in text):
            raise BadRecord(f"{self.place(key)}: must be printable, without spaces and / ? # % , \\")
        return text

    def whole(self, key: str, *, largest: int) -> int:
        """A whole number from 0; 0 when absent."""
        value = self.values.get(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
            raise BadRecord(f"{self.place(key)}: must be a whole number from 0 to {largest}")
        return value

    def truth(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise BadRecord(f"{self.place(key)}: must be true or false, not {_kind(value)}")
        return bool(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise BadRecord(f"{self.place(key)}: must be an object, not {_kind(value)}")
        return value or {}

    def entries(self, key: str, most: int) -> Sequence[Any]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise BadRecord(f"{self.place(key)}: must be a list, not {_kind(value)}")
        if len(value or ()) > most:
            raise BadRecord(f"{self.place(key)}: more than {most} entries")
        return value or ()

    def objects(self, key: str, most: int) -> Iterator[Fields]:
        for index, entry in enumerate(self.entries(key, most)):
            yield Fields.of(entry, f"{self.place(key)}[{index}]")

    def tags(self, key: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Plain tags, and nested lists of tags."""
        plain: list[str] = []
        groups: list[tuple[str, ...]] = []
        for index, entry in enumerate(self.entries(key, MOST_TAGS)):
            place = f"{self.place(key)}[{index}]"
            if isinstance(entry, list) and len(entry) <= MOST_TAGS:
                groups.append(tuple(_tag(tag, place) for tag in entry))
            else:
                plain.append(_tag(entry, place))
        return tuple(plain), tuple(groups)


def _tag(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise BadRecord(f"{place}: must be a text of at most {LONGEST_NAME} characters")
    return value


def _kind(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# ---- what is kept but not acted on ---------------------------------------------------------------------------------

_NOT_YET = frozenset({"llm_agents", "surfaces", "llm_filter", "llm_provider", "required", "matchMode", "match_mode"})
_KNOWN = (
    frozenset(Record.__dataclass_fields__) - {"id", "agent", "announced"}
    | frozenset({"agent_id", "timestamp", "entity_id", "surfaces", "llm_agents"})
    | frozenset({"function_name", "capability", "tags", "dependencies", "kwargs", "schemaWarnings"})
    | frozenset({"inputSchema", "outputSchema", "inputSchemaCanonical", "outputSchemaCanonical"})
    | frozenset({"inputSchemaHash", "outputSchemaHash", "expectedSchemaHash", "expectedSchemaCanonical"})
)


def unsupported(body: Mapping[str, Any]) -> frozenset[str]:
    """The fields of an accepted body that ask for what this registry does not do, and those it has never heard of."""
    found: set[str] = set()
    for fields in _objects_within(body):
        found.update(key for key, value in fields.items() if value and (key in _NOT_YET or key not in _KNOWN))
    return frozenset(found)


def _objects_within(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield body
    for tool in body.get("tools") or ():
        yield tool
        for entry in tool.get("dependencies") or ():
            yield from entry if isinstance(entry, list) else (entry,)


def fingerprint(*parts: str) -> str:
    """16 hex digits that are the same for the same texts."""
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()
