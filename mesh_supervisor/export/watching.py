"""PURE. The inputs of an agent → what `docker compose watch` takes over into its container (`develop.watch`).

Files one by one, so that an edit restarts exactly whom it affects; a folder where new files count too, or where there
are too many. Only what lies below mesh.toml's folder, since that is what the image is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import relpath

from mesh_supervisor.export.references import Written, has_variable
from mesh_supervisor.export.yaml import is_text
from mesh_supervisor.impact import Glob, Inputs
from mesh_supervisor.spec import AgentSpec, CommandLine
from mesh_supervisor.wording import counted

MOST_FILES = 100
"""Of one agent, named one by one; beyond that their folders are."""

NEVER = ("**/__pycache__", "**/.venv", "**/node_modules", "**/.mesh")
"""In a folder that is synchronised as a whole. (Compose leaves out what .dockerignore names by itself.)"""


@dataclass(frozen=True, slots=True)
class Synchronised:
    """A file or folder below mesh.toml's. ``ignored``: patterns of .dockerignore, relative to it."""

    path: Path
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """``left_out``: a sentence each for inputs that no rule stands for."""

    rules: tuple[Synchronised, ...]
    left_out: tuple[str, ...] = ()


def watched(inputs: Inputs, patterns: Sequence[str], root: Path, *, names_outside: bool = True) -> Watched:
    """``patterns``: the agent's ``watch``, as it is written (one for each of ``inputs.globs``). ``names_outside``: what
    lies outside of ``root`` may be named."""
    by_name, elsewhere = _by_what_is_written(inputs, patterns)
    files = inputs.paths - inputs.env_files - inputs.absent
    files -= {path for path in files if _only_by(path, elsewhere, inputs)}
    folders = {*inputs.directories, *inputs.folders, *_folders_of(by_name, inputs, root)}
    outside = sorted(relpath(path, root) for path in {*files, *folders} if not path.is_relative_to(root))
    if outside and not names_outside:
        outside = [counted(len(outside), "file")]
    folders = {path for path in folders if path.is_relative_to(root)}
    crowded = _crowded(files, folders, root)
    unwritable = sorted(path for path in files if not is_text(str(path)))
    inside = _outermost({*folders, *crowded, *(path for path in files if is_text(str(path)))}, root)
    whole = folders | crowded
    rules = tuple(Synchronised(path, _ignored(path, by_name) if path in whole else ()) for path in sorted(inside))
    return Watched(rules, tuple(_left_out(outside, elsewhere, crowded, unwritable, _open_globs(by_name, root), root)))


def is_told_by_variables(spec: AgentSpec, written: Written, inputs: Inputs) -> bool:
    """Whether variables say which files its program is. Then the names of these, and of all that it imports, are not
    mesh.toml's to tell. An argument that names no file is nobody's path: `--key=${KEY}`."""
    command, module, directory = (written.of(spec.name, key) for key in ("command", "module", "directory"))
    line = command if isinstance(command, list) else ()
    if has_variable([directory, module, None if line else command, *line[:1]]):
        return True
    words = [*line, *(written.of(spec.name, "args") or ())]
    resolved = [*(spec.command.argv if isinstance(spec.command, CommandLine) else ()), *spec.args]
    named = [word for text, word in zip(words, resolved, strict=False) if has_variable(text)]
    paths = {spec.directory / part for word in named for part in (word, word.partition("=")[2]) if part}
    return not paths.isdisjoint({*inputs.paths, *inputs.directories, *inputs.folders})


def _by_what_is_written(inputs: Inputs, patterns: Sequence[str]) -> tuple[list[Glob], list[Glob]]:
    """Globs that stand in mesh.toml as they are, and those of which a part comes from the environment."""
    pairs = list(zip(inputs.globs, patterns, strict=False))
    return [g for g, text in pairs if not has_variable(text)], [g for g, text in pairs if has_variable(text)]


def _only_by(path: Path, globs: Iterable[Glob], inputs: Inputs) -> bool:
    return path not in inputs.files and path not in inputs.read and any(glob.matches(path) for glob in globs)


def _folders_of(globs: Iterable[Glob], inputs: Inputs, root: Path) -> Iterator[Path]:
    """Where globs begin to be patterns. Not mesh.toml's own folder: that would be everybody's files."""
    for glob in globs:
        holds_files = glob.spec is not None or any(glob.base in path.parents for path in inputs.matched)
        if not glob.negated and holds_files and glob.base != root:
            yield glob.base


def _open_globs(globs: Iterable[Glob], root: Path) -> list[Glob]:
    return [glob for glob in globs if glob.base == root and glob.spec is not None and not glob.negated]


def _crowded(files: Iterable[Path], folders: Iterable[Path], root: Path) -> set[Path]:
    """The folders of too many files. A file that lies in mesh.toml's own folder stays by itself."""
    single = [path for path in files if path.is_relative_to(root) and not set(path.parents) & set(folders)]
    return {path.parent for path in single if path.parent != root} if len(single) > MOST_FILES else set()


def _outermost(paths: Iterable[Path], root: Path) -> list[Path]:
    found = {path for path in paths if path.is_relative_to(root)}
    return [path for path in found if not found.intersection(path.parents)]


def _ignored(folder: Path, globs: Iterable[Glob]) -> tuple[str, ...]:
    """``!prompts/draft.md`` as .dockerignore would say it."""
    taken_out = [glob for glob in globs if glob.negated and glob.base.is_relative_to(folder) and glob.base != folder]
    exact = [glob.base.relative_to(folder).as_posix() for glob in taken_out if glob.spec is None]
    return (*exact, *NEVER)


def _left_out(
    outside: Sequence[str],
    elsewhere: Sequence[Glob],
    crowded: Iterable[Path],
    unwritable: Sequence[Path],
    everywhere: Sequence[Glob],
    root: Path,
) -> Iterator[str]:
    if outside:
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        yield (
            f"depends on {', '.join(outside[:3])}{more}, outside mesh.toml's folder: the image needs it too, and an "
            "edit of it is not taken over"
        )
    if elsewhere:
        yield "what `watch` takes from variables is not taken over"
    if crowded:
        yield f"has more than {MOST_FILES} inputs: their folders are taken over, so more edits restart it than need to"
    if unwritable:
        yield f"{len(unwritable)} of its inputs have a name that is no UTF-8; an edit of them is not taken over"
    if everywhere:
        texts = ", ".join(glob.text for glob in everywhere)
        yield f"of `watch` {texts} only the files that are there now are taken over, not new ones"
