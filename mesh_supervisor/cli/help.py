"""How `--help` reads: plain text in 80 columns, the verbs in groups, the same in a pipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mesh_supervisor.cli.parameters import arguments, command
from mesh_supervisor.cli.terminal import BOLD, painted
from mesh_supervisor.errors import UsageError, suggestion

ABOUT = """\
meshsup runs a mesh of agents: one registry, one process per agent,
and an edit restarts exactly the agents that it affects."""

GROUPS: dict[str, tuple[str, ...]] = {
    "Run": ("up", "down", "run", "exec"),
    "Look": ("ps", "logs", "history", "events", "why", "health", "ls", "doctor"),
    "Act": ("start", "stop", "restart", "reload", "apply", "watch"),
    "Write": ("init", "check", "schema", "export"),
    "More": ("registry", "completion", "version"),
}

OPTIONS = (
    ("-f, --file FILE", "the mesh.toml to use; else $MESHSUP_FILE, or upward"),
    ("-C, --directory DIR", "look for it from there"),
    ("-h, --help, --version", ""),
)

BEFORE_THE_VERB = {"-f": "FILE", "--file": "FILE", "-C": "DIR", "--directory": "DIR"}

EXAMPLES = (
    ("meshsup init && meshsup up", "write a mesh.toml, and run it"),
    ("meshsup up -d --wait", "in the background, until all are ready"),
    ("meshsup ps -o wide", "everything that is known about each agent"),
    ("meshsup logs -f --since 5m planner", "what planner wrote, and goes on writing"),
    ("meshsup why common/llm.py", "whom an edit of that file would reload"),
    ("meshsup run planner", "in this terminal: a debugger works"),
    ("meshsup exec planner -- pytest -x", "in planner's interpreter and environment"),
)

EXIT_CODES = """\
Exit codes: 0 ok · 1 failed · 2 usage or configuration · 3 not running
            4 unknown agent · 124 wait timed out · 130 Ctrl-C"""


class Verb(click.Command):
    """One verb; its help is for people who type it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UsageError for ``-f`` and ``-C`` behind the verb, where people write them too."""
        known = {name for parameter in self.params for name in parameter.opts}
        for word in args:
            if word == "--" or not (word.startswith("-") or ctx.allow_interspersed_args):
                break
            option = word.partition("=")[0]
            if option in BEFORE_THE_VERB and option not in known and not ctx.resilient_parsing:
                what = f"{option} {BEFORE_THE_VERB[option]}"
                raise UsageError(f"{what} stands before the verb: `meshsup {what} {ctx.info_name} …`")
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        formatter.buffer[:] = [line.rstrip() + "\n" for line in formatter.getvalue().splitlines()]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        if rows := arguments(self):
            with formatter.section("Arguments"):
                formatter.write_dl([(f"{name:<10}", text) for name, text in rows])
        super().format_options(ctx, formatter)


Function = TypeVar("Function", bound=Callable[..., None])


class Group(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {word!r}{suggestion(word, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


class Topic(Group):
    """Verbs behind a word, such as `watch status`."""

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help=help, no_args_is_help=True)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def verb(self, name: str | None = None) -> Callable[[Function], Function]:
        def enter(function: Function) -> Function:
            self.add_command(command(function, Verb, name=name))
            return function

        return enter


class Verbs(Group):
    """All verbs; its help is for people who look for one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(ABOUT + "\n\nUsage: meshsup [-f FILE] [-C DIR] VERB [ARGUMENT]...\n")
        for title, names in GROUPS.items():
            _section(formatter, title, [(name, self._line(ctx, name)) for name in names], 12)
        _section(formatter, "Options, before the verb", OPTIONS, 23)
        _section(formatter, "Examples", EXAMPLES, 36)
        formatter.write(f"\n`meshsup VERB --help` says more about each.\n{EXIT_CODES}\n")

    def _line(self, ctx: Any, name: str) -> str:
        """The first sentence of a verb's help, as a line of a list."""
        command = self.get_command(ctx, name)
        assert command is not None and command.help is not None, f"{name} needs a line of help"
        sentence = command.help.partition("\n\n")[0].partition(". ")[0].removesuffix(".")
        return sentence[0].lower() + sentence[1:]


def _section(formatter: Any, title: str, rows: Any, indent: int) -> None:
    formatter.write(f"\n{painted(title, BOLD)}\n")
    for left, right in rows:
        formatter.write(f"  {left:<{indent}}{right}".rstrip() + "\n")
