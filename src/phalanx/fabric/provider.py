"""Invocation: a provider that serves operations, and a client that invokes them.

A call is made at most once for each of its keys: the same key of the same caller joins the call
that runs, or is answered with what it came to. So a caller that heard nothing asks again
without doing it twice. What is kept for that is bounded, in number, octets and time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Delivery
from phalanx.bus.wire import MAX_OCTETS
from phalanx.clock import Clock, Timer
from phalanx.domain.errors import PhalanxError
from phalanx.fabric.access import AccessDecision
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.calls import (
    CallBusy,
    CallDone,
    CallFailed,
    CallOrder,
    CallRefused,
    CallReply,
    CallTimedOut,
    OperationUnknown,
    ProviderRestarted,
    encode_reply,
    order_of,
    shorten,
)
from phalanx.fabric.envelope import Envelope, EnvelopeError, from_headers, source
from phalanx.fabric.operations import Operation
from phalanx.identity.names import Identity, Role

LIMIT = 32
"""Calls that run at the same time, for each provider."""
KEPT = 4096
KEPT_OCTETS = 32 << 20
KEPT_S = 600.0
"""Answers that are kept for callers who ask again: how many, how long they are, for how long."""
WAITING = 16
"""Requests of the same key that wait for one call."""
RETRY_S = 1.0
AHEAD = 256
"""Ordered calls that are kept until their turn comes, for each caller and operation."""
ORDERED_LIMIT = 1000
"""Ordered calls that run at the same time, for each caller and operation."""
OUTDATED = "a later incarnation of the caller calls now"

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)
Check = Callable[[Identity, Operation[Any, Any]], AccessDecision]
"""Whether a caller may invoke an operation; ``access.Gate.check`` is one."""


class Call(Generic[Q, A]):
    """A call that runs; the handler answers it once, now or later."""

    __slots__ = ("_finish", "caller", "cause", "key", "operation", "request")

    def __init__(
        self,
        operation: Operation[Q, A],
        caller: Identity,
        request: Q,
        envelope: Envelope,
        finish: Callable[[CallReply], None],
    ) -> None:
        self.operation = operation
        self.caller = caller
        """Who calls, with its role; authenticated."""
        self.request = request
        self.key = envelope.id
        self.cause = envelope.cause
        """Id of the event that led to the call, as the caller says."""
        self._finish = finish

    def done(self, answer: A) -> None:
        """Answer; without effect the second time."""
        self._finish(CallDone(Raw(msgspec.json.encode(answer))))

    def refuse(self, reason: str) -> None:
        """Say that the caller may not; without effect the second time."""
        self._finish(CallRefused(shorten(reason)))

    def fail(self, reason: str) -> None:
        """Say that the operation failed, and why; without effect the second time."""
        self._finish(CallFailed(shorten(reason)))


_Key = tuple[Identity, str, str]
_Handler = Callable[[Call[Any, Any]], None]


class _Running:
    """A call that is not answered yet, and who waits for it."""

    __slots__ = ("digest", "keep", "session", "timer", "until", "waiting")

    def __init__(self, digest: bytes, keep: bool, waiting: Delivery, session: _Session | None):
        self.digest = digest
        self.keep = keep
        self.session = session
        self.waiting: list[Delivery] = [waiting]
        self.timer: Timer | None = None
        self.until = 0.0
        """When those that wait are told that it still runs."""


class _Arrival(Struct, frozen=True):
    """A call that may be made, before its turn."""

    delivery: Delivery
    operation: Operation[Any, Any]
    handler: _Handler
    caller: Identity
    envelope: Envelope
    timeout_s: float

    @property
    def key(self) -> _Key:
        return self.caller, self.operation.name, self.envelope.id


class _Session:
    """The ordered calls of one operation that one incarnation of a caller makes."""

    __slots__ = ("early", "incarnation", "next", "running")

    def __init__(self, incarnation: int, first: int) -> None:
        self.incarnation = incarnation
        self.next = first
        """Number of the call to be begun next; all lower ones were begun, or given up."""
        self.early: dict[int, _Arrival] = {}
        """Calls that wait for their turn, the latest request of each."""
        self.running = 0

    def skip(self, low_water: int) -> None:
        """Begin nothing below ``low_water`` any more."""
        if low_water > self.next:
            self.next = low_water
            self.early = {n: arrival for n, arrival in self.early.items() if n >= low_water}


class _Kept(Struct, frozen=True):
    """What a call came to."""

    digest: bytes
    octets: bytes
    until: float


class Provider:
    """Serves operations of one identity to the callers that ``check`` allows.

    Args:
        exchange: of the provider.
        clock: makes the deadlines.
        check: whether a caller may invoke an operation.
        on_refused: told of each call that is refused or forged, for the audit.
        incarnation: of the provider: how often it was started, or 1 where it is never
            restarted within the life of what it changes.
        limit: calls that may run at the same time; more are answered ``CallBusy``. Ordered
            calls are not among them.

    Raises:
        NotPermittedError: if the identity may not be called.

    """

    def __init__(
        self,
        exchange: BrokerClient,
        clock: Clock,
        check: Check,
        *,
        on_refused: Callable[[AccessRefusal], None] | None = None,
        incarnation: int = 1,
        limit: int = LIMIT,
    ) -> None:
        self.outcomes: dict[str, int] = {}
        """Calls answered, by the name of what they were answered with, and ``Again``."""
        self._exchange = exchange
        self._clock = clock
        self._check = check
        self._on_refused = on_refused
        self._incarnation = incarnation
        self._limit = limit
        self._sessions: dict[tuple[Identity, str], _Session] = {}
        self._unordered = 0
        self._served: dict[str, tuple[Operation[Any, Any], _Handler]] = {}
        self._running: dict[_Key, _Running] = {}
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._kept_octets = 0
        me = exchange.identity
        self._subscription = exchange.subscribe(subjects.calls(me.domain, me.name), self._arrived)

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of what is served, sorted; for the registration."""
        return tuple(sorted(self._served))

    @property
    def running(self) -> int:
        """Calls that are not answered yet."""
        return len(self._running)

    def serve(self, operation: Operation[Q, A], handler: Callable[[Call[Q, A]], None]) -> None:
        """Let ``handler`` answer calls of ``operation``.

        A ``PhalanxError`` that it raises is an answer ``CallFailed`` with its text. Any other
        exception is a defect: the caller is told that there is one, and it goes up to the clock.

        Raises:
            ValueError: if the operation is served already.

        """
        if operation.name in self._served:
            raise ValueError(f"operation {operation.name!r} is served already")
        self._served[operation.name] = (operation, handler)

    def close(self) -> None:
        """Serve no more; who waits is not answered. Without effect the second time."""
        self._subscription.close()
        for running in self._running.values():
            if running.timer is not None:
                running.timer.cancel()
            running.waiting.clear()

    def _arrived(self, delivery: Delivery) -> None:
        domain = self._exchange.identity.domain
        who, name = subjects.speaker(delivery.subject) or "", "?"
        try:
            _, name, role, _ = subjects.call_parts(delivery.subject)
            caller = Identity(who, Role(role), domain)
            envelope = from_headers(delivery.headers)
            order = order_of(envelope)
            if envelope.timeout_ms is None:
                raise EnvelopeError("timeoutms is missing")
        except (EnvelopeError, ValueError) as error:
            self._refuse(delivery, who, name, CallFailed(shorten(f"no call: {error}")))
            return
        if envelope.source != source(domain, who):
            why = f"its source is {envelope.source!r}, but {who!r} sent it"
            self._refuse(delivery, who, name, CallRefused(shorten(why)))
            return
        if name not in self._served:
            known = ", ".join(self.operations) or "none"
            self._reply(
                delivery, OperationUnknown(shorten(f"no operation {name!r}; there is {known}"))
            )
            return
        operation, handler = self._served[name]
        decision = self._check(caller, operation)
        if not decision.allowed:
            self._refuse(delivery, who, name, CallRefused(decision.reason, decision.rule))
            return
        if envelope.type != f"phalanx.call.{name}":
            self._refuse(delivery, who, name, CallFailed(f"its type is not phalanx.call.{name}"))
            return
        arrival = _Arrival(
            delivery, operation, handler, caller, envelope, envelope.timeout_ms / 1000
        )
        if order is not None:
            self._take_turn(arrival, order)
        elif not self._again(arrival):
            if self._unordered < self._limit:
                self._begin(arrival, None)
            else:
                self._reply(delivery, CallBusy(f"{self._limit} calls run already", RETRY_S))

    def _take_turn(self, arrival: _Arrival, order: CallOrder) -> None:
        """Begin an ordered call once all before it were begun, and those that waited for it."""
        delivery, name, caller = arrival.delivery, arrival.operation.name, arrival.caller
        if order.provider != self._incarnation:
            self._reply(delivery, ProviderRestarted(self._incarnation))
            return
        session = self._sessions.get((caller, name))
        if session is not None and order.incarnation < session.incarnation:
            self._refuse(delivery, caller.name, name, CallRefused(OUTDATED))
            return
        if session is None or order.incarnation > session.incarnation:
            session = self._sessions[caller, name] = _Session(order.incarnation, order.low_water)
        session.skip(order.low_water)
        if order.sequence < session.next:
            if not self._again(arrival):
                self._reply(delivery, CallFailed("it was given up, or its answer is kept no more"))
        elif order.sequence >= session.next + AHEAD:
            self._reply(delivery, CallBusy("calls before it were not received yet", RETRY_S))
        else:
            session.early[order.sequence] = arrival
        while (due := session.early.pop(session.next, None)) is not None:
            session.next += 1
            if session.running < ORDERED_LIMIT:
                self._begin(due, session)
            else:
                self._reply(due.delivery, CallFailed(f"{ORDERED_LIMIT} calls run already"))

    def _begin(self, arrival: _Arrival, session: _Session | None) -> None:
        delivery, operation, envelope = arrival.delivery, arrival.operation, arrival.envelope
        key = arrival.key
        try:
            request = msgspec.json.decode(delivery.payload, type=operation.request)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._reply(delivery, CallFailed(shorten(f"no request of {operation.name!r}: {error}")))
            return
        running = _Running(_digest(delivery), operation.changes, delivery, session)
        self._running[key] = running
        if session is None:
            self._unordered += 1
        else:
            session.running += 1
        self._wait(running, arrival.timeout_s)
        finish = partial(self._finish, key, running)
        call = Call(operation, arrival.caller, request, envelope, finish)
        try:
            arrival.handler(call)
        except PhalanxError as error:
            call.fail(str(error))
        except BaseException:
            call.fail(f"a defect in {operation.name!r}; the provider's own log has it")
            raise

    def _wait(self, running: _Running, timeout_s: float) -> None:
        """Tell those that wait that it still runs, after the longest time that any waits."""
        until = self._clock.now() + timeout_s
        if until > running.until:
            if running.timer is not None:
                running.timer.cancel()
            running.until = until
            running.timer = self._clock.call_at(until, partial(self._late, running))

    def _again(self, arrival: _Arrival) -> bool:
        """Join a call of the same key that runs, or answer with what it came to."""
        while self._kept and next(iter(self._kept.values())).until <= self._clock.now():
            self._forget()
        key, delivery = arrival.key, arrival.delivery
        known: _Running | _Kept | None = self._running.get(key) or self._kept.get(key)
        if known is None:
            return False
        if known.digest != _digest(delivery):
            self._reply(delivery, CallFailed(f"key {key[2][:64]!r} is that of another request"))
        elif isinstance(known, _Running):
            if len(known.waiting) >= WAITING:
                self._reply(delivery, CallBusy(f"{WAITING} requests wait for this call", RETRY_S))
            else:
                self._count("Again")
                known.waiting.append(delivery)
                self._wait(known, arrival.timeout_s)
        else:
            self._count("Again")
            self._exchange.respond(delivery, known.octets)
        return True

    def _late(self, running: _Running) -> None:
        """Tell who waits that it takes too long; the call goes on, for who asks again."""
        for delivery in running.waiting:
            self._reply(delivery, CallTimedOut("it still runs"))
        running.waiting.clear()

    def _finish(self, key: _Key, running: _Running, reply: CallReply) -> None:
        if self._running.get(key) is not running:
            return
        del self._running[key]
        if running.timer is not None:
            running.timer.cancel()
        if running.session is None:
            self._unordered -= 1
        else:
            running.session.running -= 1
        if isinstance(reply, CallRefused):
            self._audit(key[0].name, key[1], reply)
        octets = encode_reply(reply)
        if len(octets) > MAX_OCTETS:
            reply = CallFailed(
                f"the answer has {len(octets)} octets, at most {MAX_OCTETS} can travel"
            )
            octets = encode_reply(reply)
        self._count(type(reply).__name__)
        for delivery in running.waiting:
            self._exchange.respond(delivery, octets)
        if running.keep:
            self._kept[key] = _Kept(running.digest, octets, self._clock.now() + KEPT_S)
            self._kept_octets += len(octets)
            while len(self._kept) > KEPT or self._kept_octets > KEPT_OCTETS:
                self._forget()

    def _forget(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self._kept_octets -= len(kept.octets)

    def _refuse(
        self, delivery: Delivery, who: str, what: str, reply: CallRefused | CallFailed
    ) -> None:
        self._reply(delivery, reply)
        self._audit(who, what, reply)

    def _audit(self, who: str, what: str, reply: CallRefused | CallFailed) -> None:
        if self._on_refused is not None:
            rule = reply.rule if isinstance(reply, CallRefused) else None
            me = self._exchange.identity.name
            self._on_refused(AccessRefusal(who, what, me, reply.reason, rule))

    def _reply(self, delivery: Delivery, reply: CallReply) -> None:
        self._count(type(reply).__name__)
        self._exchange.respond(delivery, encode_reply(reply))

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def _digest(delivery: Delivery) -> bytes:
    return blake2b(delivery.payload, digest_size=16).digest()
