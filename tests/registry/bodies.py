"""Heartbeat bodies, and what tests read in answers."""

from __future__ import annotations

import json
from typing import Any

from mesh_supervisor.registry.book import Book
from mesh_supervisor.registry.records import read_record


def tool(capability: str, *dependencies: Any, **more: Any) -> dict[str, Any]:
    return {"function_name": capability, "capability": capability, "dependencies": list(dependencies), **more}


def needs(capability: str, **more: Any) -> dict[str, Any]:
    return {"capability": capability, **more}


def agent(agent_id: str, *tools: dict[str, Any], port: int = 9000, **more: Any) -> dict[str, Any]:
    return {"agent_id": agent_id, "http_host": "127.0.0.1", "http_port": port, "tools": list(tools), **more}


def post(book: Book, body: dict[str, Any], now: float = 0.0) -> dict[str, list[str]]:
    """Register; the ids of the providers that it is told, per function."""
    book.post(read_record(body), json.dumps(body), now, 1e9 + now)
    return providers(json.loads("".join(book.answer(body["agent_id"]))))


def providers(resolved: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {function: [entry["agent_id"] for entry in entries] for function, entries in resolved.items()}
