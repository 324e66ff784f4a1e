"""What a bidder can offer for a call, and what it has to hold so that the offer stands."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from phalanx.auction.bidding import Reusable, make_bids
from phalanx.auction.estate import Estate
from phalanx.auction.outlook import Outlook
from phalanx.auction.settings import Settings
from phalanx.bdi import Agent
from phalanx.domain.bids import Bid
from phalanx.domain.messages import CallForProposals
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import InstanceId


def offer(
    me: Agent,
    estate: Estate,
    settings: Settings,
    call: CallForProposals,
    unheld: Resources,
    offered: Container[InstanceId | None] = (),
) -> tuple[Bid, ...] | str:
    """Return the bids for ``call``, best first, or the reason to refuse.

    Args:
        me: the bidding agent.
        estate: the instances that it runs.
        settings: what the repository offers.
        call: what is wanted.
        unheld: resources that are neither allocated nor held for another proposal.
        offered: instances that another open proposal would use again.

    """
    if me.pop is None:
        return f"{me.name} stands at no PoP"
    if call.goal.goal.predicate.at_tap and call.goal.tap != me.pop:
        return f"only {call.goal.tap} can, where the traffic is"
    catalogue = settings.catalogue
    able = me.library.achievers(call.goal.goal)
    candidates = [catalogue[c.name] for c in able if c.name in catalogue]
    if not candidates:
        return "no function in the repository can achieve it"
    reusable: dict[str, Reusable] = {}
    for vnfd in candidates if len(estate) else ():
        instance = estate.available(vnfd, offered)
        if instance is not None and (instance.running or call.goal.traffic_mb_s <= 0):
            runs_in = 0.0 if instance.running else max(0.0, instance.due - me.now)
            reusable[vnfd.name] = Reusable(instance.id, instance.units, runs_in)
    outlook: Outlook = me.capability(Outlook)
    bids = make_bids(
        outlook.view,
        me.pop,
        call.goal,
        tuple(catalogue.values()),
        candidates,
        unheld,
        reusable,
        settings.repository,
        method=settings.method,
    )
    if isinstance(bids, str):
        return bids
    # One hold has one path: alternatives over another path than the best are left out.
    return tuple(bid for bid in bids if bid.path == bids[0].path)


def needs(estate: Estate, settings: Settings, bids: tuple[Bid, ...]) -> Resources:
    """Return what a hold must cover so that any one of ``bids`` can be accepted."""
    most = NOTHING
    for bid in bids:
        instance = estate.get(bid.reuse)
        units = bid.units
        if bid.reuse is not None:
            units = max(0, units - instance.units) if instance is not None else 0
        most = most.most(settings.catalogue[bid.vnf].scaled(units))
    return most


def bid_row(bid: Bid) -> dict[str, Any]:
    """Return a bid as the log shows it (a line of table 5.8)."""
    return {
        "vnf": bid.vnf,
        "units": bid.units,
        "T": round(bid.time_s, 6),
        "C": round(bid.cost, 6),
        "D": round(bid.latency_ms, 6),
        "path": list(bid.path),
        "reuse": bid.reuse,
    }
