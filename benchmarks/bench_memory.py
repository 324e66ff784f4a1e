"""Memory and messages of one mitigation by number of agents: figure 5.6; beside SPADE's agents.

Each size runs in a fresh process: agents on a ring with resources and bandwidth without
limits detect one attacker, throttle, analyse, and block it (dissertation, 5.4.3). Memory is
what Python allocated since the imports (tracemalloc), for agents, their part of the simulated
network, and the log of all events. Each size is run once: runs differ by a few percent.

Run it with ``python benchmarks/bench_memory.py [--quick]``; writes out/figure-5.6.svg.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec

from phalanx.runtime.system import System
from rings import mitigate, nfva_messages, ring_scenario
from tables import OUT, QUICK, console, extra, show

SIZES = (6, 12, 18) if QUICK else tuple(range(6, 97, 6))
MANY = 1000
SPADE_AGENTS = 24
QUIET_S = 4.0
"""Before the attack begins: all agents live and have told each other so."""


class Figures(msgspec.Struct):
    """What one process measured."""

    agents: int
    seconds: float = 0.0
    at_rest_kb: float = 0.0
    """Of all agents, before the attack."""
    after_kb: float = 0.0
    """Of all agents, once the attacker is blocked."""
    peak_rss_mb: float = 0.0
    messages: int = 0
    all_messages: int = 0


def memory(size: int) -> Figures:
    """Run one mitigation under tracemalloc, and the quiet before it."""
    mitigate(System(ring_scenario(6)))  # whatever is loaded or cached once is loaded now
    tracemalloc.start()
    quiet = System(ring_scenario(size))
    quiet.run(QUIET_S)
    at_rest = _traced_kb()
    del quiet
    before = _traced_kb()
    system = System(ring_scenario(size))
    mitigate(system)
    after = _traced_kb() - before
    return Figures(
        size,
        at_rest_kb=at_rest,
        after_kb=after,
        messages=nfva_messages(system),
        all_messages=sum(system.bus.sent.values()),
    )


def at_rest(size: int) -> Figures:
    """Run the quiet before the attack under tracemalloc."""
    mitigate(System(ring_scenario(6)))
    tracemalloc.start()
    quiet = System(ring_scenario(size))
    quiet.run(QUIET_S)
    return Figures(size, at_rest_kb=_traced_kb())


def mitigation(size: int) -> Figures:
    """Run one mitigation at full speed."""
    begin = time.perf_counter()
    system = System(ring_scenario(size))
    mitigate(system)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Figures(
        size,
        seconds=seconds,
        peak_rss_mb=peak,
        messages=nfva_messages(system),
        all_messages=sum(system.bus.sent.values()),
    )


def spade(size: int) -> Figures:
    """Start SPADE agents with one behaviour each; they have done nothing yet."""
    net = extra("spade_net")
    kept = [net.start(1)]
    tracemalloc.start()
    kept.append(net.start(size))
    return Figures(size, at_rest_kb=_traced_kb())


def _traced_kb() -> float:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / 1024


CHILDREN: dict[str, Callable[[int], Figures]] = {
    f.__name__: f for f in (memory, at_rest, mitigation, spade)
}


def in_a_process(child: Callable[[int], Figures], size: int) -> Figures:
    """Run ``child`` in a fresh process."""
    command = [sys.executable, __file__, child.__name__, str(size)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return msgspec.json.decode(answer.stdout.splitlines()[-1], type=Figures)


def draw(figures: list[Figures], plt: Any) -> None:
    """Draw figure 5.6."""
    sizes = [f.agents for f in figures]
    plt.rcParams["svg.hashsalt"] = "figure-5.6"
    picture, left = plt.subplots(figsize=(7, 4.2), layout="constrained")
    right = left.twinx()
    memory_line = left.plot(
        sizes, [f.after_kb / 1024 for f in figures], "o-", color="#0072B2", label="memory"
    )
    messages_line = right.plot(
        sizes, [f.messages for f in figures], "s--", color="#D55E00", label="messages"
    )
    left.set(
        xlabel="agents",
        ylabel="memory, network and log included (MB)",
        title="One mitigation on a ring, by number of agents",
        xticks=range(0, max(sizes) + 1, 12 if max(sizes) > 24 else 6),
    )
    right.set_ylabel("messages of all auctions")
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    left.grid(alpha=0.3)
    left.legend(handles=[*memory_line, *messages_line], loc="upper left")
    OUT.mkdir(exist_ok=True)
    picture.savefig(OUT / "figure-5.6.svg", metadata={"Date": None})
    plt.close(picture)


def main() -> None:
    plt = extra("matplotlib.pyplot")
    if not QUICK:
        extra("spade")
    figures = []
    with console.status("measuring") as status:
        for size in SIZES:
            status.update(f"{size} agents")
            figures.append(in_a_process(memory, size))
    shown = [f for f in figures if QUICK or f.agents in (6, 24, 48, 72, 96)]
    rows = [
        [
            f"{f.agents:,}",
            f"{f.at_rest_kb / f.agents:.1f}",
            f"{f.after_kb / f.agents:.1f}",
            f"{f.messages:,}",
            f"{f.all_messages:,}",
        ]
        for f in shown
    ]
    notes = []
    if not QUICK:
        many, rest = in_a_process(mitigation, MANY), in_a_process(at_rest, MANY)
        rows.append(
            [
                f"{MANY:,}",
                f"{rest.at_rest_kb / MANY:.1f}",
                "–",
                f"{many.messages:,}",
                f"{many.all_messages:,}",
            ]
        )
        theirs = in_a_process(spade, SPADE_AGENTS)
        each = theirs.at_rest_kb / SPADE_AGENTS
        ours = next(f for f in figures if f.agents == SPADE_AGENTS)
        rows.append([f"SPADE, {SPADE_AGENTS}", f"{each:.1f}", "–", "–", "–"])
        notes += [
            f"{SPADE_AGENTS} SPADE agents take {each / (ours.at_rest_kb / ours.agents):.0f} times "
            "the memory, without their connection to a server.",
            f"{MANY:,} agents in one process: the whole mitigation took {many.seconds:.1f} s, "
            f"with a peak of {many.peak_rss_mb:,.0f} MB for the process.",
        ]
    per_agent = (figures[-1].messages - figures[0].messages) / (
        figures[-1].agents - figures[0].agents
    )
    notes.append(
        f"Messages of all auctions grow by {per_agent:.1f} for each agent, 3 for each auction."
    )
    show(
        "Memory in KB per agent, and messages of one mitigation",
        ["agents", "at rest", "after the mitigation", "of auctions", "all messages"],
        rows,
        "\n".join(notes),
    )
    draw(figures, plt)
    console.print(f"wrote {OUT / 'figure-5.6.svg'}\n")


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in CHILDREN:
        found = CHILDREN[sys.argv[1]](int(sys.argv[2]))
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        main()
