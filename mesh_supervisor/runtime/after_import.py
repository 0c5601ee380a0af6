"""Does something with a module as soon as it is there: at once, or when the program imports it.

Nothing is imported for it: a program that never uses asyncio never pays for asyncio.
"""

from __future__ import annotations

import sys

from .hints import Any, Callable, ModuleType

_wanted: dict[str, list[Callable[[ModuleType], None]]] = {}


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Calls ``then(module)`` once, when ``name`` has been executed. What ``then`` raises does not reach the program."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        _call(then, module)
        return
    _wanted.setdefault(name, []).append(then)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _call(then: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        then(module)
    except Exception:  # noqa: BLE001, S110 - a version that looks otherwise inside: that part is left alone
        pass


class _Finder:
    """Lets the others find, and wraps the loader of what somebody waits for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in _wanted:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # As if we had never been here: importlib.resources, pickle and inspect look at both.
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for then in _wanted.pop(module.__name__, ()):
            _call(then, module)
