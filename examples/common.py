"""What retriever and planner share: answering over HTTP, and asking another agent that the registry knows.

An edit of this file restarts both of them, since both import it, and nobody else.
"""

import json
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import ProxyHandler, build_opener

# The agents of a mesh are neighbours: no proxy stands between them.
_neighbours = build_opener(ProxyHandler({}))


def serve(answer: Callable[[dict[str, str]], Any]) -> None:
    """Answer ``GET /?key=value`` with ``answer({"key": "value"})`` as JSON; LookupError and OSError become a 502."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, said = 200, answer(dict(parse_qsl(urlsplit(self.path).query)))
            except (LookupError, OSError) as error:
                status, said = 502, {"error": str(error)}
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()


def ask(capability: str, **question: str) -> Any:
    """Put a question to a healthy agent that can do ``capability``. Found anew for each call, since agents move.

    Raises LookupError when nobody can do it, OSError when the registry or that agent does not answer.
    """
    found = _get(os.environ["MESHSUP_REGISTRY_URL"] + "/agents?" + urlencode({"capability": capability}))
    endpoints = [agent["endpoint"] for agent in found["agents"] if agent["status"] == "healthy"]
    if not endpoints:
        raise LookupError(f"no agent of the mesh can {capability!r} now")
    return _get(endpoints[0] + "/?" + urlencode(question))


def _get(url: str) -> Any:
    with _neighbours.open(url, timeout=5) as response:
        return json.load(response)
