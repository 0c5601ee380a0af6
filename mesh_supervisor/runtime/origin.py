"""Where a loaded module comes from: the standard library, a site-packages folder, or the project."""

from __future__ import annotations

import os
import sys
from types import ModuleType

from .hints import Any

THIRD, STANDARD, PROJECT, SHARED, UNKNOWN = "third-party", "standard", "project", "shared", "unknown"
"""SHARED: a namespace package with portions inside and outside of site-packages. UNKNOWN: made by a program while it
runs, or the runtime itself: not to be imported by name.

Editable installs lie outside of site-packages: they are PROJECT.
"""

_SITES = ("/site-packages", "/dist-packages")
_OURS = ("_meshsup", "__main__", "__mp_main__")


def site_folders() -> list[str]:
    """The site-packages folders on sys.path, as they stand there."""
    return [entry for entry in sys.path if isinstance(entry, str) and entry.rstrip("/").endswith(_SITES)]


class Origins:
    """As sys.path is now."""

    def __init__(self) -> None:
        self._sites = tuple(entry.rstrip("/") + "/" for entry in site_folders())
        library = os.path.dirname(os.__file__)
        self._library = (library + "/", *(e + "/" for e in sys.path if e.endswith("/lib-dynload")))

    def of(self, name: str, module: object) -> str:
        if name.partition(".")[0] in _OURS:
            return UNKNOWN
        names = names_of(module)
        file = names.get("__file__")
        if isinstance(file, str):
            return self.of_path(file)
        if "__path__" in names:
            return self._of_namespace(names["__path__"])
        origin = getattr(names.get("__spec__"), "origin", None)
        return STANDARD if origin in ("built-in", "frozen") else UNKNOWN

    def of_path(self, path: str) -> str:
        if path.startswith(self._sites):
            return THIRD
        return STANDARD if path.startswith(self._library) else PROJECT

    def _of_namespace(self, portions: Any) -> str:
        try:
            found = {self.of_path(portion) for portion in portions}
        except Exception:  # noqa: BLE001 - it is computed, by whatever made the package
            return UNKNOWN
        if not found:
            return UNKNOWN
        return found.pop() if len(found) == 1 else SHARED


def names_of(module: object) -> dict[str, Any]:
    """Its namespace, without waking up a module that loads itself when it is looked at."""
    return ModuleType.__getattribute__(module, "__dict__") if isinstance(module, ModuleType) else {}


def loaded() -> list[tuple[str, object]]:
    """All modules, in the order of their import. May be asked from any thread."""
    return [(name, module) for name, module in sys.modules.copy().items() if isinstance(name, str)]
