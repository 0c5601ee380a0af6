"""Which names of the environment are looked up, added, or read from .env files *while modules are imported* that are
not the project's: what is imported ahead has seen the environment of another process.

Going through the whole environment is no lookup: settings classes do it for everything. What the project's own code
asks for when it is imported, through whatever library, is not imported ahead. For its duration, ``os.environ[…]`` has
one frame of ours in the traceback of a KeyError.
"""

from __future__ import annotations

import os
import sys

from .after_import import when_imported
from .hints import Any, FrameType
from .origin import PROJECT, Origins

_MAPPINGS = ("_collections_abc.py", "<frozen _collections_abc>")
_STEPS = ("__iter__", "keys", "items", "values", "__len__")


class Lookups:
    """From ``begin`` to ``end``."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.added: set[str] = set()
        self.dotenv: set[str] = set()
        self._origins = Origins()
        self._judged: dict[str, bool] = {}
        self._iterating: tuple[int, int] | None = None
        self._originals: dict[str, Any] = {}

    def begin(self) -> None:
        environ: Any = os._Environ
        self._originals = {name: getattr(environ, name) for name in ("__getitem__", "__setitem__", "__iter__")}
        get, put, go_through = self._originals.values()

        def __getitem__(environ: Any, name: Any) -> Any:
            self._looked_up(name, sys._getframe(1))
            return get(environ, name)

        def __setitem__(environ: Any, name: Any, value: Any) -> None:
            self._put(environ, name, sys._getframe(1))
            put(environ, name, value)

        def __iter__(environ: Any) -> Any:
            self._iterating = _place(_asker(sys._getframe(1)))
            return go_through(environ)

        environ.__getitem__, environ.__setitem__, environ.__iter__ = __getitem__, __setitem__, __iter__
        when_imported("dotenv.main", self._watch_dotenv)

    def end(self) -> None:
        """From now on the environment is Python's own."""
        for name, original in self._originals.items():
            setattr(os._Environ, name, original)
        self._originals = {}

    def found(self) -> dict[str, list[str]]:
        return {"names": sorted(self.names), "added": sorted(self.added), "dotenv": sorted(self.dotenv)}

    # ---- what is done to the environment -----------------------------------------------------------------------------

    def _looked_up(self, name: Any, frame: FrameType) -> None:
        if frame.f_code.co_name in _STEPS and frame.f_code.co_filename.endswith(_MAPPINGS):
            return  # items() and values() of the whole
        if _place(frame) == self._iterating:
            return  # dict(os.environ), in C: the same instruction that has asked for all the names
        if self._is_ahead(frame):
            self.names.add(_text(name))

    def _put(self, environ: Any, name: Any, frame: FrameType) -> None:
        if _text(name).encode("utf-8", "surrogateescape") not in environ._data and self._is_ahead(frame):
            self.added.add(_text(name))

    def _watch_dotenv(self, module: Any) -> None:
        reader: Any = module.DotEnv
        parse = reader.parse

        def parse_and_tell(dotenv: Any) -> Any:
            path = getattr(dotenv, "dotenv_path", None)
            if path and self._originals and self._is_ahead(sys._getframe(1)):
                self.dotenv.add(os.path.abspath(os.fspath(path)))
            return parse(dotenv)

        reader.parse = parse_and_tell

    # ---- for whom ----------------------------------------------------------------------------------------------------

    def _is_ahead(self, frame: FrameType | None) -> bool:
        """Whether this is done by the import of a module that is not the project's."""
        while frame is not None:
            if frame.f_code.co_name == "<module>":
                return self._is_foreign(frame.f_code.co_filename, frame.f_globals.get("__name__"))
            frame = frame.f_back
        return False

    def _is_foreign(self, path: str, name: object) -> bool:
        found = self._judged.get(path)
        if found is None:
            foreign = path.startswith("<frozen ") or (path[:1] == "/" and self._origins.of_path(path) != PROJECT)
            found = self._judged[path] = foreign and name != "__main__"
        return found


def _asker(frame: FrameType | None) -> FrameType | None:
    """The one who goes through the environment, behind the views of a mapping."""
    while frame is not None and frame.f_code.co_filename.endswith(_MAPPINGS):
        frame = frame.f_back
    return frame


def _place(frame: FrameType | None) -> tuple[int, int] | None:
    return None if frame is None else (id(frame), frame.f_lasti)


def _text(name: Any) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
