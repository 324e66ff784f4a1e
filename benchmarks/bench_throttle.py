"""How long a busy agent takes to throttle a link: figure 5.5.

The agent that plays the Rate Limiter pursues 0 to 100 goals that have nothing to do with the
strategy; the plan of each takes a random time of 0 to 100 ms. Then it gets the goal
linkRateLimited. Measured is the real time from the first of these goals to the limit in force,
on the wall clock, 20 times each (dissertation, 5.4.3). The document leaves open what a plan
does in that time, and whether the VNF must be deployed first: here plans wait for something
outside the agent, and the Rate Limiter's VNF runs already. Beside it, the same goals as
asyncio tasks, of which the last makes the same call to the infrastructure.

Run it with ``python benchmarks/bench_throttle.py [--quick]``; writes out/figure-5.5.svg.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from typing import Any

import market
from market import ROOT, Market, ring
from phalanx.auction.bidder import Bidder
from phalanx.auction.contracts import VnfInstance
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Believe, Body, Pause
from phalanx.clock.wall import WallClock
from phalanx.domain.actions import Enforce, Outcome
from phalanx.domain.goals import Predicate, want
from phalanx.domain.predicates import LinkRateLimited
from phalanx.domain.rules import TrafficMatch, TrafficRule, TrafficVerdict
from phalanx.functions.rate_limiter import RateLimiter
from tables import OUT, QUICK, console, extra, show

GOALS = (0, 50, 100) if QUICK else tuple(range(0, 101, 5))
REPETITIONS = 5 if QUICK else 20
LONGEST_S = 0.1
PLAYER = "pop0004"
LINK = "pop0004>pop0005"


class Unrelated(Predicate, frozen=True):
    """Something else was done; it took ``seconds``."""

    number: int
    seconds: float


class Busy(Capability):
    """Pursues goals that have nothing to do with the strategy."""

    name = "busy"

    @plan(Unrelated)
    def take_time(self, me: Agent, goal: GoalInstance) -> Body:  # noqa: ARG002
        """Wait as long as the goal says."""
        unrelated = goal.goal.predicate
        assert isinstance(unrelated, Unrelated)
        yield Pause(unrelated.seconds)
        yield Believe(unrelated)


def player() -> tuple[Market, WallClock, str]:
    """Return six agents on the wall clock, and the Rate Limiter that one of them runs."""
    clock = WallClock()
    six = Market(ring(6), 6, clock, [Busy])
    vnfd = RateLimiter.vnfd
    assert vnfd is not None
    instance = VnfInstance(f"{PLAYER}/installed/{vnfd.name}", vnfd, 1)
    six.network.install(PLAYER, instance.id, vnfd, units=1, ttl_s=market.NEVER_S, cause=ROOT)
    instance.running = True
    agent = six.nodes[PLAYER].agent
    agent.capability(Bidder).inventory.add(instance)
    agent.active.add(vnfd.name)
    return six, clock, instance.id


def phalanx(goals: int, rng: random.Random) -> float:
    """Return the seconds from the first goal to the limit."""
    six, clock, instance = player()
    node = six.nodes[PLAYER]
    applied: list[float] = []
    six.log.listen(
        lambda event: (
            applied.append(time.perf_counter()) if event.kind == "measure.applied" else None
        )
    )
    adopts = [Adopt(want(Unrelated(n, rng.uniform(0, LONGEST_S)))) for n in range(goals)]
    adopts.append(Adopt(want(LinkRateLimited(LINK)), instance=instance))
    begin = 0.0

    def all_at_once() -> None:
        nonlocal begin
        node.agent.cause = ROOT
        begin = time.perf_counter()
        for adopt in adopts[:-1]:
            node.agent.adopt(adopt)
        node.carry_out(node.agent.take_on(adopts[-1], clock.now()))

    clock.call_soon(all_at_once)
    clock.run(clock.now() + 10.0, lambda: bool(applied))
    clock.close()
    return applied[0] - begin


def tasks(goals: int, rng: random.Random) -> float:
    """Return the seconds from the first task to the limit."""
    six, clock, instance = player()
    seconds = [rng.uniform(0, LONGEST_S) for _ in range(goals)]
    rule = TrafficRule(TrafficMatch(link=LINK), TrafficVerdict.LIMIT, {"rate_mb_s": 4.0})
    limit = Enforce("limit", instance, rule, str(LinkRateLimited(LINK)))

    async def run() -> float:
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        async def throttle() -> None:
            six.network.perform(PLAYER, limit, ROOT, done.set_result)

        begin = time.perf_counter()
        waiting = [asyncio.create_task(asyncio.sleep(s)) for s in seconds]
        last = asyncio.create_task(throttle())
        await done
        took = time.perf_counter() - begin
        await last
        for task in waiting:
            task.cancel()
        return took

    took = clock.loop.run_until_complete(run())
    clock.close()
    return took


def draw(means: list[float], deviations: list[float], plt: Any) -> None:
    """Draw figure 5.5."""
    plt.rcParams["svg.hashsalt"] = "figure-5.5"
    picture, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.errorbar(
        GOALS,
        means,
        yerr=deviations,
        fmt="o-",
        color="#009E73",
        ecolor="#0072B2",
        capsize=3,
        label=f"mean and standard deviation of {REPETITIONS}",
    )
    axes.set(
        xlabel="unrelated goals at the agent",
        ylabel="time to the throttled link (ms)",
        title="How long a busy agent takes to throttle a link",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    OUT.mkdir(exist_ok=True)
    picture.savefig(OUT / "figure-5.5.svg", metadata={"Date": None})
    plt.close(picture)


def main() -> None:
    plt = extra("matplotlib.pyplot")
    rng = random.Random(1)
    for _ in range(3):
        phalanx(10, rng)
        tasks(10, rng)
    rows, means, deviations = [], [], []
    for goals in GOALS:
        gc.collect()
        ours, theirs = [], []
        for _ in range(REPETITIONS):
            ours.append(1e3 * phalanx(goals, rng))
            theirs.append(1e3 * tasks(goals, rng))
        means.append(statistics.mean(ours))
        deviations.append(statistics.stdev(ours))
        middle, floor = statistics.median(ours), statistics.median(theirs)
        if goals % 20 == 0 or QUICK:
            rows.append(
                [
                    str(goals),
                    f"{means[-1]:.2f} ± {deviations[-1]:.2f}",
                    f"{middle:.2f}",
                    f"{floor:.2f}",
                    f"{middle / floor:.1f}",
                ]
            )
    show(
        f"Real time to the throttle, ms ({REPETITIONS} repetitions)",
        ["unrelated goals", "mean ± deviation", "median", "bare tasks", "ratio"],
        rows,
        "Each unrelated goal waits for 0 to 100 ms beside the others. The agent reasons about "
        "every goal,\nand records it; bare tasks do neither.",
    )
    draw(means, deviations, plt)
    console.print(f"wrote {OUT / 'figure-5.5.svg'}\n")


if __name__ == "__main__":
    main()
