"""What an agent and the service of its infrastructure say to each other, as octets.

One octet with the version, then one JSON object, told apart by its ``type``. Actions, outcomes
and percepts stand in it as ``[name, value]``: they are closed families, but an action may hold
a predicate of any network function (``domain.tagged``).

An agent asks under ``act.<pop>``: ``Sync`` and ``Do``. The service answers each, and tells
``News`` under ``percept.<pop>``. An agent's life is told by its incarnation, the service's by
its own, an action by a token that the agent counts up, and a piece of news by its number.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from phalanx.bus.wire import MAX_OCTETS, WireError
from phalanx.domain.actions import Action, Outcome, Percept
from phalanx.domain.tagged import UNREADABLE, reader

VERSION = 1
"""First octet of all that is said; raised when older readers would misread what follows."""

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Packed = tuple[str, Raw]
"""The name of a class, and a value of it as JSON."""


class Settled(Struct, frozen=True):
    """News: what an action came to that was under way."""

    token: Count
    outcome: Packed


class Sync(Struct, frozen=True, tag=True):
    """Ask: attach, or renew; ``Synced`` answers. It opens a session for a new life."""

    incarnation: Count
    service: Count
    """The life of the service that ``heard`` is about; 0: none was heard of."""
    heard: Count
    """Number up to which all news came in; the service may forget it."""
    floor: Count
    """As in ``Do``."""
    perceives: bool
    """Whether percepts are wanted."""


class Do(Struct, frozen=True, tag=True):
    """Ask: carry out an action, once however often it is asked; ``Answered`` answers."""

    incarnation: Count
    service: Count
    """The life of the service that it is said to; another one does nothing."""
    token: Count
    """Actions are carried out in the order of their tokens, which are without a gap."""
    floor: Count
    """No action with a lower token is asked for any more."""
    action: Packed
    cause: str


Ask = Sync | Do


class News(Struct, frozen=True, tag=True):
    """Told: a percept, or an outcome that came late. Numbers are without a gap, from 1 on."""

    service: Count
    incarnation: Count
    """The life of the agent that it is told to."""
    number: Count
    item: Packed
    """A ``Percept`` or ``Settled``."""


class Synced(Struct, frozen=True, tag=True):
    """Reply: all that was not heard, the oldest first, as much as fits."""

    service: Count
    news: tuple[tuple[Count, Packed], ...]
    """(number, item); what a later percept made worthless is left out."""
    upto: Count
    """Number up to which nothing is left out that matters."""
    last: Count
    """Number of the last news; there is more to ask for if it is above ``upto``."""


class Answered(Struct, frozen=True, tag=True):
    """Reply: what an action came to; None: it is under way, and ``News`` will tell."""

    outcome: Packed | None


class Why(Enum):
    """Why something asked for was not done."""

    GARBAGE = "garbage"
    """It could not be read."""
    UNKNOWN = "unknown"
    """There is no session for it with this life of the service: sync."""
    OUTDATED = "outdated"
    """A later life of the agent has spoken."""
    SETTLED = "settled"
    """Its token is below the floor: the agent has given it up, or has its outcome."""
    BUSY = "busy"
    """Too much is asked at a time; ask again later."""


class Declined(Struct, frozen=True, tag=True):
    """Reply: nothing was done."""

    why: Why
    detail: str = ""


Reply = Synced | Answered | Declined

_ASK: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)
_REPLY: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)
_NEWS: msgspec.json.Decoder[News] = msgspec.json.Decoder(News)
_FAMILIES = {
    family: {kind.__name__: kind for kind in kinds}
    for family, kinds in {
        "action": get_args(Action),
        "outcome": get_args(Outcome),
        "news": (*get_args(Percept), Settled),
    }.items()
}
_AROUND = 4096
"""Octets for what stands around a value."""
T = TypeVar("T")


def encode(said: Ask | Reply | News) -> bytes:
    """Return what is said as octets.

    Raises:
        WireError: if they are more than ``MAX_OCTETS``.

    """
    octets = bytes((VERSION,)) + msgspec.json.encode(said)
    if len(octets) > MAX_OCTETS:
        name = type(said).__name__
        raise WireError(f"{name} has {len(octets)} octets, at most {MAX_OCTETS} can travel")
    return octets


def decode_ask(octets: bytes) -> Ask:
    """Return what an agent asks.

    Raises:
        WireError: if it is nothing that an agent asks.

    """
    return _decode(octets, _ASK)


def decode_reply(octets: bytes) -> Reply:
    """Return what the service replies.

    Raises:
        WireError: if it is nothing that a service replies.

    """
    return _decode(octets, _REPLY)


def decode_news(octets: bytes) -> News:
    """Return what the service tells.

    Raises:
        WireError: if it is no news.

    """
    return _decode(octets, _NEWS)


def pack(value: Action | Outcome | Percept) -> Packed:
    """Return a value by the name of its class.

    Raises:
        WireError: if it holds what cannot travel, or is too long.

    """
    name = type(value).__name__
    try:
        octets = msgspec.json.encode(value)
    except UNREADABLE as error:
        raise WireError(f"{name} cannot travel: {error}") from error
    if len(octets) > MAX_OCTETS - _AROUND:
        raise WireError(f"{name} has {len(octets)} octets, too many to travel")
    return name, Raw(octets)


def settled(token: int, outcome: Packed) -> Packed:
    """Return the news of what an action came to."""
    return Settled.__name__, Raw(msgspec.json.encode(Settled(token, outcome)))


def unpack_action(packed: Packed) -> Action:
    """Return an action.

    Raises:
        WireError: if it is none.

    """
    action: Action = _unpack(packed, "action")
    return action


def unpack_outcome(packed: Packed) -> Outcome:
    """Return an outcome.

    Raises:
        WireError: if it is none.

    """
    outcome: Outcome = _unpack(packed, "outcome")
    return outcome


def unpack_news(packed: Packed) -> Percept | Settled:
    """Return a percept, or what an action came to.

    Raises:
        WireError: if it is neither.

    """
    news: Percept | Settled = _unpack(packed, "news")
    return news


def _decode(octets: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    if not octets or octets[0] != VERSION or len(octets) > MAX_OCTETS:
        found = f"version {octets[0]}" if octets else "nothing"
        raise WireError(f"{found} in {len(octets)} octets is nothing of version {VERSION}")
    try:
        return decoder.decode(memoryview(octets)[1:])
    except UNREADABLE as error:
        raise WireError(f"not understood: {error}") from error


def _unpack(packed: Packed, family: str) -> Any:
    name, octets = packed
    kind = _FAMILIES[family].get(name)
    if kind is None:
        raise WireError(f"{name!r} is no {family}")
    try:
        return reader(kind)(octets)
    except UNREADABLE as error:
        raise WireError(f"no {family}: {name}: {error}") from error
