"""PURE. Where Compose reads a line of .env otherwise than meshsup, which reads it as python-dotenv does.

Both put in ``${NAME}`` and ``${NAME:-default}``. Compose, to which the same file goes as ``env_file``, knows ``$NAME``,
``$$`` and more forms in braces too, and puts in nothing at all between single quotes.
"""

from __future__ import annotations

import re

_OTHERWISE = re.compile(r"\$\{[A-Za-z_]\w*(?::-[^${}]*)?\}|(?P<other>\$[A-Za-z_${])")
_PUT_IN = re.compile(r"\$\{[^}:]*(?::-[^}]*)?\}")
"""By python-dotenv, whatever the quotes."""


def is_read_otherwise(line: str, value: str) -> bool:
    """``line``: a whole ``NAME=value``, with its quotes; ``value``: what stands in these, before anything is put in."""
    quote = line.partition("=")[2].lstrip()[:1]
    if quote == "'":
        return _PUT_IN.search(value) is not None
    escaped = quote == '"' and r"\$" in value
    return escaped or any(found["other"] for found in _OTHERWISE.finditer(value))
