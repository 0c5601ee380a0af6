"""Little programs, and what may go wrong with programs. test_program.py runs each plainly and in the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent


@dataclass(frozen=True)
class Case:
    """``files``: name → text (or bytes). ``words``: after python."""

    files: dict[str, str | bytes]
    words: str = "x.py"
    environ: dict[str, str] = field(default_factory=dict)


def x(text: str | bytes, words: str = "x.py", **environ: str) -> Case:
    """One script, x.py."""
    return Case({"x.py": text}, words, environ)


ABOUT = """
    import sys, os, threading
    main = sys.modules["__main__"]
    print(sorted(globals()), main.__dict__ is globals())
    print([(name, repr(globals()[name])) for name in sorted(globals()) if name[:2] == "__" and name != "__builtins__"])
    print(type(__builtins__), type(__loader__), getattr(__loader__, "path", None), getattr(__loader__, "name", None))
    print(sys.argv, sys.orig_argv, sys.path, sys.flags)
    print(threading.enumerate(), threading.main_thread() is threading.current_thread(), threading.active_count())
    print(os.getcwd(), [each for each in sorted(os.environ.items()) if not each[0].startswith("PYTEST")])
"""
PACKAGE: dict[str, str | bytes] = {
    "pkg/__init__.py": "print('the package')\nhere = __name__\n",
    "pkg/__main__.py": ABOUT,
    "pkg/mod.py": "from . import here\n" + dedent(ABOUT),
    "pkg/broken.py": "def f(:\n    pass\n",
    "pkg/raises.py": "import atexit\nprint('so far')\natexit.register(lambda: print(__file__, __spec__.name))\n1 / 0\n",
    "empty/__init__.py": "",
}

CASES = {
    "what it sees": x(ABOUT, "x.py one --two -x"),
    "dotted path": Case({"sub/x.py": ABOUT}, "./sub/../sub/x.py"),
    "a link": Case({"sub/x.py": ABOUT, "link.py": "→sub/x.py"}, "link.py"),
    "a link to a link": Case({"sub/x.py": ABOUT, "other/y.py": "→../sub/x.py", "link.py": "→other/y.py"}, "link.py"),
    "no extension": Case({"tool": "#!/usr/bin/env python\n" + dedent(ABOUT)}, "tool"),
    "safe path": x(ABOUT, "-I x.py"),
    "safe path by environment": x(ABOUT, PYTHONSAFEPATH="1"),
    "no site": x(ABOUT, "-S -E x.py"),
    "flags": x(ABOUT, "-u -B -OO -X utf8 -X dev -W ignore x.py"),
    "assertions off": x("assert False\nprint(__debug__, f.__doc__)if 0 else print(__debug__)", "-O x.py"),
    "docstring and annotations": x("'''What it is.'''\na: int = 1\nprint(__doc__, __annotations__)"),
    "no inherited future": x("def f(a: print('evaluated')): pass\nprint(f.__annotations__)"),
    "-m of a package": Case(PACKAGE, "-m pkg one"),
    "-m of a module": Case(PACKAGE, "-m pkg.mod one"),
    "-m, nothing there": Case(PACKAGE, "-m nothing.at.all"),
    "-m, no __main__": Case(PACKAGE, "-m empty"),
    "-m, broken": Case(PACKAGE, "-m pkg.broken"),
    "-m, raises": Case(PACKAGE, "-m pkg.raises"),
    "-m, safe": Case(PACKAGE, "-I -m pkg"),
    "-m, in a folder that is gone": Case({"gone/x": ""}, "-m json.tool --help", {"GONE": "1"}),
    "a folder": Case({"folder/__main__.py": ABOUT, "folder/other.py": ""}, "folder one"),
    "a folder, safe": Case({"folder/__main__.py": ABOUT}, "-I folder one"),
    "a folder without __main__": Case({"folder/other.py": ""}, "folder"),
    "an archive": Case(
        {"x.zip": "", "in zip/__main__.py": "import other\n" + dedent(ABOUT), "in zip/other.py": ""}, "x.zip"
    ),
    "an archive that raises": Case(
        {
            "x.zip": "",
            "in zip/__main__.py": """
            def f():
                raise KeyError(1)
            f()
        """,
        },
        "x.zip",
    ),
    "bytecode": Case({"x.pyc": "compiled"}, "x.pyc one"),
    "bad bytecode": Case({"x.pyc": b"1234567890123456789"}, "x.pyc"),
    "no such file": Case({}, "sub/no'ne.py"),
    "may not be read": Case({"x.py": "→x.py"}, "x.py"),
    "latin-1": x(b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))"),
    "byte order mark": x(b"\xef\xbb\xbfprint(ascii('\xc3\xa9'))"),
    "carriage returns": x(b"print(1)\r\nprint('''a\r\nb''')\r\n1/0\r\n"),
    "tabs and form feed": x(b"\x0cif 1:\n\tprint(1)\n"),
    "empty": x(""),
    "no line end": x("if 1:\n    print(1)"),
    # ---- it does not load
    "syntax error": x(
        """
            print(1)
            def f(:
                pass
        """,
    ),
    "unclosed": x(
        """
            print(1)
            x = (1,

        """,
    ),
    "unterminated": x("x = 'abc\n"),
    "indentation": x("if 1:\nprint(1)\n"),
    "tab error": x(b"if 1:\n\tif 2:\n        pass\n"),
    "invalid character": x("x = 1 – 2\n"),
    "wide characters": x("größe = '日本' +* 1\n"),
    "unknown coding": x("# coding: nonsense\nprint(1)\n"),
    "not utf-8": x(b"# one\nx = '\xe9'\n"),
    "not utf-8, in a comment late": x(b"x = 1\n" * 3000 + b"# \xff\n"),
    "bom and another coding": x(b"\xef\xbb\xbf# coding: latin-1\nx=1\n"),
    "null byte": x(b"x = 1\n\x00\n"),
    "return outside": x("x = 1\nreturn x\n"),
    "global after use": x(
        """
            def f():
                print(y)
                global y
        """,
    ),
    "future too late": x("x = 1\nfrom __future__ import annotations\n"),
    "too deep": x("(" * 300 + ")" * 300),
    "syntax warning": x("print('\\d' is 1)\n"),
    "syntax warning as error": x("print('\\d' is 1)\n", "-W error x.py"),
    "syntax error in a module": Case({"x.py": "import y\n", "y.py": "x = = 1\n"}, "x.py"),
    "eval": x("eval('1 +')\n"),
    # ---- it raises
    "raises": x(
        """
            def f(n):
                return 1 / n
            print('before')
            f(0)
        """,
    ),
    "chained": x(
        """
            try:
                1 / 0
            except ZeroDivisionError as e:
                raise ValueError('b') from e
        """,
    ),
    "in a handler": x(
        """
            try:
                1 / 0
            except ZeroDivisionError:
                {}['x']
        """,
    ),
    "group": x(
        """
            import sys
            if sys.version_info < (3, 11): raise SystemExit('none yet')
            def f():
                try: 1 / 0
                except Exception as e: return e
            raise ExceptionGroup('two', [f(), ValueError(2)])
        """,
    ),
    "with a note": x(
        """
            e = ValueError(1)
            if hasattr(e, 'add_note'): e.add_note('a note')
            raise e
        """,
    ),
    "no such name": x("import sys\nprint(sys.stdotu)\n"),
    "module not found": x("import nothing_like_it\n"),
    "name of a module that is not imported": x("print(asyncio)\n"),
    "not an exception of ours": x(
        """
            class Own(BaseException):
                def __str__(self): return 'own'
            raise Own
        """,
    ),
    "str raises": x(
        """
            class Own(Exception):
                def __str__(self): 1 / 0
            raise Own
        """,
    ),
    "raised twice": x(
        """
            e = ValueError(1)
            def f(): raise e
            try: f()
            except ValueError: pass
            f()
        """,
    ),
    "own hook": x(
        """
            import sys
            sys.excepthook = lambda *a: print('hook', a[0], a[1], a[2].tb_lineno, sys.exc_info())
            1/0
        """,
    ),
    "own hook sees last": x(
        """
            import sys
            def hook(kind, error, traceback):
                print(sys.last_type, sys.last_value is error, sys.last_traceback is traceback, traceback.tb_next)
                print(error.__traceback__ is traceback, getattr(sys, 'last_exc', None))
            sys.excepthook = hook
            1/0
        """,
    ),
    "own hook raises": x(
        """
            import sys
            def hook(*a):
                {}['x']
            sys.excepthook = hook
            print('out')
            1/0
        """,
    ),
    "own hook exits": x(
        """
            import sys
            sys.excepthook = lambda *a: sys.exit(9)
            1/0
        """,
    ),
    "no hook": x(
        """
            import sys
            del sys.excepthook
            1/0
        """,
    ),
    "no stderr": x(
        """
            import sys
            sys.stderr = None
            1/0
        """,
    ),
    "hook and interrupt": x(
        """
            import sys, atexit
            def hook(*a): print('hook', *a[:2])
            sys.excepthook = hook
            def last():
                print(sys.excepthook is hook, sys.last_traceback.tb_lineno, sys.last_traceback.tb_next)
            atexit.register(last)
            raise KeyboardInterrupt
        """,
    ),
    "traceback module": x(
        """
            import traceback, sys
            sys.excepthook = traceback.print_exception
            1/0
        """,
    ),
    "recorded at exit": x(
        """
            import atexit, sys
            atexit.register(lambda: print(repr(sys.last_value), sys.last_traceback.tb_lineno))
            1/0
        """,
    ),
    "stdout before stderr": x(
        """
            import sys
            print('one')
            sys.stderr.write('two')
            print('three', end='')
            1/0
        """,
    ),
    "thread raises": x(
        """
            import threading
            t = threading.Thread(target=lambda: 1/0)
            t.start()
            t.join()
            print('on')
        """,
    ),
    "unraisable": x(
        """
            class X:
                def __del__(self): 1/0
            X()
            x = X()
        """,
    ),
    "asyncio": x(
        """
            import asyncio
            async def f():
                asyncio.get_running_loop().slow_callback_duration = 1000
                await asyncio.sleep(0)
                raise ValueError(1)
            asyncio.run(f())
        """,
        "-X dev x.py",
    ),
    "recursion": x(
        """
            def f(): f()
            try: f()
            except RecursionError as e: print(e)
        """,
    ),
    "warnings are errors": x(
        """
            import warnings
            print(1)
            warnings.warn('old', DeprecationWarning)
        """,
        "-W error x.py",
    ),
    "warning": x(
        """
            import warnings
            def f(): warnings.warn('old', DeprecationWarning, stacklevel=2)
            f()
        """,
    ),
    "dev mode": x(
        """
            import socket
            s = open(__file__)
            del s
            print(1)
        """,
        "-X dev x.py",
    ),
    "dev mode, errors": x("print(1)\n", "-X dev -W error x.py"),
    # ---- it ends
    "exit 7": x(
        """
            import sys
            print('a')
            sys.exit(7)
        """,
    ),
    "exit with words": x(
        """
            import sys
            print('a', end='')
            sys.exit('so much for that')
        """,
    ),
    "exit with a tuple": x("raise SystemExit((1, 2))\n"),
    "exit None": x("raise SystemExit\n"),
    "exit in a handler": x("try: 1/0\nexcept Exception: raise SystemExit(3)\n"),
    "exit, -m": Case({"x.py": "import sys\nsys.exit('words')\n"}, "-m x"),
    "_exit": x(
        """
            import os
            print('lost')
            os._exit(4)
        """,
    ),
    "abort": x("import os\nos.abort()\n"),
    "interrupt": x("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"),
    "interrupt, -m": Case({"x.py": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"}, "-m x"),
    "interrupt, of its own kind": x("class K(KeyboardInterrupt): pass\nraise K\n"),
    "terminated": x("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"),
    "atexit": x(
        """
            import atexit
            atexit.register(print, 'last', __file__)
            print('first')
        """,
    ),
    "names at exit": x(
        """
            import atexit, sys
            atexit.register(lambda: print(sorted(globals()), sys.modules['__main__'].__dict__ is globals()))
        """,
    ),
    "names at exit, -m": Case(
        {
            "x.py": """
            import atexit
            atexit.register(lambda: print(sorted(globals()), __file__))
        """
        },
        "-m x",
    ),
    "__del__ at exit": x(
        """
            class X:
                def __del__(self): print('gone', __name__)
            x = X()
            y = X()
            y.y = y
        """,
    ),
    "thread after main": x(
        """
            import threading, time, pickle, sys
            class P: pass
            start = threading.Event()
            def run():
                threading.main_thread().join()
                print(pickle.loads(pickle.dumps(P())).__class__ is P, sys.modules['__main__'].P is P, __name__)
            threading.Thread(target=run).start()
        """,
    ),
    "thread after an error": x(
        """
            import threading
            threading.Thread(target=lambda: (threading.main_thread().join(), print('waited for'))).start()
            1/0
        """,
    ),
    "daemon thread": x(
        """
            import threading, time
            threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
            print('a')
        """,
    ),
    "flush at exit": x("import sys\nsys.stdout.write('no line end')\n", PYTHONUNBUFFERED=""),
    "closed stdout": x(
        """
            import sys, os
            os.close(1)
            print('x')
        """,
        PYTHONUNBUFFERED="",
    ),
    # ---- what it asks about itself
    "inspect": x(
        """
            import inspect, linecache
            def f():
                return 1
            class C:
                a = 1
            print(inspect.getsource(f), inspect.getsource(C))
            print(inspect.getfile(f), inspect.getmodule(f), linecache.getline(__file__, 2), inspect.stack()[0].lineno)
        """,
    ),
    "dataclasses and typing": x(
        """
            from __future__ import annotations
            import dataclasses, typing
            @dataclasses.dataclass
            class D:
                a: int
            print(D(1), typing.get_type_hints(D))
        """,
    ),
    "importlib.resources": Case(
        {
            "pkg/__init__.py": "",
            "pkg/data.txt": "text",
            "pkg/m.py": """
            import importlib.resources as r
            print(r.files(__package__).joinpath('data.txt').read_text())
        """,
        },
        "-m pkg.m",
    ),
    "runpy inside": Case(
        {
            "x.py": """
            import runpy
            print(runpy.run_path('y.py')['z'], __name__, __file__)
        """,
            "y.py": "z = __name__\n",
        },
        "x.py",
    ),
    "imports itself": x(
        """
            import sys
            print(__name__)
            if __name__ == '__main__':
                import x
                print(x is sys.modules['__main__'])
        """,
    ),
    "shadows the library": Case(
        {
            "x.py": "import array, json, socket\nprint(array.me)\n",
            "array.py": "me = 1\n",
            "json.py": "",
            "socket.py": "",
        },
        "x.py",
    ),
    "main function by import": Case(
        {"x.py": "import y\n", "y.py": "import __main__\nprint(__main__.__file__, __main__.__spec__)\n"}, "x.py"
    ),
    "multiprocessing": x(
        """

            import multiprocessing, sys
            from concurrent.futures import ProcessPoolExecutor
            class P:
                def __init__(self, n): self.n = n
            def double(p):
                return P(p.n * 2)
            if __name__ == "__main__":
                for method in ("fork", "spawn", "forkserver"):
                    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
                        print(method, pool.submit(double, P(21)).result().n)
        """,
    ),
    "multiprocessing, -m": Case(
        {
            "pkg/__init__.py": "",
            "pkg/m.py": """

            import multiprocessing
            def show(q): q.put((__name__, __package__, __spec__ and __spec__.name))
            if __name__ == "__main__":
                for method in ("fork", "spawn", "forkserver"):
                    context = multiprocessing.get_context(method)
                    q = context.Queue()
                    p = context.Process(target=show, args=(q,))
                    p.start()
                    print(method, q.get(), p.join(), p.exitcode)
        """,
        },
        "-m pkg.m",
    ),
    "a child that exits": x(
        """
            import os
            pid = os.fork()
            if not pid:
                raise SystemExit(5)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
    ),
    "subprocess of its words": x(
        """
            import subprocess, sys
            if len(sys.argv) < 2: subprocess.run([*sys.orig_argv, 'again'])
            print(sys.argv[1:])
        """,
    ),
    "audit": x(
        """
            import sys
            sys.addaudithook(lambda e, a: e == 'sys.excepthook' and print(e, a[1:3]))
            1/0
        """,
    ),
    "trace function": x(
        """
            import sys
            events = []
            sys.settrace(lambda f, e, a: events.append((e, f.f_code.co_name)))
            def f(): pass
            f()
            sys.settrace(None)
            print(events)
        """,
    ),
    "forks, warnings are errors": x(
        """
            import os
            for again in range(3):
                pid = os.fork()
                if not pid:
                    os._exit(5)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        "-W error x.py",
    ),
    "forks beside a thread of its own": x(
        """
            import os, threading, time, warnings
            def fork():
                pid = os.fork()
                if not pid:
                    os._exit(5)
                os.waitpid(pid, 0)
            fork()
            ended = threading.Event()
            thread = threading.Thread(target=ended.wait)
            thread.start()
            fork()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fork()
            ended.set()
            thread.join()
        """,
        "-W always x.py",
    ),
}
