"""Verbs around mesh.toml itself: init, check, schema; and the shell's completion."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import click

from mesh_supervisor import __version__
from mesh_supervisor.cli.asking import Where, place_of
from mesh_supervisor.cli.parameters import argument, option
from mesh_supervisor.cli.shell import COMPLETE
from mesh_supervisor.cli.terminal import show, show_json, talk
from mesh_supervisor.errors import ConfigError
from mesh_supervisor.locate import FILE_NAME


def init(
    ctx: click.Context,
    force: Annotated[bool, option("--force", help="Replace the mesh.toml that is there.")] = False,
    print_only: Annotated[bool, option("--print", help="Print it instead of writing it.")] = False,
) -> None:
    """Write a mesh.toml from the programs that are found here.

    Programs that serve become agents: scripts, packages, entry points of pyproject.toml and of a uv workspace's
    members. What may do its work only once stands in it as a comment. Nothing is run.
    """
    from mesh_supervisor.cli.discover import discover, slug
    from mesh_supervisor.cli.meshfile import written

    file = _target(ctx.find_root().obj)
    found = discover(file.parent)
    text = written(slug(file.parent.name), found)
    if print_only:
        show(text.rstrip("\n"))
        return
    _write(file, text, force)
    agents = [one for one in found if not one.doubt]
    talk(f"{file}: {_counted(len(agents), 'agent')}{': ' if agents else ''}{', '.join(one.name for one in agents)}")
    if len(found) > len(agents):
        talk(f"{_counted(len(found) - len(agents), 'program')} in doubt stand in it as comments")
    talk("next: `meshsup check`, `meshsup up`" if agents else "nothing looked like an agent; write one into it")


def _target(where: Where) -> Path:
    folder = (Path.cwd() / (where.directory or "")).resolve()
    file = folder / (where.file or FILE_NAME)
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent}: no such folder")
    return file


def _write(file: Path, text: str, force: bool) -> None:
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists; --force replaces it, --print shows what would be written") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error


def _counted(count: int, noun: str) -> str:
    from mesh_supervisor.wording import counted

    return counted(count, noun)


def check(ctx: click.Context) -> None:
    """Validate mesh.toml, and say what the mesh is. All mistakes at once, and exit code 2."""
    from mesh_supervisor.cli.checked import describe

    describe(place_of(ctx))


def schema() -> None:
    """Print the JSON Schema of mesh.toml, for editors."""
    from mesh_supervisor.config import json_schema

    show_json(json_schema())


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    ctx: click.Context, shell: Annotated[Shell, argument(metavar="SHELL", help="bash, zsh or fish.")]
) -> None:
    """Print what makes a shell complete verbs and agents.

    bash, zsh: `eval "$(meshsup completion bash)"` in ~/.bashrc or ~/.zshrc. fish: `meshsup completion fish | source`.
    """
    from click.shell_completion import get_completion_class

    completing = get_completion_class(shell.value)
    assert completing is not None
    show(completing(ctx.find_root().command, {}, "meshsup", COMPLETE).source().strip())


def version() -> None:
    """Print the version."""
    show(f"meshsup {__version__}")


VERBS = {"init": init, "check": check, "schema": schema, "completion": completion, "version": version}
