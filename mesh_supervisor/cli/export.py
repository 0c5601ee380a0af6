"""Files for an engine that exists: a Compose file, a systemd unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from mesh_supervisor.cli.asking import place_of
from mesh_supervisor.cli.help import Topic
from mesh_supervisor.cli.parameters import option

export = Topic("export", "Write files for Compose or systemd. Secrets stay where they are.")

Output = Annotated[Path | None, option("-o", "--output", metavar="FILE", help="Write it there, not to stdout.")]
Force = Annotated[
    bool, option("--force", help="Replace FILE also when it is not ours, or was edited since it was written.")
]


@export.verb()
def compose(
    ctx: click.Context,
    output: Output = None,
    force: Force = False,
    dockerfile: Annotated[
        Path | None, option("--dockerfile", metavar="FILE", help="Default: Dockerfile beside mesh.toml.")
    ] = None,
    app: Annotated[str, option("--app", metavar="DIR", help="Where the image has the folder of mesh.toml.")] = "/app",
) -> None:
    """A Compose file: the registry, and one service per agent. `docker compose up` runs it.

    Each service is `meshsup run AGENT`, with its healthcheck, what it waits for, and the files whose edits `docker
    compose watch` takes over. Variables and env files are named, never written out. What Compose cannot express is a
    comment in the file, and a warning on stderr.
    """
    from mesh_supervisor.cli import exporting

    exporting.compose(place_of(ctx), output, force, dockerfile, app)


@export.verb()
def systemd(ctx: click.Context, output: Output = None, force: Force = False) -> None:
    """A systemd unit: the whole mesh as one service.

    It runs `meshsup up --prod` as the user to whom mesh.toml's folder belongs, in a sandbox.
    """
    from mesh_supervisor.cli import exporting

    exporting.systemd(place_of(ctx), output, force)


VERBS = {"export": export}
