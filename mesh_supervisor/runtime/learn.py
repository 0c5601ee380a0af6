"""Tells the supervisor what an instance has imported, so that the next one can be started from a warm process.

``inventory`` {} is answered by ``modules``, several packets where one is too small: {"top", "modules", "standard",
"names", "added", "dotenv", "left_out", "places", "more": bool}. Lists and objects are to be joined; ``more`` is false
in the last. Asked again, it tells everything again.

``top``      {name: version or null}: the top-level third-party modules that are loaded (``__version__``, where it is a
             string: for people; keys are better made of the ``*.dist-info`` folders in ``places``).
``modules``  all third-party modules that are loaded and may be imported ahead, in the order of their import
             ("fastapi", "fastapi.routing", "_mcp_mesh.engine.http_wrapper"): what ``warm`` takes.
``standard`` the same for the standard library, without what Python itself loads at its start.
``names``    names in the environment that were looked up while third-party or standard modules were imported.
``added``    names that were added to the environment while such modules were imported.
``dotenv``   .env files that such modules have loaded (absolute paths).
``left_out`` {top-level name: why}: loaded, and not to be preloaded ("editable", "also in the project", …).
``places``   the site-packages folders that they came from.

An instance that came from a warm process tells only what came in addition to what that one had imported (which says
itself, in ``warmed``, what its imports have asked of the environment).

Only modules that lie in a site-packages folder count: project code, editable installs and namespace packages that the
project has a share in do not.
"""

from __future__ import annotations

import sys

from .hints import Any
from .link import Link, Message
from .lookups import Lookups
from .origin import SHARED, STANDARD, THIRD, Origins, loaded, names_of, site_folders

NEVER = frozenset(
    (
        *("pytest", "_pytest", "coverage", "pdb", "ipdb", "pudb", "IPython", "debugpy", "pydevd", "pydevd_plugins"),
        *("_pydevd_bundle", "_pydev_bundle", "_pydevd_frame_eval", "ddtrace", "sitecustomize", "usercustomize"),
        *("readline", "rlcompleter", "antigravity", "this", "idlelib", "test", "turtle", "tkinter"),
    )
)
"""Their presence alone changes other programs: testers, debuggers, what patches others when it is imported."""

_ALSO_NEVER = ("__editable__", "opentelemetry.instrumentation.auto_instrumentation")
_ROOM = 100_000
"""Bytes of one packet for lists and objects; see wire.LARGEST."""

_LONGEST_VERSION = 40

_at_start = frozenset(sys.modules)
"""What Python itself, .pth files and the runtime have loaded, or a warm process: nobody has to import it ahead."""


def install(link: Link) -> None:
    lookups = Lookups()
    lookups.begin()

    def inventory(message: Message, descriptors: list[int]) -> None:
        lookups.end()
        for packet in parts(take(lookups)):
            link.tell("modules", **packet)

    link.on("inventory", inventory)
    link.listen()


def take(lookups: Lookups) -> dict[str, Any]:
    """What is loaded now. See the top of this file."""
    origins = Origins()
    top: dict[str, str | None] = {}
    modules: list[str] = []
    standard: list[str] = []
    left_out: dict[str, str] = {}
    every = loaded()
    shared = {name.partition(".")[0] for name, module in every if origins.of(name, module) == SHARED}
    for name, module in every:
        origin = origins.of(name, module)
        first = name.partition(".")[0]
        if name in _at_start or not _is_whole(name, module):
            continue
        if origin == STANDARD and first not in NEVER:
            standard.append(name)
        if origin != THIRD:
            continue
        why = _why_not(name, first, shared)
        if why:
            left_out[first] = why
            continue
        modules.append(name)
        if first not in top:
            top[first] = _version(sys.modules.get(first))
    return {
        "top": top,
        "modules": modules,
        "standard": standard,
        **lookups.found(),
        "left_out": left_out,
        "places": site_folders(),
    }


def _why_not(name: str, first: str, shared: set[str]) -> str:
    if first in shared:
        return "the project has a share in this namespace package"
    if first in NEVER or name.startswith(_ALSO_NEVER):
        return "its presence changes how other programs behave"
    return ""


def _is_whole(name: str, module: object) -> bool:
    """Imported to its end, under its own name: aliases and modules made by hand cannot be imported by name."""
    spec = names_of(module).get("__spec__")
    return getattr(spec, "name", None) == name and not getattr(spec, "_initializing", False)


def _version(module: object) -> str | None:
    found = names_of(module).get("__version__")
    return found[:_LONGEST_VERSION] if isinstance(found, str) else None


def parts(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Packets that are small enough, together ``whole``; all but the last have ``more``."""
    packets: list[dict[str, Any]] = [{}]
    room = _ROOM
    for key, value in whole.items():
        packets[-1][key] = type(value)()
        for one in value:
            size = _size(one) + (_size(value[one]) if isinstance(value, dict) else 0)
            if size > room:
                packets.append({key: type(value)()})
                room = _ROOM
            room -= size
            if isinstance(value, dict):
                packets[-1][key][one] = value[one]
            else:
                packets[-1][key].append(one)
    return [{**packet, "more": number < len(packets)} for number, packet in enumerate(packets, 1)]


def _size(text: str | None) -> int:
    """In a packet, at most: what is no plain letter is written with six."""
    return 8 if text is None else 4 + len(text) * (1 if text.isascii() and text.isprintable() else 12)
