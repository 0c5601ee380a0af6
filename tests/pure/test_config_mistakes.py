"""mesh.toml that is wrong: each mistake is one line that says where, what, and what to write instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesh_supervisor.config import load
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.mesh_toml.models import LATER_AGENT_KEYS
from tests.pure.meshfile import SHELL, MeshFile

# ---- the file ------------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, SHELL)
    return str(caught.value)


def test_missing(mesh: MeshFile) -> None:
    assert refusal(mesh.path) == f"{mesh.path}: no such file; `meshsup init` writes one"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable(mesh: MeshFile) -> None:
    mesh.write("")
    mesh.path.chmod(0)
    assert refusal(mesh.path) == f"{mesh.path}: cannot be read: Permission denied"


def test_unreadable_for_another_reason(mesh: MeshFile) -> None:
    mesh.path.symlink_to(mesh.path)
    assert "cannot be read: " in refusal(mesh.path)


def test_a_folder(mesh: MeshFile) -> None:
    assert refusal(mesh.root) == f"{mesh.root}: is no file"


def test_a_pipe_does_not_hang(mesh: MeshFile) -> None:
    os.mkfifo(mesh.path)
    assert refusal(mesh.path) == f"{mesh.path}: is no file"


def test_bytes(mesh: MeshFile) -> None:
    mesh.path.write_bytes(b"[mesh]\nname = '\xff'")
    assert refusal(mesh.path) == "mesh.toml: is not UTF-8; save it as UTF-8 (line 2)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[mesh]\nname = demo", "this is no value; a string needs quotes, truth values are true and false (line 2, "),
        ("port: 3", "a key is followed by '=' and its value (line 1, column 5)"),
        ("[agents.a]\n[agents.a]", "agents.a is declared twice; keep one (line 2, column 10)"),
        ("a = 1\na = 2", "this key is written twice; keep one ("),
        ("a = 'x\n", "a string has no closing quote"),
        ('a = "x\n', "a string has no closing quote on its line (line 1, column 7)"),
        ('a = "C:\\dir"', "a backslash in a string is doubled, or the string stands in 'single quotes' (line 1, "),
        ("[a", "expected ']' at the end of a table declaration (end of document)"),
    ],
)
def test_syntax(mesh: MeshFile, text: str, told: str) -> None:
    (only,) = mesh.mistakes(text)
    assert only.startswith(f"not TOML: {told}")


def test_nesting_has_an_end(mesh: MeshFile) -> None:
    assert mesh.mistakes("a = " + "[" * 5000) == ["is nested too deeply"]


# ---- keys ----------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_in_the_order_of_the_file(mesh: MeshFile) -> None:
    text = """\
[watch]
debounce = "fast"
[agents.b]
command = ["true"]
port = 70000
[mesh]
mode = "devel"
[agents.a]
command = "nowhere.py"
cwd = "."
"""
    assert mesh.mistakes(text) == [
        'watch.debounce: must be a number of seconds, such as 30, without quotes; not "fast" (line 2)',
        "agents.b.port: must be at most 65535, not 70000 (line 5)",
        'mesh.mode: must be "dev" or "prod", not "devel"; did you mean "dev"? (line 7)',
        "agents.a.command: no such file: nowhere.py (line 9)",
        "agents.a.cwd: unknown key; did you mean 'directory'? (line 10)",
    ]


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("cmd", "command"),
        ("comand", "command"),
        ("cwd", "directory"),
        ("depends", "depends_on"),
        ("depends-on", "depends_on"),
        ("environment", "env"),
        ("ports", "port"),
        ("Port", "port"),
        ("working_dir", "directory"),
        ("readiness_probe", "ready"),
        ("autorestart", "restart"),
        ("workdir", "directory"),
    ],
)
def test_words_of_other_tools(mesh: MeshFile, key: str, ours: str) -> None:
    assert mesh.mistake(f"{key} = 1") == f"{key}: unknown key; did you mean '{ours}'?"


def test_a_word_that_is_two_of_ours(mesh: MeshFile) -> None:
    assert mesh.mistake("healthcheck = {}").startswith("healthcheck: unknown key; write ready = { … } for")


def test_a_word_like_none_of_ours_gets_the_list(mesh: MeshFile) -> None:
    assert mesh.mistake("zzz = 1").startswith("zzz: unknown key; there are: command, module, port, ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[services.a]", "services: unknown key; did you mean 'agents'? (line 1)"),
        ("[agent.a]", "agent: unknown key; did you mean 'agents'? (line 1)"),
        ("[a]\ncommand = 'x'", "a: unknown key; an agent's table is [agents.a] (line 1)"),
        ("[mesh]\nenvironment = {}", "mesh.environment: unknown key; did you mean 'env'? (line 2)"),
        ("[watch]\nexclude = []", "watch.exclude: unknown key; did you mean 'ignore'? (line 2)"),
        ("agents = 3", "agents: must be a table, [agents], not 3 (line 1)"),
        ("[agents]\na = 3", "agents.a: must be a table, [agents.a], not 3 (line 2)"),
        (
            "[agents]\ncommand = 'x'",
            "agents.command: belongs to one agent; write it in [agents.NAME], where command is not the name (line 2)",
        ),
        ("[defaults]\nport = 1", "defaults.port: belongs to one agent; write it in [agents.NAME] (line 2)"),
        ("[defaults]\ncwd = '.'", "defaults.cwd: unknown key; did you mean 'directory'? (line 2)"),
    ],
)
def test_tables(mesh: MeshFile, text: str, told: str) -> None:
    assert mesh.mistakes(text) == [told]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("ready = { path = '/' }", "ready.path: unknown key; did you mean 'http'?"),
        ("live = { retries = 3 }", "live.retries: unknown key; did you mean 'failures'?"),
        ("stop = { grace_period = 3 }", "stop.grace_period: unknown key; did you mean 'timeout'?"),
    ],
)
def test_keys_of_inner_tables(mesh: MeshFile, keys: str, told: str) -> None:
    found = mesh.mistakes(f'[agents.a]\ncommand = ["true"]\n{keys}')
    assert f"agents.a.{told} (line 3)" in found


@pytest.mark.parametrize("key", LATER_AGENT_KEYS)
def test_keys_of_later_versions_are_never_accepted(mesh: MeshFile, key: str) -> None:
    assert mesh.mistake(f'{key} = "auto"') == f"{key}: is not available in this version; remove it"
    text = f"[defaults]\n{key} = false\n[agents.a]\ncommand = ['x']"
    assert mesh.mistakes(text) == [f"defaults.{key}: is not available in this version; remove it (line 2)"]


def test_postgresql_is_later_too(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes("[registry]\nstore = 'postgresql://u:p@db/x'")
    assert only.startswith("registry.store: this store is not available in this version")


@pytest.mark.parametrize("name", ["Planner", "my agent", "ä", "-x", "a.b", "", "a/b", "../x"])
def test_names(mesh: MeshFile, name: str) -> None:
    (only,) = mesh.mistakes(f'[agents."{name}"]\ncommand = ["true"]')
    assert "an agent's name is made of a-z, 0-9, - and _, and begins with a letter or digit" in only


def test_a_proper_name_is_proposed(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes('[agents."My Agent"]\ncommand = ["true"]')
    assert only.endswith(", as in 'my-agent' (line 1)")


@pytest.mark.parametrize("name", ["registry", "meshsup"])
def test_reserved_names(mesh: MeshFile, name: str) -> None:
    (only,) = mesh.mistakes(f"[agents.{name}]\ncommand = ['true']")
    assert only == f"agents.{name}: '{name}' is a reserved name; call the agent something else (line 1)"


def test_a_name_without_end(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes(f"[agents.{'a' * 64}]\ncommand = ['true']")
    assert "at most 63 characters" in only


# ---- types and limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('port = "8101"', 'port: must be a whole number, not "8101"; write 8101, without quotes'),
        ("port = 81.5", "port: must be a whole number, not 81.5"),
        ("port = true", "port: must be a whole number, not true"),
        ("port = -1", "port: must be at least 0, not -1"),
        ("host = 3", 'host: must be a string, not 3; write "3", with quotes'),
        ('host = "http://x"', 'host: must be a host name or an address alone, such as "127.0.0.1"'),
        ('host = "0.0.0.0:80"', 'host: must be a host name or an address alone, such as "127.0.0.1"'),
        ('args = "--x"', 'args: must be a list, not "--x"; write ["--x"]'),
        (
            'depends_on = [{ agent = "x", restart = true }]',
            "depends_on[0]: must be a string, not a table; names alone are a list, else write "
            "depends_on = { NAME = { restart = true } }",
        ),
        ("args = [1]", 'args[0]: must be a string, not 1; write "1", with quotes'),
        ('env = "A=1"', 'env: must be a table, not "A=1"; write env = { NAME = "value" }'),
        ("env = { A = true }", 'env.A: must be a string: write "true", with quotes'),
        ("env = { A = 1.5 }", 'env.A: must be a string: write "1.5", with quotes'),
        ("env = { A = 2020-01-01 }", "env.A: must be a string, not a date or time"),
        ('env = { "A=B" = "x" }', 'env: no variable can be called "A=B"'),
        ("essential = 1", "essential: must be true or false, not 1"),
        ("start_timeout = 0", "start_timeout: must be more than 0, not 0"),
        ("start_timeout = inf", "start_timeout: must be at most 1000000000.0, not inf"),
        (
            'start_timeout = "10m"',
            'start_timeout: must be a number of seconds, such as 30, without quotes; not "10m"',
        ),
        ('ready = "/health"', 'ready: must be a table, not "/health"; write ready = { http = "/health" }'),
        ('ready = { http = "health" }', 'ready.http: must be a path on the agent, such as "/health", or a whole URL'),
        ("ready = { tcp = false }", "ready.tcp: must be true, not false"),
        ('ready = { tcp = "x" }', "ready.tcp: must be true (the agent's own port) or a port number"),
        ('ready = { exec = "x" }', 'ready.exec: must be a list, not "x"; write ["x"]'),
        (
            "ready = { tcp = true }",
            "ready.tcp: needs the agent's port; give it one, or write the number of another port",
        ),
        ('ready = { http = "/x" }', "ready.http: needs the agent's port; give it one, or write a whole URL"),
        ("ready = { tcp = 1, notify = true }", "ready: has tcp and notify; it can have one of them"),
        (
            "live = { interval = 3 }",
            'live: says not how; write one of http, tcp, exec, notify, as in live = { http = "/livez" }',
        ),
        ("watch = true", "watch: must be false, not true"),
        ('watch = "x"', "watch: must be a list of patterns, or false (then no save reloads it)"),
        ('watch = ["!"]', 'watch[0]: is no gitignore pattern: "!"'),
        (
            'restart = "alway"',
            'restart: must be "always", "on-failure" or "never", not "alway"; did you mean "always"?',
        ),
        ("backoff = { initial = 9, max = 5 }", "backoff.max: must be at least initial (9)"),
        ("backoff = { factor = 0.5 }", "backoff.factor: must be at least 1, not 0.5"),
        ("backoff = { factor = 1e308 }", "backoff.factor: must be at most 1000, not 1e+308"),
        ("live = { notify = true, interval = 1e308 }", "live.interval: must be at most 1000000000.0, not 1e+308"),
        ("start_timeout = nan", "start_timeout: must be more than 0, not nan"),
        ("crashloop = { crashes = 0 }", "crashloop.crashes: must be at least 1, not 0"),
        ('capabilities = ["a", "a"]', "capabilities[1]: 'a' stands here twice"),
        ("capabilities = [{ version = '1' }]", "capabilities[0]: has no name"),
        ("capabilities = [3]", "capabilities[0]: must be a name, or a table with name, version, tags"),
        ('register = "supervisor"', "register: needs a port: others are told where it is; give it one"),
        ('depends_on = "b"', "depends_on: must be a list of agents' names, or a table with a table for each"),
        ('depends_on = ["registry"]', "depends_on.registry: the registry is always first; leave it out"),
        ('depends_on = ["a"]', "depends_on: a waits for itself; remove it here"),
        ('env_file = "no.env"', "env_file: no such file: no.env"),
    ],
)
def test_one_wrong_key(mesh: MeshFile, keys: str, told: str) -> None:
    assert mesh.mistake(keys) == told


def test_a_stop_signal_without_its_prefix(mesh: MeshFile) -> None:
    told = mesh.mistake('stop = { signal = "int" }')
    assert told.endswith('not "int"; did you mean "SIGINT"?')


def test_a_regular_expression_that_is_none(mesh: MeshFile) -> None:
    assert mesh.mistake('ready = { log = "(" }').startswith("ready.log: is no regular expression: missing )")


def test_sizes(mesh: MeshFile) -> None:
    told = 'logs.max_size: must be a number of bytes or a size such as "10MiB" (line 2)'
    assert mesh.mistakes('[logs]\nmax_size = "10 Meg"') == [told]
    assert mesh.mistakes("[logs]\nmax_size = 10") == ["logs.max_size: must be at least 1024, not 10 (line 2)"]


# ---- programs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('command = "agents/planer.py"', 'command: no such file: agents/planer.py; did you mean "agents/planner.py"?'),
        ('command = "nowhere/x.py"', "command: no such file: nowhere/x.py"),
        (
            'command = "uv run planner"',
            'command: no such file: uv run planner; a command line is a list: command = ["uv", "run", "planner"]',
        ),
        (
            'command = "python agents/planner.py --fast"',
            "command: no such file: python agents/planner.py --fast; "
            'write command = "agents/planner.py" and args = ["--fast"]',
        ),
        (
            'command = "python3.12 -m planner.app"',
            'command: no such file: python3.12 -m planner.app; write module = "planner.app"',
        ),
        (
            'command = "agents/planner.py \'a b\'"',
            'command: no such file: agents/planner.py \'a b\'; write command = "agents/planner.py" and args = ["a b"]',
        ),
        (
            'command = "planner"',
            "command: no such file: planner; a program that is no script of yours is a list: command = [\"planner\"]",
        ),
        ('command = "agents"', "command: agents is a folder; name the script in it"),
        ('command = "run.sh"', 'command: run.sh is no Python script; write command = ["sh", "run.sh"]'),
        (
            'command = "run.sh"\ndirectory = "agents"',
            'command: run.sh is no Python script; write command = ["sh", "../run.sh"]',
        ),
        ('command = "serve"', 'command: serve is no Python script; write command = ["./serve"]'),
        ('command = ""', "command: must not be empty"),
        ("command = []", "command: must not be empty"),
        ('command = [" "]', "command[0]: its first word is empty"),
        ("command = 3", 'command: must be a script, "agents/x.py", or a command line as a list, ["uv", "run", "x"]'),
        ('module = "agents/planner.py"', 'module: must be a module such as "planner.app", not a file; '
            'write command = "agents/planner.py"'),
        ('module = "app:main"', 'module: must be a module alone; for a server that loads it '
            'write command = ["uvicorn", "app:main"]'),
        ('module = "a-b"', 'module: must be a module such as "planner.app", not "a-b"'),
        ('command = ["x"]\nmodule = "x"', "module: stands beside command; an agent is one of them"),
        ('command = ["x"]\ndirectory = "agent"', 'directory: no such folder: agent; did you mean "agents"?'),
        ('command = ["x"]\ndirectory = "run.sh"', "directory: run.sh is a file, not a folder"),
        ('command = ["x"]\npython = "run.sh"', "python: run.sh is not executable"),
        (
            'command = ["x"]\npython = ".venv/bin/python"',
            "python: no such interpreter: .venv/bin/python; make the environment, or leave python out",
        ),
        (
            'command = ["x"]\npython = "python9"',
            "python: no such interpreter here or in PATH: python9; make the environment, or leave python out",
        ),
        ('command = ["x"]\npython = "env"', 'python: env is a folder; write "env/bin/python"'),
        (
            'command = ["x"]\npython = "gone"',
            "python: gone is a link to an interpreter that is gone; make the environment again",
        ),
    ],
)  # fmt: skip
def test_programs(mesh: MeshFile, keys: str, told: str) -> None:
    mesh.touch("agents/planner.py", "env/bin/python")
    mesh.touch("run.sh", content="#!/bin/sh\n")
    mesh.touch("serve", content="\x7fELF\0")
    (mesh.root / "gone").symlink_to("nowhere/python")
    (only,) = mesh.mistakes(f"[agents.a]\n{keys}")
    assert only.removeprefix("agents.a.").rpartition(" (line ")[0] == told


def test_no_command(mesh: MeshFile) -> None:
    told = 'agents.a: has no command; write command = "a/script.py" or module = "a.module" (line 1)'
    assert mesh.mistakes("[agents.a]\nport = 1") == [told]


# ---- agents beside each other --------------------------------------------------------------------------------------


def test_two_agents_with_one_port(mesh: MeshFile) -> None:
    text = "".join(
        f"[agents.{name}]\ncommand = ['x']\nport = {port}\n" for name, port in zip("abc", (1, 2, 1), strict=True)
    )
    told = "agents.c.port: 1 is already agents.a.port; give one of them another port (line 9)"
    assert mesh.mistakes(text) == [told]


def test_an_agent_with_the_registrys_port(mesh: MeshFile) -> None:
    text = "[registry]\nport = 8500\n[agents.a]\ncommand = ['x']\nport = 8500"
    assert mesh.mistakes(text) == [
        "agents.a.port: 8500 is already registry.port; give one of them another port (line 5)"
    ]


def test_two_ports_from_the_environment_can_be_one(mesh: MeshFile) -> None:
    text = "".join(f"[agents.{name}]\ncommand = ['x']\nport = '${{P}}'\n" for name in "ab")
    (only,) = mesh.mistakes(text, {"P": "81"})
    assert only.startswith("agents.b.port: 81 is already agents.a.port")


def agents(**wanted: list[str]) -> str:
    return "".join(f"[agents.{name}]\ncommand = ['x']\ndepends_on = {others}\n" for name, others in wanted.items())


def test_unknown_dependency(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes(agents(planner=["retrever"], retriever=[]))
    assert only == "agents.planner.depends_on: no agent is called 'retrever'; did you mean 'retriever'? (line 3)"


def test_each_cycle_once(mesh: MeshFile) -> None:
    assert mesh.mistakes(agents(a=["b"], b=["c", "d"], c=["a"], d=["e"], e=["d"], f=["a"])) == [
        "agents.a.depends_on: these wait for each other: a → b → c → a; remove one of them here (line 3)",
        "agents.d.depends_on: these wait for each other: d → e → d; remove one of them here (line 12)",
    ]


def test_a_long_chain_is_no_cycle(mesh: MeshFile) -> None:
    names = [f"a{number}" for number in range(1500)]
    wanted = dict(zip(names, [[name] for name in names[1:]] + [[]], strict=True))
    assert len(mesh.read(agents(**wanted)).agents) == 1500


def test_waiting_for_the_end_of_what_never_ends(mesh: MeshFile) -> None:
    text = "[agents.a]\ncommand = ['x']\n[agents.b]\ncommand = ['x']\ndepends_on = { a = { condition = 'completed' } }"
    (only,) = mesh.mistakes(text)
    assert "a is a service that always runs, it never completes; make it a task" in only


# ---- registry, watch, mesh -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('kind = "command"', 'kind: is "command"; write command = ["…"] with it'),
        ('kind = "external"', 'kind: is "external"; write url = "http://…" with it'),
        ('command = ["x"]', 'command: goes with kind = "command"; kind is "embedded"'),
        ('url = "http://x"', 'url: goes with kind = "external"; kind is "embedded"'),
        ('kind = "external"\nurl = "x:8000"', 'url: must be a URL such as "http://registry.internal:8000"'),
        ('kind = "external"\nurl = "http://x:99999"', 'url: must be a URL such as "http://registry.internal:8000"'),
        ('kind = "external"\nurl = "http://x"\nport = 1', "port: stands in url when the registry is external"),
        ('store = "redis"', 'store: this store is not known; write "sqlite", or leave it out'),
        ("port = 0", "port: must be at least 1, not 0"),
    ],
)
def test_registry(mesh: MeshFile, keys: str, told: str) -> None:
    (only,) = mesh.mistakes(f"[registry]\n{keys}")
    assert only.removeprefix("registry.").rpartition(" (line ")[0] == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[watch]\nroots = ['../libs']", "watch.roots[0]: no such folder: ../libs (line 2)"),
        ("[watch]\nignore = ['!']", 'watch.ignore[0]: is no gitignore pattern: "!" (line 2)'),
        ("[mesh]\nname = 'My Mesh'", "mesh.name: must be made of a-z, 0-9, - and _, as in 'my-mesh' (line 2)"),
        ("[mesh]\nstate_dir = 'mesh.toml'", "mesh.state_dir: {root}/mesh.toml is a file, not a folder (line 2)"),
        ("[mesh]\nenv_file = 'no.env'", "mesh.env_file: no such file: no.env (line 2)"),
        ("[mesh]\nparallel_starts = 0", "mesh.parallel_starts: must be at least 1, not 0 (line 2)"),
    ],
)
def test_the_mesh(mesh: MeshFile, text: str, told: str) -> None:
    assert mesh.mistakes(text) == [told.replace("{root}", str(mesh.root))]


# ---- env files and interpolation -----------------------------------------------------------------------------------


def test_an_env_file_is_read_to_the_letter(mesh: MeshFile) -> None:
    mesh.touch(".env", content="A=1\nwhat is this\n")
    (only,) = mesh.mistakes("")
    assert only == "mesh.env_file: line 2 of .env is not NAME=value (a value with spaces or quotes goes into quotes)"


def test_an_env_file_of_bytes(mesh: MeshFile) -> None:
    (mesh.root / "x.env").write_bytes(b"A=\xff")
    assert mesh.mistake('env_file = "x.env"') == "env_file: x.env is not UTF-8 (byte 2)"


def test_an_env_file_that_is_a_pipe_does_not_hang(mesh: MeshFile) -> None:
    os.mkfifo(mesh.root / "x.env")
    assert mesh.mistake('env_file = "x.env"') == "env_file: x.env is no file"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${NOPE}", "${NOPE} is not set; export NOPE, put it into .env, or write ${NOPE:-default}"),
        ("${port}", "${port} needs the agent's port; give it one"),
        ("${agents.a.url}", "${agents.a.url}: a has no port; give it one"),
        ("${agents.b.url}", "${agents.b.url}: no agent is called 'b'; there are: a"),
        ("${A", "a ${ has no closing brace"),
        ("${A:-${B}}", "a ${ has no closing brace, or another brace inside"),
        ("${1:+x}", "${1:+x} is not understood; there are ${VAR}"),
        ("${}", "${} is not understood"),
        ("\\u0000", "has a NUL character, which no program can be given"),
    ],
)
def test_interpolation(mesh: MeshFile, text: str, told: str) -> None:
    assert mesh.mistake(f'args = ["{text}"]').startswith(f"args[0]: {told}")


def test_port_is_no_word_of_the_mesh(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes('[mesh]\nenv = { A = "${port}" }')
    assert only.startswith("mesh.env.A: ${port} is known only in [agents.NAME]")


def test_a_variable_that_is_no_number_is_not_shown(mesh: MeshFile) -> None:
    shell = {"P": "hunter22"}
    assert mesh.mistake('port = "${P}"', shell=shell) == "port: must be a whole number, not what ${…} came to"
    assert mesh.mistake('directory = "${P}/x"', shell=shell) == "directory: no such folder: •••/x"


# ---- one mistake, one line -----------------------------------------------------------------------------------------


def test_a_mistake_in_defaults_is_told_once_and_there(mesh: MeshFile) -> None:
    text = """\
[defaults]
restart = "alway"
stop = { signal = "TERM", timeout = 3 }
env_file = "no.env"
env = { A = "${NOPE}" }
[agents.a]
command = ["x"]
stop = { timeout = 5 }
[agents.b]
command = ["x"]
env_file = "mine.env"
"""
    places = [told.split(": ", 1)[0] for told in mesh.mistakes(text)]
    assert places == [
        "defaults.restart", "defaults.stop.signal", "defaults.env_file", "defaults.env.A", "agents.b.env_file"
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["a{99999999999999999999}", "(" * 5000 + ")" * 5000], ids=["huge", "nested"])
def test_a_regular_expression_that_python_chokes_on(mesh: MeshFile, pattern: str) -> None:
    assert mesh.mistake(f"ready = {{ log = '{pattern}' }}").startswith("ready.log: is no regular expression: ")


def test_so_many_log_files_that_their_names_alone_would_fill_the_memory(mesh: MeshFile) -> None:
    assert mesh.mistakes("[logs]\nkeep = 1000000000000") == [
        "logs.keep: must be at most 1000, not 1000000000000 (line 2)"
    ]


def test_an_env_file_whose_name_cannot_be(mesh: MeshFile) -> None:
    told = "has a NUL character, which no program can be given"
    assert mesh.mistakes('[mesh]\nenv_file = "a\\u0000"') == [f"mesh.env_file: {told} (line 2)"]
    assert mesh.mistake('env_file = "a\\u0000"') == f"env_file: {told}"
    assert "cannot be read: File name too long" in mesh.mistake(f'env_file = "{"x" * 300}"')


def test_a_key_cannot_garble_the_terminal(mesh: MeshFile) -> None:
    (only,) = mesh.mistakes('"\\u001b[2J\\nmesh.toml: all is well" = 1')
    assert only.startswith('"\\x1b[2J\\nmesh.toml: all is well": unknown key')


def test_a_long_value_is_cut(mesh: MeshFile) -> None:
    assert len(mesh.mistake(f'restart = "{"x" * 5000}"')) < 150
