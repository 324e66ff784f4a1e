"""Calls as data: what an invocation is answered with, and how both travel.

A request is a CloudEvent in binary mode: its id is the idempotency key, its data the request.
Of its extensions, ``timeoutms`` says for how long the caller waits (a duration: clocks need not
agree), ``cause`` what led to it. An answer is one JSON object, told apart by its ``type``. No
traceback ever travels.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from phalanx.fabric.envelope import Attribute, Envelope
from phalanx.fabric.event_envelopes import source
from phalanx.fabric.times import EnvelopeError

LONGEST_S = 3600.0
"""No caller waits longer."""
_SHOWN = 300


class NotFound(Struct, frozen=True, tag=True):
    """The provider has no such operation."""

    reason: str


class Refused(Struct, frozen=True, tag=True):
    """The caller may not."""

    reason: str
    rule: str | None = None


class Busy(Struct, frozen=True, tag=True):
    """The provider does enough already; nothing was done."""

    reason: str
    retry_after_s: float


class Failed(Struct, frozen=True, tag=True):
    """The request is not usable, or the operation failed, for this reason."""

    reason: str


class TimedOut(Struct, frozen=True, tag=True):
    """No answer came in time, or nobody can be reached; whether it was done is not known."""

    reason: str
    unserved: bool = False
    """Nobody served the provider's calls when it was last asked: it does not run, or is cut off."""


CallError = NotFound | Refused | Busy | Failed | TimedOut


class Done(Struct, frozen=True, tag=True):
    """The operation's answer, as JSON."""

    answer: Raw


Reply = Done | CallError

_decoder: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def encode_reply(reply: Reply) -> bytes:
    """Return ``reply`` as octets."""
    return msgspec.json.encode(reply)


def decode_reply(octets: bytes) -> Reply:
    """Return the reply that ``octets`` are; ``Failed`` where they are none."""
    try:
        return _decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Failed(shorten(f"the answer is none: {error}"))


def request_envelope(
    domain: str,
    caller: str,
    operation: str,
    key: str,
    timeout_s: float,
    *,
    cause: str | None = None,
) -> Envelope:
    """Return the envelope of a call; its data travels as the payload.

    Raises:
        EnvelopeError: if the key is none.

    """
    extensions: dict[str, Attribute] = {"timeoutms": max(round(timeout_s * 1000), 1)}
    if cause is not None:
        extensions["cause"] = cause
    return Envelope(key, source(domain, caller), f"phalanx.call.{operation}", extensions=extensions)


def timeout_of(envelope: Envelope) -> float:
    """Return for how long the caller waits, in seconds.

    Raises:
        EnvelopeError: if it does not say, or waits for longer than ``LONGEST_S``.

    """
    text = envelope.extensions.get("timeoutms")
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 9:
        seconds = int(text) / 1000
        if 0 < seconds <= LONGEST_S:
            return seconds
    raise EnvelopeError(f"timeoutms must be from 1 to {LONGEST_S * 1000:.0f}")


def shorten(text: str) -> str:
    """Return ``text`` on one line and not too long, as a reason."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
