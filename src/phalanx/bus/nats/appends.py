"""Appending to streams: many on their way at once, each sent again until it is acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from phalanx.bus.nats.inbox import Inbox, read_reply
from phalanx.bus.nats.protocol import Arrived, publish

Done = Callable[[str | None], None]
Headers = Mapping[str, str] | None

ON_THEIR_WAY = 1_000
"""Most that are sent and not acknowledged; a server may take in ten times as many."""
_OCTETS_ON_THEIR_WAY = 4 << 20
_WAITING = 20_000
_LOOK_S = 0.25
_AGAIN_S = 3.0
_GIVE_UP_S = 60.0
_PASSING = 503


class _Entry:
    __slots__ = (
        "done", "due_s", "end_s", "headers", "octets", "payload", "reply", "subject", "trouble",
    )  # fmt: skip

    def __init__(
        self, subject: str, payload: bytes, headers: Headers, done: Done, end_s: float
    ) -> None:
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.done = done
        self.end_s = end_s
        self.due_s = 0.0
        self.reply = ""
        self.trouble = "no answer"
        self.octets = len(payload)


class Appends:
    """What is to be kept, until it is.

    Nothing is sent again a minute after it was handed over, and the streams know a message
    again for two: so none is kept twice because it was sent twice.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, inbox: Inbox, send: Callable[[bytes], None]
    ) -> None:
        """Make a queue that sends by ``send`` while it is ``connected``."""
        self._loop = loop
        self._inbox = inbox
        self._send = send
        self._up = False
        self._closed = False
        self._waiting: deque[_Entry] = deque()
        self._sent: dict[_Entry, None] = {}
        self._octets = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """How many are not acknowledged."""
        return len(self._waiting) + len(self._sent)

    def put(self, subject: str, payload: bytes, headers: Headers, done: Done) -> bool:
        """Take something over, ``done`` is called later; return False if too much waits."""
        if self._closed or len(self._waiting) >= _WAITING:
            return False
        end_s = self._loop.time() + _GIVE_UP_S
        self._waiting.append(_Entry(subject, payload, headers, done, end_s))
        self._pump()
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._look)
        return True

    def connected(self, up: bool) -> None:
        """Send again what was not acknowledged, in its order, once there is a connection."""
        self._up = up
        if up:
            for entry in self._sent:
                self._transmit(entry)
            self._pump()

    def close(self, reason: str) -> None:
        """Give everything back, and take nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in (*self._sent, *self._waiting):
            self._inbox.forget(entry.reply)
            entry.done(reason)
        self._sent.clear()
        self._waiting.clear()

    def _pump(self) -> None:
        while (
            self._up
            and self._waiting
            and len(self._sent) < ON_THEIR_WAY
            and self._octets < _OCTETS_ON_THEIR_WAY
        ):
            entry = self._waiting.popleft()
            self._sent[entry] = None
            self._octets += entry.octets
            self._transmit(entry)

    def _transmit(self, entry: _Entry) -> None:
        self._inbox.forget(entry.reply)
        entry.reply = self._inbox.expect(partial(self._answered, entry))
        entry.due_s = self._loop.time() + _AGAIN_S
        self._send(publish(entry.subject, entry.payload, entry.reply, entry.headers))

    def _answered(self, entry: _Entry, message: Arrived) -> None:
        fault = read_reply(message).error
        if fault is not None and fault.code == _PASSING:  # as while a leader is elected
            entry.due_s = self._loop.time() + _LOOK_S
            entry.trouble = fault.description
            return
        self._finish(entry, None if fault is None else fault.description)

    def _finish(self, entry: _Entry, reason: str | None) -> None:
        del self._sent[entry]
        self._octets -= entry.octets
        self._inbox.forget(entry.reply)
        entry.done(reason)
        self._pump()

    def _look(self) -> None:
        now = self._loop.time()
        for entry in list(self._sent):
            if now > entry.end_s:
                self._finish(entry, f"not kept within {_GIVE_UP_S:g} s: {entry.trouble}")
            elif self._up and now > entry.due_s:
                self._transmit(entry)
        while self._waiting and now > self._waiting[0].end_s:
            self._waiting.popleft().done(f"not sent within {_GIVE_UP_S:g} s")
        self._timer = self._loop.call_later(_LOOK_S, self._look) if self.open else None


class Values:
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
