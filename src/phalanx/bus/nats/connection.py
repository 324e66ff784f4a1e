"""The connection to one of the servers: TLS over TCP, opened again whenever it ends.

Liveness is judged by the turns of this process's own loop. A process that was stopped, or had no
processor for seconds, finds all its timers late at once, while what came in waits in its socket.
So time is not measured but counted: each turn is asked for a fraction of the limit after the last
one was taken, and the loop reads its sockets before it. A turn counts once, however late it is.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import isfinite

import msgspec
from msgspec import Struct

from phalanx.bus.client import BrokerError
from phalanx.bus.nats.config import HEADER_OCTETS
from phalanx.bus.nats.protocol import PING, PONG, Arrived, Parser, ProtocolError, Said
from phalanx.bus.wire import MAX_OCTETS

Server = tuple[str, int]
"""Host and port."""

DEAF_S = 5.0
"""How long a server may say nothing, though it was asked, unless told otherwise."""

_TURNS = 6
_DOUBTED_S = 30.0
"""How long others are preferred to a server that failed."""
_BUFFER_OCTETS = 1 << 18
"""What may wait in the connection itself; more waits where it can be counted."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0
_CONNECT_S, _CONNECT_MOST_S = 3.0, 10.0
"""How long opening a connection may take; twice as long after each failure."""
_STEADY_S = 5.0
_CLOSE_S = 5.0
"""How long the server may take to read the last octets and to hang up."""


class SendBounds(Struct, frozen=True):
    """What may wait to be sent before more is shed."""

    messages: int = 20_000
    octets: int = 32 << 20


DEFAULT_BOUNDS = SendBounds()


class LivenessCheck:
    """Counts the turns in which nothing was heard.

    Args:
        deaf_s: most seconds until it is ``over``, beginning with the last that was heard, if
            every turn is taken in time; the least is five sixths of it.

    Raises:
        BrokerError: if that is no positive time.

    """

    def __init__(self, deaf_s: float) -> None:
        if not (isfinite(deaf_s) and deaf_s > 0):
            raise BrokerError(f"a server is silent after a positive time, not {deaf_s} s")
        self.turn_s = deaf_s / _TURNS
        """How long after one turn the next is to be taken."""
        self.quiet = 0
        """How many turns in a row nothing was heard."""

    @property
    def over(self) -> bool:
        """Whether the other side is to be given up."""
        return self.quiet >= _TURNS - 1

    def turn(self, heard: bool) -> None:
        """Take a turn, with whether anything was heard since the last one."""
        self.quiet = 0 if heard else self.quiet + 1


class ServerPool:
    """Takes turns among servers, in a random order; those in doubt come last.

    Raises:
        BrokerError: if no server is named.

    """

    def __init__(self, servers: Sequence[Server]) -> None:
        if not servers:
            raise BrokerError("no server is named to connect to")
        self._order = random.sample(servers, len(servers))
        self._doubted: dict[Server, float] = {}

    def next(self, now: float) -> Server:
        """Return the server that was not tried for longest, rather one that is not in doubt."""
        chosen = min(self._order, key=lambda server: self._doubted.get(server, now) > now)
        self._order.remove(chosen)
        self._order.append(chosen)
        return chosen

    def doubt(self, server: Server, now: float) -> None:
        """Prefer other servers for a while, as long as there are any."""
        self._doubted[server] = now + _DOUBTED_S

    def trust(self, server: Server) -> None:
        """End the doubt."""
        self._doubted.pop(server, None)


class _Info(Struct):
    ldm: bool = False
    """Lame duck mode: the server is about to end."""


class _Wire(asyncio.Protocol):
    """One connection of TLS; it may have been replaced by a later one already."""

    def __init__(self, owner: NatsConnection, deaf_s: float) -> None:
        self._owner = owner
        self._deaf_s = deaf_s
        self._parser = Parser(MAX_OCTETS + HEADER_OCTETS)
        self.transport: asyncio.Transport | None = None
        self.greeted = False
        self.heard = False
        """Whether anything came in since the owner last looked."""
        self.complaint: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; see ``asyncio.Protocol``, also for the next four."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_BUFFER_OCTETS)
        tcp = transport.get_extra_info("socket")
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self._deaf_s))
        self._owner.begun(self)

    def data_received(self, data: bytes) -> None:
        """Read what came in."""
        self.heard = True
        try:
            items = self._parser.feed(data)
        except (ProtocolError, ValueError) as error:
            self.drop(f"the server speaks no NATS: {error}")
        else:
            self._owner.take(self, items)

    def pause_writing(self) -> None:
        """Have no more room."""
        self._owner.flow(self, False)

    def resume_writing(self) -> None:
        """Have room again."""
        self._owner.flow(self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner why."""
        self.transport = None
        self._owner.ended(self, self.complaint or (why(exc) if exc else "the server hung up"))

    def write(self, octets: bytes) -> None:
        """Send as soon as there is room; without effect once closed."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(octets)

    def drop(self, reason: str) -> None:
        """End the connection at once."""
        self.complaint = reason
        if self.transport is not None:
            self.transport.abort()


class NatsConnection:
    """Carries octets to and from one of ``servers`` over mutual TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Sequence[Server],
        tls: ssl.SSLContext,
        name: str,
        bounds: SendBounds,
        deaf_s: float,
        *,
        arrived: Callable[[list[Arrived]], None],
        opened: Callable[[], Iterable[bytes]],
        changed: Callable[[bool], None],
        complained: Callable[[str], None],
    ) -> None:
        """Make a connection that is closed until ``open``.

        Args:
            loop: carries it, and makes the calls.
            servers: (host, port) of each.
            tls: of a client.
            name: of the client, for the server's log.
            bounds: what may wait to be sent.
            deaf_s: how long a server may say nothing.
            arrived: is given the messages for the subscriptions.
            opened: returns what must be sent first to a server, before the connection is up.
            changed: told that the connection is up or down.
            complained: told what the server refused, or why there is no connection.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is no positive time.

        """
        self.loop = loop
        self.up = False
        self.finished = False
        """Closed for good, and the last octets are out."""
        self._pool = ServerPool(servers)
        self.server = servers[0]
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
        self._arrived, self._first = arrived, opened
        self._changed, self._complained = changed, complained
        self._bounds = bounds
        self._queue: deque[bytes] = deque()
        self._octets = 0
        self._scheduled = False
        self._flowing = False
        self._closing = False
        self._deaf_s = deaf_s
        self._check = LivenessCheck(deaf_s)
        self._limit_s = self._first_limit_s = min(_CONNECT_S, deaf_s / 2)
        self._pause = 0.0
        self._since = 0.0
        self._wire: _Wire | None = None
        self._attempt: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """The pause before an attempt, or the next turn of the liveness check."""

    @property
    def greeted(self) -> bool:
        """Whether the present server was already sent what is to be sent first."""
        return self._wire is not None and self._wire.greeted

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
        """Send, however much waits already: for what is bounded elsewhere."""
        self._queue.append(frame)
        self._octets += len(frame)
        if self._flowing and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def cork(self) -> None:
        """Gather what is sent until ``flush``, which must follow."""
        self._scheduled = True

    def flush(self) -> None:
        """Give the connection what waits, as far as it has room."""
        self._scheduled = False
        queue = self._queue
        while queue and self._flowing:
            chunk, octets = [], 0
            while queue and octets < _BUFFER_OCTETS // 2:
                frame = queue.popleft()
                chunk.append(frame)
                octets += len(frame)
            self._octets -= octets
            assert self._wire is not None
            self._wire.write(b"".join(chunk))

    def close(self) -> None:
        """Send what waits, if there is a connection, and end; without effect once closed."""
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.up:
            self._leave()
        elif self._wire is not None:
            self._wire.drop("closed")
        else:
            self.finished = self._attempt is None

    # -- how a connection begins, lives and ends ---------------------------------------------

    def _connect(self) -> None:
        self._since = self.loop.time()
        self.server = self._pool.next(self._since)
        host, port = self.server
        attempt = self.loop.create_connection(
            lambda: _Wire(self, 2 * self._deaf_s),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=_CONNECT_MOST_S,
            ssl_shutdown_timeout=_CLOSE_S,
        )
        self._attempt = self.loop.create_task(attempt)
        self._attempt.add_done_callback(self._tried)
        self._watch(self._limit_s)

    def begun(self, wire: _Wire) -> None:
        """Take a connection over which nothing was sent yet."""
        self._wire = wire

    def _tried(self, attempt: asyncio.Task[object]) -> None:
        self._attempt = None
        error = None if attempt.cancelled() else attempt.exception()
        if self._wire is not None:  # its end, should it come, is met by ``ended``
            if self._closing or error is not None:
                self._wire.drop("closed" if self._closing else "it came too late")
        elif self._closing:
            self.finished = True
        elif attempt.cancelled() or error is not None:
            self._pool.doubt(self.server, self.loop.time())
            self._rest(self._too_long() if error is None else why(error))

    def _too_long(self) -> str:
        """Allow more time for the next attempt; return why this one failed."""
        limit_s = self._limit_s
        self._limit_s = min(2 * limit_s, _CONNECT_MOST_S)
        return f"no connection within {limit_s:g} s"

    def _watch(self, limit_s: float) -> None:
        self._check = LivenessCheck(limit_s)
        self._timer = self.loop.call_later(self._check.turn_s, self._turn)

    def _turn(self) -> None:
        """Give up a server that says nothing; ask once before that. An attempt ends by its age."""
        check, wire = self._check, self._wire
        heard = self.up and wire is not None and wire.heard
        check.turn(heard)
        if wire is not None:
            wire.heard = False
        if not check.over:
            if self.up and check.quiet == 1 and wire is not None:
                wire.write(PING)
            self._timer = self.loop.call_later(check.turn_s, self._turn)
        elif wire is None:
            assert self._attempt is not None
            self._attempt.cancel()
        else:
            wire.drop("the server is silent" if self.up else self._too_long())
            self._pool.doubt(self.server, self.loop.time())

    def _rest(self, reason: str) -> None:
        """Tell why there is no connection, and wait: longer each time, with some chance."""
        if self._timer is not None:
            self._timer.cancel()
        if self.loop.time() - self._since > _STEADY_S:
            self._pause = 0.0
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE_S), _LAST_PAUSE_S)
        self._timer = self.loop.call_later(self._pause * random.uniform(0.5, 1.0), self._connect)
        self._complained(reason)

    def take(self, wire: _Wire, items: list[Arrived | Said]) -> None:
        """Take what came in over a connection."""
        messages = [item for item in items if isinstance(item, Arrived)]
        if len(messages) < len(items):
            for item in items:
                if isinstance(item, Said):
                    self._said(wire, item)
        if messages:
            self._arrived(messages)

    def _said(self, wire: _Wire, item: Said) -> None:
        match item.what:
            case "INFO" if not wire.greeted:
                wire.greeted = True
                first = b"".join(self._first())
                wire.write(b"CONNECT %b\r\n%b%b" % (self._hello, first, PING))
            case "INFO" if msgspec.json.decode(item.text, type=_Info).ldm and self.up:
                self._leave()
            case "PING":
                wire.write(PONG)
            case "PONG" if not self.up and wire is self._wire:
                self._opened(wire)
            case "-ERR":
                complaint = item.text.decode("utf-8", "replace").strip(" '")
                if not complaint.startswith("Permissions Violation"):  # that ends nothing
                    wire.complaint = complaint
                self._complained(complaint)

    def _opened(self, wire: _Wire) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.up = self._flowing = True
        self._limit_s = self._first_limit_s
        self._pool.trust(self.server)
        wire.complaint = None
        self._watch(self._deaf_s)
        self._changed(True)
        self.flush()

    def flow(self, wire: _Wire, on: bool) -> None:
        """Take note whether the connection has room."""
        if wire is self._wire and self.up:
            self._flowing = on
            if on:
                self.flush()

    def _leave(self) -> None:
        """End the connection once everything that waits is out."""
        assert self._wire is not None
        self.flush()
        self._flowing = False
        if self._wire.transport is not None:
            self._wire.transport.close()

    def ended(self, wire: _Wire, reason: str) -> None:
        """Open the next connection after one has ended."""
        if wire is not self._wire:
            return
        self._wire = None
        was, self.up, self._flowing = self.up, False, False
        if was:
            self._changed(False)
        else:
            self._pool.doubt(self.server, self.loop.time())
        if self._closing:
            self.finished = True
        else:
            self._rest(reason)


def why(error: BaseException) -> str:
    """Return in words why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the broker's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
