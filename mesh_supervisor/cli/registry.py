"""The registry by itself: serve it, list what is in it, ask whether it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click
from click.exceptions import Exit

from mesh_supervisor.cli import probe, pulse, remote
from mesh_supervisor.cli.asking import client_of
from mesh_supervisor.cli.help import Topic
from mesh_supervisor.cli.parameters import option
from mesh_supervisor.cli.terminal import show, show_json
from mesh_supervisor.control.once import Endless
from mesh_supervisor.errors import RegistryError

registry = Topic("registry", "The registry alone: serve it, list it, or ask whether it answers.")

FRAMEWORK = "__"
"""Capabilities that an SDK announces for its own ends start with this; people did not write them."""
LARGEST = 64 * 1024 * 1024
"""Bytes of a listing: more than twice those of as many agents as our registry takes, if they are like most."""
LISTED_WITHIN = 30.0
"""Seconds. Our registry lists 10,000 agents (13 MB) in 0.6."""

Url = Annotated[
    str | None, option("--url", metavar="URL", help="Of any registry; default: the one of the running mesh.")
]


@registry.verb()
def serve(
    host: Annotated[str, option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option("--port", least=0, most=65535, metavar="N", help="0: any free one.")] = 8000,
    store: Annotated[Path | None, option("--store", metavar="FILE", help="Keep records there (SQLite).")] = None,
    allow: Annotated[
        list[str] | None, option("--allow-host", metavar="NAME", help="A name that clients may use; repeatable.")
    ] = None,
) -> None:
    """Run a registry in the foreground, without a mesh. Ctrl-C ends it."""
    from mesh_supervisor.registry.__main__ import main

    argv = ["--host", host, "--port", str(port)]
    argv += [] if store is None else ["--store", str(store)]
    argv += [word for name in allow or () for word in ("--allow-host", name)]
    raise Exit(main(argv))


@registry.verb("list")
def list_agents(
    ctx: click.Context,
    url: Url = None,
    timeout: Annotated[
        float,
        option("--timeout", least=0, most=1_000_000, metavar="SECONDS", help="For the whole listing."),
    ] = LISTED_WITHIN,
    as_json: Annotated[bool, option("--json", help="The body of GET /agents (docs/json.md).")] = False,
) -> None:
    """What is registered, and where. Capabilities of the SDK itself are left out."""
    from mesh_supervisor.cli.table import aligned

    body = _agents(_address(ctx, url), timeout)
    if as_json:
        show_json(body)
    else:
        rows = [_row(agent) for agent in body["agents"] if isinstance(agent, dict)]
        show(*aligned([("ID", "CAPABILITIES", "ENDPOINT", "STATUS", "SEEN"), *rows]))


@registry.verb()
def health(
    ctx: click.Context,
    url: Url = None,
    timeout: Annotated[
        float,
        option("--timeout", least=0, most=1_000_000, metavar="SECONDS", help="No answer by then is a no."),
    ] = probe.TIMEOUT,
) -> None:
    """Whether a registry answers that it is healthy, for HEALTHCHECK and probes. One line, and exit code 0 or 1.

    It asks GET /health, which costs the same however many agents are registered.
    """
    line, code = pulse.answer(_address(ctx, url), timeout)
    show(line)
    raise Exit(code)


def _address(ctx: click.Context, url: str | None) -> str:
    address = (url or client_of(ctx).snapshot().registry_url).rstrip("/")
    if not address:
        raise RegistryError("nothing says where the registry is; name it with --url")
    return address


def _agents(address: str, timeout: float) -> dict[str, Any]:
    """The body of GET /agents. Raises RegistryError when there is none with a list of agents in it; UsageError."""
    place = remote.place_of(address)
    who = f"the registry at {remote.named(place)}"
    try:
        status, text = remote.ask(place, "/agents", timeout=timeout, most=LARGEST)
    except TimeoutError as error:
        raise RegistryError(
            f"{who} has not listed its agents within {timeout:g} s; --timeout SECONDS waits longer"
        ) from error
    except Endless as error:
        raise RegistryError(
            f"{who} lists more than {LARGEST >> 20} MiB; ask it for a part of that yourself, "
            f"such as {remote.named(place)}{place.path.rstrip('/')}/agents?name=NAME or ?capability=NAME"
        ) from error
    except (OSError, ValueError) as error:
        raise RegistryError(f"{who} does not answer: {remote.why(error)}") from error
    if status != 200:
        raise RegistryError(f"{who} answers GET /agents with {status}")
    return _listing(f"what answers at {remote.named(place)} is no registry", text)


def _listing(otherwise: str, text: bytes) -> dict[str, Any]:
    """Raises RegistryError, which begins with ``otherwise``."""
    import json

    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{otherwise}: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("agents"), list):
        raise RegistryError(f"{otherwise}: GET /agents holds no list of agents")
    return body


def _row(agent: dict[str, Any]) -> tuple[str, ...]:
    from mesh_supervisor.cli.words import one_line

    capabilities = agent.get("capabilities")
    cells = (
        agent.get("id"),
        ", ".join(_names(capabilities if isinstance(capabilities, list) else [])),
        agent.get("endpoint"),
        agent.get("status"),
        _seen(agent.get("last_seen")),
    )
    return tuple(one_line(str(cell)) if cell not in (None, "") else "-" for cell in cells)


def _names(capabilities: list[Any]) -> list[str]:
    names = [str(one.get("name", "")) if isinstance(one, dict) else str(one) for one in capabilities]
    return sorted({name for name in names if name and not name.startswith(FRAMEWORK)})


def _seen(at: object) -> str:
    """``3s ago``"""
    import time

    from mesh_supervisor.cli.words import duration
    from mesh_supervisor.events import unix_time

    try:
        return f"{duration(time.time() - unix_time(at))} ago"
    except ValueError:
        return "-"


VERBS = {"registry": registry}
