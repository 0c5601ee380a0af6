"""Where a path really leads: which folders must be watched so that no change of what it names is missed.

A path may cross symlinks (a checkout behind a link, a ConfigMap's ``..data``) and may not exist yet. A change of any
link on the way, or the appearance of its first missing part, changes what it names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Route:
    """``real``: the path without symlinks. ``pivots``: real paths whose coming, going or replacing makes the route
    lead elsewhere: the symlinks on the way, and the first part that is missing (then ``exists`` is False)."""

    real: str
    exists: bool
    pivots: tuple[str, ...] = ()


_ROOT = Route("/", True)


class Router:
    """Routes of many paths, looked up once per folder. Short-lived: it remembers what the disk said."""

    def __init__(self) -> None:
        self._known: dict[str, Route] = {"/": _ROOT}

    def route(self, path: str) -> Route:
        """``path`` is absolute and normal (no ``..``)."""
        return self._route(path, 0)

    def _route(self, path: str, links: int) -> Route:
        known = self._known.get(path)
        if known is None:
            folder, _, name = path.rpartition("/")
            known = self._step(self._route(folder or "/", links), name, links)
            self._known[path] = known
        return known

    def _step(self, folder: Route, name: str, links: int) -> Route:
        here = f"{folder.real.rstrip('/')}/{name}"
        if not folder.exists:
            return Route(here, False, folder.pivots)
        try:
            mode = os.lstat(here).st_mode
        except (OSError, ValueError):
            return Route(here, False, (*folder.pivots, here))
        if not stat.S_ISLNK(mode):
            return Route(here, True, folder.pivots)
        return self._follow(folder, here, links)

    def _follow(self, folder: Route, link: str, links: int) -> Route:
        pivots = (*folder.pivots, link)
        try:
            target = Path(folder.real) / Path(link).readlink()
        except OSError:
            return Route(link, False, pivots)
        if links >= _MOST_LINKS:
            return Route(link, False, pivots)
        onward = self._route(os.path.normpath(target), links + 1)
        return Route(onward.real, onward.exists, (*pivots, *onward.pivots))


# ---- a plan: what to watch, so that roots and files are --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be watched, in real paths, as the disk looks now.

    ``trees``: real top -> the roots as they were given. ``files``: real path -> the files as they were given.
    ``routes``: of each given file. ``pivots``: a change of one of these makes the plan out of date. ``contents`` and
    ``names``: folders to watch by themselves, for writes to their files, or only for what comes and goes.
    """

    trees: Mapping[str, frozenset[str]]
    files: Mapping[str, frozenset[str]]
    routes: Mapping[str, Route]
    pivots: frozenset[str]
    contents: frozenset[str]
    names: frozenset[str]

    def given(self, real: str) -> set[str]:
        """How those who gave roots and files call this path; empty when it is none of their business."""
        return {*self.files.get(real, ()), *self.spelled(real)}

    def spelled(self, real: str) -> list[str]:
        """The path below each root that it lies in, as that root was given."""
        return [
            root.rstrip("/") + real[len(top.rstrip("/")) :]
            for top, roots in self.trees.items()
            if within(real, top)
            for root in roots
        ]

    def files_below(self, folder: str) -> set[str]:
        """The given files that lie below this real folder."""
        return {path for real, paths in self.files.items() if within(real, folder) for path in paths}


NO_PLAN = Plan({}, {}, {}, frozenset(), frozenset(), frozenset())


def make_plan(roots: Iterable[str], files: Iterable[str]) -> Plan:
    """Look where these lead. A root that does not exist is waited for, like a file that does not."""
    router = Router()
    trees: dict[str, set[str]] = {}
    real_files: dict[str, set[str]] = {}
    ways = {root: router.route(root) for root in roots}
    routes = {path: router.route(path) for path in files}
    for root, way in ways.items():
        if way.exists:
            trees.setdefault(way.real, set()).add(root)
    for path, way in routes.items():
        real_files.setdefault(way.real, set()).add(path)
    turning = {pivot for way in (*ways.values(), *routes.values()) for pivot in way.pivots}
    pivots = turning | trees.keys()
    contents = {parent(real) for real in real_files}
    return Plan(_frozen(trees), _frozen(real_files), routes, frozenset(pivots), frozenset(contents), _parents(pivots))


def _frozen(groups: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {key: frozenset(group) for key, group in groups.items()}


def _parents(paths: Iterable[str]) -> frozenset[str]:
    return frozenset(parent(path) for path in paths)


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
