"""The image that the example's Dockerfile starts from: python:3.13-slim, or a Debian with Python made on this host."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.docker.engine import Docker, DockerError, NoEngine

USUAL = "python:3.13-slim"
MADE = "meshsup-test-base"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TOLD_TO_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
"""What pip is told on this host, it is told in the base that is made here too: nothing of it gets into a file."""


@contextlib.contextmanager
def base_image(docker: Docker, cache: Path) -> Iterator[str]:
    """Its name. One that was made here goes at the end, and its archive stays in ``cache``.

    Raises NoEngine when there is none, and none can be had."""
    if _usual(docker):
        yield USUAL
        return
    _import(docker, cache)
    try:
        yield MADE
    finally:
        docker.run("rmi", "-f", MADE)


def _usual(docker: Docker) -> bool:
    if docker.has_image(USUAL):
        return True
    try:
        docker("pull", "-q", USUAL, timeout=600)
    except (DockerError, subprocess.TimeoutExpired):
        return False
    return True


def _import(docker: Docker, cache: Path) -> None:
    archive = cache / f"{_release()}-{platform.machine()}.tar"
    if not archive.exists():
        _make(archive)
    changes = [f"ENV PIP_CERT={CERTIFICATES}", "ENV LANG=C.UTF-8", 'CMD ["bash"]']
    changes += [f"ENV {name}={os.environ[name]}" for name in TOLD_TO_PIP if name in os.environ]
    docker("import", *(word for change in changes for word in ("--change", change)), str(archive), MADE, timeout=300)


def _make(archive: Path) -> None:
    """A minimal Debian with Python, by debootstrap from where this host gets its packages. Takes a minute or two."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        raise NoEngine(f"{USUAL} cannot be pulled, and without debootstrap and root no base image can be made (--base)")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="base-") as temporary:
        root = Path(temporary) / "root"
        words = [
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
            _release(),
            str(root),
            *_mirror(),
        ]
        made = subprocess.run(["debootstrap", *words], capture_output=True, text=True, check=False)
        if made.returncode:
            raise NoEngine(f"debootstrap: {(made.stdout + made.stderr).strip()[-1000:]}")
        shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        if CERTIFICATES.exists():  # the package index may stand behind a certificate that this host was given
            shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        packed = Path(temporary) / "base.tar"
        subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(packed), "."], check=True)
        packed.replace(archive)


def _release() -> str:
    """Debian's name for this host's release; bookworm where it is another system."""
    told = platform.freedesktop_os_release()
    return told.get("VERSION_CODENAME", "bookworm") if told.get("ID") == "debian" else "bookworm"


def _mirror() -> list[str]:
    """Where this host gets its packages; [] for debootstrap's own default."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {_release()}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return []
    return told[:1]
