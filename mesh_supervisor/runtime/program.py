"""Runs a program as Python itself would run it: its names, its path, its errors, its end.

What Python does in C there (``Modules/main.c``, ``Python/pythonrun.c``) is said again here for scripts; for modules,
folders and archives Python's own ``runpy`` is asked, as Python does. A script gets the namespace in which the runtime
was started, because Python takes ``__file__`` away from that one at its end; the others get a module of their own.
"""

from __future__ import annotations

import os
import sys

from .hints import Any, NoReturn, TracebackType

_display = sys.__excepthook__


class Program:
    """``kind``: script or module; ``name``: its path or dotted name; ``words``: the whole command line, from Python's
    own name on."""

    def __init__(self, kind: str, name: str, args: list[str], words: list[str]) -> None:
        self.kind, self.name, self.args, self.words = kind, name, args, words
        self._names: dict[str, Any] = {}

    def claim(self, namespace: dict[str, Any]) -> None:
        """From here on ``__main__`` (whose ``namespace`` this is) and the arguments are the program's."""
        _clean(namespace)
        self._names = namespace
        sys.argv = ["-m" if self.kind == "module" else self.name, *self.args]
        sys.orig_argv = list(self.words)

    def run(self) -> None:
        """To be called from the top level of ``__main__``. Returns, or raises what ends Python, as the program does."""
        ending = self._ending()
        if ending is not None:
            raise ending

    def _ending(self) -> BaseException | None:
        try:
            self._execute()
        except BaseException as raised:  # noqa: BLE001 - it is reported, and ends Python
            error = raised
        else:
            return None
        finally:
            if self.kind == "script":
                _flush()  # as Python does between the end of a script and its traceback
        return _reported(error)

    def _execute(self) -> None:
        if self.kind == "module":
            _put_first(_working_directory())
            _run_as_main(self.name, names_itself=True)
            return
        path = _absolute(self.name)
        if _is_importable(path):
            self.kind = "archive"
            sys.path.insert(0, path)
            _run_as_main("__main__", names_itself=False)
            return
        code = self._code(path)
        _put_first(os.path.dirname(os.path.realpath(path)))
        self._names["__file__"] = path
        exec(code, self._names)

    def _code(self, path: str) -> Any:
        """Raises SyntaxError, and SystemExit where Python says that it cannot open it."""
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            sys.stderr.write(f"{self.words[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}\n")
            raise SystemExit(2) from None
        machinery = sys.modules["_frozen_importlib_external"]
        if path.endswith(".pyc") or content[:2] == machinery.MAGIC_NUMBER[:2]:
            return self._cached_code(path, content, machinery)
        self._names["__loader__"] = machinery.SourceFileLoader("__main__", path)
        return self._compiled(path, content)

    def _compiled(self, path: str, content: bytes) -> Any:
        """Python reads a script otherwise than a text that is given to compile(), where its letters are concerned."""
        if b"\0" in content or not _is_text(content):
            self._leave_to_python()
        try:
            return compile(content, path, "exec", dont_inherit=True)
        except SyntaxError as error:
            if error.lineno and not error.msg.startswith("(unicode error)"):
                raise
        return self._leave_to_python()

    def _leave_to_python(self) -> NoReturn:
        """It ends by an error that only Python itself can say in its words."""
        _flush()
        os.execv(sys.executable, self.words)

    def _cached_code(self, path: str, content: bytes, machinery: Any) -> Any:
        if content[:4] != machinery.MAGIC_NUMBER:
            raise RuntimeError("Bad magic number in .pyc file")
        self._names["__loader__"] = machinery.SourcelessFileLoader("__main__", path)
        import marshal

        return marshal.loads(content[16:])


def _is_text(content: bytes) -> bool:
    """Its bytes are what its encoding says; compile() sees what is wrong where one is declared."""
    if content.isascii() or any(b"coding" in line for line in content.split(b"\n", 2)[:2]):
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- where it runs -----------------------------------------------------------------------------------------------


_PYTHONS = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__")


def _clean(namespace: dict[str, Any]) -> None:
    """Leaves the names that Python gives to every program."""
    for name in [*namespace]:
        if name not in (*_PYTHONS, "__file__", "__cached__"):
            del namespace[name]


def _run_as_main(name: str, *, names_itself: bool) -> None:
    """``names_itself``: sys.argv[0] becomes the file of the module."""
    main = type(sys)("__main__")
    old = sys.modules["__main__"].__dict__
    main.__dict__.update({each: old[each] for each in _PYTHONS if each in old and each != "__loader__"})
    main.__loader__ = sys.modules["_frozen_importlib"].BuiltinImporter
    sys.modules["__main__"] = main
    import runpy

    runpy._run_module_as_main(name, names_itself)  # type: ignore[attr-defined]


def _is_importable(path: str) -> bool:
    """A folder, or an archive: Python runs the ``__main__`` in it."""
    for hook in sys.path_hooks:
        try:
            sys.path_importer_cache[path] = hook(path)
        except ImportError:
            continue
        return True
    sys.path_importer_cache.setdefault(path, None)
    return False


def _put_first(folder: str | None) -> None:
    if folder is not None and not is_safe():
        sys.path.insert(0, folder)


def is_safe() -> bool:
    """Python puts no folder of the program's first (-P, -I)."""
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _absolute(path: str) -> str:
    """As Python writes it: what is not needed stays in it."""
    folder = _working_directory()
    return path if folder is None else os.path.join(folder, path)


# ---- how it ends -------------------------------------------------------------------------------------------------


def _flush() -> None:
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S110 - as Python: it will be seen at the end
            pass


def _reported(error: BaseException) -> BaseException:
    """Says it as Python does, without our frames; returns what ends Python with the same status."""
    if isinstance(error, SystemExit):
        return error
    _report(error)
    if type(error) is not KeyboardInterrupt:
        return SystemExit(1)
    # Python kills itself by SIGINT only when it sees this one come; it is not to say it again.
    sys.excepthook = _Said(error, sys.excepthook)
    return error


def _report(error: BaseException) -> None:
    """What PyErr_Print does. Raises what Python ends with instead: a SystemExit of the program's own hook."""
    traceback = error.__traceback__ = _stripped(error.__traceback__)
    _remember(error)
    hook = getattr(sys, "excepthook", None)
    if hook is None:
        _say("sys.excepthook is missing\n")
        _display(type(error), error, traceback)
        return
    try:
        sys.audit("sys.excepthook", hook, type(error), error, traceback)
        hook(type(error), error, traceback)
        return
    except SystemExit:
        raise
    except BaseException as raised:  # noqa: BLE001 - as Python: both are said
        second = raised
    second.__traceback__ = _stripped(second.__traceback__)
    _flush()
    _say("Error in sys.excepthook:\n")
    _display(type(second), second, second.__traceback__)
    _say("\nOriginal exception was:\n")
    _display(type(error), error, traceback)


def _remember(error: BaseException) -> None:
    """For debuggers."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error


class _Said:
    """Stands in for the program's hook while an error is raised that has been said already."""

    def __init__(self, error: BaseException, hook: Any) -> None:
        self._traceback, self._hook = error.__traceback__, hook

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        error.__traceback__ = self._traceback
        _remember(error)
        sys.excepthook = self._hook


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)


def _stripped(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback
