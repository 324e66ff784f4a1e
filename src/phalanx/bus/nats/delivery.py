"""Reliable delivery to streams: publish with an acknowledgement, again until the outcome is known.

Streams and tables are written by it alone. Many messages are on their way at once, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec import Struct
from nats.js import errors

from phalanx.bus.nats.connection import NatsConnection, why

Done = Callable[[str | None], object]
"""Told None once a message is kept, else the reason; it may or may not be kept then."""
Headers = Mapping[str, str] | None

IN_FLIGHT = 1_000
"""Most that are sent and not acknowledged; nats-py takes four, a server ten times as many."""
_OCTETS_IN_FLIGHT = 4 << 20
_WAITING = 20_000
_LOOK_S = 0.25
_AGAIN_S = 3.0
_GIVE_UP_S = 60.0
_TRANSIENT = (errors.NoStreamResponseError, errors.ServiceUnavailableError)
"""The same may succeed later, as while a leader is elected."""


class _Message(Struct, eq=False):
    """A message that is not acknowledged."""

    subject: str
    payload: bytes
    headers: Headers
    done: Done
    end_s: float
    """When it is given up, by the loop's clock."""
    due_s: float = 0.0
    """When it is sent again."""
    acknowledged: asyncio.Future[Any] | None = None
    trouble: str = "no answer"


class ReliablePublisher:
    """Sends each message until it is acknowledged, refused or a minute old.

    The streams know a message again for two minutes, so none is kept twice because it was sent
    twice.
    """

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._loop = connection.loop
        self._closed = False
        self._waiting: deque[_Message] = deque()
        self._sent: dict[_Message, None] = {}
        self._octets = 0
        self._timer: asyncio.TimerHandle | None = None
        connection.changed.append(self._connected)

    @property
    def open(self) -> int:
        """How many are not acknowledged."""
        return len(self._waiting) + len(self._sent)

    def put(self, subject: str, payload: bytes, headers: Headers, done: Done) -> bool:
        """Accept a message, ``done`` is called later; return False if too much waits."""
        if self._closed or len(self._waiting) >= _WAITING:
            return False
        end_s = self._loop.time() + _GIVE_UP_S
        self._waiting.append(_Message(subject, payload, headers, done, end_s))
        self._pump()
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._look)
        return True

    def close(self, reason: str) -> None:
        """Give everything back with ``reason``, and accept nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for message in (*self._sent, *self._waiting):
            message.done(reason)
        self._sent.clear()
        self._waiting.clear()

    def _connected(self, up: bool) -> None:
        """Send again what was not acknowledged, in its order, over a new connection."""
        if up:
            for message in self._sent:
                self._transmit(message)
            self._pump()

    def _pump(self) -> None:
        while (
            self._connection.up
            and self._waiting
            and len(self._sent) < IN_FLIGHT
            and self._octets < _OCTETS_IN_FLIGHT
        ):
            message = self._waiting.popleft()
            self._sent[message] = None
            self._octets += len(message.payload)
            self._transmit(message)

    def _transmit(self, message: _Message) -> None:
        message.due_s = self._loop.time() + _AGAIN_S
        self._connection.send(partial(self._publish, message), bounded=False)

    async def _publish(self, message: _Message) -> None:
        if message.acknowledged is not None:
            message.acknowledged.cancel()
        if message in self._sent:
            message.acknowledged = await self._connection.jetstream.publish_async(
                message.subject,
                message.payload,
                headers=message.headers,  # type: ignore[arg-type]
            )
            message.acknowledged.add_done_callback(partial(self._answered, message))

    def _answered(self, message: _Message, acknowledged: asyncio.Future[Any]) -> None:
        error = None if acknowledged.cancelled() else acknowledged.exception()
        if acknowledged is not message.acknowledged or message not in self._sent:
            return
        if isinstance(error, _TRANSIENT):
            message.due_s = self._loop.time() + _LOOK_S
            message.trouble = why(error)
        elif not acknowledged.cancelled():
            self._finish(message, None if error is None else why(error))

    def _finish(self, message: _Message, reason: str | None) -> None:
        del self._sent[message]
        self._octets -= len(message.payload)
        if message.acknowledged is not None:
            message.acknowledged.cancel()
        message.done(reason)
        self._pump()

    def _look(self) -> None:
        now = self._loop.time()
        for message in list(self._sent):
            if now > message.end_s:
                self._finish(message, f"not kept within {_GIVE_UP_S:g} s: {message.trouble}")
            elif self._connection.up and now > message.due_s:
                self._transmit(message)
        while self._waiting and now > self._waiting[0].end_s:
            self._waiting.popleft().done(f"not sent within {_GIVE_UP_S:g} s")
        self._timer = self._loop.call_later(_LOOK_S, self._look) if self.open else None


class NewestValues:
    """The keys of tables that are being written: of each one the newest value, in order."""

    def __init__(self, put: Callable[[str, bytes, Headers, Done], None]) -> None:
        """Write by ``put``, which calls its last argument once."""
        self._put = put
        self._newer: dict[str, tuple[bytes, Headers, Done] | None] = {}

    def write(self, subject: str, payload: bytes, headers: Headers, done: Done) -> None:
        """Keep ``payload`` under ``subject``, unless something newer comes before its turn."""
        if subject in self._newer:
            self._newer[subject] = payload, headers, done
            return
        self._newer[subject] = None
        self._put(subject, payload, headers, partial(self._written, subject, done))

    def _written(self, subject: str, done: Done, reason: str | None) -> None:
        newer = self._newer.pop(subject)
        done(reason)
        if newer is not None:
            self.write(subject, *newer)
