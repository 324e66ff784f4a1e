"""Envelopes: events and calls in the shape of CloudEvents 1.0.

Structured mode (one JSON object, JSON event format 1.0.2) for what is kept or announced;
binary mode (``ce-…`` headers as in the NATS and HTTP bindings, the data as the payload) for
calls. What is read are the attributes of ``Envelope``; others are passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Meta, Raw, Struct

from phalanx.bus import subjects
from phalanx.bus.client import Delivery, Stored
from phalanx.bus.wire import MAX_OCTETS
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

JSON = "application/json"
PREFIX = "ce-"
_KIND = "phalanx."
LONGEST_S = 3600.0
"""No caller waits longer."""
_SHOWN = 160
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')

Text = Annotated[str, Meta(min_length=1)]
Number = Annotated[int, Meta(ge=0, le=9_999_999_999)]


class EnvelopeError(PhalanxError):
    """Something is no envelope, or cannot be one; the text is one line."""

    def __init__(self, text: str) -> None:
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        super().__init__(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


class Envelope(
    Struct,
    frozen=True,
    omit_defaults=True,
    rename={"timeout_ms": "timeoutms", "low_water": "lowwater"},
):
    """A CloudEvent.

    Raises:
        EnvelopeError: if an attribute is empty, or has a character that none may have.

    """

    specversion: Literal["1.0"]
    id: Text
    source: Text
    """``/phalanx/<domain>/<name>``."""
    type: Text
    """``phalanx.<kind>``."""
    time: Annotated[datetime, Meta(tz=True)] | None = None
    """Only people read it: machines' clocks need not agree."""
    cause: str | None = None
    """Id of the event that led to it."""
    scope: str | None = None
    """The slice or service that an event is about."""
    elapsed: str | None = None
    """Time of an event in seconds of the recorder's clock, as ``repr`` writes it."""
    timeout_ms: Annotated[int, Meta(ge=1, le=round(LONGEST_S * 1000))] | None = None
    """For how long a caller waits, in ms: a duration, since clocks need not agree."""
    incarnation: Number | None = None
    provider: Number | None = None
    sequence: Number | None = None
    low_water: Number | None = None
    """Of an ordered call: ``calls.CallOrder``."""
    datacontenttype: str | None = None
    data: Raw = Raw()
    """JSON as octets."""

    def __post_init__(self) -> None:
        for name in ("id", "source", "type", "cause", "scope", "elapsed"):
            text = getattr(self, name)
            if text == "" or (text and _CONTROL.search(text)):
                raise EnvelopeError(f"{name} is empty, or has a character that it may not have")


def to_json(envelope: Envelope) -> bytes:
    """Return ``envelope`` in structured mode, as one JSON object.

    Raises:
        EnvelopeError: if it is longer than ``MAX_OCTETS``.

    """
    octets = msgspec.json.encode(envelope)
    _check_length(octets)
    return octets


def from_json(octets: bytes) -> Envelope:
    """Return the envelope that ``octets`` are; null attributes count as left out.

    Raises:
        EnvelopeError: if they are none.

    """
    _check_length(octets)
    try:
        return _decoder.decode(octets)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EnvelopeError(f"no envelope: {error}") from error


_decoder = msgspec.json.Decoder(Envelope)


def _check_length(octets: bytes) -> None:
    if len(octets) > MAX_OCTETS:
        raise EnvelopeError(f"{len(octets)} octets are no envelope, at most {MAX_OCTETS} are")


def to_headers(envelope: Envelope) -> dict[str, str]:
    """Return the attributes of ``envelope`` in binary mode, as headers; its data is the payload.

    Values are percent-encoded as in the HTTP binding (3.1.3.2): what is no printable ASCII,
    the space, the double quote and the percent sign.
    """
    found = msgspec.json.decode(msgspec.json.encode(envelope))
    return {f"{PREFIX}{name}": quote(str(value), safe=_SAFE) for name, value in found.items()}


def from_headers(headers: Mapping[str, str]) -> Envelope:
    """Return the envelope of binary mode, without the data, which is the payload.

    Raises:
        EnvelopeError: if they are none.

    """
    named = {name.lower(): value for name, value in headers.items()}
    found = {k.removeprefix(PREFIX): unquoted(k, v) for k, v in named.items() if k[:3] == PREFIX}
    try:
        return msgspec.convert(found, Envelope, strict=False)
    except (msgspec.MsgspecError, ValueError) as error:
        raise EnvelopeError(f"no envelope: {error}") from error


def unquoted(name: str, value: str) -> str:
    """Return percent-encoded text as it was; ``name`` stands for it in errors."""
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeError:
        raise EnvelopeError(f"header {name} is no text") from None


_SOURCE = re.compile(r"/phalanx/([^/]+)/([^/]+)\Z")


def source(domain: str, name: str) -> str:
    """Return the source of what ``name`` says: ``/phalanx/<domain>/<name>``."""
    return f"/phalanx/{quote(domain, safe='')}/{quote(name, safe='')}"


def speaker(text: str) -> tuple[str, str]:
    """Return ``(domain, name)`` of a source.

    Raises:
        EnvelopeError: if it is none of ours.

    """
    match = _SOURCE.match(text)
    if match:
        domain, name = (unquoted("source", part) for part in match.groups())
        if text == source(domain, name):
            return domain, name
    raise EnvelopeError(f"source {text!r} is not as /phalanx/<domain>/<name>")


def from_event(event: Event, domain: str, *, epoch_s: float = 0.0) -> Envelope:
    """Return the envelope of an event.

    Args:
        event: what happened.
        domain: of the agent that recorded it.
        epoch_s: when that agent's clock was zero, in seconds since 1970 by its machine.
            Only people read what follows from it: machines' clocks need not agree.

    Raises:
        EnvelopeError: if the event holds what cannot travel.

    """
    scope = event.data.get("scope")
    try:
        when = _EPOCH + timedelta(seconds=epoch_s + event.time)
        data = Raw(msgspec.json.encode(event.data))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EnvelopeError(f"event {event.id!r} cannot travel: {error}") from error
    return Envelope(
        "1.0",
        event.id,
        source(domain, event.agent),
        f"{_KIND}{event.kind}",
        when,
        cause=event.cause,
        scope=scope if isinstance(scope, str) and scope else None,
        elapsed=repr(event.time),
        datacontenttype=JSON,
        data=data,
    )


_DATA = msgspec.json.Decoder(dict[str, Any])


def to_event(envelope: Envelope) -> Event:
    """Return the event that ``from_event`` put into ``envelope``.

    Raises:
        EnvelopeError: if it holds none.

    """
    try:
        when = float(envelope.elapsed or math.nan)
        data = _DATA.decode(envelope.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EnvelopeError(f"event {envelope.id!r} is none: {error}") from error
    kind = envelope.type.removeprefix(_KIND)
    if not math.isfinite(when):
        raise EnvelopeError(f"event {envelope.id!r}: elapsed must be seconds")
    if kind == envelope.type or not kind:
        raise EnvelopeError(f"type {envelope.type!r} is not as phalanx.<kind>")
    _, agent = speaker(envelope.source)
    return Event(envelope.id, when, agent, kind, envelope.cause, data)


def event_of(stored: Stored | Delivery, domain: str) -> Event:
    """Return the event that a stream keeps, or an agent publishes.

    Raises:
        EnvelopeError: if it is none, or of another than who sent it.

    """
    envelope = from_json(stored.payload)
    said_by = subjects.speaker(stored.subject)
    if speaker(envelope.source) != (domain, said_by):
        raise EnvelopeError(f"its source is {envelope.source!r}, but {said_by!r} sent it")
    return to_event(envelope)
