"""Floods whose sources are forged: no source does much, but together they are nobody.

A crowd of honest users looks alike packet for packet: many sources that ask for one connection
each. What tells them apart is that some of the crowd's handshakes complete, whatever the
network loses. Assumption: of honest sources at least one in five gets through while watched
(half of the packets lost in each direction leaves one in four), and the service is alive: a
crowd before a door that is shut for all is taken for forged, as counters cannot tell.

The trials are sources, not packets, since the packets of one source are lost together. The
verdict needs 82 sources at least; such a crowd on the assumption's edge is blamed with a
chance of 10^-8, a larger one with less.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from phalanx.analytics.certainty import confidence, wilson
from phalanx.analytics.sources import SYN_FLOOD, UDP_FLOOD
from phalanx.analytics.tallies import Tally

FORGED = 0.9
"""Share of a target's SYNs (or UDP packets) from silent sources that makes them forged."""
FORGED_S = 200.0
"""Rate of such packets below which they are left alone, in packets/s."""
FEW_SYN = 16
"""A silent source sent so many SYNs at most: who sends more can be judged by itself."""
FEW_PACKETS = 4
"""The same for UDP packets, fewer because one-way streams may be honest."""


class Forgery(Struct, frozen=True):
    """The certainty that the sources of a target's traffic of one protocol are forged."""

    kind: str
    """``syn flood`` or ``udp flood``."""
    evidence: dict[str, float]
    confidence: float


class _Crowd(Struct):
    """All that ask one target for something over one protocol."""

    sources: int = 0
    asked: int = 0
    """SYNs, or UDP packets."""
    silent_sources: int = 0
    """Sources that asked a few times and completed nothing (got no reply)."""
    silent_asked: int = 0

    def add(self, asked: int, *, silent: bool) -> None:
        self.sources += 1
        self.asked += asked
        if silent:
            self.silent_sources += 1
            self.silent_asked += asked


def forgeries(
    tallies: Iterable[Tally], seconds: float, unlisted: int = 0
) -> dict[str, list[Forgery]]:
    """Return, by target, what certainly is a flood from forged sources.

    Args:
        tallies: what was recorded.
        seconds: time in which it was.
        unlisted: packets of flows that the recorder had no room for. They are taken to be
            like the recorded ones, which first come, first served, are a sample of them.

    """
    crowds: dict[tuple[str, str], _Crowd] = {}
    listed = 0
    for tally in tallies:
        listed += tally.packets
        tcp = tally.protocol == "tcp"
        asked = tally.syn if tcp else tally.packets
        if not asked:
            continue
        if tcp:
            silent = asked <= FEW_SYN and not (tally.established or tally.answered)
        else:
            silent = asked <= FEW_PACKETS and not tally.replies
        kind = SYN_FLOOD if tcp else UDP_FLOOD
        crowds.setdefault((tally.target, kind), _Crowd()).add(asked, silent=silent)
    found: dict[str, list[Forgery]] = {}
    scale = 1 + unlisted / listed if listed else 1.0
    for (target, kind), crowd in crowds.items():
        forgery = _judge(kind, crowd, seconds, scale, unlisted)
        if forgery is not None:
            found.setdefault(target, []).append(forgery)
    return found


def _judge(kind: str, crowd: _Crowd, seconds: float, scale: float, unlisted: int) -> Forgery | None:
    share = crowd.silent_asked / crowd.asked
    least = wilson(share * crowd.sources, crowd.sources)[0]
    rate = crowd.silent_asked * scale / seconds
    if least <= FORGED or rate <= FORGED_S:
        return None
    evidence = {
        "silent_sources": crowd.silent_sources,
        "sources": crowd.sources,
        "forged_share": round(share, 6),
        "forged_at_least": round(least, 6),
        "forged_s": round(rate, 3),
        "unlisted": unlisted,
    }
    sure = confidence(share * crowd.sources, crowd.sources, FORGED)
    return Forgery(kind, evidence, sure)
