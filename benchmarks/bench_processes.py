"""Auctions among agents that are processes, over NATS with mutual TLS; beside TCP and SPADE.

One auctioneer and N bidders, each a process of its own on this machine. An auction is a cfp to
each bidder, N proposals, one accept-proposal, N - 1 reject-proposals and one inform: 3N + 1
messages. Over the bus the calls are one publication, and so are the rejections. All ways run
side by side and take turns, so that whatever else the machine does meets them alike; what is told
are medians and ranges of the rounds, and ratios within a round.

====================  =========================================================================
way                   is
====================  =========================================================================
agents                whole agents: each evaluates its bid, holds resources and a path, records,
                      proposes; the winner works on a VNF that it runs. Messages go by their
                      bus, sealed from end to end, over NATS. The infrastructure is a simulated
                      network in the agent's own process, the log of causes in memory; neither
                      a memory on disk nor the stream of events is in it, and no search for
                      paths: the network is as it was at the last auction
bus, sealed           the same messages and the same bus, but nobody evaluates: handlers answer
                      at once. Encoding, decoding, sealing and NATS are in it
NATS alone            the same octets from client to client; nobody reads them
TCP                   the same octets over asyncio's TCP with mutual TLS 1.3, one connection
                      for each bidder, no broker; nobody reads them
SPADE                 SPADE's agents and its XMPP server with TLS; bodies of the same length
====================  =========================================================================

*time* is that of one auction when there is no other, from the first cfp to the inform;
*auctions/s* those of an auctioneer that has four open at a time. *Processor* is the time that
processors spent for an auction in all processes, the kernel's share included: where bidders
outnumber processors by far it says more than the time does. A bidder's memory is told as PSS,
where pages that processes share count once for all of them, and as RSS, as if it were alone.

Run it with ``python benchmarks/bench_processes.py [--quick]``.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct, field

from contract_net import keep_samples
from crowd import Crowd, Held, Weighed
from crowd_agents import auction_of
from phalanx.bus.client import BrokerError
from phalanx.bus.nats.server import find_server
from tables import MISSING, QUICK, console, extra, milliseconds, show

SIZES = (6,) if QUICK else (6, 24, 96)
ROUNDS = 2 if QUICK else 6
AT_ONCE = 4
AIM = 2.0
"""How many times as long as over TCP an auction may take."""

AGENTS, BUS, TCP, SPADE = "agents", "bus, sealed", "TCP", "SPADE"
WAYS = {
    TCP: "crowd_tcp:Tcp",
    "NATS alone": "crowd_bus:Bare",
    BUS: "crowd_bus:Bus",
    AGENTS: "crowd_agents:Agents",
}


class Measured(Struct):
    """What a way took, round by round."""

    alone: list[Held] = field(default_factory=list)
    together: list[Held] = field(default_factory=list)
    memory: Weighed | None = None

    def times_ms(self) -> list[float]:
        """Return the medians of the times of auctions that were alone."""
        return [milliseconds(held.seconds) for held in self.alone]

    def rates(self) -> list[float]:
        """Return auctions per second."""
        return [len(held.seconds) / held.elapsed_s for held in self.together]

    def processor_ms(self) -> list[float]:
        """Return the processor time of an auction, over all processes."""
        return [
            1e3 * (h.auctioneer_s + h.bidders_s + h.servers_s) / len(h.seconds) for h in self.alone
        ]


def per_round(size: int) -> int:
    """Return how many auctions each way holds before the next way's turn."""
    return 4 if QUICK else max(8, 200 // size)


@contextmanager
def crowds(ways: dict[str, str], size: int) -> Iterator[dict[str, Crowd]]:
    """Have a crowd for each way, all of them at the same time."""
    with TemporaryDirectory() as directory, ExitStack() as stack:
        folder = Path(directory)
        lengths = keep_samples(folder, auction_of(size))
        octets = ", ".join(f"{said.value} {length}" for said, length in lengths.items())
        console.print(f"{size} bidders; octets of messages: {octets}")
        found = {}
        for number, (name, target) in enumerate(ways.items()):
            with console.status(f"{size + 1} processes: {name}"):
                found[name] = crowd = Crowd(target, folder / str(number), size)
                stack.callback(crowd.close)
                crowd.wait()
        yield found


def measure(ways: dict[str, str], size: int) -> dict[str, Measured]:
    """Let the ways take turns."""
    auctions = per_round(size)
    with crowds(ways, size) as found:
        measured = {name: Measured() for name in found}
        for crowd in found.values():
            crowd.hold(5)
            crowd.hold(2 * AT_ONCE, AT_ONCE)
        order = list(found)
        for turn in range(ROUNDS):
            for name in order:
                with console.status(f"{size} bidders, round {turn + 1} of {ROUNDS}: {name}"):
                    alone = found[name].hold(auctions)
                    together = found[name].hold(auctions, AT_ONCE)
                for held in (alone, together):
                    assert held.messages == (3 * size + 1) * auctions, (name, held.messages)
                measured[name].alone.append(alone)
                measured[name].together.append(together)
            order.append(order.pop(0))
        for name, crowd in found.items():
            measured[name].memory = crowd.weigh()
    return measured


def figure(values: Sequence[float], digits: int = 1) -> str:
    """Return median and range."""
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}–{high})"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios within each round."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def report(size: int, measured: dict[str, Measured]) -> None:
    """Print what was measured with so many bidders."""
    tcp = measured[TCP]
    show(
        f"{size} bidders, {3 * size + 1} messages an auction: median (range over rounds)",
        ["", "time, ms", "of TCP's", "auctions/s, 4 at once", "messages"],
        [
            [
                name,
                figure(m.times_ms()),
                figure(ratios(m.times_ms(), tcp.times_ms())),
                figure(m.rates(), 0),
                f"{m.alone[0].messages // len(m.alone[0].seconds)}",
            ]
            for name, m in measured.items()
        ],
    )
    show(
        "What it costs: processor time of one auction in ms, memory of one bidder in MB",
        ["", "auctioneer", "bidders", "server", "all", "of TCP's", "PSS", "RSS", "server PSS"],
        [
            [
                name,
                *(
                    f"{1e3 * median([getattr(h, part) / len(h.seconds) for h in m.alone]):.2f}"
                    for part in ("auctioneer_s", "bidders_s", "servers_s")
                ),
                figure(m.processor_ms()),
                f"{median(ratios(m.processor_ms(), tcp.processor_ms())):.1f}",
                *_memory(m.memory),
            ]
            for name, m in measured.items()
        ],
    )


def _memory(weighed: Weighed | None) -> list[str]:
    assert weighed is not None
    server = f"{weighed.servers_pss:.0f}" if weighed.servers_pss else "–"
    return [f"{weighed.bidder_pss:.0f}", f"{weighed.bidder_rss:.0f}", server]


def beside_the_aim(size: int, measured: dict[str, Measured]) -> None:
    """Say how far we are from what is aimed at, and where the time goes."""
    tcp = measured[TCP]
    console.print(f"Aim at {size} bidders: at most {AIM:g} times what TCP takes. Now:")
    for name in (BUS, AGENTS):
        time = median(ratios(measured[name].times_ms(), tcp.times_ms()))
        processor = median(ratios(measured[name].processor_ms(), tcp.processor_ms()))
        console.print(f"  {name}: {time:.1f} times the time, {processor:.1f} times the processor")
    if SPADE in measured:
        time = median(ratios(measured[SPADE].times_ms(), measured[AGENTS].times_ms()))
        console.print(f"  SPADE takes {time:.1f} times as long as the agents")
    names = [TCP, *(name for name in measured if name not in (TCP, SPADE))]
    steps = [median(measured[name].processor_ms()) for name in names]
    whole = steps[-1]
    words = ["asyncio and TLS", "the broker's way round", "the bus and its seal", "the agents"]
    shares = [steps[0], *(after - before for before, after in pairwise(steps))]
    told = ", ".join(
        f"{word} {share / whole:.0%}" for word, share in zip(words, shares, strict=True)
    )
    console.print(f"Of the agents' processor time: {told}.")


def main() -> None:
    try:
        find_server()
    except BrokerError as error:
        console.print(MISSING.format(error), style="yellow", soft_wrap=True)
        sys.exit(0 if QUICK else 1)
    ways = dict(WAYS)
    if not QUICK:
        extra("spade")
        ways[SPADE] = "crowd_spade:Spade"
    for size in SIZES:
        measured = measure(ways, size)
        report(size, measured)
        if size == SIZES[-1]:
            beside_the_aim(size, measured)
    if QUICK:
        console.print("A quick run: the figures mean little, and SPADE is left out.")


if __name__ == "__main__":
    main()
