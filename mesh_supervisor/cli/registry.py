"""The registry by itself: serve it, list what is in it."""

from __future__ import annotations

import typer

registry = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The registry alone: serve it, or list it.")


@registry.command()
def serve() -> None:
    """Run a registry in the foreground, without a mesh."""


@registry.command("list")
def list_() -> None:
    """What is registered."""
