"""The client's side of TLS over a TCP connection, in as few steps as that takes.

asyncio's own TLS serves any protocol and may be stacked; a record that comes in or goes out
takes dozens of calls there. A process that wakes up for one short message pays for each.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Protocol

_RECORD_OCTETS = 1 << 14
_READ_OCTETS = 1 << 16
_LINGER_S = 5.0
"""How long the other side may take to hear the last octets and to hang up."""


class Inner(Protocol):
    """What speaks over the connection; the calls are those of ``asyncio.Protocol``."""

    def connection_made(self, tls: Tls) -> None:
        """Begin: the other side is who it should be."""

    def data_received(self, data: bytes) -> None:
        """Take octets."""

    def pause_writing(self) -> None:
        """Have no more room."""

    def resume_writing(self) -> None:
        """Have room again."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear of the end; only if there was a beginning."""


class Tls(asyncio.BufferedProtocol):
    """One connection; to be given to ``create_connection`` as a protocol, without ``ssl``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        host: str,
        inner: Inner,
        *,
        buffer_octets: int,
        deaf_s: float,
    ) -> None:
        """Make a connection that begins as soon as there is one of TCP.

        Args:
            loop: carries it.
            context: of a client.
            host: whom the other side must prove to be.
            inner: speaks over it.
            buffer_octets: may wait to be sent before ``inner`` is told to pause.
            deaf_s: how long what was sent may stay unacknowledged.

        """
        self.begun: asyncio.Future[None] = loop.create_future()
        """Done once ``inner`` may speak; fails with what stood in the way."""
        self._loop = loop
        self._inner = inner
        self._buffer_octets = buffer_octets
        self._deaf_s = deaf_s
        self._buffer = memoryview(bytearray(_READ_OCTETS))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._transport: asyncio.Transport | None = None
        self._open = False
        """Whether what is said is sent, and what comes is heard."""
        self._made = False
        self._error: Exception | None = None
        self._linger: asyncio.TimerHandle | None = None

    def write(self, octets: bytes) -> None:
        """Send as soon as there is room; without effect once closed."""
        if self._open:
            sent = self._tls.write(octets)
            while sent < len(octets):
                sent += self._tls.write(memoryview(octets)[sent:])
            self._flush()

    def close(self) -> None:
        """Send what waits, and hang up once the other side has heard it."""
        if not self._open:
            self.abort()
            return
        self._open = False
        with suppress(ssl.SSLError):  # it wants the other side's goodbye, which need not come
            self._tls.unwrap()
        self._flush()
        assert self._transport is not None
        # Hanging up here and now could throw away what is still on its way to the other side.
        with suppress(OSError):  # the other side may have hung up already
            self._transport.write_eof()
        self._linger = self._loop.call_later(_LINGER_S, self._transport.abort)

    def abort(self) -> None:
        """Hang up at once."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    # -- what the transport of TCP calls -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to agree on keys; see ``asyncio.BufferedProtocol``, also for the next ones."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self._buffer_octets)
        tcp = transport.get_extra_info("socket")
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self._deaf_s))
        self._agree()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # it is always as large
        """Return where octets of the network go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take octets of the network."""
        self._incoming.write(self._buffer[:nbytes])
        if not self._made:
            self._agree()
        if self._open:
            self._read()

    def pause_writing(self) -> None:
        """Have no more room."""
        if self._open:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Have room again."""
        if self._open:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell why there is no connection any more."""
        self._open = False
        if self._linger is not None:
            self._linger.cancel()
        error = self._error or exc
        if self._made:
            self._inner.connection_lost(error)
        elif not self.begun.done():
            self.begun.set_exception(error or ConnectionResetError("the server hung up"))

    # -- records -----------------------------------------------------------------------------

    def _agree(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            self._made = self._open = True
            self._inner.connection_made(self)
            if not self.begun.done():
                self.begun.set_result(None)

    def _read(self) -> None:
        read, records = self._tls.read, []
        try:
            while self._incoming.pending or self._tls.pending():
                record = read(_RECORD_OCTETS)
                if not record:  # goodbye
                    self.close()
                    break
                records.append(record)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail(error)
        if self._outgoing.pending:  # of TLS itself, such as new keys
            self._flush()
        if records:
            self._inner.data_received(records[0] if len(records) == 1 else b"".join(records))

    def _flush(self) -> None:
        assert self._transport is not None
        octets = self._outgoing.read()
        if octets:
            self._transport.write(octets)

    def _fail(self, error: ssl.SSLError) -> None:
        """End because of what the other side says, or is; it is told in a last record."""
        self._error = error
        self._flush()
        self.abort()
