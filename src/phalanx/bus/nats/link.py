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

from phalanx.bus.nats.connection import BUFFER_OCTETS, Connection, connect, why
from phalanx.bus.nats.liveness import LivenessCheck
from phalanx.bus.nats.protocol import PING, PONG, Arrived, Said
from phalanx.bus.nats.server_pool import Server, ServerPool

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0
_CONNECT_S, _CONNECT_MOST_S = 3.0, 10.0
"""How long a connection may take to come about; twice as long each time that it does not."""
_STEADY_S = 5.0


class SendBounds(Struct, frozen=True):
    """What may wait to be sent before more is shed."""

    messages: int = 20_000
    octets: int = 32 << 20


DEFAULT_BOUNDS = SendBounds()


class Owner(Protocol):
    """Whoever a link works for; called by the event loop."""

    def arrived(self, messages: list[Arrived]) -> None:
        """Take messages for the subscriptions."""

    def opened(self) -> Iterable[bytes]:
        """Return what must be said first on a new connection, before it counts as one."""

    def changed(self, connected: bool) -> None:
        """Hear that the link is up or down."""

    def complained(self, text: str) -> None:
        """Hear what the server refused, or why there is no connection."""


class _Info(Struct):
    ldm: bool = False
    """Lame duck mode: the server is about to end."""


class NatsLink:
    """Carries octets to and from one of ``servers`` over mutual TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Sequence[Server],
        tls: ssl.SSLContext,
        name: str,
        owner: Owner,
        bounds: SendBounds,
        deaf_s: float,
    ) -> None:
        """Make a link that is closed until ``open``.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is no time (``LivenessCheck``).

        """
        self.loop = loop
        self.up = False
        self.finished = False
        """Closed for good, and the last octets are out."""
        self._pool = ServerPool(servers)
        self._server = servers[0]
        """The one of the present connection, or attempt."""
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
        self._deaf_s = deaf_s
        self._check = LivenessCheck(deaf_s)
        self._patience_s = self._first_patience_s = min(_CONNECT_S, deaf_s / 2)
        self._pause = 0.0
        self._since = 0.0
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """The pause before an attempt, or the next turn of the check over one or a connection."""

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
        if self._timer is not None:
            self._timer.cancel()
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
        self._since = self.loop.time()
        self._server = self._pool.next(self._since)
        coroutine = connect(self, self._tls, *self._server, 2 * self._deaf_s)
        self._attempt = self.loop.create_task(coroutine)
        self._attempt.add_done_callback(self._tried)
        self._watch(self._patience_s)

    def begun(self, connection: Connection) -> None:
        """Hear of a connection over which nothing was said yet."""
        self._connection = connection

    def _tried(self, attempt: asyncio.Task[None]) -> None:
        self._attempt = None
        error = None if attempt.cancelled() else attempt.exception()
        if self._connection is not None:  # its end, should it come, is met by ``ended``
            if self._closing or error is not None:
                self._connection.drop("closed" if self._closing else "it came too late")
        elif self._closing:
            self.finished = True
        else:
            self._pool.doubt(self._server, self.loop.time())
            self._rest(self._vain() if error is None else why(error))

    def _vain(self) -> str:
        """Have more patience the next time; return why."""
        patience_s = self._patience_s
        self._patience_s = min(2 * patience_s, _CONNECT_MOST_S)
        return f"no connection within {patience_s:g} s"

    def _watch(self, patience_s: float) -> None:
        self._check = LivenessCheck(patience_s)
        self._timer = self.loop.call_later(self._check.turn_s, self._turn)

    def _turn(self) -> None:
        """Give up who says nothing; ask once before that. An attempt is given up by its age."""
        check, connection = self._check, self._connection
        check.turn(self.up and connection is not None and connection.heard())
        if not check.over:
            if self.up and check.quiet == 1 and connection is not None:
                connection.write(PING)
            self._timer = self.loop.call_later(check.turn_s, self._turn)
        elif connection is None:
            assert self._attempt is not None
            self._attempt.cancel()
        else:
            connection.drop("the server is silent" if self.up else self._vain())
            self._pool.doubt(self._server, self.loop.time())

    def _rest(self, reason: str) -> None:
        """Tell why there is no connection, and wait: longer each time, never as long as others."""
        if self._timer is not None:
            self._timer.cancel()
        now = self.loop.time()
        if now - self._since > _STEADY_S:
            self._pause = 0.0
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_S), _LAST_PAUSE_S)
        self._timer = self.loop.call_later(self._pause * random.uniform(0.5, 1.0), self._connect)
        self._owner.complained(reason)

    def take(self, connection: Connection, items: list[Arrived | Said]) -> None:
        """Take what a connection heard."""
        messages = [item for item in items if isinstance(item, Arrived)]
        if len(messages) < len(items):
            for item in items:
                if isinstance(item, Said):
                    self._hear(connection, item)
        if messages:
            self._owner.arrived(messages)

    def _hear(self, connection: Connection, item: Said) -> None:
        match item.what:
            case "INFO" if not connection.greeted:
                connection.greeted = True
                first = b"".join(self._owner.opened())
                connection.write(b"CONNECT %b\r\n%b%b" % (self._hello, first, PING))
            case "INFO" if msgspec.json.decode(item.text, type=_Info).ldm and self.up:
                self._leave()
            case "PING":
                connection.write(PONG)
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
        self.up = self._flowing = True
        self._patience_s = self._first_patience_s
        self._pool.trust(self._server)
        connection.complaint = None
        self._watch(self._deaf_s)
        self._owner.changed(True)
        self.flush()

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
            self._connection.write(b"".join(chunk))

    def _leave(self) -> None:
        """End the connection once everything that waits is out."""
        assert self._connection is not None
        self.flush()
        self._flowing = False
        self._connection.leave()

    def ended(self, connection: Connection, reason: str) -> None:
        """Hear that a connection is no more."""
        if connection is not self._connection:
            return
        self._connection = None
        was, self.up, self._flowing = self.up, False, False
        if was:
            self._owner.changed(False)
        else:
            self._pool.doubt(self._server, self.loop.time())
        if self._closing:
            self.finished = True
        else:
            self._rest(reason)
