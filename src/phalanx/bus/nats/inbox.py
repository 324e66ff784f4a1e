"""What the server itself answers: to questions of its interface, and that it kept something.

Answers of other processes do not come here; they have subjects of their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from phalanx.bus.nats.protocol import Arrived, read_headers

NOBODY = "503"
"""Status of a message in place of an answer: nobody takes what was asked."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fault(Struct, frozen=True):
    """What the server found wrong."""

    code: int = 0
    err_code: int = 0
    description: str = "an error without a description"


class Reply(Struct, frozen=True):
    """The parts of all answers of JetStream that are read here."""

    error: Fault | None = None
    num_pending: int = 0
    """Of a new consumer: how much of what it was asked for is there already."""
    cluster: dict[str, Any] = {}
    """Of a stream: ``leader`` is the name of the server that leads it."""
    created: datetime = EPOCH
    """Of a new consumer: when it was made, by the server's clock."""
    delivered: dict[str, Any] = {}
    """Of a new consumer: ``stream_seq`` is the sequence before the first it will deliver."""


_reply = msgspec.json.Decoder(Reply)


def read_reply(message: Arrived) -> Reply:
    """Return what the server answered; that nobody answers is a fault too."""
    if message.headers:
        status, _ = read_headers(message.headers)
        if status is not None:
            return Reply(Fault(int(NOBODY), 0, f"nobody answers for it now (status {status})"))
    try:
        return _reply.decode(message.payload)
    except msgspec.MsgspecError as error:
        return Reply(Fault(500, 0, f"the answer cannot be read: {error}"))


class Inbox:
    """Gives out subjects for answers, and hands each answer to who waits for it."""

    def __init__(self, prefix: str) -> None:
        """Make an inbox below ``prefix``, which the server lets nobody else hear."""
        self.prefix = f"{prefix}.{secrets.token_hex(8)}"
        self._waiting: dict[str, Callable[[Arrived], None]] = {}
        self._count = 0

    @property
    def pattern(self) -> str:
        """What to subscribe to."""
        return f"{self.prefix}.one.*"

    def new(self) -> str:
        """Return a new subject beside those of single answers, to be subscribed to."""
        self._count += 1
        return f"{self.prefix}.all.{self._count:x}"

    def expect(self, take: Callable[[Arrived], None]) -> str:
        """Return a new subject; the first answer to it goes to ``take``."""
        self._count += 1
        subject = f"{self.prefix}.one.{self._count:x}"
        self._waiting[subject] = take
        return subject

    def forget(self, subject: str) -> None:
        """Expect no answer any more."""
        self._waiting.pop(subject, None)

    def arrived(self, message: Arrived) -> None:
        """Hand an answer to who waits; one to what was asked again in the meantime is let go."""
        take = self._waiting.pop(message.subject, None)
        if take is not None:
            take(message)
