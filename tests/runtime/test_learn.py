"""An instance tells what it has imported, and a clean process which modules may be forked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mesh_supervisor.runtime import learn, wire

from .guests import Guest
from .test_warm import THREAD, package, script
from .warm_guests import Warm, subreaper

PAUSE = "\nimport sys\nprint('up', flush=True)\nsys.stdin.read()\n"


@pytest.fixture(autouse=True, scope="module")
def adopts() -> Iterator[None]:
    with subreaper():
        yield


def inventory(text: str, folder: Path, **environ: str) -> dict[str, Any]:
    """Of a cold instance that runs ``text``; what is third-party lies in lib/site-packages of ``folder``."""
    reading, writing = os.pipe()
    program = script(folder, dedent(text) + PAUSE)
    names = {"PYTHONPATH": str(folder / "lib" / "site-packages"), **environ}
    with Guest(program, directory=folder, environ=names, start={"learn": True}, stdin=reading) as guest:
        os.close(reading)
        assert guest.line() == "up"
        guest.tell("inventory")
        whole: dict[str, Any] = {}
        while True:
            packet = guest.hear("modules")
            for key, value in packet.items():
                if isinstance(value, list):
                    whole.setdefault(key, []).extend(value)
                elif isinstance(value, dict):
                    whole.setdefault(key, {}).update(value)
            if not packet["more"]:
                break
        os.close(writing)
        assert guest.wait() == 0
        assert guest.said("cannot") == []
        return whole


def test_what_is_imported_is_told_by_where_it_comes_from(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    for file, text in {
        site / "pack" / "__init__.py": "__version__ = '1.2'\n",
        site / "pack" / "sub.py": "import colorsys",
        site / "pack" / "unused.py": "",
        site / "single.py": "__version__ = (1, 2)",
        site / "spaces" / "inner.py": "",
        site / "shared" / "theirs.py": "",
        site / "_pytest" / "__init__.py": "",
        site / "broken.py": "1 / 0",
        site / "alias.py": "import sys; sys.modules['other_name'] = sys.modules[__name__]",
        tmp_path / "shared" / "mine.py": "",
        tmp_path / "own" / "__init__.py": "",
        tmp_path / "editable" / "edited.py": "",
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    found = inventory(
        """
        import sys
        sys.path.append("editable")
        import pack.sub, single, spaces.inner, shared.theirs, shared.mine, own, edited, _pytest, alias, json
        try:
            import broken
        except ZeroDivisionError:
            pass
        sys.modules["made"] = type(sys)("made")
        """,
        tmp_path,
    )
    assert found["top"] == {"pack": "1.2", "single": None, "spaces": None, "alias": None}
    assert found["modules"] == ["pack", "pack.sub", "single", "spaces", "spaces.inner", "alias"]
    assert {"colorsys", "json", "json.decoder"} <= set(found["standard"])
    assert not {"sys", "os", "_meshsup", "__main__"} & set(found["standard"])
    assert found["left_out"].keys() == {"shared", "_pytest"}
    assert str(site) in found["places"]


def test_a_module_that_wakes_up_when_it_is_looked_at_sleeps_on(tmp_path: Path) -> None:
    package(tmp_path, "lazy", "raise SystemExit('woken')")
    found = inventory(
        """
        import importlib.util, sys
        spec = importlib.util.find_spec("lazy")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sys.modules["lazy"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        class Trap:
            def __getattr__(self, name): raise SystemExit("woken")
        sys.modules["trap"] = Trap()
        """,
        tmp_path,
    )
    assert "trap" not in found["modules"]


LOOKS = """
    import os
    ALL = dict(os.environ), list(os.environ.items()), list(os.environ.values()), os.environ.copy(), {**os.environ}
    ALL = {k.lower(): v for k, v in os.environ.items()}, dict(os.environb), os.environ | {}, list(os.environ)
    GOT = os.environ.get("THEIRS"), os.getenv("THEIRS_GETENV"), "THEIRS_IN" in os.environ, os.environb.get(b"THEIRS_B")
    for name in os.environ:
        if name.startswith("PREFIX_"):
            os.environ[name]
    class Settings:
        inside = os.environ.get("THEIRS_IN_A_CLASS")
    def settings():
        return os.environ.get("THEIRS_WHEN_CALLED")
    def helper(name):
        return os.environ.get(name)
    helper("THEIRS_BY_HELPER")
    os.environ.setdefault("THEIRS_ADDED", "1")
    os.environ["PRESENT"] = "2"
"""


def test_what_imports_ask_of_the_environment_is_told(tmp_path: Path) -> None:
    package(tmp_path, "looks", LOOKS)
    (tmp_path / "mine.py").write_text(
        "import os, looks\nos.environ.get('MINE_AT_IMPORT'), looks.settings(), looks.helper('MINE_BY_THEIR_HELPER')\n"
        "os.environ['MINE_ADDED'] = '1'\n",
        encoding="utf-8",
    )
    program = "import os, mine\nos.environ.get('MINE_IN_THE_PROGRAM')\nos.environ['MINE_ADDED_TOO'] = '1'\n"
    found = inventory(program, tmp_path, PRESENT="1", PREFIX_ONE="1")
    theirs = {name for name in found["names"] if name.startswith(("THEIRS", "MINE", "PRE"))}
    assert theirs == {
        *("THEIRS", "THEIRS_GETENV", "THEIRS_IN", "THEIRS_B", "THEIRS_IN_A_CLASS", "THEIRS_BY_HELPER", "THEIRS_ADDED"),
        "PREFIX_ONE",
    }
    assert "PATH" not in found["names"]
    assert found["added"] == ["THEIRS_ADDED"]


def test_afterwards_the_environment_is_pythons_own(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    text = """
        import os, sys, traceback
        print(os._Environ.__getitem__.__module__, flush=True)
        sys.stdin.readline()
        print(os._Environ.__getitem__.__module__, os._Environ.__iter__.__module__, os._Environ.__setitem__.__module__)
        try:
            os.environ["NO_SUCH"]
        except KeyError as error:
            print(len(traceback.extract_tb(error.__traceback__)), "_meshsup" in traceback.format_exc())
    """
    with Guest(script(tmp_path, text), directory=tmp_path, start={"learn": True}, stdin=reading) as guest:
        assert guest.line().startswith("_meshsup.")
        guest.tell("inventory")
        guest.hear("modules")
        os.write(writing, b"\n")
        assert guest.line() == "os os os"
        assert guest.line() == "2 False"
    os.close(reading)
    os.close(writing)


def test_env_files_that_imports_load_are_told(tmp_path: Path) -> None:
    pytest.importorskip("dotenv")
    package(tmp_path, "loads", "import dotenv, os\ndotenv.load_dotenv(os.path.join(os.getcwd(), 'theirs.env'))\n")
    for name in ("theirs", "mine"):
        (tmp_path / f"{name}.env").write_text(f"{name.upper()}=1\n", encoding="utf-8")
    found = inventory("import loads, dotenv\ndotenv.load_dotenv('mine.env')\n", tmp_path)
    assert found["dotenv"] == [str(tmp_path / "theirs.env")]
    assert "THEIRS" in found["added"]
    assert "MINE" not in found["added"]


def test_asked_twice_it_tells_what_came_meanwhile(tmp_path: Path) -> None:
    site = package(tmp_path, "late", "")
    reading, writing = os.pipe()
    program = script(
        tmp_path, "import sys\nsys.stdin.readline()\nimport late\nprint('late', flush=True)\nsys.stdin.read()"
    )
    with Guest(program, directory=tmp_path, environ=site, start={"learn": True}, stdin=reading) as guest:
        guest.tell("inventory")
        assert guest.hear("modules")["modules"] == []
        os.write(writing, b"\n")
        assert guest.line() == "late"
        guest.tell("inventory")
        assert guest.hear("modules")["modules"] == ["late"]
    os.close(reading)
    os.close(writing)


def test_packets_are_small_enough_and_together_the_whole() -> None:
    whole = {
        "top": {f"größe{i}": None if i % 2 else "1" * 40 for i in range(5000)},
        "modules": [f"a.long.name.of.a.module.{i}" for i in range(10_000)],
        "names": [],
        "left_out": {"x": "\0" * 200},
    }
    packets = learn.parts(whole)
    joined: dict[str, Any] = {}
    for packet in packets:
        assert len(wire.pack("modules", packet)) <= wire.LARGEST
        for key, value in packet.items():
            if isinstance(value, dict):
                joined.setdefault(key, {}).update(value)
            elif isinstance(value, list):
                joined.setdefault(key, []).extend(value)
    assert joined == whole
    assert [packet["more"] for packet in packets] == [True] * (len(packets) - 1) + [False]
    assert learn.parts({"top": {}}) == [{"top": {}, "more": False}]


# ---- verdicts ----------------------------------------------------------------------------------------------------


MODULES = {
    "clean": ("__version__ = '1'", "fork", ""),
    "threads": (THREAD, "spare", "2 threads"),
    "opens": ("kept = open(__file__)", "spare", "opens.py open"),
    "handles": ("import signal\nsignal.signal(signal.SIGUSR1, print)", "spare", "signals"),
    "starts": ("import subprocess\nkept = subprocess.Popen(['sleep', '9999'])", "spare", "process"),
    "polars": ("", "spare", "polars"),
    "user": ("import polars, clean", "spare", "polars"),
    "exits": ("import os\nos._exit(0)", "skip", "ends the process"),
    "crashes": ("import os\nos.abort()", "skip", "ends the process"),
    "leaves": ("raise SystemExit", "skip", "cannot be imported"),
    "raises": ("1 / 0", "skip", "ZeroDivisionError"),
    "missing": (None, "skip", "ModuleNotFoundError"),
    "plugged": ("import sys\nsys.path.append(sys.argv[0] or 'PROJECT')\nimport project", "skip", "project"),
    "prints": ("print('x' * 100_000)", "fork", ""),
    "late": ("import clean, prints", "fork", ""),
}


def test_each_is_judged_in_a_clean_process(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("", encoding="utf-8")
    environ: dict[str, str] = {}
    for name, (text, _, _) in MODULES.items():
        if text is not None:
            environ = package(tmp_path, name, text.replace("PROJECT", str(tmp_path)))
    with Warm(environ=environ) as warm:
        warm.hear("warmed")
        warm.tell("judge", modules=list(MODULES))
        for number, (name, (_, expected, why)) in enumerate(MODULES.items(), 1):
            packet = warm.hear("judged")
            assert packet["more"] is (number < len(MODULES))
            verdict = packet["verdicts"][name]
            assert verdict["verdict"] == expected, verdict
            assert (why in verdict["why"]) if why else verdict["why"] == ""
            if name == "user":
                assert verdict["loads"] == ["polars"]  # clean is there already
        assert os.getpriority(os.PRIO_PROCESS, warm.pid) == 19
        assert os.sched_getscheduler(warm.pid) == os.SCHED_IDLE
        assert Path(f"/proc/{warm.pid}/task/{warm.pid}/children").read_text() == ""


def test_nothing_to_judge_is_an_answer_too() -> None:
    with Warm() as warm:
        warm.tell("judge", modules=[])
        assert warm.hear("judged") == {"is": "judged", "verdicts": {}, "more": False}
