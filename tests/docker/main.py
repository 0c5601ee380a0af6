"""`tests/docker/run`: finds or starts an engine, builds the image, tries the scenarios, leaves nothing."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.docker import exported, scenarios, unit
from tests.docker.base import base_image
from tests.docker.containers import remove_labelled
from tests.docker.engine import Docker, DockerError, NoEngine, own_engine, running_engine
from tests.docker.scenarios import Rig, Skipped, title

ABOUT = """\
Builds examples/docker/Dockerfile and tries it in a real Docker engine; prints a line per scenario, with its figures.
Everything that is started is gone at the end. Exit code: 0 when all went well, or was skipped with its reason; 1 when
something failed, or (--require) nothing could be tried."""

ALL = (*scenarios.ALL, *exported.ALL, *unit.ALL)
FAILURES = (AssertionError, DockerError, OSError, ValueError, KeyError, subprocess.TimeoutExpired)


def main(words: Sequence[str] | None = None) -> int:
    given = _parse(words)
    if given.list:
        for scenario in ALL:
            print(f"{scenario.__name__:<26} {(scenario.__doc__ or '').partition(chr(10))[0]}")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):  # ends like Ctrl-C: with everything put away
        signal.signal(number, _interrupted)
    try:
        with _engine(given) as docker:
            return _try_all(docker, given)
    except NoEngine as error:
        print(f"skipped: {error}")
        return 1 if given.require else 0
    except KeyboardInterrupt:
        return 130


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(f"ended by {signal.Signals(number).name}; all that was started goes")


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/docker/run", description=ABOUT)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("only", nargs="*", metavar="SCENARIO", help="only these (--list); building is always the first")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--start-engine", action="store_true", help="where none answers, start one in a folder (root)")
    parser.add_argument("--require", action="store_true", help="having no engine is a failure")
    parser.add_argument("--base", metavar="IMAGE", help="an image with Python to build on, instead of python:3.13-slim")
    parser.add_argument("--compose", metavar="PATH", help="a docker-compose v2 binary, instead of `docker compose`")
    parser.add_argument("--cache", type=Path, default=_cache(), metavar="DIR", help="keeps the base that is made here")
    given = parser.parse_args(words)
    if unknown := set(given.only) - {scenario.__name__ for scenario in ALL}:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; --list says which there are")
    return given


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshsup-docker"


@contextlib.contextmanager
def _engine(given: argparse.Namespace) -> Iterator[Docker]:
    """Raises NoEngine."""
    try:
        docker = running_engine()
    except NoEngine:
        if not given.start_engine:
            raise
    else:
        yield docker
        return
    with tempfile.TemporaryDirectory(prefix="engine-") as folder, own_engine(Path(folder) / "docker") as docker:
        yield docker


def _try_all(docker: Docker, given: argparse.Namespace) -> int:
    label = f"meshsup-test={secrets.token_hex(4)}"
    with (
        contextlib.nullcontext(given.base) if given.base else base_image(docker, given.cache) as base,
        tempfile.TemporaryDirectory(prefix="docker-") as temporary,
    ):
        folder = Path(temporary)
        folder.chmod(0o755)  # the container's user looks through it at what is mounted
        context = scenarios.copy_context(folder / "context")
        image = f"meshsup-test:{label[-8:]}"
        rig = Rig(docker, base, image, context, folder, label, _compose(docker, given.compose))
        print(f"engine {docker.is_there()}, {_describe(docker, base, rig.compose)}", flush=True)
        try:
            return _try(rig, [one for one in ALL[1:] if not given.only or one.__name__ in given.only])
        finally:
            remove_labelled(docker, label)
            docker.run("rmi", "-f", image)
            docker.run("image", "prune", "-f", "--filter", f"label={label}")


def _describe(docker: Docker, base: str, compose: tuple[str, ...] | None) -> str:
    """What the figures were measured with."""
    form = "{{.Driver}}, cgroup v{{.CgroupVersion}}, {{.NCPU}} cores, kernel {{.KernelVersion}}"
    python = docker("run", "--rm", "--entrypoint", "python3", base, "--version")
    composed = docker.run("version", "--short", command=compose).stdout.strip() if compose else "none"
    return f"{docker('info', '--format', form)}; base {base} ({python}); Compose {composed}"


def _compose(docker: Docker, given: str | None) -> tuple[str, ...] | None:
    candidates = [(given,)] if given else [("docker", "compose"), ("docker-compose",)]
    for words in candidates:
        if shutil.which(words[0]) and docker.run("version", command=words).returncode == 0:
            return words
    return None


def _try(rig: Rig, wanted: Sequence[Callable[[Rig], str]]) -> int:
    """Each, one after the other; without the image none."""
    results = [_one(scenarios.builds, rig)]
    if results[0] is not False:
        results += [_one(scenario, rig) for scenario in wanted]
    failed, skipped = results.count(False), results.count(None)
    print(f"{results.count(True)} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def _one(scenario: Callable[[Rig], str], rig: Rig) -> bool | None:
    """Whether it went well; None: it was skipped."""
    name = title(scenario)
    try:
        print(f"ok       {name}: {scenario(rig)}", flush=True)
    except Skipped as reason:
        print(f"skipped  {name}: {reason}", flush=True)
        return None
    except FAILURES as error:
        print(f"FAILED   {name}: {error}", flush=True)
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        return False
    return True
