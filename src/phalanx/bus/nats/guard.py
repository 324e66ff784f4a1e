"""What is our own of the NATS client: nats-py, kept going whatever hostile clients and servers do.

nats-py 2.16 parses, connects and reconnects, and keeps subscriptions and acknowledgements. Private
methods of it are overridden, so its version is pinned. Each fault was seen; tests fail without
the cures, but for that of attempts that failed:

- Most errors that a server names close the client for good.
- Closing a connection waits for the other side, 30 s if it hangs, and an attempt that failed
  leaves its connection open.

Messages of our subscriptions do not go through nats-py: each would take three turns of the loop,
two tasks and a queue there, which is more than all else that a message costs. They are cut out of
what comes in and handed over in the turn that read them; what is sent is written at once. A subject
there may hold any octets, and nats-py would end at some: it has the server's own answers alone.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.command import pub_cmd

from phalanx.bus.client import Delivery
from phalanx.bus.nats.config import HEARD

_STATUS = b"NATS/1.0 "
_HEARD = HEARD.encode()
_ACCOUNT = b"\r\nNats-Request-Info: "
"""Begins the last line, which the server adds: the account that a message comes from."""
_LINE_OCTETS = 1 << 16
_BUFFER_OCTETS = 1 << 18
"""What may wait in the connection itself; more waits where it can be counted."""
_HANG_UP_S = 1.0
"""How long the other side may take to hang up."""

Take = Callable[[Delivery], None]


class DirectReader(asyncio.StreamReader):
    """Hands messages of some subscriptions over as they come in; nats-py reads the rest."""

    def __init__(self, client: GuardedClient) -> None:
        """Make a reader of a connection of which nothing was read yet."""
        super().__init__(_LINE_OCTETS)
        self._client = client
        self._rest = b""

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # asyncio gives bytes
        """Take in what the connection read; see ``asyncio.StreamReader``."""
        client = self._client
        client._pings_outstanding = 0  # whatever comes in is as good as an answer
        data, place = self._rest + data, 0
        while (end := data.find(b"\r\n", place)) >= 0:
            begin = behind = end + 2
            take = None
            if data.startswith((b"MSG ", b"HMSG "), place):
                words = data[place:end].split(b" ")
                behind += int(words[-1]) + 2
                if behind > len(data):
                    break
                take = client.direct.get(words[2])
            if take is None:
                super().feed_data(data[place:behind])
            else:
                headers: Mapping[str, str] = {}
                if words[0] == b"HMSG":
                    begin += int(words.pop(-2))
                    headers = _headers(data[end + 2 : begin])
                told, reply = words[1], None
                if told.startswith(_HEARD):
                    told = told.partition(b".")[2]
                subject = told.decode("utf-8", "replace")
                if len(words) > 4:
                    reply = words[3].decode("utf-8", "replace")
                take(Delivery(subject, data[begin : behind - 2], headers, reply))
            place = behind
        self._rest = data[place:]
        client.taken()


def _headers(octets: bytes) -> Mapping[str, str]:
    """Return headers; those that are none have a status of their own."""
    octets = octets[: octets.rfind(_ACCOUNT)] if _ACCOUNT in octets else octets
    if octets == b"NATS/1.0":
        return {}
    first, _, lines = octets.partition(b"\r\n")
    headers = Client._parse_header_lines(lines)
    if first != b"NATS/1.0":
        good = octets.startswith(_STATUS) and octets.isascii()
        headers["Status"] = first[len(_STATUS) :][:3].decode() if good else "400"
    return headers


class TlsTransport(TcpTransport):
    """Speaks TLS from the first octet, and waits for no server that hangs."""

    def __init__(self, client: GuardedClient, context: ssl.SSLContext) -> None:
        """Make a transport without a connection."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._client = client
        self._context = context

    async def connect(self, uri: Any, _: int, connect_timeout: float) -> None:
        """Connect, once the connection before is cut."""
        self.abort()
        loop, reader = asyncio.get_running_loop(), DirectReader(self._client)
        protocol = asyncio.StreamReaderProtocol(reader)
        connecting = loop.create_connection(
            lambda: protocol, uri.hostname, uri.port, ssl=self._context
        )
        transport, _made = await asyncio.wait_for(connecting, connect_timeout)
        self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)

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

    def __init__(self, context: ssl.SSLContext, taken: Callable[[], None]) -> None:
        """Make a client that is to be connected with TLS before anything else is said.

        ``taken`` is called when all that came in at once has been handed over.
        """
        super().__init__()
        self.tls = TlsTransport(self, context)
        self.direct: dict[bytes, Take] = {}
        """Takes the messages of a subscription, by its number in digits."""
        self.taken = taken
        self._corked = False

    @property
    def has_room(self) -> bool:
        """Whether what is sent now goes out."""
        return self.is_connected and self._pending_data_size + self.tls.buffered() < _BUFFER_OCTETS

    def put(self, subject: str, payload: bytes, reply: str) -> None:
        """Publish without a turn of the loop, between ``cork`` and ``uncork``."""
        command = pub_cmd(subject, reply, payload)
        self._pending.append(command)
        self._pending_data_size += len(command)

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

    async def _process_err(self, err_msg: str) -> None:
        await self._error_cb(errors.Error(err_msg))  # a server that means the end hangs up

    async def _process_op_err(self, e: Exception) -> None:
        if isinstance(e, errors.StaleConnectionError):
            self.tls.abort()
            if not isinstance(e, errors.UnexpectedEOF):
                await self._error_cb(e)
        await super()._process_op_err(e)
