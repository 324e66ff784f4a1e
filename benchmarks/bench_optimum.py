"""What auctions one after the other cost, beside the optimum of all requests at once.

All placements are priced alike, by eq. 4.3 and 4.4 in the empty network (see ``placement``), and
the gap is to the optimum for just those requests that were placed. Since that yardstick is made
of the terms that bids are made of, the traffic on all links and the cores in use are shown, too,
beside the least traffic that is possible.

Bids are by the published prices, by total capacity, or by scarcity: so, and dearer the fuller.
Improvement ejects up to three requests at a time and auctions them again; "unbroken", only where
each VNF can run at its new place before the old one stops.

Run it with ``python benchmarks/bench_optimum.py [--quick]``.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from phalanx.auction.cost import Pricing
from placement import Placed, Problem, Sequence, cheapest, problem
from tables import QUICK, console, extra, show

SIZES = ((6, 6),) if QUICK else ((6, 6), (12, 8), (12, 16), (24, 16))
INSTANCES = 3 if QUICK else 10
PATIENCE_S = 20.0
MOST = 3
"""Requests of one exchange."""
MOST_UNBROKEN = 4
"""The same where nothing stops: fewer exchanges are possible then, so larger ones count."""

Solver = Callable[[Problem], tuple[Placed, int]]
"""Returns what was placed, and the messages it took."""


def in_sequence(pricing: Pricing, *, improved: bool = False, unbroken: bool = True) -> Solver:
    """Return how to place requests one after the other."""

    def solve(case: Problem) -> tuple[Placed, int]:
        sequence = Sequence(case)
        sequence.run(cheapest, pricing)
        if improved:
            sequence.improve(MOST_UNBROKEN if unbroken else MOST, unbroken=unbroken)
        return sequence.placed, sequence.messages

    return solve


SOLVERS: dict[str, Solver] = {
    "published prices": in_sequence("published"),
    "by capacity": in_sequence("capacity"),
    "by scarcity": in_sequence("scarcity"),
    "  + unbroken": in_sequence("scarcity", improved=True),
    "  + improvement": in_sequence("scarcity", improved=True, unbroken=False),
}


class Tally:
    """What one way of placing came to in all problems of one size."""

    def __init__(self) -> None:
        self.cost = self.least = self.worst = self.traffic = self.least_traffic = 0.0
        self.cores = self.seconds = 0.0
        self.placed = self.messages = 0
        self.unproven = 0

    def add(self, case: Problem, placed: Placed, best: Placed, fewest: Placed) -> None:
        """Count one problem; the optima are those for the requests that were placed."""
        cost, least = case.cost(placed), case.cost(best)
        assert cost > least * (1 - 1e-5), "dearer than a sequence: not the optimum"
        by_hops = replace(case, by_hops=True)
        self.cost, self.least = self.cost + cost, self.least + least
        self.worst = max(self.worst, cost / least - 1) if least > 0 else self.worst
        self.traffic += by_hops.cost(placed)
        self.least_traffic += by_hops.cost(fewest)
        self.cores += sum(case.requests[n].vnfd.requires.cores for n in placed)
        self.placed += len(placed)

    def row(self, name: str, asked: int, pops: int) -> list[str]:
        """Return the line of the table."""
        return [
            f"{pops} PoPs, {asked} requests: {name}" + ("*" if self.unproven else ""),
            f"{self.cost / self.least - 1:.1%}",
            f"{self.worst:.0%}",
            f"{1 - self.placed / asked / INSTANCES:.1%}",
            f"{self.traffic / INSTANCES:.1f}",
            f"{self.traffic / self.least_traffic - 1:.0%}",
            f"{self.cores / INSTANCES:.1f}",
            f"{self.messages / asked / INSTANCES:.0f}" if self.messages else "–",
            f"{1e3 * self.seconds / INSTANCES:.0f}",
        ]


def compare(pops: int, asked: int, optimum: Any) -> list[list[str]]:
    """Return the rows of one size."""
    rng = random.Random(f"{pops}/{asked}")
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for _ in range(INSTANCES):
        case = problem(rng, pops, asked)
        known: dict[tuple[bool, frozenset[int]], Any] = {}

        def best(wanted: Placed | range, case: Problem, *, known: Any = known) -> Any:
            key = case.by_hops, frozenset(wanted)
            if key not in known:
                known[key] = optimum.solve(case, list(wanted), PATIENCE_S)
            return known[key]

        by_hops = replace(case, by_hops=True)
        found: dict[str, tuple[Placed, int, float]] = {}
        for name, solve in SOLVERS.items():
            begin = time.perf_counter()
            placed, messages = solve(case)
            found[name] = placed, messages, time.perf_counter() - begin
        for name, of in (("optimum", case), ("least traffic", by_hops)):
            begin = time.perf_counter()
            placed = best(range(asked), of).placed
            found[name] = placed, 0, time.perf_counter() - begin
        for name, (placed, messages, seconds) in found.items():
            one, two = best(placed, case), best(placed, by_hops)
            tally = tallies[name]
            tally.messages, tally.seconds = tally.messages + messages, tally.seconds + seconds
            if one.proven and two.proven:
                tally.add(case, placed, one.placed, two.placed)
            else:
                tally.unproven += 1
    return [tally.row(name, asked, pops) for name, tally in tallies.items()]


def main() -> None:
    optimum = extra("optimum")
    rows = []
    with console.status("placing") as status:
        for pops, requests in SIZES:
            status.update(f"{pops} PoPs, {requests} requests")
            rows += compare(pops, requests, optimum)
    show(
        f"Placements beside the optimum ({INSTANCES} random problems each)",
        ["", "above", "worst", "rej.", "MB/s×hops", "above", "cores", "msgs", "ms"],
        rows,
        "above: the cost of all problems above the optimum, then the traffic on all links above "
        "the least; for the\nrequests that were placed. worst: of one problem. msgs: for each "
        "request. ms: one problem. *: without\nproblems whose optimum was not found.",
    )


if __name__ == "__main__":
    main()
