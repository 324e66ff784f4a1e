"""Calls: what an invocation is answered with, how both travel, and the caller's side of them.

A request is a CloudEvent in binary mode: its id is the idempotency key, its data the request.
An answer is one JSON object, told apart by its ``type``. No traceback ever travels.

``CallClient`` makes calls one by one. ``OrderedCalls`` makes calls that are carried out once
each, in the order made: a call is sent again until it is answered; the provider knows it by its
sequence number and the incarnations of both sides (``CallOrder``), and answers a repetition with
the first answer. Numbers of calls that were given up lie below the low-water mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import asdict

from phalanx.bus import subjects
from phalanx.bus.client import (
    BrokerClient,
    BrokerError,
    Delivery,
    NotPermittedError,
    Silence,
    Unanswered,
)
from phalanx.clock import Clock, Timer
from phalanx.fabric.envelope import JSON, LONGEST_S, Envelope, EnvelopeError, source, to_headers
from phalanx.fabric.operations import Operation

_SHOWN = 300
SILENT = "the provider does not answer"
_SHARE = 0.6
"""Of the time until a repetition, how long the provider may take to answer that a call runs."""


class OperationUnknown(Struct, frozen=True, tag=True):
    """The provider has no such operation."""

    reason: str


class CallRefused(Struct, frozen=True, tag=True):
    """The caller may not."""

    reason: str
    rule: str | None = None


class CallBusy(Struct, frozen=True, tag=True):
    """The provider does enough already; nothing was done."""

    reason: str
    retry_after_s: float


class CallFailed(Struct, frozen=True, tag=True):
    """The request is not usable, or the operation failed, for this reason."""

    reason: str


class CallTimedOut(Struct, frozen=True, tag=True):
    """No answer came in time, or nobody can be reached; whether it was done is not known."""

    reason: str
    unserved: bool = False
    """Nobody served the provider's calls when it was last asked: it does not run, or is cut off."""


class ProviderRestarted(Struct, frozen=True, tag=True):
    """An ordered call was meant for an earlier incarnation of the provider; nothing was done."""

    incarnation: int
    """The present one."""
    reason: str = "the provider was restarted; whether the call was carried out is not known"


class CallOrder(Struct, frozen=True):
    """The place of a call among those of one operation that are carried out in order."""

    incarnation: int
    """Of the caller; a higher one ends the calls of all lower ones."""
    provider: int
    """Incarnation of the provider that it is meant for; 0 if unknown: then nothing is done."""
    sequence: int
    """Calls are carried out in the order of these numbers, which have no gaps."""
    low_water: int
    """No call with a lower number is to be begun any more."""


CallError = OperationUnknown | CallRefused | CallBusy | CallFailed | CallTimedOut


class CallDone(Struct, frozen=True, tag=True):
    """The operation's answer, as JSON."""

    answer: Raw


CallReply = CallDone | CallError | ProviderRestarted

_decoder: msgspec.json.Decoder[CallReply] = msgspec.json.Decoder(CallReply)


def encode_reply(reply: CallReply) -> bytes:
    """Return ``reply`` as octets."""
    return msgspec.json.encode(reply)


def decode_reply(octets: bytes) -> CallReply:
    """Return the reply that ``octets`` are; ``CallFailed`` where they are none."""
    try:
        return _decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return CallFailed(shorten(f"the answer is none: {error}"))


def request_envelope(
    domain: str,
    caller: str,
    operation: str,
    key: str,
    timeout_s: float,
    *,
    cause: str | None = None,
    order: CallOrder | None = None,
) -> Envelope:
    """Return the envelope of a call; its data travels as the payload.

    Raises:
        EnvelopeError: if the key is none.

    """
    places = {} if order is None else asdict(order)
    return Envelope(
        "1.0",
        key,
        source(domain, caller),
        f"phalanx.call.{operation}",
        cause=cause,
        timeout_ms=max(round(timeout_s * 1000), 1),
        **places,
    )


def order_of(envelope: Envelope) -> CallOrder | None:
    """Return the place of an ordered call; None for a call of its own.

    Raises:
        EnvelopeError: if only a part of it is there.

    """
    fields = [getattr(envelope, name) for name in CallOrder.__struct_fields__]
    given = [number for number in fields if number is not None]
    if given and len(given) < len(fields):
        raise EnvelopeError("an ordered call has incarnation, provider, sequence and lowwater")
    return CallOrder(*given) if given else None


def shorten(text: str) -> str:
    """Return ``text`` on one line and not too long, as a reason."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


def _request(
    client: BrokerClient,
    owner: str,
    operation: Operation[Any, Any],
    payload: bytes,
    envelope: Envelope,
    answer: Callable[[Delivery | Unanswered], None],
    timeout_s: float,
) -> CallError | None:
    """Send one request; return why the broker does not take it."""
    me = client.identity
    subject = subjects.call(me.domain, owner, operation.name, me.role.value, me.name)
    headers = to_headers(envelope) | {"content-type": JSON}
    try:
        client.request(subject, payload, answer, timeout_s=timeout_s, headers=headers)
    except NotPermittedError as error:
        return CallRefused(shorten(str(error)))
    except BrokerError as error:
        return CallFailed(shorten(str(error)))
    return None


def _read(octets: bytes, operation: Operation[Q, A]) -> A | CallError | ProviderRestarted:
    """Return the answer of an operation, or why there is none."""
    reply = decode_reply(octets)
    if not isinstance(reply, CallDone):
        return reply
    try:
        return msgspec.json.decode(reply.answer, type=operation.answer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return CallFailed(shorten(f"no answer of {operation.name!r}: {error}"))


class CallClient:
    """Invokes operations for one identity, each call by itself.

    Args:
        client: of the broker, for the caller.
        clock: makes the repetitions.
        life: tells this start of the process from earlier ones, such as its incarnation, so
            that no key of an earlier start is used again.

    """

    def __init__(self, client: BrokerClient, clock: Clock, *, life: str) -> None:
        self._client = client
        self._clock = clock
        self._life = life
        self._count = 0

    def invoke(
        self,
        owner: str,
        operation: Operation[Q, A],
        request: Q,
        answer: Callable[[A | CallError], None],
        *,
        timeout_s: float,
        key: str | None = None,
        cause: str | None = None,
        attempts: int = 1,
    ) -> None:
        """Invoke ``operation`` of ``owner``; ``answer`` is called once, by the clock.

        Args:
            owner: who provides it.
            operation: what to invoke.
            request: what to ask.
            answer: gets the answer, or why there is none.
            timeout_s: for how long to wait, all attempts together, at most ``LONGEST_S``.
            key: idempotency key; None for one that was never used. With the key of an earlier
                call, that call's answer comes again, if the provider still has it.
            cause: id of the event that led to it.
            attempts: how often it is sent while no answer comes; it is carried out once.

        Raises:
            ValueError: if the time or the attempts are out of range.
            EnvelopeError: if the key or the cause cannot travel.

        """
        if not 0 < timeout_s <= LONGEST_S:
            raise ValueError(f"timeout_s is {timeout_s}, above 0 to {LONGEST_S:g} is allowed")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}, at least 1 is needed")
        me, clock = self._client.identity, self._clock
        self._count += 1
        key = key or f"{me.name}.{self._life}-{self._count}"
        payload = msgspec.json.encode(request)
        until, left, over = clock.now() + timeout_s, attempts, False

        def finish(result: A | CallError) -> None:
            nonlocal over
            if not over:
                over = True
                answer(result)

        def send() -> None:
            nonlocal left
            left -= 1
            now = clock.now()
            if now >= until:  # the process stood still
                finish(CallTimedOut("the time is over"))
            if over:
                return
            name, share_s = operation.name, timeout_s / attempts if left else until - now
            envelope = request_envelope(me.domain, me.name, name, key, until - now, cause=cause)
            heard = partial(received, now + share_s)
            wrong = _request(self._client, owner, operation, payload, envelope, heard, share_s)
            if wrong is not None:
                clock.call_soon(partial(finish, wrong))

        def received(next_at: float, reply: Delivery | Unanswered) -> None:
            if isinstance(reply, Delivery):
                result = _read(reply.payload, operation)
                if isinstance(result, ProviderRestarted):  # of ordered calls alone
                    result = CallFailed(result.reason)
                finish(result)
            elif left > 0 and not over:
                clock.call_at(next_at, send)
            else:
                finish(CallTimedOut(shorten(reply.reason), reply.why is Silence.UNSERVED))

        send()


class RetryPolicy(Struct, frozen=True):
    """How long ordered calls wait, in seconds, and for how much."""

    retry_s: float = 0.5
    """After how long a request without an answer is sent again."""
    poll_s: float = 2.0
    """How long a request for the answer of a call that runs waits for it."""
    give_up_s: float = 10.0
    """A call fails when nothing was heard of it, or of the provider that runs it, for so long."""
    window: int = 64
    """Calls that wait for a first answer at a time; later ones are not sent yet."""
    waiting: int = 1_000
    """Calls that may wait to be sent; further ones fail at once."""


class OrderedCallCounters(Struct):
    """What became of ordered calls."""

    asked: int = 0
    repeated: int = 0
    """Requests that were sent again because no answer came."""
    given_up: int = 0
    """Calls of which nothing was heard for too long."""
    shed: int = 0
    """Calls that failed at once because too many waited."""


class _PendingRequest(Generic[A]):
    """A call from when it is made to its answer."""

    __slots__ = ("answer", "cause", "on_its_way", "payload", "sent", "sequence", "since")

    def __init__(
        self,
        payload: bytes,
        cause: str | None,
        answer: Callable[[A | CallError], None],
        since: float,
    ) -> None:
        self.payload = payload
        self.cause = cause
        self.answer = answer
        self.since = since
        self.sequence = 0
        self.sent = 0
        """How often it was sent."""
        self.on_its_way = False
        """Whether a request for it waits for an answer."""


class OrderedCalls(Generic[Q, A]):
    """The ordered calls of one operation of one provider.

    Every call is answered once: with the operation's answer, or a reason after a bounded time of
    silence. Then it may yet have been carried out: never twice, never after a later call.
    """

    def __init__(
        self,
        client: BrokerClient,
        clock: Clock,
        owner: Callable[[], str | None],
        operation: Operation[Q, A],
        incarnation: int,
        policy: RetryPolicy,
    ) -> None:
        """Make it; nothing is sent before the first call.

        Args:
            client: of the caller.
            clock: makes the repetitions.
            owner: returns the provider; None as long as it is not known.
            operation: what to invoke.
            incarnation: of the caller, higher than in any earlier start.
            policy: bounds.

        """
        self.counters = OrderedCallCounters()
        self._client = client
        self._clock = clock
        self._owner = owner
        self._operation = operation
        self._incarnation = incarnation
        self._policy = policy
        self._provider = 0
        """Incarnation of the provider; 0 if it has not answered yet."""
        self._heard_at = clock.now()
        self._next = 1
        self._waiting: deque[_PendingRequest[A]] = deque()
        self._asked: dict[int, _PendingRequest[A]] = {}
        """Calls of which it is not known whether they were begun, by sequence number."""
        self._running: dict[int, _PendingRequest[A]] = {}
        self._timer: Timer | None = None
        self._closed = False
        client.on_change(self._connected)

    @property
    def pending(self) -> int:
        """Calls that are not answered yet."""
        return len(self._waiting) + len(self._asked) + len(self._running)

    def call(self, request: Q, cause: str | None, answer: Callable[[A | CallError], None]) -> None:
        """Make a call; ``answer`` is called once, maybe before this returns.

        Args:
            request: what to ask.
            cause: id of the event that led to it; None if there is none.
            answer: gets the answer, or why there is none.

        """
        if len(self._waiting) >= self._policy.waiting:
            self.counters.shed += 1
            reason = f"{len(self._waiting)} calls of {self._operation.name!r} wait already"
            answer(CallBusy(reason, self._policy.retry_s))
            return
        payload = msgspec.json.encode(request)
        self._waiting.append(_PendingRequest(payload, cause, answer, self._clock.now()))
        self._go_on()
        self._arm()

    def close(self) -> None:
        """Send nothing more; calls that are not answered never are."""
        self._closed = True
        self._waiting.clear()
        self._asked.clear()
        self._running.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def retry(self) -> None:
        """Send every request again that has no answer, as after a new connection."""
        if self._closed or not self.pending:
            return
        for pending in (*self._asked.values(), *self._running.values()):
            pending.on_its_way = False
        self._beat()

    def _connected(self, connected: bool) -> None:
        if connected:
            self.retry()

    # -- sending ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Send what waits, one call until the provider's incarnation is known."""
        window = self._policy.window if self._provider else 1
        while self._waiting and len(self._asked) < window:
            pending = self._waiting.popleft()
            pending.sequence = self._next
            self._asked[self._next] = pending
            self._next += 1
            self.counters.asked += 1
            self._send(pending)

    def _send(self, pending: _PendingRequest[A]) -> None:
        owner = self._owner()
        if owner is None:
            return
        runs = pending.sequence in self._running
        timeout_s = self._policy.retry_s + (self._policy.poll_s if runs else 0.0)
        me, operation = self._client.identity, self._operation
        low_water = next(iter(self._asked), self._next)
        order = CallOrder(self._incarnation, self._provider, pending.sequence, low_water)
        key = f"{me.name}.{self._incarnation}-{self._provider}-{pending.sequence}"
        waits_s = self._policy.poll_s if runs else _SHARE * timeout_s
        pending.sent += 1
        pending.on_its_way = True
        heard = partial(self._heard, pending, pending.sent, self._provider)
        wrong: CallError | None
        try:
            envelope = request_envelope(
                me.domain, me.name, operation.name, key, waits_s, cause=pending.cause, order=order
            )
            wrong = _request(
                self._client, owner, operation, pending.payload, envelope, heard, timeout_s
            )
        except EnvelopeError as error:
            wrong = CallFailed(shorten(str(error)))
        if wrong is not None:
            self._clock.call_soon(partial(self._finish, pending, wrong))

    def _arm(self) -> None:
        if self._timer is None and self.pending:
            self._timer = self._clock.call_at(self._clock.now() + self._policy.retry_s, self._beat)

    def _beat(self) -> None:
        """Give up, and send again what has no answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._give_up(self._clock.now() - self._policy.give_up_s)
        for pending in (*self._asked.values(), *self._running.values()):
            if not pending.on_its_way:
                self.counters.repeated += bool(pending.sent)
                self._send(pending)
        self._go_on()
        self._arm()

    def _give_up(self, since: float) -> None:
        silent = self._heard_at <= since
        calls = [*self._asked.values(), *(self._running.values() if silent else ()), *self._waiting]
        given_up = [one for one in calls if one.since <= since and self._take_out(one)]
        self.counters.given_up += len(given_up)
        for pending in given_up:
            pending.answer(CallTimedOut(SILENT))

    # -- answers ----------------------------------------------------------------------------

    def _heard(
        self, pending: _PendingRequest[A], sent: int, sent_to: int, heard: Delivery | Unanswered
    ) -> None:
        latest = sent == pending.sent
        if latest:
            pending.on_its_way = False
        if self._closed or isinstance(heard, Unanswered):
            return  # it is sent again at the next beat
        self._heard_at = self._clock.now()
        sequence = pending.sequence
        if pending not in (self._asked.get(sequence), self._running.get(sequence)):
            return
        result = _read(heard.payload, self._operation)
        if isinstance(result, ProviderRestarted):
            self._restarted(pending, sent_to, result)
        elif isinstance(result, CallTimedOut):  # it still runs
            if sequence in self._asked:
                self._running[sequence] = self._asked.pop(sequence)
            if latest:
                self._send(pending)
            self._go_on()
        elif not isinstance(result, CallBusy):
            self._finish(pending, result)

    def _restarted(
        self, pending: _PendingRequest[A], sent_to: int, reply: ProviderRestarted
    ) -> None:
        """Go on with another incarnation; what an earlier one was asked for may have been done."""
        if sent_to == self._provider:
            self._provider = reply.incarnation
            if sent_to:
                fresh = pending.sent == 1 and pending.sequence in self._asked
                calls = (*self._asked.values(), *self._running.values())
                lost = [one for one in calls if not (one is pending and fresh)]
                for other in lost:
                    self._take_out(other)
                for other in lost:
                    other.answer(CallTimedOut(reply.reason))
        if pending is self._asked.get(pending.sequence):
            self._send(pending)
        self._go_on()

    def _take_out(self, pending: _PendingRequest[A]) -> bool:
        """Whether a call was not answered yet; it is not pending any more."""
        for calls in (self._asked, self._running):
            if calls.get(pending.sequence) is pending:
                del calls[pending.sequence]
                return True
        if not pending.sequence and pending in self._waiting:
            self._waiting.remove(pending)
            return True
        return False

    def _finish(self, pending: _PendingRequest[A], result: A | CallError) -> None:
        if self._take_out(pending):
            self._go_on()
            pending.answer(result)
