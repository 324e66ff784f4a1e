"""The client's side of the NATS protocol, without I/O: octets to what was said, and back.

Source: docs.nats.io, "Client Protocol"; headers as in its design record ADR-4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from phalanx.bus.client import BrokerError

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
MALFORMED: Final = "malformed"

_LINE_OCTETS = 1 << 20
"""Longest line: INFO lists every server of a cluster."""
_VERSION = b"NATS/1.0"
_SUBJECT = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_FIELD = re.compile(r"[!-9;-~]+")
_ENDS = re.compile(r"[\r\n]")


class ProtocolError(BrokerError):
    """What came in is not NATS, or longer than allowed."""


class Arrived(Struct, frozen=True, gc=False):
    """A message for one of our subscriptions."""

    sid: int
    subject: str
    reply: str | None
    headers: bytes
    """As they came; empty: none."""
    payload: bytes


class Said(Struct, frozen=True):
    """Anything else that a server says."""

    what: str
    """``INFO``, ``PING``, ``PONG``, ``+OK`` or ``-ERR``."""
    text: bytes


class Parser:
    """Cuts a stream of octets into what a server said."""

    def __init__(self, limit: int) -> None:
        """Make a parser that refuses messages of more than ``limit`` octets."""
        self._limit = limit
        self._rest = b""
        self._wanted = 0
        """How long the rest must grow before there is anything more in it."""

    def feed(self, octets: bytes) -> list[Arrived | Said]:
        """Return what is complete with ``octets``.

        Raises:
            ProtocolError: if that is not NATS; nothing more can be read then.

        """
        if self._rest:
            octets = self._rest + octets
            if len(octets) < self._wanted:
                self._rest = octets
                return []
        found: list[Arrived | Said] = []
        place, self._wanted = 0, 0
        while (end := octets.find(b"\r\n", place)) >= 0:
            words = octets[place:end].split()
            if words and words[0] in (b"MSG", b"HMSG"):
                begin = end + 2
                size = self._size(words[-1])
                if len(octets) < begin + size + 2:
                    self._wanted = begin + size + 2 - place
                    break
                found.append(self._message(words, octets, begin, size))
                place = begin + size + 2
            else:
                what, _, text = octets[place:end].partition(b" ")
                found.append(self._said(what, text))
                place = end + 2
        else:
            if len(octets) - place > _LINE_OCTETS:
                raise ProtocolError("a line of the server does not end")
        self._rest = octets[place:]
        return found

    def _size(self, word: bytes) -> int:
        size = int(word) if word.isdigit() else -1
        if not 0 <= size <= self._limit:
            raise ProtocolError(f"a message of {word[:20]!r} octets, at most {self._limit} are")
        return size

    @staticmethod
    def _message(words: list[bytes], octets: bytes, begin: int, size: int) -> Arrived:
        heading = 0
        if words[0] == b"HMSG":
            heading = int(words.pop(-2))
        match words:
            case _, subject, sid, _:
                reply = None
            case _, subject, sid, asked, _:
                reply = asked.decode("utf-8", "replace")
            case _:
                raise ProtocolError(f"no message: {b' '.join(words)[:80]!r}")
        middle, end = begin + heading, begin + size
        return Arrived(
            int(sid),
            subject.decode("utf-8", "replace"),
            reply,
            octets[begin:middle],
            octets[middle:end],
        )

    @staticmethod
    def _said(what: bytes, text: bytes) -> Said:
        name = what.upper().decode("latin-1")
        if name not in ("INFO", "PING", "PONG", "+OK", "-ERR"):
            raise ProtocolError(f"not NATS: {what[:40]!r}")
        return Said(name, text)


def read_headers(raw: bytes) -> tuple[str | None, dict[str, str]]:
    """Return ``(status, fields)`` of the headers of a message.

    A status such as ``503`` is set by the server, in messages of its own; but a client may write
    one too, or what is no header at all: the server passes it on, and the status is then
    ``MALFORMED``.
    """
    first, *lines = raw.split(b"\r\n")
    if not first.startswith(_VERSION):
        return MALFORMED, {}
    status = first[len(_VERSION) :].strip().split(b" ", 1)[0]
    fields = {}
    for line in lines:
        key, colon, value = line.partition(b":")
        if colon:
            fields[key.decode("latin-1")] = value.strip().decode("utf-8", "replace")
    return status.decode("latin-1") or None, fields


def check_subject(subject: str) -> None:
    """Refuse what is no subject, such as one with a wildcard or an end of line in it.

    Raises:
        BrokerError: if it is none.

    """
    if not _SUBJECT.fullmatch(subject):
        raise BrokerError(f"{subject[:80]!r} is no subject to publish under")


def publish(
    subject: str, payload: bytes, reply: str | None, headers: Mapping[str, str] | None
) -> bytes:
    """Return the octets that publish ``payload``.

    Raises:
        BrokerError: if a header is none.

    """
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(payload), payload)
    lines = [_VERSION.decode()]
    for key, value in headers.items():
        if not _FIELD.fullmatch(key) or _ENDS.search(value):
            raise BrokerError(f"{key[:40]!r} is no header, or its value has an end of line")
        lines.append(f"{key}: {value}")
    heading = "\r\n".join((*lines, "", "")).encode()
    total = len(heading) + len(payload)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), len(heading), total, heading, payload)


def subscribe(pattern: str, sid: int) -> bytes:
    """Return the octets that subscribe to a pattern."""
    return f"SUB {pattern} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    """Return the octets that end a subscription."""
    return f"UNSUB {sid}\r\n".encode()
