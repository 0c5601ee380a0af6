"""PURE. One Python file → ``Source``: what it imports, what it binds, and how it changes ``sys.path``.

Read with ``ast``, never executed. The walk goes through statements only; expressions are searched only in files whose
text holds a word that asks for it (``import_module``, ``sys.path``, …), and bodies that hold no ``import`` are passed
over, which keeps a file near the cost of ``ast.parse`` itself.
"""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from mesh_supervisor.pathwords import PathWords
from mesh_supervisor.source import DOTTED, STAR, Import, PathEdit, Source, scan_source


def read_source(content: bytes, file: str) -> Source:
    """Read one file. ``file`` is its absolute path: what ``__file__`` means in it."""
    tree = _parse(content)
    if tree is None:
        return scan_source(content)
    reader = _Reader(file, content)
    reader.read(tree.body, _TOP)
    if _holds(content, _ASK_FOR_EXPRESSIONS):
        reader.read_expressions(tree)
    return reader.source()


def _holds(content: bytes, words: Iterable[bytes]) -> bool:
    return any(word in content for word in words)


def _parse(content: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        # An invalid escape in somebody's file is no news for the people who read our stderr.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(content)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


# Plain words looked for in the text: a regular expression would cost as much as the rest of the reading.
_SERVERS = (b"uvicorn", b"hypercorn", b"granian", b"gunicorn", b"daphne")
_IMPORTERS = (b"import_module", b"__import__", b"run_module", b"iter_modules", b"walk_packages")
_PATHS = (b"run_path", b"spec_from_file_location", b"SourceFileLoader", b"sys.path", b"addsitedir")
_ASK_FOR_EXPRESSIONS = (*_SERVERS, *_IMPORTERS, *_PATHS)
_MAKE_NAMES = (b"globals(", b"vars(", b"locals(", b"exec(", b"setattr(", b"eval(", b"sys.modules", b"__dict__")
_UNRULY = (b"sys.modules", b"meta_path", b"path_hooks", b"path_importer_cache", b"pyximport", b"exec(")
_WALRUS = re.compile(rb"(\w+)\s*:=")
_MODULE_ATTR = re.compile(r"^([^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d][\w.]*$")
_HARMLESS_CALLS = frozenset({"logging", "load_dotenv", "dotenv", "warnings", "print", "os", "signal"})
_DEFINITIONS = frozenset({ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef})
_PLAIN = frozenset({ast.Expr, ast.Return, ast.Pass, ast.Raise, ast.Assert, ast.Break, ast.Continue, ast.Nonlocal})
_TRIVIAL = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a statement stands. ``dead``: never run (TYPE_CHECKING). ``top``: its names are the module's."""

    top: bool = True
    firm: bool = True
    main_only: bool = False
    dead: bool = False

    def loose(self) -> _Scope:
        return self if not self.firm else replace(self, firm=False)

    def inner(self) -> _Scope:
        return replace(self, top=False, firm=False)


_TOP = _Scope()


class _Reader:
    """Collects while it walks; one per file."""

    def __init__(self, file: str, content: bytes) -> None:
        self._words = PathWords(file)
        self._file = file
        self._imports: list[Import] = []
        self._bound: set[str] = set()
        self._firmly: dict[str, int] = {}
        self._poked: set[str] = set()
        self._public: tuple[str, ...] | None = None
        self._edits: list[PathEdit] = []
        self._run_files: list[str] = []
        self._notes: list[str] = []
        lines = enumerate(content.splitlines(), 1)
        self._lines = [number for number, line in lines if b"import" in line or b"global" in line]
        self._dynamic = _holds(content, _MAKE_NAMES)
        self._unruly = _holds(content, _UNRULY)
        self._extends = b"__path__" in content
        self._quiet = True
        if b":=" in content:
            # Bound somewhere, perhaps at the top: enough to give no verdict on the name.
            self._bound.update(name.decode("utf-8", "replace") for name in _WALRUS.findall(content))

    def source(self) -> Source:
        return Source(
            imports=tuple(self._imports),
            bound=frozenset(self._bound),
            firmly_bound=self._firmly,
            public=self._public,
            dynamic=self._dynamic or "__getattr__" in self._bound,
            unruly=self._unruly,
            extends_path=self._extends,
            path_edits=tuple(self._edits),
            run_files=tuple(self._run_files),
            poked=frozenset(self._poked),
            notes=tuple(self._notes),
        )

    # -- statements

    def read(self, body: Iterable[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self._read_statement(node, scope)
            if scope.firm and self._quiet and not _is_quiet(node):
                self._quiet = False

    def _read_statement(self, node: ast.stmt, scope: _Scope) -> None:
        kind = type(node)
        if kind is ast.Import:
            self._read_import(cast(ast.Import, node), scope)
        elif kind is ast.ImportFrom:
            self._read_import_from(cast(ast.ImportFrom, node), scope)
        elif kind in _DEFINITIONS:
            self._read_definition(cast(ast.FunctionDef, node), scope)
        elif kind is ast.If:
            self._read_if(cast(ast.If, node), scope)
        elif kind is ast.Assign:
            self._read_assign(cast(ast.Assign, node), scope)
        elif kind is ast.Global:
            self._bound.update(cast(ast.Global, node).names)
        elif kind is ast.Match:
            self._read_match(cast(ast.Match, node), scope)
        elif kind not in _PLAIN:
            self._read_rest(node, scope)

    def _read_definition(self, node: ast.FunctionDef | ast.ClassDef, scope: _Scope) -> None:
        self._bind(node.name, scope)
        # Most bodies hold no word that matters here, and are passed over unread.
        at = bisect_left(self._lines, node.lineno)
        if at < len(self._lines) and self._lines[at] <= (node.end_lineno or node.lineno):
            self.read(node.body, scope.inner())

    def _read_import(self, node: ast.Import, scope: _Scope) -> None:
        for alias in node.names:
            self._add(Import(alias.name, line=node.lineno), scope)
            self._bind(alias.asname or alias.name.partition(".")[0], scope)

    def _read_import_from(self, node: ast.ImportFrom, scope: _Scope) -> None:
        if node.module == "__future__":
            return
        names = tuple(alias.name for alias in node.names)
        if STAR in names:
            self._dynamic = True
        self._add(Import(node.module or "", node.level, names, node.lineno), scope)
        # In a package ``from . import x`` loads its submodule x, unless x is bound by something else before.
        own_parts = node.level == 1 and not node.module and self._file.endswith("/__init__.py")
        for alias in node.names:
            if not own_parts or (alias.asname or alias.name) != alias.name:
                self._bind(alias.asname or alias.name, scope)

    def _add(self, found: Import, scope: _Scope) -> None:
        if not scope.dead:
            quiet = scope.firm and self._quiet
            self._imports.append(replace(found, firm=scope.firm, quiet=quiet, main_only=scope.main_only))

    def _read_if(self, node: ast.If, scope: _Scope) -> None:
        kind = _guard(node.test)
        dead = replace(scope.loose(), dead=True)
        if kind == "types":
            self.read(node.body, dead)
            self.read(node.orelse, scope)
        elif kind == "not types":
            self.read(node.body, scope)
            self.read(node.orelse, dead)
        elif kind == "main":
            self.read(node.body, replace(scope, main_only=True))
            self.read(node.orelse, scope.loose())
        else:
            self.read(node.body, scope.loose())
            self.read(node.orelse, scope.loose())

    def _read_assign(self, node: ast.Assign, scope: _Scope) -> None:
        if not scope.top:
            return
        for target in node.targets:
            self._bind_target(target, scope)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            self._words.learn(name, node.value)
            if name == "__all__":
                self._public = _literal_names(node.value)

    def _read_match(self, node: ast.Match, scope: _Scope) -> None:
        for case in node.cases:
            for part in ast.walk(case.pattern):
                name = getattr(part, "name", None) or getattr(part, "rest", None)
                if isinstance(name, str):
                    self._bind(name, scope.loose())
            self.read(case.body, scope.loose())

    def _read_rest(self, node: ast.stmt, scope: _Scope) -> None:
        """for, while, with, try, annotated and augmented assignments, ``type`` aliases, del: by their fields."""
        target = getattr(node, "target", None) or getattr(node, "name", None)
        if isinstance(target, ast.expr):
            self._bind_target(target, scope if isinstance(node, ast.AnnAssign) and node.value else scope.loose())
        for target in getattr(node, "targets", ()):  # del: whether the name is still there is not known
            if isinstance(target, ast.Name):
                self._firmly.pop(target.id, None)
        for item in getattr(node, "items", ()):
            if item.optional_vars is not None:
                self._bind_target(item.optional_vars, scope.loose())
        for handler in getattr(node, "handlers", ()):
            if handler.name:
                self._bind(handler.name, scope.loose())
            self.read(handler.body, scope.loose())
        for field in ("body", "orelse", "finalbody"):
            self.read(getattr(node, field, ()), scope.loose())

    # -- names

    def _bind(self, name: str, scope: _Scope) -> None:
        if not scope.top:
            return
        self._bound.add(name)
        if scope.firm and not scope.main_only:
            self._firmly.setdefault(name, len(self._imports))

    def _bind_target(self, target: ast.expr, scope: _Scope) -> None:
        match target:
            case ast.Name():
                self._bind(target.id, scope)
            case ast.Attribute():
                self._poked.add(target.attr)
            case ast.Tuple() | ast.List():
                for element in target.elts:
                    self._bind_target(element, scope)
            case ast.Starred():
                self._bind_target(target.value, scope)

    # -- expressions

    def read_expressions(self, tree: ast.Module) -> None:
        """Calls that import by a string or move ``sys.path``; ``module:attr`` strings."""
        wants_strings = False
        strings: list[ast.Constant] = []
        for node in _expressions(tree):
            kind = type(node)
            if kind is ast.Constant:
                strings.append(cast(ast.Constant, node))
            elif kind is ast.Call:
                wants_strings |= self._read_call(cast(ast.Call, node))
            else:
                self._read_path_assignment(cast(ast.Assign, node))
        for constant in strings:
            if isinstance(constant.value, str):
                self._read_string(constant.value, constant.lineno, wants_strings)

    def _read_call(self, node: ast.Call) -> bool:
        """True: a module is imported whose name is made at run time, so any string may be that name."""
        name = called(node.func)
        tail = name.rpartition(".")[2]
        if tail in {"import_module", "__import__", "run_module"} and node.args:
            return self._read_import_call(node)
        if tail in {"iter_modules", "walk_packages"}:
            self._read_package_walk(node)
        if tail in {"run_path"} and node.args:
            self._read_run_file(node.args[0])
        if tail in {"spec_from_file_location", "SourceFileLoader"} and len(node.args) > 1:
            self._read_run_file(node.args[1])
        if name in {"sys.path.insert", "sys.path.append", "sys.path.extend", "site.addsitedir"} and node.args:
            self._read_path_call(node, tail)
        return False

    def _read_import_call(self, node: ast.Call) -> bool:
        said = node.args[0]
        start = _start_of_string(said)
        if start is None:
            self._notes.append(f"line {node.lineno} imports a module whose name is made at run time")
            return True
        text, complete = start
        level = len(text) - len(text.lstrip("."))
        module = text[level:]
        if complete:
            self._imports.append(Import(module, level, line=node.lineno))
        elif level or "." in module:
            self._imports.append(Import(module.rpartition(".")[0], level, line=node.lineno, open_end=True))
        return not complete and not level and "." not in module

    def _read_package_walk(self, node: ast.Call) -> None:
        """``pkgutil.iter_modules(tools.__path__)``: every module of that package is loaded, most likely."""
        where = node.args[0] if node.args else None
        if isinstance(where, ast.Name) and where.id == "__path__":
            self._imports.append(Import("", 1, line=node.lineno, open_end=True))
        elif isinstance(where, ast.Attribute) and where.attr == "__path__":
            package = self._imported_as(called(where.value))
            self._imports.append(replace(package, line=node.lineno, open_end=True, guess=True))

    def _imported_as(self, name: str) -> Import:
        for known in self._imports:
            if name in known.names:
                return Import(f"{known.module}.{name}".strip("."), known.level)
        return Import(name)

    def _read_run_file(self, where: ast.expr) -> None:
        file = self._words.path(where)
        if file is not None:
            self._run_files.append(file)

    def _read_path_call(self, node: ast.Call, verb: str) -> None:
        where = node.args[-1]
        folders: Sequence[ast.expr] = [where]
        if verb == "extend":
            folders = where.elts if isinstance(where, (ast.List, ast.Tuple)) else [where]
        self._edit_path(folders, front=verb == "insert", line=node.lineno)

    def _read_path_assignment(self, node: ast.Assign | ast.AugAssign) -> None:
        """``sys.path[:0] = […]``, ``sys.path = […] + sys.path``, ``sys.path += […]``."""
        target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
        inner = target.value if isinstance(target, ast.Subscript) else target
        if called(inner) != "sys.path":
            return
        lists = [part for part in ast.walk(node.value) if isinstance(part, (ast.List, ast.Tuple))]
        front = not isinstance(node, ast.AugAssign)
        self._edit_path([folder for part in lists for folder in part.elts], front=front, line=node.lineno)

    def _edit_path(self, folders: Iterable[ast.expr], *, front: bool, line: int) -> None:
        for where in folders:
            if isinstance(where, ast.Starred):
                continue
            folder = self._words.path(where)
            if folder is None:
                self._unruly = True
                self._notes.append(f"line {line} puts a folder on sys.path that is not known before it runs")
            else:
                self._edits.append(PathEdit(folder, front))

    def _read_string(self, text: str, line: int, wants_strings: bool) -> None:
        found = _MODULE_ATTR.match(text)
        if found:
            self._imports.append(Import(found[1], line=line, guess=True))
        elif wants_strings and len(text) < 200:
            level = len(text) - len(text.lstrip("."))
            if DOTTED.match(text[level:]) and "." in text:
                self._imports.append(Import(text[level:], level, line=line, guess=True))


_WANTED = frozenset({ast.Constant, ast.Call, ast.Assign, ast.AugAssign})


def _expressions(tree: ast.AST) -> Iterator[ast.AST]:
    """Like ``ast.walk``, in the order of the file, twice as fast, and only the kinds that are asked for here."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if type(node) in _WANTED:
            yield node
        inner: list[ast.AST] = []
        for value in vars(node).values():
            if type(value) is list:
                inner += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST):
                inner.append(value)
        waiting += reversed(inner)


def called(node: ast.expr) -> str:
    """``importlib.import_module`` for that expression; '' for one that is no dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = called(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _guard(test: ast.expr) -> str:
    """'types', 'not types', 'main' or ''."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return "not types" if _guard(test.operand) == "types" else ""
    if called(test).rpartition(".")[2] == "TYPE_CHECKING":
        return "types"
    if isinstance(test, ast.Constant) and not test.value:
        return "types"
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        sides = [test.left, test.comparators[0]]
        named = any(called(side) == "__name__" for side in sides)
        if named and any(isinstance(side, ast.Constant) and side.value == "__main__" for side in sides):
            return "main"
    return ""


def _is_quiet(node: ast.stmt) -> bool:
    """Nothing that this statement runs could make more modules findable (``findspark.init()`` does)."""
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call):
            return called(node.value.func).partition(".")[0] in _HARMLESS_CALLS
        return True
    if isinstance(node, ast.If):
        return _guard(node.test) in {"types", "main"}
    return isinstance(node, _TRIVIAL)


def _literal_names(node: ast.expr) -> tuple[str, ...] | None:
    if not isinstance(node, (ast.List, ast.Tuple)):
        return None
    names = [element.value for element in node.elts if isinstance(element, ast.Constant)]
    return tuple(name for name in names if isinstance(name, str))


def _start_of_string(node: ast.expr) -> tuple[str, bool] | None:
    """The literal start of a string expression, and whether that is all of it; None: nothing literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, True
    if isinstance(node, ast.JoinedStr) and node.values:
        first = node.values[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value, False
        if isinstance(first, ast.FormattedValue) and called(first.value) in {"__package__", "__name__"}:
            return ".", False
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
        left = _start_of_string(node.left)
        if left is None and called(node.left) in {"__package__", "__name__"}:
            return ".", False
        return (left[0].partition("%")[0], False) if left else None
    return None
