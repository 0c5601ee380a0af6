"""PURE. The head of a file that was exported, by which it is known again: one that somebody has edited since is his."""

from __future__ import annotations

import re
from hashlib import sha256

_HEAD = re.compile(r"# Written by `meshsup export .*`.*\n# Digest (?P<digest>[0-9a-f]{16}): .*\n")


def marked(text: str, *, verb: str, version: str, source: str) -> str:
    """``text`` below its head. ``source``: the name of the mesh.toml."""
    source = "".join(character if character.isprintable() else "?" for character in source)
    return (
        f"# Written by `meshsup export {verb}` (meshsup {version}) from {source}.\n"
        f"# Digest {_digest(text)}: once you have edited this file, it is not overwritten without --force.\n{text}"
    )


def is_as_written(text: str) -> bool:
    """Whether this is a file of ours that nobody has edited."""
    head = _HEAD.match(text)
    return head is not None and head["digest"] == _digest(text[head.end() :])


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
