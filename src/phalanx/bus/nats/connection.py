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

BUFFER_OCTETS = 1 << 18
"""What may wait in the connection itself; more waits where it can be counted."""


class End(Protocol):
    """Our end: whoever opened the connection."""

    loop: asyncio.AbstractEventLoop

    def begun(self, connection: Connection) -> None:
        """Hear of a connection over which nothing was said yet."""

    def take(self, connection: Connection, items: list[Arrived | Said]) -> None:
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
        self._heard = False
        self._tls: Tls | None = None
        self.complaint: str | None = None

    def connection_made(self, tls: Tls) -> None:
        """Begin; see ``tls.Inner``, also for the next four."""
        self._tls = tls
        self._end.begun(self)

    def data_received(self, data: bytes) -> None:
        """Read what came in."""
        self._heard = True
        try:
            items = self._parser.feed(data)
        except (ProtocolError, ValueError) as error:
            self.drop(f"the server speaks no NATS: {error}")
            return
        self._end.take(self, items)

    def pause_writing(self) -> None:
        """Have no more room."""
        self._end.flow(self, False)

    def resume_writing(self) -> None:
        """Have room again."""
        self._end.flow(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end why."""
        self._end.ended(self, self.complaint or (why(exc) if exc else "the server hung up"))

    def write(self, octets: bytes) -> None:
        """Send as soon as there is room; without effect once closed."""
        if self._tls is not None:
            self._tls.write(octets)

    def heard(self) -> bool:
        """Whether anything came in since this was last asked."""
        heard, self._heard = self._heard, False
        return heard

    def leave(self) -> None:
        """Send what waits, and hang up."""
        if self._tls is not None:
            self._tls.close()

    def drop(self, why: str) -> None:
        """End the connection at once."""
        self.complaint = why
        if self._tls is not None:
            self._tls.abort()


async def connect(end: End, tls: ssl.SSLContext, host: str, port: int, deaf_s: float) -> None:
    """Open a connection for ``end``, which hears of it before this returns.

    Args:
        end: our end.
        tls: of a client.
        host: of the server.
        port: of the server.
        deaf_s: how long what was sent may stay unacknowledged by the server's machine.

    Raises:
        OSError: if nobody answers, or it is not the host.

    """
    _, made = await end.loop.create_connection(
        lambda: Tls(
            end.loop, tls, host, Connection(end), buffer_octets=BUFFER_OCTETS, deaf_s=deaf_s
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
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the broker's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
