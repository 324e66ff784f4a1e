"""Calls as data: what an invocation is answered with, and how both travel.

A request is a CloudEvent in binary mode: its id is the idempotency key, its data the request.
Of its extensions, ``timeoutms`` says for how long the caller waits (a duration: clocks need not
agree), ``cause`` what led to it. An answer is one JSON object, told apart by its ``type``. No
traceback ever travels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

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
from phalanx.clock import Clock
from phalanx.fabric.envelope import Attribute, Envelope, EnvelopeError, source, to_headers
from phalanx.fabric.operations import Operation

LONGEST_S = 3600.0
"""No caller waits longer."""
_SHOWN = 300


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
    extensions: dict[str, Attribute] = {"timeoutms": max(round(timeout_s * 1000), 1)}
    if cause is not None:
        extensions["cause"] = cause
    if order is not None:
        extensions |= {name.replace("_", ""): value for name, value in asdict(order).items()}
    return Envelope(key, source(domain, caller), f"phalanx.call.{operation}", extensions=extensions)


def timeout_of(envelope: Envelope) -> float:
    """Return for how long the caller waits, in seconds.

    Raises:
        EnvelopeError: if it does not say, or waits for longer than ``LONGEST_S``.

    """
    most = round(LONGEST_S * 1000)
    milliseconds = _number(envelope, "timeoutms")
    if milliseconds is not None and 0 < milliseconds <= most:
        return milliseconds / 1000
    raise EnvelopeError(f"timeoutms must be from 1 to {most}")


def order_of(envelope: Envelope) -> CallOrder | None:
    """Return the place of an ordered call; None for a call of its own.

    Raises:
        EnvelopeError: if only a part of it is there.

    """
    fields = [_number(envelope, name.replace("_", "")) for name in CallOrder.__struct_fields__]
    numbers = [number for number in fields if number is not None]
    if not numbers:
        return None
    if len(numbers) < len(fields):
        raise EnvelopeError("an ordered call has incarnation, provider, sequence and lowwater")
    return CallOrder(*numbers)


def _number(envelope: Envelope, name: str) -> int | None:
    text = envelope.extensions.get(name)
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    return None


def shorten(text: str) -> str:
    """Return ``text`` on one line and not too long, as a reason."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


Q = TypeVar("Q", bound=Struct)
A = TypeVar("A", bound=Struct)


class CallClient:
    """Invokes operations for one identity.

    Args:
        exchange: of the caller.
        clock: makes the repetitions.
        life: tells this life of the process from earlier ones, such as its incarnation, so
            that no key of an earlier life is used again.

    """

    def __init__(self, exchange: BrokerClient, clock: Clock, *, life: str) -> None:
        self._exchange = exchange
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
            key: idempotency key; None: one that nobody used. With the key of an earlier call,
                that call's answer comes again, if the provider still has it.
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
        self._count += 1
        me = self._exchange.identity
        key = key or f"{me.name}.{self._life}-{self._count}"
        _Attempts(
            self._exchange, self._clock, owner, operation, request, answer, timeout_s, attempts
        ).begin(key, cause)


class _Attempts(Generic[Q, A]):
    """One call until it is answered."""

    def __init__(
        self,
        exchange: BrokerClient,
        clock: Clock,
        owner: str,
        operation: Operation[Q, A],
        request: Q,
        answer: Callable[[A | CallError], None],
        timeout_s: float,
        attempts: int,
    ) -> None:
        me = exchange.identity
        self._exchange = exchange
        self._clock = clock
        self._subject = subjects.call(me.domain, owner, operation.name, me.role.value, me.name)
        self._operation = operation
        self._payload = msgspec.json.encode(request)
        self._answer = answer
        self._until = clock.now() + timeout_s
        self._share_s = timeout_s / attempts
        self._left = attempts
        self._over = False

    def begin(self, key: str, cause: str | None) -> None:
        me = self._exchange.identity
        self._envelope = partial(
            request_envelope,
            me.domain,
            me.name,
            self._operation.name,
            key,
            cause=cause,
        )
        self._send()

    def _send(self) -> None:
        if self._over:
            return
        self._left -= 1
        now = self._clock.now()
        remaining = self._until - now
        if remaining <= 0:  # the process stood still
            self._finish(CallTimedOut("the time is over"))
            return
        headers = to_headers(self._envelope(remaining))
        headers["content-type"] = "application/json"
        share = remaining if self._left == 0 else self._share_s
        heard = partial(self._heard, now + share)
        try:
            self._exchange.request(
                self._subject, self._payload, heard, timeout_s=share, headers=headers
            )
        except NotPermittedError as error:
            self._clock.call_soon(partial(self._finish, CallRefused(shorten(str(error)))))
        except BrokerError as error:
            self._clock.call_soon(partial(self._finish, CallFailed(shorten(str(error)))))

    def _heard(self, next_at: float, heard: Delivery | Unanswered) -> None:
        if self._over:
            return
        if isinstance(heard, Unanswered):
            if self._left > 0:
                self._clock.call_at(next_at, self._send)
            else:
                self._finish(CallTimedOut(shorten(heard.reason), heard.why is Silence.UNSERVED))
            return
        reply = decode_reply(heard.payload)
        if isinstance(reply, ProviderRestarted):
            reply = CallFailed(reply.reason)
        if not isinstance(reply, CallDone):
            self._finish(reply)
            return
        try:
            self._finish(msgspec.json.decode(reply.answer, type=self._operation.answer))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._finish(CallFailed(shorten(f"no answer of {self._operation.name!r}: {error}")))

    def _finish(self, result: A | CallError) -> None:
        if not self._over:
            self._over = True
            self._answer(result)
