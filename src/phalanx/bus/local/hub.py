"""Where the exchanges of one process meet: it does what a broker does over a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from phalanx.bus.exchange import Answer, Delivery, Handler, Silence, Unanswered
from phalanx.bus.local.exchange import LocalExchange
from phalanx.bus.local.streams import Stream
from phalanx.bus.local.tables import Table
from phalanx.bus.subjects import EVENTS, matches
from phalanx.clock import Clock, Timer
from phalanx.identity.names import Identity

Passage = Callable[[Identity, Identity, str], Sequence[float]]
"""What becomes of something on its way from one identity to another under a subject: after how
many seconds each copy of it arrives. ``(0.0,)``: at once; none: it is lost; two: it is doubled."""

_KEPT = {"evt": EVENTS}
"""Which stream keeps which kind of subject."""


class Hearing:
    """One subscription; implements ``Subscription``."""

    __slots__ = ("_hub", "closed", "handler", "member", "pattern", "waiting")

    def __init__(
        self, hub: LocalHub, member: LocalExchange, pattern: str, handler: Handler
    ) -> None:
        self._hub = hub
        self.member = member
        self.pattern = pattern
        self.handler = handler
        self.waiting = 0
        """Deliveries on their way to it."""
        self.closed = False

    def close(self) -> None:
        """Hear no more; without effect the second time."""
        if not self.closed:
            self.closed = True
            self._hub.leave(self)


class _Asked:
    """A request that waits for its answer."""

    __slots__ = ("answer", "member", "timer")

    def __init__(self, member: LocalExchange, answer: Answer, timer: Timer) -> None:
        self.member = member
        self.answer = answer
        self.timer = timer


class LocalHub:
    """Carries octets between the exchanges that joined it, in an order that can be repeated.

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
        """Make a hub.

        Args:
            clock: makes all calls; what streams note as received is its time.
            passage: delays, loses or doubles what is published, asked and answered.
            capacity: deliveries that may wait for one subscription, and what an exchange that
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
        self._members: dict[Identity, list[LocalExchange]] = {}
        self._hearings: list[Hearing] = []
        self._routes: dict[str, tuple[Hearing, ...]] = {}
        self._streams: dict[tuple[str, str], Stream] = {}
        self._tables: dict[tuple[str, str], Table] = {}
        self._asked: dict[str, _Asked] = {}
        self._requests = 0

    def join(self, identity: Identity) -> LocalExchange:
        """Return an exchange that speaks and hears for ``identity``, connected."""
        exchange = LocalExchange(self, identity)
        self._members.setdefault(identity, []).append(exchange)
        return exchange

    def lose(self, identity: Identity) -> None:
        """Cut the connection of an identity: it hears nothing, and what it sends waits."""
        for exchange in self._members.get(identity, ()):
            exchange.switch(connected=False)

    def regain(self, identity: Identity) -> None:
        """Mend what ``lose`` cut: what waited goes out, streams and tables catch up."""
        for exchange in self._members.get(identity, ()):
            exchange.switch(connected=True)

    def kill(self, identity: Identity) -> None:
        """End the exchanges of an identity as kill -9 does: nothing is called or sent again."""
        for exchange in tuple(self._members.get(identity, ())):
            exchange.die()

    # -- for the exchanges ------------------------------------------------------------------

    def regained(self) -> None:
        """Go on telling the exchanges that are connected again of streams and tables."""
        for kept in self._kept():
            kept.regained()

    def ended(self, exchange: LocalExchange, reason: str | None) -> None:
        """Forget an exchange; who waits for an answer gets the reason, if there is one."""
        self._members[exchange.identity].remove(exchange)
        for hearing in [one for one in self._hearings if one.member is exchange]:
            hearing.close()
        for kept in self._kept():
            kept.ended(exchange)
        for reply in [reply for reply, asked in self._asked.items() if asked.member is exchange]:
            asked = self._asked.pop(reply)
            asked.timer.cancel()
            if reason is not None:
                self.clock.call_soon(partial(asked.answer, Unanswered(Silence.CUT, reason)))

    def hear(self, member: LocalExchange, pattern: str, handler: Handler) -> Hearing:
        """Let an exchange hear what matches a pattern."""
        hearing = Hearing(self, member, pattern, handler)
        self._hearings.append(hearing)
        self._routes.clear()
        return hearing

    def leave(self, hearing: Hearing) -> None:
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
            table = self._tables[domain, name] = Table(self.clock, self.capacity)
        return table

    def publish(
        self,
        sender: LocalExchange,
        delivery: Delivery,
        message_id: str | None = None,
    ) -> bool:
        """Carry something to whoever hears it; return whether a stream keeps it."""
        subject = delivery.subject
        kept = _KEPT.get(subject.split(".", 3)[2])
        if kept is not None:
            stream = self.stream(sender.identity.domain, kept)
            stream.keep(subject, delivery.payload, delivery.headers, message_id)
        for hearing in self._route(subject):
            self._carry(sender, hearing, delivery)
        return kept is not None

    def request(
        self, sender: LocalExchange, delivery: Delivery, answer: Answer, timeout_s: float
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

    def respond(self, sender: LocalExchange, reply: str, answer: Delivery) -> None:
        """Carry an answer to who waits for it, if somebody does."""
        asked = self._asked.get(reply)
        if asked is None:
            return
        for delay in self._delays(sender, asked.member, reply):
            self._after(delay, partial(self._answer, reply, answer))

    def _kept(self) -> list[Stream | Table]:
        return [*self._streams.values(), *self._tables.values()]

    # -- on the way ---------------------------------------------------------------------------

    def _route(self, subject: str) -> tuple[Hearing, ...]:
        route = self._routes.get(subject)
        if route is None:
            route = tuple(one for one in self._hearings if matches(one.pattern, subject))
            if len(self._routes) >= self.capacity:
                self._routes.clear()
            self._routes[subject] = route
        return route

    def _carry(self, sender: LocalExchange, hearing: Hearing, delivery: Delivery) -> None:
        for delay in self._delays(sender, hearing.member, delivery.subject):
            if hearing.waiting >= self.capacity:
                hearing.member.shed(hearing.pattern)
                continue
            hearing.waiting += 1
            self._after(delay, partial(self._hand, hearing, delivery))

    def _delays(self, sender: LocalExchange, receiver: LocalExchange, subject: str) -> list[float]:
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

    def _hand(self, hearing: Hearing, delivery: Delivery) -> None:
        hearing.waiting -= 1
        if hearing.closed or not hearing.member.connected:
            self.lost += 1
            return
        hearing.member.counters.delivered += 1
        hearing.handler(delivery)

    def _ask(self, sender: LocalExchange, delivery: Delivery) -> None:
        assert delivery.reply is not None
        if delivery.reply not in self._asked:
            return  # it was over before the sender was connected again
        route = self._route(delivery.subject)
        if not any(hearing.member.connected for hearing in route):
            nobody = "nobody serves it now"
            self.clock.call_soon(partial(self._give_up, delivery.reply, Silence.UNSERVED, nobody))
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
