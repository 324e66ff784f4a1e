"""The agent's end of the REST interface of a VNF: HTTP/1.1 over its Unix socket.

Written out over the event loop because a request through ``http.client`` in a thread costs 1 ms
of processor time, and a link is read ten times a second; this takes a tenth of that.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec

from phalanx.infrastructure.linux.jobs import JobError

MOST = 16
"""Connections to a VNF at a time; more requests wait."""
IDLE_S = 30.0
"""A connection that was not used for this long is not used again: the VNF closes it after 60 s."""
LARGEST_HEAD, LARGEST_BODY = 8_192, 1 << 24
_CHUNK = 1 << 18


class SilentError(JobError):
    """A VNF cannot be reached, or takes too long."""


class Caller:
    """Makes requests of one VNF over connections that stay open, as many as are needed at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        """Make no connection yet.

        Args:
            loop: does the input and output.
            path: the socket on which the VNF listens.

        """
        self._loop = loop
        self._path = str(path)
        self._room = asyncio.Semaphore(MOST)
        self._idle: list[tuple[float, socket.socket]] = []
        self._closed = False

    async def request(
        self, method: str, resource: str, body: Any = None, timeout_s: float = 5.0
    ) -> dict[str, Any]:
        """Make a request and return what the VNF answers.

        Raises:
            SilentError: if it cannot be reached, takes too long or answers with nonsense.
            JobError: if it refuses.

        """
        words = _encode(method, resource, body)
        try:
            async with self._room, asyncio.timeout(timeout_s):
                status, answer = await self._exchange(words)
        except (OSError, ValueError) as error:
            raise SilentError(f"the VNF does not answer {method} {resource}: {error!r}") from error
        if status >= 400:
            raise JobError(str(answer.get("error", f"the VNF answered {status}")))
        return answer

    def close(self) -> None:
        """Close the connections; one that is in use closes after that."""
        self._closed = True
        while self._idle:
            self._idle.pop()[1].close()

    async def _exchange(self, words: bytes) -> tuple[int, dict[str, Any]]:
        connection = self._kept() or await self._connect()
        try:
            await self._loop.sock_sendall(connection, words)
            status, raw = await self._receive(connection)
            answer = msgspec.json.decode(raw, type=dict[str, Any]) if raw else {}
        except BaseException:
            connection.close()
            raise
        if self._closed:
            connection.close()
        else:
            self._idle.append((self._loop.time(), connection))
        return status, answer

    def _kept(self) -> socket.socket | None:
        """Return the connection that was used last; those that were idle for long are closed."""
        if not self._idle:
            return None
        since, connection = self._idle.pop()
        if self._loop.time() - since < IDLE_S:
            return connection
        connection.close()
        while self._idle:  # they have been so for longer
            self._idle.pop()[1].close()
        return None

    async def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await self._loop.sock_connect(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _receive(self, connection: socket.socket) -> tuple[int, bytes]:
        """Return status and body of an answer.

        Raises:
            OSError: if the connection ends before it is there.
            ValueError: if it is none.

        """
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > LARGEST_HEAD:
                raise ValueError("an answer without an end of its head")
            data += await self._more(connection)
        first, *fields = data[:end].decode("ascii").split("\r\n")
        version, status, *_ = first.split(" ")
        if version != "HTTP/1.1":
            raise ValueError(f"an answer in {version[:20]!r}")
        size = 0
        for line in fields:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                size = int(value)
        if not 0 <= size <= LARGEST_BODY:
            raise ValueError(f"an answer of {size} octets")
        parts = [data[end + 4 :]]
        left = size - len(parts[0])
        while left > 0:
            parts.append(await self._more(connection))
            left -= len(parts[-1])
        return int(status), b"".join(parts)

    async def _more(self, connection: socket.socket) -> bytes:
        data = await self._loop.sock_recv(connection, _CHUNK)
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data


def _encode(method: str, resource: str, body: Any) -> bytes:
    head = f"{method} {resource} HTTP/1.1\r\nHost: vnf\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    data = msgspec.json.encode(body)
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data
