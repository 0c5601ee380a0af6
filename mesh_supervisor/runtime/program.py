"""Runs a program as Python itself would run it: its names, its path, its errors, its end.

As Python: what is in C there (``Modules/main.c``, ``Python/pythonrun.c``) is said again here; for modules and folders
Python's own ``runpy`` is asked, as Python does.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_OURS = os.path.dirname(__file__)


class Program:
    """``kind``: script or module; ``name``: its path or dotted name; ``words``: the whole command line."""

    def __init__(self, kind: str, name: str, args: tuple[str, ...]) -> None:
        self.kind, self.name, self.args = kind, name, args
        self.words: list[str] = []
        self._names: dict[str, Any] = {}

    def claim(self, namespace: dict[str, Any]) -> None:
        """From here on ``__main__``, sys.argv and sys.path are the program's."""
        _clean(namespace)
        self._names = namespace
        sys.argv = ["-m" if self.kind == "module" else self.name, *self.args]
        sys.orig_argv = list(self.words)

    def run(self) -> None:
        """At the top level of ``__main__``. Returns, or raises what ends Python, as the program does."""
        error = self._outcome()
        if error is not None:
            raise error

    def _outcome(self) -> BaseException | None:
        try:
            self._execute()
        except BaseException as error:  # noqa: BLE001 - as Python: it is reported, then Python ends
            return _reported(error)
        return None

    def _execute(self) -> None:
        path = os.path.join(os.getcwd(), self.name)
        if self.kind == "module":
            _put_first(os.getcwd())
            import runpy

            runpy._run_module_as_main(self.name)  # type: ignore[attr-defined]
            return
        _put_first(os.path.dirname(os.path.realpath(self.name)))
        with open(path, "rb") as file:
            source = file.read()
        code = compile(source, path, "exec", dont_inherit=True)
        self._names["__file__"] = path
        self._names["__loader__"] = type(self._names["__loader__"])("__main__", path)
        exec(code, self._names)


def _put_first(folder: str) -> None:
    if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)


_PYTHONS = frozenset(
    {"__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__", "__cached__"}
)


def _clean(namespace: dict[str, Any]) -> None:
    """Leaves the names that Python gives to every program."""
    for name in [*namespace]:
        if name not in _PYTHONS:
            del namespace[name]


def _reported(error: BaseException) -> BaseException:
    """Says it as Python does, without our frames; returns what ends Python with the same status."""
    if isinstance(error, SystemExit):
        return error
    error.__traceback__ = _stripped(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)
    return error if type(error) is KeyboardInterrupt else SystemExit(1)


def _stripped(traceback: Any) -> Any:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback
