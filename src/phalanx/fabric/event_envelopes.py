"""Events of the log of causes as CloudEvents, and back; who said what, as a source.

``id``, ``source`` and ``type`` are those of the event, its agent and its kind; ``data`` is the
event's. Nothing is lost on the way: ``to_event(from_event(event, domain)) == event``, as long
as its data is JSON, with finite figures and whole numbers of at most 64 bits.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from phalanx.domain.events import Event
from phalanx.fabric.envelope import Attribute, Envelope, unquoted
from phalanx.fabric.times import EnvelopeError, format_time

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
