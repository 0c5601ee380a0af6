"""What agents say: kept, prefixed, and unable to garble a terminal or to be held up by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.e2e.harness import MESHSUP, Mesh, wait_for

SAY = "import sys, time\nfor line in {lines!r}:\n    print(line, flush=True)\ntime.sleep(1000)\n"

MUCH = """
import time
for n in range(20000):
    print(n, "x" * 100)
open("said", "w").close()
time.sleep(1000)
"""


def saying(mesh: Mesh, *lines: str, name: str = "agent") -> str:
    mesh.write(f"{name}.py", SAY.format(lines=lines))
    return f'[agents.{name}]\ncommand = "{name}.py"\nready = {{ log = "." }}\n'


def test_lines_are_prefixed_in_the_foreground_and_kept_in_files(mesh: Mesh) -> None:
    mesh.config(saying(mesh, "hello from here"))
    up = mesh.foreground("up")
    mesh.wait_ready()
    wait_for(lambda: "hello from here" in up.output())
    line = next(line for line in up.output().splitlines() if "hello from here" in line)
    assert line.startswith("agent")
    first = up.output().splitlines()[0]
    assert "dev" in first and "watch" in first.lower()
    mesh.wait_log("hello from here", "agent")
    assert "hello from here" in mesh.ok("logs", "agent")
    assert mesh.ok("logs", "agent", "-n", "1", "--grep", "nowhere").strip() == ""


def test_control_characters_cannot_garble_or_forge(mesh: Mesh) -> None:
    evil = "\x1b[2J\x1b[1;1H\rother | forged\x9b31m\x07\u202eright to left"
    mesh.config(saying(mesh, evil, "clean"))
    up = mesh.foreground("up")
    wait_for(lambda: "clean" in up.output() and "clean" in mesh.log("agent"))
    for text in (up.output(), mesh.log("agent"), mesh.ok("logs", "agent")):
        line = next(line for line in text.split("\n") if "forged" in line)
        assert not line.startswith("other")
        assert not set(line) & set("\x1b\r\x07\x9b\u202e"), f"{line!r}"


def test_the_previous_run_and_the_previous_generation_are_kept_apart(mesh: Mesh) -> None:
    mesh.config(saying(mesh, "first run"))
    mesh.up()
    mesh.ok("down")
    assert "first run" in mesh.ok("logs", "agent"), "also when nothing runs"
    mesh.config(saying(mesh, "second run"))
    mesh.up()
    mesh.wait_log("second run", "agent")
    assert "first run" not in mesh.log("agent")
    assert "first run" in (mesh.state_dir / "logs/agent.log.1").read_text()
    mesh.config(saying(mesh, "third generation"))
    wait_for(lambda: "third generation" in mesh.log("agent"))
    assert "second run" in mesh.ok("logs", "agent", "--previous")
    assert "third generation" not in mesh.ok("logs", "agent", "--previous")


def test_rotation(mesh: Mesh) -> None:
    mesh.write("agent.py", "import time\nfor n in range(3000): print(f'{n:06d}', 'x' * 80)\ntime.sleep(1000)\n")
    mesh.config("""
        [logs]
        max_size = "64KiB"
        keep = 2
        [agents.agent]
        command = "agent.py"
        ready = { log = "002999" }
    """)
    mesh.up()
    wait_for(lambda: "002999" in mesh.log("agent"))
    files = sorted((mesh.state_dir / "logs").glob("agent.log*"))
    assert len(files) == 3
    assert all(file.stat().st_size <= 70 * 1024 for file in files)


def test_a_reader_that_stopped_reading_does_not_hold_up_the_agents(mesh: Mesh) -> None:
    """The foreground's output is a pipe that nobody reads; the agent says far more than fits into it."""
    mesh.write(
        "agent.py",
        MUCH,
    )
    mesh.config('[agents.agent]\ncommand = "agent.py"\n')
    read, write = os.pipe()
    up = subprocess.Popen([MESHSUP, "up"], cwd=mesh.root, env=mesh.environ, stdout=write, start_new_session=True)
    os.close(write)
    try:
        wait_for((mesh.root / "said").exists)
        assert mesh.run("ps").code == 0
        mesh.ok("down")
        assert up.wait(30) == 0
    finally:
        os.close(read)
        up.kill()
        up.wait()


def test_a_full_disk_blocks_nobody_and_is_said(mesh: Mesh) -> None:
    """state_dir is a file system of 256 KiB, mounted in a namespace of its own."""
    unshare = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=256k none .mesh && exec "$@"', "sh")
    mesh.state_dir.mkdir(0o700)
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], cwd=mesh.root, check=False).returncode:
        pytest.skip("mounts are not allowed here")
    mesh.write(
        "agent.py",
        MUCH,
    )
    mesh.config('[agents.agent]\ncommand = "agent.py"\n')
    up = mesh.foreground("up", before=unshare)
    wait_for((mesh.root / "said").exists)
    wait_for(lambda: "19999 xxx" in up.output())
    assert up.process.poll() is None
    assert "Traceback" not in up.output()
    os.kill(up.pid, 15)
    assert up.wait() in (0, 130)


def test_prod_writes_json_lines_and_no_files(mesh: Mesh) -> None:
    mesh.config(saying(mesh, "plain words", '{"level": "info", "message": "structured"}'))
    up = mesh.foreground("up", "--prod")
    wait_for(lambda: "structured" in up.output())
    lines = [line for line in up.output().splitlines(keepends=True) if line.endswith("\n")]
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    said = [row for row in rows if row.get("agent") == "agent"]
    assert any(row.get("text") == "plain words" for row in said)
    assert any(row.get("message") == "structured" and row["level"] == "info" for row in said)
    assert not (mesh.state_dir / "logs/agent.log").exists()
    assert not mesh.snapshot().watching
