"""What is our own of the NATS client: nats-py, kept going whatever hostile clients and servers do.

nats-py 2.16 parses, connects and reconnects, and keeps subscriptions and acknowledgements. Private
methods of it are overridden, so its version is pinned. Each fault was seen; tests fail without
the cures, but for that of attempts that failed:

- A subject, or the subject for an answer, may hold any octets. One that is no UTF-8 ends the task
  that reads, and the client does not notice; the same goes for the octets of a status. A subject
  is split at a vertical tab, a form feed or a carriage return, and the connection is given up.
- Most errors that a server names close the client for good.
- Closing a connection waits for the other side, 30 s if it hangs, and an attempt that failed
  leaves its connection open.

What is sent is written at once: nats-py's own task for that takes another turn of the loop.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from contextlib import suppress
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol import parser

parser.MSG_RE = re.compile(rb"\AMSG ([^ \n]+) (\d+) (([^ \n]+) )?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG ([^ \n]+) (\d+) (([^ \n]+) )?(\d+) (\d+)\r\n")

_FIELDS, _STATUS = b"NATS/1.0\r\n", b"NATS/1.0 "
_GARBAGE = b"NATS/1.0 400 garbage\r\n\r\n"
"""Stands for headers that are none."""
_LINE_OCTETS = 1 << 16
_BUFFER_OCTETS = 1 << 18
"""What may wait in the connection itself; more waits where it can be counted."""
_HANG_UP_S = 1.0
"""How long the other side may take to hang up."""


class TlsTransport(TcpTransport):
    """Speaks TLS from the first octet, and waits for no server that hangs."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Make a transport without a connection."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._context = context

    async def connect(self, uri: Any, _: int, connect_timeout: float) -> None:
        """Connect, once the connection before is cut."""
        self.abort()
        connecting = asyncio.open_connection(
            uri.hostname, uri.port, limit=_LINE_OCTETS, ssl=self._context
        )
        self._io_reader, self._io_writer = await asyncio.wait_for(connecting, connect_timeout)

    async def connect_tls(self, *_: object) -> None:
        """Do nothing: ``connect`` has done it."""

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, or cut it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(super().wait_closed(), _HANG_UP_S)  # type: ignore[no-untyped-call]
        self.abort()

    def abort(self) -> None:
        """Cut the connection now; without effect if there is none."""
        if self._io_writer is not None:
            self._io_writer.transport.abort()

    def buffered(self) -> int:
        """Return how many octets wait in the connection."""
        writer = self._io_writer
        return 0 if writer is None else writer.transport.get_write_buffer_size()


class GuardedClient(Client):
    """A client of nats-py that reads whatever a server passes on, and comes back from any error."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Make a client that is to be connected with TLS before anything else is said."""
        super().__init__()
        self.tls = TlsTransport(context)
        self._corked = False

    @property
    def has_room(self) -> bool:
        """Whether what is sent now goes out."""
        return self.is_connected and self._pending_data_size + self.tls.buffered() < _BUFFER_OCTETS

    def cork(self) -> None:
        """Gather what is sent until ``uncork``, which must follow."""
        self._corked = True

    def uncork(self) -> None:
        """Write what was gathered."""
        self._corked = False
        if self._pending and self.is_connected:
            self.tls.write(b"".join(self._pending))  # type: ignore[no-untyped-call]
            self._pending, self._pending_data_size = [], 0

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if not self._corked:
            await super()._flush_pending(force_flush)

    async def _connect_to_server(self, s: Any) -> None:
        self._transport = self.tls
        s.last_attempt = time.monotonic()
        await self.tls.connect(s.uri, 0, self.options["connect_timeout"])

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
    ) -> None:
        self._pings_outstanding = 0  # whatever comes in is as good as an answer
        if headers and not (
            headers.startswith(_FIELDS) or (headers.startswith(_STATUS) and headers.isascii())
        ):
            headers = _GARBAGE
        await super()._process_msg(sid, _readable(subject), _readable(reply), data, headers)

    async def _process_err(self, err_msg: str) -> None:
        await self._error_cb(errors.Error(err_msg))  # a server that means the end hangs up

    async def _process_op_err(self, e: Exception) -> None:
        if isinstance(e, errors.StaleConnectionError):
            self.tls.abort()
            if not isinstance(e, errors.UnexpectedEOF):
                await self._error_cb(e)
        await super()._process_op_err(e)


def _readable(subject: bytes) -> bytes:
    """Return what can be decoded; what stands for other octets is in no subject of ours."""
    return subject if subject.isascii() else subject.decode("utf-8", "replace").encode()
