"""The broker in memory: all identities in one process, on any clock, without a socket.

``MemoryBroker(clock)`` works on virtual time as it does on the wall clock: every handler is
called by ``clock.call_soon`` or ``clock.call_at``, so ``VirtualClock.run`` carries what was sent,
in an order that the same seed repeats. ``broker.join(identity)`` returns the client of an
identity, with the permissions that the identity has at a NATS server; the fabric's registry,
calls and audit are made over it as over any other client::

    clock = VirtualClock()
    broker = MemoryBroker(clock)
    client = broker.join(Identity("alpha", Role.AGENT, "edge"))
    registry = Registry(client, clock)
    clock.run(until=60.0)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct

from phalanx.bus.client import (
    Answer,
    BrokerError,
    CaughtUp,
    CheckedClient,
    ClientCounters,
    Delivery,
    Handler,
    Silence,
    Stored,
    StoredHandler,
    Subscription,
    Unanswered,
    Watcher,
)
from phalanx.bus.subjects import EVENTS, answers, matches
from phalanx.bus.transports import Access
from phalanx.clock import Clock, Timer
from phalanx.identity.names import Identity

WINDOW_S = 120.0
"""For how long a message id is kept once only, in seconds."""
AHEAD = 256
"""How many a follower is told of while it has acknowledged none of them."""

Passage = Callable[[Identity, Identity, str], Sequence[float]]
"""What becomes of something on its way from one identity to another under a subject: after how
many seconds each copy of it arrives. ``(0.0,)``: at once; none: it is lost; two: it is doubled."""

_NONE: Mapping[str, str] = {}
_CLOSED = "the client was closed"
_KEPT = {"evt": EVENTS}
"""Which stream keeps which kind of subject."""


class MemoryClient(CheckedClient):
    """Octets under subjects for one identity, made by ``MemoryBroker.join``; a ``BrokerClient``.

    See ``BrokerClient`` for what each call does and raises.
    """

    def __init__(self, broker: MemoryBroker, identity: Identity) -> None:
        super().__init__(identity, ClientCounters())
        self.connected = True
        self._broker = broker
        self._answered = [p for p in map(answers, self._grants.subscribe) if p is not None]
        self._waiting: deque[tuple[str, Callable[[], object], Callable[[str], None] | None]] = (
            deque()
        )
        """What is to go out once it is connected: its kind, what sends it, what to call if not."""
        self._on_change: list[Callable[[bool], None]] = []
        self._closed = False

    def on_error(self, handler: Callable[[str], None]) -> None:
        """Do nothing: what is refused is refused by the call, and no connection fails."""

    def ready(self, within_s: float = 10.0) -> None:
        """Return at once: it is connected from the start."""

    def finish(self, within_s: float = 5.0) -> None:  # noqa: ARG002  nothing is on its way
        """End it."""
        self.close()

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Tell ``handler`` whether it is connected whenever that changes."""
        self._on_change.append(handler)

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send to all that subscribe, at most once."""
        self._check_publish(subject, payload)
        delivery = Delivery(subject, payload, headers or _NONE)
        self.counters.published += 1
        self._send(_kind(subject), partial(self._broker.publish, self, delivery))

    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Hear what is published under ``pattern`` from now on."""
        self._check_subscribe(pattern)
        return self._broker.hear(self, pattern, handler)

    def request(
        self,
        subject: str,
        payload: bytes,
        answer: Answer,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send, and call ``answer`` once: with the first answer, or with why there is none."""
        reply = self._check_request(subject, payload)
        self.counters.published += 1
        delivery = Delivery(subject, payload, headers or _NONE, reply)
        send, give_up = self._broker.request(self, delivery, answer, timeout_s)
        self._send(_kind(subject), send, give_up)

    def respond(
        self, delivery: Delivery, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer a request; without effect if no answer is waited for. Once for each.

        Raises:
            NotPermittedError: if the identity does not serve what was asked.
            BrokerError: if the payload is longer than ``wire.MAX_OCTETS``.

        """
        reply = self._check_respond(delivery, payload)
        if reply is None:
            return
        if not any(matches(pattern, reply) for pattern in self._answered):
            self._refuse("respond", f"answer under {reply}")
        answer = Delivery(reply, payload, headers or _NONE)
        self.counters.published += 1
        self._send(_kind(reply), partial(self._broker.respond, self, reply, answer))

    def append(
        self, subject: str, payload: bytes, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        """Send to the stream that keeps ``subject``; ``done`` gets None once it is kept."""
        self._check_publish(subject, payload)
        delivery = Delivery(subject, payload, _NONE)
        self.counters.published += 1
        self._send(_kind(subject), partial(self._append, delivery, message_id, done), done)

    def follow(
        self,
        stream: str,
        handler: StoredHandler,
        *,
        pattern: str | None = None,
        durable: str | None = None,
        new_only: bool = False,
        since_s: float | None = None,
        caught_up: CaughtUp | None = None,
    ) -> Subscription:
        """Read a stream in order and go on with what comes."""
        self._check_follow(stream)
        kept = self._broker.stream(self.identity.domain, stream)
        cursor = None if durable is None else (self.identity.name, durable)
        start = kept.last if new_only else kept.before(since_s)
        if cursor is not None:
            start = kept.cursors.setdefault(cursor, start)
        follower = MemoryFollower(kept, self, handler, pattern, cursor, start, caught_up)
        return kept.join(follower)

    def put(self, table: str, key: str, value: bytes) -> None:
        """Write a key of a table; the last value stays until it is dropped."""
        self._write(table, key, value)

    def drop(self, table: str, key: str) -> None:
        """Remove a key from a table."""
        self._write(table, key, None)

    def watch(
        self, table: str, handler: Watcher, *, caught_up: CaughtUp | None = None
    ) -> Subscription:
        """Tell ``handler`` of all keys of a table now, and of each change from then on."""
        self._check_watch(table)
        kept = self._broker.table(self.identity.domain, table)
        return kept.join(MemoryWatcher(kept, self, handler, self._broker.capacity, caught_up))

    def close(self) -> None:
        """End it; without effect the second time. What waits is shed if it is cut off."""
        if self._closed:
            return
        self._closed, self.connected = True, False
        for kind, _, give_up in self._waiting:
            self._shed(kind, give_up)
        self._waiting.clear()
        self._broker.ended(self, _CLOSED)

    # -- for the broker -----------------------------------------------------------------------

    def switch(self, *, connected: bool) -> None:
        """Cut or restore the connection."""
        if connected == self.connected:
            return
        self.connected = connected
        for handler in self._on_change:
            self._broker.clock.call_soon(partial(handler, connected))
        if connected:
            self.counters.reconnects += 1
            while self._waiting:
                self._waiting.popleft()[1]()
            self._broker.regained()

    def die(self) -> None:
        """End as a process that is killed: nothing is called or sent again."""
        self._closed, self.connected = True, False
        self._waiting.clear()
        self._broker.ended(self, None)

    # -- on the way out -----------------------------------------------------------------------

    def _send(
        self, kind: str, send: Callable[[], object], give_up: Callable[[str], None] | None = None
    ) -> None:
        """Send now, or when it is connected again; shed it if too much waits."""
        if self.connected:
            send()
        elif self._closed or len(self._waiting) >= self._broker.capacity:
            self._shed(kind, give_up)
        else:
            self._waiting.append((kind, send, give_up))

    def _shed(self, kind: str, give_up: Callable[[str], None] | None) -> None:
        self.counters.drop(f"out.{kind}")
        if give_up is not None:
            reason = _CLOSED if self._closed else "too much waits to be sent"
            self._broker.clock.call_soon(partial(give_up, reason))

    def _append(
        self, delivery: Delivery, message_id: str, done: Callable[[str | None], None]
    ) -> None:
        kept = self._broker.publish(self, delivery, message_id)
        reason = None if kept else f"no stream keeps {delivery.subject}"
        self._broker.clock.call_soon(partial(done, reason))

    def _write(self, table: str, key: str, value: bytes | None) -> None:
        self._check_put(table, key, value or b"")
        kept = self._broker.table(self.identity.domain, table)
        self._send(table, partial(kept.write, key, value))


def _kind(subject: str) -> str:
    return subject.split(".", 3)[2]


class MemorySubscription(Struct, eq=False):
    """One subscription; implements ``Subscription``."""

    broker: MemoryBroker
    member: MemoryClient
    pattern: str
    handler: Handler
    waiting: int = 0
    """Deliveries on their way to it."""
    closed: bool = False

    def close(self) -> None:
        """End the subscription; calling it again has no effect."""
        if not self.closed:
            self.closed = True
            self.broker.leave(self)


class _Asked(Struct, eq=False):
    """A request that waits for its answer."""

    member: MemoryClient
    answer: Answer
    timer: Timer


class MemoryBroker:
    """Carries octets between the clients that joined it, in an order that can be repeated.

    What is published arrives in the next turn of the clock, in the order it was published,
    unless a ``Passage`` says otherwise. Streams and tables are kept here and lose nothing.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        passage: Passage | None = None,
        capacity: int = 10_000,
        keep: int = 100_000,
    ) -> None:
        """Make a broker.

        Args:
            clock: makes all calls; what streams note as received is its time.
            passage: delays, loses or doubles what is published, asked and answered.
            capacity: deliveries that may wait for one subscription, and what a client that
                is not connected may keep to send.
            keep: entries of a stream; the oldest go first.

        Raises:
            ValueError: if ``capacity`` or ``keep`` is below 1.

        """
        if min(capacity, keep) < 1:
            raise ValueError(f"capacity is {capacity}, keep is {keep}, at least 1 is needed")
        self.clock = clock
        self.capacity = capacity
        self.lost = 0
        """What did not arrive: its receiver was not connected, or the passage took it."""
        self._keep = keep
        self._passage = passage
        self._members: dict[Identity, list[MemoryClient]] = {}
        self._hearings: list[MemorySubscription] = []
        self._routes: dict[str, tuple[MemorySubscription, ...]] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        self._tables: dict[tuple[str, str], Table] = {}
        self._asked: dict[str, _Asked] = {}
        self._requests = 0

    def join(self, identity: Identity, access: Access | None = None) -> MemoryClient:  # noqa: ARG002  # nothing is proven in one process
        """Return a client that speaks and hears for ``identity``, connected."""
        client = MemoryClient(self, identity)
        self._members.setdefault(identity, []).append(client)
        return client

    def lose(self, identity: Identity) -> None:
        """Cut the connection of an identity: it hears nothing, and what it sends waits."""
        for client in self._members.get(identity, ()):
            client.switch(connected=False)

    def regain(self, identity: Identity) -> None:
        """Mend what ``lose`` cut: what waited goes out, streams and tables catch up."""
        for client in self._members.get(identity, ()):
            client.switch(connected=True)

    def kill(self, identity: Identity) -> None:
        """End the clients of an identity as kill -9 does: nothing is called or sent again."""
        for client in tuple(self._members.get(identity, ())):
            client.die()

    # -- for the clients ------------------------------------------------------------------

    def regained(self) -> None:
        """Go on telling the clients that are connected again of streams and tables."""
        for kept in self._kept():
            kept.regained()

    def ended(self, client: MemoryClient, reason: str | None) -> None:
        """Forget a client; who waits for an answer gets the reason, if there is one."""
        self._members[client.identity].remove(client)
        for hearing in [one for one in self._hearings if one.member is client]:
            hearing.close()
        for kept in self._kept():
            kept.ended(client)
        for reply in [reply for reply, asked in self._asked.items() if asked.member is client]:
            asked = self._asked.pop(reply)
            asked.timer.cancel()
            if reason is not None:
                self.clock.call_soon(partial(asked.answer, Unanswered(Silence.CUT, reason)))

    def hear(self, member: MemoryClient, pattern: str, handler: Handler) -> MemorySubscription:
        """Let a client hear what matches a pattern."""
        hearing = MemorySubscription(self, member, pattern, handler)
        self._hearings.append(hearing)
        self._routes.clear()
        return hearing

    def leave(self, hearing: MemorySubscription) -> None:
        """Forget a subscription."""
        self._hearings.remove(hearing)
        self._routes.clear()

    def stream(self, domain: str, name: str) -> Stream:
        """Return a stream of a domain."""
        stream = self._streams.get((domain, name))
        if stream is None:
            stream = self._streams[domain, name] = Stream(self.clock, self._keep)
        return stream

    def table(self, domain: str, name: str) -> Table:
        """Return a table of a domain."""
        table = self._tables.get((domain, name))
        if table is None:
            table = self._tables[domain, name] = Table(self.clock)
        return table

    def publish(
        self,
        sender: MemoryClient,
        delivery: Delivery,
        message_id: str | None = None,
    ) -> bool:
        """Carry something to its subscribers; return whether a stream keeps it."""
        subject = delivery.subject
        kept = _KEPT.get(subject.split(".", 3)[2])
        if kept is not None:
            stream = self.stream(sender.identity.domain, kept)
            stream.keep(delivery, message_id)
        for hearing in self._route(subject):
            self._carry(sender, hearing, delivery)
        return kept is not None

    def request(
        self, sender: MemoryClient, delivery: Delivery, answer: Answer, timeout_s: float
    ) -> tuple[Callable[[], None], Callable[[str], None]]:
        """Remember who waits for an answer; return what sends the request and what ends it."""
        self._requests += 1
        assert delivery.reply is not None
        reply = delivery.reply.replace("*", str(self._requests))
        late = partial(self._give_up, reply, Silence.LATE, f"no answer within {timeout_s:g} s")
        timer = self.clock.call_at(self.clock.now() + timeout_s, late)
        self._asked[reply] = _Asked(sender, answer, timer)
        sent = Delivery(delivery.subject, delivery.payload, delivery.headers, reply)
        return partial(self._ask, sender, sent), partial(self._give_up, reply, Silence.CUT)

    def respond(self, sender: MemoryClient, reply: str, answer: Delivery) -> None:
        """Carry an answer to the client that waits for it, if it still does."""
        asked = self._asked.get(reply)
        if asked is None:
            return
        for delay in self._delays(sender, asked.member, reply):
            self._after(delay, partial(self._answer, reply, answer))

    def _kept(self) -> list[Stream | Table]:
        return [*self._streams.values(), *self._tables.values()]

    # -- on the way ---------------------------------------------------------------------------

    def _route(self, subject: str) -> tuple[MemorySubscription, ...]:
        route = self._routes.get(subject)
        if route is None:
            route = tuple(one for one in self._hearings if matches(one.pattern, subject))
            if len(self._routes) >= self.capacity:
                self._routes.clear()
            self._routes[subject] = route
        return route

    def _carry(self, sender: MemoryClient, hearing: MemorySubscription, delivery: Delivery) -> None:
        for delay in self._delays(sender, hearing.member, delivery.subject):
            if hearing.waiting >= self.capacity:
                hearing.member.counters.drop(hearing.pattern)
                continue
            hearing.waiting += 1
            self._after(delay, partial(self._hand, hearing, delivery))

    def _delays(self, sender: MemoryClient, receiver: MemoryClient, subject: str) -> list[float]:
        """Return when copies arrive; count it as lost if none does."""
        delays = [0.0]
        if not receiver.connected:
            delays = []
        elif self._passage is not None:
            delays = list(self._passage(sender.identity, receiver.identity, subject))
        self.lost += not delays
        return delays

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        if delay > 0:
            self.clock.call_at(self.clock.now() + delay, call)
        else:
            self.clock.call_soon(call)

    def _hand(self, hearing: MemorySubscription, delivery: Delivery) -> None:
        hearing.waiting -= 1
        if hearing.closed or not hearing.member.connected:
            self.lost += 1
            return
        hearing.member.counters.delivered += 1
        hearing.handler(delivery)

    def _ask(self, sender: MemoryClient, delivery: Delivery) -> None:
        assert delivery.reply is not None
        if delivery.reply not in self._asked:
            return  # it was over before the sender was connected again
        route = self._route(delivery.subject)
        if not any(hearing.member.connected for hearing in route):
            reason = "no process serves it"
            self.clock.call_soon(partial(self._give_up, delivery.reply, Silence.UNSERVED, reason))
        for hearing in route:
            self._carry(sender, hearing, delivery)

    def _answer(self, reply: str, answer: Delivery) -> None:
        asked = self._asked.get(reply)
        if asked is None:
            return
        if not asked.member.connected:
            self.lost += 1
            return
        del self._asked[reply]
        asked.timer.cancel()
        asked.member.counters.delivered += 1
        asked.answer(answer)

    def _give_up(self, reply: str, why: Silence, reason: str) -> None:
        asked = self._asked.pop(reply, None)
        if asked is not None:
            asked.timer.cancel()
            asked.answer(Unanswered(why, reason))


class _Entry(Struct, frozen=True):
    """An entry of a stream."""

    sequence: int
    delivery: Delivery
    received: float


class _Reading:
    """What a follower and a watcher have in common: they are told one thing in each turn."""

    def __init__(self, kept: _Kept, member: MemoryClient, caught_up: CaughtUp | None) -> None:
        self._kept = kept
        self.member = member
        """What it is told waits while this client is not connected."""
        self._caught_up = caught_up
        self._armed = False
        self._closed = False

    def close(self) -> None:
        """End it; without effect the second time."""
        self._closed = True
        self._kept.leave(self)

    def go_on(self) -> None:
        """Tell of the next thing soon, if there is one and it may be told of."""
        if self._closed or not self.member.connected:
            return
        if not self._armed and self._ready():
            self._armed = True
            self._kept.clock.call_soon(self._step)
        if self._caught_up is not None and self._present():
            self._kept.clock.call_soon(partial(self._say, self._caught_up))
            self._caught_up = None

    def _step(self) -> None:
        self._armed = False
        if not self._closed and self.member.connected and self._ready():
            self._tell()

    def _say(self, caught_up: CaughtUp) -> None:
        if not self._closed:
            caught_up()

    def _ready(self) -> bool:
        """Whether there is something that may be told now."""
        raise NotImplementedError

    def _present(self) -> bool:
        """Whether all that was there at the beginning has been told."""
        raise NotImplementedError

    def _tell(self) -> None:
        """Tell of the next thing."""
        raise NotImplementedError


class _Kept:
    """What the broker keeps, and who reads it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._readings: list[_Reading] = []

    def join(self, reading: _Reading) -> _Reading:
        """Begin to tell a reading."""
        self._readings.append(reading)
        reading.go_on()
        return reading

    def leave(self, reading: _Reading) -> None:
        """Tell a reading nothing more."""
        if reading in self._readings:
            self._readings.remove(reading)

    def regained(self) -> None:
        """Go on with the readings that can be told something again."""
        for reading in self._readings:
            reading.go_on()

    def ended(self, member: MemoryClient) -> None:
        """Tell a client nothing more."""
        for reading in [one for one in self._readings if one.member is member]:
            reading.close()


class Stream(_Kept):
    """Keeps what it is given, in order; the oldest goes when there is too much."""

    def __init__(self, clock: Clock, capacity: int) -> None:
        super().__init__(clock)
        self.cursors: dict[tuple[str, str], int] = {}
        """Up to where each durable follower has acknowledged, by (identity, name)."""
        self.last = 0
        """Sequence of the newest entry."""
        self._capacity = capacity
        self._entries: deque[_Entry] = deque()
        self._known: dict[str, float] = {}

    def keep(self, delivery: Delivery, message_id: str | None) -> None:
        """Keep an entry, unless the same message id was kept less than ``WINDOW_S`` ago."""
        now = self.clock.now()
        if message_id is not None:
            known = self._known
            while known and next(iter(known.values())) <= now - WINDOW_S:
                del known[next(iter(known))]
            if message_id in known:
                return
            known[message_id] = now
        self.last += 1
        self._entries.append(_Entry(self.last, delivery, now))
        if len(self._entries) > self._capacity:
            self._entries.popleft()
        self.regained()

    def before(self, since_s: float | None) -> int:
        """Return the sequence behind which everything was kept in the last ``since_s``."""
        if since_s is None:
            return 0
        begin = self.clock.now() - since_s
        return next((e.sequence - 1 for e in self._entries if e.received >= begin), self.last)

    def after(self, sequence: int) -> _Entry | None:
        """Return the first entry behind ``sequence``, None if there is none."""
        if sequence >= self.last or not self._entries:
            return None
        return self._entries[max(0, sequence + 1 - self._entries[0].sequence)]


class MemoryFollower(_Reading):
    """One follower of a stream; implements ``Subscription``."""

    def __init__(
        self,
        stream: Stream,
        member: MemoryClient,
        handler: StoredHandler,
        pattern: str | None,
        cursor: tuple[str, str] | None,
        start: int,
        caught_up: CaughtUp | None,
    ) -> None:
        super().__init__(stream, member, caught_up)
        self._stream = stream
        self._handler = handler
        self._pattern = pattern
        self._cursor = cursor
        self._place = start
        self._last = stream.last
        self._next: _Entry | None = None
        self._open: deque[int] = deque()
        """Sequences told and not acknowledged in one piece from the front."""
        self._acknowledged: set[int] = set()

    def _ready(self) -> bool:
        """Find what is to be told next; pass over what the pattern does not cover."""
        if len(self._open) >= AHEAD:
            return False
        while (entry := self._stream.after(self._place)) is not None:
            if self._pattern is None or matches(self._pattern, entry.delivery.subject):
                break
            self._place = entry.sequence
        self._next = entry
        return entry is not None

    def _present(self) -> bool:
        return self._place >= self._last

    def _tell(self) -> None:
        entry = self._next
        assert entry is not None
        self._place = entry.sequence
        self._open.append(entry.sequence)
        self.go_on()
        sequence, kept = entry.sequence, entry.delivery
        acknowledge = partial(self._acknowledge, sequence)
        self._handler(
            Stored(sequence, kept.subject, kept.payload, kept.headers, entry.received, acknowledge)
        )

    def _acknowledge(self, sequence: int) -> None:
        if self._closed or not self._open or sequence < self._open[0]:
            return
        self._acknowledged.add(sequence)
        while self._open and self._open[0] in self._acknowledged:
            done = self._open.popleft()
            self._acknowledged.discard(done)
            if self._cursor is not None:
                self._stream.cursors[self._cursor] = done
        self.go_on()


class Table(_Kept):
    """Keys and their last values, each with the number of the change that wrote it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.revision = 0
        """How many changes there were."""
        self._entries: dict[str, tuple[int, bytes | None]] = {}

    def write(self, key: str, value: bytes | None) -> None:
        """Write a key; None drops it."""
        if value is None and self._entries.get(key, (0, None))[1] is None:
            return
        self.revision += 1
        self._entries[key] = self.revision, value
        for watcher in self._readings:
            assert isinstance(watcher, MemoryWatcher)
            watcher.changed(self.revision, key, value)

    def since(self, revision: int) -> list[tuple[int, str, bytes | None]]:
        """Return what was written last after ``revision``, in order."""
        return sorted(
            (changed, key, value)
            for key, (changed, value) in self._entries.items()
            if changed > revision
        )


class MemoryWatcher(_Reading):
    """One watcher of a table; implements ``Subscription``.

    It is told of each change while it keeps up, else of the last one of each key.
    """

    def __init__(
        self,
        table: Table,
        member: MemoryClient,
        handler: Watcher,
        capacity: int,
        caught_up: CaughtUp | None,
    ) -> None:
        super().__init__(table, member, caught_up)
        self._table = table
        self._handler = handler
        self._capacity = capacity
        self._seen = table.revision
        self._queue: deque[tuple[str, bytes | None]] = deque(
            (key, value) for _, key, value in table.since(0) if value is not None
        )
        self._left = len(self._queue)
        """How many of the keys that were there have not been told."""

    def changed(self, revision: int, key: str, value: bytes | None) -> None:
        """Take note of a change, at once if it is the next one and there is room."""
        if self._seen == revision - 1 and len(self._queue) < self._capacity:
            self._seen = revision
            self._queue.append((key, value))
        self.go_on()

    def _ready(self) -> bool:
        if not self._queue:
            for revision, key, value in self._table.since(self._seen):
                self._seen = revision
                self._queue.append((key, value))
        return bool(self._queue)

    def _present(self) -> bool:
        return not self._left

    def _tell(self) -> None:
        key, value = self._queue.popleft()
        self._left = max(0, self._left - 1)
        self.go_on()
        self._handler(key, value)


def open_memory(url: str, clock: Clock) -> MemoryBroker:
    """Return a new broker in memory: the transport ``memory:``.

    Raises:
        BrokerError: if there is more in the URL than its scheme.

    """
    if url != "memory:":
        raise BrokerError(f"{url!r} has a broker in memory say where; 'memory:' is all of its URL")
    return MemoryBroker(clock)
