"""Paths of bidders: the shared exact search beside networkx, and algorithm 1 beside the truth.

Run it with ``python benchmarks/bench_paths.py``. All is seeded; only the times vary.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from typing import Any

import networkx as nx
from msgspec.structs import replace

from phalanx.auction.cost import Needs, rsc_eval
from phalanx.auction.paths import (
    PathLimits,
    PathResult,
    hop_costs,
    lowest_cost_path,
    published_path,
)
from phalanx.auction.view import NetworkView
from phalanx.domain.agents import AgentState
from phalanx.domain.goals import ConstrainedGoal, Constraints, Preferences, want
from phalanx.domain.network import LinkState
from phalanx.domain.predicates import LinkRateLimited
from phalanx.domain.resources import Resources

NEEDS: Needs = (Resources(1, 1, 2),)
REQUIRED = Resources(1, 2, 10)
INSTANCES = 1000
NO_LIMIT = Constraints()

Ends = list[tuple[int, int]]
_versions = count(2)


def ring(size: int) -> Ends:
    return [(i, (i + 1) % size) for i in range(size)]


def mesh(rng: random.Random, size: int) -> Ends:
    """Link each PoP to an earlier one, then as many more at random: a mean degree of four."""
    links = {(rng.randrange(i), i) for i in range(1, size)}
    wanted = min(2 * size, size * (size - 1) // 2)
    while len(links) < wanted:
        a, b = sorted(rng.sample(range(size), 2))
        links.add((a, b))
    return sorted(links)


def network(rng: random.Random, size: int, links: Ends) -> NetworkView:
    names = [f"pop{i:04d}" for i in range(size)]
    out: list[list[LinkState]] = [[] for _ in range(size)]
    for a, b in links:
        mb_s, ms, loss = rng.uniform(2, 10), rng.uniform(1, 20), rng.uniform(0, 0.01)
        out[a].append(LinkState(names[b], mb_s, ms, loss))
        out[b].append(LinkState(names[a], mb_s, ms, loss))
    total = Resources(8, 16, 500)
    return NetworkView.EMPTY.apply_all(
        AgentState(
            names[i],
            names[i],
            1,
            1,
            total,
            Resources(rng.randint(1, 8), rng.randint(4, 16), rng.randint(100, 500)),
            tuple(out[i]),
        )
        for i in range(size)
    )


def fresh(view: NetworkView) -> NetworkView:
    """Return the same network as a view that was never searched."""
    return view.apply(replace(view.states[0], version=next(_versions)))


def goal(tap: str, constraints: Constraints = NO_LIMIT) -> ConstrainedGoal:
    return ConstrainedGoal(want(LinkRateLimited("a>b")), constraints, Preferences(), 0.0, tap)


def bidders(view: NetworkView) -> list[tuple[str, float]]:
    """Return all PoPs with what the VNF would consume there."""
    return [(s.agent, rsc_eval(s.total, s.free, REQUIRED, NEEDS)) for s in view.states]


def milliseconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


# -- beside networkx -------------------------------------------------------------------


def exact_all(view: NetworkView, asked: ConstrainedGoal) -> dict[str, float]:
    """Let every bidder search: cost by bidder, of those that have a path."""
    found = {pop: lowest_cost_path(view, pop, cost, asked, NEEDS) for pop, cost in bidders(view)}
    return {pop: path.cost for pop, path in found.items() if isinstance(path, PathResult)}


def as_graph(view: NetworkView, *, reverse: bool = False) -> Any:
    hop = hop_costs(view, NEEDS)
    graph: Any = nx.DiGraph()
    for pop, arcs in view.outgoing.items():
        for to, free, *_ in arcs:
            ends = (to, pop) if reverse else (pop, to)
            graph.add_edge(*ends, free=free, weight=free * (hop[pop] + hop[to]))
    return graph


def networkx_each(view: NetworkView, tap: str) -> dict[str, float]:
    """One Dijkstra a bidder, which is what an agent by itself would run."""
    graph, hop = as_graph(view), hop_costs(view, NEEDS)
    costs: dict[str, float] = {}
    for pop, own in bidders(view):

        def weight(u: str, v: str, link: dict[str, float], s: str = pop, c: float = own) -> float:
            return link["free"] * (c + hop[v]) if u == s else link["weight"]

        found: Any = nx.single_source_dijkstra(graph, pop, tap, weight=weight)
        costs[pop] = found[0]
    return costs


def networkx_shared(view: NetworkView, tap: str) -> dict[str, float]:
    """One Dijkstra backwards from the tap, then each bidder's best first link: no paths."""
    graph, hop = as_graph(view, reverse=True), hop_costs(view, NEEDS)
    togo = nx.single_source_dijkstra_path_length(graph, tap)
    return {
        pop: 0.0
        if pop == tap
        else min(togo[to] + free * (own + hop[to]) for to, free, *_ in view.outgoing[pop])
        for pop, own in bidders(view)
    }


def against_networkx(label: str, view: NetworkView) -> None:
    tap = view.pops[len(view) // 3]
    ours, shared = [], []
    for _ in range(9):
        ours.append(milliseconds(partial(exact_all, fresh(view), goal(tap))))
        shared.append(milliseconds(partial(networkx_shared, fresh(view), tap)))
    each = milliseconds(partial(networkx_each, fresh(view), tap))
    exact, other = exact_all(view, goal(tap)), networkx_shared(view, tap)
    assert all(abs(exact[pop] - cost) < 1e-6 for pop, cost in other.items())
    mine, theirs = statistics.median(ours), statistics.median(shared)
    print(
        f"{label:<12}{mine:>8.2f}{theirs:>18.2f} ({theirs / mine:>4.1f}x)"
        f"{each:>18.1f} ({each / mine:>4.0f}x)"
    )


# -- under limits ----------------------------------------------------------------------


def limited(rng: random.Random, free: PathResult) -> Constraints:
    """Return limits on latency, loss and hops around the figures of the unlimited path."""
    factors = [rng.uniform(0.6, 1.2) for _ in range(3)]
    chosen = rng.sample(range(3), rng.randint(1, 3))
    return Constraints(
        latency_ms=free.latency_ms * factors[0] if 0 in chosen else None,
        loss=free.loss * factors[1] if 1 in chosen else None,
        hops=max(1, round(free.hops * factors[2])) if 2 in chosen else None,
    )


def under_limits(label: str, view: NetworkView, rng: random.Random, auctions: int) -> None:
    """Let all bidders of auctions search under limits that a typical bidder's path breaks."""
    whole, worst, detours, refusals = [], 0.0, 0, 0
    for _ in range(auctions):
        new = fresh(view)
        tap = rng.choice(view.pops)
        plain = [lowest_cost_path(view, pop, own, goal(tap), NEEDS) for pop, own in bidders(view)]
        free = sorted((p for p in plain if isinstance(p, PathResult)), key=lambda p: p.cost)
        asked = goal(tap, limited(rng, free[len(free) // 2]))
        total = 0.0
        for (pop, own), without in zip(bidders(view), plain, strict=True):
            took = milliseconds(partial(lowest_cost_path, new, pop, own, asked, NEEDS))
            total, worst = total + took, max(worst, took)
            found = lowest_cost_path(new, pop, own, asked, NEEDS)
            refusals += isinstance(found, str)
            detours += isinstance(found, PathResult) and found != without
        whole.append(total)
    asked_all = auctions * len(view)
    print(
        f"{label:<12}{statistics.median(whole):>10.1f}{max(whole):>10.1f}{worst:>14.1f}"
        f"{detours / asked_all:>12.0%}{refusals / asked_all:>12.0%}"
    )


# -- algorithm 1 as printed ------------------------------------------------------------


def judge(view: NetworkView, source: str, own: float, asked: ConstrainedGoal) -> set[str] | None:
    """Name the faults of algorithm 1 for one bidder; None if there is no path to be found."""
    best = lowest_cost_path(view, source, own, asked, NEEDS)
    if isinstance(best, str):
        return None
    found = published_path(view, source, own, asked, NEEDS)
    if isinstance(found, str):
        return {"no path"}
    arcs = {(u, arc[0]): arc for u in view.pops for arc in view.outgoing[u]}
    latency, kept = 0.0, 1.0
    for hop in pairwise(found.path):
        latency += arcs[hop][2]
        kept *= 1 - arcs[hop][3]
    faults = set()
    if not PathLimits.of(asked).kept_by(latency, 1 - kept, len(found.path) - 1):
        faults.add("breaks a limit")
    elif found.cost > best.cost * (1 + 1e-9):
        faults.add("dearer")
    if abs(found.latency_ms - latency) > 1e-6:
        faults.add("wrong D")
    return faults


def against_algorithm_1(label: str, build: Callable[[random.Random, int], Ends]) -> None:
    rng = random.Random(1)
    faults: Counter[str] = Counter()
    feasible = 0
    while feasible < INSTANCES // 2:
        size = rng.randint(6, 100)
        view = network(rng, size, build(rng, size))
        own = dict(bidders(view))
        for _ in range(5):
            source, tap = rng.sample(view.pops, 2)
            free = lowest_cost_path(view, source, own[source], goal(tap), NEEDS)
            assert isinstance(free, PathResult)
            found = judge(view, source, own[source], goal(tap, limited(rng, free)))
            if found is not None:
                feasible += 1
                faults.update(found)
    print(f"{label:<12}{feasible:>10}", end="")
    for fault in ("no path", "dearer", "breaks a limit", "wrong D"):
        print(f"{faults[fault] / feasible:>16.1%}", end="")
    print()


def main() -> None:
    rng = random.Random(1)
    networks = {
        "ring 96": network(rng, 96, ring(96)),
        "mesh 96": network(rng, 96, mesh(rng, 96)),
        "ring 1,000": network(rng, 1000, ring(1000)),
        "mesh 1,000": network(rng, 1000, mesh(rng, 1000)),
    }
    print("All bidders of one auction without limits, from a view never searched before, in ms")
    print(f"{'':<12}{'exact':>8}{'networkx, one pass':>26}{'networkx, each alone':>26}")
    for label, view in networks.items():
        against_networkx(label, view)
    print("\nThe same under limits on latency, loss or hops, in ms; the first bidder pays for all")
    print(f"{'':<12}{'median':>10}{'worst':>10}{'worst bidder':>14}{'detours':>12}{'refusals':>12}")
    for label, view in networks.items():
        under_limits(label, view, rng, auctions=20 if len(view) < 1000 else 4)
    print("\nAlgorithm 1 as printed, where a path exists")
    print(
        f"{'':<12}{'instances':>10}"
        f"{'no path':>16}{'dearer':>16}{'breaks a limit':>16}{'wrong D':>16}"
    )
    against_algorithm_1("ring", lambda _, size: ring(size))
    against_algorithm_1("mesh", mesh)


if __name__ == "__main__":
    main()
