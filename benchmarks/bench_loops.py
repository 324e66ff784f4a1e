"""What closed loops of slices cost: time, memory and messages, idle and in trouble.

A thousand slices have five loops each: one for each of two functions and two subnets, and that of
the slice; besides, there are managers of two domains and one end to end. All are agents on
virtual time, over a bus in memory. In one slice of a hundred a gNB is then in trouble, of which
its loop and that of its subnet have no plan, and that of the core has one. Memory is what Python
allocated for the loops (tracemalloc), in a run of its own.

Run it with ``python benchmarks/bench_loops.py [--quick]``.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import Counter

from msgspec.structs import replace

from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Capability, plan
from phalanx.bdi.goals import GoalInstance
from phalanx.bdi.steps import Adopt, Believe, Body, Pause
from phalanx.domain.agents import Loop
from phalanx.domain.goals import Mode, avert
from phalanx.domain.predicates import EntityTrouble
from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
    loops_of,
)
from phalanx.testing import LoopBench
from tables import QUICK, show

SIZES = (10, 50) if QUICK else (10, 100, 1000)
"""Slices."""
TROUBLED = 100
"""One slice of so many is in trouble."""
HOUR_S = 3600.0


class Relief(Capability):
    """Ends a trouble after half a second."""

    name = "relief"

    @plan(EntityTrouble, Mode.AVERT)
    def relieve(self, me: Agent, goal: GoalInstance) -> Body:  # noqa: ARG002
        """Take a while, and have ended it."""
        yield Pause(0.5)
        yield Believe(goal.goal.predicate, value=False)


def loops(slices: int) -> list[Loop]:
    """Return the loops of so many slices, of which that of each core can end troubles."""
    functions, subnets, every = [], [], []
    for n in range(slices):
        functions += [
            ManagedFunction(f"gnb{n}", "gNB", "a"),
            ManagedFunction(f"amf{n}", "AMF", "b"),
        ]
        subnets += [
            NetworkSliceSubnet(f"ran{n}", "RAN", (f"gnb{n}",)),
            NetworkSliceSubnet(f"core{n}", "CN", (f"amf{n}",), ("relief",)),
        ]
        every.append(NetworkSlice(f"s{n}", SNssai(n % 256), (f"ran{n}", f"core{n}")))
    spec = SlicesSpec(tuple(functions), tuple(subnets), tuple(every))
    return [replace(loop, pop=None) for loop in loops_of(spec)]


def size_kb(found: list[Loop]) -> float:
    """Return what one loop takes, in KB."""
    gc.collect()
    tracemalloc.start()
    bench = LoopBench(found, Relief)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / 1e3 / len(bench.nodes)


def trouble(bench: LoopBench, slices: int) -> list[str]:
    """Let a gNB be in trouble in one slice of a hundred; return in which."""
    names = [f"s{n}" for n in range(0, slices, TROUBLED)]
    for name in names:
        gnb = f"gnb{name[1:]}"
        one = EntityTrouble(name, gnb, "overloaded")
        bench.pursue(f"sem-{gnb}", Believe(one), Adopt(avert(one)))
    return names


def main() -> None:
    """Print the costs by number of slices."""
    costs: list[tuple[str, ...]] = []
    messages: list[tuple[str, ...]] = []
    for slices in SIZES:
        found = loops(slices)
        began = time.perf_counter()
        bench = LoopBench(found, Relief)
        made_s = time.perf_counter() - began
        events = len(bench.events)
        began = time.perf_counter()
        bench.run(HOUR_S)
        idle_s = time.perf_counter() - began
        idle = len(bench.sent), len(bench.events) - events, bench.clock.pending
        began = time.perf_counter()
        names = trouble(bench, slices)
        bench.run(60.0)
        busy_s = time.perf_counter() - began
        relieved = bench.of_kind("loop.relieved")
        own = [event for event in relieved if event.agent.startswith("sem-")]
        if len(own) != len(names) or bench.clock.pending:
            raise SystemExit("a trouble was not ended, or loops did not become idle again")
        kinds = Counter(type(message.content).__name__ for message in bench.sent)
        count = len(found)
        made = f"{1e3 * made_s / count:.3f}", f"{size_kb(found):.1f}"
        spent = f"{1e3 * idle_s:.2f}", f"{1e3 * busy_s / len(names):.2f}"
        costs.append((f"{slices}", f"{count}", *made, *spent))
        each = [f"{kinds[kind] / len(names):g}" for kind in ("PassedGoal", "Verdict", "Result")]
        after_s = max(event.time for event in own) - HOUR_S
        idle_text = [f"{figure}" for figure in idle]
        messages.append((f"{slices}", *idle_text, f"{len(names)}", *each, f"{after_s:.3f}"))
    columns: tuple[str, ...] = (
        "slices",
        "loops",
        "ms to make one",
        "KB of one",
        "ms for an idle hour",
    )
    show("What loops cost", (*columns, "ms for a trouble"), costs)
    columns = ("slices", "idle: messages", "events", "timers", "troubles", "requests each")
    show("What loops say", (*columns, "answers", "results", "relief after s"), messages)


if __name__ == "__main__":
    main()
