"""PURE. The last lines of a program's output → why it ended: the exception, and where it was raised.

Tracebacks of Python 3.10 to 3.14 (chained, of threads, exception groups, syntax errors, which have no header) and
stacks of Node. A traceback is found by its shape, indented frames and then a line that is not, because its header can
be thousands of lines away (deep recursion) or behind a logger's prefix. Of several the last one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TAIL = 500
"""Lines that are worth keeping for this: enough for the deepest useful traceback."""

AFTERWORDS = 25
"""Lines that may follow a traceback which still is the reason: an exception's further lines, notes, a farewell."""

LONGEST = 300
"""Characters of last words."""

_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_GROUP = re.compile(r"^(?P<margin>\s+)\+ Exception Group Traceback \(most recent call last\):")
_SECTION = re.compile(r"^\s*\+(?:-\+)?-{4,}")
_NUMBERED = re.compile(r"^\s*\+-+ (?:\d+|\.\.\.) -+$")
_INSIDE = re.compile(r"^\s+\| ?(?P<text>.*)$")
_SUBGROUP = re.compile(r"\(\d+ sub-exceptions?\)$")
_NODE_FRAME = re.compile(r"^\s+at .")
_NODE_ERROR = re.compile(r"^(?:Uncaught )?[A-Za-z_$][\w$.]*(?: \[\w+\])?(?::|$)")
# Apart from the line's number behind it: in one expression every blank of a line of blanks and slashes would be tried.
_NODE_PATH = re.compile(r"(?:^|[ (])(?:file://)?(?P<file>/[^():]+)")
_NODE_NUMBER = re.compile(r":(?P<line>\d+)(?::\d+)?\)?$")
_IDLE = re.compile(r"\s*$|Node\.js v\d|\(Use `node --trace-uncaught")
_FOREIGN = re.compile(r"[/\\](?:site-packages|dist-packages|node_modules)[/\\]|[/\\]lib[/\\]python\d|^<|^node:")
_NOT_LOADED = re.compile(
    r"No module named|can't open file|Could not import module|Error loading ASGI app|Cannot find module"
)
_SYNTAX = ("SyntaxError", "IndentationError", "TabError")
_LOADING = (*_SYNTAX, "ImportError", "ModuleNotFoundError", "NameError")


@dataclass(frozen=True, slots=True)
class Failure:
    """``words``: the exception in one line, else the last line, '' when nothing was said. ``file``, ``line``: where,
    preferably in the user's own code. ``loading``: one that no retry can mend, if it came before the program was
    ready: it does not parse, or imports or names what is not there.
    """

    words: str = ""
    file: str | None = None
    line: int | None = None
    loading: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """``end``: index of the last line that belongs to it. ``frames``: (file, line), outermost first."""

    end: int
    words: str
    frames: tuple[tuple[str, int], ...]


def read_failure(lines: Sequence[str]) -> Failure:
    """``lines``: the last ones of the output, oldest first, sanitized."""
    candidates = [*_tracebacks(lines), *_groups(lines), *_fatal(lines), *_node_stacks(lines)]
    latest = max(candidates, key=lambda found: found.end, default=None)
    if latest is None or _spoken(lines[latest.end + 1 :]) > AFTERWORDS:
        words = next((line.strip() for line in reversed(lines) if not _IDLE.match(line)), "")
        return Failure(words[:LONGEST], loading=bool(_NOT_LOADED.search(words)))
    return _failure(latest)


def _failure(found: _Found) -> Failure:
    kind = found.words.partition(":")[0].rpartition(".")[2]
    place = _place(found.frames, innermost=kind in _SYNTAX)
    words = found.words[:LONGEST]
    if kind in _SYNTAX and place and ", line " not in words:
        words += f" ({place[0]}:{place[1]})"
    file, line = place or (None, None)
    return Failure(words, file, line, kind in _LOADING or bool(_NOT_LOADED.search(words)))


def _place(frames: Sequence[tuple[str, int]], innermost: bool) -> tuple[str, int] | None:
    """The innermost frame of the user's own code says more than one deep in a library."""
    own = [frame for frame in frames if innermost or not _FOREIGN.search(frame[0])] or frames
    return own[-1] if own else None


def _spoken(lines: Sequence[str]) -> int:
    return sum(1 for line in lines if line.strip())


# ---- Python ----------------------------------------------------------------------------------------------------------


def _tracebacks(lines: Sequence[str]) -> Iterator[_Found]:
    start = 0  # of the run of indented lines before this one
    for index, line in enumerate(lines):
        if not line or line[0].isspace():
            continue
        frames = _frames(lines[start:index])
        if frames and lines[index - 1].strip() and not _harmless(lines, start):
            yield _Found(index, line.strip(), frames)
        start = index + 1


def _frames(lines: Sequence[str]) -> tuple[tuple[str, int], ...]:
    found = (_FRAME.match(line) for line in lines)
    return tuple((frame["file"], int(frame["line"])) for frame in found if frame)


def _harmless(lines: Sequence[str], start: int) -> bool:
    """``Exception ignored in: …`` and its traceback: of a destructor, nobody dies of it."""
    return any(line.startswith("Exception ignored ") for line in lines[max(0, start - 2) : start])


def _groups(lines: Sequence[str]) -> Iterator[_Found]:
    for index, line in enumerate(lines):
        header = _GROUP.match(line)
        if header:
            yield _group(lines, index, header["margin"])


def _group(lines: Sequence[str], start: int, margin: str) -> _Found:
    """An exception group says how many; what went wrong is said by its leaves."""
    end = _end_of_group(lines, start, margin)
    body = lines[start + 1 : end + 1]
    own = [line[len(margin) + 2 :] for line in body if line.startswith(margin + "|")]
    head = next((text for text in own if text and not text[0].isspace()), "ExceptionGroup")
    leaves = _leaves(body)
    words = f"{head}: {'; '.join(leaves)}" if leaves else head
    frames = _frames([" " + text for text in own]) or _frames([" " + text for text in _inner(body)])
    return _Found(end, words, frames)


def _end_of_group(lines: Sequence[str], start: int, margin: str) -> int:
    """Index of its closing rule: until there, messages of several lines may lack the margin (Python 3.11, 3.12)."""
    end = start
    for index in range(start + 1, len(lines)):
        if lines[index].startswith(f"{margin}  +-----") and not _NUMBERED.match(lines[index]):
            return index
        if _GROUP.match(lines[index]):
            break
        if lines[index].startswith((margin + "|", margin + "+", margin + "  ")):
            end = index
    return end


def _inner(body: Sequence[str]) -> list[str]:
    found = (_INSIDE.match(line) for line in body)
    return [match["text"] for match in found if match]


def _leaves(body: Sequence[str]) -> list[str]:
    """The exception lines of the numbered sections, in order; sections that are groups speak through their own."""
    leaves: list[str] = []
    open_section = fresh = False
    for line in body:
        inside = _INSIDE.match(line)
        if _SECTION.match(line):
            open_section = fresh = True
        elif not inside or not open_section:
            continue
        elif "Traceback (most recent call last):" in line:
            if not fresh and leaves:  # a chain: the last exception of it counts
                leaves.pop()
            fresh = True
        elif fresh and inside["text"] and not inside["text"][0].isspace():
            fresh = False
            if not _SUBGROUP.search(inside["text"]):
                leaves.append(inside["text"])
            else:
                open_section = False
    return leaves


def _fatal(lines: Sequence[str]) -> Iterator[_Found]:
    """The interpreter itself gave up, or faulthandler saw it die; frames follow, innermost first."""
    for index, line in enumerate(lines):
        if line.startswith("Fatal Python error: "):
            yield _Found(len(lines) - 1, line.strip(), _frames(lines[index:])[::-1])


# ---- Node ------------------------------------------------------------------------------------------------------------


def _node_stacks(lines: Sequence[str]) -> Iterator[_Found]:
    for index, line in enumerate(lines):
        if not _NODE_FRAME.match(line) or (index and _NODE_FRAME.match(lines[index - 1])):
            continue
        head = next((at for at in range(index - 1, max(-1, index - 12), -1) if _NODE_ERROR.match(lines[at])), None)
        if head is not None:
            yield _node_stack(lines, head, index)


def _node_stack(lines: Sequence[str], head: int, first: int) -> _Found:
    last = first
    while last + 1 < len(lines) and _NODE_FRAME.match(lines[last + 1]):
        last += 1
    # The excerpt above the error names the place too, and for a SyntaxError it is the only one that does.
    mentioned = [*lines[first : last + 1][::-1], *lines[max(0, head - 6) : head]]
    frames = tuple(place for place in map(_node_place, mentioned) if place is not None)
    return _Found(last, lines[head].strip(), frames)


def _node_place(line: str) -> tuple[str, int] | None:
    for path in _NODE_PATH.finditer(line):
        if number := _NODE_NUMBER.match(line, path.end()):
            return path["file"], int(number["line"])
    return None
