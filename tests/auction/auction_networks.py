"""Networks to bid in: the dissertation's, and random ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

from phalanx.auction.cost import Pricing, passing_cost, smallest
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.network import LinkState, PopId
from phalanx.domain.predicates import LinkRateLimited
from phalanx.domain.resources import NOTHING, Resources
from phalanx.domain.vnf import Vnfd

# Dissertation, table 5.6.
LINK_MONITOR = Vnfd("link-monitor", Resources(1, 1, 2))
RATE_LIMITER = Vnfd("rate-limiter", Resources(1, 1, 2))
ANOMALY_DETECTOR = Vnfd("anomaly-detector", Resources(1, 2, 10), handles_mb_s=2.0)
CLASSIFIER = Vnfd("classifier", Resources(2, 4, 10), handles_mb_s=1.0)
LOAD_BALANCER = Vnfd("load-balancer", Resources(1, 1, 2))
CATALOGUE = (LINK_MONITOR, RATE_LIMITER, ANOMALY_DETECTOR, CLASSIFIER, LOAD_BALANCER)
NEEDS = smallest(CATALOGUE)

# A topology that fits table 5.8: (bandwidth in MB/s, latency in ms); 2.5 % loss a link.
LINKS = {
    ("1", "5"): (10, 10),
    ("1", "2"): (9, 5.5),
    ("5", "6"): (8, 14),
    ("4", "6"): (7, 19),
    ("1", "4"): (5, 8),
    ("2", "3"): (5, 6.5),
    ("3", "4"): (5, 14.5),
}
TOTALS = {
    "1": Resources(6, 6, 700),
    "2": Resources(4, 6, 400),
    "3": Resources(2, 4, 1000),
    "4": Resources(2, 6, 1000),
    "5": Resources(4, 6, 400),
    "6": Resources(2, 4, 500),
}
REPOSITORY = "5"
LOSS = 0.025

ALIKE = Preferences()

Reservations = dict[tuple[PopId, PopId], float]


def dissertation(
    used: dict[PopId, Resources] | None = None, reserved: Reservations | None = None
) -> NetworkView:
    """The network of section 5.3, less what is used and reserved (by direction)."""
    used, reserved = used or {}, reserved or {}
    return NetworkView.EMPTY.apply_all(
        AgentState(
            pop,
            pop,
            1,
            1,
            total,
            total - used.get(pop, NOTHING),
            tuple(
                LinkState(to, mb_s, ms, LOSS, reserved.get((pop, to), 0.0))
                for to, mb_s, ms in _links_of(pop)
            ),
        )
        for pop, total in TOTALS.items()
    )


def _links_of(pop: PopId) -> Iterator[tuple[PopId, float, float]]:
    for (a, b), (mb_s, ms) in LINKS.items():
        if pop in (a, b):
            yield (b if pop == a else a), mb_s, ms


def asked(
    tap: PopId,
    *,
    traffic_mb_s: float = 0.0,
    latency_ms: float | None = None,
    loss: float | None = None,
    hops: int | None = None,
    accuracy: float | None = None,
    preferences: Preferences = ALIKE,
) -> ConstrainedGoal:
    return ConstrainedGoal(
        want(LinkRateLimited("a>b")),
        Constraints(latency_ms, loss, hops, accuracy),
        preferences,
        traffic_mb_s,
        tap,
    )


def network(
    pops: Iterable[tuple[PopId, Resources, Resources]],
    links: Iterable[tuple[PopId, PopId, float, float, float, float, float]],
) -> NetworkView:
    """A view of PoPs (name, total, free) and links (a, b, MB/s, ms, loss, reserved a>b, b>a)."""
    out: dict[PopId, list[LinkState]] = {}
    for a, b, mb_s, ms, loss, forth, back in links:
        out.setdefault(a, []).append(LinkState(b, mb_s, ms, loss, forth))
        out.setdefault(b, []).append(LinkState(a, mb_s, ms, loss, back))
    return NetworkView.EMPTY.apply_all(
        AgentState(pop, pop, 1, 1, total, free, tuple(out.get(pop, ())))
        for pop, total, free in pops
    )


def random_network(rng: random.Random, size: int, extra: int) -> NetworkView:
    """A random tree of ``size`` PoPs and ``extra`` more links between near names."""
    names = [f"p{i:04d}" for i in range(size)]
    pops = []
    for name in names:
        total = Resources(rng.randint(1, 8), rng.randint(2, 16), rng.randint(100, 1000))
        used = rng.choice((0.0, 0.0, 0.5, 1.0))
        free = Resources(*(round(x * (1 - used)) for x in _figures(total)))
        pops.append((name, total, free))
    pairs = {(rng.randrange(max(0, i - 8), i), i) for i in range(1, size)}
    while len(pairs) < min(size - 1 + extra, size * (size - 1) // 2):
        a, b = sorted(rng.sample(range(size), 2))
        pairs.add((a, b))
    links = [
        (
            names[a],
            names[b],
            float(rng.randint(2, 10)),
            float(rng.randint(1, 20)),
            rng.choice((0.0, 0.005, 0.01, 0.025)),
            rng.choice((0.0, 0.0, 1.0)),
            rng.choice((0.0, 0.0, 1.0)),
        )
        for a, b in sorted(pairs)
    ]
    return network(pops, links)


def _figures(resources: Resources) -> tuple[float, float, float]:
    return resources.cores, resources.memory_gb, resources.disk_gb


def simple_paths(view: NetworkView, source: PopId, tap: PopId) -> Iterator[tuple[PopId, ...]]:
    """All paths that visit no PoP twice."""

    def onwards(path: tuple[PopId, ...]) -> Iterator[tuple[PopId, ...]]:
        if path[-1] == tap:
            yield path
            return
        for to, *_ in view.outgoing[path[-1]]:
            if to not in path:
                yield from onwards((*path, to))

    yield from onwards((source,))


def measured(
    view: NetworkView,
    path: tuple[PopId, ...],
    source_cost: float,
    pricing: Pricing = "published",
) -> tuple[float, float, float, float]:
    """Cost, latency, loss and least free bandwidth of a path, straight from the text."""
    cost, latency, kept, free = 0.0, 0.0, 1.0, float("inf")
    for u, v in pairwise(path):
        here, there = view.get(u), view.get(v)
        assert here is not None
        assert there is not None
        link = next(x for x in here.links if x.to == v)
        back = next(x for x in there.links if x.to == u)
        left = link.bandwidth_mb_s - link.reserved_mb_s - back.reserved_mb_s
        used = 1 - left / link.bandwidth_mb_s
        whole = link.bandwidth_mb_s
        price = {"published": left, "capacity": whole, "scarcity": whole * (1 + used)}[pricing]
        own, other = (passing_cost(s.total, s.free, NEEDS, pricing) for s in (here, there))
        cost += price * ((source_cost if u == path[0] else own) + other)
        latency += link.latency_ms
        kept *= 1 - link.loss
        free = min(free, left)
    return cost, latency, 1 - kept, free
