"""One agent of a mesh by itself: what is read of mesh.toml, what is left of it, and the exit code of its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh_supervisor.errors import ConfigError, UnknownAgent
from mesh_supervisor.lifecycle import Exit
from mesh_supervisor.own_state import own_state_dir, own_state_dirs
from mesh_supervisor.single import alone, exit_code_of
from mesh_supervisor.spec import MeshSpec, Mode, Register, RegistrySpec, Restart
from tests.pure.meshfile import SHELL, MeshFile

AT = {**SHELL, "MESHSUP_REGISTRY_URL": "http://registry:8000/"}
TWO = """
[agents.planner]
command = ["planner"]
port = 8101
depends_on = ["retriever"]
profiles = ["extra"]
restart = "always"
essential = true

[agents.retriever]
command = ["retriever"]
port = 8102
"""


def read(mesh: MeshFile, text: str = TWO, shell: Any = AT, *, name: str = "planner", **options: Any) -> MeshSpec:
    own = mesh.read(text, shell, alone=name, address_towards=lambda url: f"towards {url}", **options)
    return alone(own, name)


def test_only_this_agent_is_left_and_what_the_engine_does_is_left_to_it(mesh: MeshFile) -> None:
    spec = read(mesh)
    assert (spec.alone, list(spec.agents)) == ("planner", ["planner"])
    planner = spec.agents["planner"]
    assert (planner.depends_on, planner.profiles, planner.restart) == ((), (), Restart.NEVER)
    assert planner.port == 8101
    assert not spec.logs.files


def test_an_agent_that_mesh_toml_does_not_have(mesh: MeshFile) -> None:
    with pytest.raises(UnknownAgent, match="no agent is called 'planer'; did you mean 'planner'"):
        read(mesh, name="planer")


def test_what_is_wrong_with_others_is_no_matter_here(mesh: MeshFile) -> None:
    """Their files, interpreters and secrets are in other containers."""
    others = """
    [agents.writer]
    command = "not/in/this/image.py"
    env = { KEY = "${NOT_FOR_YOU}" }
    env_file = "writer.env"
    [agents.critic]
    command = ["critic"]
    depends_on = ["writer", "critic"]
    """
    assert read(mesh, TWO + others).agents.keys() == {"planner"}
    with pytest.raises(ConfigError, match="not/in/this/image"):
        mesh.read(TWO + others, AT)
    for wrong in ('[agents.planner]\ncommand = "nowhere.py"', f"{TWO}\n[mesh]\nenv = {{ KEY = '${{UNSET}}' }}"):
        with pytest.raises(ConfigError):
            read(mesh, wrong)


@pytest.mark.parametrize("watch", [False, True])
def test_a_warm_process_is_kept_only_where_something_may_be_reloaded(mesh: MeshFile, watch: bool) -> None:
    assert read(mesh, mode=Mode.PROD, watch=watch).keeps_warm is watch
    assert mesh.read(TWO, mode=Mode.PROD, watch=False).keeps_warm


# ---- the registry --------------------------------------------------------------------------------------------------


def test_the_engine_names_the_registry(mesh: MeshFile) -> None:
    external = '[registry]\nkind = "external"\nurl = "http://other:9000"\n'
    spec = read(mesh, external + TWO)
    assert spec.registry == RegistrySpec("external", 8000, True, (), "http://registry:8000")
    assert read(mesh, external + TWO, SHELL).registry.url == "http://other:9000"
    assert mesh.read(external + TWO, AT).registry.url == "http://other:9000", "only of an agent by itself"


@pytest.mark.parametrize("url", ["registry:8000", "http://", "http://registry:99999"])
def test_a_registry_that_is_no_url(mesh: MeshFile, url: str) -> None:
    with pytest.raises(ConfigError, match="MESHSUP_REGISTRY_URL: is no URL; write one such as http://"):
        read(mesh, shell={**SHELL, "MESHSUP_REGISTRY_URL": url})


def test_without_a_registry_it_is_not_registered_and_that_is_said_with_the_cure(mesh: MeshFile) -> None:
    spec = read(mesh, shell={**SHELL, "MESHSUP_REGISTRY_URL": ""})
    assert spec.registry.kind == "none"
    assert spec.agents["planner"].register is Register.NEVER
    (note,) = spec.warnings
    assert note.startswith("planner is not registered: ") and "MESHSUP_REGISTRY_URL" in note
    quiet = TWO.replace("port = 8101", 'port = 8101\nregister = "never"')
    assert read(mesh, quiet, SHELL).warnings == ()


def test_what_others_are_told(mesh: MeshFile) -> None:
    assert read(mesh).advertise == "towards http://registry:8000"
    assert read(mesh, shell={**AT, "MESHSUP_ADVERTISE": "planner"}).advertise == "planner"
    assert read(mesh, TWO + '[mesh]\nadvertise = "box"').advertise == "box"
    assert read(mesh, shell=SHELL).advertise == "127.0.0.1"


def test_what_others_cannot_reach_is_said(mesh: MeshFile) -> None:
    told = read(mesh, TWO + '[mesh]\nadvertise = "127.0.0.1"').warnings
    assert [note.rpartition("; ")[2] for note in told] == ["set MESHSUP_ADVERTISE", 'write host = "0.0.0.0"']
    assert read(mesh, pid_one=True).warnings == ()
    near = {**SHELL, "MESHSUP_REGISTRY_URL": "http://127.0.0.1:8000"}
    assert read(mesh, TWO + '[mesh]\nadvertise = "127.0.0.1"', near).warnings == ()


def test_the_others_are_where_their_names_are(mesh: MeshFile) -> None:
    """Services of Compose and Kubernetes are reached by name, and one that is in the same machine as always."""
    text = TWO.replace(
        "port = 8101", 'port = 8101\nenv = { IT = "${agents.retriever.url}", ME = "${agents.planner.url}" }'
    )
    told = read(mesh, text).agents["planner"].environment
    assert told == {"IT": "http://retriever:8102", "ME": "http://127.0.0.1:8101"}
    near = {**SHELL, "MESHSUP_REGISTRY_URL": "http://localhost:8000"}
    assert read(mesh, text, near).agents["planner"].environment["IT"] == "http://127.0.0.1:8102"
    external = '[registry]\nkind = "external"\nurl = "http://other:9000"\n' + text
    assert read(mesh, external, SHELL).agents["planner"].environment["IT"] == "http://127.0.0.1:8102"
    assert read(mesh, external, SHELL, pid_one=True).agents["planner"].environment["IT"] == "http://retriever:8102"


# ---- its end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "code"),
    [(Exit(0), 0), (Exit(3), 3), (Exit(None, 9), 137), (Exit(None, 15), 143), (Exit(None, None, "not ready"), 1)],
)
def test_exit_codes(ended: Exit, code: int) -> None:
    assert exit_code_of(ended) == code


# ---- its state -----------------------------------------------------------------------------------------------------


def test_every_container_has_a_state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(name: str) -> None:
        monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"nodename": name}))

    assert own_state_dirs(tmp_path) == {}
    machine("3f2a9c1d7b60")
    here = own_state_dir(tmp_path, "planner")
    machine("odd/name")
    there = own_state_dir(tmp_path, "planner")
    assert here != there and here.parent == there.parent, "a slash in a name leads nowhere"
    for folder in (here, there, own_state_dir(tmp_path, "writer")):
        folder.mkdir(parents=True)
    assert own_state_dirs(tmp_path) == {"planner": there, "writer": own_state_dir(tmp_path, "writer")}
    machine("3f2a9c1d7b60")
    assert own_state_dirs(tmp_path) == {"planner": here}
