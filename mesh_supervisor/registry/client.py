"""The supervisor's side of the registry: announce, renew, withdraw, look.

Speaks to our registry and to any other with MCP Mesh's API. Where our extensions are missing (404, 405, 501) it falls
back to what every registry has: a lease becomes one HEAD per agent, issued ids are not told, ghosts are withdrawn one
by one as far as the caller remembers them.

Every method raises RegistryError when the registry does not answer, or not with what was asked for; none of them
retries: how long to be patient is for the caller to decide. httpx2 (0.15 s to import) is loaded at the first request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from mesh_supervisor.errors import Refused, RegistryError
from mesh_supervisor.registry.records import SERVICE, Issued
from mesh_supervisor.spec import Capability

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 5.0
AT_ONCE = 16
"""Requests at a time where one per agent is needed."""
LARGEST_ANSWER = 64 * 1024 * 1024

T = TypeVar("T")

_MISSING = frozenset({404, 405, 501})
_REFUSALS = frozenset({400, 409, 413, 422, 429})


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    url: str
    status: int
    body: bytes


class Heard(Enum):
    """What a registry says to a heartbeat."""

    KNOWN = "known"
    CHANGED = "changed"  # announce again to learn what has changed
    UNKNOWN = "unknown"  # announce again to be known


@dataclass(frozen=True, slots=True)
class Announcement:
    """An agent that does not register itself."""

    id: str
    name: str
    owner: str
    generation: int
    host: str
    port: int
    capabilities: Sequence[Capability] = ()

    def body(self) -> dict[str, Any]:
        """As POST /heartbeat wants it. Agents of type ``service`` are found by people and programs that ask for a
        capability; SDK agents, who would call /mcp on them, never get them."""
        return {
            "agent_id": self.id,
            "name": self.name,
            "agent_type": SERVICE,
            "http_host": self.host,
            "http_port": self.port,
            "status": "healthy",
            "runtime": "service",
            "owner": self.owner,
            "generation": self.generation,
            "tools": [
                {
                    "function_name": one.name,
                    "capability": one.name,
                    "version": one.version,
                    "tags": list(one.tags),
                    "description": one.description,
                }
                for one in self.capabilities
            ],
        }


class RegistryClient:
    """One per mesh. ``url``: ``http://127.0.0.1:8000``. Close it with ``aclose`` or use ``async with``."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._client: httpx2.AsyncClient | None = None
        self._extended = True

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    # ---- what every registry has

    async def health(self) -> Mapping[str, Any]:
        return _object(await self._request("GET", "/health", expect=(200,)))

    async def register(self, announcement: Announcement) -> None:
        """Announce, or announce again. Raises Refused when it is this agent that the registry does not want."""
        answer = _object(await self._request("POST", "/heartbeat", body=announcement.body(), expect=(200, 201)))
        if answer.get("status") == "error":  # upstream refuses some records with a 200
            raise Refused(f"{self.url} refuses {announcement.id}: {str(answer.get('message'))[:300]}")

    async def heartbeat_head(self, agent: str) -> Heard:
        answer = await self._request("HEAD", f"/heartbeat/{quote(agent, safe='')}", expect=(200, 202, 404, 410))
        return {200: Heard.KNOWN, 202: Heard.CHANGED}.get(answer.status, Heard.UNKNOWN)

    async def withdraw(self, agent: str) -> None:
        """No matter whether it was there."""
        await self._request("DELETE", f"/agents/{quote(agent, safe='')}", expect=(200, 204, 404, 410))

    async def agents(self, *, capability: str | None = None, agent: str | None = None) -> list[Mapping[str, Any]]:
        """The ``agents`` of GET /agents. The filters also hold where the registry does not know them."""
        filters = {key: value for key, value in (("capability", capability), ("id", agent)) if value is not None}
        found = _object(await self._request("GET", "/agents", query=filters, expect=(200,))).get("agents")
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise RegistryError(f"{self.url}/agents answers without a list of agents; is it a registry?")
        return [one for one in found if _offers(one, capability) and agent in (None, one.get("id"))]

    # ---- our extensions, and how to do without

    async def lease(self, owner: str, ttl: float, ids: Collection[str]) -> tuple[list[str], list[str]]:
        """Renew the records with these ids: (those the registry knows, those to announce again)."""
        answer = await self._extension("POST", f"/owners/{quote(owner, safe='')}/lease", {"ttl": ttl, "ids": [*ids]})
        if answer is not None:
            return _texts(answer, "known"), _texts(answer, "unknown")
        heard = await self._each(self.heartbeat_head, ids)
        return (
            [agent for agent, word in heard.items() if word is not Heard.UNKNOWN],
            [agent for agent, word in heard.items() if word is Heard.UNKNOWN],
        )

    async def issue(self, owner: str, ids: Iterable[Issued]) -> bool:
        """Tell which ids belong to whom; adds to those told before. False: this registry does not want to know."""
        told = [{"id": one.id, "name": one.name, "generation": one.generation} for one in ids]
        return await self._extension("PUT", f"/owners/{quote(owner, safe='')}/ids", {"ids": told}) is not None

    async def forget_ghosts(self, owner: str, keep: Collection[str], remembered: Collection[str] = ()) -> list[str]:
        """Withdraw everything of ``owner`` but ``keep``; returns the ids. ``remembered``: ids that the caller knows to
        be his, withdrawn one by one where the registry knows no owners."""
        path = f"/owners/{quote(owner, safe='')}"
        answer = await self._extension("DELETE", path, query={"keep": ",".join(keep)})
        if answer is not None:
            return _texts(answer, "withdrawn")
        return list(await self._each(self.withdraw, [agent for agent in remembered if agent not in keep]))

    # ---- one request

    async def _extension(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Mapping[str, Any] | None:
        """The answer of one of our own endpoints; None where the registry has none of them (asked only once)."""
        if not self._extended:
            return None
        reply = await self._request(method, path, body=body, query=query, expect=(200, *_MISSING))
        if reply.status in _MISSING:
            self._extended = False
            return None
        return _object(reply)

    async def _each(self, ask: Callable[[str], Awaitable[T]], ids: Collection[str]) -> dict[str, T]:
        """Ask about every id, some at a time; the first failure ends it."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def in_turn(agent: str) -> T:
            async with turns:
                return await ask(agent)

        return dict(zip(ids, await asyncio.gather(*(in_turn(agent) for agent in ids)), strict=True))

    async def _request(
        self,
        method: str,
        path: str,
        *,
        expect: Collection[int],
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Reply:
        import httpx2

        try:
            # httpx2's own timeouts are per read: a registry that drips a byte a second would hold us for ever.
            async with (
                asyncio.timeout(self._timeout),
                self._connected().stream(method, self.url + path, json=body, params=query) as response,
            ):
                reply = Reply(f"{self.url}{path}", response.status_code, await _read(response, self.url))
        except TimeoutError:
            raise RegistryError(f"the registry at {self.url} did not answer within {self._timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RegistryError(
                f"the registry at {self.url} does not answer: {error or type(error).__name__}"
            ) from None
        if reply.status not in expect:
            kind = Refused if reply.status in _REFUSALS else RegistryError
            raise kind(f"the registry answers {method} {path} with {reply.status}: {_reason(reply)}")
        return reply

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            import httpx2

            # A proxy that the shell knows is for the world outside, not for this machine.
            outside = urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1")
            self._client = httpx2.AsyncClient(timeout=self._timeout, trust_env=outside)
        return self._client


async def _read(response: httpx2.Response, url: str) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise RegistryError(f"{url} answers with more than {LARGEST_ANSWER >> 20} MiB; is it a registry?")
    return bytes(body)


def _object(reply: Reply) -> Mapping[str, Any]:
    """The JSON object in an answer."""
    try:
        parsed = json.loads(reply.body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise RegistryError(f"{reply.url} does not answer with a JSON object; is it a registry?")
    return parsed


def _texts(answer: Mapping[str, Any], key: str) -> list[str]:
    found = answer.get(key)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _reason(reply: Reply) -> str:
    """What a refusal says about itself, short and printable."""
    try:
        parsed = json.loads(reply.body)
    except (ValueError, RecursionError):
        parsed = None
    said = parsed.get("error") if isinstance(parsed, dict) else reply.body[:300].decode(errors="replace")
    return "".join(char for char in str(said)[:300] if char.isprintable()) or "no reason given"


def _offers(agent: Mapping[str, Any], capability: str | None) -> bool:
    offered = agent.get("capabilities")
    if capability is None:
        return True
    return isinstance(offered, list) and any(isinstance(one, dict) and one.get("name") == capability for one in offered)
