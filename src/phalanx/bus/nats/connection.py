"""One connection to a server: TLS over TCP, and the parser behind it."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Protocol

from phalanx.bus.nats.config import HEADER_OCTETS
from phalanx.bus.nats.protocol import Arrived, Parser, ProtocolError, Said
from phalanx.bus.nats.tls import Tls
from phalanx.bus.wire import MAX_OCTETS

CONNECT_S = 3.0
"""How long a connection may take to come about."""
DEAF_S = 5.0
"""How long a server may say nothing, though it was asked."""
BUFFER_OCTETS = 1 << 18
"""What may wait in the connection itself; more waits where it can be counted."""


class End(Protocol):
    """Our end: whoever opened the connection."""

    loop: asyncio.AbstractEventLoop

    def begun(self, connection: Connection) -> None:
        """Hear of a connection over which nothing was said yet."""

    def take(self, connection: Connection, item: Arrived | Said) -> None:
        """Take what a connection heard."""

    def flow(self, connection: Connection, on: bool) -> None:
        """Hear whether the connection has room."""

    def ended(self, connection: Connection, reason: str) -> None:
        """Hear that a connection is no more."""


class Connection:
    """One connection; its link may have left it behind already."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._parser = Parser(MAX_OCTETS + HEADER_OCTETS)
        self.greeted = False
        self.heard_s = 0.0
        self.transport: Tls | None = None
        self.complaint: str | None = None

    def connection_made(self, tls: Tls) -> None:
        """Begin; see ``tls.Inner``, also for the next four."""
        self.transport = tls
        self._end.begun(self)

    def data_received(self, data: bytes) -> None:
        """Read what came in."""
        self.heard_s = self._end.loop.time()
        try:
            items = self._parser.feed(data)
        except (ProtocolError, ValueError) as error:
            self.drop(f"the server speaks no NATS: {error}")
            return
        for item in items:
            self._end.take(self, item)

    def pause_writing(self) -> None:
        """Have no more room."""
        self._end.flow(self, False)

    def resume_writing(self) -> None:
        """Have room again."""
        self._end.flow(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end why."""
        self._end.ended(self, self.complaint or (why(exc) if exc else "the server hung up"))

    def drop(self, why: str) -> None:
        """End the connection at once."""
        self.complaint = why
        if self.transport is not None:
            self.transport.abort()


async def connect(
    end: End, tls: ssl.SSLContext, host: str, port: int, within_s: float = CONNECT_S
) -> None:
    """Open a connection for ``end``, which hears of it before this returns.

    Raises:
        OSError: if nobody answers, or not in time, or it is not the host.

    """
    async with asyncio.timeout(within_s):
        _, made = await end.loop.create_connection(
            lambda: Tls(
                end.loop,
                tls,
                host,
                Connection(end),
                buffer_octets=BUFFER_OCTETS,
                deaf_s=2 * DEAF_S,
            ),
            host,
            port,
        )
        try:
            await made.begun
        except BaseException:
            made.abort()
            raise


def why(error: BaseException) -> str:
    """Return in words why there is no connection."""
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the broker's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
