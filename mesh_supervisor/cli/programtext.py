"""PURE. What the source of one Python file says about the program that it is: does it run by itself, serve, where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

SERVERS = {
    "mesh": "MCP Mesh",
    "fastmcp": "FastMCP",
    "mcp": "MCP",
    "uvicorn": "uvicorn",
    "hypercorn": "hypercorn",
    "granian": "granian",
    "fastapi": "FastAPI",
    "starlette": "Starlette",
    "litestar": "Litestar",
    "flask": "Flask",
    "quart": "Quart",
    "sanic": "Sanic",
    "aiohttp": "aiohttp",
    "tornado": "Tornado",
    "grpc": "gRPC",
    "gradio": "Gradio",
    "streamlit": "Streamlit",
    "websockets": "websockets",
    "http.server": "http.server",
    "socketserver": "socketserver",
    "a2a": "A2A",
}
"""Import → the word that `init` uses for it. Whoever imports one of these and runs by itself serves something."""

ENDLESS = frozenset(("serve_forever", "run_forever", "start_server", "run_polling", "start_consuming"))
ASGI = frozenset(("FastAPI", "Starlette", "Litestar", "Quart"))
OWN_ADDRESS = frozenset(("mesh", "fastmcp", "mcp"))
"""These read their port from the environment that meshsup sets."""

STDIO = "speaks over stdin and stdout, which a mesh does not connect; `meshsup run` does"


@dataclass(frozen=True, slots=True)
class Clues:
    """``runs_itself``: running the file does something. ``serves``: and it goes on. ``port``: 0 for one that is to be
    given, None for none. ``asgi_app``: the variable of an ASGI application that somebody else has to serve."""

    runs_itself: bool = False
    serves: bool = False
    port: int | None = None
    asgi_app: str = ""
    why: str = ""
    doubt: str = ""


def clues_of(tree: ast.Module) -> Clues:
    imported = frozenset(imported_modules(tree))
    servers = [word for module, word in SERVERS.items() if module in imported]
    runs = _has_main_block(tree) or "mesh" in imported or _runs_at_top(tree)
    serves = bool(servers) or _goes_on(tree)
    return Clues(
        runs_itself=runs,
        serves=serves,
        port=_port(tree, imported) if serves else None,
        asgi_app="" if runs else _asgi_app(tree),
        why=f"uses {', '.join(servers)}" if servers else "goes on for ever" if serves else "",
        doubt=STDIO if _speaks_stdio(tree, imported) else "",
    )


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Absolute imports anywhere in the file, as whole names and as top-level ones: ``http.server`` and ``http``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (alias.name, alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (node.module, node.module.partition(".")[0])


def imports_relatively(tree: ast.Module) -> bool:
    """``from . import x``: only a module of a package can."""
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(tree))


def _has_main_block(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and _asks_for_main(node.test) for node in tree.body)


def _asks_for_main(test: ast.expr) -> bool:
    words = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    constants = {node.value for node in ast.walk(test) if isinstance(node, ast.Constant)}
    return "__name__" in words and "__main__" in constants


def _runs_at_top(tree: ast.Module) -> bool:
    """``uvicorn.run(app)``, ``mcp.run()``, ``serve_forever()``, or an endless loop, outside every block."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _called(node.value) in {"run", *ENDLESS}:
            return True
        if isinstance(node, ast.While) and _is_true(node.test):
            return True
    return False


def _goes_on(tree: ast.Module) -> bool:
    return any(
        (isinstance(node, ast.While) and _is_true(node.test))
        or (isinstance(node, ast.Call) and _called(node) in ENDLESS)
        for node in ast.walk(tree)
    )


def _is_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and test.value in (True, 1)


def _called(call: ast.Call) -> str:
    """The last word of what is called: ``run`` of ``uvicorn.run(…)``."""
    target = call.func
    return target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""


def _asgi_app(tree: ast.Module) -> str:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _called(node.value) in ASGI:
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names:
                return names[0]
    return ""


def _port(tree: ast.Module, imported: frozenset[str]) -> int | None:
    """The number that is written into the source; 0 when the program asks its environment; None when nobody knows."""
    written = _written_port(tree)
    if written is not None:
        return written
    if imported & OWN_ADDRESS or _asks_environment(tree):
        return 0
    # uvicorn.run(app) listens on its default: a fact of this program until somebody edits it.
    return 8000 if _runs_uvicorn(tree) else None


def _written_port(tree: ast.Module) -> int | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("port", "http_port") and isinstance(node.value, ast.Constant):
            port = node.value.value
            if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
                return port
    return None


def _asks_environment(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Constant) and node.value in ("PORT", "MESHSUP_PORT") for node in ast.walk(tree))


def _runs_uvicorn(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "run"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "uvicorn"
        for node in ast.walk(tree)
    )


def _speaks_stdio(tree: ast.Module, imported: frozenset[str]) -> bool:
    """An MCP server whose ``run()`` names no other transport, or names stdio."""
    if "mesh" in imported or not imported & {"mcp", "fastmcp"}:
        return False
    runs = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in ("run", "run_async")]
    mcp_runs = [call for call in runs if not _is_module_run(call)]
    return bool(mcp_runs) and all(_transport(call) in ("", "stdio") for call in mcp_runs)


def _is_module_run(call: ast.Call) -> bool:
    """``uvicorn.run``, ``asyncio.run``, ``anyio.run``, ``subprocess.run``: no method of an MCP server."""
    target = call.func
    owner = target.value if isinstance(target, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("uvicorn", "asyncio", "anyio", "trio", "subprocess")


def _transport(call: ast.Call) -> str:
    """What the call names; "?" for what is only known when it runs."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "transport"] + call.args[:1]
    if not given:
        return ""
    return str(given[0].value) if isinstance(given[0], ast.Constant) else "?"
