"""The path of lowest cost from a bidder to the tap under hard constraints, exactly.

The weights are those of algorithm 1 (line 29): link (u, v) costs its free bandwidth times
the sum of its ends' costs, where the bidder's own end counts what its VNF would consume
(eq. 4.4) and every other end what passing it costs (eq. 4.3). Algorithm 1 itself keeps one
label a node and loses paths (``phalanx.auction.published``); this search does not.

All bidders of an auction share the work, for only the first link depends on the bidder:

1. One pass of Dijkstra's algorithm backwards from the tap, with hop costs throughout. A
   bidder takes the best of its own links, each followed by that pass's path. If this keeps
   the constraints it is the optimum. It never leads through the bidder itself: going on
   from the second visit straight away saves hops and is no dearer, since what a VNF
   consumes is at most what is free, so ``rsc_eval <= rsc_eval_hop`` for a bidder that has
   room for the VNF (and floating-point sums keep that order). Where an outdated view says
   otherwise, this step is left out.
2. Else three more passes find the least latency, loss and number of hops to the tap. They
   tell most of the bidders that have no path, and bound the last step.
3. Else the bidder searches for itself, led by those passes (``constrained``).
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

from phalanx.auction.constrained import Bounds, constrained_path
from phalanx.auction.cost import Needs
from phalanx.auction.routes import Limits, PathResult, hop_costs, unreachable
from phalanx.auction.view import NetworkView
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.network import PopId

_Label = tuple[float, float, float, int, tuple[PopId, ...]]
"""Cost, latency, loss and hops from a PoP to the tap, and the path."""


def lowest_cost_path(
    view: NetworkView, source: PopId, source_cost: float, goal: ConstrainedGoal, needs: Needs
) -> PathResult | str:
    """Return the path of lowest cost from ``source`` to the goal's tap, or why there is none.

    Among paths of lowest cost the choice is deterministic; without the constraints it is
    the one of least latency, loss and hops. A bidder at the tap has the path of one PoP.

    Args:
        view: the network; results are kept with it.
        source: where the bidder stands.
        source_cost: what its VNF would consume (eq. 4.4).
        goal: names the tap, the traffic and the constraints.
        needs: the catalogue's requirements (``phalanx.auction.cost.smallest``).

    """
    key = (goal.tap, goal.traffic_mb_s, goal.constraints, needs)
    search: _Search | None = view.memo.get(key)
    if search is None:
        search = view.remember(key, _Search(view, Limits.of(goal), needs))
    return search.find(source, source_cost) or unreachable(view, source, search.limits)


class _Search:
    """All that bidders share when they look for paths to one tap within the same limits."""

    def __init__(self, view: NetworkView, limits: Limits, needs: Needs) -> None:
        # Not the view itself: it keeps this, and a circle of the two would outlive its use.
        self._outgoing = view.outgoing
        self._incoming = view.incoming
        self._hop = hop_costs(view, needs)
        self.limits = limits
        self._found: dict[tuple[PopId, float], PathResult | str | None] = {}
        self._labels = self._lowest_costs()
        self._led_by: tuple[Bounds, dict[PopId, float]] | None = None

    def find(self, source: PopId, source_cost: float) -> PathResult | str | None:
        """Return the path, or the limits that none keeps; None if no link leads to the tap."""
        key = source, source_cost
        known = self._found.get(key)
        if known is None:
            known = self._found[key] = self._search(source, source_cost)
        return known

    def _search(self, source: PopId, source_cost: float) -> PathResult | str | None:
        limits = self.limits
        if source == limits.tap:
            return PathResult((source,), 0.0, 0.0, 0.0, 0)
        if source not in self._labels:
            return None
        if source_cost <= self._hop[source]:
            best = self._first_link(source, source_cost)
            if limits.kept_by(best.latency_ms, best.loss, best.hops):
                return best
        return self._constrained(source, source_cost)

    def _lowest_costs(self) -> dict[PopId, _Label]:
        """Find the path of least (cost, latency, loss, hops) to the tap from every PoP."""
        incoming, hop = self._incoming, self._hop
        tap, least = self.limits.tap, self.limits.mb_s
        labels: dict[PopId, _Label] = {}
        costs: dict[PopId, float] = {}
        queue: list[tuple[float, float, float, int, PopId, PopId]] = []
        if tap in incoming:
            queue.append((0.0, 0.0, 0.0, 0, tap, ""))
        while queue:
            cost, latency, loss, hops, pop, after = heappop(queue)
            if pop in labels:
                continue
            path: tuple[PopId, ...] = (pop,)
            if after:
                path += labels[after][4]
            labels[pop] = cost, latency, loss, hops, path
            passing = hop[pop]
            hops += 1
            for before, free, link_latency, link_loss, _ in incoming[pop]:
                if free < least or before in labels:
                    continue
                new = cost + free * (hop[before] + passing)
                if new <= costs.get(before, inf):
                    costs[before] = new
                    new_loss = link_loss + (1.0 - link_loss) * loss
                    heappush(queue, (new, latency + link_latency, new_loss, hops, before, pop))
        return labels

    def _first_link(self, source: PopId, source_cost: float) -> PathResult:
        """Choose the first link of a PoP that has a label; the rest is its label's path."""
        hop, labels, least = self._hop, self._labels, self.limits.mb_s
        best: _Label = (inf, inf, inf, 0, ())
        for to, free, link_latency, link_loss, _ in self._outgoing[source]:
            label = labels.get(to)
            if label is None or free < least:
                continue
            cost, latency, loss, hops, path = label
            cost += free * (source_cost + hop[to])
            if cost <= best[0]:
                loss = link_loss + (1.0 - link_loss) * loss
                best = min(best, (cost, latency + link_latency, loss, hops + 1, path))
        cost, latency, loss, hops, path = best
        whole = labels[source][4]  # mostly goes the same way: then it need not be copied
        if whole[1] != path[0]:
            whole = (source, *path)
        return PathResult(whole, cost, latency, loss, hops)

    def _constrained(self, source: PopId, source_cost: float) -> PathResult | str:
        limits = self.limits
        if self._led_by is None:
            togo = {pop: label[0] for pop, label in self._labels.items()}
            self._led_by = Bounds.of(self._incoming, limits), togo
        bounds, togo = self._led_by
        refusal = bounds.refusal(source, limits)
        if refusal is not None:
            return refusal
        return (
            constrained_path(
                self._outgoing,
                self._hop,
                togo=togo,
                bounds=bounds,
                limits=limits,
                source=source,
                source_cost=source_cost,
            )
            or limits.no_path()
        )
