"""What attestation is worth, and what it costs: expulsion, users' service, latency.

* How long from tampering to expulsion: many runs on virtual time, altered and lying agents drawn
  by their seeds, with rounds of several lengths; and, as root, some over real processes, where
  another process writes into the agent's memory.
* What users get while an agent lies, with rounds and with none before the run is over.
* How long messages of agents and auctions take in real time: without attestation, with it, and with
  it while the ledger answers nobody; the alternatives take turns.

Run it with ``python benchmarks/bench_trust.py [--quick] [--spread N]``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml
from msgspec.structs import replace

from phalanx.bus import Bus, Handler
from phalanx.domain.events import Event
from phalanx.domain.messages import Message
from phalanx.domain.trust import Challenge, EvidenceReply
from phalanx.infrastructure import Infrastructure
from phalanx.ledger import LedgerError
from phalanx.ledger.node import EmbeddedCarrier, EthereumNode
from phalanx.runtime.loading import load_scenario
from phalanx.runtime.processes.spread import Spread
from phalanx.runtime.scenario import DeclaredAgent, FaultSpec, Scenario, TrustSpec
from phalanx.runtime.system import System
from tables import QUICK, console, show

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
INFECTED = load_scenario(SCENARIOS / "infected-agent.yaml")
LYING = load_scenario(SCENARIOS / "lying-agent.yaml")
PERIODS_S = 5.0, 10.0, 30.0
SEEDS = 4 if QUICK else 100
SERVED = 1 if QUICK else 10
PAIRS, REAL_S, SPEED = (1, 24.0, 4.0) if QUICK else (4, 40.0, 2.0)
STALLED_S = 14.0
"""When the ledger answers nobody any more: the chain is through by then."""
NEVER_S = 80_000.0
"""A round that does not come while a run lasts."""


def quantiles(values: Iterable[float]) -> list[str]:
    """Return median, p90, p99 and the worst."""
    inorder = sorted(values)
    if not inorder:
        return ["", "", "", ""]
    at = (min(int(share * len(inorder)), len(inorder) - 1) for share in (0.5, 0.9, 0.99))
    return [*(f"{inorder[n]:.1f}" for n in at), f"{inorder[-1]:.1f}"]


def expelled(events: Iterable[Event], agent: str) -> float | None:
    """Return when an agent was expelled."""
    told = (e for e in events if e.kind == "trust.changed" and e.data["agent"] == agent)
    return next((e.time for e in told if e.data["standing"] == "quarantined"), None)


# -- time to expulsion -------------------------------------------------------------------------


def one(kind: str, period_s: float, seed: int) -> tuple[float | None, int]:
    """Return in what time an agent was expelled, and how many others were."""
    random = Random(f"{kind} {period_s} {seed}")
    infect = kind == "infect"
    agents = [f"pop{n}" for n in range(1, 7 if infect else 5)]  # attackers enter at four of them
    agent = random.choice(agents)
    at_s = random.uniform(15, 15 + period_s) if infect else random.uniform(12, 19)
    fault = FaultSpec(at_s, "infect" if infect else "lie", agent=agent)
    plan = replace(INFECTED, faults=(fault,), trust=TrustSpec(period_s=period_s), seed=seed)
    if infect:
        plan = replace(plan, traffic=())
    events = System(plan).run((at_s if infect else 24.0) + 2 * period_s + 6).events
    begun = at_s
    if not infect:  # its first deed that can be found
        deeds = (e for e in events if e.kind == "measure.applied" and e.data["pop"] == agent)
        begun = next((e.time for e in deeds), at_s)
    when = expelled(events, agent)
    others = sum(expelled(events, name) is not None for name in agents if name != agent)
    return None if when is None else when - begun, others


def expulsions() -> None:
    """Print the distributions, on virtual time."""
    rows = []
    for period_s in PERIODS_S:
        for kind in ("infect", "lie"):
            count = SEEDS if kind == "infect" else max(SEEDS // 2, 2)
            ended = [one(kind, period_s, seed) for seed in range(count)]
            times = [after for after, _ in ended if after is not None]
            name = "altered program" if kind == "infect" else "lying agent"
            innocent = str(sum(others for _, others in ended))
            found = f"{len(times)} of {count}"
            rows.append([f"{name}, rounds of {period_s:g} s", found, *quantiles(times), innocent])
    show(
        "From tampering to expulsion, six agents, three verifiers, virtual time; s",
        ("what", "expelled", "median", "p90", "p99", "worst", "innocent expelled"),
        rows,
        "A liar's time begins with its first rule in force. Measurers are modelled; seeds from 0.",
    )


def over_processes(count: int) -> None:
    """Print the same of agents in processes, where another process writes into their memory."""
    rows = []
    for number in range(count):
        random = Random(f"spread {number}")
        agent = random.choice(["north", "east", "south", "west"])
        at_s = random.uniform(45, 75)
        plan: dict[str, Any] = yaml.safe_load((SCENARIOS / "quickstart-ring.yaml").read_text())
        plan |= {"duration_s": 145, "trust": {"period_s": 30.0}}
        plan["faults"] = [{"kind": "infect", "agent": agent, "at_s": at_s}]
        plan["traffic"][1] |= {"start_s": 50, "end_s": None}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.yaml"
            path.write_text(yaml.safe_dump(plan))
            result = Spread(load_scenario(path), path).run()
        when = expelled(result.events, agent)
        after = "not in the run" if when is None else f"{when - at_s:.1f}"
        others = sum(
            expelled(result.events, name) is not None
            for name in ("north", "east", "south", "west")
            if name != agent
        )
        rows.append([f"{agent}, altered at {at_s:.0f} s", after, str(others)])
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    show(
        "From tampering to expulsion, four agents in processes, rounds of 30 s; s",
        ("what", "expelled after", "innocent expelled"),
        rows,
        f"Measured for real, from outside; load of the machine {load:.1f} a core.",
    )


# -- users' service ----------------------------------------------------------------------------


def service(plan: Scenario) -> tuple[float, float]:
    """Return what users get of what they want from the attack on: the mean, the worst second."""
    events = System(plan).run().events
    samples = (e for e in events if e.kind == "network.sample" and e.time >= 20.0)
    hosts = (e.data["hosts"]["server"] for e in samples)
    shares = [h["legitimate_mb_s"] / h["wanted_mb_s"] for h in hosts if h["wanted_mb_s"]]
    return statistics.mean(shares), min(shares)


def services() -> None:
    """Print what users get with attestation and without."""
    crash = FaultSpec(10.0, "crash", agent="pop1")
    cases = {
        "an agent lies": (crash, FaultSpec(10.0, "lie", agent="pop4")),
        "an agent is altered, and lies": (
            crash,
            FaultSpec(10.0, "lie", agent="pop4"),
            FaultSpec(10.0, "infect", agent="pop4"),
        ),
        "all are honest": (crash,),
    }
    rows = []
    for name, faults in cases.items():
        row = [name]
        for period_s in (10.0, NEVER_S):
            trust = TrustSpec(period_s=period_s)
            plan = replace(LYING, faults=faults, trust=trust)
            got = [service(replace(plan, seed=seed)) for seed in range(1, SERVED + 1)]
            row += [
                f"{statistics.mean(mean for mean, _ in got):.1%}",
                f"{min(mean for mean, _ in got):.1%}",
            ]
        rows.append(row)
    show(
        f"What users get of what they want, from the attack on; {SERVED} seeds",
        ("", "attested: mean", "worst run", "no rounds: mean", "worst run"),
        rows,
        "It lies until it is expelled: where it is to filter, it drops all traffic to the server.",
    )


# -- latency -----------------------------------------------------------------------------------


class TimedBus:
    """The bus of one agent, which notes in real time when messages are sent and heard."""

    def __init__(self, bus: Bus, sent: dict[str, float], took: list[float]) -> None:
        self._bus, self._sent, self._took = bus, sent, took
        self.detach = bus.detach
        self.peers = bus.peers

    def attach(self, address: str, handler: Handler) -> None:
        """Note when a message is heard."""

        def heard(message: Message) -> None:
            begin = self._sent.get(f"{message.id} {message.receiver}")
            if begin is not None:
                self._took.append(time.perf_counter() - begin)
            handler(message)

        self._bus.attach(address, heard)

    def send(self, message: Message) -> None:
        """Note when a message is sent, unless it belongs to attestation."""
        if not isinstance(message.content, Challenge | EvidenceReply):
            self._sent[f"{message.id} {message.receiver}"] = time.perf_counter()
        self._bus.send(message)


class TimedSystem(System):
    """A run in real time whose messages are timed."""

    def __init__(self, plan: Scenario, *, stalled: bool) -> None:
        self.sent: dict[str, float] = {}
        self.took: list[float] = []
        super().__init__(plan, realtime=SPEED)
        if stalled and self.trust is not None:
            assert isinstance(self.trust.ledger, EthereumNode)
            self.clock.call_at(STALLED_S, partial(stall, self.trust.ledger))

    def ports(self, declared: DeclaredAgent, incarnation: int) -> tuple[Bus, Infrastructure]:
        """Return the ports of an agent; its bus is timed."""
        bus, infrastructure = super().ports(declared, incarnation)
        return TimedBus(bus, self.sent, self.took), infrastructure


def stall(node: EthereumNode) -> None:
    """Let a ledger answer nobody any more."""

    def ask(*_: object) -> None:
        raise LedgerError("the node cannot be reached: no route")

    assert isinstance(node.carrier, EmbeddedCarrier)
    node.carrier.chain.ask = ask  # type: ignore[assignment, method-assign]


def latencies() -> None:
    """Print latencies of messages and auctions, in real time; alternatives take turns."""
    plan = replace(INFECTED, faults=(), duration_s=REAL_S)
    trust = TrustSpec(period_s=5.0)
    ways: dict[str, Callable[[], TimedSystem]] = {
        "without": lambda: TimedSystem(replace(plan, trust=None), stalled=False),
        "attested": lambda: TimedSystem(replace(plan, trust=trust), stalled=False),
        "ledger stalled": lambda: TimedSystem(replace(plan, trust=trust), stalled=True),
    }
    medians: dict[str, list[float]] = {way: [] for way in ways}
    p99s: dict[str, list[float]] = {way: [] for way in ways}
    auctions: dict[str, list[float]] = {way: [] for way in ways}
    counts = dict.fromkeys(ways, 0)
    for _ in range(PAIRS):
        for way, made in ways.items():
            system = made()
            events = system.run().events
            took = sorted(system.took)
            counts[way] += len(took)
            medians[way].append(1e3 * took[len(took) // 2])
            p99s[way].append(1e3 * took[int(0.99 * len(took))])
            called = {e.data["auction"]: e.time for e in events if e.kind == "auction.called"}
            awarded = (e for e in events if e.kind == "auction.awarded")
            auctions[way].append(
                1e3 * statistics.median(e.time - called[e.data["auction"]] for e in awarded) / SPEED
            )
    rows = []
    for way in ways:
        rows.append(
            [
                way,
                f"{counts[way]:,}",
                f"{statistics.median(medians[way]):.2f}",
                ratio(medians[way], medians["without"]),
                f"{statistics.median(p99s[way]):.1f}",
                ratio(p99s[way], p99s["without"]),
                f"{statistics.median(auctions[way]):.1f}",
                ratio(auctions[way], auctions["without"]),
            ]
        )
    show(
        f"Messages of agents and auctions in real time, {PAIRS} turns of {REAL_S / SPEED:g} s; ms",
        ("", "messages", "median", "to without", "p99", "to without", "auction", "to without"),
        rows,
        f"Rounds of {5.0 / SPEED:g} s of real time; the ledger stalls after "
        f"{STALLED_S / SPEED:g} s for good. Ratios: median, and from the least to the most of a "
        "turn.",
    )


def ratio(mine: Sequence[float], others: Sequence[float]) -> str:
    """Return the ratios of values of the same turns: the median, the least and the most."""
    each = [a / b for a, b in zip(mine, others, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--spread", type=int, default=0 if QUICK or os.geteuid() != 0 else 3)
    options = parser.parse_args()
    expulsions()
    services()
    latencies()
    if options.spread:
        over_processes(options.spread)
    else:
        console.print("Agents in processes: none in this run (root, without --quick)", style="dim")


if __name__ == "__main__":
    main()
