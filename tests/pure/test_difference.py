"""What a new mesh.toml changes, and what that costs."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mesh_supervisor.difference import Difference, differences
from mesh_supervisor.spec import AgentSpec
from tests.pure.meshfile import SHELL, MeshFile

BASE = '[agents.a]\ncommand = ["serve"]\nport = 8101\n'


def change(mesh: MeshFile, old: str, new: str) -> Difference:
    return differences(mesh.read(BASE + old), mesh.read(BASE + new))


def test_nothing(mesh: MeshFile) -> None:
    difference = change(mesh, "# a comment", "\n\nwatch = []")
    assert not difference
    assert difference.lines() == []


def test_agents_that_come_and_go(mesh: MeshFile) -> None:
    difference = change(mesh, "[agents.old]\ncommand = ['x']", "[agents.new]\ncommand = ['x']")
    assert (difference.added, difference.removed, difference.changes) == (("new",), ("old",), ())
    assert difference.lines() == ["+ agents.new", "- agents.old"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("args = ['a']", "args = ['b']", "args"),
        ("", "host = '0.0.0.0'", "host"),
        ("", "directory = '..'", "directory"),
        ("", "python = '/bin/sh'", "python"),
        ("", "type = 'task'", "type"),
        ("", "register = 'never'", "register"),
        ("env = { A = '1' }", "env = { A = '2' }", "env.A"),
        ("env = { A = '1' }", "", "env.A"),
        ("", "env = { A = '1' }", "env.A"),
        ("", "ready = { notify = true }", "ready"),
        ("live = { notify = true }", "live = { notify = true, interval = 3 }", "live"),
    ],
)
def test_what_a_process_was_started_with(mesh: MeshFile, old: str, new: str, key: str) -> None:
    difference = change(mesh, old, new)
    assert difference.restarted == {"a": (key,)}
    assert (difference.retuned, difference.reregistered) == ({}, {})


@pytest.mark.parametrize(
    "new",
    [
        "restart = 'never'",
        "backoff = { max = 3 }",
        "crashloop = { crashes = 2 }",
        "essential = true",
        "stop = { timeout = 1 }",
        "start_timeout = 9",
        "profiles = ['x']",
        "watch = false",
        "ready = { tcp = true }",
        "live = { tcp = true }",
    ],
)
def test_policies_cost_nothing(mesh: MeshFile, new: str) -> None:
    difference = change(mesh, "", new)
    assert difference.retuned == {"a": (new.split(" ")[0],)}
    assert not difference.restarted


def test_order_costs_nothing_either(mesh: MeshFile) -> None:
    other = "[agents.b]\ncommand = ['x']\n"
    assert change(mesh, other, other + "depends_on = ['a']").retuned == {"b": ("depends_on",)}


def test_capabilities_register_again(mesh: MeshFile) -> None:
    difference = change(mesh, "capabilities = ['a']", "capabilities = ['a', 'b']")
    assert difference.reregistered == {"a": ("capabilities",)}
    assert not difference.restarted


def test_a_restart_registers_again_anyway(mesh: MeshFile) -> None:
    difference = change(mesh, "", "capabilities = ['a']\nargs = ['x']\nessential = true")
    assert (difference.restarted, difference.reregistered) == ({"a": ("args",)}, {})
    assert difference.retuned == {"a": ("essential",)}


def test_an_env_file_counts_by_its_values(mesh: MeshFile) -> None:
    mesh.touch("x.env", content="A=1\n")
    old = mesh.read(BASE + 'env_file = "x.env"')
    mesh.touch("x.env", content="# nothing said\nA=1\n")
    assert not differences(old, mesh.read())
    mesh.touch("x.env", content="A=2\n")
    assert differences(old, mesh.read()).restarted == {"a": ("env.A",)}
    # the same value from elsewhere: another file is watched, the process stays
    assert differences(old, mesh.read(BASE + "env = { A = '1' }")).retuned == {"a": ("env_file",)}


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("[mesh]\nname = 'other'", ("mesh.name",)),
        ("[mesh]\nstate_dir = 'other'", ("mesh.state_dir",)),
        ("[registry]\nport = 8000", ("registry.port",)),
        ("[logs]\nkeep = 1\nmax_size = '1MiB'", ("logs.max_size", "logs.keep")),
        (
            "[registry]\nkind = 'external'\nurl = 'http://r:1'\n[mesh]\nadvertise = '127.0.0.1'",
            ("registry.kind", "registry.url"),
        ),
    ],
)
def test_what_a_running_mesh_cannot_follow(mesh: MeshFile, table: str, keys: tuple[str, ...]) -> None:
    difference = change(mesh, "", table)
    assert difference.needs_down == keys
    assert not difference.restarted
    assert all(line.endswith("(needs `meshsup down` and `meshsup up`)") for line in difference.lines())


def test_the_rest_of_the_mesh_is_applied(mesh: MeshFile) -> None:
    difference = change(mesh, "", "[watch]\ndebounce = 1\nignore = ['x']\n[mesh]\nparallel_starts = 77")
    assert difference.mesh_changes == ("mesh.parallel_starts", "watch.debounce", "watch.ignore")
    assert not difference.needs_down


def test_another_free_registry_port_is_no_change(mesh: MeshFile) -> None:
    old = mesh.read(BASE)
    assert differences(old, mesh.read(BASE + "[agents.b]\ncommand = ['x']\nport = 8000")).needs_down == ()


def test_the_host_that_others_are_told_is_told_to_every_agent(mesh: MeshFile) -> None:
    assert change(mesh, "", "[mesh]\nadvertise = 'box'").restarted == {"a": ("mesh.advertise",)}


def test_lines_hide_what_came_from_the_environment(mesh: MeshFile) -> None:
    shell = {**SHELL, "TOKEN": "swordfish"}
    old = mesh.read(BASE + "env = { KEY = 'hunter22', GONE = 'x' }")
    new = mesh.read(BASE + "args = ['--token', '${TOKEN}']\nenv = { KEY = 'hunter23' }", shell)
    difference = differences(old, new)
    assert difference.lines() == [
        "~ agents.a.args: nothing → --token, ••• (restarts)",
        "~ agents.a.env.GONE: ••• → nothing (restarts)",
        "~ agents.a.env.KEY: ••• → ••• (restarts)",
    ]
    shown = difference.lines(show_secrets=True)
    assert shown[0] == "~ agents.a.args: nothing → --token, swordfish (restarts)"
    assert shown[2] == "~ agents.a.env.KEY: hunter22 → hunter23 (restarts)"


def test_lines_read_like_the_file(mesh: MeshFile) -> None:
    mesh.touch("b.py")
    old = '[agents.b]\ncommand = "b.py"\n'
    new = '[agents.b]\nmodule = "b"\ndepends_on = ["a"]\nready.log = "up"\nlive.exec = ["x", "y"]\nwatch = false'
    assert change(mesh, old, new).lines() == [
        f"~ agents.b.command: {mesh.root}/b.py → module b (restarts)",
        "~ agents.b.depends_on: nothing → a (ready) (applies at once)",
        "~ agents.b.ready: { interval = 1, timeout = 1 } → { log = up, interval = 1, timeout = 1 } (applies at once)",
        "~ agents.b.live: nothing → { exec = x y, interval = 10, timeout = 1, failures = 3 } (applies at once)",
        "~ agents.b.watch: nothing → false (applies at once)",
    ]


def test_what_concerns_the_next_start_only_restarts_nothing(mesh: MeshFile) -> None:
    difference = change(mesh, "", 'order = "stop-first"\nwarm = "spare"\ndrain = 5')
    assert difference.retuned == {"a": ("order", "drain", "warm")}
    assert change(mesh, "", 'trace = "imports"\nruntime = false').restarted == {"a": ("trace", "runtime")}


def test_a_value_cannot_forge_a_line(mesh: MeshFile) -> None:
    (line,) = change(mesh, "", 'args = ["x\\n+ agents.liar\\u001b[2J"]').lines()
    assert line == "~ agents.a.args: nothing → x\\n+ agents.liar\\x1b[2J (restarts)"


def test_every_field_of_an_agent_is_compared() -> None:
    """A field that is added to the spec must not be forgotten here: what is not named costs nothing, and is applied."""
    assert {field.name for field in fields(AgentSpec) if field.compare} - {"name", "environment"} == {
        "command", "directory", "args", "python", "port", "host", "env_files", "capabilities", "register", "depends_on",
        "ready", "start_timeout", "live", "watch", "restart", "backoff", "crashloop", "essential", "stop", "kind",
        "profiles", "trace", "order", "drain", "runtime", "warm", "listen",
    }  # fmt: skip
