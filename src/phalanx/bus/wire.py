"""Messages as octets, the same for every transport: a version, then JSON (RFC 8259).

The contents of messages and the predicates in them are told apart by their tags: contents are
a closed family, predicates an open one (``domain.tagged``). What is read is never imported,
called or evaluated; it fills in types that are there, or is refused.
"""

from __future__ import annotations

import msgspec

from phalanx.domain.errors import PhalanxError
from phalanx.domain.messages import Message
from phalanx.domain.tagged import UNREADABLE, reader

VERSION = 1
"""First octet of every message; raised when older readers would misread what follows."""

MAX_OCTETS = 1 << 20
"""Largest message: twice what an advertisement of 750 PoPs takes."""

_SHOWN = 160


class WireError(PhalanxError):
    """Octets are no message, or a message cannot be written; the text is one line."""

    def __init__(self, text: str) -> None:
        line = " ".join(text.split())
        super().__init__(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


def encode(message: Message) -> bytes:
    """Return ``message`` as octets.

    Figures must be finite: JSON has no others, and readers refuse what stands in their place.

    Raises:
        WireError: if it is longer than ``MAX_OCTETS`` or holds what cannot travel.

    """
    try:
        octets = bytes((VERSION,)) + msgspec.json.encode(message)
    except UNREADABLE as error:
        raise WireError(f"message {message.id!r} cannot travel: {error}") from error
    if len(octets) > MAX_OCTETS:
        raise WireError(
            f"message {message.id!r} has {len(octets)} octets, at most {MAX_OCTETS} can travel"
        )
    return octets


def decode(octets: bytes | bytearray) -> Message:
    """Return the message that ``octets`` are; fields that it does not know are passed over.

    Raises:
        WireError: if they are none, or longer than ``MAX_OCTETS``, of another version, or of a
            content or predicate that is not known here.

    """
    if len(octets) > MAX_OCTETS:
        raise WireError(f"{len(octets)} octets are no message, at most {MAX_OCTETS} are")
    if not octets or octets[0] != VERSION:
        found = f"version {octets[0]}" if octets else "nothing"
        raise WireError(f"{found} is no message of version {VERSION}")
    try:
        message: Message = reader(Message)(memoryview(octets)[1:])
    except UNREADABLE as error:
        raise WireError(f"no message: {error}") from error
    return message
