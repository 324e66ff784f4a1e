"""Ordered calls: each carried out once, in the order made, whatever the network loses.

A call is sent again until it is answered; the provider knows it by its sequence number and by
the incarnations of both sides (``calls.CallOrder``), and answers a repetition with the first
answer. The numbers of calls that were given up lie below the low-water mark: those are not
begun any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, BrokerError, Delivery, Unanswered
from phalanx.clock import Clock, Timer
from phalanx.fabric.calls import (
    CallBusy,
    CallDone,
    CallError,
    CallFailed,
    CallOrder,
    CallTimedOut,
    ProviderRestarted,
    decode_reply,
    request_envelope,
    shorten,
)
from phalanx.fabric.envelope import JSON, EnvelopeError, to_headers
from phalanx.fabric.operations import Operation

SILENT = "the provider does not answer"
_SHARE = 0.6
"""Of the time until a repetition, how long the provider may take to answer that a call runs."""

Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


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
        self, payload: bytes, cause: str, answer: Callable[[A | CallError], None], since: float
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

    def call(self, request: Q, cause: str, answer: Callable[[A | CallError], None]) -> None:
        """Make a call; ``answer`` is called once, maybe before this returns.

        Args:
            request: what to ask.
            cause: id of the event that led to it.
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
        me, name = self._client.identity, self._operation.name
        low_water = next(iter(self._asked), self._next)
        order = CallOrder(self._incarnation, self._provider, pending.sequence, low_water)
        pending.sent += 1
        pending.on_its_way = True
        try:
            headers = to_headers(
                request_envelope(
                    me.domain,
                    me.name,
                    name,
                    f"{me.name}.{self._incarnation}-{self._provider}-{pending.sequence}",
                    self._policy.poll_s if runs else _SHARE * timeout_s,
                    cause=pending.cause,
                    order=order,
                )
            )
            headers["content-type"] = JSON
            self._client.request(
                subjects.call(me.domain, owner, name, me.role.value, me.name),
                pending.payload,
                partial(self._heard, pending, pending.sent, self._provider),
                timeout_s=timeout_s,
                headers=headers,
            )
        except (BrokerError, EnvelopeError) as error:
            failed = partial(self._finish, pending, CallFailed(shorten(str(error))))
            self._clock.call_soon(failed)

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
        reply = decode_reply(heard.payload)
        if isinstance(reply, ProviderRestarted):
            self._restarted(pending, sent_to, reply)
        elif isinstance(reply, CallTimedOut):
            if sequence in self._asked:
                self._running[sequence] = self._asked.pop(sequence)
            if latest:
                self._send(pending)
            self._go_on()
        elif isinstance(reply, CallDone):
            try:
                answer = msgspec.json.decode(reply.answer, type=self._operation.answer)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                reason = f"no answer of {self._operation.name!r}: {error}"
                self._finish(pending, CallFailed(shorten(reason)))
            else:
                self._finish(pending, answer)
        elif not isinstance(reply, CallBusy):
            self._finish(pending, reply)

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
