"""Algorithm 1 of the dissertation (section 4.2.2) exactly as it is printed, to compare with.

Its lines 21 to 23 overwrite a node's latency, loss and hops before line 30 knows whether
the new way is better, even those of nodes that were extracted already, and it keeps one
label a node. So it can miss every path that keeps the constraints, find a dearer one,
return one that breaks a constraint, or report a D that is not its path's latency.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

from phalanx.auction.cost import Needs
from phalanx.auction.routes import Limits, PathResult, hop_costs, is_connected, unreachable
from phalanx.auction.view import NetworkView
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.network import PopId


def published_path(
    view: NetworkView, source: PopId, source_cost: float, goal: ConstrainedGoal, needs: Needs
) -> PathResult | str:
    """Return the path of algorithm 1 from ``source`` to the goal's tap, or why it finds none.

    Arguments as of ``phalanx.auction.paths.lowest_cost_path``. Cost, latency, loss and hops
    are the algorithm's labels of the tap as they stand at its end. Where the document leaves
    the order of equal distances open, names decide. Nodes at an infinite distance, which it
    extracts last and to no effect, are left alone.
    """
    key = ("published", source, source_cost, goal.tap, goal.traffic_mb_s, goal.constraints, needs)
    known: PathResult | str | None = view.memo.get(key)
    if known is not None:
        return known
    limits = Limits.of(goal)
    if source not in view.sites or limits.tap not in view.sites:
        return unreachable(view, source, limits)
    return view.remember(key, _search(view, source, source_cost, limits, needs))


def _search(
    view: NetworkView, source: PopId, source_cost: float, limits: Limits, needs: Needs
) -> PathResult | str:
    outgoing, hop, tap = view.outgoing, hop_costs(view, needs), limits.tap
    dist = dict.fromkeys(outgoing, inf)
    prev: dict[PopId, PopId] = {}
    latency = dict.fromkeys(outgoing, 0.0)
    loss = dict.fromkeys(outgoing, 0.0)
    hops = dict.fromkeys(outgoing, 0)
    dist[source] = 0.0
    queue = [(0.0, source)]
    while queue:
        distance, u = heappop(queue)
        if distance > dist[u]:
            continue
        if u == tap:
            path = [tap]
            while path[-1] != source:
                path.append(prev[path[-1]])
            path.reverse()
            return PathResult(tuple(path), dist[tap], latency[tap], loss[tap], hops[tap])
        for v, free, link_latency, link_loss, _ in outgoing[u]:
            latency[v] = link_latency + latency[u]
            loss[v] = loss[u] + (1.0 - loss[u]) * link_loss
            hops[v] = 1 + hops[u]
            if limits.kept_by(latency[v], loss[v], hops[v]) and free >= limits.mb_s:
                weight = free * ((source_cost if u == source else hop[u]) + hop[v])
                if dist[u] + weight < dist[v]:
                    dist[v] = dist[u] + weight
                    prev[v] = u
                    heappush(queue, (dist[v], v))
    if is_connected(view, source, tap):
        return limits.no_path()
    return unreachable(view, source, limits)
