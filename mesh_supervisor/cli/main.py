"""The `meshsup` command: its verbs in groups, the options before any verb, errors as exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from mesh_supervisor import __version__
from mesh_supervisor.cli.asking import Where
from mesh_supervisor.cli.help import Verb, Verbs
from mesh_supervisor.cli.parameters import command
from mesh_supervisor.cli.shell import COMPLETE, give_up_stdout, open_closed_streams
from mesh_supervisor.cli.terminal import complain, show, talk
from mesh_supervisor.errors import ConfigError, MeshError

SERVICES = ("up", "run", "registry")
"""Verbs that go on until they are told to stop: for them that is no failure."""

MODULES: dict[str, tuple[str, ...]] = {
    "up": ("up", "down", "run", "exec"),
    "look": ("ps", "logs", "history", "events", "why", "doctor"),
    "health": ("health", "ls"),
    "act": ("start", "stop", "restart", "reload", "apply", "watch"),
    "author": ("init", "check", "schema", "completion", "version"),
    "export": ("export",),
    "registry": ("registry",),
}
"""Module of this package → its verbs."""


class Meshsup(Verbs):
    """A verb's module is imported when it is wanted: nobody waits for those of the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in MODULES.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = next((module for module, names in MODULES.items() if cmd_name in names), None)
        if module is None:
            return None
        found = import_module(f"mesh_supervisor.cli.{module}").VERBS[cmd_name]
        return found if isinstance(found, click.Command) else command(found, Verb)


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        show(f"meshsup {__version__}")
        ctx.exit()


def options(file: Path | None, directory: Path | None) -> None:
    """Options before any verb."""
    ctx = click.get_current_context()
    ctx.obj = Where(file, directory)
    if os.getpid() == 1:
        from mesh_supervisor.host import early

        early.decide(0 if ctx.invoked_subcommand in SERVICES else None)


A_PATH = click.Path(path_type=Path)

app = Meshsup(
    "meshsup",
    callback=options,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(["--file", "-f"], metavar="FILE", type=A_PATH, help="The mesh.toml to use."),
        click.Option(["--directory", "-C"], metavar="DIR", type=A_PATH, help="Look for it from there."),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version),
    ],
)


def main() -> NoReturn:
    """Run one command. Always leaves by SystemExit: errors of ours become a sentence on stderr and their exit code."""
    open_closed_streams()
    try:
        _run(sys.argv[1:])
    except click.exceptions.Exit as end:
        _leave(end.exit_code)
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except MeshError as error:
        _explain(error)
        _leave(error.exit_code)
    except OSError as error:
        _leave(_lost(error))
    except KeyboardInterrupt:
        _leave(130)
    _leave(0)


def _run(words: list[str]) -> None:
    """What click's own main does, less what it makes of Ctrl-C and of a reader that went away."""
    if COMPLETE in os.environ:
        app.main(words, prog_name="meshsup")  # always leaves
    with app.make_context("meshsup", words) as ctx:
        app.invoke(ctx)


def _explain(error: MeshError) -> None:
    """Mistakes in mesh.toml name their place themselves, one per line; everything else gets our name in front."""
    if isinstance(error, ConfigError) and len(error.mistakes) > 1:
        talk(*error.mistakes)
    else:
        complain(str(error))


def _leave(code: Any) -> NoReturn:
    """Exit after stdout was written out; a reader that went away (`| head`) is no error and not worth a word."""
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _lost(error) or code
    sys.exit(code)


def _lost(error: OSError) -> int:
    """What was to be written could not be: say why, unless nobody wants it. Returns the exit code."""
    give_up_stdout()
    if isinstance(error, BrokenPipeError):
        return 0
    complain(f"{error.filename or 'cannot write'}: {error.strerror}")
    return 1
