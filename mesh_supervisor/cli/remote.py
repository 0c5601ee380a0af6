"""One GET to a URL that a person names: of a registry, wherever it is. No redirects, no proxy: `http_proxy` in a shell
is meant for what is far."""

from __future__ import annotations

import socket
from urllib.parse import SplitResult, urlsplit

from mesh_supervisor.control.once import Deadline, get
from mesh_supervisor.errors import UsageError


def place_of(url: str) -> SplitResult:
    """Raises UsageError for what is no URL of HTTP."""
    try:
        place = urlsplit(url)
        usable = place.scheme in ("http", "https") and place.hostname and (place.port or 1)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--url: must be like http://127.0.0.1:8000")
    return place


def named(place: SplitResult) -> str:
    """``http://host:port``; a password in the URL stays where it is."""
    return f"{place.scheme}://{_of_host(place)}"


def ask(place: SplitResult, path: str, *, timeout: float, most: int) -> tuple[int, bytes]:
    """(status, body) of GET ``path`` below ``place``. ``timeout``: seconds for everything; ``most``: bytes of the whole
    answer. Raises OSError (TimeoutError), ValueError: no answer of HTTP, an address that is none, Endless."""
    deadline = Deadline(timeout)
    with _connected(place, deadline) as line:
        return get(line, place.path.rstrip("/") + path, _of_host(place), deadline=deadline, most=most)


def why(error: OSError | ValueError) -> str:
    """What `ask` raised, in words. UnicodeError, a ValueError: no name that could be looked up."""
    return str(getattr(error, "strerror", None) or error)


def _of_host(place: SplitResult) -> str:
    return place.netloc.rpartition("@")[2]


def _connected(place: SplitResult, deadline: Deadline) -> socket.socket:
    host, secure = place.hostname or "", place.scheme == "https"
    line = socket.create_connection((host, place.port or (443 if secure else 80)), deadline.left())
    if not secure:
        return line
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(line, server_hostname=host)
    except OSError:
        line.close()
        raise
