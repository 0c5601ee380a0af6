"""A command line, and the one that runs the same under debugpy."""

from __future__ import annotations

import pytest

from mesh_supervisor.debugging import attaching, installing, python_words, with_debugger
from mesh_supervisor.target import Target

DEBUGPY = "-X frozen_modules=off -m debugpy --listen 127.0.0.1:5678"


@pytest.mark.parametrize(
    ("plain", "debugged"),
    [
        ("python x.py", f"python {DEBUGPY} x.py"),
        ("python x.py --fast -m", f"python {DEBUGPY} x.py --fast -m"),
        ("/v/bin/python3 -u -W error x.py", f"/v/bin/python3 -u -W error {DEBUGPY} x.py"),
        ("python -X dev -I x.py", f"python -X dev -I {DEBUGPY} x.py"),
        ("python -m app --port 1", f"python {DEBUGPY} -m app --port 1"),
        ("python -mapp", f"python {DEBUGPY} -m app"),
        ("python -c pass", f"python {DEBUGPY} -c pass"),
        ("python3.12 -O -m uvicorn app:app", f"python3.12 -O {DEBUGPY} -m uvicorn app:app"),
    ],
)
def test_debugpy_stands_between_python_and_the_program(plain: str, debugged: str) -> None:
    found = with_debugger(plain.split(), 5678, wait=False)
    assert found is not None and " ".join(found) == debugged


@pytest.mark.parametrize("words", ["python", "python -", "python -i", "python -X dev", "python -W"])
def test_without_a_program_there_is_nothing_to_debug(words: str) -> None:
    assert with_debugger(words.split(), 5678, wait=False) is None


def test_waiting_for_the_client() -> None:
    found = with_debugger(["python", "x.py"], 6000, wait=True)
    assert found is not None and found[-4:] == ("--listen", "127.0.0.1:6000", "--wait-for-client", "x.py")
    assert "and it starts" in attaching(6000, wait=True) and "127.0.0.1:6000" in attaching(6000, wait=True)


def test_a_console_script_is_a_file_for_its_python() -> None:
    words = ("uv", "run", "planner", "--fast")
    target = Target("/v/bin/python", ("-u",), "script", "/v/bin/planner", ("--fast",), words)
    assert python_words(target) == ("/v/bin/python", "-u", "/v/bin/planner", "--fast")
    module = Target("/v/bin/python", (), "module", "app", (), words)
    assert python_words(module) == ("/v/bin/python", "-m", "app")


def test_installing_with_what_is_there() -> None:
    assert installing("/v/bin/python", has_pip=True, has_uv=True) == "/v/bin/python -m pip install debugpy"
    assert installing("/v/bin/python", has_pip=False, has_uv=True) == "uv pip install --python /v/bin/python debugpy"
    assert "pip install" in installing("/v/bin/python", has_pip=False, has_uv=False)
