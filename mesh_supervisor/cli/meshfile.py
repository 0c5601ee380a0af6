"""PURE. The text of a mesh.toml for what `init` has found."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mesh_supervisor.cli.discover import Found
from mesh_supervisor.wording import json_text

HEAD = """\
# Written by `meshsup init`; yours to edit. `meshsup check` says what it means, `meshsup up` runs it.
# All keys: docs/configuration.md, or `meshsup schema` for your editor.

[mesh]
name = {name}
"""

MOST_DOUBTFUL = 20

NOTHING = """
# No program was found that looks like an agent. One looks like this:
#
# [agents.planner]
# command = "agents/planner.py"        # a script, or a list: ["uv", "run", "planner"]
# port = 8101                          # the program finds it in PORT
# capabilities = ["plan"]              # announced in the registry
"""


def written(name: str, found: Sequence[Found]) -> str:
    """A whole mesh.toml; what is in doubt stands in it as comments, at the end."""
    agents = [one for one in found if not one.doubt]
    doubtful = [one for one in found if one.doubt]
    text = HEAD.format(name=_quoted(name))
    text += "".join("\n" + _table(one) for one in agents) or NOTHING
    if doubtful:
        text += "\n# Also found; take the # away from what is to be an agent.\n"
        text += "".join("#\n" + _commented(_table(one)) for one in doubtful[:MOST_DOUBTFUL])
        if len(doubtful) > MOST_DOUBTFUL:
            text += f"#\n# … and {len(doubtful) - MOST_DOUBTFUL} more\n"
    return text


def _table(one: Found) -> str:
    lines = [f"[agents.{one.name}]", *_keys(one)]
    comment = "; ".join(part for part in (one.why, one.doubt) if part)
    if comment:
        lines[1] = f"{lines[1]:<40}  # {comment}"
    return "\n".join(lines) + "\n"


def _keys(one: Found) -> list[str]:
    if one.script:
        keys = [f"command = {_quoted(one.script)}"]
    elif one.module:
        keys = [f"module = {_quoted(one.module)}"]
    else:
        keys = [f"command = [{', '.join(map(_quoted, one.words))}]"]
    if one.directory:
        keys.append(f"directory = {_quoted(one.directory)}")
    if one.port:
        keys.append(f"port = {one.port}")
    return keys


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


def _quoted(text: str) -> str:
    """As a TOML string: JSON's escapes are TOML's, but for DEL."""
    return json_text(text, escaped=re.compile("\x7f"))
