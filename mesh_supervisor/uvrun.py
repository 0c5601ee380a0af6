"""PURE. ``uv run …`` → the command that uv would run, where the project's environment is there and as it should be.

uv itself stays between the supervisor and the program, and installs before it runs. Where nothing is left to install,
the program is started without it. What can be told without asking uv: the lock file has what pyproject.toml asks for,
what is asked for is installed, and nothing is installed in a version that the lock file does not know.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath
from typing import Any, Protocol

SYNC = "run `uv sync` in {folder}"
DIRECT = "give the command without `uv run`: the agent's own environment is found by itself"


class Unresolved(Exception):
    """Why a program runs plainly, and what would help. Never leaves this module and target.py."""

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.reason, self.cure = reason, cure


class Project(Protocol):
    """What is asked about the disk and the environment. All paths are absolute."""

    @property
    def python(self) -> str:
        """The agent's own interpreter."""

    def start_of(self, path: str) -> str:
        """The first 64 KiB of a file; "" if it cannot be read."""

    def text(self, path: str) -> str | None:
        """All of a file; None: there is none."""

    def is_file(self, path: str) -> bool: ...

    def variable(self, name: str) -> str | None:
        """Of the agent's environment."""

    def installed(self) -> Mapping[str, str]:
        """Distribution, its name normalized → version, of the agent's own interpreter."""


@dataclass(slots=True)
class _Asked:
    """``uv [options] run [options] X …``, taken apart."""

    words: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    project: str | None = None


_HARMLESS = frozenset(
    {"--frozen", "--locked", "--no-sync", "--offline", "-q", "--quiet", "-v", "--verbose", "--no-progress", "--dev"}
    | {"--native-tls", "--system-certs", "--no-cache", "-n", "--no-config", "--no-python-downloads", "--managed-python"}
    | {"--no-env-file"}
)
_HARMLESS_WITH_VALUE = frozenset({"--color", "--cache-dir", "--extra", "--group", "--project", "--config-file"})
_SETTINGS = ("UV_PYTHON", "UV_ENV_FILE", "UV_ISOLATED", "UV_NO_PROJECT", "UV_WORKING_DIRECTORY", "UV_WORKING_DIR")
_PROJECT_FILE, _LOCK_FILE = "pyproject.toml", "uv.lock"


def resolve(argv: tuple[str, ...], directory: str, around: Project) -> tuple[str, ...]:
    """Raises Unresolved."""
    asked = _asked(list(argv[1:]))
    for name in _SETTINGS:
        if around.variable(name):
            raise Unresolved(f"{name} tells uv what to run it in", DIRECT)
    _check_environment(asked, normpath(join(directory, asked.project or "")), around)
    return _command(asked.words, directory, around)


def _asked(words: list[str]) -> _Asked:
    asked, seen_run = _Asked(), False
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word == "--" and seen_run:
            break
        if not word.startswith("-") or word == "-":
            if seen_run:
                words.insert(0, word)
                break
            if word != "run":
                raise Unresolved(f"uv {word} runs it in an environment of its own", DIRECT)
            seen_run = True
        elif name in {"-m", "--module"} and seen_run:
            words[:0] = ["-m", *([value] if equals else [])]
            break
        elif name in _HARMLESS_WITH_VALUE:
            _take(asked, name, value if equals else (words.pop(0) if words else ""))
        elif word in _HARMLESS:
            asked.flags.add(word)
        else:
            raise Unresolved(f"uv run {name} is for uv to decide", DIRECT)
    asked.words = words
    return asked


def _take(asked: _Asked, name: str, value: str) -> None:
    if name == "--extra":
        asked.extras.append(value)
    elif name == "--group":
        asked.groups.append(value)
    elif name == "--project":
        asked.project = value


# ---- what it runs ------------------------------------------------------------------------------------------------


_SCRIPT_METADATA = re.compile(r"^# /// script\s*$", re.MULTILINE)


def _command(words: list[str], directory: str, around: Project) -> tuple[str, ...]:
    first = words[0] if words else "-"
    place = normpath(join(directory, first))
    if first == "-":
        raise Unresolved("uv reads its program from stdin, and that is empty", "name the program in `command`")
    if first.startswith(("http://", "https://")):
        raise Unresolved("uv fetches its program from elsewhere", "keep the program in a file of the project")
    if first == "-m" or around.is_file(join(place, "__main__.py")):
        return (around.python, *words)
    if first.lower().endswith((".py", ".pyw", ".pyc")) and around.is_file(place):
        if _SCRIPT_METADATA.search(around.text(place) or ""):
            raise Unresolved(
                f"{first} names its own dependencies (# /// script): uv makes an environment for it",
                "put its dependencies into pyproject.toml, and leave the header out",
            )
        return (around.python, *words)
    beside = join(dirname(around.python), first)
    if "/" not in first and around.is_file(beside):
        return (beside, *words[1:])
    return tuple(words)


# ---- is its environment there, and as it should be? --------------------------------------------------------------


def _check_environment(asked: _Asked, directory: str, around: Project) -> None:
    project = _upward(directory, _PROJECT_FILE, around)
    if project is None:
        return  # it runs in the environment that is there
    root = _upward(project, _LOCK_FILE, around)
    wanted = normpath(join(root or project, around.variable("UV_PROJECT_ENVIRONMENT") or ".venv"))
    if dirname(dirname(around.python)) != wanted:
        raise Unresolved(
            f"uv would run it in {wanted}, and the agent has {around.python}", f'python = "{wanted}/bin/python"'
        )
    if "--no-sync" in asked.flags or around.variable("UV_NO_SYNC"):
        return
    cure = SYNC.format(folder=project)
    if root is None:
        raise Unresolved("there is no uv.lock yet, so uv installs before it runs", cure)
    why = _difference(around, project, root, asked)
    if why is not None:
        raise Unresolved(f"uv would install before it runs: {why}", cure)


def _upward(folder: str, name: str, around: Project) -> str | None:
    while not around.is_file(join(folder, name)):
        if folder in ("/", ""):
            return None
        folder = dirname(folder)
    return folder


def _difference(around: Project, project: str, root: str, asked: _Asked) -> str | None:
    """What is not as it should be; None: nothing that can be told."""
    try:
        table = tomllib.loads(around.text(join(project, _PROJECT_FILE)) or "")
    except tomllib.TOMLDecodeError:
        return "pyproject.toml cannot be read"
    lock = read_lock(around.text(join(root, _LOCK_FILE)) or "")
    wanted = _wanted(table, asked)
    own = normalized(str(_table(table, "project").get("name", "")))
    return _not_locked(table, lock, own) or _not_installed(wanted, lock, around.installed())


def _not_locked(table: Mapping[str, Any], lock: Lock, own: str) -> str | None:
    """pyproject.toml was changed, and the lock file does not have it yet."""
    requires = lock.requires.get(own)
    if requires is None:
        return None  # it has no dependencies, or is no package
    for name, specifiers in _requirements(_dependencies(table)):
        known = requires.get(name)
        if known is None or (specifiers and frozenset() not in known and specifiers not in known):
            return f"uv.lock does not have what pyproject.toml says of {name}"
    return None


def _not_installed(wanted: Iterable[str], lock: Lock, installed: Mapping[str, str]) -> str | None:
    for name in wanted:
        if name not in installed:
            return f"{name} is not installed"
    for name, version in installed.items():
        known = lock.versions.get(name)
        if known and version not in known:
            return f"{name} {version} is installed, uv.lock has {', '.join(sorted(known))}"
    return None


def _wanted(table: Mapping[str, Any], asked: _Asked) -> list[str]:
    """What must be installed, as far as it is asked for without conditions."""
    extras, groups = _table(table, "project", "optional-dependencies"), _table(table, "dependency-groups")
    lists: list[Any] = [_table(table, "project").get("dependencies", [])]
    lists += [extras.get(name, []) for name in asked.extras] + [groups.get(name, []) for name in asked.groups]
    texts = [text for each in lists if isinstance(each, list) for text in each if isinstance(text, str)]
    own = [_table(table, "project").get("name")] if _is_package(table) else []
    return [name for name, _ in _requirements([*map(str, own), *(text for text in texts if ";" not in text)])]


def _is_package(table: Mapping[str, Any]) -> bool:
    """uv installs the project itself."""
    return bool(_table(table, "tool", "uv").get("package", "build-system" in table))


def _dependencies(table: Mapping[str, Any]) -> list[str]:
    found = _table(table, "project").get("dependencies", [])
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        inner = table.get(key)
        table = inner if isinstance(inner, dict) else {}
    return table


_NAME = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(.*)$", re.DOTALL)


def _requirements(texts: Iterable[str]) -> list[tuple[str, frozenset[str]]]:
    """(name, specifiers) of each ``httpx[http2] >= 0.27, < 1 ; marker``; no specifiers for a URL."""
    found = []
    for text in texts:
        match = _NAME.match(text.partition(";")[0])
        if match is not None:
            found.append((normalized(match[1]), frozenset() if match[2].startswith("@") else _specifiers(match[2])))
    return found


def _specifiers(text: str) -> frozenset[str]:
    parts = re.sub(r"\s", "", text).strip("()").split(",")
    return frozenset(part for part in parts if part)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---- uv.lock -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lock:
    """``versions``: of what comes from elsewhere. ``requires``: project → its requirement → the specifiers that it
    is asked for by (several: for several conditions)."""

    versions: Mapping[str, Collection[str]]
    requires: Mapping[str, Mapping[str, Collection[frozenset[str]]]]


_FIELD = re.compile(r'^(name|version) = "([^"]*)"$', re.MULTILINE)
_OWN = re.compile(r"^source = \{ (editable|virtual|directory) = ", re.MULTILINE)
_REQUIRES = re.compile(r"^requires-dist = \[(.*?)\]$", re.MULTILINE | re.DOTALL)
_REQUIRED = re.compile(r'\{ name = "([^"]*)"(.*?) \}')
_SPECIFIER = re.compile(r' specifier = "([^"]*)"')


def read_lock(text: str) -> Lock:
    """By its lines, as uv writes them: a TOML parser would take half a second for a large one."""
    versions: dict[str, set[str]] = {}
    requires: dict[str, dict[str, set[frozenset[str]]]] = {}
    for block in text.split("\n[[package]]\n")[1:]:
        fields = dict(reversed(_FIELD.findall(block)))
        name = normalized(fields.get("name", ""))
        if _OWN.search(block):
            found = requires.setdefault(name, {})
            for required, rest in _REQUIRED.findall("".join(_REQUIRES.findall(block))):
                specifier = _SPECIFIER.search(rest)
                found.setdefault(normalized(required), set()).add(_specifiers(specifier[1] if specifier else ""))
        elif "version" in fields:
            versions.setdefault(name, set()).add(fields["version"])
    return Lock(versions, requires)
