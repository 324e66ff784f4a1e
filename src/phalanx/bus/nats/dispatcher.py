"""What all parts of the exchange share: the link, who hears what, and the turn of the clock."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from phalanx.bus.client import ClientCounters, Delivery, Handler
from phalanx.bus.nats import protocol
from phalanx.bus.nats.appends import Appends, Done, Headers, Values
from phalanx.bus.nats.inbox import Fault, Inbox, Reply, read_reply
from phalanx.bus.nats.link import NatsLink, SendBounds
from phalanx.bus.nats.mapping import inbox_of
from phalanx.bus.nats.protocol import Arrived
from phalanx.bus.subjects import matches
from phalanx.clock.wall import WallClock
from phalanx.identity.names import Identity

_ASK_S = 2.0
_DRAINED = 256
_OF_THE_SERVER = (b'{"type":"io.nats.jetstream.', b'{"stream":"')
"""How the answers of JetStream begin. Who asks may name any subject for them."""

_OURS = re.compile(r"[A-Za-z0-9_=.$-]+")
_REMEMBERED = 4096

Take = Callable[[Arrived], object]


def _plain(subject: str) -> bool:
    """Whether a subject is one of ours; the server takes any octets."""
    return _OURS.fullmatch(subject) is not None


class Reading(Protocol):
    """What begins anew on each connection."""

    def begin(self) -> None:
        """Begin, or go on."""

    def close(self) -> None:
        """End."""


class Subscribed:
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
        """Hear no more; without effect the second time."""
        if self._handler is not None:
            self._handler = None
            self._dispatcher.leave(self._sid)

    def _take(self, message: Arrived) -> None:
        status: str | None = None
        headers: dict[str, str] = {}
        if message.headers:
            status, headers = protocol.read_headers(message.headers)
        subject = message.subject
        known = subject in self._ours
        if status == protocol.MALFORMED or not (known or _plain(subject)):
            self._dispatcher.refused("garbage")
        elif (
            status is not None
            or message.payload.startswith(_OF_THE_SERVER)
            or not (known or matches(self._pattern, subject))
        ):  # somebody had the server send us what was not said to us
            self._dispatcher.refused("misdirected")
        elif self._waiting >= self._capacity:
            self._dispatcher.lost(self._pattern, 1)
            if not self._shedding:
                self._shedding = True
                self._dispatcher.complained(
                    f"too slow for {self._pattern}: more than waits is shed"
                )
        else:
            if not known and len(self._ours) < _REMEMBERED:
                self._ours.add(subject)
            self._waiting += 1
            self._dispatcher.soon(
                self._hand, Delivery(subject, message.payload, headers, message.reply)
            )

    def _hand(self, delivery: Delivery) -> None:
        self._waiting -= 1
        self._shedding = self._shedding and self._waiting > 0
        if self._handler is not None:
            self._dispatcher.counters.delivered += 1
            self._handler(delivery)


class Dispatcher:
    """Sends for the parts of an exchange, and hands them what came in."""

    def __init__(
        self,
        identity: Identity,
        clock: WallClock,
        servers: Sequence[tuple[str, int]],
        tls: ssl.SSLContext,
        bounds: SendBounds,
        deaf_s: float,
    ) -> None:
        """Make a dispatcher whose link opens when the loop runs."""
        self.counters = ClientCounters()
        self.trouble = "the clock did not run"
        """Why there is no connection."""
        self.on_change: list[Callable[[bool], None]] = []
        self.on_error: list[Callable[[str], None]] = []
        self.loop: asyncio.AbstractEventLoop = clock.loop
        self.deaf_s = deaf_s
        """How long a server may say nothing, though it was asked."""
        self.link = NatsLink(clock.loop, servers, tls, identity.name, self, bounds, deaf_s)
        self.inbox = Inbox(inbox_of(identity))
        self.appends = Appends(clock.loop, self.inbox, self.link.urge)
        self.readings: list[Reading] = []
        self._clock = clock
        self._values = Values(self.keep)
        self._due: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._draining = False
        self._opened_before = False
        self._sid = 0
        self._heard: dict[int, tuple[str, Take]] = {}
        """Pattern and taker of each subscription."""
        self.hear(self.inbox.pattern, self.inbox.arrived)

    # -- what goes out -----------------------------------------------------------------------

    def publish(self, subject: str, frame: bytes) -> bool:
        """Send octets that publish under ``subject``, or shed them; say which."""
        if self.link.send(frame):
            self.counters.published += 1
            return True
        kind = subject.split(".")[2]
        self.lost(f"out.{kind}", 1)
        return False

    def keep(self, subject: str, payload: bytes, headers: Headers, done: Done) -> None:
        """Append to the stream that keeps ``subject``; ``done`` is called by the clock."""
        if self.appends.put(subject, payload, headers, lambda reason: self.soon(done, reason)):
            self.counters.published += 1
        else:
            self.lost(f"out.{subject.split('.')[2]}", 1)
            self.soon(done, "too much waits to be kept")

    def write(self, subject: str, payload: bytes, headers: Headers = None) -> None:
        """Keep a value of a table, sooner or later."""
        self._values.write(subject, payload, headers, self._written)

    def _written(self, reason: str | None) -> None:
        if reason is not None:
            self.refused("put")
            self.complained(f"a value was not kept: {reason}")

    def ask(self, subject: str, question: Any, answer: Callable[[Reply], None]) -> None:
        """Ask the server something; an answer comes within seconds, or a fault."""
        reply = ""

        def late() -> None:
            self.inbox.forget(reply)
            answer(Reply(Fault(504, 0, f"no answer within {_ASK_S:g} s")))

        def take(message: Arrived) -> None:
            timer.cancel()
            answer(read_reply(message))

        timer = self.loop.call_later(_ASK_S, late)
        reply = self.inbox.expect(take)
        self.say(subject, msgspec.json.encode(question), reply)

    def say(self, subject: str, payload: bytes, reply: str) -> None:
        """Publish to the server itself; without a connection it is lost."""
        if self.link.up:
            self.link.urge(protocol.publish(subject, payload, reply, None))

    # -- who hears what ----------------------------------------------------------------------

    def hear(self, pattern: str, take: Take) -> int:
        """Hand what comes under ``pattern`` to ``take``; return the subscription's number."""
        self._sid += 1
        self._heard[self._sid] = pattern, take
        if self.link.greeted:
            self.link.urge(protocol.subscribe(pattern, self._sid))
        return self._sid

    def listen(self, take: Take) -> tuple[int, str]:
        """Return (subscription, subject) of a new inbox."""
        subject = self.inbox.new()
        return self.hear(subject, take), subject

    def leave(self, subscription: int) -> None:
        """Hear a subscription no more."""
        if self._heard.pop(subscription, None) is not None and self.link.up:
            self.link.urge(protocol.unsubscribe(subscription))

    def begin(self, reading: Reading) -> None:
        """Begin a reading now, and again on each connection until it is ended."""
        self.readings.append(reading)
        if self.link.up:
            reading.begin()

    def end(self, reading: Reading) -> None:
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
        self.link.cork()  # what the calls send goes out at their end, at once
        try:
            for _ in range(min(len(due), _DRAINED)):
                call, argument = due.popleft()
                call(argument)
        finally:
            if due:
                self._clock.call_soon(self._drain)
            else:
                self._draining = False
            self.link.flush()

    def refused(self, reason: str) -> None:
        """Count something that was not permitted."""
        refused = self.counters.refused
        refused[reason] = refused.get(reason, 0) + 1

    def lost(self, what: str, count: int) -> None:
        """Count what was shed."""
        shed = self.counters.shed
        shed[what] = shed.get(what, 0) + count

    # -- what the link says ------------------------------------------------------------------

    def arrived(self, messages: list[Arrived]) -> None:
        """Hand messages to their subscriptions; the last ones of a closed one are let go.

        The calls that follow are made here and now, unless others wait for the clock already.
        """
        at_once, self._draining = not self._draining, True
        try:
            for message in messages:
                heard = self._heard.get(message.sid)
                if heard is not None and heard[1](message) is False:
                    self.refused("answer")
        finally:
            if at_once:
                self._draining = bool(self._due)
                if self._due:
                    self._clock.call_now(self._drain)

    def opened(self) -> Iterable[bytes]:
        """Return the subscriptions, for a new connection: once it is up, they are heard."""
        return [protocol.subscribe(pattern, sid) for sid, (pattern, _) in self._heard.items()]

    def changed(self, connected: bool) -> None:
        """Go on over a new connection."""
        self.appends.connected(connected)
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
            self.refused(f"{what} (by the server)")
        for handler in self.on_error:
            self.soon(handler, text)
