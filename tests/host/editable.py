"""Editable installs, into an environment without pip and without a network: as installers leave them behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def record(site_packages: Path, name: str, project: Path, scripts: Mapping[str, str]) -> None:
    """The metadata: where the project is, and its console scripts."""
    lines = [f"{key} = {value} [extra]\n" for key, value in scripts.items()]
    origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
    entry_points = "[other]\nx = y:z\n\n[console_scripts]\n" + "".join(lines)
    metadata = {"direct_url.json": json.dumps(origin), "entry_points.txt": entry_points}
    write(site_packages / f"{name}-1.0.dist-info", metadata)


def by_path(site_packages: Path, name: str, folder: Path) -> None:
    """A folder on the path: src layouts of setuptools, and everything of hatch, poetry, pdm and uv."""
    (site_packages / f"__editable__.{name}-1.0.pth").write_text(f"{folder}\n")


def by_finder(
    site_packages: Path, name: str, mapping: Mapping[str, str], namespaces: Mapping[str, list[str]] | None = None
) -> None:
    """What setuptools writes where a folder on the path would not do (renamed folders, flat layouts)."""
    wheel = pytest.importorskip("setuptools.command.editable_wheel")
    module = f"__editable___{name}_1_0_finder"
    code = "".join(wheel._finder_template(name, dict(mapping), dict(namespaces or {})))
    (site_packages / f"{module}.py").write_text(code)
    (site_packages / f"__editable__.{name}-1.0.pth").write_text(f"import {module}; {module}.install()")


def by_uv(environment: Path, project: Path) -> None:
    """uv builds packages whose backend is its own by itself."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv (extra `test`)")
    python = environment / "bin/python"
    subprocess.run([uv, "pip", "install", "-q", "--offline", "--python", python, "-e", project], check=True)
