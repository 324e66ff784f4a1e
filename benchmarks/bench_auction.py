"""One whole auction with all its bids, beside bare queues and beside SPADE.

Phalanx: cfp to N agents; each evaluates its bid with an exact path search, holds resources
and the path at the simulated network, proposes and records it; one is awarded and works on a
VNF that it runs already, the others are rejected and give back what they hold. Beside it,
without any bid: the same 3N + 1 messages over asyncio queues, and among SPADE agents.

Run it with ``python benchmarks/bench_auction.py [--quick]``.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable

import queue_net
from market import Ends, Market, mesh, ring
from tables import QUICK, console, extra, milliseconds, show

SIZES = (6, 24) if QUICK else (6, 24, 96, 1000)
SPADE_MOST = 96
"""SPADE takes 0.1 s to start an agent."""
AIM_QUEUES = 4
"""How many times as long as bare queues an auction may take."""
AIM_SPADE = 4
"""How many times as long SPADE is to take."""


def repetitions(size: int) -> int:
    return 5 if QUICK else max(7, min(60, 4000 // size))


def phalanx(ends: Ends, size: int) -> tuple[float, float, set[int]]:
    """Return the ms of an auction, warm and cold, and how many messages were sent."""
    market = Market(ends, size)
    for _ in range(3):
        market.change_view()
        market.auction()
    gc.collect()
    warm: list[float] = []
    cold: list[float] = []
    messages = set()
    for _ in range(repetitions(size)):
        for changed, times in ((True, cold), (False, warm)):
            if changed:
                market.change_view()
            took, sent = market.auction()
            times.append(took)
            messages.add(sent)
    return milliseconds(warm), milliseconds(cold), messages


Figure = tuple[int, str, float, float, float]
"""Bidders, network, and ms: warm, cold, queues."""


def other(auctions: Callable[[int, int], list[float]], size: int) -> float:
    gc.collect()
    return milliseconds(auctions(size, repetitions(size) + 3)[3:])


def _beside_the_aim(figures: list[Figure], theirs: dict[int, float]) -> None:
    """Say how far the largest auction that SPADE can hold too is from what is aimed at."""
    size = max((f[0] for f in figures if f[0] <= SPADE_MOST), default=0)
    cold = max(f[3] / f[4] for f in figures if f[0] == size)
    line = f"Aim at {size} bidders: at most {AIM_QUEUES} times the queues; now {cold:.0f} times."
    if size in theirs:
        slowest = max(f[3] for f in figures if f[0] == size)
        line += f" At least {AIM_SPADE} times faster than SPADE; now {theirs[size] / slowest:.1f}."
    console.print(
        f"{line}\nWhat stands in the way: some 360 calls of Python functions a bidder, of which "
        "evaluating takes 20 %,\nholding 15 %, the auctioneer's part 13 %, recording 11 %, and "
        "four passes through bus, node and agent the rest."
    )


def main() -> None:
    spade = None if QUICK else extra("spade_net")
    figures: list[Figure] = []
    for size in SIZES:
        queues = other(queue_net.auctions, size)
        for label, ends in (("ring", ring(size)), ("mesh", mesh(size, random.Random(size)))):
            warm, cold, messages = phalanx(ends, size)
            assert messages == {3 * size + 1}, messages
            figures.append((size, label, warm, cold, queues))
    # SPADE comes last: its agents cannot be got rid of, and would weigh on what follows.
    theirs = {size: other(spade.auctions, size) for size in SIZES if spade and size <= SPADE_MOST}
    show(
        "One auction, ms (medians)",
        [
            "bidders",
            "messages",
            "warm",
            "cold",
            "queues",
            "Phalanx / queues",
            "SPADE",
            "SPADE / Phalanx",
        ],
        [
            [
                f"{size:,} on a {label}",
                f"{3 * size + 1:,}",
                f"{warm:.2f}",
                f"{cold:.2f}",
                f"{queues:.2f}",
                f"{warm / queues:.1f}, {cold / queues:.1f}",
                f"{theirs[size]:.1f}" if size in theirs else "–",
                f"{theirs[size] / warm:.1f}, {theirs[size] / cold:.1f}" if size in theirs else "–",
            ]
            for size, label, warm, cold, queues in figures
        ],
        "warm: the network is as it was at the last auction; cold: it has changed since, and no "
        "search is\nremembered. Queues and SPADE exchange messages only. Every auction took "
        "exactly 3N + 1 messages:\nthe number of messages is linear in the number of agents.",
    )
    _beside_the_aim(figures, theirs)
    if QUICK:
        console.print("A quick run: the figures mean little, and SPADE is left out.")


if __name__ == "__main__":
    main()
