"""Publish/subscribe: announcements on topics, as CloudEvents in structured mode.

Whoever's role lets it hear announcements may listen. The publisher stands in the subject, where
the broker lets nobody put another, and in the envelope's source, which must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from phalanx.bus import subjects
from phalanx.bus.client import BrokerClient, Delivery, Subscription
from phalanx.fabric.audit import AccessRefusal
from phalanx.fabric.calls import shorten
from phalanx.fabric.envelope import Attribute, Envelope, EnvelopeError, from_json, source, to_json

S = TypeVar("S", bound=Struct)


class Topic(Struct, Generic[S], frozen=True):
    """Something that is announced."""

    name: str
    """Words with dots between them, such as ``slice.changed``."""
    data: type[S]
    summary: str


class Announcement(Struct, Generic[S], frozen=True):
    """What a listener hears."""

    publisher: str
    """The authenticated identity."""
    id: str
    """Unique for the publisher."""
    data: S
    cause: str | None = None


class Announcer:
    """Announces for one identity.

    Args:
        exchange: of the publisher.
        life: tells this life of the process from earlier ones, such as its incarnation.

    """

    def __init__(self, exchange: BrokerClient, *, life: str) -> None:
        self._exchange = exchange
        self._life = life
        self._count = 0

    def announce(self, topic: Topic[S], data: S, cause: str | None = None) -> str:
        """Announce ``data`` to whoever listens, at most once; return its id.

        Raises:
            NotPermittedError: if the identity may not announce.
            EnvelopeError: if it is too long.

        """
        me = self._exchange.identity
        self._count += 1
        key = f"{me.name}.{self._life}-{self._count}"
        extensions: dict[str, Attribute] = {}
        if cause is not None:
            extensions["cause"] = cause
        envelope = Envelope(
            key,
            source(me.domain, me.name),
            f"phalanx.{topic.name}",
            data=Raw(msgspec.json.encode(data)),
            extensions=extensions,
        )
        subject = subjects.announcement(me.domain, me.name, topic.name)
        self._exchange.publish(subject, to_json(envelope))
        return key


def listen(
    exchange: BrokerClient,
    topic: Topic[S],
    handler: Callable[[Announcement[S]], None],
    *,
    publisher: str | None = None,
    on_refused: Callable[[AccessRefusal], None] | None = None,
) -> Subscription:
    """Hear announcements on ``topic`` from now on.

    Args:
        exchange: of the listener.
        topic: what to hear of.
        handler: told of each, by the clock.
        publisher: whose; None: everybody's.
        on_refused: told of what is no announcement on the topic, or is another's.

    Raises:
        NotPermittedError: if the identity may not listen.

    """
    me = exchange.identity
    words = topic.name.split(".")
    pattern = subjects.pattern(me.domain, "pub", publisher or "*", *words)

    def arrived(delivery: Delivery) -> None:
        speaker = subjects.speaker(delivery.subject) or ""
        try:
            envelope = from_json(delivery.payload)
            if envelope.source != source(me.domain, speaker):
                raise EnvelopeError(f"its source is {envelope.source!r}, but {speaker!r} sent it")
            if envelope.type != f"phalanx.{topic.name}":
                raise EnvelopeError(f"its type is not phalanx.{topic.name}")
            data = msgspec.json.decode(envelope.data, type=topic.data)
        except (EnvelopeError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            if on_refused is not None:
                on_refused(
                    AccessRefusal(speaker, f"pub {topic.name}", me.name, shorten(str(error)))
                )
            return
        cause = envelope.extensions.get("cause")
        cause = cause if isinstance(cause, str) else None
        handler(Announcement(speaker, envelope.id, data, cause))

    return exchange.subscribe(pattern, arrived)
