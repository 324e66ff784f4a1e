"""The connection of a client: nats-py, and what waits while there is no server to take it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import isfinite
from typing import Any

from msgspec import Struct
from nats import errors
from nats.aio.client import Server
from nats.aio.subscription import Subscription
from nats.js.errors import APIError

from phalanx.bus.client import BrokerError, ClientCounters, Delivery
from phalanx.bus.nats.config import heard_by, inbox_of
from phalanx.bus.nats.guard import GuardedClient
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

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
            [f"nats://{f'[{host}]' if ':' in host else host}:{port}" for host, port in servers],
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
