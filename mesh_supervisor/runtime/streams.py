"""sys.stdin, sys.stdout and sys.stderr after other files were put under their descriptors.

Python decides at its start, by what the descriptors are then, whether a stream is line-buffered and whether one can
seek in it. The same objects are made anew in place: what modules have kept of them (a logging handler) stays valid.
What they have kept of the layers below writes to the same descriptor.
"""

from __future__ import annotations

import io
import sys

from .hints import Any


def renew(unbuffered: bool) -> None:
    """As Python's ``create_stdio`` does. Streams that were replaced by something else are left alone."""
    for fd, stream in enumerate((sys.__stdin__, sys.__stdout__, sys.__stderr__)):
        if type(stream) is io.TextIOWrapper:
            _renew(stream, fd, unbuffered)


def are_unbuffered() -> bool:
    return isinstance(getattr(sys.__stdout__, "buffer", None), io.FileIO)


def flush() -> None:
    """What modules have printed is said once, not by each copy of the process."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            continue  # closed, or nobody reads it


def _renew(stream: Any, fd: int, unbuffered: bool) -> None:
    encoding, errors, name, mode = stream.encoding, stream.errors, stream.name, stream.mode
    buffer: Any = stream.buffer
    writes = fd > 0
    raw = io.FileIO(fd, "wb" if writes else "rb", closefd=False)  # an old one remembers whether it could seek
    raw.name = name
    if writes and unbuffered:
        buffer = raw
    elif isinstance(buffer, io.FileIO):
        buffer = io.BufferedWriter(raw)
    else:
        buffer.__init__(raw)
    line_buffering = not unbuffered and (fd == 2 or raw.isatty())
    stream.__init__(buffer, encoding, errors, "\n", line_buffering, unbuffered)
    stream.mode = mode
