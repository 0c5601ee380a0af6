"""What counts as an edit: ignore rules, new, moved and deleted files, large trees, and a kernel that refuses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Mesh, fresh_mesh, server, wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Mesh]:
    """``planner`` reads prompts by a glob, has a package of its own and an optional module; ``canary`` is edited to
    prove that the watcher was past everything else."""
    with fresh_mesh() as mesh:
        mesh.write("tools/__init__.py", "")
        mesh.write("tools/search.py", "from .deep import WORD\n")
        mesh.write("tools/deep.py", "WORD = 'deep'\n")
        mesh.write("prompts/plan.md", "plan\n")
        mesh.write("canary.py", server("canary"))
        mesh.write("planner.py", server("planner", PLANNER))
        mesh.config(
            "[watch]\nignore = ['**/*_generated.py']\n"
            + mesh.table("planner", "watch = ['prompts/**/*.md', 'build/notes.md']")
            + mesh.table("canary")
        )
        mesh.write(".gitignore", "build/\n")
        mesh.write(".meshwatch", "prompts/drafts/\n")
        mesh.up()
        yield mesh


PLANNER = """
import importlib
def later():
    import tools.search
if False:
    importlib.import_module("plugin")
try:
    import optional
except ImportError:
    optional = None
"""


def settle(mesh: Mesh) -> None:
    """Two edits of the canary, seen through: what was saved before has had its effect."""
    for _ in range(2):
        generation = mesh.wait_ready()["canary"].generation
        mesh.write("canary.py", server("canary", f"EDITED_IN = {generation}"))
        mesh.wait_generation("canary", generation)


def test_what_is_imported_in_functions_and_relatively_is_an_input(running: Mesh) -> None:
    for path in ("tools/deep.py", "tools/__init__.py"):
        with running.only_restarts("planner"):
            running.write(path, (running.root / path).read_text() + "EDITED = 1\n")


def test_a_new_file_that_satisfies_a_failed_import_is_an_edit(running: Mesh) -> None:
    with running.only_restarts("planner"):
        running.write("optional.py", "HERE = 1\n")
    with running.only_restarts("planner"):
        (running.root / "optional.py").unlink()
    with running.only_restarts("planner"):
        running.write("plugin.py", "HERE = 1\n")


def test_globs_see_new_moved_and_deleted_files_and_whole_folders(running: Mesh) -> None:
    prompts = running.root / "prompts"
    with running.only_restarts("planner"):
        running.write("prompts/new.md", "new\n")
    with running.only_restarts("planner"):
        (prompts / "new.md").rename(prompts / "moved.md")
    with running.only_restarts("planner"):
        (prompts / "moved.md").unlink()
    running.write("elsewhere/inside.md", "moved in with its folder\n")
    with running.only_restarts("planner"):
        (running.root / "elsewhere").rename(prompts / "folder")


def test_the_users_own_word_beats_everything_and_gitignore_limits_only_discovery(running: Mesh) -> None:
    before = running.wait_ready()["planner"]
    running.write("prompts/drafts/idea.md", ".meshwatch says no\n")
    running.write("tools/model_generated.py", "watch.ignore says no\n")
    running.write("build/other.md", "nobody names it\n")
    running.write("__pycache__/planner.md", "built in\n")
    running.write("test_planner.py", "def test_it(): pass\n")
    settle(running)
    assert running.agent("planner").pid == before.pid
    with running.only_restarts("planner"):
        running.write("build/notes.md", "a glob names it, although git ignores it\n")


def test_an_ignored_import_is_no_input(running: Mesh) -> None:
    with running.only_restarts("planner"):
        running.write("model_generated.py", "X = 1\n")
        running.edit("planner.py", "import importlib\n", "import importlib\nimport model_generated\n")
    before = running.wait_ready()["planner"]
    running.write("model_generated.py", "X = 2\n")
    settle(running)
    assert running.agent("planner").pid == before.pid


def test_a_branch_switched_forth_and_back_restarts_nothing(running: Mesh) -> None:
    """While git holds its lock the batch waits; the content is the same in the end."""
    running.wait_ready()
    git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org")

    def run(*words: str) -> None:
        subprocess.run([*git, *words], cwd=running.root, check=True, capture_output=True, env=running.environ)

    run("init", "-q", "-b", "main")
    run("add", "tools", "planner.py")
    run("commit", "-q", "-m", "one")
    run("checkout", "-q", "-b", "other")
    before = running.wait_ready()["planner"]
    lock = running.root / ".git/index.lock"
    lock.touch()
    deep = running.root / "tools/deep.py"
    good = deep.read_text()
    deep.write_text("WORD = 'other'\n")
    deep.write_text(good)
    lock.unlink()
    settle(running)
    assert running.agent("planner").pid == before.pid


def test_a_folder_that_vanishes_and_comes_back_is_still_watched(running: Mesh) -> None:
    before = running.wait_ready()["planner"]
    tools = running.root / "tools"
    tools.rename(running.root / "away")
    wait_for(lambda: running.agent("planner").rejection or running.agent("planner").generation > before.generation)
    (running.root / "away").rename(tools)
    settle(running)
    with running.only_restarts("planner"):
        running.write("tools/deep.py", "WORD = 'still here'\n")


def test_a_tree_of_2000_folders_is_watched_at_once_and_completely(mesh: Mesh) -> None:
    mesh.serving("agent", keys="watch = ['many/**/*.md']")
    for number in range(2000):
        (mesh.root / f"many/{number // 50}/{number}").mkdir(parents=True)
    mesh.up()
    with mesh.only_restarts("agent"):
        mesh.write("many/39/1999/deep.md", "seen\n")
    with mesh.only_restarts("agent"):
        mesh.write("agent.py", server("agent two"))


def test_an_inotify_limit_is_said_and_polling_takes_over(mesh: Mesh) -> None:
    """In a user namespace, which has limits of its own."""
    limit = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    unshare = ("unshare", "-Ur", "sh", "-c", limit, "sh")
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("user namespaces are not allowed here")
    mesh.serving("agent")
    for number in range(20):
        (mesh.root / f"many/{number}").mkdir(parents=True)
    up = mesh.foreground("up", before=unshare)
    mesh.wait_ready()
    wait_for(lambda: "max_inotify_watches" in up.output() + mesh.log())
    mesh.write("agent.py", server("agent two"))
    mesh.wait_answer("agent", "agent two")
    assert "polling" in mesh.ok("watch", "status")
