"""The connection to one of the servers: opened again, for ever, whenever it ends."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from phalanx.bus.exchange import ExchangeError
from phalanx.bus.nats.connection import (
    BUFFER_OCTETS,
    CONNECT_S,
    DEAF_S,
    Connection,
    connect,
    why,
)
from phalanx.bus.nats.protocol import PING, PONG, Arrived, Said

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0
_PING_S = 2.0
_STEADY_S = 5.0


class Bounds(Struct, frozen=True):
    """What may wait to be sent before more is shed."""

    messages: int = 20_000
    octets: int = 32 << 20


DEFAULT_BOUNDS = Bounds()


class Owner(Protocol):
    """Whoever a link works for; called by the event loop."""

    def arrived(self, message: Arrived) -> None:
        """Take a message for one of the subscriptions."""

    def opened(self) -> Iterable[bytes]:
        """Return what must be said first on a new connection, before it counts as one."""

    def changed(self, connected: bool) -> None:
        """Hear that the link is up or down."""

    def complained(self, text: str) -> None:
        """Hear what the server refused, or why there is no connection."""


class _Info(Struct):
    ldm: bool = False
    """Lame duck mode: the server is about to end."""


class Link:
    """Carries octets to and from one of ``servers`` over mutual TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Sequence[tuple[str, int]],
        tls: ssl.SSLContext,
        name: str,
        owner: Owner,
        bounds: Bounds,
    ) -> None:
        """Make a link that is closed until ``open``.

        Raises:
            ExchangeError: if no server is named.

        """
        if not servers:
            raise ExchangeError("no server is named to connect to")
        self.loop = loop
        self.up = False
        self.finished = False
        """Closed for good, and the last octets are out."""
        self._servers = random.sample(list(servers), len(servers))
        self._tls = tls
        self._hello = msgspec.json.encode(
            {
                "verbose": False,
                "pedantic": False,
                "tls_required": True,
                "lang": "python",
                "version": "1",
                "protocol": 1,
                "headers": True,
                "no_responders": True,
                "name": name,
            }
        )
        self._owner = owner
        self._bounds = bounds
        self._queue: deque[bytes] = deque()
        self._octets = 0
        self._scheduled = False
        self._flowing = False
        self._closing = False
        self._pause = 0.0
        self._since = 0.0
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pinger: asyncio.TimerHandle | None = None

    @property
    def greeted(self) -> bool:
        """Whether a connection was already told what is to be said first."""
        return self._connection is not None and self._connection.greeted

    @property
    def waiting(self) -> int:
        """How many messages wait for the connection to take them."""
        return len(self._queue)

    def open(self) -> None:
        """Connect as soon as the event loop runs, and again whenever the connection ends."""
        self._timer = self.loop.call_later(self._pause, self._connect)

    def send(self, frame: bytes) -> bool:
        """Send as soon as that is possible; return False if too much waits, or it is closed."""
        bounds = self._bounds
        if (
            self._closing
            or len(self._queue) >= bounds.messages
            or self._octets + len(frame) > bounds.octets
        ):
            return False
        self.urge(frame)
        return True

    def urge(self, frame: bytes) -> None:
        """Send, whatever waits already: for what is bounded elsewhere."""
        self._queue.append(frame)
        self._octets += len(frame)
        if self._flowing and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def cork(self) -> None:
        """Gather what is sent until ``flush``, which must follow."""
        self._scheduled = True

    def close(self) -> None:
        """Send what waits, if there is a connection, and end; without effect once closed."""
        if self._closing:
            return
        self._closing = True
        for timer in (self._timer, self._pinger):
            if timer is not None:
                timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.up and self._connection is not None:
            self._leave()
        else:
            if self._connection is not None:
                self._connection.drop("closed")
            self.finished = self._connection is None and self._attempt is None

    # -- the life of a connection ------------------------------------------------------------

    def _connect(self) -> None:
        self._timer = None
        self._attempt = self.loop.create_task(self._try())
        self._attempt.add_done_callback(self._tried)

    async def _try(self) -> None:
        host, port = self._servers[0]
        self._servers.append(self._servers.pop(0))
        self._since = self.loop.time()
        await connect(self, self._tls, host, port)

    def begun(self, connection: Connection) -> None:
        """Hear of a connection over which nothing was said yet."""
        self._connection = connection
        self._timer = self.loop.call_later(CONNECT_S, connection.drop, "no greeting came")

    def _tried(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        error = None if attempt.cancelled() else attempt.exception()
        if self._connection is not None:  # its end, should it come, is met by ``ended``
            if self._closing or error is not None:
                self._connection.drop("closed" if self._closing else "it came too late")
        elif self._closing:
            self.finished = True
        elif error is not None:
            self._owner.complained(why(error))
            self._rest()

    def _rest(self) -> None:
        """Wait a while, longer each time in vain and never as long as others do."""
        if self.loop.time() - self._since > _STEADY_S:
            self._pause = 0.0
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_S), _LAST_PAUSE_S)
        self._timer = self.loop.call_later(self._pause * random.uniform(0.5, 1.0), self._connect)

    def take(self, connection: Connection, item: Arrived | Said) -> None:
        """Take what a connection heard."""
        if isinstance(item, Arrived):
            self._owner.arrived(item)
            return
        assert connection.transport is not None
        match item.what:
            case "INFO" if not connection.greeted:
                connection.greeted = True
                first = b"".join(self._owner.opened())
                connection.transport.write(b"CONNECT %b\r\n%b%b" % (self._hello, first, PING))
            case "INFO" if msgspec.json.decode(item.text, type=_Info).ldm and self.up:
                self._leave()
            case "PING":
                connection.transport.write(PONG)
            case "PONG" if not self.up and connection is self._connection:
                self._opened(connection)
            case "-ERR":
                complaint = item.text.decode("utf-8", "replace").strip(" '")
                if not complaint.startswith("Permissions Violation"):  # that ends nothing
                    connection.complaint = complaint
                self._owner.complained(complaint)

    def _opened(self, connection: Connection) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.up = self._flowing = True
        connection.complaint = None
        self._owner.changed(True)
        self._ping()
        self.flush()

    def _ping(self) -> None:
        connection = self._connection
        assert connection is not None
        assert connection.transport is not None
        silent = self.loop.time() - connection.heard_s
        if silent > DEAF_S:
            connection.drop("the server is silent")
            return
        if silent > _PING_S / 2:
            connection.transport.write(PING)
        self._pinger = self.loop.call_later(_PING_S, self._ping)

    def flow(self, connection: Connection, on: bool) -> None:
        """Hear whether the connection has room."""
        if connection is self._connection and self.up:
            self._flowing = on
            if on:
                self.flush()

    def flush(self) -> None:
        """Give the connection what waits, as far as it has room."""
        self._scheduled = False
        queue = self._queue
        while queue and self._flowing:
            chunk, octets = [], 0
            while queue and octets < BUFFER_OCTETS // 2:
                frame = queue.popleft()
                chunk.append(frame)
                octets += len(frame)
            self._octets -= octets
            assert self._connection is not None
            assert self._connection.transport is not None
            self._connection.transport.write(b"".join(chunk))

    def _leave(self) -> None:
        """End the connection once everything that waits is out."""
        assert self._connection is not None
        assert self._connection.transport is not None
        self.flush()
        self._flowing = False
        self._connection.transport.close()

    def ended(self, connection: Connection, reason: str) -> None:
        """Hear that a connection is no more."""
        if connection is not self._connection:
            return
        self._connection = None
        was, self.up, self._flowing = self.up, False, False
        for timer in (self._pinger, self._timer):
            if timer is not None:
                timer.cancel()
        if was:
            self._owner.changed(False)
        if self._closing:
            self.finished = True
            return
        self._owner.complained(reason)
        self._rest()
