"""A REST gateway to what agents forecast: ``GET /forecasts/AGENT`` answers with JSON.

It reads alone, and listens on loopback: put a proxy with TLS before it for others.
"""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec

from phalanx.domain.series import WorkloadForecast
from phalanx.fabric.calls import CallError

Ask = Callable[[str], WorkloadForecast | CallError]
"""Returns what the agent of a name expects, or why it does not say."""


def gateway(ask: Ask, port: int = 0) -> HTTPServer:
    """Return a server that answers one request after the other; port 0: any free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer with a forecast, or with the reason why there is none."""
            folder, _, agent = self.path.strip("/").partition("/")
            known = folder == "forecasts" and agent.replace("-", "").isalnum()
            told = ask(agent) if known else None
            found = isinstance(told, WorkloadForecast)
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(msgspec.json.encode(told))

        def log_message(self, *_: object) -> None:
            """Say nothing on the terminal."""

    return HTTPServer(("127.0.0.1", port), Handler)
