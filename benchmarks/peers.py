"""Each tool, in its default configuration: how it is installed, told what to run, started, and asked for its state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from benchmarks.programs import Program

PYTHON = sys.executable
"""The interpreter of all agents: the one with FastAPI in it."""

NONE: Mapping[str, str] = {}


class Peer(Protocol):
    """``reloads``: restarts a program on a save; ``revives``: after kill -9; ``many``: runs 50 of them."""

    name: str
    reloads: bool
    revives: bool
    many: bool

    def install(self) -> str:
        """Make the tool usable; its version."""
        ...

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        """Write what it reads into ``folder``; the command that runs in the foreground."""
        ...

    def environment(self, folder: Path) -> Mapping[str, str]: ...

    def status(self, folder: Path) -> list[str] | None:
        """The command that prints who runs; None where there is none."""
        ...


class Meshsup:
    name = "meshsup"
    reloads = revives = many = True
    command = str(Path(PYTHON).with_name("meshsup"))

    def __init__(self, registry_port: int) -> None:
        self.registry_port = registry_port

    def install(self) -> str:
        return version("mesh_supervisor")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        text = f'[mesh]\nname = "bench"\n[registry]\nport = {self.registry_port}\n'
        for program in programs:
            text += f'[agents.{program.name}]\ncommand = "{program.file}"\nport = {program.port}\n'
        (folder / "mesh.toml").write_text(text)
        return [self.command, "up", "--watch" if watch else "--no-watch"]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE

    def status(self, folder: Path) -> list[str] | None:
        return [self.command, "ps"]


class PythonTool:
    """From PyPI, all in one virtual environment of their own."""

    def __init__(self, cache: Path) -> None:
        self.home = cache / "python"

    def pip_install(self, distribution: str, *beside: str) -> str:
        python = self.home / "bin/python"
        if not python.exists():
            subprocess.run([PYTHON, "-m", "venv", self.home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", distribution, *beside], check=True)
        look = f"from importlib.metadata import version; print(version({distribution!r}))"
        return subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout.strip()

    def command(self, name: str) -> str:
        return str(self.home / "bin" / name)

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE


class Watchfiles(PythonTool):
    name = "watchfiles"
    reloads, revives, many = True, False, False

    def install(self) -> str:
        return self.pip_install("watchfiles")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (program,) = programs
        return ["env", f"PORT={program.port}", self.command("watchfiles"), f"{PYTHON} {program.file}", str(folder)]

    def status(self, folder: Path) -> list[str] | None:
        return None


class Supervisord(PythonTool):
    name = "supervisord"
    reloads, revives, many = False, True, True

    def install(self) -> str:
        return self.pip_install("supervisor", "setuptools<81")  # it still imports pkg_resources

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        text = f"""
[unix_http_server]
file={folder}/s.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s.sock
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
"""
        for program in programs:
            text += f'[program:{program.name}]\ncommand={PYTHON} {program.file}\nenvironment=PORT="{program.port}"\n'
            text += f"directory={folder}\nautorestart=true\n"
        (folder / "supervisord.conf").write_text(text)
        return [self.command("supervisord"), "-n", "-c", "supervisord.conf"]

    def status(self, folder: Path) -> list[str] | None:
        return [self.command("supervisorctl"), "-c", "supervisord.conf", "status"]


class Circus(PythonTool):
    name = "circus"
    reloads, revives, many = False, True, True

    def install(self) -> str:
        return self.pip_install("circus")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        text = f"[circus]\nendpoint = ipc://{folder}/c.sock\npubsub_endpoint = ipc://{folder}/p.sock\n"
        for program in programs:
            text += f"[watcher:{program.name}]\ncmd = {PYTHON} {program.file}\nworking_dir = {folder}\n"
            text += f"copy_env = true\n[env:{program.name}]\nPORT = {program.port}\n"
        (folder / "circus.ini").write_text(text)
        return [self.command("circusd"), "circus.ini"]

    def status(self, folder: Path) -> list[str] | None:
        return [self.command("circusctl"), "--endpoint", f"ipc://{folder}/c.sock", "status"]


class NodeTool:
    """From npm, into a folder of their own."""

    def __init__(self, cache: Path) -> None:
        self.home = cache / "node"

    def npm_install(self, package: str) -> str:
        """Raises FileNotFoundError where there is no npm."""
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm is not installed")
        words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(self.home), package]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        manifest = json.loads((self.home / "node_modules" / package / "package.json").read_text())
        return str(manifest["version"])

    def command(self, name: str) -> str:
        return str(self.home / "node_modules/.bin" / name)


class Nodemon(NodeTool):
    name = "nodemon"
    reloads, revives, many = True, False, False

    def install(self) -> str:
        return self.npm_install("nodemon")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (program,) = programs
        words = [self.command("nodemon"), "--quiet", "--ext", "py", "--exec", PYTHON, str(program.file)]
        return ["env", f"PORT={program.port}", *words]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE

    def status(self, folder: Path) -> list[str] | None:
        return None


class Pm2(NodeTool):
    name = "pm2"
    reloads = revives = many = True

    def install(self) -> str:
        return self.npm_install("pm2")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        apps = [
            {
                "name": program.name,
                "script": str(program.file),
                "interpreter": PYTHON,
                "cwd": str(folder),
                "env": {"PORT": str(program.port)},
                "watch": watch,
                "ignore_watch": ["pm2", "node_modules"],  # else its own log files restart it for ever
            }
            for program in programs
        ]
        (folder / "ecosystem.config.js").write_text(f"module.exports = {{apps: {json.dumps(apps)}}};")
        return [self.command("pm2-runtime"), "start", "ecosystem.config.js"]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {"PM2_HOME": str(folder / "pm2"), "HOME": os.environ.get("HOME", str(folder))}

    def status(self, folder: Path) -> list[str] | None:
        return [self.command("pm2"), "ls"]


def all_peers(cache: Path, registry_port: int) -> list[Peer]:
    return [
        Meshsup(registry_port),
        Watchfiles(cache),
        Nodemon(cache),
        Pm2(cache),
        Supervisord(cache),
        Circus(cache),
    ]
