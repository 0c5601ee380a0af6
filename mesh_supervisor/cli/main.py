"""The `meshsup` command: its verbs in groups, the options before any verb, errors as exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mesh_supervisor import __version__
from mesh_supervisor.cli import act, author, look, registry, up
from mesh_supervisor.cli.asking import Where
from mesh_supervisor.cli.terminal import BOLD, complain, painted, talk
from mesh_supervisor.errors import ConfigError, MeshError

ABOUT = """\
meshsup runs a mesh of agents: one registry, one process per agent,
and an edit restarts exactly the agents that it affects."""

GROUPS: dict[str, tuple[str, ...]] = {
    "Run": ("up", "down", "run", "exec"),
    "Look": ("ps", "logs", "history", "events", "why"),
    "Act": ("start", "stop", "restart", "reload", "apply", "watch"),
    "Write": ("init", "check", "schema"),
    "More": ("registry", "completion", "version"),
}

EXAMPLES = (
    ("meshsup init && meshsup up", "write a mesh.toml, and run it"),
    ("meshsup up -d --wait", "in the background, until all are ready"),
    ("meshsup ps -o wide", "everything that is known about each agent"),
    ("meshsup logs -f --since 5m planner", "what planner wrote, and goes on writing"),
    ("meshsup why common/llm.py", "whom an edit of that file would reload"),
    ("meshsup exec planner -- pytest -x", "in planner's interpreter and environment"),
)

EXIT_CODES = """\
Exit codes: 0 ok · 1 failed · 2 usage or configuration · 3 not running
            4 unknown agent · 124 wait timed out · 130 Ctrl-C"""


class Verbs(TyperGroup):
    """The group whose --help is written for people who look for a verb."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(ABOUT + "\n\nUsage: meshsup [-f FILE] [-C DIR] VERB [ARGUMENT]...\n")
        for title, names in GROUPS.items():
            formatter.write(f"\n{painted(title, BOLD)}\n")
            for name in names:
                formatter.write(f"  {name:<12}{self._line(ctx, name)}\n")
        formatter.write(f"\n{painted('Options', BOLD)}, before the verb\n")
        for option, text in OPTIONS:
            formatter.write(f"  {option:<20}{text}\n")
        formatter.write(f"\n{painted('Examples', BOLD)}\n")
        for example, text in EXAMPLES:
            formatter.write(f"  {example:<36}{text}\n")
        formatter.write(f"\n`meshsup VERB --help` says more about each.\n{EXIT_CODES}\n")

    def _line(self, ctx: Any, name: str) -> str:
        """The first sentence of a verb's help, as a line of a list."""
        command = self.get_command(ctx, name)
        assert command is not None and command.help is not None, f"{name} needs a line of help"
        sentence = command.short_help or command.help.split("\n\n")[0].split(". ")[0].removesuffix(".")
        return sentence[0].lower() + sentence[1:]


OPTIONS = (
    ("-f, --file FILE", "the mesh.toml to use ($MESHSUP_FILE; else searched upward)"),
    ("-C, --directory DIR", "look for it from there"),
    ("--version, -h, --help", ""),
)

app = typer.Typer(
    cls=Verbs,
    name="meshsup",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


def version() -> None:
    """Print the version."""
    print(f"meshsup {__version__}")


_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}

app.command()(up.up)
app.command()(up.down)
app.command()(up.run)
app.command("exec", context_settings=_PASS_ON)(up.execute)
app.command()(look.ps)
app.command()(look.logs)
app.command()(look.history)
app.command()(look.events)
app.command()(look.why)
app.command()(act.start)
app.command()(act.stop)
app.command()(act.restart)
app.command()(act.reload)
app.command()(act.apply)
app.add_typer(act.watch, name="watch")
app.command()(author.init)
app.command()(author.check)
app.command()(author.schema)
app.command()(author.completion)
app.add_typer(registry.registry, name="registry")
app.command()(version)


def load_completion() -> None:
    """Teach typer its shells; by itself it does so only for apps with its --install-completion."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def main() -> NoReturn:
    """Run one command. Always leaves by SystemExit: errors of ours become a sentence on stderr and their exit code."""
    if author.COMPLETE in os.environ:
        load_completion()
    try:
        app(prog_name="meshsup")
    except MeshError as error:
        _explain(error)
        _leave(error.exit_code)
    except KeyboardInterrupt:
        _leave(130)
    except SystemExit as end:
        _leave(end.code)
    _leave(0)


def _explain(error: MeshError) -> None:
    """Mistakes in mesh.toml name their place themselves, one per line; everything else gets our name in front."""
    if isinstance(error, ConfigError) and len(error.mistakes) > 1:
        talk(*error.mistakes)
    else:
        complain(str(error))


def _leave(code: Any) -> NoReturn:
    """Exit after stdout was written out; a reader that went away (`| head`) is no error worth a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end: give it something that can be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    sys.exit(code)
