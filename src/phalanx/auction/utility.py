"""The auctioneer's side of a bid: its utility (dissertation, eq. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid, RankedBid
from phalanx.domain.goals import Preferences

_NOISE = 1e-9
"""Values this close, relative to the larger, are one value: arithmetic, not a difference."""

_DIGITS = 12
"""Digits of a utility that count when two are compared."""


def rank(bids: Sequence[tuple[AgentId, Bid]], preferences: Preferences) -> list[RankedBid]:
    """Return all bids with their utility, the winner (least utility) first.

    Each component is normalised to [0, 1] between its least and its largest value among all
    ``bids``; decentralisation counts the other way round, as (1 - D). A component in which
    all bids are equal cannot tell them apart and adds 0, so a lone bid has utility 0.

    Ties go to the least T, then the least C, the largest D, the largest accuracy, and then
    to the bidder and the VNF that come first by name.
    """
    if not bids:
        return []
    time = _scale([bid.time_s for _, bid in bids])
    cost = _scale([bid.cost for _, bid in bids])
    nearness = _scale([-bid.latency_ms for _, bid in bids])
    ranked = [
        RankedBid(
            bidder,
            bid,
            round(
                preferences.time * t + preferences.cost * c + preferences.decentralisation * d,
                _DIGITS,
            ),
        )
        for (bidder, bid), t, c, d in zip(bids, time, cost, nearness, strict=True)
    ]
    ranked.sort(key=_order)
    return ranked


def _scale(values: list[float]) -> list[float]:
    least, most = min(values), max(values)
    spread = most - least
    if spread <= _NOISE * max(abs(least), abs(most)):
        return [0.0] * len(values)
    return [(value - least) / spread for value in values]


def _order(ranked: RankedBid) -> tuple[float, float, float, float, float, str, str]:
    bid = ranked.bid
    return (
        ranked.utility,
        bid.time_s,
        bid.cost,
        -bid.latency_ms,
        -bid.accuracy,
        ranked.bidder,
        bid.vnf,
    )
