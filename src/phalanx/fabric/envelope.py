"""Envelopes: events and calls in the shape of CloudEvents 1.0.

Structured mode (one JSON object, JSON event format 1.0.2) for what is kept or announced;
binary mode (``ce-…`` headers as in the NATS and HTTP bindings, the data as the payload) for
calls. Extension attributes in use:

==============  ==================================================================
``cause``       id of the event that led to it
``scope``       what part of the network it is about, as text (``fabric.scope``)
``elapsed``     of an event of the log: its time in seconds of the recorder's clock
==============  ==================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from phalanx.bus.wire import MAX_OCTETS
from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d[.Zz+-]")
"""How a time must begin; the standard library also reads other forms of ISO 8601."""
_SHOWN = 160


class EnvelopeError(PhalanxError):
    """Something is no envelope, or cannot be one; the text is one line."""

    def __init__(self, text: str) -> None:
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        super().__init__(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339, to the microsecond.

    Raises:
        EnvelopeError: if no date can be made of them.

    """
    try:
        when = _EPOCH + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise EnvelopeError(f"{seconds} is no time") from None
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """Return the seconds since 1970 of a time in RFC 3339.

    Raises:
        EnvelopeError: if it is none.

    """
    try:
        when = datetime.fromisoformat(text.upper())
        if when.tzinfo is not None and _RFC3339.match(text):
            return when.timestamp()
    except (ValueError, OverflowError):
        pass
    raise EnvelopeError(f"time {text!r} is not as in RFC 3339")


SPEC_VERSION = "1.0"
JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
"""Content type of structured mode."""
PREFIX = "ce-"

_CORE = ("specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema")
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}\Z")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INT32 = range(-(1 << 31), 1 << 31)

Attribute = str | int | bool


class Envelope(Struct, frozen=True):
    """A CloudEvent. ``data`` is JSON as octets; empty: it has none.

    Raises:
        EnvelopeError: if an attribute is not as CloudEvents 1.0 wants it.

    """

    id: str
    source: str
    """A URI reference: ``/phalanx/<domain>/<name>``."""
    type: str
    """``phalanx.<kind>``."""
    time: str | None = None
    """RFC 3339."""
    subject: str | None = None
    data: Raw = Raw()
    extensions: Mapping[str, Attribute] = {}

    def __post_init__(self) -> None:
        for name in ("id", "source", "type"):
            if not getattr(self, name):
                raise EnvelopeError(f"{name} is empty")
        for name in ("id", "source", "type", "subject"):
            _check_text(name, getattr(self, name) or "")
        if self.subject == "":
            raise EnvelopeError("subject is empty; it is left out then")
        if self.time is not None:
            parse_time(self.time)
        for name, value in self.extensions.items():
            _check_extension(name, value)


def _check_text(name: str, text: str) -> None:
    if _CONTROL.search(text):
        raise EnvelopeError(f"{name} holds a sign that no attribute may have")


def _check_extension(name: str, value: object) -> None:
    if not _ATTRIBUTE.match(name) or name in _CORE or name in ("data", "data_base64"):
        raise EnvelopeError(f"{name!r} is no name of an extension (1 to 20 of a-z and 0-9)")
    if isinstance(value, str):
        _check_text(name, value)
    elif not isinstance(value, int) or value not in _INT32:  # bool is an int here
        raise EnvelopeError(f"{name} must be text, true, false or a whole number of 32 bits")


# -- structured mode ------------------------------------------------------------------------


def to_json(envelope: Envelope) -> bytes:
    """Return ``envelope`` as one JSON object.

    Raises:
        EnvelopeError: if it is longer than ``MAX_OCTETS``.

    """
    fields: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
    }
    if envelope.time is not None:
        fields["time"] = envelope.time
    if envelope.subject is not None:
        fields["subject"] = envelope.subject
    fields |= envelope.extensions
    if envelope.data:
        fields |= {"datacontenttype": JSON, "data": envelope.data}
    octets = msgspec.json.encode(fields)
    if len(octets) > MAX_OCTETS:
        raise EnvelopeError(f"{len(octets)} octets are no envelope, at most {MAX_OCTETS} are")
    return octets


_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_VALUE = msgspec.json.Decoder()
_ATTRIBUTE_VALUE = msgspec.json.Decoder(Attribute | None)


def from_json(octets: bytes) -> Envelope:
    """Return the envelope that ``octets`` are; null attributes count as left out.

    Raises:
        EnvelopeError: if they are none.

    """
    if len(octets) > MAX_OCTETS:
        raise EnvelopeError(f"{len(octets)} octets are no envelope, at most {MAX_OCTETS} are")
    try:
        fields = _OBJECT.decode(octets)
        data = fields.pop("data", Raw())
        if "data_base64" in fields:
            raise EnvelopeError("data_base64 is not read here; data must be JSON")
        found = {name: _ATTRIBUTE_VALUE.decode(value) for name, value in fields.items()}
        if data:
            _VALUE.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EnvelopeError(f"no envelope: {error}") from error
    return _assemble({k: v for k, v in found.items() if v is not None}, data)


def _assemble(found: dict[str, Attribute], data: Raw) -> Envelope:
    core: dict[str, str] = {}
    for name in _CORE:
        value = found.pop(name, None)
        if value is None:
            continue
        if not isinstance(value, str):
            raise EnvelopeError(f"{name} must be text")
        core[name] = value
    if core.pop("specversion", None) != SPEC_VERSION:
        raise EnvelopeError(f"specversion must be {SPEC_VERSION!r}")
    content = core.pop("datacontenttype", JSON)
    if content.partition(";")[0].strip().lower() != JSON:
        raise EnvelopeError(f"data of type {content!r} is not read here, only {JSON}")
    core.pop("dataschema", None)
    missing = [name for name in ("id", "source", "type") if name not in core]
    if missing:
        raise EnvelopeError(f"{missing[0]} is missing")
    return Envelope(**core, data=data, extensions=found)


# -- binary mode ----------------------------------------------------------------------------


def to_headers(envelope: Envelope) -> dict[str, str]:
    """Return the attributes of ``envelope`` as headers; its data is the payload.

    Values are percent-encoded as in the HTTP binding (3.1.3.2): what is no printable ASCII,
    the space, the double quote and the percent sign.
    """
    headers = {
        "ce-specversion": SPEC_VERSION,
        "ce-id": _header(envelope.id),
        "ce-source": _header(envelope.source),
        "ce-type": _header(envelope.type),
    }
    if envelope.time is not None:
        headers["ce-time"] = envelope.time
    if envelope.subject is not None:
        headers["ce-subject"] = _header(envelope.subject)
    for name, value in envelope.extensions.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        headers[PREFIX + name] = _header(text)
    if envelope.data:
        headers["content-type"] = JSON
    return headers


_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


def _header(text: str) -> str:
    return quote(text, safe=_SAFE)


def from_headers(headers: Mapping[str, str], payload: bytes) -> Envelope:
    """Return the envelope of binary mode; extensions are text, since headers have no types.

    The payload is not read: it is data that the receiver of the call checks.

    Raises:
        EnvelopeError: if they are none.

    """
    found: dict[str, Attribute] = {}
    for name, value in headers.items():
        key = name.lower()
        if key.startswith(PREFIX):
            attribute = key.removeprefix(PREFIX)
            if attribute in found:
                raise EnvelopeError(f"header {key} is given twice")
            found[attribute] = unquoted(key, value)
        elif key == "content-type":
            found["datacontenttype"] = value
    return _assemble(found, Raw(payload))


def unquoted(name: str, value: str) -> str:
    """Return percent-encoded text as it was; ``name`` stands for it in errors."""
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeError:
        raise EnvelopeError(f"header {name} is no text") from None


_KIND = re.compile(r"phalanx\.(?=.)")
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


def kind_of(envelope: Envelope) -> str:
    """Return the kind of an envelope of type ``phalanx.<kind>``.

    Raises:
        EnvelopeError: if its type is none of ours.

    """
    match = _KIND.match(envelope.type)
    if match is None:
        raise EnvelopeError(f"type {envelope.type!r} is not as phalanx.<kind>")
    return envelope.type[match.end() :]


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
    if not math.isfinite(event.time):
        raise EnvelopeError(f"event {event.id!r} has no finite time")
    extensions: dict[str, Attribute] = {"elapsed": repr(event.time)}
    if event.cause is not None:
        extensions["cause"] = event.cause
    scope = event.data.get("scope")
    if isinstance(scope, str) and scope:
        extensions["scope"] = scope
    try:
        data = Raw(msgspec.json.encode(event.data))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EnvelopeError(f"event {event.id!r} cannot travel: {error}") from error
    return Envelope(
        event.id,
        source(domain, event.agent),
        f"phalanx.{event.kind}",
        format_time(epoch_s + event.time),
        data=data,
        extensions=extensions,
    )


_DATA = msgspec.json.Decoder(dict[str, Any])


def to_event(envelope: Envelope) -> Event:
    """Return the event that ``from_event`` put into ``envelope``.

    Raises:
        EnvelopeError: if it holds none.

    """
    extensions = envelope.extensions
    elapsed, cause = extensions.get("elapsed"), extensions.get("cause")
    try:
        when = float(elapsed) if isinstance(elapsed, str) else math.nan
        data = _DATA.decode(envelope.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise EnvelopeError(f"event {envelope.id!r} is none: {error}") from error
    if not math.isfinite(when):
        raise EnvelopeError(f"event {envelope.id!r}: elapsed must be seconds")
    if cause is not None and not isinstance(cause, str):
        raise EnvelopeError(f"event {envelope.id!r}: cause must be text")
    _, agent = speaker(envelope.source)
    return Event(envelope.id, when, agent, kind_of(envelope), cause, data)
