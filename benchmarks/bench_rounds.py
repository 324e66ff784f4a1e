"""Rounds of honest agents, with a rolling upgrade, in which nobody is to be called altered.

* Real looks: Python agents in processes of their own work, collect garbage, import, start threads,
  fork and fill caches; each is measured from outside again and again, its evidence is signed and
  appraised. At half the time they are upgraded one after the other: the reference values of the new
  version come first, then each is stopped, enrolled with them and started.
* Rounds on virtual time: a whole group with its ledger, evidence, signatures, appraisal and
  register; measurers are modelled. Agents crash and return, leave, are upgraded one after the
  other; messages are lost, late and doubled; the ledger stalls.

Run it with ``python benchmarks/bench_rounds.py [--quick] [--agents N] [--rounds N] [--seconds N]``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from live_targets import Agent as LiveAgent
from live_targets import agent as live_agent
from live_targets import write_agent
from phalanx.bdi.agent import Agent
from phalanx.bdi.capability import Library
from phalanx.bus.faults import FaultRule, FaultyBus
from phalanx.bus.memory import MemoryBus, PerAgentBus
from phalanx.clock.virtual import VirtualClock
from phalanx.domain.agents import AgentId, Scope
from phalanx.domain.events import Event
from phalanx.domain.trust import Evidence, Measure, TrustTier
from phalanx.infrastructure import Answer
from phalanx.ledger import LedgerError
from phalanx.ledger.chain import EmbeddedChain
from phalanx.ledger.node import EmbeddedCarrier, EthereumNode
from phalanx.runtime.node import Node
from phalanx.runtime.scenario import TrustSpec
from phalanx.runtime.trusting import SECAAS, ModelledTrust, Nowhere
from phalanx.trust.attestation import Attestation
from phalanx.trust.evidence import Enrolment, LastLook, public, signed, verify
from phalanx.trust.keys import KeyKeeping
from phalanx.trust.measurement import Activity, MappedObject, ProcessMeasurement, ReferenceValues
from phalanx.trust.references import reference_of
from phalanx.trust.register import TrustStanding
from phalanx.trust.secaas import Deployed
from tables import QUICK, console, show

AGENTS, ROUNDS, SECONDS = (12, 12, 8.0) if QUICK else (40, 2500, 120.0)
LIVE = 2 if QUICK else 4
PERIOD_S = 30.0
LATE = ("wave", "fractions", "http.client", "json", "threading", "decimal", "textwrap", "argparse")
HONEST = (
    "import gc\ngc.collect()",
    "import wave, fractions, http.client, json, decimal, textwrap, argparse",
    "import threading\nt = threading.Thread(target=core.work)\nt.start()\nt.join()",
    "import os\npid = os.fork() or os._exit(0)\n_ = os.waitpid(pid, 0)",
    "_ = [core.weight(n) for n in range(2000)]",
    "_ = [core.work() for _ in range(50)]",
    "core.ALLOWED.add(str(len(core.ALLOWED)))",
    "import json\n_ = json.loads(json.dumps(list(range(1000))))",
)


class Kept:
    """A repository of what was enrolled of live agents."""

    def __init__(self) -> None:
        self.enrolments: dict[AgentId, Enrolment] = {}
        self.references: dict[str, ReferenceValues] = {}

    def get(self, agent: AgentId) -> Enrolment | None:
        """Return what was enrolled of an agent."""
        return self.enrolments.get(agent)

    def values(self, reference: str) -> ReferenceValues | None:
        """Return reference values."""
        return self.references.get(reference)


def looks(seconds: float, random: Random) -> Counter[str]:  # noqa: PLR0915
    """Look at live agents that work; return how often each tier was found."""
    found: Counter[str] = Counter()
    kept, key = Kept(), Ed25519PrivateKey.generate()
    with TemporaryDirectory() as name, ExitStack() as stack:
        versions: dict[str, tuple[Path, ReferenceValues]] = {}

        def built(version: str) -> None:
            folder = Path(name) / version
            folder.mkdir()
            write_agent(folder)
            core = folder / "sentry/core.py"
            core.write_text(core.read_text().replace("+ 1", f"+ {version[0]}"))
            reference = reference_of("sentry", version, path=folder, late=LATE)
            kept.references[reference.digest()] = reference
            versions[version] = folder, reference

        def begun(agent: AgentId, version: str) -> tuple[LiveAgent, ExitStack]:
            folder, reference = versions[version]
            software = f"sentry {version}"
            kept.enrolments[agent] = Enrolment(agent, software, reference.digest(), public(key))
            life = ExitStack()
            stack.callback(life.close)
            return life.enter_context(live_agent(folder, reference)), life

        built("1.0")
        names = [f"live{number}" for number in range(LIVE)]
        agents = {agent: begun(agent, "1.0") for agent in names}
        upgrades = dict(zip(names, range(1, LIVE + 1), strict=True))
        earlier: dict[AgentId, LastLook] = {}
        begin = time.monotonic()
        while (passed_s := time.monotonic() - begin) < seconds:
            agent = random.choice(names)
            due = upgrades.get(agent)
            if due is not None and passed_s > seconds * (0.4 + 0.1 * due):
                del upgrades[agent]
                if "2.0" not in versions:  # its reference values come first
                    built("2.0")
                agents[agent][1].close()
                agents[agent] = begun(agent, "2.0")
                found["upgrades"] += 1
            live = agents[agent][0]
            if random.random() < 0.1:
                live.exploit(random.choice(HONEST))
                found["honest changes"] += 1
            seen = live.look()
            nonce = random.randbytes(16).hex()
            software = f"{seen.software} {seen.version}"
            shown = signed(Evidence(agent, nonce, software, seen.encode(), modelled=False), key)
            reference = kept.enrolments[agent].digest()
            tier, told, measured = verify(shown, nonce, agent, reference, kept, earlier.get(agent))
            if measured is not None:
                earlier[agent] = measured
            found[tier.value] += 1
            if tier is TrustTier.CONTRAINDICATED:
                console.print(f"false alarm: {told}", style="red")
    return found


# -- a group on virtual time -------------------------------------------------------------------

TEXTS = {"1.0": "11" * 32, "2.0": "22" * 32}
VALUES = {
    version: ReferenceValues("agent", version, objects={"agent": (text,)}, counts=False)
    for version, text in TEXTS.items()
}


def _nothing(*_: object) -> None:
    """Take what is told of agents that are expelled, and of keys."""


class UpgradedTrust(ModelledTrust):
    """Trust in a group whose agents are of two versions."""

    def __init__(
        self, agents: tuple[AgentId, ...], clock: VirtualClock, bus: PerAgentBus, sink: Sink
    ) -> None:
        self.versions = dict.fromkeys(agents, "1.0")
        plan = TrustSpec(period_s=PERIOD_S)
        super().__init__(plan, agents, 1, clock, bus, sink, "begin", _nothing, _nothing)

    def values(self, reference: str) -> ReferenceValues | None:
        """Return the reference values of either version: both are known beforehand."""
        return next((v for v in VALUES.values() if v.digest() == reference), None)

    def upgraded(self, agent: AgentId) -> None:
        """Enrol an agent that is stopped now, with the next version's reference values."""
        self.versions[agent] = "2.0"
        self.again(agent)

    def again(self, agent: AgentId) -> None:
        """Enrol an agent anew, whatever it was."""
        enrolment = self._enrolments[agent] = self._enrolment(agent)
        self._secaas.tell(Deployed(enrolment.entry()), "begin")

    def _enrolment(self, agent: AgentId) -> Enrolment:
        version = self.versions[agent]
        software, reference = f"agent {version}", VALUES[version].digest()
        return replace(super()._enrolment(agent), software=software, reference=reference)

    def _measure(self, agent: AgentId, action: Measure, cause: str, answer: Answer) -> None:  # noqa: ARG002
        now, version = self._clock.now(), self.versions[agent]
        activity = Activity("S", now, 0.0, 0.0, 0.0)
        objects = {"agent": MappedObject(TEXTS[version])}
        seen = ProcessMeasurement("agent", version, 1, 0, now, activity, objects)
        shown = Evidence(agent, action.nonce, f"agent {version}", seen.encode(), modelled=True)
        answer(signed(shown, self._keys[agent]))


Sink = Callable[[Event], None]


class Group:
    """A group that attests itself on virtual time, and what happens to it."""

    def __init__(self, count: int, rounds: int, random: Random) -> None:
        self.clock, self.random = VirtualClock(), random
        self.names = tuple(f"a{number:03}" for number in range(count))
        self.tiers: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.expelled: list[str] = []
        end_s = 2.0 * count + PERIOD_S * rounds
        plan = []
        for _ in range(max(rounds // 20, 2)):
            start_s = random.uniform(3.0 * count, end_s)
            kind = random.choice(["lose", "delay", "duplicate", "reorder"])
            share, delay_s = random.uniform(0.05, 0.4), random.uniform(0.2, 3.0)
            plan.append(
                FaultRule(kind, share, start_s, start_s + random.uniform(20, 90), None, delay_s)  # type: ignore[arg-type]
            )
            self.happened[f"spells of messages that are lost, late or doubled: {kind}"] += 1
        memory = MemoryBus(self.clock, latency=lambda *_: random.uniform(0.001, 0.05))
        self.bus = FaultyBus(memory, self.clock, random, plan)
        self.trust = UpgradedTrust(
            self.names, self.clock, PerAgentBus(self.bus, SECAAS), self._seen
        )
        self.nodes: dict[AgentId, Node] = {}
        self.down: set[AgentId] = set()
        self.lives: Counter[AgentId] = Counter()
        for name in self.names:
            self._begin(name)
        self.trust.start()

    def _seen(self, event: Event) -> None:
        if event.kind == "attestation.result":
            self.tiers[event.data["tier"]] += 1
            if event.data["tier"] == "contraindicated":
                self.expelled.append(f"{event.time:.1f} {event.agent}: {event.data}")

    def _begin(self, name: AgentId) -> None:
        self.lives[name] += 1
        agent = Agent(
            name,
            Library([Attestation, KeyKeeping]),
            self._seen,
            scope=Scope("group", "the group"),
            incarnation=self.lives[name],
        )
        terms = self.trust.terms(name)
        agent.capability(Attestation).terms = terms
        agent.capability(KeyKeeping).exchange = terms.exchange
        services = self.trust.services(name)
        bus = PerAgentBus(self.bus, name)
        node = self.nodes[name] = Node(agent, self.clock, bus, Nowhere(), services=services)
        node.start("begin")
        self.trust.follow(name, node)

    def _end(self, name: AgentId) -> None:
        self.nodes[name].crash()
        self.trust.unfollow(name)
        self.down.add(name)

    def _back(self, name: AgentId) -> None:
        self.down.discard(name)
        self._begin(name)

    def crash(self) -> None:
        """Let one agent crash, and return after a while."""
        name = self.random.choice(self.names)
        if name not in self.down and len(self.down) < len(self.names) // 10:
            self.happened["crashes"] += 1
            self._end(name)
            back = self.random.uniform(1.0, 3 * PERIOD_S)
            self.clock.call_at(self.clock.now() + back, lambda: self._back(name))

    def upgrade(self, name: AgentId) -> None:
        """Stop an agent, enrol it with the next version's reference values, start it."""
        if name in self.down:
            self.clock.call_at(self.clock.now() + 10.0, lambda: self.upgrade(name))
            return
        self.happened["upgrades"] += 1
        self._end(name)
        self.trust.upgraded(name)
        self.clock.call_at(self.clock.now() + 5.0, lambda: self._back(name))

    def leave(self) -> None:
        """Let one agent leave in order, and be deployed again later."""
        name = self.random.choice(self.names)
        if name in self.down:
            return
        self.happened["leaves"] += 1
        self.nodes[name].drain("begin")
        self.down.add(name)

        def back() -> None:
            self._end(name)
            self.trust.again(name)
            self._back(name)

        self.clock.call_at(self.clock.now() + 4 * PERIOD_S, back)

    def stall(self) -> None:
        """Let the ledger answer nobody for a while."""
        node = self.trust.ledger
        assert isinstance(node, EthereumNode)
        assert isinstance(node.carrier, EmbeddedCarrier)
        carrier, chain = node.carrier, node.carrier.chain
        if not isinstance(chain, EmbeddedChain):
            return  # it is away
        self.happened["stalls of the ledger"] += 1

        class Away:
            """Answers nobody."""

            def ask(self, *_: object) -> None:
                """Fail."""
                raise LedgerError("the node cannot be reached: no route")

        carrier.chain = Away()  # type: ignore[assignment]

        def back() -> None:
            carrier.chain = chain

        self.clock.call_at(self.clock.now() + self.random.uniform(5, 2 * PERIOD_S), back)

    def run(self, rounds: int) -> None:
        """Let the group live for so many rounds."""
        begun_s, span_s = 2.5 * len(self.names), PERIOD_S * rounds
        at = self.clock.call_at
        for number in range(rounds // 3):
            at(begun_s + span_s * self.random.random() * 0.97, self.crash)
            if number % 10 == 0:
                at(begun_s + span_s * self.random.random() * 0.9, self.leave)
            if number % 20 == 0:
                at(begun_s + span_s * number / rounds * 2.5, self.stall)
        upgrades_s = span_s * 0.4 / len(self.names)
        for number, name in enumerate(self.names):
            at(begun_s + span_s * 0.4 + upgrades_s * number, lambda name=name: self.upgrade(name))  # type: ignore[misc]
        register, begin = self.trust.register, time.monotonic()
        limit_s = begun_s + 1.5 * span_s + 600.0
        while register.round < rounds and self.clock.now() < limit_s:
            self.clock.run(self.clock.now() + 50 * PERIOD_S, stop=lambda: register.round >= rounds)
            passed, memory = time.monotonic() - begin, getrusage(RUSAGE_SELF).ru_maxrss >> 10
            line = f"round {register.round}, {passed:.0f} s, {memory} MiB at most"
            console.print(line, style="dim")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    random = Random(1)
    seen = looks(options.seconds, random)
    upgrades, changes = seen.pop("upgrades", 0), seen.pop("honest changes", 0)
    tiers = [tier.value for tier in TrustTier]
    show(
        f"Real looks at {LIVE} live processes in {options.seconds:g} s",
        ("", "looks", *tiers),
        [["measured from outside", f"{sum(seen.values()):,}", *(f"{seen[t]:,}" for t in tiers)]],
        f"{changes:,} honest changes in between, {upgrades} upgrades to another version.",
    )
    group = Group(options.agents, options.rounds, random)
    group.run(options.rounds)
    register = group.trust.register
    standings = Counter(m.standing.value for m in register.members.values())
    made = sum(group.tiers.values())
    show(
        f"{register.round:,} rounds of {options.agents} agents on virtual time: "
        f"{register.round * options.agents:,} rounds of an agent",
        ("", "results", *tiers),
        [["modelled measurers", f"{made:,}", *(f"{group.tiers[t]:,}" for t in tiers)]],
        "; ".join(f"{what}: {n}" for what, n in sorted(group.happened.items()))
        + f". At the end: {', '.join(f'{n} {what}' for what, n in sorted(standings.items()))}; "
        f"{sum(v == '2.0' for v in group.trust.versions.values())} of the new version.",
    )
    for line in group.expelled[:10]:
        console.print(f"false alarm: {line}", style="red")
    alarms = seen["contraindicated"] + group.tiers["contraindicated"]
    out = register.with_standing(TrustStanding.QUARANTINED)
    console.print(f"False alarms: {alarms}; agents that are out at the end: {len(out)}.")
    sys.exit(1 if alarms or out or register.round < options.rounds else 0)


if __name__ == "__main__":
    main()
