"""The connection of a client: nats-py, and what waits while there is no server to take it.

What is our own of the NATS client: nats-py, kept going whatever hostile clients and servers do.

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
import os
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from typing import Any

from msgspec import Struct
from nats import errors
from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.js.errors import APIError
from nats.protocol.command import pub_cmd

from phalanx.bus.client import BrokerError, ClientCounters, Delivery
from phalanx.bus.nats.config import HEARD, heard_by, inbox_of
from phalanx.bus.transports import server_text
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

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


Address = tuple[str, int]
"""Host and port."""
_Call = tuple[str, bytes, str] | Callable[[], Awaitable[Any]]
"""A message (subject, payload, subject for an answer), or a call of nats-py."""

DEAF_S = 5.0
"""How long a server may say nothing, though it was asked, unless told otherwise."""
TURNS = 5
"""How often a side is asked that says nothing, before it is given up.

Turns of our own loop are counted, not time: a process that was stopped, or had no processor,
finds all its timers late at once, while what came in waits in its socket.
"""

_SPACE = re.compile(r"[ \t\r\n]")
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 2.0
_CONNECT_S, _CONNECT_MOST_S = 3.0, 10.0
"""How long each step of opening a connection may take; twice as long after each failure."""
_STEADY_S = 5.0
_LOOK_S = 0.005


class SendBounds(Struct, frozen=True):
    """What may wait to be sent before more is shed."""

    messages: int = 20_000
    octets: int = 32 << 20


DEFAULT_BOUNDS = SendBounds()


class NatsConnection:
    """Carries messages to and from one of ``servers`` over mutual TLS, and comes back for ever."""

    def __init__(
        self,
        identity: Identity,
        clock: WallClock,
        servers: Sequence[Address],
        tls: ssl.SSLContext,
        bounds: SendBounds,
        deaf_s: float,
    ) -> None:
        """Make a connection that is opened as soon as the clock runs.

        Raises:
            BrokerError: if no server is named, or ``deaf_s`` is no positive time.

        """
        if not servers:
            raise BrokerError("no server is named to connect to")
        if not (isfinite(deaf_s) and deaf_s > 0):
            raise BrokerError(f"a server is silent after a positive time, not {deaf_s} s")
        self.clock = clock
        self.loop = clock.loop
        self.counters = ClientCounters()
        self.inbox, self.heard = inbox_of(identity), heard_by(identity)
        """The subjects below which the server answers, and below which others are heard."""
        self.finished = False
        """Closed for good, and the last octets are out."""
        self.trouble = "the clock did not run"
        """Why there is no connection."""
        self.changed: list[Callable[[bool], object]] = []
        """Called when the connection is up or down."""
        self.on_change: list[Callable[[bool], None]] = []
        self.on_error: list[Callable[[str], None]] = []
        self.turn_s = deaf_s / (TURNS + 1)
        """How long after one question to a server that says nothing the next is asked."""
        self.nats = GuardedClient(tls, self._gathered)
        self.jetstream = self.nats.jetstream()
        self._bounds = bounds
        self._queue: deque[tuple[_Call, int]] = deque()
        self._octets = 0
        self._wake = asyncio.Event()
        self._up = self._closing = self._gathering = False
        self._limit_s = min(_CONNECT_S, deaf_s / 2)
        self._tries = 0
        self._since: float | None = None
        times: dict[str, Any] = {
            "connect_timeout": self._limit_s,
            "reconnect_time_wait": 4 * _FIRST_PAUSE_S,
            "ping_interval": self.turn_s,
        }
        connecting = self.nats.connect(
            [f"nats://{server_text(*server)}" for server in servers],
            name=identity.name,
            inbox_prefix=self.inbox,
            tls=tls,
            tls_handshake_first=True,
            **times,
            max_reconnect_attempts=-1,
            reconnect_to_server_handler=self._next,
            max_outstanding_pings=TURNS - 1,
            flusher_queue_size=0,
            error_cb=self._failed,
            reconnected_cb=self._opened,
            disconnected_cb=self._ended,
            lame_duck_mode_cb=self.nats.force_reconnect,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self.spawn(self._live(connecting))

    @property
    def up(self) -> bool:
        """Whether what is sent now goes out now."""
        return self._up and self.nats.is_connected

    @property
    def waiting(self) -> int:
        """How many messages wait for a connection to take them."""
        return len(self._queue) + (self.up and self.nats.pending_data_size > 0)

    def publish(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> bool:
        """Send as soon as that is possible; return False if too much waits, or it is closed."""
        message = (subject, payload, reply)
        call: _Call = message
        if headers or _SPACE.search(subject + reply):  # nats-py refuses what is no subject
            call = partial(self.nats.publish, *message, dict(headers) if headers else None)
        if self.send(call, len(payload)):
            self.counters.published += 1
            return True
        self.counters.drop(f"out.{subject.split('.')[2]}")
        return False

    def send(self, call: _Call, octets: int = 0, *, bounded: bool = True) -> bool:
        """Publish, or make a call of nats-py, in its turn once there is a connection.

        Returns False if too much waits, or it is closed.
        """
        bounds = self._bounds
        full = len(self._queue) >= bounds.messages or self._octets + octets > bounds.octets
        if self._closing or (bounded and full):
            return False
        self._queue.append((call, octets))
        self._octets += octets
        if not self._gathering:
            self._wake.set()
        return True

    def gather(self, take: Callable[[Delivery], None], message: Delivery) -> None:
        """Have a message taken ; what is sent meanwhile waits for what came with it."""
        self._gathering = True
        take(message)

    def _gathered(self) -> None:
        """Write the messages that were sent while others were taken."""
        self._gathering = False
        if self._queue:
            self.nats.cork()
            self._write()
            self.nats.uncork()
            if self._queue:
                self._wake.set()

    def _write(self) -> None:
        """Write the messages that wait, up to a call of nats-py, as far as there is room."""
        while self._queue and isinstance(self._queue[0][0], tuple) and self.nats.has_room:
            message, octets = self._queue.popleft()
            assert isinstance(message, tuple)
            self._octets -= octets
            self.nats.put(*message)

    async def _pump(self) -> None:
        """Send what waits, as far as the connection has room; nothing in it takes a turn."""
        self.nats.cork()
        try:
            self._write()
            while self._queue and self.nats.has_room:
                call, octets = self._queue.popleft()
                assert not isinstance(call, tuple)
                self._octets -= octets
                try:
                    await call()
                except errors.Error as error:
                    self.complained(why(error))
                self._write()
        finally:
            self.nats.uncork()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task that ends with the connection."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def complained(self, text: str) -> None:
        """Tell of something wrong; count what the server does not permit."""
        self.trouble = text
        if text.startswith("permissions violation for "):
            what = "subscribe" if "subscription" in text else "publish"
            self.counters.refuse(f"{what} (by the server)")
        for handler in self.on_error:
            self.clock.call_soon(partial(handler, text))

    def close(self) -> None:
        """Send what waits, if there is a connection, and end; without effect once closed."""
        if not self._closing:
            self._closing = True
            self.spawn(self._close(set(self._tasks)))

    # -- how a connection begins, lives and ends ---------------------------------------------

    async def _live(self, connecting: Awaitable[None]) -> None:
        await connecting
        if self.nats.is_connected:
            await self._opened()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._pump()
            while self._queue and self.nats.is_connected:
                await asyncio.sleep(_LOOK_S)
                await self._pump()

    async def _opened(self) -> None:
        await self._pump()
        with suppress(errors.Error):
            await self.nats.flush()
        if self.nats.is_connected and not (self._up or self._closing):
            self.nats.options["connect_timeout"] = self._limit_s
            self.counters.reconnects += self._since is not None
            self._since = self.loop.time()
            self._change(True)
            self._wake.set()

    async def _ended(self) -> None:
        if self._since is not None and self.loop.time() - self._since > _STEADY_S:
            self._tries = 0
        if self._up:
            self._change(False)

    def _change(self, up: bool) -> None:
        self._up = up
        for call in tuple(self.changed):
            call(up)
        for handler in self.on_change:
            self.clock.call_soon(partial(handler, up))

    def _next(self, servers: list[Server], _: object) -> tuple[Server, float]:
        """Return the server that failed least since it was last connected to, and a pause."""
        pause_s = min(_FIRST_PAUSE_S * 2**self._tries, _LAST_PAUSE_S) * random.uniform(0.5, 1.0)
        self._tries = min(self._tries + 1, 10)
        return min(servers, key=lambda server: server.reconnects), pause_s

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError) and not self.nats.is_connected:
            limit_s = self.nats.options["connect_timeout"]
            self.nats.options["connect_timeout"] = min(2 * limit_s, _CONNECT_MOST_S)
            self.complained(f"no connection within {limit_s:g} s")
        else:
            self.complained(why(error))

    async def _close(self, tasks: set[asyncio.Task[None]]) -> None:
        while self._queue and self.up:
            await asyncio.sleep(_LOOK_S)
        while tasks:  # nats-py swallows the end of a task that is just sending
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=_LOOK_S)
        with suppress(OSError, errors.Error):
            await self.nats.close()
        self.nats.tls.abort()
        await asyncio.sleep(0)  # for what ``close`` has cancelled
        self.finished = True


class NatsListener:
    """Takes what comes under a pattern; made and ended in the order in which that was asked for."""

    def __init__(
        self, connection: NatsConnection, pattern: str, take: Callable[[Delivery], None]
    ) -> None:
        """Subscribe as soon as there is a connection."""
        self._connection = connection
        self._take = take
        self._pattern = pattern
        self._closed = False
        self._made: Subscription | None = None
        connection.send(self._begin, bounded=False)

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        if not self._closed:
            self._closed = True
            self._connection.send(self._end, bounded=False)

    async def _begin(self) -> None:
        nats = self._connection.nats
        self._made = await nats.subscribe(self._pattern)
        nats.direct[b"%d" % self._made._id] = self._heard

    async def _end(self) -> None:
        if self._made is not None:
            self._connection.nats.direct.pop(b"%d" % self._made._id)
            await self._made.unsubscribe()

    def _heard(self, delivery: Delivery) -> None:
        if not self._closed:
            self._connection.gather(self._take, delivery)


def why(error: BaseException) -> str:
    """Return in words what was wrong."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"TLS: the broker's certificate: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {error.reason or error}"
        case OSError(errno=int(number)):
            return os.strerror(number)
        case errors.UnexpectedEOF():
            return "the server hung up"
        case errors.StaleConnectionError():
            return "the server is silent"
        case APIError():
            return error.description or str(error)
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
