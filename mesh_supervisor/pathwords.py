"""PURE. The paths that Python code writes out of ``__file__``, worked out without running it.

For ``sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "libs"))`` and its relatives. What is not known
before the program runs (an environment variable, an argument) has no answer.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from posixpath import basename, dirname, join, normpath

_SAME = frozenset({"str", "fspath", "Path", "PurePath", "PosixPath", "abspath", "realpath", "normpath", "expanduser"})
_SAME_METHODS = frozenset({"resolve", "absolute", "as_posix", "expanduser", "__str__", "__fspath__"})


class PathWords:
    """Evaluates path expressions of one file. Relative results are relative to the working directory."""

    def __init__(self, file: str) -> None:
        self._names: dict[str, str] = {"__file__": file}

    def learn(self, name: str, value: ast.expr) -> None:
        """``ROOT = Path(__file__).parent``: remember it, if it can be known."""
        known = self.path(value)
        if known is not None:
            self._names[name] = known
        else:
            self._names.pop(name, None)

    def path(self, node: ast.expr) -> str | None:
        """The path that this expression is, or None."""
        try:
            found = self._value(node)
        except RecursionError:  # a sum of thousands, which a program wrote: no path
            return None
        return None if found is None else normpath(found)

    def _value(self, node: ast.expr) -> str | None:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.BinOp(op=ast.Div(), left=left, right=right):
                return self._both(left, right, join)
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._both(left, right, str.__add__)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Subscript():
                return self._parents(node)
            case ast.Call():
                return self._call(node)
            case ast.JoinedStr():
                return self._joined(node)
            case ast.FormattedValue(value=inner):
                return self._value(inner)
        return None

    def _both(self, left: ast.expr, right: ast.expr, join: Callable[[str, str], str]) -> str | None:
        one, two = self._value(left), self._value(right)
        return None if one is None or two is None else join(one, two)

    def _attribute(self, node: ast.Attribute) -> str | None:
        if node.attr == "pardir":
            return ".."
        if node.attr == "curdir":
            return "."
        if node.attr == "sep":
            return "/"
        return self._up(self._value(node.value), 1) if node.attr == "parent" else None

    def _parents(self, node: ast.Subscript) -> str | None:
        """``Path(__file__).parents[2]``."""
        match node:
            case ast.Subscript(value=ast.Attribute(attr="parents", value=inner), slice=ast.Constant(value=int(count))):
                return self._up(self._value(inner), count + 1) if count >= 0 else None
        return None

    def _up(self, path: str | None, count: int) -> str | None:
        if path is None:
            return None
        path = normpath(path)
        for _ in range(count):
            # A relative path is relative to a folder that is not known here, so going above it is spelled "..".
            path = dirname(path) if basename(path) not in {"", ".", ".."} else join(path, "..")
        return path or "."

    def _call(self, node: ast.Call) -> str | None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in {"getcwd", "cwd"} and not node.args:
            return "."
        if name == "dirname" and len(node.args) == 1:
            return self._up(self._value(node.args[0]), 1)
        if name == "join" and node.args:
            return self._join(node.args)
        if name in _SAME and node.args:
            return self._join(node.args)
        if isinstance(node.func, ast.Attribute):
            if name in _SAME_METHODS:
                return self._value(node.func.value)
            if name == "joinpath":
                return self._join([node.func.value, *node.args])
            if name == "with_name" and len(node.args) == 1:
                folder, last = self._up(self._value(node.func.value), 1), self._value(node.args[0])
                return None if folder is None or last is None else join(folder, last)
        return None

    def _join(self, parts: list[ast.expr]) -> str | None:
        known = [self._value(part) for part in parts]
        return join(*[part for part in known if part is not None]) if None not in known else None

    def _joined(self, node: ast.JoinedStr) -> str | None:
        known = [self._value(part) for part in node.values]
        return "".join(part for part in known if part is not None) if None not in known else None
