"""Verbs that start and end things: up, down, run, exec."""

from __future__ import annotations

import os
import sys
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import click
from click.exceptions import Exit

from mesh_supervisor.cli.asking import Agents, OneAgent, Timeout, client_of, place_of
from mesh_supervisor.cli.help import Verb
from mesh_supervisor.cli.parameters import argument, command, option
from mesh_supervisor.cli.terminal import complain, show, still, talk
from mesh_supervisor.control.client import Client
from mesh_supervisor.control.near import of_agent
from mesh_supervisor.errors import AlreadyRunning, UsageError, WaitTimedOut
from mesh_supervisor.locate import Place, mode_in

if TYPE_CHECKING:
    # Only `up` needs them; `ps`, which shares this module's import, is to be quick.
    from mesh_supervisor.options import UpOptions
    from mesh_supervisor.spec import Mode


def up(
    ctx: click.Context,
    agents: Agents = None,
    detach: Annotated[bool, option("-d", "--detach", help="In the background; return once it can be asked.")] = False,
    wait: Annotated[bool, option("--wait", help="Like -d, but return when all are ready.")] = False,
    timeout: Timeout = None,
    watch: Annotated[
        bool | None, option("--watch/--no-watch", help="Reload on save or not, whatever mesh.toml says.")
    ] = None,
    debounce: Annotated[
        float | None, option("--debounce", least=0, metavar="SECONDS", help="Quiet before a save is acted on.")
    ] = None,
    profiles: Annotated[
        list[str] | None, option("--profile", metavar="NAME", help="Also the agents of this profile; repeatable.")
    ] = None,
    prod: Annotated[bool | None, option("--prod/--dev", help="The mode, whatever mesh.toml says.")] = None,
    show_secrets: Annotated[bool, option("--show-secrets", help="Do not print values as •••.")] = False,
) -> None:
    """Start the registry and the agents, and follow their log. Ctrl-C stops all; a second one kills.

    On a mesh that runs already: apply mesh.toml, start those, and follow the log; Ctrl-C then ends the following only.
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout is for `up --wait`")
    place = place_of(ctx)
    client = Client(place)
    if client.running():
        _refuse_elsewhere(client)
        _say_without_effect(client, prod=prod, watch=watch, debounce=debounce, show_secrets=show_secrets)
        _join(client, agents or [], profiles or [], stay=not (detach or wait))
    else:
        from mesh_supervisor.options import UpOptions

        mode, reason = _mode(place, prod)
        options = UpOptions(
            agents=tuple(agents or ()),
            profiles=tuple(profiles or ()),
            mode=mode,
            mode_reason=reason,
            watch=watch,
            debounce=debounce,
            detached=detach or wait,
            show_secrets=show_secrets,
        )
        _launch(place, options)
    if wait:
        from mesh_supervisor.cli.waiting import wait_until_ready

        raise Exit(wait_until_ready(client, timeout))


def _mode(place: Place, prod: bool | None) -> tuple[Mode, str]:
    """Decided here, before anything detaches: the terminal and PID 1 are this process's."""
    from mesh_supervisor.config import choose_mode
    from mesh_supervisor.host.container import why_unattended
    from mesh_supervisor.spec import Mode

    wanted = None if prod is None else Mode.PROD if prod else Mode.DEV
    return choose_mode(wanted, os.environ, mode_in(place.file), why_unattended())


def _launch(place: Place, options: UpOptions) -> None:
    if options.detached:
        from mesh_supervisor.cli.detaching import detach
        from mesh_supervisor.host.container import is_main_process
        from mesh_supervisor.host.service_manager import is_invited

        if is_main_process():
            raise UsageError("this cannot go into the background: the container would end; leave -d and --wait out")
        if is_invited(os.environ) and not sys.stdout.isatty():
            talk("NOTIFY_SOCKET is set, but from the background nothing is told there: a service is `up` without -d")
        detach(place, options)
    else:
        import asyncio

        from mesh_supervisor import running

        raise Exit(asyncio.run(running.run(place, options)))


def _refuse_elsewhere(client: Client) -> None:
    """A container that joined the mesh of another one would do nothing, and look healthy."""
    if client.elsewhere():
        from mesh_supervisor.host.holder import refusal_elsewhere

        raise AlreadyRunning(refusal_elsewhere(client.place.state_dir))


def _say_without_effect(
    client: Client, *, prod: bool | None, watch: bool | None, debounce: float | None, show_secrets: bool
) -> None:
    """What can only be said when a mesh is started, and is not what the running one does anyway."""
    now = client.snapshot()
    ignored = {
        "--prod" if prod else "--dev": prod is not None and prod != (now.mode == "prod"),
        "--watch" if watch else "--no-watch": watch is not None and watch != now.watching,
        "--debounce": debounce is not None,
        "--show-secrets": show_secrets,
    }
    given = " and ".join(option for option, differs in ignored.items() if differs)
    if given:
        watching = "watching" if now.watching else "not watching"
        talk(f"{given}: no effect on a mesh that runs ({now.mode} mode, {watching}); `meshsup down` first")


def _join(client: Client, agents: list[str], profiles: list[str], *, stay: bool) -> None:
    from mesh_supervisor.cli import logs
    from mesh_supervisor.cli.asking import tell

    talk(f"{client.place.file}: runs already; applying mesh.toml")
    tell(client.command("up", agents=agents, profiles=profiles))
    if stay:
        talk("following the log; Ctrl-C ends the following only")
        logs.follow(client, agents)


def down(ctx: click.Context, timeout: Timeout = None) -> None:
    """Stop all agents in reverse order, the registry, the supervisor."""
    client = client_of(ctx)
    with client.supervisor() as process:
        answer = client.command("down", timeout=timeout)
        show(*map(still, answer.lines))
        if not process.wait(timeout):
            raise WaitTimedOut(
                f"the supervisor (pid {process.pid}) still runs after {timeout:g} s; it goes on stopping"
            )
    if answer.ok:
        talk("the mesh is down")
    else:
        complain(answer.error or "not everything could be stopped")
        raise Exit(answer.exit_code or 1)


ANY_PORT = "any"


class Run(Verb):
    """`run`: the value of --debug may be left out, which click does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        for word, following in zip_longest(args, args[1:], fillvalue=""):
            if given and given[-1] == "--debug=":
                given[-1] += word
            elif word == "--debug":
                given.append("--debug=" if following.isdigit() else f"--debug={ANY_PORT}")
            else:
                given.append(word)
        return super().parse_args(ctx, given)


Program = Annotated[list[str], argument(metavar="CMD", help="What to run, with its arguments.")]


def run(
    ctx: click.Context,
    agent: OneAgent,
    debug: Annotated[
        str | None, option("--debug", metavar="[PORT]", help="Under debugpy, on 5678 or the next free port.")
    ] = None,
    wait: Annotated[bool, option("--debug-wait", help="The same, and start once a debugger is attached.")] = False,
    prod: Annotated[
        bool | None, option("--prod/--dev", help="Supervise it by itself, or be the program, wherever this is.")
    ] = None,
    watch: Annotated[
        bool | None, option("--watch/--no-watch", help="--watch: supervise it, and reload on save.")
    ] = None,
) -> None:
    """Run one agent in this terminal, or as a container's process.

    In a terminal: a debugger works, an MCP client can launch it. Taken over from a running mesh: stopped there, and not
    reloaded, restarted or checked until this ends; then the mesh starts it again. stdin, stdout and the exit code are
    the program's own.

    As PID 1, as a service without a terminal, in prod mode (where no mesh runs), and with --prod or --watch: supervised
    by itself, with probes, drain and a control socket (`ps`, `health`), and no restarts, which are the engine's. It is
    registered at $MESHSUP_REGISTRY_URL, or where [registry] kind = "external" says. The exit code is the program's, 1
    when it did not get ready, 0 after SIGTERM.
    """
    from mesh_supervisor.cli import alone

    place = place_of(ctx)
    debugging = alone.Debug(_port(debug), wait) if wait or debug is not None else None
    if debugging is not None and (prod or watch):
        raise UsageError("--debug is for a terminal, --prod and --watch supervise; leave one of them out")
    if debugging is None and _supervised(place, agent, prod, watch):
        from mesh_supervisor.options import UpOptions

        mode, reason = _mode(place, prod)
        _launch(place, UpOptions((agent,), mode=mode, mode_reason=reason, watch=watch, alone=agent))
    alone.run(place, agent, debugging)


def _supervised(place: Place, agent: str, prod: bool | None, watch: bool | None) -> bool:
    """Whether `run` stays, as the supervisor of the agent. Who starts it from inside a running mesh is a person."""
    from mesh_supervisor.spec import Mode

    if prod is not None or watch:
        return bool(prod or watch)
    if _started_by_an_engine():
        return True
    client = Client(of_agent(place, agent))
    runs_here = client.running() and not client.elsewhere()
    return not runs_here and _mode(place, None)[0] is Mode.PROD


def _started_by_an_engine() -> bool:
    """Of containers, or of services. Whatever mode is asked for, there is no person at a terminal."""
    from mesh_supervisor.host.container import why_unattended

    return bool(why_unattended())


def _port(text: str | None) -> int | None:
    if text in (None, ANY_PORT):
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UsageError(f"--debug {text}: is no port; 1 to 65535, or nothing for a free one")
    return int(text)


def execute(ctx: click.Context, agent: OneAgent, command: Program) -> None:
    """Run a command with an agent's interpreter, folder, environment."""
    from mesh_supervisor.cli import alone

    words = command[1:] if command[0] == "--" else command
    if not words:
        raise UsageError(f"nothing to run; write `meshsup exec {agent} -- CMD`")
    alone.execute(place_of(ctx), agent, words)


VERBS = {
    "up": up,
    "down": down,
    "run": command(run, Run),
    # Everything behind the agent's name is the command's own, options too.
    "exec": command(
        execute,
        Verb,
        name="exec",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    ),
}
