"""The cheapest path of one bidder where the cheapest of all breaks a constraint.

Labels are set forwards from the bidder, in the order of their cost so far plus the least
cost to go (A*, with the costs to the tap as an exact lower bound). A label is dropped if
even the least latency, loss or number of hops to go would break a limit, or if another at
its node was no dearer and is no worse in anything that is limited. So the first label at
the tap is the optimum, and if none comes there is no such path. A path never visits a
PoP twice, since its own label from the first visit is no worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

from msgspec import Struct

from phalanx.auction.routes import Limits, PathResult
from phalanx.auction.view import Arc
from phalanx.domain.network import PopId

Arcs = dict[PopId, list[Arc]]
Togo = dict[PopId, float]
_Figures = tuple[float, float, int]
"""Latency, loss and hops of a label; 0 where there is no limit to them."""


class Bounds(Struct, frozen=True):
    """The least latency, loss and hops to the tap, each by itself; empty without a limit."""

    latency_ms: Togo
    loss: Togo
    hops: Togo

    @classmethod
    def of(cls, incoming: Arcs, limits: Limits) -> Bounds:
        """Find the bounds for all PoPs."""
        return cls(
            _least(incoming, limits, lambda arc, rest: arc[2] + rest, limits.latency_ms),
            _least(incoming, limits, lambda arc, rest: arc[3] + (1 - arc[3]) * rest, limits.loss),
            _least(incoming, limits, lambda _, rest: 1.0 + rest, limits.hops),
        )

    def refusal(self, source: PopId, limits: Limits) -> str | None:
        """Name the limits that no path from ``source`` can keep; None if each can be kept."""
        latency = self.latency_ms.get(source, 0.0) > limits.latency_ms
        loss = self.loss.get(source, 0.0) > limits.loss
        hops = self.hops.get(source, 0.0) > limits.hops
        if latency or loss or hops:
            return limits.no_path(latency=latency, loss=loss, hops=hops)
        return None


def _least(
    incoming: Arcs, limits: Limits, extend: Callable[[Arc, float], float], limit: float
) -> Togo:
    if limit == inf:
        return {}
    reached: Togo = {}
    queue = [(0.0, limits.tap)]
    while queue:
        value, pop = heappop(queue)
        if pop in reached:
            continue
        reached[pop] = value
        for arc in incoming[pop]:
            if arc[1] >= limits.mb_s and arc[0] not in reached:
                heappush(queue, (extend(arc, value), arc[0]))
    return reached


def constrained_path(
    outgoing: Arcs,
    hop: dict[PopId, float],
    *,
    togo: Togo,
    bounds: Bounds,
    limits: Limits,
    source: PopId,
    source_cost: float,
) -> PathResult | None:
    """Return the path of lowest cost within all limits; None if there is none.

    Args:
        outgoing: the usable links that leave each PoP.
        hop: the cost of passing each PoP.
        togo: the least cost from each PoP to the tap; PoPs left out cannot reach it.
        bounds: the least of all else to the tap.
        limits: what the path must keep.
        source: where it begins.
        source_cost: what the VNF would consume there.

    """
    settled: dict[PopId, list[_Figures]] = {}
    trail: list[tuple[PopId, int]] = []
    queue = [(0.0, 0, 0.0, source, -1, (0.0, 0.0, 0))]
    number = 0
    while queue:
        _, _, cost, pop, before, figures = heappop(queue)
        here = settled.setdefault(pop, [])
        if _is_dominated(figures, here):
            continue
        here.append(figures)
        trail.append((pop, before))
        if pop == limits.tap:
            return _measure(outgoing, hop, _path(trail), source_cost)
        before = len(trail) - 1
        passing = source_cost if pop == source else hop[pop]
        for arc in outgoing[pop]:
            to, free = arc[0], arc[1]
            if free < limits.mb_s or to not in togo:
                continue
            new = _extend(figures, arc, bounds, limits)
            if new is None or _is_dominated(new, settled.get(to, ())):
                continue
            number += 1
            total = cost + free * (passing + hop[to])
            heappush(queue, (total + togo[to], number, total, to, before, new))
    return None


def _extend(figures: _Figures, arc: Arc, bounds: Bounds, limits: Limits) -> _Figures | None:
    latency, loss, hops = figures
    to = arc[0]
    if bounds.latency_ms:
        latency += arc[2]
        if latency + bounds.latency_ms[to] > limits.latency_ms:
            return None
    if bounds.loss:
        loss += (1.0 - loss) * arc[3]
        if loss + (1.0 - loss) * bounds.loss[to] > limits.loss:
            return None
    if bounds.hops:
        hops += 1
        if hops + bounds.hops[to] > limits.hops:
            return None
    return latency, loss, hops


def _is_dominated(figures: _Figures, others: Iterable[_Figures]) -> bool:
    latency, loss, hops = figures
    return any(a <= latency and b <= loss and c <= hops for a, b, c in others)


def _path(trail: list[tuple[PopId, int]]) -> tuple[PopId, ...]:
    path: list[PopId] = []
    at = len(trail) - 1
    while at >= 0:
        pop, at = trail[at]
        path.append(pop)
    return tuple(reversed(path))


def _measure(
    outgoing: Arcs, hop: dict[PopId, float], path: tuple[PopId, ...], source_cost: float
) -> PathResult:
    cost, latency, loss, passing = 0.0, 0.0, 0.0, source_cost
    for pop, after in pairwise(path):
        arc = next(arc for arc in outgoing[pop] if arc[0] == after)
        cost += arc[1] * (passing + hop[after])
        latency += arc[2]
        loss += (1.0 - loss) * arc[3]
        passing = hop[after]
    return PathResult(path, cost, latency, loss, len(path) - 1)
