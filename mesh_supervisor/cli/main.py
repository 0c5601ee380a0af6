"""The `meshsup` command: its verbs in groups, the options before any verb, errors as exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mesh_supervisor import __version__
from mesh_supervisor.cli import act, author, export, health, look, registry, up
from mesh_supervisor.cli.asking import Where
from mesh_supervisor.cli.help import Verb, Verbs
from mesh_supervisor.cli.terminal import complain, talk
from mesh_supervisor.errors import ConfigError, MeshError

app = typer.Typer(
    cls=Verbs,
    name="meshsup",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


SERVICES = ("up", "run", "registry")
"""Verbs that go on until they are told to stop: for them that is no failure."""


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="The mesh.toml to use.")] = None,
    directory: Annotated[Path | None, typer.Option("--directory", "-C", metavar="DIR")] = None,
    show_version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Options before any verb."""
    ctx.obj = Where(file, directory)
    if os.getpid() == 1:
        from mesh_supervisor.host import early

        early.decide(0 if ctx.invoked_subcommand in SERVICES else None)


def version() -> None:
    """Print the version."""
    print(f"meshsup {__version__}")


VERBS: tuple[Callable[..., None], ...] = (
    *(up.up, up.down),
    *(look.ps, look.logs, look.history, look.events, look.why, look.doctor, health.health, health.ls),
    *(act.start, act.stop, act.restart, act.reload, act.apply),
    *(author.init, author.check, author.schema, author.completion, version),
)
for verb in VERBS:
    app.command(cls=Verb)(verb)
app.command(cls=up.Run)(up.run)
# Everything behind the agent's name is the command's own, options too.
app.command("exec", cls=Verb, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    up.execute
)
app.add_typer(act.watch, name="watch")
app.add_typer(registry.registry, name="registry")
app.add_typer(export.export, name="export")


def open_closed_streams() -> None:
    """A shell can close them (`>&-`): Python has None there, and the next file that is opened gets it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # dup2 onto itself does nothing, not even that
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def main() -> NoReturn:
    """Run one command. Always leaves by SystemExit: errors of ours become a sentence on stderr and their exit code."""
    open_closed_streams()
    if author.COMPLETE in os.environ:
        author.load_completion()
    try:
        app(prog_name="meshsup")
    except MeshError as error:
        _explain(error)
        _leave(error.exit_code)
    except OSError as error:
        _leave(_lost(error))
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as end:
        # Typer makes a 1 of a pipe whose reader has left; it left because it has seen enough.
        _leave(0 if isinstance(end.__context__, BrokenPipeError) else end.code)
    _leave(0)


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
    # Python flushes stdout once more at its end: give it something that can be flushed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 0
    complain(f"{error.filename or 'cannot write'}: {error.strerror}")
    return 1
