"""`meshsup export`: what it writes is accepted by those it is for, and a file of somebody else's is left alone."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh_supervisor.cli.exporting import machine_of
from mesh_supervisor.config import load
from mesh_supervisor.host.traced import Traces
from mesh_supervisor.mesh_toml.env_file import read_env_file
from mesh_supervisor.spec import Mode
from mesh_supervisor.traced import Traced
from tests.e2e.harness import Mesh, server

COMMON = """\
WORDS = "common"
"""

PLANNER = """\
import os
import common
from pathlib import Path

PROMPT = Path(__file__).with_name("prompt.md").read_text()
"""


def with_two_agents(mesh: Mesh, *, planner: str = "", retriever: str = "", top: str = "") -> None:
    """planner, which imports a file and waits for retriever."""
    mesh.write("agents/common.py", COMMON)
    mesh.write("agents/prompt.md", "Be brief.\n")
    mesh.write("agents/planner.py", server("planner one", PLANNER))
    mesh.write("agents/retriever.py", server("retriever one"))
    tables = (("retriever", retriever), ("planner", planner))
    text = "".join(
        f'[agents.{name}]\ncommand = "agents/{name}.py"\nport = {mesh.port(name)}\n{keys}\n' for name, keys in tables
    )
    mesh.config(text, mesh=top)


def composed(mesh: Mesh, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(mesh.ok("export", "compose", *words))
    return found


def synchronised(service: dict[str, Any]) -> set[str]:
    return {rule["path"] for rule in service["develop"]["watch"] if rule["action"] == "sync+restart"}


# ---- Compose -------------------------------------------------------------------------------------------------------


def test_the_files_of_each_agent_are_found(mesh: Mesh) -> None:
    with_two_agents(mesh, planner='depends_on = ["retriever"]\nwatch = ["prompts/**/*.md"]')
    mesh.write("prompts/plan.md", "plan\n")
    mesh.write("Dockerfile", "FROM scratch\n")
    mesh.write("uv.lock", "")
    services = composed(mesh)["services"]
    assert synchronised(services["planner"]) == {
        "./mesh.toml",
        "./agents/planner.py",
        "./agents/common.py",
        "./prompts",
    }
    assert synchronised(services["retriever"]) == {"./mesh.toml", "./agents/retriever.py"}
    rebuilt = [rule["path"] for rule in services["planner"]["develop"]["watch"] if rule["action"] == "rebuild"]
    assert rebuilt == ["./Dockerfile", "./uv.lock"]
    assert services["planner"]["depends_on"]["retriever"] == {"condition": "service_healthy"}


def test_what_an_earlier_run_has_read_is_taken_over_too(mesh: Mesh) -> None:
    with_two_agents(mesh)
    mesh.up()
    mesh.ok("down")
    assert "./agents/prompt.md" in synchronised(composed(mesh)["services"]["planner"])


def test_talk_and_data_are_apart(mesh: Mesh) -> None:
    with_two_agents(mesh, planner="essential = true")
    done = mesh.run("export", "compose")
    assert done.code == 0
    assert yaml.safe_load(done.out)["name"] == "under-test"
    warnings = done.err.splitlines()
    assert all(line.startswith("warning: ") for line in warnings)
    assert any("planner: `essential`" in line for line in warnings)
    assert "# `essential`: Compose goes on without it" in done.out


def test_an_export_leaves_nothing_behind(mesh: Mesh) -> None:
    with_two_agents(mesh)
    before = sorted(mesh.root.rglob("*"))
    mesh.ok("export", "compose")
    mesh.ok("export", "systemd")
    after = {path for path in mesh.root.rglob("*") if "__pycache__" not in path.parts}
    assert after == {path for path in before if "__pycache__" not in path.parts}


def test_no_secret_of_shell_or_env_file_is_in_what_is_written(mesh: Mesh) -> None:
    mesh.write(".env", "DOTENV_KEY=dotenv-4711\n")
    mesh.write("planner.env", "FILE_KEY=file-4711\n")
    with_two_agents(mesh, planner='env_file = "planner.env"\nenv = { A = "${SHELL_KEY}", B = "${DOTENV_KEY}" }')
    for verb in ("compose", "systemd"):
        done = mesh.run("export", verb, env={"SHELL_KEY": "shell-4711"})
        assert done.code == 0, done.err
        assert "4711" not in done.out + done.err
        assert "SHELL_KEY" in done.out


def test_a_variable_that_is_not_set_is_said(mesh: Mesh) -> None:
    with_two_agents(mesh, planner='env = { A = "${SHELL_KEY}" }')
    done = mesh.run("export", "compose")
    assert (done.code, done.out) == (2, "")
    assert "mesh.toml: agents.planner.env.A: ${SHELL_KEY} is not set" in done.err


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_written_replaced_and_protected(mesh: Mesh) -> None:
    with_two_agents(mesh)
    file = mesh.root / "compose.yaml"
    assert "a registry and 2 agents" in mesh.run("export", "compose", "-o", "compose.yaml").err
    first = file.read_text()
    assert yaml.safe_load(first) == composed(mesh)
    mesh.ok("export", "compose", "-o", "compose.yaml")  # ours, and nobody has touched it
    assert file.read_text() == first
    file.write_text(first + "# mine\n")
    done = mesh.run("export", "compose", "-o", "compose.yaml")
    assert done.code == 2
    assert "compose.yaml: was not written by `meshsup export`, or was edited since; --force replaces it" in done.err
    assert file.read_text() == first + "# mine\n"
    mesh.ok("export", "compose", "-o", "compose.yaml", "--force")
    assert file.read_text() == first
    assert [path.name for path in mesh.root.glob(".compose*")] == []


def test_a_link_stays_a_link_and_a_mode_a_mode(mesh: Mesh) -> None:
    with_two_agents(mesh)
    target = mesh.write("deploy/real.yaml", "")
    target.chmod(0o640)
    (mesh.root / "compose.yaml").symlink_to("deploy/real.yaml")
    mesh.ok("export", "compose", "-o", "compose.yaml", "--force")
    assert (mesh.root / "compose.yaml").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    # Paths are relative to where the file really is.
    assert "../agents/planner.py" in synchronised(yaml.safe_load(target.read_text())["services"]["planner"])


@pytest.mark.parametrize("name", ["nowhere/compose.yaml", "agents", "/dev/null/x"])
def test_a_place_that_cannot_be_written_to_is_said(mesh: Mesh, name: str) -> None:
    with_two_agents(mesh)
    done = mesh.run("export", "compose", "-o", name)
    assert done.code == 2
    assert f"{name}: " in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compose", "--app", "relative"), "--app relative: must be an absolute path in the image"),
        (("compose", "--dockerfile", "none"), "--dockerfile none: no such file"),
    ],
)
def test_what_cannot_be_is_a_sentence(mesh: Mesh, words: tuple[str, ...], said: str) -> None:
    with_two_agents(mesh)
    done = mesh.run("export", *words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


# ---- those it is written for ---------------------------------------------------------------------------------------


def compose_command() -> list[str]:
    """Compose v2, as a plug-in of docker or by itself."""
    named = os.environ.get("MESHSUP_TEST_COMPOSE")
    for words in ([named] if named else []), ["docker", "compose"], ["docker-compose"]:
        if words and shutil.which(words[0]) is not None:
            done = subprocess.run([*words, "version", "--short"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.startswith("1."):
                return words
    pytest.skip("no Docker Compose v2 here (docker compose, docker-compose, or MESHSUP_TEST_COMPOSE names one)")


FULL = """
[mesh]
name = "full"
env_file = "all of them.env"
env = { LEVEL = "${LEVEL:-info}" }
stop_timeout = 20

[defaults]
env = { PRICE = "5$ each" }

[agents.on]
command = "agents/on.py"
port = 8201
profiles = ["extra", "a box"]
restart = "on-failure"
essential = true

[agents.migrate]
command = "agents/migrate.py"
type = "task"

[agents.planner_2]
command = "agents/planner.py"
port = 8202
env_file = "planner.env"
env = { KEY = "${KEY}" }
depends_on = { migrate = {}, on = { condition = "started", restart = true } }
watch = ["prompts/**/*.md", "!prompts/draft.md"]
live = { http = "/livez", interval = 0.5 }

[agents.node]
command = ["node", "server.js"]
directory = "web $5"
"""


def with_everything(mesh: Mesh) -> None:
    for name in ("on", "migrate", "planner"):
        mesh.write(f"agents/{name}.py", "import os\n")
    for name in ("all of them.env", "planner.env", "Dockerfile", ".dockerignore", "web $5/server.js", "prompts/a.md"):
        mesh.write(name, "")
    mesh.write("Dockerfile", "FROM scratch\n")
    mesh.write("mesh.toml", FULL)


def test_compose_accepts_it(mesh: Mesh) -> None:
    command = compose_command()
    with_everything(mesh)
    done = mesh.run("export", "compose", "-o", "deploy/../compose.yaml", env={"KEY": "key-4711"})
    assert done.code == 0, done.err
    read = subprocess.run(
        [*command, "-f", str(mesh.root / "compose.yaml"), "--profile", "*", "config", "--format", "json"],
        env={**mesh.environ, "KEY": "from-the-shell", "HOME": str(mesh.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    whole = json.loads(read.stdout)
    assert whole["name"] == "full"
    services = whole["services"]
    assert set(services) == {"registry", "on", "migrate", "planner_2", "node"}
    planner = services["planner_2"]
    assert planner["environment"]["KEY"] == "from-the-shell"
    assert "KEY" not in services["node"]["environment"]
    assert planner["environment"]["MESHSUP_REGISTRY_URL"] == "http://registry:8000"
    assert not planner.get("read_only")
    assert planner["depends_on"]["on"] == {"condition": "service_started", "required": True, "restart": True}
    assert planner["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert planner["ports"][0]["host_ip"] == "127.0.0.1" and planner["ports"][0]["published"] == "8202"
    assert {secret["target"] for secret in planner["secrets"]} == {"/app/all of them.env", "/app/planner.env"}
    paths = {rule["path"] for rule in services["node"]["develop"]["watch"]}
    assert str(mesh.root / "web $5") in {path.replace("$$", "$") for path in paths}


TOLD = """
[mesh]
name = "${NAME:-told}"
stop_timeout = "${STOP:-20}"

[registry]
port = "${R_PORT:-8200}"

[agents.a]
command = ["true"]
port = "${A_PORT:-8201}"
start_timeout = "${START:-30}"
live = { http = "/livez", interval = "${EVERY:-5}", failures = "${FAILURES:-3}" }
"""


def test_compose_puts_in_what_variables_say(mesh: Mesh) -> None:
    command = compose_command()
    mesh.write("mesh.toml", TOLD)
    mesh.write(".env", "A_PORT=8302\n")
    # Other values at the export than later on.
    done = mesh.run("export", "compose", "-o", "compose.yaml", env={"NAME": "before", "STOP": "7"})
    assert done.code == 0, done.err
    told = {"NAME": "after", "STOP": "12.5", "A_PORT": "8301", "R_PORT": "8300", "START": "90", "EVERY": "2.5"}
    read = subprocess.run(
        [*command, "-f", str(mesh.root / "compose.yaml"), "config", "--format", "json"],
        env={**mesh.environ, **told, "HOME": str(mesh.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    whole = json.loads(read.stdout)
    a, registry = whole["services"]["a"], whole["services"]["registry"]
    assert (whole["name"], a["image"]) == ("after", "after:latest")
    assert (a["ports"][0]["published"], a["ports"][0]["target"]) == ("8301", 8301)
    assert a["environment"]["A_PORT"] == "8301"
    assert registry["ports"][0]["target"] == 8300 and "8300" in registry["command"]
    assert a["environment"]["MESHSUP_REGISTRY_URL"] == "http://registry:8300"
    assert a["stop_grace_period"] == "14.5s"
    checked = a["healthcheck"]
    assert (checked["interval"], checked["retries"], checked["start_period"]) == ("2.5s", 3, "1m30s")


def test_a_line_of_dotenv_that_compose_reads_otherwise_is_told_by_its_number(mesh: Mesh) -> None:
    with_two_agents(mesh)
    mesh.write(".env", "# keys\n\nA=plain\n\n\nPASSWORD=pa$word-4711\n")
    done = mesh.run("export", "compose")
    assert done.code == 0, done.err
    assert "warning: line 6 of .env: Compose puts something else in" in done.err
    assert "4711" not in done.out + done.err


def test_compose_and_we_agree_on_all_other_lines_of_dotenv(mesh: Mesh) -> None:
    command = compose_command()
    names = {
        "BRACED": "a${HOME}/b",
        "DEFAULT": "${NOPE:-b}",
        "EARLIER": "${BRACED}!",
        "PLAIN": "$5 $(date) $",
        "SINGLE": "'a$HOME $$'",
    }
    told = {"BARE": "a$HOME/b", "DOUBLED": "$$", "OTHER": "${NOPE-b}", "BRACED_IN_SINGLE": "'${HOME}'"}
    lines = [f"{name}={value}\n" for name, value in {**names, **told}.items()]
    env_file = mesh.write(".env", "".join(lines))
    mesh.write("mesh.toml", '[agents.a]\ncommand = ["true"]\n')
    done = mesh.run("export", "compose", "-o", "compose.yaml")
    assert "warning: lines 6, 7, 8, 9 of .env" in done.err
    environ = {**mesh.environ, "HOME": "/home/ada"}
    read = subprocess.run(
        [*command, "-f", str(mesh.root / "compose.yaml"), "config", "--format", "json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert read.returncode == 0, read.stderr
    theirs = {
        name: str(v).replace("$$", "$") for name, v in json.loads(read.stdout)["services"]["a"]["environment"].items()
    }
    ours = read_env_file(env_file, environ)
    assert {name for name in {**names, **told} if theirs[name] != ours[name]} == set(told)


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("no systemd-analyze here")
    return found


def verified(systemd_analyze: str, file: Path) -> str:
    """What it finds fault with; '' for nothing."""
    done = subprocess.run([systemd_analyze, "verify", str(file)], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if file.name in line or str(file) in line]
    assert done.returncode == 0 or ours, done.stderr
    return "\n".join(ours)


def test_systemd_accepts_the_unit(mesh: Mesh, systemd_analyze: str) -> None:
    with_two_agents(mesh)
    done = mesh.run("export", "systemd", "-o", "mesh-test.service")
    assert "to be installed as /etc/systemd/system/mesh-under-test.service" in done.err
    unit = mesh.root / "mesh-test.service"
    assert verified(systemd_analyze, unit) == ""
    # It can fail: a key that is none, and a program that is not there, are found.
    unit.write_text(unit.read_text().replace("KillMode=", "KillMood=").replace("/meshsup ", "/nosuchsup "))
    complaints = verified(systemd_analyze, unit)
    assert "KillMood" in complaints and "nosuchsup" in complaints


def test_a_folder_with_an_odd_name(mesh: Mesh, systemd_analyze: str) -> None:
    odd = mesh.root / '100% "odd" $HOME'
    odd.mkdir()
    (odd / "mesh.toml").write_text("")
    done = mesh.run("-C", str(odd), "export", "systemd", "-o", "odd.service")
    assert done.code == 0, done.err
    assert verified(systemd_analyze, mesh.root / "odd.service") == ""
    text = (mesh.root / "odd.service").read_text()
    assert f'-f "{mesh.root}/100%% \\"odd\\" $$HOME/mesh.toml" up --prod' in text


def test_a_folder_that_no_unit_can_name(mesh: Mesh) -> None:
    odd = mesh.root / "both \" and '"
    odd.mkdir()
    (odd / "mesh.toml").write_text("")
    done = mesh.run("-C", str(odd), "export", "systemd")
    assert (done.code, done.out) == (1, "")
    assert "a unit file has no way to write this path; use another folder" in done.err


def test_the_unit_is_of_whoever_owns_the_mesh(mesh: Mesh) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    nobody = pwd.getpwnam("nobody")
    os.chown(mesh.root, nobody.pw_uid, nobody.pw_gid)
    mesh.write("mesh.toml", "")
    assert "\nUser=nobody\n" in mesh.ok("export", "systemd")


def with_writes(mesh: Mesh, *claimed: str) -> None:
    """The mesh was run, and planner has told that it writes these."""
    folder = mesh.root / ".mesh"
    folder.mkdir(mode=0o700)
    Traces(folder).keep("planner", Traced(writes={str(mesh.root / text): 1 for text in claimed}))


def opened(unit: str) -> set[str]:
    return {line.partition("=-")[2] for line in unit.splitlines() if line.startswith("ReadWritePaths=-")}


def test_where_agents_were_seen_to_write_is_opened(mesh: Mesh) -> None:
    with_two_agents(mesh)
    for name in ("data/x.json", "data/sub/x.json", "agents/out/x", "notes.txt", "gone/x"):
        mesh.write(name, "")
    shutil.rmtree(mesh.root / "gone")
    with_writes(mesh, "data/x.json", "data/sub/*", "agents/out/x", "notes.txt", "gone/x")
    done = mesh.run("export", "systemd")
    assert opened(done.out) == {f"{mesh.root}/{name}" for name in (".mesh", "data", "agents/out", "notes.txt")}
    assert "seen to write" not in done.err


def test_no_claim_of_an_agent_opens_code_configuration_or_what_lies_elsewhere(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with_two_agents(mesh, planner='watch = ["prompts/**/*.md"]\nenv_file = "conf/planner.env"')
    for name in ("prompts/plan.md", "conf/planner.env", "uv.lock", ".git/hooks/x", ".env", "fine/x", "line\nbreak/x"):
        mesh.write(name, "")
    mesh.write("agents/__pycache__/planner.pyc", "")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    links = {"x": "/", "out": str(elsewhere), "code": "agents", "me.toml": "mesh.toml", "loop": "loop"}
    for name, target in links.items():
        (mesh.root / name).symlink_to(target)
    claimed = ["x/y", "x/etc/*", "out/y", "code/y", "me.toml", "loop/y", "loop", "../y", "fine/../agents/y", "y"]
    claimed += ["mesh.toml", "agents/z", "agents", "prompts/*", "conf/z", "uv.lock", ".env", ".git/hooks/pre-commit"]
    with_writes(mesh, *claimed, "agents/__pycache__/z", ".venv/z", "line\nbreak/z", "fine/z")
    done = mesh.run("export", "systemd")
    assert done.code == 0, done.err
    assert opened(done.out) == {f"{mesh.root}/{name}" for name in (".mesh", "fine")}
    assert f"agents were seen to write into {mesh.root}/.env, {mesh.root}/agents, " in done.err
    assert f"agents were seen to write into {mesh.root}/line\\nbreak: read-only for the unit" in done.err


def test_beside_a_program_that_is_watched_by_folder_only_what_is_no_input_is_opened(mesh: Mesh) -> None:
    mesh.write("mesh.toml", '[agents.planner]\ncommand = ["node", "web/server.js"]\n')
    for name in ("web/server.js", "data/x.json", "seen/x.json"):
        mesh.write(name, "")
    mesh.write(".gitignore", "data/\n")
    with_writes(mesh, "web/x.js", "data/x.json", "seen/x.json")
    assert opened(mesh.run("export", "systemd").out) == {f"{mesh.root}/.mesh", f"{mesh.root}/data"}


def test_where_a_program_starts_of_which_nothing_is_known_nothing_is_opened(mesh: Mesh) -> None:
    uv = '[agents.planner]\ncommand = ["uv", "run", "serve"]\ndirectory = "libs"\n'
    mesh.write("mesh.toml", uv)
    for name in ("libs/x/y.py", "data/x.json"):
        mesh.write(name, "")
    with_writes(mesh, "libs/x/y.py", "libs/z", "data/x.json")
    assert opened(mesh.run("export", "systemd").out) == {f"{mesh.root}/.mesh", f"{mesh.root}/data"}


def test_where_the_links_of_an_interpreter_lead_is_needed_too(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "versions/3/bin").mkdir(parents=True)
    (home / "versions/3/bin/python3").symlink_to(sys.executable)
    (home / "current").symlink_to("versions/3")
    (home / "src").mkdir()
    (mesh.root / ".venv/bin").mkdir(parents=True)
    (mesh.root / ".venv/bin/python").symlink_to(home / "current/bin/python3")
    (mesh.root / "sources").symlink_to(home / "src")
    mesh.write("mesh.toml", '[agents.a]\ncommand = ["true"]\ndirectory = "sources"\n')
    places = asyncio.run(machine_of(load(mesh.root / "mesh.toml", os.environ, mode=Mode.PROD))).places
    assert {
        mesh.root / ".venv/bin/python",
        home / "current/bin/python3",
        home / "versions/3/bin/python3",
        Path(sys.executable).resolve(),
        home / "src",
        Path(sys.base_prefix),
    } <= set(places)
