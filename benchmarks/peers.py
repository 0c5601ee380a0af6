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
"""The project's own interpreter, with FastAPI in it."""

NONE: Mapping[str, str] = {}


class Peer(Protocol):
    """``reloads``: restarts a program on a save; ``revives``: after kill -9; ``many``: runs 50 of them; ``asgi``: only
    programs that uvicorn's command can serve."""

    name: str
    reloads: bool
    revives: bool
    many: bool
    asgi: bool

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
    asgi = False
    command = str(Path(PYTHON).with_name("meshsup"))

    def __init__(self, registry_port: int) -> None:
        self.registry_port = registry_port

    def install(self) -> str:
        return version("mesh_supervisor")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        text = f'[mesh]\nname = "bench"\n[registry]\nport = {self.registry_port}\n'
        for program in programs:
            text += f'[agents.{program.name}]\ncommand = "{program.file}"\nport = {program.port}\n'
            text += f'python = "{program.python}"\n'
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
    asgi = False

    def install(self) -> str:
        return self.pip_install("watchfiles")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (program,) = programs
        return [
            "env",
            f"PORT={program.port}",
            self.command("watchfiles"),
            f"{program.python} {program.file}",
            str(folder),
        ]

    def status(self, folder: Path) -> list[str] | None:
        return None


class UvicornReload:
    """uvicorn's own reloader, which starts a new process that takes over the listening socket."""

    name = "uvicorn --reload"
    reloads, revives, many = True, False, False
    asgi = True

    def install(self) -> str:
        return version("uvicorn")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (program,) = programs
        words = [program.python, "-m", "uvicorn", f"{program.file.stem}:app", "--port", str(program.port), "--reload"]
        return [*words, "--log-level", "warning"]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE

    def status(self, folder: Path) -> list[str] | None:
        return None


class ProcessCompose:
    """From the Go module proxy, or one that is in PATH or in the cache."""

    name = "process-compose"
    reloads = revives = many = True
    asgi = False
    package = "github.com/f1bonacc1/process-compose@latest"

    def __init__(self, cache: Path) -> None:
        self.home = cache / "go/bin"
        self.program = ""

    def install(self) -> str:
        """Raises FileNotFoundError where there is neither the program nor Go."""
        path = f"{self.home}{os.pathsep}{os.environ.get('PATH', '')}"
        if shutil.which("process-compose", path=path) is None:
            if shutil.which("go") is None:
                raise FileNotFoundError("neither process-compose nor go is installed")
            subprocess.run(["go", "install", self.package], check=True, env={**os.environ, "GOBIN": str(self.home)})
        self.program = str(shutil.which("process-compose", path=path))
        said = subprocess.run([self.program, "version"], check=True, capture_output=True, text=True).stdout
        return next(line.split()[-1] for line in said.splitlines() if line.startswith("Version"))

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        processes = {
            program.name: {
                "command": f"exec {program.python} {program.file}",
                "environment": [f"PORT={program.port}"],
                "availability": {"restart": "always"},
                **({"watch": {"paths": [{"path": ".", "include": ["*.py"]}]}} if watch else {}),
            }
            for program in programs
        }
        (folder / "process-compose.yaml").write_text(json.dumps({"version": "0.5", "processes": processes}))
        return [self.program, "up", "-t=false", *self._socket(folder), "-L", str(folder.parent / "pc.log")]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE

    def status(self, folder: Path) -> list[str] | None:
        return [self.program, "process", "list", *self._socket(folder)]

    @staticmethod
    def _socket(folder: Path) -> list[str]:
        return ["-U", "-u", str(folder.parent / "pc.sock")]


class Supervisord(PythonTool):
    name = "supervisord"
    reloads, revives, many = False, True, True
    asgi = False

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
            text += f"[program:{program.name}]\ncommand={program.python} {program.file}\ndirectory={folder}\n"
            text += f'environment=PORT="{program.port}"\nautorestart=true\n'
        (folder / "supervisord.conf").write_text(text)
        return [self.command("supervisord"), "-n", "-c", "supervisord.conf"]

    def status(self, folder: Path) -> list[str] | None:
        return [self.command("supervisorctl"), "-c", "supervisord.conf", "status"]


class Circus(PythonTool):
    name = "circus"
    reloads, revives, many = False, True, True
    asgi = False

    def install(self) -> str:
        return self.pip_install("circus")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        text = f"[circus]\nendpoint = ipc://{folder}/c.sock\npubsub_endpoint = ipc://{folder}/p.sock\n"
        for program in programs:
            text += f"[watcher:{program.name}]\ncmd = {program.python} {program.file}\nworking_dir = {folder}\n"
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
    asgi = False

    def install(self) -> str:
        return self.npm_install("nodemon")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (program,) = programs
        words = [self.command("nodemon"), "--quiet", "--ext", "py", "--exec", program.python, str(program.file)]
        return ["env", f"PORT={program.port}", *words]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return NONE

    def status(self, folder: Path) -> list[str] | None:
        return None


class Pm2(NodeTool):
    name = "pm2"
    reloads = revives = many = True
    asgi = False

    def install(self) -> str:
        return self.npm_install("pm2")

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        apps = [
            {
                "name": program.name,
                "script": str(program.file),
                "interpreter": program.python,
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


class Meshctl(NodeTool):
    """MCP Mesh's own command line: for agents of that SDK only."""

    name = "meshctl"
    reloads, revives, many = True, False, False
    asgi = False
    package = "@mcpmesh/cli-linux-x64"

    def __init__(self, cache: Path, registry_port: int) -> None:
        super().__init__(cache)
        self.registry_port = registry_port

    def install(self) -> str:
        return self.npm_install(self.package)

    def configure(self, folder: Path, programs: Sequence[Program], *, watch: bool) -> list[str]:
        (folder / ".venv").symlink_to(Path(programs[0].python).parents[1])  # where it looks for the interpreter
        words = [str(self._bin / "meshctl"), "start", "--registry-port", str(self.registry_port)]
        words += ["--db-path", str(folder.parent / "registry.db"), *(["-w"] if watch else [])]
        return [*words, *(program.file.name for program in programs)]

    def environment(self, folder: Path) -> Mapping[str, str]:
        return {"HOME": str(folder.parent), "PATH": f"{self._bin}{os.pathsep}{os.environ.get('PATH', '')}"}

    def status(self, folder: Path) -> list[str] | None:
        return None

    @property
    def _bin(self) -> Path:
        return self.home / "node_modules" / self.package / "bin"


def all_peers(cache: Path, registry_port: int) -> list[Peer]:
    return [
        Meshsup(registry_port),
        Watchfiles(cache),
        UvicornReload(),
        Nodemon(cache),
        Pm2(cache),
        ProcessCompose(cache),
        Supervisord(cache),
        Circus(cache),
    ]
