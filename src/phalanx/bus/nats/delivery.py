"""Reliable delivery to streams: publish with an acknowledgement, again until the outcome is known.

Streams and tables are written by it alone. Many messages are on their way at once, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from phalanx.bus.nats.protocol import publish

Done = Callable[[str | None], object]
"""Told None once a message is kept, else the reason; it may or may not be kept then."""
Headers = Mapping[str, str] | None

IN_FLIGHT = 1_000
"""Most that are sent and not acknowledged; a server may take in ten times as many."""
_OCTETS_IN_FLIGHT = 4 << 20
_WAITING = 20_000
_LOOK_S = 0.25
_AGAIN_S = 3.0
_GIVE_UP_S = 60.0


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
    reply: str = ""
    trouble: str = "no answer"


class ReliablePublisher:
    """Sends each message until it is acknowledged, refused or a minute old.

    The streams know a message again for two minutes, so none is kept twice because it was sent
    twice.

    Args:
        loop: runs the timers.
        expect: returns the subject for an acknowledgement, and tells its argument the reason
            why the message was not kept (None: it is kept), and whether that may pass.
        forget: ends the wait for an acknowledgement.
        send: takes the octets that publish.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        expect: Callable[[Callable[[str | None, bool], None]], str],
        forget: Callable[[str], None],
        send: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._expect = expect
        self._forget = forget
        self._send = send
        self._up = False
        self._closed = False
        self._waiting: deque[_Message] = deque()
        self._sent: dict[_Message, None] = {}
        self._octets = 0
        self._timer: asyncio.TimerHandle | None = None

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

    def connected(self, up: bool) -> None:
        """Send again what was not acknowledged, in its order, once there is a connection."""
        self._up = up
        if up:
            for message in self._sent:
                self._transmit(message)
            self._pump()

    def close(self, reason: str) -> None:
        """Give everything back with ``reason``, and accept nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for message in (*self._sent, *self._waiting):
            self._forget(message.reply)
            message.done(reason)
        self._sent.clear()
        self._waiting.clear()

    def _pump(self) -> None:
        while (
            self._up
            and self._waiting
            and len(self._sent) < IN_FLIGHT
            and self._octets < _OCTETS_IN_FLIGHT
        ):
            message = self._waiting.popleft()
            self._sent[message] = None
            self._octets += len(message.payload)
            self._transmit(message)

    def _transmit(self, message: _Message) -> None:
        self._forget(message.reply)
        message.reply = self._expect(partial(self._answered, message))
        message.due_s = self._loop.time() + _AGAIN_S
        self._send(publish(message.subject, message.payload, message.reply, message.headers))

    def _answered(self, message: _Message, reason: str | None, transient: bool) -> None:
        if transient and reason is not None:
            message.due_s = self._loop.time() + _LOOK_S
            message.trouble = reason
        else:
            self._finish(message, reason)

    def _finish(self, message: _Message, reason: str | None) -> None:
        del self._sent[message]
        self._octets -= len(message.payload)
        self._forget(message.reply)
        message.done(reason)
        self._pump()

    def _look(self) -> None:
        now = self._loop.time()
        for message in list(self._sent):
            if now > message.end_s:
                self._finish(message, f"not kept within {_GIVE_UP_S:g} s: {message.trouble}")
            elif self._up and now > message.due_s:
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
