"""Fixed references of the terms of a bid: what values are divided by to be compared.

Eq. 3.1 scales each term between the least and the largest value of all bids, so that a losing
bid can decide which other one wins, and a difference of milliseconds counts as much as one of
minutes. References depend on the planned network and the goal alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from phalanx.domain.goals import Constraints
from phalanx.domain.network import Link, Network
from phalanx.domain.vnf import Vnfd

LEAST_TIME_S = 10.0
"""Least reference of T: differences of less than a second weigh little, even among VNFs
without an image."""


def references(network: Network, catalogue: Iterable[Vnfd]) -> dict[str, float]:
    """Return the references of T (s), C (MB/s) and D (ms) in ``network``.

    T: what the largest image of the ``catalogue`` takes over a link of mean bandwidth, at least
    ``LEAST_TIME_S``. C: the price across the empty network; D: the latency across it. Across is
    from one PoP that is farthest from the first to the PoP farthest from there, by the cheapest
    way.
    """
    links = network.links
    image_mb = max((vnfd.image_mb for vnfd in catalogue), default=0.0)
    mean = sum(link.bandwidth_mb_s for link in links) / len(links) if links else 0.0
    time_s = max(LEAST_TIME_S, image_mb / mean if mean > 0 else 0.0)
    cost = _span(network, lambda link: 2.0 * link.bandwidth_mb_s)
    return {"T": time_s, "C": cost or 1.0, "D": _span(network, lambda link: link.latency_ms) or 1.0}


def for_goal(known: Mapping[str, float] | None, limits: Constraints) -> Mapping[str, float] | None:
    """Return the references of one goal: a deadline, if it has one, is that of T."""
    deadline = limits.term_limits().get("T")
    return {**known, "T": deadline} if known is not None and deadline else known


def _span(network: Network, length: Callable[[Link], float]) -> float:
    if not network.pops:
        return 0.0
    search = network.distances(length)
    *_, (far, _) = search(network.pops[0].name)
    *_, (_, distance) = search(far)
    return distance
