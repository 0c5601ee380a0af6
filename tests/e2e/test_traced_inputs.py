"""What an agent really reads becomes its input, and nobody else's; what it reads as its work does not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.agents import fastapi, stdlib
from tests.e2e.harness import Mesh, fresh_mesh, wait_for

READER = """
import importlib
import json
import jinja2
import yaml

PROMPT = pathlib.Path("prompts/plan.md").read_text()
SETTINGS = yaml.safe_load(open("settings/model.yaml"))
PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader("pages"))
EXTRA = [json.loads(file.read_text()) for file in sorted(pathlib.Path("rules").glob("*.json"))]
"""

ROUTES = """
@app.get("/lazy", response_class=PlainTextResponse)
async def lazy():
    return importlib.import_module(".".join(["skills", "summing"])).WORD

@app.get("/page", response_class=PlainTextResponse)
async def page():
    return PAGES.get_template("answer.txt").render(name="Ada")

@app.get("/data", response_class=PlainTextResponse)
async def data():
    return pathlib.Path("data/ledger.csv").read_text()
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    """``planner`` reads all of it in its own ways, ``other`` and ``canary`` nothing."""
    pytest.importorskip("yaml")
    pytest.importorskip("jinja2")
    with fresh_mesh() as mesh:
        mesh.write("prompts/plan.md", "plan\n")
        mesh.write("settings/model.yaml", "model: small\n")
        mesh.write("pages/answer.txt", "Hello {{ name }}")
        mesh.write("rules/one.json", "1")
        mesh.write("data/ledger.csv", "a,b\n")
        mesh.write("skills/__init__.py", "")
        mesh.write("skills/summing.py", "WORD = 'sum'\n")
        mesh.write("planner.py", fastapi("planner", READER, routes=ROUTES))
        mesh.write("other.py", stdlib("other"))
        mesh.write("canary.py", stdlib("canary"))
        mesh.config("".join(mesh.table(name) for name in ("planner", "other", "canary")))
        mesh.up()
        yield mesh


def settle(mesh: Mesh) -> None:
    """Two edits of the canary, seen through: what was saved before has had its effect."""
    for _ in range(2):
        generation = mesh.wait_ready()["canary"].generation
        mesh.write("canary.py", stdlib("canary", f"EDITED_IN = {generation}"))
        mesh.wait_generation("canary", generation)


def chain(mesh: Mesh, path: str) -> dict[str, str]:
    """{agent: why a change of the file would reload it}"""
    answer = json.loads(mesh.run("why", "--json", path).out)
    agents: dict[str, str] = answer["files"][0]["agents"]
    return agents


@pytest.mark.parametrize(
    "path", ["prompts/plan.md", "settings/model.yaml", "rules/one.json"], ids=["prompt", "YAML", "globbed JSON"]
)
def test_what_is_read_at_start_is_an_input_of_that_agent_only(running: Mesh, path: str) -> None:
    wait_for(lambda: chain(running, path))
    assert list(chain(running, path)) == ["planner"]
    file, more = running.root / path, "7" if path.endswith("json") else "# edited\n"
    with running.only_restarts("planner"):
        running.write(path, file.read_text() + more)
    settle(running)
    with running.only_restarts("planner"):  # the next generation has read it too
        running.write(path, file.read_text() + more)


def test_a_new_file_in_a_folder_that_was_listed_is_an_edit(running: Mesh) -> None:
    running.wait_ready()
    with running.only_restarts("planner"):
        running.write("rules/two.json", "2")


def test_a_lazily_imported_module_becomes_an_input(running: Mesh) -> None:
    """Its name is put together, so that it cannot be known before it is imported."""
    assert chain(running, "skills/summing.py") == {}
    assert running.answer("planner", "/lazy") == "sum"
    wait_for(lambda: chain(running, "skills/summing.py"))
    with running.only_restarts("planner"):
        running.write("skills/summing.py", "WORD = 'sum two'\n")
    assert running.answer("planner", "/lazy") == "sum two"


def test_a_template_that_a_loader_reads_becomes_an_input(running: Mesh) -> None:
    assert running.answer("planner", "/page") == "Hello Ada"
    wait_for(lambda: chain(running, "pages/answer.txt"))
    with running.only_restarts("planner"):
        running.write("pages/answer.txt", "Good day {{ name }}")
    assert running.answer("planner", "/page") == "Good day Ada"


def test_a_data_file_that_is_read_at_each_request_is_no_input(running: Mesh) -> None:
    """Opened by one request only, it may be cached from now on, and counts; opened by a second, it does not."""
    before = running.wait_ready()["planner"]
    for number in range(4):
        for _ in range(2):
            assert "a,b" in running.answer("planner", "/data")
        wait_for(lambda: "read at each request" in running.run("why", "data/ledger.csv").out)
        running.write("data/ledger.csv", f"a,b\n{number}\n")
        settle(running)
    assert running.agent("planner").pid == before.pid


def test_inputs_outlive_the_supervisor_and_say_their_source(running: Mesh) -> None:
    running.answer("planner", "/lazy")
    wait_for(lambda: chain(running, "skills/summing.py"))
    running.ok("down")
    said = chain(running, "skills/summing.py")
    assert list(said) == ["planner"]
    running.up()
    assert list(chain(running, "skills/summing.py")) == ["planner"]
    assert list(chain(running, "prompts/plan.md")) == ["planner"]
    with running.only_restarts("planner"):
        running.write("skills/summing.py", "WORD = 'sum three'\n")
    text = running.ok("why", "prompts/plan.md")
    assert "planner.py" in text and "read" in text


def test_trace_imports_follows_no_data_files(mesh: Mesh) -> None:
    mesh.write("prompt.md", "one\n")
    mesh.write(
        "agent.py",
        stdlib("agent", "PROMPT = open('prompt.md').read()\nimport importlib\nimportlib.import_module('la' + 'zy')"),
    )
    mesh.write("lazy.py", "WORD = 1\n")
    mesh.write("canary.py", stdlib("canary"))
    mesh.config(mesh.table("agent", 'trace = "imports"') + mesh.table("canary"))
    mesh.up()
    before = mesh.wait_ready()["agent"]
    mesh.write("prompt.md", "two\n")
    settle(mesh)
    assert mesh.agent("agent").pid == before.pid
    with mesh.only_restarts("agent"):
        mesh.write("lazy.py", "WORD = 2\n")
