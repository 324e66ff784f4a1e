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
    CallRefused,
    CallReply,
    CallTimedOut,
    OperationUnknown,
    encode_reply,
    shorten,
    timeout_of,
)
from phalanx.fabric.envelope import Envelope, EnvelopeError, from_headers, source
from phalanx.fabric.operations import Operation
from phalanx.identity.names import Identity, Role

LIMIT = 32
"""Calls that run at the same time, for each provider."""
KEPT = 1024
KEPT_OCTETS = 8 << 20
KEPT_S = 600.0
"""Answers that are kept for callers who ask again: how many, how long they are, for how long."""
WAITING = 16
"""Requests of the same key that wait for one call."""
RETRY_S = 1.0

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
        cause = envelope.extensions.get("cause")
        self.cause = cause if isinstance(cause, str) else None
        """Id of the event that led to the call, as the caller says."""
        self._finish = finish

    def done(self, answer: A) -> None:
        """Answer; without effect the second time."""
        self._finish(CallDone(Raw(msgspec.json.encode(answer))))

    def fail(self, reason: str) -> None:
        """Say that the operation failed, and why; without effect the second time."""
        self._finish(CallFailed(shorten(reason)))


class _Running:
    """A call that is not answered yet, and who waits for it."""

    __slots__ = ("digest", "keep", "timer", "waiting")

    def __init__(self, digest: bytes, keep: bool, waiting: Delivery) -> None:
        self.digest = digest
        self.keep = keep
        self.waiting: list[Delivery] = [waiting]
        self.timer: Timer | None = None


class _Kept(Struct, frozen=True):
    """What a call came to."""

    digest: bytes
    octets: bytes
    until: float


_Key = tuple[Identity, str, str]
_Handler = Callable[[Call[Any, Any]], None]


class Provider:
    """Serves operations of one identity, to whom ``check`` lets in.

    Args:
        exchange: of the provider.
        clock: makes the deadlines.
        check: whether a caller may invoke an operation.
        on_refused: told of each call that is refused or forged, for the audit.
        limit: calls that may run at the same time; more are answered ``CallBusy``.

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
        limit: int = LIMIT,
    ) -> None:
        self.outcomes: dict[str, int] = {}
        """Calls answered, by the name of what they were answered with, and ``Again``."""
        self._exchange = exchange
        self._clock = clock
        self._check = check
        self._on_refused = on_refused
        self._limit = limit
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
            envelope = from_headers(delivery.headers, delivery.payload)
            timeout_s = timeout_of(envelope)
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
        self._begin(delivery, operation, handler, caller, envelope, timeout_s)

    def _begin(
        self,
        delivery: Delivery,
        operation: Operation[Any, Any],
        handler: _Handler,
        caller: Identity,
        envelope: Envelope,
        timeout_s: float,
    ) -> None:
        key = (caller, operation.name, envelope.id)
        digest = blake2b(delivery.payload, digest_size=16).digest()
        if self._again(delivery, key, digest):
            return
        if len(self._running) >= self._limit:
            self._reply(delivery, CallBusy(f"{self._limit} calls run already", RETRY_S))
            return
        try:
            request = msgspec.json.decode(delivery.payload, type=operation.request)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._reply(delivery, CallFailed(shorten(f"no request of {operation.name!r}: {error}")))
            return
        running = self._running[key] = _Running(digest, operation.changes, delivery)
        deadline = self._clock.now() + timeout_s
        running.timer = self._clock.call_at(deadline, partial(self._late, running))
        call = Call(operation, caller, request, envelope, partial(self._finish, key, running))
        try:
            handler(call)
        except PhalanxError as error:
            call.fail(str(error))
        except BaseException:
            call.fail(f"a defect in {operation.name!r}; the provider's own log has it")
            raise

    def _again(self, delivery: Delivery, key: _Key, digest: bytes) -> bool:
        """Join a call of the same key that runs, or answer with what it came to."""
        while self._kept and next(iter(self._kept.values())).until <= self._clock.now():
            self._forget()
        known: _Running | _Kept | None = self._running.get(key) or self._kept.get(key)
        if known is None:
            return False
        if known.digest != digest:
            self._reply(delivery, CallFailed(f"key {key[2][:64]!r} is that of another request"))
        elif isinstance(known, _Running):
            if len(known.waiting) >= WAITING:
                self._reply(delivery, CallBusy(f"{WAITING} requests wait for this call", RETRY_S))
            else:
                self._count("Again")
                known.waiting.append(delivery)
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
        if self._on_refused is not None:
            rule = reply.rule if isinstance(reply, CallRefused) else None
            me = self._exchange.identity.name
            self._on_refused(AccessRefusal(who, what, me, reply.reason, rule))

    def _reply(self, delivery: Delivery, reply: CallReply) -> None:
        self._count(type(reply).__name__)
        self._exchange.respond(delivery, encode_reply(reply))

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
