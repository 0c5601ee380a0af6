"""What a program really reads and writes, told by the runtime in real programs."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mesh_supervisor import traced
from tests.runtime.guests import Guest


class Project:
    """A folder with a program in it. ``run`` returns what its runtime said, by relative path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    def guest(self, code: str, *args: str, options: Mapping[str, Any] | None = None, **more: Any) -> Guest:
        self.write("program.py", code)
        start = {"trace": {"roots": [str(self.root)], "never": [], **(options or {})}}
        return Guest(["script", "program.py", *args], start=start, directory=self.root, **more)

    def run(self, code: str, *args: str, options: Mapping[str, Any] | None = None, **more: Any) -> Said:
        with self.guest(code, *args, options=options, **more) as guest:
            packets = guest.hear_all()
            _, err = guest.out()
            assert guest.wait() == 0, err
            return Said(self.root, packets)


class Said:
    """What was told. ``reads``: every record; paths relative to the project."""

    def __init__(self, root: Path, packets: Sequence[Mapping[str, Any]]) -> None:
        self.packets = packets
        self._root = root
        self.reads = [record for packet in packets if packet["is"] == "reads" for record in packet["files"]]
        self.writes = [self._short(path) for packet in packets if packet["is"] == "writes" for path in packet["files"]]

    def _short(self, path: str | None) -> str | None:
        return path.removeprefix(f"{self._root}/") if path is not None else None

    def told(self, how: str) -> dict[str, str | None]:
        """path → the nearest file of the project on the stack."""
        found: dict[str, str | None] = {}
        for path, kind, *rest in self.reads:
            if kind == how:
                found.setdefault(str(self._short(path)), self._short(rest[0]) if rest else None)
        return found

    @property
    def modules(self) -> dict[str, str | None]:
        return self.told("module")

    @property
    def data(self) -> dict[str, str | None]:
        return self.told("data")

    def records(self, name: str) -> list[list[Any]]:
        return [record for record in self.reads if self._short(record[0]) == name]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path.resolve())


# ---- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["first", "cached", "prefix", "no bytecode"])
def test_a_module_is_told_by_its_source_whatever_was_cached(project: Project, how: str) -> None:
    project.write("pkg/__init__.py")
    project.write("pkg/part.py", "x = 1")
    environ = {"prefix": {"PYTHONPYCACHEPREFIX": str(project.root.parent / "cache")}}.get(how, {})
    flags = ["-B"] if how == "no bytecode" else []
    for _ in range(1 if how == "first" else 2):
        said = project.run("import pkg.part", environ=environ, flags=flags)
    expected = {"program.py": None, "pkg/__init__.py": "program.py", "pkg/part.py": "program.py"}
    assert said.modules == expected
    assert said.data == {}
    assert said.writes == []


def test_a_data_file_is_told_with_the_file_that_asked_for_it(project: Project) -> None:
    project.write("prompts/system.md", "You are")
    project.write("loader.py", "def load(path): return open(path).read()")
    said = project.run("import loader; loader.load('prompts/system.md')")
    assert said.data == {"prompts/system.md": "loader.py"}


def test_a_module_without_source_is_its_own(project: Project) -> None:
    source = project.write("compiled.py", "x = 1")
    py_compile.compile(str(source), cfile=str(project.root / "compiled.pyc"))
    source.unlink()
    assert project.run("import compiled").modules["compiled.pyc"] == "program.py"


def test_a_module_that_is_imported_late_is_told_then(project: Project) -> None:
    project.write("late/part.py")
    code = """
        import importlib, sys
        print("begun", flush=True)
        sys.stdin.readline()
        importlib.import_module("late.part")
        print("imported", flush=True)
        sys.stdin.readline()
    """
    with project.guest(code, stdin=subprocess.PIPE) as guest:
        assert guest.process.stdin is not None
        assert guest.line() == "begun"
        begun = time.monotonic()
        guest.process.stdin.write("\n")
        guest.process.stdin.flush()
        assert guest.line() == "imported"
        while True:  # the process goes on: nothing more of it will make it speak
            (record,) = guest.hear("reads")["files"]
            if record[0].endswith("late/part.py"):
                break
        _, how, via, _, at = record
        assert (how, via) == ("module", str(project.root / "program.py"))
        assert begun < at < time.monotonic()


def test_a_library_in_a_project_is_told_and_what_is_installed_is_not(project: Project) -> None:
    installed = project.root / "env/lib/site-packages"
    project.write("env/lib/site-packages/third.py", "import pathlib; pathlib.Path(__file__).with_name('d.txt').open()")
    project.write("env/lib/site-packages/d.txt")
    code = f"import sys; sys.path.append({str(installed)!r}); import third"
    said = project.run(code)
    assert said.modules == {"program.py": None}
    assert said.data == {}


# ---- data files ------------------------------------------------------------------------------------------------------

READERS = {
    "open": "open('data/x.json').read()",
    "absolute": "import os; open(os.path.abspath('data/x.json')).read()",
    "with dots": "open('data/../data/x.json').read()",
    "bytes": "open(b'data/x.json').read()",
    "pathlib": "import pathlib; pathlib.Path('data/x.json').read_text()",
    "os.open": "import os; os.read(os.open('data/x.json', os.O_RDONLY), 9)",
    "json": "import json; json.load(open('data/x.json'))",
    "codecs": "import codecs; codecs.open('data/x.json').read()",
    "fileinput": "import fileinput; list(fileinput.input('data/x.json'))",
    "configparser": "import configparser; configparser.ConfigParser(strict=False).read('data/x.json')",
    "mmap": "import mmap; f = open('data/x.json', 'rb'); mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)",
    "memory-mapped as numpy.load does": "f = open('data/x.json', 'rb'); f.read(6); f.seek(0); f.read()",
    "resources": "import importlib.resources as r; r.files('data').joinpath('x.json').read_text()",
    "get_data": "import pkgutil; pkgutil.get_data('data', 'x.json')",
    "yaml": "import yaml; yaml.safe_load(open('data/x.json'))",
    "zipfile": "import zipfile; zipfile.is_zipfile('data/x.json')",
    "copied": "import shutil; shutil.copyfile('data/x.json', '/dev/null')",
    "in a thread": "import threading; t = threading.Thread(target=lambda: open('data/x.json')); t.start(); t.join()",
    "in an event loop": "import asyncio\nasync def main(): return open('data/x.json').read()\nasyncio.run(main())",
    "after chdir": "import os; os.chdir('data'); open('x.json').read()",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", READERS.values(), ids=READERS.keys())
def test_whatever_reads_a_data_file_it_is_told(project: Project, code: str) -> None:
    project.write("data/__init__.py")
    project.write("data/x.json", "[1]\n" if "configparser" not in code else "[x]\n")
    said = project.run(code)
    assert said.data == {"data/x.json": "program.py"}
    assert said.writes == []


@pytest.mark.parametrize("reader", ["toml", "dotenv"])
def test_settings_are_told(project: Project, reader: str) -> None:
    project.write("settings.toml", "x = 1")
    project.write(".env", "A=1")
    code = {
        "toml": "import tomllib; tomllib.load(open('settings.toml', 'rb'))",
        "dotenv": "import dotenv; dotenv.load_dotenv('.env')",
    }[reader]
    assert project.run(code).data == {"settings.toml" if reader == "toml" else ".env": "program.py"}


def test_what_is_not_there_is_told_as_such(project: Project) -> None:
    said = project.run("""
        for name in ("a.yaml", "none/b.yaml"):
            try:
                open(name)
            except FileNotFoundError:
                pass
    """)
    assert [said.records(name)[0][3] for name in ("a.yaml", "none/b.yaml")] == [None, None]


def test_the_stamp_is_that_of_the_moment(project: Project) -> None:
    status = project.write("x.md", "1").stat()
    (record,) = project.run("open('x.md')").records("x.md")
    assert record[3] == [max(status.st_mtime_ns, status.st_ctime_ns), status.st_size, status.st_ino]


def test_the_source_shown_in_a_traceback_is_no_data(project: Project) -> None:
    project.write("other.py", "def fail(): 1/0")
    said = project.run("""
        import inspect, linecache, other, tokenize, traceback
        try:
            other.fail()
        except ZeroDivisionError:
            traceback.format_exc()
        inspect.getsource(other)
        linecache.getline("other.py", 1)
        list(tokenize.generate_tokens(tokenize.open("other.py").readline))
    """)
    assert said.data == {}


def test_folders_devices_and_pipes_are_no_data(project: Project) -> None:
    os.mkfifo(project.root / "pipe")
    said = project.run("""
        import os
        os.close(os.open("pipe", os.O_RDONLY | os.O_NONBLOCK))
        os.close(os.open(".", os.O_RDONLY))
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY))
        os.close(os.open("hostname", os.O_RDONLY, dir_fd=os.open("/etc", os.O_RDONLY)))
        try:
            open(".")
        except IsADirectoryError:
            pass
        open(os.dup(0)).close()
        open("/dev/null").close()
    """)
    assert said.data == {}


def test_only_what_is_below_the_roots_and_not_in_what_never_counts(project: Project) -> None:
    for name in (".mesh/x.md", ".git/HEAD", "pkg.egg-info/PKG-INFO", "in/x.md", "instead/x.md"):
        project.write(name)
    outside = project.root.parent / "outside.md"
    outside.write_text("")
    code = f"[open(n).close() for n in {['.mesh/x.md', '.git/HEAD', 'pkg.egg-info/PKG-INFO', str(outside)]!r}]\n"
    code += "open('in/x.md'); open('instead/x.md')"
    said = project.run(code, options={"never": [str(project.root / ".mesh"), str(project.root / "in")]})
    assert set(said.data) == {"instead/x.md"}


def test_trace_imports_tells_of_modules_and_writes_only(project: Project) -> None:
    project.write("x.md")
    project.write("part.py")
    code = "import os, part; open('x.md'); os.listdir('.'); open('y.md', 'w')"
    said = project.run(code, options={"data": False})
    assert [record[1] for record in said.reads] == ["module", "module"]
    assert said.writes == ["y.md"]


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_of_a_folder_with_too_many_only_that_is_told(project: Project) -> None:
    project.write("few/x.txt")
    said = project.run("""
        import os
        os.mkdir("many")
        for number in range(1000):
            os.close(os.open(f"/proc/self/cwd/many/{number}", os.O_CREAT))
        for number in range(1000):
            open(f"many/{number}").close()
        open("few/x.txt")
    """)
    told = [record for record in said.reads if record[1] == "data" and "/many/" in record[0]]
    assert len(told) == 200
    assert said.records("many") == [[str(project.root / "many"), "dropped"]]
    assert "few/x.txt" in said.data


def test_a_program_that_opens_100_000_files_says_little_and_keeps_little(project: Project) -> None:
    said = project.run("""
        import os, resource
        for folder in range(100):
            os.mkdir(f"{folder}")
            for number in range(20):
                os.close(os.open(f"/proc/self/cwd/{folder}/{number}", os.O_CREAT))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for turn in range(50):
            for folder in range(100):
                for number in range(20):
                    open(f"{folder}/{number}").close()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 16_000, f"{grown} KiB"
    """)
    assert len(said.data) <= 1000
    assert len(said.reads) < 12_000
    assert said.told("dropped")


def test_a_supervisor_that_does_not_read_slows_nobody_down(project: Project) -> None:
    """More than fits into the socket: it is told when there is room again, all of it."""
    code = """
        import os
        for folder in range(5):
            os.mkdir(f"{folder}")
            for number in range(190):
                open(f"/proc/self/cwd/{folder}/{number}", "w").close()
                open(f"{folder}/{number}").close()
        print("done", flush=True)
        import sys
        sys.stdin.readline()
    """
    with project.guest(code, stdin=subprocess.PIPE) as guest:
        assert guest.line() == "done"  # and only now somebody reads
        told: set[str] = set()
        while len(told) < 951:
            told |= {record[0] for record in guest.hear("reads")["files"]}


# ---- again and again -------------------------------------------------------------------------------------------------


UNHURRIED = "import sys; sys.modules['_meshsup.trace'].APART = 1000.0\n"
"""On a busy machine two opens of one request may be far apart."""


def occasions(said: Said, name: str) -> int:
    return sum(int(record[5]) for record in said.records(name))


def test_a_loop_is_one_occasion(project: Project) -> None:
    project.write("x.md")
    project.write("y.md")
    said = project.run(UNHURRIED + "for _ in range(50): open('x.md').close(); open('y.md').close()")
    assert occasions(said, "x.md") == occasions(said, "y.md") == 1


@pytest.mark.parametrize("how", ["task", "thread", "thread of a pool", "time"])
def test_each_request_is_an_occasion_of_its_own(project: Project, how: str) -> None:
    """Requests are tasks, threads, or run in a thread of a pool in a copy of their task's context."""
    project.write("x.md")
    runs = {
        "task": """
            async def main():
                for _ in range(3):
                    await asyncio.create_task(handle())
            asyncio.run(main())
        """,
        "thread": """
            for _ in range(3):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        """,
        "thread of a pool": """
            async def main():
                for _ in range(3):
                    await asyncio.create_task(pooled())
            asyncio.run(main())
        """,
        "time": """
            for _ in range(3):
                work(apart=0.2)
                time.sleep(0.25)
        """,
    }
    code = """
        import asyncio, sys, threading, time
        trace = sys.modules["_meshsup.trace"]
        def work(apart=1000.0):
            for _ in range(5):
                trace.APART = apart
                open("x.md").close()
                apart = 1000.0
        async def handle():
            work()
            await asyncio.sleep(0)
            work()
        async def pooled():
            await asyncio.to_thread(work)
    """
    said = project.run(dedent(code) + dedent(runs[how]))
    assert occasions(said, "x.md") == 3


def test_places_are_told_apart_by_who_asks_not_by_line(project: Project) -> None:
    project.write("x.md")
    code = """
        import time
        def load():
            return open("x.md").read()
        def one():
            load()
            time.sleep(0.25)
            load()
        TEXT = load()
        one()
    """
    places = {record[4] for record in project.run(code).records("x.md")}
    assert len(places) == 2
    moved = {record[4] for record in project.run("# one line more\n" + dedent(code)).records("x.md")}
    assert moved == places


def test_what_goes_on_is_told_ever_more_seldom(project: Project) -> None:
    project.write("x.md")
    said = project.run("""
        import threading
        def work():
            open("x.md").close()
        for _ in range(2000):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    """)
    assert 4 <= len(said.records("x.md")) < 20


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.listdir('rules')",
        "import os; list(os.scandir('rules'))",
        "import os; list(os.walk('rules'))",
        "import glob; glob.glob('rules/*.json')",
        "import pathlib; list(pathlib.Path('rules').iterdir())",
        "import pathlib; list(pathlib.Path('rules').glob('*.json'))",
        "import os; os.chdir('rules'); os.listdir()",
    ],
)
def test_a_folder_that_is_listed_is_told(project: Project, code: str) -> None:
    project.write("rules/one.json")
    assert project.run(code).told("list") == {"rules": "program.py"}


def test_what_the_import_system_lists_is_not_told(project: Project) -> None:
    project.write("pkg/__init__.py")
    project.write("pkg/part.py")
    code = "import pkg.part, importlib.metadata; list(importlib.metadata.distributions())"
    assert project.run(code).told("list") == {}


# ---- writes ----------------------------------------------------------------------------------------------------------

WRITERS = {
    "open w": ("open('x', 'w')", ["x"]),
    "open a": ("open('x', 'a')", ["x"]),
    "open x": ("open('y', 'x')", ["y"]),
    "open r+": ("open('x', 'r+')", ["x"]),
    "os.open": ("import os; os.open('x', os.O_RDWR)", ["x"]),
    "created": ("import os; os.open('y', os.O_CREAT)", ["y"]),
    "write_text": ("import pathlib; pathlib.Path('x').write_text('1')", ["x"]),
    "rename": ("import os; os.rename('x', 'y')", ["x", "y"]),
    "replace": ("import pathlib; pathlib.Path('x').replace('y')", ["x", "y"]),
    "remove": ("import os; os.remove('x')", ["x"]),
    "truncate": ("import os; os.truncate('x', 0)", ["x"]),
    "link": ("import os; os.link('x', 'y')", ["y"]),
    "symlink": ("import os; os.symlink('x', 'y')", ["y"]),
    "copy": ("import shutil; shutil.copy('x', 'y')", ["y"]),
    "move": ("import shutil; shutil.move('x', 'y')", ["x", "y"]),
    "sqlite": ("import sqlite3; sqlite3.connect('y.db')", ["y.db"]),
    "sqlite by URI": ("import sqlite3; sqlite3.connect('file:y.db?mode=rwc', uri=True)", ["y.db"]),
    "sqlite in memory": ("import sqlite3; sqlite3.connect(':memory:')", []),
    "logging": ("import logging; logging.basicConfig(filename='y.log'); logging.warning('x')", ["y.log"]),
    "rotating": (
        "import logging.handlers as h; r = h.RotatingFileHandler('y.log', maxBytes=1, backupCount=1); r.doRollover()",
        ["y.log", "y.log.1"],
    ),
    "a file without a name": ("import tempfile; tempfile.TemporaryFile(dir='.')", []),
    "bytecode": ("import part", []),
}


@pytest.mark.parametrize(("code", "written"), WRITERS.values(), ids=WRITERS.keys())
def test_what_is_written_is_told_before_it_is_there(project: Project, code: str, written: list[str]) -> None:
    project.write("x", "1")
    project.write("part.py")
    said = project.run(code)
    assert sorted(map(str, said.writes)) == written


def test_a_file_that_was_imported_and_is_written_is_told(project: Project) -> None:
    project.write("part.py")
    assert project.run("import os, part; open(os.path.abspath('part.py'), 'a')").writes == ["part.py"]


def test_many_files_written_in_one_folder_are_told_as_the_folder(project: Project) -> None:
    said = project.run("""
        import os
        os.mkdir("out")
        for number in range(500):
            open(f"out/{number}", "w").close()
    """)
    assert len(said.writes) == 201
    assert said.writes[-1] == "out/*"


def test_files_written_in_very_many_folders_are_told_as_what_is_around_them(project: Project) -> None:
    said = project.run("""
        import os
        for number in range(1500):
            os.makedirs(f"out/{number}")
            open(f"out/{number}/x", "w").close()
    """)
    assert said.writes[-1] == "out"
    assert len(said.writes) == 1001


# ---- the program suffers nothing -------------------------------------------------------------------------------------


def test_errors_are_the_programs_own_and_show_nothing_of_ours(project: Project) -> None:
    with project.guest("open('nowhere.md')") as guest:
        _, err = guest.out()
        assert guest.wait() == 1
        lines = err.splitlines()
        assert lines[-1] == "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.md'"
        assert sum(line.startswith("  File ") for line in lines) == 1


@pytest.mark.parametrize(
    "odd", ["'a\\0b'", "-1", "10**9", "b'\\xff\\xfe'", "'\\udcff'", "'x' * 5000", "''", "object()"]
)
def test_whatever_is_opened_behaves_as_without_us(project: Project, odd: str) -> None:
    code = f"""
        def attempt():
            try:
                open({odd})
            except Exception as error:
                return type(error).__name__
        print(attempt())
    """
    project.write("program.py", code)
    alone = subprocess.run([sys.executable, "program.py"], cwd=project.root, capture_output=True, text=True, check=True)
    with project.guest(code) as guest:
        assert guest.out() == (alone.stdout, "")


def test_a_folder_that_is_gone_is_no_error_of_ours(project: Project) -> None:
    code = "import os; os.mkdir('d'); os.chdir('d'); os.rmdir('../d')\ntry: open('x')\nexcept FileNotFoundError: pass"
    assert project.run(code).data == {}


def test_destructors_and_signal_handlers_may_open_files(project: Project) -> None:
    project.write("x.md")
    said = project.run("""
        import gc, signal
        gc.set_threshold(5)
        count = 0
        class Opens:
            def __init__(self): self.me = self
            def __del__(self): open("x.md").close()
        def handler(*_):
            global count
            count += 1
            open(f"/proc/self/cwd/x.md").close()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while count < 200:
            Opens()
            open("x.md").close()
        signal.setitimer(signal.ITIMER_REAL, 0)
    """)
    assert "x.md" in said.data


def test_children_of_the_program_say_nothing_and_work(project: Project) -> None:
    project.write("x.md")
    project.write("y.md")
    said = project.run("""
        import multiprocessing, os
        def work(name):
            with open(name) as file:
                return file.read()
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    assert pool.map(work, ["x.md"]) == [""]
            open("y.md")
    """)
    assert "y.md" in said.data


# ---- frameworks ------------------------------------------------------------------------------------------------------

WEB = """
    import contextlib, functools, pathlib
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, PlainTextResponse
    from fastapi.staticfiles import StaticFiles
    from fastapi.templating import Jinja2Templates

    HERE = pathlib.Path(__file__).parent
    pages = Jinja2Templates(HERE / "pages")

    @functools.cache
    def prompt():
        return (HERE / "prompt.md").read_text()

    @contextlib.asynccontextmanager
    async def life(app):
        (HERE / "start.toml").read_text()
        yield

    app = FastAPI(lifespan=life)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    @app.get("/data")
    def data():
        return (HERE / "data.csv").read_text()

    @app.get("/data-async")
    async def data_async():
        return (HERE / "data.csv").read_text()

    @app.get("/cached")
    def cached():
        return prompt()

    @app.get("/page")
    def page(request: Request):
        return pages.TemplateResponse(request, "page.html")

    @app.get("/file")
    def file():
        return FileResponse(HERE / "data.csv")

    class Said(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    Said(uvicorn.Config(app, port=0, log_level="error")).run()
"""


def test_a_web_agent(project: Project) -> None:
    """What is read at start, once for good, and at each request."""
    for name in ("start.toml", "data.csv", "prompt.md", "static/x.js"):
        project.write(name, "text")
    project.write("pages/page.html", "{% include 'part.html' %}")
    project.write("pages/part.html", "part")
    with project.guest(WEB) as guest:
        url = f"http://127.0.0.1:{guest.line()}"
        ready_at = time.monotonic()
        for path in ("/data", "/data-async", "/cached", "/page", "/file", "/static/x.js"):
            for _ in range(3):
                assert urllib.request.urlopen(url + path).status == 200
        guest.signal(signal.SIGTERM)
        said = Said(project.root, guest.hear_all())
    records = [record for record in traced.records_of(said.reads) if record.how != "module"]
    known = traced.heard(traced.Traced(), 1, records, ready_at)
    verdicts = traced.verdicts(known, lambda path: None)
    names = {str(path.relative_to(project.root)): via for path, via in verdicts.read.items()}
    assert set(names) == {"start.toml", "prompt.md", "pages/page.html", "pages/part.html"}
    part = names.pop("pages/part.html")
    assert part == project.root / "pages/page.html", "templates stand on the stack like code"
    assert set(names.values()) == {project.root / "program.py"}
    asides = {str(path.relative_to(project.root)): why for path, why in verdicts.asides.items()}
    assert asides == dict.fromkeys(["data.csv", "static/x.js"], traced.AT_EACH_REQUEST)


def test_on_each_version_of_python(project: Project, python: str) -> None:
    project.write("pkg/__init__.py")
    project.write("pkg/x.md")
    code = """
        import pathlib, glob, importlib.resources as r
        import pkg
        r.files("pkg").joinpath("x.md").read_text()
        glob.glob("pkg/*.md")
        list(pathlib.Path("pkg").iterdir())
        pathlib.Path("out").write_text("")
    """
    said = project.run(code, python=python)
    assert said.modules == {"program.py": None, "pkg/__init__.py": "program.py"}
    assert (said.data, said.told("list"), said.writes) == (
        {"pkg/x.md": "program.py"},
        {"pkg": "program.py"},
        ["out"],
    )
