"""Subjects: the names under which processes speak to each other, the same on every transport.

A subject is ``phx.<domain>.<kind>.…``; its parts are separated by dots. One part is its
speaker, the only identity that may publish under it, so that who receives something knows
who said it without asking.

========================================  ==========  =========================================
subject (behind ``phx.<domain>.``)        speaker     what goes over it
========================================  ==========  =========================================
``msg.<receiver>.<sender>``               sender      messages between agents
``mcast.<sender>``                        sender      one message to many agents
``evt.<agent>.<kind…>``                   agent       events of the log of causes
``call.<provider>.<op>.<role>.<caller>``  caller      an operation of a service
``pub.<publisher>.<topic…>``              publisher   announcements
``ans.<caller>.<provider>.<id>``          provider    the answer to a call
========================================  ==========  =========================================

In a call the speaker's role stands before its name: the broker lets no caller use another
one, so that a service can let in roles without knowing names. The last follows from the
subject of the request (``answers``): where an answer may go is not for the asker to say.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

EVENTS = "EVENTS"
"""The stream that keeps ``evt.>``."""
REGISTRY = "registry"
"""The table of registrations; its keys are the names of their owners."""


class Wildcard(StrEnum):
    """A part of a pattern that stands for others; a name that reads the same is none."""

    ONE = "*"
    """Any one part."""
    REST = ">"
    """One part or more, at the end."""


ONE, REST = Wildcard.ONE, Wildcard.REST

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")


@lru_cache(maxsize=4096)
def token(name: str) -> str:
    """Return ``name`` as one part of a subject; what is not a letter, digit, - or _ is escaped.

    Raises:
        ValueError: if it is empty.

    """
    if _PLAIN.fullmatch(name):
        return name
    if not name:
        raise ValueError("an empty name cannot stand in a subject")
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"={octet:02X}" for octet in char.encode())
        for char in name
    )


@lru_cache(maxsize=4096)
def name(part: str) -> str:
    """Return the name that ``token`` made ``part`` of.

    Raises:
        ValueError: if it cannot have made it.

    """
    found = bytearray()
    place = 0
    for match in _ESCAPED.finditer(part):
        found += part[place : match.start()].encode() + bytes((int(match[1], 16),))
        place = match.end()
    found += part[place:].encode()
    try:
        result = found.decode()
        if token(result) == part:
            return result
    except ValueError:
        pass
    raise ValueError(f"{part!r} is no part of a subject")


def _subject(domain: str, kind: str, *parts: str) -> str:
    return ".".join(("phx", token(domain), kind, *map(token, parts)))


def message(domain: str, receiver: str, sender: str) -> str:
    """Return the subject of messages from one agent to another."""
    return _subject(domain, "msg", receiver, sender)


def multicast(domain: str, sender: str) -> str:
    """Return the subject of an agent's messages to many."""
    return _subject(domain, "mcast", sender)


def event(domain: str, agent: str, kind: str) -> str:
    """Return the subject of an agent's events of one kind; its dots stay."""
    return _subject(domain, "evt", agent, *kind.split("."))


def call(domain: str, provider: str, operation: str, role: str, caller: str) -> str:
    """Return the subject of a call of a provider's operation by a caller of this role."""
    return _subject(domain, "call", provider, operation, role, caller)


def calls(domain: str, provider: str) -> str:
    """Return the pattern of all calls of a provider's operations."""
    return pattern(domain, "call", provider, ONE, ONE, ONE)


def call_parts(subject: str) -> tuple[str, str, str, str]:
    """Return provider, operation, role and caller of a call's subject.

    Raises:
        ValueError: if it is none.

    """
    match subject.split("."):
        case _, _, "call", *parts if len(parts) == 4:
            provider, operation, role, caller = map(name, parts)
            return provider, operation, role, caller
    raise ValueError(f"{subject!r} is no subject of a call")


def announcement(domain: str, publisher: str, topic: str) -> str:
    """Return the subject of announcements on a topic; its dots stay."""
    return _subject(domain, "pub", publisher, *topic.split("."))


def pattern(domain: str, kind: str, *parts: str) -> str:
    """Return a pattern of names and wildcards."""
    kept = (part if isinstance(part, Wildcard) else token(part) for part in parts)
    return ".".join(("phx", token(domain), kind, *kept))


def answers(request: str) -> str | None:
    """Return the pattern under which a request, or what a pattern of them stands for, is answered.

    None: no answer is given to what is sent there.
    """
    match request.split("."):
        case root, domain, "call", provider, _, _, caller:
            return f"{root}.{domain}.ans.{caller}.{provider}.*"
    return None


_SPEAKER = {"msg": 4, "mcast": 3, "evt": 3, "call": 6, "pub": 3, "ans": 4}


def speaker(subject: str) -> str | None:
    """Return who alone may publish under ``subject``; None where the subject does not say."""
    parts = subject.split(".")
    place = _SPEAKER.get(parts[2]) if len(parts) > 3 else None
    if place is None or len(parts) <= place:
        return None
    return name(parts[place])


@lru_cache(maxsize=65536)
def matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` is one of those that ``pattern`` stands for."""
    wanted, parts = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(wanted) == len(parts) and all(
        part in ("*", own) for part, own in zip(wanted, parts, strict=True)
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that pattern ``narrow`` stands for is one of ``wide``'s."""
    wanted, parts = wide.split("."), narrow.split(".")
    for place, part in enumerate(wanted):
        if part == ">":
            return len(parts) > place
        if place >= len(parts) or parts[place] == ">" or part not in ("*", parts[place]):
            return False
    return len(wanted) == len(parts)
