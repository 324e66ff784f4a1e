"""What all parts of the client share: the connection, the takers of what comes in, the replies."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from phalanx.bus.client import (
    Answer,
    ClientCounters,
    Delivery,
    Handler,
    Silence,
    Unanswered,
)
from phalanx.bus.nats import protocol
from phalanx.bus.nats.config import inbox_of
from phalanx.bus.nats.connection import NatsConnection, SendBounds
from phalanx.bus.nats.delivery import Done, Headers, NewestValues, ReliablePublisher
from phalanx.bus.nats.protocol import Arrived, read_headers
from phalanx.bus.subjects import matches
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

NO_RESPONDERS = "503"
"""Status of a message in place of an answer: the subject has no subscriber."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ASK_S = 2.0
_DRAINED = 256
_TRANSIENT = 503
_OF_THE_SERVER = (b'{"type":"io.nats.jetstream.', b'{"stream":"')
"""How the answers of JetStream begin. A requester may name any subject for them."""

_OURS = re.compile(r"[A-Za-z0-9_=.$-]+")
"""What our subjects consist of; the server takes any octets."""
_REMEMBERED = 4096

Take = Callable[[Arrived], object]


class Fault(Struct, frozen=True):
    """What the server found wrong."""

    code: int = 0
    description: str = "an error without a description"

    @property
    def transient(self) -> bool:
        """Whether the same may succeed later, as while a leader is elected."""
        return self.code == _TRANSIENT


class JetStreamReply(Struct, frozen=True):
    """The parts of all answers of JetStream that are read here."""

    error: Fault | None = None
    num_pending: int = 0
    """Of a new consumer: how much of what it was asked for is there already."""
    cluster: dict[str, Any] = {}
    """Of a stream: ``leader`` is the name of the server that leads it."""
    created: datetime = EPOCH
    """Of a new consumer: when it was made, by the server's clock."""
    delivered: dict[str, Any] = {}
    """Of a new consumer: ``stream_seq`` is the sequence before the first it will deliver."""


_reply = msgspec.json.Decoder(JetStreamReply)


def read_reply(message: Arrived) -> JetStreamReply:
    """Return what the server answered; that the subject has no subscriber is a fault too."""
    if message.headers:
        status, _ = read_headers(message.headers)
        if status is not None:
            return JetStreamReply(
                Fault(_TRANSIENT, f"no server answers for it now (status {status})")
            )
    try:
        return _reply.decode(message.payload)
    except msgspec.MsgspecError as error:
        return JetStreamReply(Fault(500, f"the answer cannot be read: {error}"))


class StreamReading(Protocol):
    """What begins anew on each connection."""

    def begin(self) -> None:
        """Begin, or go on."""

    def close(self) -> None:
        """End."""


class NatsSubscription:
    """A pattern that a handler hears; implements ``Subscription``."""

    def __init__(
        self, dispatcher: Dispatcher, pattern: str, handler: Handler, capacity: int
    ) -> None:
        """Hear ``pattern`` from now on; at most ``capacity`` wait for ``handler``."""
        self._dispatcher = dispatcher
        self._pattern = pattern
        self._handler: Handler | None = handler
        self._capacity = capacity
        self._waiting = 0
        self._shedding = False
        self._ours: set[str] = set()
        """Subjects that were looked at, and are of the pattern."""
        self._sid = dispatcher.hear(pattern, self._take)

    def close(self) -> None:
        """End the subscription; without effect the second time."""
        if self._handler is not None:
            self._handler = None
            self._dispatcher.leave(self._sid)

    def _take(self, message: Arrived) -> None:
        dispatcher, subject = self._dispatcher, message.subject
        status, headers = read_headers(message.headers) if message.headers else (None, {})
        known = subject in self._ours
        if status == protocol.MALFORMED or not (known or _OURS.fullmatch(subject)):
            dispatcher.counters.refuse("garbage")
        elif (
            status is not None
            or message.payload.startswith(_OF_THE_SERVER)
            or not (known or matches(self._pattern, subject))
        ):  # another client had the server send what was not meant for this one
            dispatcher.counters.refuse("misdirected")
        elif self._waiting >= self._capacity:
            dispatcher.counters.drop(self._pattern)
            if not self._shedding:
                self._shedding = True
                dispatcher.complained(f"too slow for {self._pattern}: more than waits is shed")
        else:
            if not known and len(self._ours) < _REMEMBERED:
                self._ours.add(subject)
            self._waiting += 1
            delivery = Delivery(subject, message.payload, headers, message.reply)
            dispatcher.soon(self._hand, delivery)

    def _hand(self, delivery: Delivery) -> None:
        self._waiting -= 1
        self._shedding = self._shedding and self._waiting > 0
        if self._handler is not None:
            self._dispatcher.counters.delivered += 1
            self._handler(delivery)


class Dispatcher:
    """Sends for the parts of a client, and hands them what came in."""

    def __init__(
        self,
        identity: Identity,
        clock: WallClock,
        servers: Sequence[tuple[str, int]],
        tls: ssl.SSLContext,
        bounds: SendBounds,
        deaf_s: float,
    ) -> None:
        """Make a dispatcher; ``connection.open`` connects it."""
        self.counters = ClientCounters()
        self.trouble = "the clock did not run"
        """Why there is no connection."""
        self.on_change: list[Callable[[bool], None]] = []
        self.on_error: list[Callable[[str], None]] = []
        self.loop: asyncio.AbstractEventLoop = clock.loop
        self.deaf_s = deaf_s
        """How long a server may say nothing, though it was asked."""
        self.connection = NatsConnection(
            clock.loop,
            servers,
            tls,
            identity.name,
            bounds,
            deaf_s,
            arrived=self._arrived,
            opened=self._first,
            changed=self._changed,
            complained=self.complained,
        )
        self.readings: list[StreamReading] = []
        self.publisher = ReliablePublisher(
            clock.loop, self._expect_stored, self._forget, self.connection.urge
        )
        self._values = NewestValues(self.keep)
        self._clock = clock
        self._due: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._draining = False
        self._opened_before = False
        self._sid = 0
        self._takers: dict[int, tuple[str, Take]] = {}
        """Pattern and taker of each subscription."""
        self._run = secrets.token_hex(8)
        self._count = 0
        self._inbox = f"{inbox_of(identity)}.{self._run}"
        self._expected: dict[str, Take] = {}
        """Who takes the one message that comes under a subject."""
        self._requests: dict[str, tuple[Answer, Callable[[], None]]] = {}
        """Requests that wait for an answer, and what stops their timers."""
        self.hear(f"{self._inbox}.one.*", self._expected_arrived)

    # -- what goes out -----------------------------------------------------------------------

    def publish(self, subject: str, frame: bytes) -> bool:
        """Send octets that publish under ``subject``, or shed them; say which."""
        if self.connection.send(frame):
            self.counters.published += 1
            return True
        self.counters.drop(f"out.{subject.split('.')[2]}")
        return False

    def keep(self, subject: str, payload: bytes, headers: Headers, done: Done) -> None:
        """Publish what a stream keeps until it is known; ``done`` is called by the clock."""
        if self.publisher.put(subject, payload, headers, partial(self.soon, done)):
            self.counters.published += 1
        else:
            self.counters.drop(f"out.{subject.split('.')[2]}")
            self.soon(done, "too much waits to be kept")

    def write(self, subject: str, payload: bytes, headers: Headers = None) -> None:
        """Keep a value of a table, sooner or later."""
        self._values.write(subject, payload, headers, self._written)

    def _written(self, reason: str | None) -> None:
        if reason is not None:
            self.counters.refuse("put")
            self.complained(f"a value was not kept: {reason}")

    def say(self, subject: str, payload: bytes, reply: str) -> None:
        """Publish to the server itself; without a connection it is lost."""
        if self.connection.up:
            self.connection.urge(protocol.publish(subject, payload, reply, None))

    # -- one reply each ----------------------------------------------------------------------

    def ask(self, subject: str, question: Any, answer: Callable[[JetStreamReply], None]) -> None:
        """Ask the server something; an answer comes within seconds, or a fault."""

        def late() -> None:
            self._forget(reply)
            answer(JetStreamReply(Fault(504, f"no answer within {_ASK_S:g} s")))

        def take(message: Arrived) -> None:
            timer.cancel()
            answer(read_reply(message))

        timer = self.loop.call_later(_ASK_S, late)
        reply = self._expect(take)
        self.say(subject, msgspec.json.encode(question), reply)

    def request(
        self,
        subject: str,
        pattern: str,
        payload: bytes,
        answer: Answer,
        timeout_s: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        """Ask another client; its answer comes under ``pattern``, which ends in a ``*``."""
        self._count += 1
        reply = f"{pattern[:-1]}{self._run}{self._count:x}"
        late = partial(self._unanswered, reply, Silence.LATE, f"no answer within {timeout_s:g} s")
        self._requests[reply] = answer, self._clock.call_later(timeout_s, late).cancel
        if not self.publish(subject, protocol.publish(subject, payload, reply, headers)):
            self._unanswered(reply, Silence.CUT, "too much waits to be sent")

    def answered(self, message: Arrived) -> None:
        """Take the answer to a request; one that is not expected is counted."""
        reply = message.subject
        if reply not in self._requests:
            self.counters.refuse("answer")
            return
        status, headers = read_headers(message.headers) if message.headers else (None, {})
        if status == NO_RESPONDERS:
            self._unanswered(reply, Silence.UNSERVED, "no process serves it")
        elif status is not None:
            self._unanswered(reply, Silence.CUT, f"the server says {status}")
        else:
            self._end(reply, Delivery(reply, message.payload, headers))

    def _unanswered(self, reply: str, why: Silence, reason: str) -> None:
        self._end(reply, Unanswered(why, reason))

    def _end(self, reply: str, outcome: Delivery | Unanswered) -> None:
        answer, cancel = self._requests.pop(reply)
        cancel()
        self.soon(answer, outcome)

    def _expect(self, take: Take) -> str:
        """Return a new subject; the first message under it goes to ``take``."""
        self._count += 1
        subject = f"{self._inbox}.one.{self._count:x}"
        self._expected[subject] = take
        return subject

    def _expect_stored(self, done: Callable[[str | None, bool], None]) -> str:
        """Return the subject of an acknowledgement of a stream, and tell ``done`` what it says."""

        def take(message: Arrived) -> None:
            fault = read_reply(message).error
            done(*((None, False) if fault is None else (fault.description, fault.transient)))

        return self._expect(take)

    def _forget(self, subject: str) -> None:
        self._expected.pop(subject, None)

    def _expected_arrived(self, message: Arrived) -> None:
        take = self._expected.pop(message.subject, None)
        if take is not None:  # else it was asked again in the meantime
            take(message)

    # -- who takes what ----------------------------------------------------------------------

    def hear(self, pattern: str, take: Take) -> int:
        """Hand what comes under ``pattern`` to ``take``; return the subscription's number."""
        self._sid += 1
        self._takers[self._sid] = pattern, take
        if self.connection.greeted:
            self.connection.urge(protocol.subscribe(pattern, self._sid))
        return self._sid

    def listen(self, take: Take) -> tuple[int, str]:
        """Return (subscription, subject) of a new inbox."""
        self._count += 1
        subject = f"{self._inbox}.all.{self._count:x}"
        return self.hear(subject, take), subject

    def leave(self, subscription: int) -> None:
        """End a subscription."""
        if self._takers.pop(subscription, None) is not None and self.connection.up:
            self.connection.urge(protocol.unsubscribe(subscription))

    def begin(self, reading: StreamReading) -> None:
        """Begin a reading now, and again on each connection until it is ended."""
        self.readings.append(reading)
        if self.connection.up:
            reading.begin()

    def end(self, reading: StreamReading) -> None:
        """Begin a reading no more."""
        if reading in self.readings:
            self.readings.remove(reading)

    def soon(self, call: Callable[[Any], object], argument: Any) -> None:
        """Have a call made by the clock, after those that wait already."""
        self._due.append((call, argument))
        if not self._draining:
            self._draining = True
            self._clock.call_soon(self._drain)

    def _drain(self) -> None:
        """Make the calls that wait now; what they bring about waits for the next turn."""
        due = self._due
        self.connection.cork()  # what the calls send goes out at their end, at once
        try:
            for _ in range(min(len(due), _DRAINED)):
                call, argument = due.popleft()
                call(argument)
        finally:
            if due:
                self._clock.call_soon(self._drain)
            else:
                self._draining = False
            self.connection.flush()

    def close(self, reason: str) -> None:
        """Give ``reason`` to all that wait, send what waits, and end."""
        for reading in tuple(self.readings):
            reading.close()
        for reply in list(self._requests):
            self._unanswered(reply, Silence.CUT, reason)
        self.publisher.close(reason)
        self.connection.close()

    # -- what the connection tells -----------------------------------------------------------

    def _arrived(self, messages: list[Arrived]) -> None:
        """Hand messages to their takers; the last ones of a closed subscription are dropped.

        The calls that follow are made here and now, unless others wait for the clock already.
        """
        eager, self._draining = not self._draining, True
        try:
            for message in messages:
                taker = self._takers.get(message.sid)
                if taker is not None:
                    taker[1](message)
        finally:
            if eager:
                self._draining = bool(self._due)
                if self._due:
                    self._clock.call_now(self._drain)

    def _first(self) -> Iterable[bytes]:
        """Return the subscriptions, for a new connection: once it is up, they are heard."""
        return [protocol.subscribe(pattern, sid) for sid, (pattern, _) in self._takers.items()]

    def _changed(self, connected: bool) -> None:
        self.publisher.connected(connected)
        if connected:
            self.counters.reconnects += self._opened_before
            self._opened_before = True
            for reading in tuple(self.readings):
                reading.begin()
        for handler in self.on_change:
            self.soon(handler, connected)

    def complained(self, text: str) -> None:
        """Tell of something wrong; count what the server does not permit."""
        self.trouble = text
        if text.startswith("Permissions Violation for "):
            what = "publish" if "Publish" in text else "subscribe"
            self.counters.refuse(f"{what} (by the server)")
        for handler in self.on_error:
            self.soon(handler, text)
