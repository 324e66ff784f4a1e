"""Paths: the one of lowest cost from a bidder to the tap, and the widest for an image.

The weights are those of algorithm 1 (line 29): link (u, v) costs its free bandwidth times
the sum of its ends' costs, where the bidder's own end counts what its VNF would consume
(eq. 4.4) and every other end what passing it costs (eq. 4.3). Algorithm 1 itself keeps one
label per node and loses paths (``published_path``); ``lowest_cost_path`` does not.

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
3. Else the bidder searches for itself, led by those passes. Labels are set forwards from the
   bidder, in the order of their cost so far plus the least cost to go (A*, with the costs to
   the tap as an exact lower bound). A label is dropped if even the least latency, loss or
   number of hops to go would break a limit, or if another at its node was no dearer and is no
   worse in anything that is limited. So the first label at the tap is the optimum, and if none
   comes there is no such path. A path never visits a PoP twice, since its own label from the
   first visit is no worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import pairwise
from math import inf

from msgspec import Struct

from phalanx.auction.cost import Needs, Pricing, link_weight, passing_cost
from phalanx.auction.view import Arc, NetworkView
from phalanx.domain.goals import ConstrainedGoal
from phalanx.domain.network import PopId
from phalanx.domain.vnf import Vnfd

TOLERANCE = 1e-9
"""How far a figure may exceed its limit: sums of floating-point numbers are not exact."""


class PathResult(Struct, frozen=True):
    """A path from a bidder to the tap."""

    path: tuple[PopId, ...]
    """PoPs from the bidder to the tap, both included."""
    cost: float
    """C: the sum of the link weights, in MB/s."""
    latency_ms: float
    """D: accumulated latency in ms."""
    loss: float
    """Accumulated loss, as a fraction."""
    hops: int


class PathLimits(Struct, frozen=True, cache_hash=True):
    """The hard constraints of a path, with a tolerance; ``inf`` where there is none."""

    tap: PopId
    latency_ms: float
    loss: float
    hops: float
    mb_s: float
    """Bandwidth that must be free on each link; 0 without a constraint."""

    @classmethod
    def of(cls, goal: ConstrainedGoal) -> PathLimits:
        """Return the limits that ``goal`` sets to the path."""
        wanted = goal.constraints
        return cls(
            goal.tap,
            inf if wanted.latency_ms is None else wanted.latency_ms + TOLERANCE,
            inf if wanted.loss is None else wanted.loss + TOLERANCE,
            inf if wanted.hops is None else wanted.hops,
            max(0.0, goal.traffic_mb_s - TOLERANCE),
        )

    def kept_by(self, latency_ms: float, loss: float, hops: int) -> bool:
        """Whether a path with these figures is within the limits."""
        return latency_ms <= self.latency_ms and loss <= self.loss and hops <= self.hops

    def no_path(self, *, latency: bool = True, loss: bool = True, hops: bool = True) -> str:
        """Say that no path has the bandwidth and keeps those of the limits, as a reason."""
        words = []
        if latency and self.latency_ms < inf:
            words.append(f"{self.latency_ms:.6g} ms")
        if loss and self.loss < inf:
            words.append(f"{100 * self.loss:.6g} % loss")
        if hops and self.hops < inf:
            words.append(f"{self.hops:.0f} hop{'' if self.hops == 1 else 's'}")
        bandwidth = f" with {self.mb_s:.6g} MB/s free" if self.mb_s > 0 else ""
        within = f" within {' and '.join(words)}" if words else ""
        return f"no path to {self.tap}{bandwidth}{within}"


def hop_costs(
    view: NetworkView, needs: Needs, pricing: Pricing = "published"
) -> dict[PopId, float]:
    """Return the cost of passing each PoP, kept with the view."""
    key = ("hop costs", needs, pricing)
    known: dict[PopId, float] | None = view.memo.get(key)
    if known is not None:
        return known
    return view.remember(
        key,
        {pop: passing_cost(s.total, s.free, needs, pricing) for pop, s in view.sites.items()},
    )


def is_connected(view: NetworkView, source: PopId, tap: PopId) -> bool:
    """Whether usable links lead from ``source`` to ``tap``, whatever their bandwidth."""
    key = ("connected", tap)
    reached: set[PopId] | None = view.memo.get(key)
    if reached is None:
        incoming = view.incoming
        reached = {tap} & incoming.keys()
        waiting = list(reached)
        while waiting:
            for before, *_ in incoming[waiting.pop()]:
                if before not in reached:
                    reached.add(before)
                    waiting.append(before)
        view.remember(key, reached)
    return source in reached


def unreachable(view: NetworkView, source: PopId, limits: PathLimits) -> str:
    """Say why no link leads on from ``source`` to the tap: cut off, or bandwidth taken."""
    if limits.mb_s > 0 and is_connected(view, source, limits.tap):
        return limits.no_path(latency=False, loss=False, hops=False)
    return f"{limits.tap} cannot be reached"


# -- the exact search ------------------------------------------------------------------------

_Arcs = dict[PopId, list[Arc]]
_CostsToGo = dict[PopId, float]
_Figures = tuple[float, float, int]
"""Latency, loss and hops of a label; 0 where there is no limit to them."""


class _Bounds(Struct, frozen=True):
    """The least latency, loss and hops to the tap, each by itself; empty without a limit."""

    latency_ms: _CostsToGo
    loss: _CostsToGo
    hops: _CostsToGo

    @classmethod
    def of(cls, incoming: _Arcs, limits: PathLimits) -> _Bounds:
        """Find the bounds for all PoPs."""
        return cls(
            _least(incoming, limits, lambda arc, rest: arc[2] + rest, limits.latency_ms),
            _least(incoming, limits, lambda arc, rest: arc[3] + (1 - arc[3]) * rest, limits.loss),
            _least(incoming, limits, lambda _, rest: 1.0 + rest, limits.hops),
        )

    def refusal(self, source: PopId, limits: PathLimits) -> str | None:
        """Name the limits that no path from ``source`` can keep; None if each can be kept."""
        latency = self.latency_ms.get(source, 0.0) > limits.latency_ms
        loss = self.loss.get(source, 0.0) > limits.loss
        hops = self.hops.get(source, 0.0) > limits.hops
        if latency or loss or hops:
            return limits.no_path(latency=latency, loss=loss, hops=hops)
        return None


def _least(
    incoming: _Arcs, limits: PathLimits, extend: Callable[[Arc, float], float], limit: float
) -> _CostsToGo:
    if limit == inf:
        return {}
    reached: _CostsToGo = {}
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


_Label = tuple[float, float, float, int, tuple[PopId, ...]]
"""Cost, latency, loss and hops from a PoP to the tap, and the path."""


def lowest_cost_path(
    view: NetworkView,
    source: PopId,
    source_cost: float,
    goal: ConstrainedGoal,
    needs: Needs,
    pricing: Pricing = "published",
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
        pricing: how PoPs and links are priced.

    """
    limits = PathLimits.of(goal)
    key = (limits, needs, pricing)
    search: _Search | None = view.memo.get(key)
    if search is None:
        search = view.remember(key, _Search(view, limits, needs, pricing))
    return search.find(source, source_cost) or unreachable(view, source, limits)


class _Search:
    """All that bidders share when they look for paths to one tap within the same limits."""

    def __init__(
        self, view: NetworkView, limits: PathLimits, needs: Needs, pricing: Pricing
    ) -> None:
        # Not the view itself: it keeps this, and a circle of the two would outlive its use.
        self._outgoing = view.outgoing
        self._incoming = view.incoming
        self._hop = hop_costs(view, needs, pricing)
        self._weight = link_weight(pricing)
        self.limits = limits
        self._found: dict[tuple[PopId, float], PathResult | str | None] = {}
        self._labels = self._lowest_costs()
        self._bounds: _Bounds | None = None

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
        by_capacity, by_free = self._weight
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
            for before, free, link_latency, link_loss, _, capacity in incoming[pop]:
                if free < least or before in labels:
                    continue
                new = cost + (by_capacity * capacity + by_free * free) * (hop[before] + passing)
                if new <= costs.get(before, inf):
                    costs[before] = new
                    new_loss = link_loss + (1.0 - link_loss) * loss
                    heappush(queue, (new, latency + link_latency, new_loss, hops, before, pop))
        return labels

    def _first_link(self, source: PopId, source_cost: float) -> PathResult:
        """Choose the first link of a PoP that has a label; the rest is its label's path."""
        hop, labels, least = self._hop, self._labels, self.limits.mb_s
        by_capacity, by_free = self._weight
        best: _Label = (inf, inf, inf, 0, ())
        for to, free, link_latency, link_loss, _, capacity in self._outgoing[source]:
            label = labels.get(to)
            if label is None or free < least:
                continue
            cost, latency, loss, hops, path = label
            cost += (by_capacity * capacity + by_free * free) * (source_cost + hop[to])
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
        if self._bounds is None:
            self._bounds = _Bounds.of(self._incoming, limits)
        refusal = self._bounds.refusal(source, limits)
        return refusal or self._led(self._bounds, source, source_cost) or limits.no_path()

    def _led(self, bounds: _Bounds, source: PopId, source_cost: float) -> PathResult | None:
        """Search forwards from ``source``, led by the costs to go and the other bounds."""
        hop, labels, limits = self._hop, self._labels, self.limits
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
                return self._measure(_path(trail), source_cost)
            before = len(trail) - 1
            passing = source_cost if pop == source else hop[pop]
            for arc in self._outgoing[pop]:
                to, free = arc[0], arc[1]
                if free < limits.mb_s or to not in labels:
                    continue
                new = _extend(figures, arc, bounds, limits)
                if new is None or _is_dominated(new, settled.get(to, ())):
                    continue
                number += 1
                total = cost + self._price(arc) * (passing + hop[to])
                heappush(queue, (total + labels[to][0], number, total, to, before, new))
        return None

    def _price(self, arc: Arc) -> float:
        by_capacity, by_free = self._weight
        return by_capacity * arc[5] + by_free * arc[1]

    def _measure(self, path: tuple[PopId, ...], source_cost: float) -> PathResult:
        cost, latency, loss, passing = 0.0, 0.0, 0.0, source_cost
        for pop, after in pairwise(path):
            arc = next(arc for arc in self._outgoing[pop] if arc[0] == after)
            cost += self._price(arc) * (passing + self._hop[after])
            latency += arc[2]
            loss += (1.0 - loss) * arc[3]
            passing = self._hop[after]
        return PathResult(path, cost, latency, loss, len(path) - 1)


def _extend(figures: _Figures, arc: Arc, bounds: _Bounds, limits: PathLimits) -> _Figures | None:
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


# -- algorithm 1 ---------------------------------------------------------------------------


def published_path(
    view: NetworkView, source: PopId, source_cost: float, goal: ConstrainedGoal, needs: Needs
) -> PathResult | str:
    """Return the path of algorithm 1 from ``source`` to the goal's tap, or why it finds none.

    Arguments as of ``phalanx.auction.paths.lowest_cost_path``. Cost, latency, loss and hops
    are the algorithm's labels of the tap as they stand at its end. Where the document leaves
    the order of equal distances open, names decide. Nodes at an infinite distance, which it
    extracts last and to no effect, are left alone.
    """
    limits = PathLimits.of(goal)
    key = ("published", source, source_cost, limits, needs)
    known: PathResult | str | None = view.memo.get(key)
    if known is not None:
        return known
    if source not in view.sites or limits.tap not in view.sites:
        return unreachable(view, source, limits)
    return view.remember(key, _algorithm_1(view, source, source_cost, limits, needs))


def _algorithm_1(
    view: NetworkView, source: PopId, source_cost: float, limits: PathLimits, needs: Needs
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
        for v, free, link_latency, link_loss, *_ in outgoing[u]:
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


# -- downloads ------------------------------------------------------------------------------


def throughputs(view: NetworkView, *sources: PopId) -> dict[PopId, float]:
    """Return the highest throughput from one of ``sources`` to each PoP, in MB/s.

    That is the bottleneck of the widest path, over what is free in the direction of the
    download. PoPs that nothing can reach are left out; the sources' own have ``inf``.
    One pass serves all PoPs and all agents that hold the view.
    """
    key = ("throughputs", sources)
    known: dict[PopId, float] | None = view.memo.get(key)
    if known is not None:
        return known
    outgoing = view.outgoing
    reached: dict[PopId, float] = {}
    queue = [(-inf, source) for source in sources if source in outgoing]
    while queue:
        negated, pop = heappop(queue)
        if pop in reached:
            continue
        width = reached[pop] = -negated
        for to, _, _, _, room, _ in outgoing[pop]:
            if to not in reached and room > 0.0:
                heappush(queue, (-min(width, room), to))
    return view.remember(key, reached)


def download_time_s(view: NetworkView, repository: PopId, pop: PopId, vnfd: Vnfd) -> float | None:
    """Return how long the image of ``vnfd`` takes to ``pop`` from the best source, in s.

    Sources are ``repository`` and all PoPs that are known to have it: 0 at each of these. None
    if no bandwidth is free or the PoP is cut off.
    """
    holders = view.holders.get(vnfd.image, ()) if vnfd.image_mb > 0 else ()
    width = throughputs(view, repository, *holders).get(pop)
    return None if width is None else vnfd.image_mb / width
