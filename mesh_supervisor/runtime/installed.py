"""Whether the packages that are installed are still those that were imported."""

from __future__ import annotations

import os

_TELLING = (".dist-info", ".egg-info", ".egg-link", ".pth")


class Installed:
    """The site-packages folders as they are now. A change of a file by hand is not seen."""

    def __init__(self, folders: list[str]) -> None:
        self._times = {folder: _changed(folder) for folder in folders}
        self._contents = {folder: _contents(folder) for folder in folders}

    def still(self) -> bool:
        """One stat a folder, as a rule."""
        for folder, known in self._times.items():
            now = _changed(folder)
            if now != known and _contents(folder) != self._contents[folder]:
                return False
            self._times[folder] = now  # a folder for bytecode was made in it
        return True


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _contents(folder: str) -> dict[str, int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    return {name: _changed(os.path.join(folder, name)) for name in names if name.endswith(_TELLING)}
