"""What auctions one after the other cost, beside the optimum of all requests at once.

All placements are priced alike, by the costs of the empty network (see ``placement``), and
the gap is to the optimum for just those requests that the sequence placed. "Auctions" bid as
agents do, by the network as it is at that time; "fixed prices" is the same sequence with
bids by the prices that everything is measured by; "random" takes any bid.

Run it with ``python benchmarks/bench_optimum.py [--quick]``.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from phalanx.domain.bids import Bid
from placement import Path, Problem, cheapest, in_sequence, problem
from tables import QUICK, console, extra, show

SIZES = ((6, 6),) if QUICK else ((6, 6), (12, 8), (12, 16), (24, 16))
INSTANCES = 3 if QUICK else 30
PATIENCE_S = 20.0

Solver = Callable[[Problem], dict[int, Path]]


def at_random(rng: random.Random) -> Solver:
    def choose(bids: list[tuple[str, Bid]]) -> Bid:
        return rng.choice(bids)[1]

    return lambda p: in_sequence(p, choose)


def solvers() -> dict[str, Solver]:
    return {
        "auctions": lambda p: in_sequence(p, cheapest),
        "fixed prices": lambda p: in_sequence(p, cheapest, fixed_prices=True),
        "random": at_random(random.Random(1)),
    }


def compare(pops: int, requests: int, optimum: Any) -> list[list[str]]:
    """Return the rows of one size."""
    rng = random.Random(f"{pops}/{requests}")
    names = solvers()
    gaps: dict[str, list[float]] = {name: [] for name in names}
    sums = {name: [0.0, 0.0] for name in names}
    rejected = dict.fromkeys((*names, "optimum"), 0)
    seconds: dict[str, list[float]] = {name: [] for name in (*names, "optimum")}
    unproven = 0
    for _ in range(INSTANCES):
        case = problem(rng, pops, requests)
        begin = time.perf_counter()
        best = optimum.solve(case, range(requests), PATIENCE_S)
        seconds["optimum"].append(time.perf_counter() - begin)
        rejected["optimum"] += requests - len(best.placed)
        unproven += not best.proven
        for name, solve in names.items():
            begin = time.perf_counter()
            placed = solve(case)
            seconds[name].append(time.perf_counter() - begin)
            rejected[name] += requests - len(placed)
            same = best
            if placed.keys() != best.placed.keys():
                same = optimum.solve(case, placed.keys(), PATIENCE_S)
            cost, least = case.cost(placed), case.cost(same.placed)
            if same.proven and same.placed.keys() == placed.keys():
                assert cost > least * (1 - 1e-5), "dearer than a sequence: not the optimum"
                sums[name][0] += cost
                sums[name][1] += least
                if least > 0:
                    gaps[name].append(max(0.0, cost / least - 1))
    rows = []
    for name, took in seconds.items():
        found = gaps.get(name, [])
        cost, least = sums.get(name, (0.0, 0.0))
        rows.append(
            [
                f"{pops} PoPs, {requests} requests: {name}",
                f"{cost / least - 1:.1%}" if least else "–",
                f"{statistics.median(found):.1%}" if found else "–",
                f"{max(found):.1%}" if found else "–",
                f"{rejected[name] / requests / INSTANCES:.1%}",
                f"{1e3 * statistics.median(took):.1f}",
                f"{statistics.median(seconds['optimum']) / statistics.median(took):.0f}",
            ]
        )
    if unproven:
        rows[-1][0] += f" ({unproven} not proven)"
    return rows


def main() -> None:
    optimum = extra("optimum")
    rows = []
    with console.status("placing") as status:
        for pops, requests in SIZES:
            status.update(f"{pops} PoPs, {requests} requests")
            rows += compare(pops, requests, optimum)
    show(
        f"Cost above the optimum ({INSTANCES} random problems each)",
        ["", "in all", "median", "worst", "rejected", "ms", "HiGHS ×"],
        rows,
        "in all: the sum of all problems; a single optimum can be next to nothing, since a VNF "
        "at the tap costs\nnothing by eq. 4.3. HiGHS ×: how many times as long the optimum took.",
    )


if __name__ == "__main__":
    main()
