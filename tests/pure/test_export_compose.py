"""A mesh as a file for Compose: what stands in it, how it is quoted, and what never gets into it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv.parser import parse_stream
from hypothesis import given
from hypothesis import strategies as st

from mesh_supervisor.export.compose import Exported, compose
from mesh_supervisor.export.env_lines import is_read_otherwise
from mesh_supervisor.export.mark import is_as_written, marked
from mesh_supervisor.export.references import Written, for_compose, has_variable
from mesh_supervisor.export.surroundings import Surroundings
from mesh_supervisor.export.yaml import Alias, Blank, Entry, Items, Reference, Remark, Words, written
from mesh_supervisor.impact import Inputs, globs_of
from mesh_supervisor.imports import Step
from mesh_supervisor.locate import read_leniently
from mesh_supervisor.mesh_toml.interpolation import expand, variables_in
from mesh_supervisor.spec import Mode
from tests.pure.meshfile import SERVERS, SHELL, MeshFile

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def undollared(value: Any) -> Any:
    """As Compose replaces it when there are no variables in it."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [undollared(one) for one in value]
    return {key: undollared(one) for key, one in value.items()} if isinstance(value, dict) else value


# ---- YAML ----------------------------------------------------------------------------------------------------------


@given(TEXTS)
def test_every_text_comes_back_from_a_yaml_reader(text: str) -> None:
    rows = (Entry("key", text), Entry("list", Words((text, text))), Entry("of", Items(((Entry("inner", text),),))))
    read = yaml.safe_load(written(rows))
    assert undollared(read) == {"key": text, "list": [text, text], "of": [{"inner": text}]}


WORDS = (
    "no Off null ~ y 1 1.5 1e3 0x1f 12:30:45 1_000 .inf - -- # &a *a !a %a @a `a [a] {a} ? << = 10s --host ./.env .."
)
MORE = (
    "",
    "- a",
    "a: b",
    "a #b",
    "a\nb",
    "\t",
    "é",
    "\x85",
    "\u2028",
    "\ufeff",
    "2001-01-01",
    "a,b",
    "'",
    '"',
    "\\",
    "/app",
)


@pytest.mark.parametrize("text", [*WORDS.split(), *MORE])
def test_what_yaml_could_take_for_something_else_stays_text(text: str) -> None:
    assert yaml.safe_load(written([Entry("key", text)])) == {"key": text}


@given(TEXTS.filter(lambda text: "$" not in text and text != "<<"))
def test_every_text_can_be_a_key(text: str) -> None:
    assert yaml.safe_load(written([Entry(text, 1)])) == {text: 1}


@given(st.text())
def test_a_comment_is_a_comment_whatever_stands_in_it(text: str) -> None:
    body = written((Remark(text), Entry("a", (Remark(text), Entry("b", 1)))))
    assert yaml.safe_load(body.encode("utf-8", "strict")) == {"a": {"b": 1}}


def test_how_it_reads() -> None:
    rows = (
        Entry("x-a", (Entry("image", Reference("${IMAGE:-a:b}")),), anchor="a"),
        Blank(),
        Entry("b", (Entry("<<", Alias("a")), Entry("price", "5$"), Entry("on", True), Entry("FROM_SHELL", None))),
        Entry("words", Words(("a", 1, "0.5"))),
        Entry("items", Items(((Remark("first"), Entry("k", 1), Entry("l", Words(("x",)))), (Entry("k", 2),)))),
        Entry("empty", ()),
        Entry("none", Items(())),
    )
    text = written(rows)
    assert text == (
        'x-a: &a\n  image: "${IMAGE:-a:b}"\n\nb:\n  <<: *a\n  price: "5$$"\n  "on": true\n  FROM_SHELL:\n'
        'words: [a, 1, "0.5"]\nitems:\n  - # first\n    k: 1\n    l: [x]\n  - k: 2\nempty: {}\nnone: []\n'
    )
    assert yaml.safe_load(text)["b"] == {"image": "${IMAGE:-a:b}", "price": "5$$", "on": True, "FROM_SHELL": None}
    assert yaml.safe_load(text)["items"] == [{"k": 1, "l": ["x"]}, {"k": 2}]


def test_a_long_list_stands_on_many_lines() -> None:
    words = [f"word-number-{number}" for number in range(20)]
    text = written([Entry("key", Words(words))])
    assert max(map(len, text.splitlines())) < 120
    assert yaml.safe_load(text) == {"key": words}


# ---- the head ------------------------------------------------------------------------------------------------------


def test_an_edited_file_is_known_from_one_that_was_only_written() -> None:
    text = marked("name: a\n", verb="compose", version="1.0", source="mesh.toml")
    assert text.startswith("# Written by `meshsup export compose` (meshsup 1.0) from mesh.toml.\n# Digest ")
    assert is_as_written(text)
    for edited in (text + " ", text.replace("a\n", "b\n"), "\n" + text, text.partition("\n")[2], "name: a\n", ""):
        assert not is_as_written(edited)


# ---- variables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain $HOME", {}),
        ("${A}${B:-x}", {"A": True, "B": False}),
        ("${A:-x}${A}", {"A": True}),
        ("$${A} ${port} ${agents.a.url}", {}),
        ("${A${B}", {"B": True}),
    ],
)
def test_which_variables_a_text_speaks_of(text: str, found: dict[str, bool]) -> None:
    assert variables_in(text) == found
    assert has_variable(text) == bool(found)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("${A}/${B:-b}", "${A}/${B:-b}"),
        ("$${A} $5", "$${A} $$5"),
        ("--port=${port} ${agents.a.url}", "--port=8000 http://a:1"),
    ],
)
def test_words_as_compose_would_say_them(text: str, there: str) -> None:
    known = {"port": "8000", "agents.a.url": "http://a:1"}
    assert for_compose(text, known) == there
    # Compose: $$ is a $, ${…} is replaced.
    here = expand(text, {**known, "A": "one", "B": ""}.get)
    replaced = re.sub(r"\$\$|\$\{A\}|\$\{B:-b\}", lambda f: {"$$": "$", "${A}": "one"}.get(f[0], "b"), there)
    assert replaced == here


def test_an_agent_needs_the_variables_of_all_and_its_own() -> None:
    tables = {
        "mesh": {"env": {"LEVEL": "${LEVEL:-info}"}},
        "defaults": {"args": ["${SHARED}"]},
        "agents": {"a": {"env": {"KEY": "${A_KEY}"}}, "b": {"env": {"KEY": "${B_KEY}"}, "port": "${B_PORT}"}},
    }
    assert Written(tables).variables("a") == {"A_KEY": True, "B_PORT": True, "LEVEL": False, "SHARED": True}
    assert Written(tables).variables() == {**Written(tables).variables("a"), "B_KEY": True}


# ---- Compose -------------------------------------------------------------------------------------------------------


def exported(mesh: MeshFile, text: str, shell: Mapping[str, str] = {}, **seen: Any) -> Exported:
    spec = mesh.read(text, {**SHELL, **shell}, mode=Mode.PROD, pid_one=True)
    seen.setdefault("dockerfile", mesh.root / "Dockerfile")
    return compose(spec, Surroundings(mesh.root, Written(read_leniently(mesh.path)), **seen))


def services(made: Exported) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(made.text)["services"]
    return found


def service(mesh: MeshFile, keys: str, before: str = "", shell: Mapping[str, str] = {}, **seen: Any) -> dict[str, Any]:
    """Of the only agent, with these keys."""
    text = f'{before}\n[agents.a]\ncommand = ["true"]\n{keys}\n'
    found: dict[str, Any] = services(exported(mesh, text, shell, **seen))["a"]
    return found


def notes(mesh: MeshFile, keys: str, before: str = "", **seen: Any) -> list[str]:
    """What is said about the only agent, as a warning; the same stands in the file."""
    made = exported(mesh, f'{before}\n[agents.a]\ncommand = ["true"]\n{keys}\n', **seen)
    found = [warning.removeprefix("a: ") for warning in made.warnings if warning.startswith("a: ")]
    lines = " ".join(line.strip().removeprefix("# ") for line in made.text.splitlines())
    for note in found:
        assert note[1:] in lines
    return found


def test_a_service_for_the_registry_and_each_agent(servers: MeshFile) -> None:
    made = exported(servers, SERVERS)
    whole = yaml.safe_load(made.text)
    assert whole["name"] == "demo"
    assert list(whole["services"]) == ["registry", "retriever", "planner"]
    assert set(whole["volumes"]) == {"registry-state", "retriever-state", "planner-state"}
    planner = whole["services"]["planner"]
    assert planner["image"] == "${MESHSUP_IMAGE:-demo:latest}"
    assert planner["build"] == {"context": "."}
    assert (planner["entrypoint"], planner["command"]) == (["meshsup"], ["run", "planner"])
    assert planner["environment"] == {
        "MESHSUP_MODE": "prod",
        "MESHSUP_STATE_HOME": "/var/lib/mesh",
        "MESHSUP_REGISTRY_URL": "http://registry:8000",
        "MESHSUP_ADVERTISE": "planner",
    }
    assert planner["ports"] == ["${MESHSUP_BIND:-127.0.0.1}:8102:8102"]
    assert planner["volumes"] == ["planner-state:/var/lib/mesh"]
    assert planner["depends_on"] == {
        "registry": {"condition": "service_healthy"},
        "retriever": {"condition": "service_healthy"},
    }
    assert planner["healthcheck"]["test"] == ["CMD", "meshsup", "health", "planner"]
    assert whole["services"]["registry"]["command"][:2] == ["registry", "serve"]
    # The registry refuses names that it does not know.
    assert whole["services"]["registry"]["command"][-2:] == ["--allow-host", "registry"]


@pytest.mark.parametrize(
    ("keys", "policy"),
    [
        ("", "unless-stopped"),
        ('restart = "on-failure"', "on-failure"),
        ('restart = "never"', "no"),
        ('type = "task"', "on-failure"),
        ('type = "task"\nrestart = "never"', "no"),
    ],
)
def test_who_is_started_again(mesh: MeshFile, keys: str, policy: str) -> None:
    assert service(mesh, keys)["restart"] == policy


@pytest.mark.parametrize(
    ("other", "condition", "there"),
    [
        ("", "ready", "service_healthy"),
        ("", "started", "service_started"),
        ('type = "task"', "completed", "service_completed_successfully"),
        ('restart = "never"', "completed", "service_completed_successfully"),
    ],
)
def test_what_is_waited_for(mesh: MeshFile, other: str, condition: str, there: str) -> None:
    before = f'[agents.b]\ncommand = ["true"]\n{other}'
    found = service(mesh, f'depends_on = {{ b = {{ condition = "{condition}", restart = true }} }}', before)
    assert found["depends_on"]["b"] == {"condition": there, "restart": True}


def test_a_task_is_not_asked_for_its_health_unless_somebody_waits_for_it(mesh: MeshFile) -> None:
    task = '[agents.b]\ncommand = ["true"]\ntype = "task"\n[agents.a]\ncommand = ["true"]\n'
    assert services(exported(mesh, task))["b"]["healthcheck"] == {"disable": True}
    ready = task + 'depends_on = { b = { condition = "ready" } }'
    assert services(exported(mesh, ready))["b"]["healthcheck"]["test"] == ["CMD", "meshsup", "health", "b"]


def test_a_mesh_with_tasks_is_not_waited_for(mesh: MeshFile) -> None:
    agent = '[agents.a]\ncommand = ["true"]\n'
    assert "up --build --wait  " in exported(mesh, agent).text
    with_task = exported(mesh, agent + 'type = "task"').text
    assert "up --build -d  " in with_task and "--wait" not in with_task


def test_how_often_health_is_asked(mesh: MeshFile) -> None:
    keys = 'port = 8101\nstart_timeout = 90.5\nlive = { http = "/livez", interval = 12.25, failures = 4 }'
    checked = service(mesh, keys)["healthcheck"]
    assert checked["interval"] == "12.25s"
    assert (checked["retries"], checked["start_period"]) == (4, "90.5s")
    assert service(mesh, "")["healthcheck"]["start_period"] == "600s"


def test_the_engine_waits_longer_than_we_do(mesh: MeshFile) -> None:
    assert service(mesh, "")["stop_grace_period"] == "10s"
    assert service(mesh, "", "[mesh]\nstop_timeout = 44.5")["stop_grace_period"] == "47s"


def test_names_that_mean_something_in_yaml(mesh: MeshFile) -> None:
    made = exported(mesh, '[mesh]\nname = "on"\n[agents.null]\ncommand = ["true"]\n[agents.123]\ncommand = ["true"]\n')
    assert yaml.safe_load(made.text)["name"] == "on"
    assert list(services(made)) == ["registry", "null", "123"]


def test_a_name_that_no_image_can_have(mesh: MeshFile) -> None:
    made = exported(mesh, '[mesh]\nname = "a___b-"\n')
    assert yaml.safe_load(made.text)["x-agent"]["image"] == "${MESHSUP_IMAGE:-a-b:latest}"


def test_a_mesh_without_agents_is_a_registry(mesh: MeshFile) -> None:
    assert list(services(exported(mesh, ""))) == ["registry"]
    assert services(exported(mesh, '[registry]\nkind = "external"\nurl = "http://r:1"')) == {}


# ---- Compose: the registry -----------------------------------------------------------------------------------------


def test_an_external_registry_is_no_service(mesh: MeshFile) -> None:
    before = '[registry]\nkind = "external"\nurl = "http://${WHERE:-hub}:8000"'
    found = service(mesh, "", before)
    assert found["environment"]["MESHSUP_REGISTRY_URL"] == "http://${WHERE:-hub}:8000"
    assert "depends_on" not in found


def test_an_external_registry_on_this_machine_is_said_to_be_out_of_reach(mesh: MeshFile) -> None:
    (said,) = notes(mesh, "", '[registry]\nkind = "external"\nurl = "http://127.0.0.1:8000"')
    assert "no container finds it" in said


def test_a_registry_of_somebody_elses_gets_its_words_by_reference(mesh: MeshFile) -> None:
    before = (
        '[registry]\nkind = "command"\nport = 8010\n'
        'command = ["/opt/hub", "--port=${port}", "--db=${HUB_DB}", "--peer=${agents.a.url}", "5$"]'
    )
    text = f'{before}\n[agents.a]\ncommand = ["true"]\nport = 8101'
    made = exported(mesh, text, {"HUB_DB": "postgres://u:pw@db"})
    hub = services(made)["registry"]
    assert hub["entrypoint"] == ["/opt/hub", "--port=8010", "--db=${HUB_DB}", "--peer=http://a:8101", "5$$"]
    assert hub["environment"] == {"HOST": "0.0.0.0", "PORT": "8010"}
    assert "pw" not in made.text
    assert any(warning.startswith("registry: the image needs") for warning in made.warnings)


# ---- Compose: secrets ----------------------------------------------------------------------------------------------


SECRETS = """
[mesh]
name = "${NAME}"
stop_timeout = "${STOP}"
env = { MESH_TOKEN = "${MESH_TOKEN}", LITERAL = "literal-1f9b" }

[registry]
kind = "external"
url = "http://user:registry-77aa@hub:8000"

[watch]
roots = ["${ROOT}"]

[defaults]
env = { SHARED = "${SHARED:-nothing}" }
live = { interval = "${LIVE}", failures = "${FAILURES}" }

[agents.a]
command = ["${PROGRAM}", "--key=${A_KEY}"]
args = ["${ARGUMENT}"]
directory = "${FOLDER}"
python = "${PYTHON}"
watch = ["${PROMPTS}/**/*.md"]
profiles = ["${PROFILE}"]
env_file = "${ENV_FILE}"
env = { OTHER = "agent-c0de" }
port = "${A_PORT}"
start_timeout = "${START}"
ready = { http = "${PROBE}" }
live = { http = "/livez" }
stop = { timeout = "${STOP_A}" }

[agents.b]
command = ["true"]
port = 0
live = { http = "/livez", interval = 5.5, failures = 2 }
env_file = "b.env"
env = { KEY = "${B_KEY}" }
"""


def test_no_value_from_elsewhere_is_written_down(mesh: MeshFile) -> None:
    mesh.touch("hush-folder/x", "hush-root/x", "b.env", "hush.env", content="FROM_FILE=file-5a5a\n")
    mesh.touch(".env", content="MESH_TOKEN=dotenv-9e9e\n")
    (mesh.root / "hush-python").symlink_to("/bin/true")
    shell = {
        "PROGRAM": "hush-program",
        "A_KEY": "hush-a",
        "ARGUMENT": "hush-argument",
        "B_KEY": "hush-b",
        "FOLDER": "hush-folder",
        "PYTHON": "hush-python",
        "PROMPTS": "hush-prompts",
        "SHARED": "hush-shared",
        "PROFILE": "hush-profile",
        "ENV_FILE": "hush.env",
        "PROBE": "/hush-probe",
        "NAME": "hush-name",
        "ROOT": "hush-root",
        "A_PORT": "47471",
        "STOP": "4747.25",
        "STOP_A": "47472",
        "START": "4747.5",
        "LIVE": "47.75",
        "FAILURES": "474",
    }
    prompt = mesh.root / "hush-prompts/x.md"
    inputs = {
        "a": Inputs(globs=globs_of(mesh.root, ["hush-prompts/**/*.md"]), matched=frozenset({prompt})),
        "b": Inputs(files=imported(mesh.root.parent / "hush-root/lib.py")),
    }
    locks = {"a": [mesh.root / "hush-folder/uv.lock", mesh.root / "pyproject.toml"]}
    made = exported(mesh, SECRETS, shell, inputs=inputs, locks=locks, from_env_file=frozenset({"MESH_TOKEN"}))
    whole = made.text + "\n".join(made.warnings)
    for value in ("hush", "474", "47.75", "literal-1f9b", "registry-77aa", "agent-c0de", "file-5a5a", "dotenv-9e9e"):
        assert value not in whole, value
    a, b = services(made)["a"], services(made)["b"]
    # Their names, each where it is needed and nowhere else.
    assert {"A_KEY", "PROGRAM", "SHARED"} <= a["environment"].keys()
    assert {"B_KEY", "SHARED"} <= b["environment"].keys()
    assert not {"A_KEY", "PROGRAM"} & b["environment"].keys() and "B_KEY" not in a["environment"]
    assert a["environment"]["A_KEY"] is None
    assert "MESH_TOKEN" not in a["environment"]  # .env has it, and that is read by Compose
    assert a["env_file"] == [{"path": "./.env", "required": False}]
    assert a["profiles"] == ["${PROFILE}"]
    assert b["secrets"] == [{"source": "b-env", "target": "/app/b.env"}]
    assert yaml.safe_load(made.text)["secrets"] == {"b-env": {"file": "./b.env"}}
    assert a["environment"]["MESHSUP_REGISTRY_URL"] == "${MESHSUP_REGISTRY_URL:-}"
    assert any("env_file ${ENV_FILE} is not mounted" in warning for warning in made.warnings)
    assert any("what `watch` takes from variables" in warning for warning in made.warnings)
    assert any("depends on 1 file, outside mesh.toml's folder" in warning for warning in made.warnings)
    # What is the engine's to do, it finds out as the container does.
    assert (yaml.safe_load(made.text)["name"], a["image"]) == ("${NAME}", "${MESHSUP_IMAGE:-${NAME}:latest}")
    assert a["ports"] == ["${MESHSUP_BIND:-127.0.0.1}:${A_PORT}:${A_PORT}"]
    assert a["stop_grace_period"] == b["stop_grace_period"] == "${STOP}s2000ms"
    checked = a["healthcheck"]
    assert (checked["interval"], checked["retries"], checked["start_period"]) == (
        "${LIVE}s",
        "${FAILURES}",
        "${START}s",
    )
    assert (b["healthcheck"]["interval"], b["healthcheck"]["retries"]) == ("5.5s", 2)
    rebuilt = [rule["path"] for rule in a["develop"]["watch"] if rule["action"] == "rebuild"]
    assert rebuilt == ["./Dockerfile", "./pyproject.toml"]


PORTS = """
[registry]
port = "${R_PORT:-8010}"

[agents.a]
command = ["true"]
port = "${A_PORT:-8101}"

[agents.b]
command = ["true"]
env = { PEER = "${agents.a.url}" }
"""


def test_a_port_that_a_variable_says_is_published_where_the_container_listens(mesh: MeshFile) -> None:
    made = exported(mesh, PORTS, {"A_PORT": "4741", "R_PORT": "4742"})
    assert "474" not in made.text
    found = services(made)
    assert found["a"]["ports"] == ["${MESHSUP_BIND:-127.0.0.1}:${A_PORT:-8101}:${A_PORT:-8101}"]
    # Who asks for the URL of another needs its variable too.
    assert {"A_PORT", "R_PORT"} <= found["b"]["environment"].keys()
    hub = found["registry"]
    assert hub["ports"] == ["${MESHSUP_BIND:-127.0.0.1}:${R_PORT:-8010}:${R_PORT:-8010}"]
    assert hub["command"][4:6] == ["--port", "${R_PORT:-8010}"]
    assert hub["healthcheck"]["test"][-1] == "http://127.0.0.1:${R_PORT:-8010}"
    assert found["a"]["environment"]["MESHSUP_REGISTRY_URL"] == "http://registry:${R_PORT:-8010}"


def test_a_registry_of_somebody_elses_at_a_port_that_a_variable_says(mesh: MeshFile) -> None:
    before = (
        '[registry]\nkind = "command"\nport = "${R_PORT:-8010}"\ncommand = ["hub", "--port=${port}", "${agents.a.url}"]'
    )
    made = exported(mesh, f'{before}\n[agents.a]\ncommand = ["true"]\nport = "${{A_PORT:-8101}}"', {"R_PORT": "4742"})
    hub = services(made)["registry"]
    assert hub["entrypoint"] == ["hub", "--port=${R_PORT:-8010}", "http://a:${A_PORT:-8101}"]
    assert hub["environment"]["PORT"] == "${R_PORT:-8010}"


def test_a_port_that_dotenv_says_is_the_one_that_compose_takes(mesh: MeshFile) -> None:
    mesh.touch(".env", content="A_PORT=4741\nOTHER=1\n")
    text = '[agents.a]\ncommand = ["true"]\nport = "${A_PORT:-8101}"\nenv = { X = "${OTHER}" }'
    made = exported(mesh, text, from_env_file=frozenset({"A_PORT", "OTHER"}))
    environment = services(made)["a"]["environment"]
    assert environment["A_PORT"] == "${A_PORT:-}"  # the shell goes before .env, as it does in `ports`
    assert "OTHER" not in environment
    assert not any("--env-file" in warning for warning in made.warnings)


def test_what_compose_does_not_find_by_itself_is_said(mesh: MeshFile) -> None:
    mesh.touch("conf/all.env", content="A_PORT=4741\nOTHER=1\n")
    keys = 'command = ["true"]\nport = "${A_PORT}"\nenv = { X = "${OTHER}" }'
    text = f'[mesh]\nenv_file = "conf/all.env"\n[agents.a]\n{keys}'
    made = exported(mesh, text, from_env_file=frozenset({"A_PORT", "OTHER"}))
    said = "A_PORT of conf/all.env: Compose needs it too, as `docker compose --env-file ./conf/all.env`"
    assert said in made.warnings
    assert "A_PORT" not in services(made)["a"]["environment"]  # the mounted file says it, and ranks above


def test_only_variables_that_the_file_sets_itself_are_left_out(mesh: MeshFile) -> None:
    keys = 'env = { A = "${MESHSUP_TOKEN}", B = "${MESHSUP_MODE:-x}" }'
    environment = service(mesh, keys, shell={"MESHSUP_TOKEN": "secret"})["environment"]
    assert environment["MESHSUP_TOKEN"] is None
    assert environment["MESHSUP_MODE"] == "prod"


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        ('command = "${PLACE}/hush.py"', False),
        ('module = "${MODULE}"', False),
        ('command = ["python", "${PLACE}/hush.py", "-v"]', False),
        ('command = ["python", "-m", "uvicorn", "--app=${PLACE}/hush.py"]', False),
        ('command = ["python", "hush/hush.py", "--key=${MODULE}"]', True),
        ('command = "hush/hush.py"\nargs = ["${MODULE}"]', True),
    ],
)
def test_where_variables_say_what_the_program_is_its_files_have_no_names(
    mesh: MeshFile, keys: str, written: bool
) -> None:
    mesh.touch("hush/hush.py", "hush/helper.py", "prompts/x.md")
    program = {mesh.root / "hush/hush.py": Step(None, ""), mesh.root / "hush/helper.py": Step(None, "")}
    inputs = Inputs(
        files=program,
        globs=globs_of(mesh.root, ["prompts/*.md"]),
        matched=frozenset({mesh.root / "prompts/x.md"}),
        read={mesh.root.parent / "hush-outside": None},
    )
    text = f'[agents.a]\n{keys}\nwatch = ["prompts/*.md"]'
    made = exported(mesh, text, {"PLACE": "hush", "MODULE": "hush.hush"}, inputs={"a": inputs})
    whole = made.text + "\n".join(made.warnings)
    assert ("hush" in whole) is written
    assert any("variables say which program it is" in warning for warning in made.warnings) is not written
    assert "./prompts" in [row["path"] for row in services(made)["a"]["develop"]["watch"]]


def test_a_named_env_file_is_mounted_where_mesh_toml_looks_for_it(mesh: MeshFile) -> None:
    mesh.touch("conf/all.env", "a.env")
    before = '[mesh]\nenv_file = "conf/all.env"'
    found = service(mesh, 'env_file = "a.env"', before, app="/srv")
    assert found["secrets"] == [
        {"source": "conf-all-env", "target": "/srv/conf/all.env"},
        {"source": "a-env", "target": "/srv/a.env"},
    ]
    assert "env_file" not in found


def test_two_files_with_names_alike_are_two_secrets(mesh: MeshFile) -> None:
    mesh.touch("x.env", "x-env")
    text = '[agents.a]\ncommand = ["true"]\nenv_file = "x.env"\n[agents.b]\ncommand = ["true"]\nenv_file = "x-env"\n'
    secrets = yaml.safe_load(exported(mesh, text).text)["secrets"]
    assert sorted(one["file"] for one in secrets.values()) == ["./x-env", "./x.env"]


def test_a_name_that_a_number_made_is_taken_too(mesh: MeshFile) -> None:
    files = ["other/.env.2", "other/.env", "other/-env"]
    mesh.touch(*files)
    text = "".join(
        f'[agents.a{number}]\ncommand = ["true"]\nenv_file = "{file}"\n' for number, file in enumerate(files)
    )
    made = exported(mesh, text)
    secrets = yaml.safe_load(made.text)["secrets"]
    assert [one["file"] for one in secrets.values()] == [f"./{file}" for file in files]
    for number, file in enumerate(files):
        (mounted,) = services(made)[f"a{number}"]["secrets"]
        assert secrets[mounted["source"]]["file"] == f"./{file}"


@pytest.mark.parametrize(
    ("line", "otherwise"),
    [
        ("A=a${HOME}/b", False),
        ("A=${NOPE:-b} $5 $(date) $", False),
        ("A='a$HOME $$ \\$'", False),
        ("A=a$HOME/b", True),
        ('export A = "a$HOME/b"', True),
        ("A=$$HOME", True),
        ("A=$${HOME}", True),
        (r'A="\$5"', True),
        ("A=${NOPE-b}", True),
        ("A=${NOPE:-$HOME}", True),
        ("A='${HOME}'", True),
    ],
)
def test_which_lines_of_dotenv_compose_reads_otherwise(line: str, otherwise: bool) -> None:
    (binding,) = parse_stream(StringIO(line))
    assert binding.value is not None
    assert is_read_otherwise(line, binding.value) is otherwise


def test_lines_of_dotenv_that_compose_reads_otherwise_are_said(mesh: MeshFile) -> None:
    made = exported(mesh, "", otherwise=(3, 7))
    (said,) = [warning for warning in made.warnings if ".env" in warning]
    assert said.startswith("lines 3, 7 of .env: Compose puts something else in for a `$` there")
    assert "# Lines 3, 7 of .env" in made.text


# ---- Compose: profiles ---------------------------------------------------------------------------------------------


def test_profiles_of_who_is_needed_by_others(mesh: MeshFile) -> None:
    text = """
    [agents.always]
    command = ["true"]
    depends_on = ["needed"]
    [agents.needed]
    command = ["true"]
    profiles = ["extra"]
    [agents.one]
    command = ["true"]
    profiles = ["one"]
    depends_on = ["shared"]
    [agents.shared]
    command = ["true"]
    profiles = ["shared"]
    """
    found = services(exported(mesh, text))
    assert "profiles" not in found["needed"]  # `up` starts it too
    assert found["one"]["profiles"] == ["one"]
    assert found["shared"]["profiles"] == ["one", "shared"]


def test_a_profile_that_compose_cannot_have_is_called_otherwise(mesh: MeshFile) -> None:
    assert service(mesh, 'profiles = ["fine-1.x", "gpu box!", "x"]')["profiles"] == [
        "fine-1.x",
        "profile-gpu-box",
        "profile-x",
    ]
    (said,) = notes(mesh, 'profiles = ["gpu box!"]')
    assert said == "its profiles have other names in Compose: profile-gpu-box for 'gpu box!'"


# ---- Compose: edits ------------------------------------------------------------------------------------------------


def imported(*paths: Path) -> dict[Path, Step]:
    return {path: Step(None, "") for path in paths}


def rules(mesh: MeshFile, inputs: Inputs, keys: str = "", **seen: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service(mesh, keys, inputs={"a": inputs}, **seen)["develop"]["watch"]
    return found


def taken_over(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {rule["path"]: rule["target"] for rule in found if rule["action"] == "sync+restart"}


def test_the_files_of_an_agent_are_taken_over_one_by_one(mesh: MeshFile) -> None:
    root = mesh.root
    own = Inputs(files=imported(root / "agents/a.py", root / "common/llm.py"), read={root / "prompt.md": None})
    found = rules(mesh, own, locks={"a": [root / "uv.lock"]}, app="/srv/mesh")
    assert taken_over(found) == {
        "./mesh.toml": "/srv/mesh/mesh.toml",
        "./agents/a.py": "/srv/mesh/agents/a.py",
        "./common/llm.py": "/srv/mesh/common/llm.py",
        "./prompt.md": "/srv/mesh/prompt.md",
    }
    assert [rule["path"] for rule in found if rule["action"] == "rebuild"] == ["./Dockerfile", "./uv.lock"]


def test_where_new_files_count_the_folder_is_taken_over(mesh: MeshFile) -> None:
    root, globs = mesh.root, ["prompts/**/*.md", "!prompts/draft.md", "*.txt"]
    matched = frozenset({root / "prompts/x.md", root / "notes.txt"})
    own = Inputs(globs=globs_of(root, globs), matched=matched, folders={root / "plugins": None})
    keys = f"watch = {globs!r}"
    found = rules(mesh, own, keys)
    assert set(taken_over(found)) == {"./mesh.toml", "./prompts", "./notes.txt", "./plugins"}
    (prompts,) = (rule for rule in found if rule["path"] == "./prompts")
    assert "draft.md" in prompts["ignore"] and "**/__pycache__" in prompts["ignore"]
    assert notes(mesh, keys, inputs={"a": own}) == [
        "of `watch` *.txt only the files that are there now are taken over, not new ones"
    ]


def test_too_many_files_are_folders(mesh: MeshFile) -> None:
    many = imported(*(mesh.root / f"pkg/{letter}/m{number}.py" for letter in "ab" for number in range(60)))
    own = Inputs(files={**many, **imported(mesh.root / "top.py")})
    assert set(taken_over(rules(mesh, own))) == {"./mesh.toml", "./pkg/a", "./pkg/b", "./top.py"}
    (said,) = notes(mesh, "", inputs={"a": own})
    assert "more than 100 inputs" in said


def test_what_lies_outside_is_not_in_the_image(mesh: MeshFile) -> None:
    own = Inputs(files=imported(mesh.root.parent / "libs/x.py", mesh.root / "a.py"))
    assert set(taken_over(rules(mesh, own))) == {"./mesh.toml", "./a.py"}
    (said,) = notes(mesh, "", inputs={"a": own})
    assert said.startswith("depends on ../libs/x.py, outside mesh.toml's folder: the image needs it too")


def test_a_program_that_is_watched_by_folder(mesh: MeshFile) -> None:
    found = rules(mesh, Inputs(directories=(mesh.root,)))
    assert taken_over(found) == {"./mesh.toml": "/app/mesh.toml", ".": "/app"}


def test_a_name_that_is_no_text_is_left_out(mesh: MeshFile) -> None:
    own = Inputs(files=imported(mesh.root / "a\udcff.py"))
    assert set(taken_over(rules(mesh, own))) == {"./mesh.toml"}
    assert notes(mesh, "", inputs={"a": own}) == [
        "1 of its inputs have a name that is no UTF-8; an edit of them is not taken over"
    ]


def test_an_agent_that_no_save_reloads(mesh: MeshFile) -> None:
    assert "develop" not in service(mesh, "watch = false", inputs={"a": Inputs(watched=False)})
    assert "develop" not in service(mesh, "")


def test_a_compose_file_in_another_folder_finds_everything(mesh: MeshFile) -> None:
    mesh.touch("a.env")
    text = '[agents.a]\ncommand = ["true"]\nenv_file = "a.env"\n'
    spec = mesh.read(text, mode=Mode.PROD, pid_one=True)
    own = Inputs(files=imported(mesh.root / "a.py"))
    seen = Surroundings(
        mesh.root / "deploy/compose",
        Written(read_leniently(mesh.path)),
        dockerfile=mesh.root / "deploy/Dockerfile",
        inputs={"a": own},
    )
    whole = yaml.safe_load(compose(spec, seen).text)
    a = whole["services"]["a"]
    assert a["build"] == {"context": "../..", "dockerfile": "deploy/Dockerfile"}
    assert whole["secrets"] == {"a-env": {"file": "../../a.env"}}
    assert a["env_file"][0]["path"] == "../../.env"
    assert [rule["path"] for rule in a["develop"]["watch"]] == ["../../mesh.toml", "../../a.py", "../Dockerfile"]


# ---- Compose: what it cannot express -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("essential = true", "`essential`: Compose goes on without it"),
        ('order = "start-first"', '`order = "start-first"`'),
        ("drain = 5", "`drain`"),
        ("backoff = { max = 3 }", "`backoff` and `crashloop`"),
        ("crashloop = { crashes = 2 }", "`backoff` and `crashloop`"),
        ('warm = "spare"', "`warm`"),
        ("port = 0", "`port = 0`"),
        ('host = "127.0.0.1"', "`host` in mesh.toml"),
        ("stop = { timeout = 30 }", "`stop_timeout` of [mesh], 8 s in a container"),
        ('directory = "/"', "`directory` (/) lies outside"),
        ('python = "/bin/true"', "`python` (/bin/true) must be in the image, at /bin/true"),
    ],
)
def test_what_is_lost_is_said(mesh: MeshFile, keys: str, said: str) -> None:
    (note,) = notes(mesh, keys)
    assert note.startswith(said)


def test_a_restart_with_another_agent_is_only_partly_there(mesh: MeshFile) -> None:
    before = '[agents.b]\ncommand = ["true"]'
    (note,) = notes(mesh, "depends_on = { b = { restart = true } }", before)
    assert note == "it restarts with b when Compose restarts that, not when b crashes"


def test_programs_outside_of_the_mesh_are_said(mesh: MeshFile, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("elsewhere") / "x.py"
    script.touch()
    made = exported(mesh, f'[agents.a]\ncommand = "{script}"\n[agents.b]\ncommand = ["/opt/tool", "x"]\n')
    assert any(f"a: `command` ({script}) lies outside" in warning for warning in made.warnings)
    assert "b: `command` begins with /opt/tool: the image needs it there" in made.warnings


def test_what_is_not_said_when_nothing_is_lost(mesh: MeshFile) -> None:
    assert notes(mesh, 'port = 8101\nwatch = []\nrestart = "always"') == []


def test_without_a_dockerfile_there_is_no_build(mesh: MeshFile) -> None:
    made = exported(mesh, '[agents.a]\ncommand = ["true"]', dockerfile=None, inputs={"a": Inputs()}, locks={"a": []})
    assert "build" not in services(made)["a"]
    assert [rule["action"] for rule in services(made)["a"]["develop"]["watch"]] == ["sync+restart"]
    assert any("no Dockerfile was found" in warning for warning in made.warnings)


def test_a_missing_dockerignore_is_said(mesh: MeshFile) -> None:
    made = exported(mesh, "", dockerignore=False)
    assert any(".dockerignore" in warning for warning in made.warnings)
    assert not any(".dockerignore" in warning for warning in exported(mesh, "").warnings)


def test_the_same_mesh_makes_the_same_file(servers: MeshFile) -> None:
    assert exported(servers, SERVERS).text == exported(servers, SERVERS).text
