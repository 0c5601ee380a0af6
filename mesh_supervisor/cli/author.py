"""Verbs around mesh.toml itself: init, check, schema; and the shell's completion."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mesh_supervisor.cli.terminal import show, show_json


def init(
    ctx: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Replace the mesh.toml that is there.")] = False,
    print_only: Annotated[bool, typer.Option("--print", help="Print it instead of writing it.")] = False,
) -> None:
    """Write a mesh.toml from the programs that are found here."""


def check(ctx: typer.Context) -> None:
    """Validate mesh.toml; say what the mesh is."""


def schema() -> None:
    """Print the JSON Schema of mesh.toml, for editors."""
    from mesh_supervisor.config import json_schema

    show_json(json_schema())


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Whose completion to print.")]) -> None:
    """Print what makes a shell complete verbs and agents. `eval "$(meshsup completion bash)"`"""
    from typer.completion import get_completion_script

    show(get_completion_script(prog_name="meshsup", complete_var="_MESHSUP_COMPLETE", shell=shell.value))
