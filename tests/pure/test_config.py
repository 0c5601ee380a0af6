"""mesh.toml that is right: what each key comes to."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from signal import Signals

import pytest

from mesh_supervisor.config import choose_mode
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.spec import (
    Backoff,
    Capability,
    CommandLine,
    Condition,
    CrashLoop,
    Dependency,
    ExecProbe,
    HttpProbe,
    Kind,
    LiveCheck,
    LogProbe,
    Mode,
    Module,
    NotifyProbe,
    Probe,
    ReadyCheck,
    Register,
    RegistrySpec,
    Restart,
    Script,
    StopRule,
    TcpProbe,
)
from tests.pure.meshfile import SHELL, MeshFile

# ---- defaults ------------------------------------------------------------------------------------------------------


def test_what_an_agent_is_when_only_its_command_is_written(mesh: MeshFile) -> None:
    mesh.touch("agents/planner.py")
    agent = mesh.read('[agents.planner]\ncommand = "agents/planner.py"').agents["planner"]
    assert agent.command == Script(mesh.root / "agents/planner.py")
    assert agent.directory == mesh.root
    assert (agent.port, agent.host, agent.python, agent.live) == (None, "127.0.0.1", None, None)
    assert (agent.ready, agent.stop) == (ReadyCheck(), StopRule(Signals.SIGTERM, 5.0))
    assert (agent.restart, agent.kind, agent.register) == (Restart.ALWAYS, Kind.SERVICE, Register.AUTO)
    assert (agent.backoff, agent.crashloop, agent.start_timeout) == (Backoff(), CrashLoop(), 600.0)
    assert (agent.watch, agent.args, agent.profiles, agent.depends_on) == ((), (), (), ())
    assert not agent.essential
    assert agent.environment == {}


def test_what_a_mesh_is_when_nothing_is_written_about_it(mesh: MeshFile) -> None:
    spec = mesh.read("")
    assert (spec.name, spec.root, spec.state_dir) == ("demo", mesh.root, mesh.root / ".mesh")
    assert (spec.mode, spec.mode_reason, spec.advertise) == (Mode.DEV, "the default", "127.0.0.1")
    assert (spec.stop_timeout, spec.parallel_starts) == (30.0, len(os.sched_getaffinity(0)))
    assert spec.registry == RegistrySpec("embedded", 8000, strict=False)
    assert (spec.watch.enabled, spec.watch.debounce, spec.logs.files) == (True, 0.05, True)
    assert spec.warnings == ("mesh.toml has no agents; write [agents.NAME] with a command",)


def test_prod_changes_these_defaults(mesh: MeshFile) -> None:
    spec = mesh.read('[agents.a]\ncommand = ["true"]', mode=Mode.PROD, mode_reason="--prod")
    assert (spec.mode, spec.mode_reason) == (Mode.PROD, "--prod")
    assert (spec.watch.enabled, spec.watch.debounce, spec.logs.files) == (False, 1.0, False)
    assert spec.agents["a"].stop.timeout == 10.0


def test_what_is_written_counts_in_every_mode(mesh: MeshFile) -> None:
    text = (
        "[watch]\nenabled = true\ndebounce = 0.2\n[logs]\nfiles = true\n[agents.a]\ncommand = ['x']\nstop.timeout = 3"
    )
    spec = mesh.read(text, mode=Mode.PROD)
    assert (spec.watch.enabled, spec.watch.debounce, spec.logs.files) == (True, 0.2, True)
    assert spec.agents["a"].stop.timeout == 3.0


def test_the_file_may_choose_the_mode(mesh: MeshFile) -> None:
    spec = mesh.read('[mesh]\nmode = "prod"')
    assert (spec.mode, spec.mode_reason, spec.watch.enabled) == (Mode.PROD, "mode in mesh.toml", False)


def test_alone_in_a_container(mesh: MeshFile) -> None:
    spec = mesh.read('[agents.a]\ncommand = ["true"]\nport = 8101', pid_one=True)
    assert (spec.agents["a"].host, spec.stop_timeout) == ("0.0.0.0", 8.0)


def test_the_command_line_wins_over_the_file(mesh: MeshFile) -> None:
    text = "[watch]\nenabled = true\ndebounce = 0.2"
    watch = mesh.read(text, watch=False, debounce=0.0).watch
    assert (watch.enabled, watch.debounce) == (False, 0.0)


def test_the_folders_name_becomes_a_proper_name(tmp_path: Path) -> None:
    folder = tmp_path / "My Agents (2)"
    folder.mkdir()
    assert MeshFile(folder).read("").name == "my-agents-2"


# ---- programs ------------------------------------------------------------------------------------------------------


def test_a_list_is_the_programs_own_words(mesh: MeshFile) -> None:
    mesh.touch("sub/x.py")
    agent = mesh.read('[agents.a]\ncommand = ["uv", "run", "../x"]\nargs = ["--fast"]\ndirectory = "sub"').agents["a"]
    assert agent.command == CommandLine(("uv", "run", "../x"))
    assert (agent.args, agent.directory) == (("--fast",), mesh.root / "sub")


def test_a_module(mesh: MeshFile) -> None:
    assert mesh.read('[agents.a]\nmodule = "planner.app"').agents["a"].command == Module("planner.app")


def test_a_script_is_relative_to_mesh_toml_whatever_the_directory_is(mesh: MeshFile) -> None:
    mesh.touch("agents/a.py")
    agent = mesh.read('[agents.a]\ncommand = "agents/a.py"\ndirectory = "agents"').agents["a"]
    assert agent.command == Script(mesh.root / "agents/a.py")


@pytest.mark.parametrize("first", ["", "#!/usr/bin/env python3\n"])
def test_a_script_needs_no_suffix(mesh: MeshFile, first: str) -> None:
    mesh.touch("bin/agent", content=f"{first}print()")
    assert mesh.read('[agents.a]\ncommand = "bin/agent"').agents["a"].command == Script(mesh.root / "bin/agent")


def test_a_link_to_an_interpreter_stays_a_link(mesh: MeshFile) -> None:
    link = mesh.root / ".venv/bin/python"
    link.parent.mkdir(parents=True)
    link.symlink_to("/bin/sh")
    assert mesh.agent('python = ".venv/bin/python"').python == link


def test_an_interpreter_by_its_name_in_path(mesh: MeshFile) -> None:
    mesh.touch("bin/python9")
    (mesh.root / "bin/python9").chmod(0o755)
    assert mesh.agent('python = "python9"', {"PATH": str(mesh.root / "bin")}).python == mesh.root / "bin/python9"


# ---- keys of an agent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "probe"),
    [
        ('http = "/health"', HttpProbe("/health")),
        ('http = "http://127.0.0.1:9/x"', HttpProbe("http://127.0.0.1:9/x")),
        ("tcp = true", TcpProbe(None)),
        ("tcp = 9000", TcpProbe(9000)),
        ('exec = ["test", "-f", "x"]', ExecProbe(("test", "-f", "x"))),
        ("log = 'ready in \\d+'", LogProbe(r"ready in \d+")),
        ("notify = true", NotifyProbe()),
        ("", None),
    ],
)
def test_probes(mesh: MeshFile, written: str, probe: Probe | None) -> None:
    comma = ", " if written else ""
    agent = mesh.agent(f"port = 8101\nready = {{ {written}{comma}interval = 0.2, timeout = 3 }}")
    assert agent.ready == ReadyCheck(probe, 0.2, 3.0)


def test_liveness(mesh: MeshFile) -> None:
    agent = mesh.agent('port = 1\nlive = { http = "/livez" }')
    assert agent.live == LiveCheck(HttpProbe("/livez"), 10.0, 1.0, 3)
    agent = mesh.agent("live = { notify = true, interval = 30, failures = 1, timeout = 2 }")
    assert agent.live == LiveCheck(NotifyProbe(), 30.0, 2.0, 1)


def test_policies(mesh: MeshFile) -> None:
    agent = mesh.agent(
        'restart = "on-failure"\nbackoff = { initial = 1, max = 5 }\ncrashloop = { crashes = 2 }\nessential = true\n'
        'stop = { signal = "SIGINT" }\ntype = "task"\nprofiles = ["x"]\nwatch = false\nstart_timeout = 5'
    )
    assert agent.restart is Restart.ON_FAILURE
    assert agent.backoff == Backoff(1.0, 2.0, 5.0, 30.0)
    assert agent.crashloop == CrashLoop(2, 60.0)
    assert agent.stop == StopRule(Signals.SIGINT, 5.0)
    assert (agent.essential, agent.kind, agent.profiles, agent.watch) == (True, Kind.TASK, ("x",), False)


def test_capabilities(mesh: MeshFile) -> None:
    agent = mesh.agent('port = 1\ncapabilities = ["plan", { name = "cut", version = "2.1", tags = ["a"] }]')
    assert agent.capabilities == (Capability("plan"), Capability("cut", "2.1", ("a",)))


def test_dependencies(mesh: MeshFile) -> None:
    text = """
        [agents.a]
        command = ["true"]
        [agents.job]
        command = ["true"]
        type = "task"
        [agents.b]
        command = ["true"]
        depends_on = ["a", "job"]
        [agents.c]
        command = ["true"]
        depends_on = { a = { condition = "started", restart = true }, b = {}, job = { condition = "ready" } }
    """
    agents = mesh.read(text).agents
    assert agents["b"].depends_on == (Dependency("a"), Dependency("job", Condition.COMPLETED))
    assert agents["c"].depends_on == (
        Dependency("a", Condition.STARTED, restart=True),
        Dependency("b"),
        Dependency("job", Condition.READY),
    )


def test_what_may_end_can_be_waited_for(mesh: MeshFile) -> None:
    text = """
        [agents.a]
        command = ["true"]
        restart = "on-failure"
        [agents.b]
        command = ["true"]
        depends_on = { a = { condition = "completed" } }
    """
    assert mesh.read(text).agents["b"].depends_on == (Dependency("a", Condition.COMPLETED),)


@pytest.mark.parametrize(
    ("written", "size"), [("2048", 2048), ('"1 KiB"', 1024), ('"2kb"', 2000), ('"10MiB"', 10 * 2**20), ('"1GB"', 10**9)]
)
def test_sizes(mesh: MeshFile, written: str, size: int) -> None:
    assert mesh.read(f"[logs]\nmax_size = {written}").logs.max_size == size


# ---- ports ---------------------------------------------------------------------------------------------------------


def test_port_zero_is_the_kept_one_and_the_rest_may_speak_of_it(mesh: MeshFile) -> None:
    asked: list[tuple[str, Collection[int]]] = []

    def kept_port(agent: str, avoid: Collection[int]) -> int:
        asked.append((agent, avoid))
        return 9123

    text = """
        [registry]
        port = 8500
        [agents.a]
        command = ["serve", "${port}"]
        port = 0
        [agents.b]
        command = ["true"]
        port = 8101
        env = { A = "${agents.a.url}" }
    """
    spec = mesh.read(text, kept_port=kept_port)
    assert spec.agents["a"].port == 9123
    assert spec.agents["a"].command == CommandLine(("serve", "9123"))
    assert spec.agents["b"].environment == {"A": "http://127.0.0.1:9123"}
    assert asked == [("a", {8101, 8500})]


def test_without_a_keeper_no_port_is_chosen(mesh: MeshFile) -> None:
    assert mesh.agent("port = 0").port == 0


def test_the_registry_moves_out_of_an_agents_way(mesh: MeshFile) -> None:
    spec = mesh.read('[agents.a]\ncommand = ["true"]\nport = 8000')
    assert (spec.registry.port, spec.registry.strict) == (8001, False)


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8101"), ("::", "http://[::1]:8101"), ("localhost", "http://localhost:8101")],
)
def test_url_of_an_agent_is_one_that_answers_on_this_machine(mesh: MeshFile, host: str, url: str) -> None:
    agent = mesh.agent(f'port = 8101\nhost = "{host}"\nargs = ["${{agents.a.url}}"]')
    assert agent.args == (url,)


# ---- registry ------------------------------------------------------------------------------------------------------


def test_registry_with_a_given_port_is_strict(mesh: MeshFile) -> None:
    assert mesh.read('[registry]\nport = 8500\nstore = "sqlite"').registry == RegistrySpec("embedded", 8500, True)


def test_registry_of_somebody_else(mesh: MeshFile) -> None:
    text = '[registry]\nkind = "command"\ncommand = ["mcp-mesh-registry", "--port", "${port}"]\n'
    assert mesh.read(text).registry == RegistrySpec("command", 8000, True, ("mcp-mesh-registry", "--port", "8000"))
    assert mesh.read(text + "port = 8500").registry.command[-1] == "8500"


def test_external_registry_and_what_others_are_told(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    text = '[registry]\nkind = "external"\nurl = "http://registry.internal:8000/"'
    spec = mesh.read(text)
    assert spec.registry == RegistrySpec("external", 8000, True, (), "http://registry.internal:8000")
    assert spec.advertise == "box"
    assert mesh.read(text + '\n[mesh]\nadvertise = "other"').advertise == "other"
    assert mesh.read(text, {"MESHSUP_ADVERTISE": "10.0.0.1"}).advertise == "10.0.0.1"


# ---- environment ---------------------------------------------------------------------------------------------------


def test_environment_precedence(mesh: MeshFile) -> None:
    mesh.touch("mesh.env", content="A=mesh-file\nB=mesh-file\nC=mesh-file\nD=mesh-file\n")
    mesh.touch("agent.env", content="A=agent-file\nB=agent-file\n")
    text = """
        [mesh]
        env_file = "mesh.env"
        env = { A = "mesh", B = "mesh", C = "mesh" }
        [agents.a]
        command = ["true"]
        env_file = "agent.env"
        env = { A = "agent" }
    """
    agent = mesh.read(text, {"A": "shell", "E": "shell"}).agents["a"]
    assert agent.environment == {"A": "agent", "B": "agent-file", "C": "mesh", "D": "mesh-file"}
    assert agent.env_files == (mesh.root / "mesh.env", mesh.root / "agent.env")


def test_dot_env_is_read_if_it_is_there_and_an_input_in_any_case(mesh: MeshFile) -> None:
    assert mesh.agent().env_files == (mesh.root / ".env",)
    mesh.touch(".env", content="export A='x y' # said\n\nB=${A}-${HOME}\nC\nD=${NOWHERE}")
    agent = mesh.agent('env = { E = "${A}" }')
    assert agent.environment == {"A": "x y", "B": "x y-/home/nobody", "D": "", "E": "x y"}


def test_a_folder_called_dot_env_is_somebodys_virtual_environment(mesh: MeshFile) -> None:
    (mesh.root / ".env").mkdir()
    assert mesh.agent().environment == {}


def test_whole_numbers_are_environment_too(mesh: MeshFile) -> None:
    assert mesh.agent("env = { WORKERS = 4 }").environment == {"WORKERS": "4"}


def test_the_env_file_wins_over_the_shell_in_interpolation_as_elsewhere(mesh: MeshFile) -> None:
    mesh.touch(".env", content="WHO=file")
    assert mesh.agent('args = ["${WHO}"]', {"WHO": "shell"}).args == ("file",)


def test_numbers_and_switches_may_come_from_the_environment(mesh: MeshFile) -> None:
    shell = {"P": "8101", "T": "0.5", "YES": "true", "MODE": "never"}
    agent = mesh.agent('port = "${P}"\nstart_timeout = "${T}"\nessential = "${YES}"\nrestart = "${MODE}"', shell)
    assert (agent.port, agent.start_timeout, agent.essential) == (8101, 0.5, True)
    assert agent.restart is Restart.NEVER
    assert mesh.agent('port = "${NONE:-8102}"').port == 8102


def test_environment_is_no_part_of_a_printed_spec(mesh: MeshFile) -> None:
    agent = mesh.agent('env = { TOKEN = "hunter22" }\nargs = ["${KEY}"]', {"KEY": "swordfish"})
    assert "hunter22" not in repr(agent)
    assert agent.secrets == {"hunter22", "swordfish"}


# ---- [defaults] ----------------------------------------------------------------------------------------------------


def test_defaults_merge_tables_and_replace_lists(mesh: MeshFile) -> None:
    text = """
        [defaults]
        args = ["--all"]
        env = { A = "1", B = "1" }
        stop = { signal = "SIGINT", timeout = 3 }
        restart = "never"
        [agents.a]
        command = ["true"]
        args = ["--mine"]
        env = { B = "2" }
        stop.timeout = 4
        [agents.b]
        command = ["true"]
    """
    agents = mesh.read(text).agents
    assert agents["a"].args == ("--mine",)
    assert agents["a"].environment == {"A": "1", "B": "2"}
    assert agents["a"].stop == StopRule(Signals.SIGINT, 4.0)
    assert (agents["b"].args, agents["b"].restart) == (("--all",), Restart.NEVER)


def test_a_default_speaks_of_each_agents_own_port(mesh: MeshFile) -> None:
    text = '[defaults]\nargs = ["${port}"]\n' + "".join(f"[agents.a{n}]\ncommand=['x']\nport={n}\n" for n in (1, 2))
    assert [agent.args for agent in mesh.read(text).agents.values()] == [("1",), ("2",)]


def test_a_probe_of_its_own_replaces_the_default_probe(mesh: MeshFile) -> None:
    text = '[defaults]\nready = { http = "/h", timeout = 5 }\n[agents.a]\ncommand = ["x"]\nready = { tcp = 9 }'
    assert mesh.read(text).agents["a"].ready == ReadyCheck(TcpProbe(9), 1.0, 5.0)


@pytest.mark.parametrize("wanted", ['["db"]', "{ db = {} }"])
def test_all_wait_for_one_means_all_others(mesh: MeshFile, wanted: str) -> None:
    text = f'[defaults]\ndepends_on = {wanted}\n[agents.db]\ncommand = ["x"]\n[agents.a]\ncommand = ["x"]'
    agents = mesh.read(text).agents
    assert (agents["db"].depends_on, agents["a"].depends_on) == ((), (Dependency("db"),))


# ---- places --------------------------------------------------------------------------------------------------------


def test_state_dir_and_roots_are_relative_to_the_file(mesh: MeshFile) -> None:
    (mesh.root.parent / "libs").mkdir()
    text = '[mesh]\nstate_dir = "${STATE:-var}/mesh"\n[watch]\nroots = ["../libs"]\nignore = ["*.md"]'
    spec = mesh.read(text)
    assert (spec.state_dir, spec.watch.roots) == (mesh.root / "var/mesh", (mesh.root.parent / "libs",))
    assert spec.watch.ignore == ("*.md",)
    assert mesh.read(text, {"STATE": "/run"}).state_dir == Path("/run/mesh")


def test_a_byte_order_mark_is_no_mistake(mesh: MeshFile) -> None:
    mesh.path.write_bytes(b"\xef\xbb\xbf[mesh]\nname = 'x'\n")
    assert mesh.read().name == "x"


# ---- mode ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "shell", "in_file", "unattended", "expected"),
    [
        (Mode.PROD, {"MESHSUP_MODE": "dev"}, "dev", "", (Mode.PROD, "--prod")),
        (None, {"MESHSUP_MODE": "dev"}, "prod", "it is PID 1", (Mode.DEV, "MESHSUP_MODE")),
        (None, {}, "dev", "it is PID 1", (Mode.DEV, "mode in mesh.toml")),
        (None, {}, "nonsense", "", (Mode.DEV, "the default")),
        (None, {"MESHSUP_MODE": ""}, None, "it is PID 1", (Mode.PROD, "it is PID 1")),
        (None, {}, None, "", (Mode.DEV, "the default")),
    ],
)
def test_who_chooses_the_mode(
    flag: Mode | None, shell: dict[str, str], in_file: str | None, unattended: str, expected: tuple[Mode, str]
) -> None:
    assert choose_mode(flag, shell, in_file, unattended) == expected


def test_a_mode_that_is_none() -> None:
    with pytest.raises(ConfigError, match='MESHSUP_MODE: must be "dev" or "prod", not "devel"'):
        choose_mode(None, {"MESHSUP_MODE": "devel"}, None)


def test_shell_is_only_the_one_that_is_given(mesh: MeshFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHSUP_ADVERTISE", "elsewhere")
    assert mesh.read("", SHELL).advertise == "127.0.0.1"


def test_how_a_reload_goes(mesh: MeshFile) -> None:
    plain = mesh.agent("")
    assert (plain.order, plain.trace, plain.warm, plain.drain) == ("auto", "auto", "auto", 60.0)
    assert (plain.runtime, plain.listen) == (True, None)
    agent = mesh.agent('port = 8101\norder = "stop-first"\ntrace = false\nwarm = false\ndrain = 5\nlisten = "fd"')
    assert (agent.order, agent.trace, agent.warm, agent.drain) == ("stop-first", False, False, 5.0)
    assert agent.listen == "fd"


def test_handing_over_a_socket_needs_a_port_to_listen_on(mesh: MeshFile) -> None:
    assert mesh.mistake('listen = "fd"') == "listen: needs the agent's port: that is what is listened on; give it one"


def test_a_warm_start_needs_the_runtime(mesh: MeshFile) -> None:
    assert mesh.mistake('warm = "fork"\nruntime = false') == "warm: needs the runtime; take out runtime = false"
