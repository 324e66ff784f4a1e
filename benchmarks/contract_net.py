"""The messages of one auction without agents: who says what when, and octets as real ones have.

cfp to N, N proposals, one accept-proposal, N - 1 reject-proposals, one inform: 3N + 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from phalanx.bus.wire import encode
from phalanx.domain.goals import Predicate
from phalanx.domain.messages import Message, Performative

CFP, PROPOSE, ACCEPT, REJECT, INFORM = (
    Performative.CFP,
    Performative.PROPOSE,
    Performative.ACCEPT,
    Performative.REJECT,
    Performative.INFORM,
)
SAID = (CFP, PROPOSE, ACCEPT, REJECT, INFORM)
ANSWERS = {CFP: PROPOSE, ACCEPT: INFORM}
"""What a bare bidder says to what it hears."""

HEAD = struct.Struct(">BI")
"""In front of octets that nobody reads: the place of the performative in ``SAID``, the auction."""


class Handled(Predicate, frozen=True):
    """Request ``number`` was dealt with: the goal of every auction here."""

    number: int


class Saying(Struct, frozen=True):
    """Something to say to a bidder."""

    to: str
    performative: Performative
    auction: int


class Caller:
    """Holds any number of auctions at a time, and evaluates nothing. Without I/O."""

    def __init__(self, bidders: Sequence[str]) -> None:
        self.bidders = tuple(bidders)
        self._missing: dict[int, int] = {}

    def begin(self, auction: int) -> list[Saying]:
        """Return the calls for proposals."""
        self._missing[auction] = len(self.bidders)
        return [Saying(bidder, CFP, auction) for bidder in self.bidders]

    def hear(self, performative: Performative, auction: int) -> list[Saying] | None:
        """Return what to say now; None: the auction is over."""
        if performative is INFORM:
            del self._missing[auction]
            return None
        assert performative is PROPOSE, performative
        self._missing[auction] -= 1
        if self._missing[auction]:
            return []
        winner = self.bidders[auction % len(self.bidders)]
        return [Saying(b, ACCEPT if b == winner else REJECT, auction) for b in self.bidders]


def keep_samples(folder: Path, messages: Iterable[Message]) -> dict[Performative, int]:
    """Write one message of each performative, of median length; return the lengths in octets."""
    heard: dict[Performative, list[bytes]] = {said: [] for said in SAID}
    for message in messages:
        heard[message.performative].append(encode(message))
    lengths = {}
    for said, all_octets in heard.items():
        octets = sorted(all_octets, key=len)[(len(all_octets) - 1) // 2]
        (folder / said.value).write_bytes(octets)
        lengths[said] = len(octets)
    return lengths


def samples(folder: Path) -> dict[Performative, bytes]:
    """Return what ``keep_samples`` wrote."""
    return {said: (folder / said.value).read_bytes() for said in SAID}


def headed(performative: Performative, auction: int, octets: bytes) -> bytes:
    """Return octets with what a bare bidder has to know in front."""
    return HEAD.pack(SAID.index(performative), auction) + octets


def head(octets: bytes) -> tuple[Performative, int]:
    """Return performative and auction of what ``headed`` made."""
    place, auction = HEAD.unpack_from(octets)
    return SAID[place], auction
