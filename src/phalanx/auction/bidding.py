"""The bidder's side of a bid: what it would cost to achieve a goal here (section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal

from msgspec import Struct

from phalanx.auction.cost import Pricing, hosting_cost, smallest
from phalanx.auction.paths import TOLERANCE, download_time_s, lowest_cost_path, published_path
from phalanx.auction.terms import BUILT_IN, BidTerm, Offer, bid_values
from phalanx.auction.view import NetworkView
from phalanx.domain.actions import SiteState
from phalanx.domain.agents import AgentId
from phalanx.domain.bids import Bid
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.network import PopId
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import InstanceId, Vnfd

Method = Literal["exact", "published"]
"""How paths are searched: without error, or by algorithm 1 as printed."""


class Reusable(Struct, frozen=True):
    """A running instance that could serve one more goal: idle, or shared."""

    instance: InstanceId
    units: int
    """Units that serve no goal now: all of an idle instance."""
    time_s: float = 0.0
    """How long it takes until it runs, in seconds: the rest of a download."""


def make_bids(
    view: NetworkView,
    pop: PopId,
    goal: ConstrainedGoal,
    catalogue: Sequence[Vnfd],
    candidates: Sequence[Vnfd],
    unheld: Resources,
    reusable: Mapping[str, Reusable],
    repository: PopId,
    method: Method = "exact",
    *,
    pricing: Pricing = "published",
    bidder: AgentId = "",
    terms: Sequence[BidTerm] = BUILT_IN,
) -> tuple[Bid, ...] | str:
    """Return a bid for each VNF with which the agent of ``pop`` can achieve ``goal``.

    The best comes first: least T, then least C, then the first by name (section 4.2). If
    none works, return the reason to refuse.

    An instance that can be used again needs no other download (T = 0 if it runs) and takes
    nothing anew; if it has fewer units than the goal's traffic needs, it takes the resources
    of the rest.

    Args:
        view: the network as the agent believes it to be.
        pop: where the agent stands; its state in ``view`` yields the costs.
        goal: the goal, its constraints, its traffic and where that is tapped.
        catalogue: all VNFs that could be deployed some day (eq. 4.3 and 4.4 ask for them).
        candidates: those that could achieve this goal.
        unheld: resources that are neither allocated nor held for other proposals; a VNF must
            fit into them (eq. 4.1).
        reusable: instances that could be used, by the name of their VNF.
        repository: the PoP that images are downloaded from.
        method: how paths are searched; algorithm 1 as printed only with the published prices.
        pricing: how PoPs and links are priced.
        bidder: the agent that bids; empty: it has the name of its PoP.
        terms: the terms that it knows.

    """
    own = view.site(pop)
    if own is None:
        return f"nothing is known of {pop}"
    if not candidates:
        return f"no capability achieves {goal.goal}"
    needs = smallest(tuple(catalogue))
    wanted = goal.constraints.accuracy

    def bid_with(vnfd: Vnfd) -> Bid | str:
        if wanted is not None and vnfd.accuracy < wanted - TOLERANCE:
            return f"accuracy {vnfd.accuracy:g}, at least {wanted:g} wanted"
        units, reuse = vnfd.units_for(goal.traffic_mb_s), reusable.get(vnfd.name)
        required = vnfd.scaled(units if reuse is None else max(0, units - reuse.units))
        lacking = required.lacking(unheld)
        if lacking is not None:
            return lacking
        time_s = reuse.time_s if reuse else download_time_s(view, repository, pop, vnfd)
        if time_s is None:
            holders = ", ".join((repository, *view.holders.get(vnfd.image, ())))
            return f"{vnfd.name} cannot be downloaded: no bandwidth free from {holders}"
        source_cost = hosting_cost(own.total, own.free, required, needs, pricing)
        if method == "published":
            path = published_path(view, pop, source_cost, goal, needs)
        else:
            path = lowest_cost_path(view, pop, source_cost, goal, needs, pricing)
        if isinstance(path, str):
            return path
        figures = (time_s, path.cost, path.latency_ms)
        who = bidder or pop, pop
        offer = Offer(view, *who, goal, vnfd.name, units, path.path, *figures, required)
        values = bid_values(terms, offer)
        if isinstance(values, str):
            return values
        instance = None if reuse is None else reuse.instance
        return Bid(vnfd.name, units, values, path.path, instance, vnfd.accuracy)

    answers = {vnfd.name: bid_with(vnfd) for vnfd in candidates}
    bids = [answer for answer in answers.values() if isinstance(answer, Bid)]
    if bids:
        return tuple(sorted(bids, key=lambda bid: (bid.terms["T"], bid.terms["C"], bid.vnf)))
    if len(set(answers.values())) == 1:
        return next(str(reason) for reason in answers.values())
    return "; ".join(f"{vnf}: {reason}" for vnf, reason in answers.items())


def contradiction(
    bid: Bid,
    pop: PopId,
    site: SiteState,
    vnfd: Vnfd,
    catalogue: Sequence[Vnfd],
    repository: PopId,
    pricing: Pricing,
) -> str | None:
    """Return what in a bid cannot be so at the bidder's PoP; None: it may be as it says.

    A bidder prices by its view, which may be old, and wrong where others lie. So a bid is held
    only against what the bidder knows at first hand and what does not change: the least that the
    first link of its path can cost and the shortest time over its widest link.

    Args:
        bid: what was said.
        pop: where the bidder stands.
        site: that PoP, with all images that it ever had.
        vnfd: what is offered.
        catalogue: as of ``make_bids``.
        repository: the PoP that images are downloaded from.
        pricing: how PoPs and links are priced.

    """
    if bid.path[:1] != (pop,) or not {"T", "C"} <= bid.terms.keys():
        return f"it lacks T, C or a path from {pop}"
    slack = 1.0 - TOLERANCE
    widest = max((link.bandwidth_mb_s for link in site.links), default=0.0)
    version = f"{vnfd.name} "  # whichever it was: there may be another one by now
    fetched = bid.reuse is None and pop != repository and vnfd.image_mb > 0
    if fetched and not any(image.startswith(version) for image in site.images):
        least_s = vnfd.image_mb / widest if widest > 0 else inf
        if not bid.terms["T"] >= least_s * slack:
            return f"T {bid.terms['T']:g} s, its image takes {least_s:.3g} s at least"
    if len(bid.path) < 2:
        return None
    first = next((link for link in site.links if link.to == bid.path[1]), None)
    if first is None:
        return f"no link leads to {bid.path[1]}"
    if pricing != "published":  # there a link, or a PoP, in full use costs nothing
        required = NOTHING if bid.reuse else vnfd.scaled(bid.units)
        needs = smallest(tuple(catalogue))
        hosting = hosting_cost(site.total, site.total, required, needs, pricing)
        least = first.bandwidth_mb_s * (hosting + 1.0)
        if not bid.terms["C"] >= least * slack:
            return f"C {bid.terms['C']:g}, the way to {first.to} costs {least:.4g} at least"
    return None
