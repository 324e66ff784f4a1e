"""The agent's end of the REST interface of a VNF: HTTP over its Unix socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any

import msgspec

from phalanx.infrastructure.linux.jobs import JobError


class SilentError(JobError):
    """A VNF cannot be reached, or takes too long."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("vnf", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


def request(
    path: Path, method: str, resource: str, body: Any = None, timeout_s: float = 5.0
) -> dict[str, Any]:
    """Make one request of the VNF that listens at ``path`` and return what it answers.

    Raises:
        SilentError: if it cannot be reached, or takes too long.
        JobError: if it refuses.

    """
    connection = _Connection(path, timeout_s)
    try:
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, resource, data, headers)
        response = connection.getresponse()
        raw = response.read()
        answer = msgspec.json.decode(raw) if raw else {}
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise SilentError(f"the VNF does not answer {method} {resource}: {error!r}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise JobError(str(answer.get("error", f"the VNF answered {response.status}")))
    return dict(answer)
