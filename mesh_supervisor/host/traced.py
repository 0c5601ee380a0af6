"""What is kept of traces between runs, in ``state_dir/traced/AGENT.json``; and what is in folders that agents list."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mesh_supervisor.host.keptfile import LARGEST, read_kept, write_kept
from mesh_supervisor.traced import Listing, Traced, from_json, to_json

MOST_LISTED = 2000
"""Names in one folder; which is new in a larger one nobody looks up at every save."""


class Traces:
    """Of all agents of a mesh. ``folder`` None: nothing is kept."""

    def __init__(self, state_dir: Path | None) -> None:
        self._folder = None if state_dir is None else state_dir / "traced"

    def load(self, agent: str) -> Traced:
        """Nothing, or damage: an empty one. The agent's next run tells again."""
        if self._folder is None:
            return Traced()
        try:
            return from_json(json.loads(read_kept(self._folder / f"{agent}.json")))
        except (OSError, ValueError, RecursionError):  # ValueError: no UTF-8, no JSON
            return Traced()

    def keep(self, agent: str, known: Traced) -> None:
        """Raises OSError."""
        if self._folder is None:
            return
        content = json.dumps(to_json(known)).encode()
        if len(content) <= LARGEST:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            write_kept(self._folder / f"{agent}.json", content)

    def forget(self, agent: str) -> None:
        """Raises OSError."""
        if self._folder is not None:
            (self._folder / f"{agent}.json").unlink(missing_ok=True)


def names_in(listings: Mapping[Path, Listing]) -> dict[Path, frozenset[Path]]:
    """folder → the files that are there now, of those that would count as new ones. Too large a folder is left out."""
    found = {}
    for folder, listing in listings.items():
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in itertools.islice(entries, MOST_LISTED + 1)]
        except OSError:
            continue
        if len(names) <= MOST_LISTED:
            found[folder] = frozenset(folder / name for name in names if Path(name).suffix in listing.endings)
    return found
